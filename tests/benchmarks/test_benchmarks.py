"""Every benchmark's short path: that it runs and keeps what it measured, never how fast anything is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import _common, gpu, limit, step

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _short_command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks/some.py", "--data", "/somewhere/data"])


def result(folder, script):
    (line,) = (folder / f"{script}.jsonl").read_text().splitlines()
    found = json.loads(line)
    assert found["command"] == "python benchmarks/some.py --data data", "no paths of this machine"
    assert {"date", "commit", "dirty", "versions", "hardware", "load", "settings"} <= set(found)
    return found


def test_in_turns_goes_forth_and_back():
    calls = []
    contenders = {name: lambda name=name: calls.append(name) or len(calls) for name in "abc"}
    assert _common.in_turns(contenders, 2) == {"a": [1, 6], "b": [2, 5], "c": [3, 4]}
    assert calls == list("abccba")


def test_ratios_are_of_medians_with_the_rounds_around_them():
    assert _common.ratios([4.0, 6.0, 50.0], [2.0, 3.0, 2.0]) == (3.0, 2.0, 25.0)


@pytest.mark.parametrize("name, millions", [("gpt2-large", 708), ("t5-base", 198)])
def test_block_parameters_leave_embeddings_and_head_out(name, millions):
    import torch

    with torch.device("meta"):
        model, _ = gpu.model_of(name, dry=False)
    assert round(limit.block_parameters(model) / 1e6) == millions


def test_limit(tmp_path, capsys):
    assert limit.main(["--quick", "--out", str(tmp_path)]) == 0
    raw = result(tmp_path, "limit")["raw"]
    assert {len(values) for values in raw.values()} == {2}
    assert "64 x 64 x 64 bf16" in raw
    assert "TFLOP/s" in capsys.readouterr().out


def test_step(tmp_path, capsys):
    pytest.importorskip("peft")
    pytest.importorskip("accelerate")
    only = ("autocast", "K=4", "suffix solo")
    assert step.main(["--quick", "--out", str(tmp_path), *(part for name in only for part in ("--only", name))]) == 0
    (found,) = result(tmp_path, "step")["tasks"].values()
    names = ["Trainer fp32", "Trainer bf16 autocast", "engine K=4 bf16", "suffix solo bf16"]
    assert sorted(found["contenders"]) == sorted(names)
    for contender in found["contenders"].values():
        assert [len(steps) for steps in contender["passes_s"]] == [2, 2]
        assert len(contender["first_pass_s"]) == 2
        assert contender["median_s"] > 0
    assert "another placement" in capsys.readouterr().out


def test_gpu_without_a_gpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main([]) == 2
    assert capsys.readouterr().out.count("\n") == 1
    assert gpu.main(["--dry", "--processes", "", "--out", str(tmp_path)]) == 0
    found = result(tmp_path, "gpu")["models"]
    assert set(found) == {"gpt2-large", "t5-base"}
    for model in found.values():
        assert {"our loop, one trial", "engine K=1", "engine K=2"} <= set(model["runs"])


def test_a_smoke_test_is_kept_only_where_a_folder_is_given(monkeypatch, tmp_path):
    monkeypatch.setattr(_common, "RESULTS", tmp_path)
    _common.keep("limit", {}, None, smoke=True)
    assert not list(tmp_path.iterdir())
    _common.keep("limit", {}, None)
    assert [path.name for path in tmp_path.iterdir()] == ["limit.jsonl"]


@pytest.mark.ray
def test_sweep(tmp_path):
    pytest.importorskip("peft")
    pytest.importorskip("accelerate")
    done = subprocess.run(
        [sys.executable, "benchmarks/sweep.py", "--quick", "--out", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    runs = json.loads((tmp_path / "sweep.jsonl").read_text())["runs"]
    assert {name: found[0]["trials"] for name, found in runs.items()} == {
        "plain Ray Tune": 3,
        "ours, prefix": 3,
        "ours, suffix": 3,
    }


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_chaos(tmp_path):
    """One kill of each kind: every trial once, none begun again, all records equal."""
    pytest.importorskip("peft")
    done = subprocess.run(
        [sys.executable, "benchmarks/chaos.py", "--quick", "--out", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=880,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "chaos.jsonl").read_text())
    assert (found["trials"], found["faults"]) == (24, [])
    assert len({kill["victim"] for kill in found["kills"]}) == 5


def test_chaos_sees_what_must_not_happen(tmp_path):
    from benchmarks import chaos
    from lopt.config import TrialConfig
    from lopt.files import write_atomically
    from lopt.training import Trial
    from sweeps.results.store import Store

    config = TrialConfig(
        method="lora", task="toy", backbone="tiny", rank=1, learning_rate=0.1, max_steps=4, eval_every=2,
        precision="fp32",
    )  # fmt: skip
    pytest.importorskip("peft")
    store, trial = Store(tmp_path, "r"), Trial(config, phase="search")
    watch = chaos.Watch(store.folder)
    for _ in trial:
        store.write_checkpoint(trial.config.key, trial.step, trial.saved())
        watch.look()
    assert (watch.look(), watch.faults) == (4, [])
    record = trial.finish()
    store.write(record)
    assert (watch.look(), watch.faults) == (4, [])
    write_atomically(store.path(record.key), store.path(record.key).read_bytes())
    watch.look()
    again = Trial(config, phase="search")
    again.started_at = "2001"
    again.update()
    store.write_checkpoint(trial.config.key, again.step, again.saved())
    watch.look()
    assert [fault.split(" ", 2)[2] for fault in watch.faults] == [
        f"{record.key}.json was written again".split(" ", 1)[1],
        "went back from step 4 to 1",
        "had a checkpoint and began again",
    ]

    import dataclasses

    other = dataclasses.replace(record, selection_loss=record.selection_loss + 1e-9, wall_time_s=9.0)
    assert chaos.compare({"a": record}, {"a": dataclasses.replace(record, wall_time_s=9.0)})[0] == []
    assert len(chaos.compare({"a": record}, {"a": other})[0]) == 1
    assert chaos.compare({}, {"a": record})[0] == ["trial a is lost"]


@pytest.mark.ray
def test_processes_side_by_side():
    command = [sys.executable, "benchmarks/gpu.py", "--dry", "--models", "gpt2-large", "--processes", "1,2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "loop, 2 processes" in done.stdout


def test_forms_prints_every_form_beside_the_plain_one(tmp_path, capsys):
    from benchmarks import forms

    tiny = ["--backbone", "tiny", "--task", "toy", "--steps", "1", "--threads", "1", "--out", str(tmp_path)]
    assert forms.main(tiny) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("n=") and "plain 1.00" in line and "flat, norms fused" in line for line in lines) == 3
    assert (tmp_path / "forms.jsonl").is_file()


def test_equal_compares_packed_trials_with_the_same_alone(tmp_path, capsys):
    from benchmarks import equal

    tiny = ["--backbone", "tiny", "--task", "toy", "--steps", "3", "--seeds", "2", "--out", str(tmp_path)]
    assert equal.main(tiny) == 0
    assert "packed" in capsys.readouterr().out
    (line,) = (tmp_path / "equal.jsonl").read_text().splitlines()
    result = json.loads(line)
    assert result["alone"] == result["packed"]
    assert result["first_loss_difference"] < 1e-4
