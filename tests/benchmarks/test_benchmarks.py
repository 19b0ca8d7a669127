"""Every benchmark runs with small sizes and saves what it measures. No test asserts how fast anything is."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import _common, _flops, _gpu_models, gpu, limit, step

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _short_command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks/some.py", "--data", "/somewhere/data"])


def saved_result(folder, script):
    (line,) = (folder / f"{script}.jsonl").read_text().splitlines()
    result = json.loads(line)
    assert result["command"] == "python benchmarks/some.py --data data", "no paths of this machine"
    assert {"date", "commit", "dirty", "versions", "hardware", "load", "settings"} <= set(result)
    return result


def run_script(*arguments, timeout):
    process = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_contenders_run_in_order_and_then_in_reverse_order():
    calls = []
    contenders = {name: lambda name=name: calls.append(name) or len(calls) for name in "abc"}
    assert _common.run_in_turns(contenders, 2) == {"a": [1, 6], "b": [2, 5], "c": [3, 4]}
    assert calls == list("abccba")


def test_speed_ratios_are_that_of_the_medians_and_the_extremes_of_the_rounds():
    assert _common.speed_ratios([4.0, 6.0, 50.0], [2.0, 3.0, 2.0]) == (3.0, 2.0, 25.0)


@pytest.mark.parametrize("name, millions", [("gpt2-large", 708), ("t5-base", 198)])
def test_block_parameters_do_not_include_embeddings_and_head(name, millions):
    import torch

    with torch.device("meta"):
        model, _ = _gpu_models.build_model(name, dry=False)
    assert round(limit.count_block_weights(model) / 1e6) == millions


def test_flops_are_those_of_the_tokens_that_pass_each_linear_layer():
    """They are compared with the products that the linear layers of the engine's pass really compute."""
    import torch

    from lopt import backbones
    from lopt.soft_prompt import SoftPrompt

    backbone = backbones.load("tiny", "fp32")
    counts = []

    def count(module, inputs, output):
        counts.append(inputs[0].shape[:-1].numel() * module.weight.numel())

    layers = [module for module in backbone.model.base_model.modules() if isinstance(module, torch.nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    lengths_B, ids_BT = torch.tensor([9, 4, 7]), torch.arange(1, 28).view(3, 9)
    prompt = SoftPrompt(prompt=torch.zeros(5, backbone.width))
    backbone.label_logits(prompt, ids_BT, lengths_B, torch.tensor([1, 2]))
    for hook in hooks:
        hook.remove()
    sizes = {"prompt_length": 5, "batch_size": 3, "text_tokens": 20}
    norm_weights = sum(weight.numel() for weight in backbone.model.parameters() if weight.ndim == 1)
    assert _flops.step_flops(backbone, flat=True, **sizes) == pytest.approx(4 * (sum(counts) + norm_weights * 25))
    weights = limit.count_block_weights(backbone.model)
    assert _flops.step_flops(backbone, flat=False, **sizes) == 4 * weights * (15 + 20)


def test_limit_measures_products_and_copies(tmp_path, capsys):
    assert limit.main(["--quick", "--out", str(tmp_path)]) == 0
    raw = saved_result(tmp_path, "limit")["raw"]
    assert {len(values) for values in raw.values()} == {2}
    assert "64 x 64 x 64 bf16" in raw
    assert "TFLOP/s" in capsys.readouterr().out


def test_step_measures_the_chosen_contenders(tmp_path, capsys):
    pytest.importorskip("peft")
    pytest.importorskip("accelerate")
    only = ("autocast", "K=4", "suffix solo")
    assert step.main(["--quick", "--out", str(tmp_path), *(part for name in only for part in ("--only", name))]) == 0
    (task_result,) = saved_result(tmp_path, "step")["tasks"].values()
    names = ["Trainer fp32", "Trainer bf16 autocast", "engine K=4 bf16", "suffix solo bf16"]
    assert sorted(task_result["contenders"]) == sorted(names)
    for contender in task_result["contenders"].values():
        assert [len(steps) for steps in contender["passes_s"]] == [2, 2]
        assert len(contender["first_pass_s"]) == 2
        assert contender["median_s"] > 0
    assert "another placement" in capsys.readouterr().out


def test_without_a_gpu_only_a_dry_run_measures(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main([]) == 2
    assert capsys.readouterr().out.count("\n") == 1
    assert gpu.main(["--dry", "--processes", "", "--out", str(tmp_path)]) == 0
    results = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    measured = [(name, model) for result in results for name, model in result["models"].items()]
    lengths_by_model = [(name, model["lengths"]) for name, model in measured]
    assert lengths_by_model == [(name, kind) for name in ("gpt2-large", "t5-base") for kind in ("one", "sst2")]
    for _, model in measured:
        assert {"our loop, one trial", "engine K=1", "engine K=2"} <= set(model["runs"])
        assert model["form"].startswith("flat form")


def test_the_result_of_a_smoke_test_is_saved_only_if_a_folder_is_given(monkeypatch, tmp_path):
    monkeypatch.setattr(_common, "RESULTS_FOLDER", tmp_path)
    _common.save_result("limit", {}, None, is_smoke_test=True)
    assert not list(tmp_path.iterdir())
    _common.save_result("limit", {}, None)
    assert [path.name for path in tmp_path.iterdir()] == ["limit.jsonl"]


@pytest.mark.ray
def test_both_sides_of_sweep_train_the_same_number_of_trials(tmp_path):
    pytest.importorskip("peft")
    pytest.importorskip("accelerate")
    run_script("benchmarks/sweep.py", "--quick", "--out", str(tmp_path), timeout=280)
    runs_by_name = json.loads((tmp_path / "sweep.jsonl").read_text())["runs"]
    assert {name: runs[0]["trials"] for name, runs in runs_by_name.items()} == {
        "plain Ray Tune": 3,
        "ours, prefix": 3,
        "ours, suffix": 3,
    }


@pytest.mark.ray
def test_both_sides_of_thousands_end_the_same_number_of_trials(tmp_path):
    run_script("benchmarks/thousands.py", "--quick", "--out", str(tmp_path), timeout=280)
    runs_by_name = json.loads((tmp_path / "thousands.jsonl").read_text())["runs"]
    assert {name: runs[0]["trials"] for name, runs in runs_by_name.items()} == {"plain Ray Tune": 20, "ours": 20}
    assert all(run["per_s"] > 0 and run["driver_bytes"] > 0 for (run,) in runs_by_name.values())


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_sweep_survives_one_kill_of_each_kind(tmp_path):
    """Every trial finishes once, none begins again, and all records equal those of an undisturbed sweep."""
    pytest.importorskip("peft")
    run_script("benchmarks/chaos.py", "--quick", "--out", str(tmp_path), timeout=880)
    result = json.loads((tmp_path / "chaos.jsonl").read_text())
    assert (result["trials"], result["faults"]) == (24, [])
    assert len({kill["victim"] for kill in result["kills"]}) == 5


def test_chaos_observes_faults(tmp_path):
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
    observer = chaos.RunObserver(store.folder)
    for _ in trial:
        store.write_checkpoint(trial.config.key, trial.step, trial.to_checkpoint())
        observer.observe()
    assert (observer.observe(), observer.faults) == (4, [])
    record = trial.finish()
    store.write(record)
    assert (observer.observe(), observer.faults) == (4, [])
    write_atomically(store.path(record.key), store.path(record.key).read_bytes())
    observer.observe()
    restarted = Trial(config, phase="search")
    restarted.started_at = "2001"
    restarted.update()
    store.write_checkpoint(trial.config.key, restarted.step, restarted.to_checkpoint())
    observer.observe()
    assert [fault.split(" ", 2)[2] for fault in observer.faults] == [
        f"{record.key}.json was written again".split(" ", 1)[1],
        "went back from step 4 to 1",
        "had a checkpoint and started over",
    ]

    with_other_loss = dataclasses.replace(record, selection_loss=record.selection_loss + 1e-9, wall_time_s=9.0)
    assert chaos.compare_records({"a": record}, {"a": dataclasses.replace(record, wall_time_s=9.0)})[0] == []
    assert len(chaos.compare_records({"a": record}, {"a": with_other_loss})[0]) == 1
    assert chaos.compare_records({}, {"a": record})[0] == ["trial a is lost"]


@pytest.mark.ray
def test_gpu_measures_processes_side_by_side():
    output = run_script("benchmarks/gpu.py", "--dry", "--models", "gpt2-large", "--processes", "1,2", timeout=280)
    assert "loop, 2 processes" in output


def test_forms_prints_the_ratio_of_every_form_to_the_plain_one(tmp_path, capsys):
    from benchmarks import forms

    tiny = ["--backbone", "tiny", "--task", "toy", "--steps", "1", "--threads", "1", "--out", str(tmp_path)]
    assert forms.main(tiny) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("n=") and "plain 1.00" in line and "flat, norms fused" in line for line in lines) == 3
    assert (tmp_path / "forms.jsonl").is_file()


def test_equal_compares_packed_trials_with_the_same_trials_alone(tmp_path, capsys):
    from benchmarks import equal

    tiny = ["--backbone", "tiny", "--task", "toy", "--steps", "3", "--seeds", "2", "--out", str(tmp_path)]
    assert equal.main(tiny) == 0
    assert "packed" in capsys.readouterr().out
    (line,) = (tmp_path / "equal.jsonl").read_text().splitlines()
    result = json.loads(line)
    assert result["alone"] == result["packed"]
    assert result["first_loss_difference"] < 1e-4
