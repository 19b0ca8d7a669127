"""Whole sweeps of `smoke` through the command, in this process."""

from __future__ import annotations

import json

import pandas
import pytest

from lopt import load_prompt
from lopt.training import Trial
from sweeps.budget import Budget
from sweeps.results.store import Store
from sweeps.run import main
from sweeps.sweep import Sweep
from sweeps.work.execution import execute
from sweeps.work.job import Job
from tests.tiny_models import make_model, make_tokenizer

SMALL = ["--space", "smoke", "--local-mode", "--set", "trials=2", "--set", "max_steps=6"]


def sweep(tmp_path, *more):
    return main([*SMALL, "--out", str(tmp_path), *more])


def keys(tmp_path):
    return {p.name: p.stat().st_mtime_ns for p in (tmp_path / "smoke-paper" / "trials").iterdir()}


def test_a_sweep_from_start_to_end_and_again(tmp_path, capsys):
    assert sweep(tmp_path) == 0
    run = tmp_path / "smoke-paper"
    table = pandas.read_parquet(run / "trials.parquet")
    assert dict(table.groupby("phase").size()) == {"confirm": 3, "search": 6}
    confirmed = table[table.phase == "confirm"]
    assert confirmed.test_accuracy.notna().all()
    assert table[table.phase == "search"].test_accuracy.isna().all()
    assert set(table[table.phase == "confirm"].seed) == {1}
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "complete" and manifest["titles"] == {"toy": "Toy (made up)"}
    assert manifest["command"][:2] == ["python", "sweeps/run.py"]
    (baseline,) = json.loads((run / "baselines.json").read_text())
    assert baseline["majority_accuracy"] == 0.5
    for key in confirmed.key:
        prompt = load_prompt(run / "artifacts" / key)
        assert prompt.evaluate().accuracy == confirmed.set_index("key").test_accuracy[key]
        predictions = pandas.read_parquet(run / "predictions" / f"{key}.parquet")
        assert (predictions.gold == predictions.predicted).mean() == prompt.test_accuracy
    out = capsys.readouterr().out
    assert "9/9 done" in out
    assert "python analysis/report.py" in out

    before = keys(tmp_path)
    assert sweep(tmp_path) == 0
    assert keys(tmp_path) == before, "nothing runs twice"
    assert "continuing run smoke-paper: 9 trials are finished" in capsys.readouterr().out
    assert sweep(tmp_path, "--seeds", "2") == 0
    assert len(keys(tmp_path)) == 12, "more seeds continue the run"
    assert {name: keys(tmp_path)[name] for name in before} == before


def test_other_settings_under_an_existing_name_are_refused(tmp_path, capsys):
    assert sweep(tmp_path) == 0
    capsys.readouterr()
    assert main([*SMALL[:3], "--out", str(tmp_path), "--set", "trials=2", "--set", "max_steps=8"]) == 2
    error = capsys.readouterr().err
    assert "max_steps 6 → 8" in error
    assert "--name" in error
    assert len(error.strip().splitlines()) == 1


def test_an_interrupt_keeps_what_is_finished_and_nothing_half_done(tmp_path, monkeypatch, capsys):
    honest, count = Trial.update, []

    def update(self):
        count.append(1)
        if len(count) == 20:
            raise KeyboardInterrupt
        return honest(self)

    monkeypatch.setattr(Trial, "update", update)
    assert sweep(tmp_path) == 130
    done = keys(tmp_path)
    assert 0 < len(done) < 9
    statuses = {r.status for r in Store(tmp_path, "smoke-paper").records()}
    assert statuses <= {"complete", "stopped"}
    assert json.loads((tmp_path / "smoke-paper" / "manifest.json").read_text())["status"] == "interrupted"
    assert sweep(tmp_path) == 0
    assert len(keys(tmp_path)) == 9
    assert {name: keys(tmp_path)[name] for name in done} == done


@pytest.mark.parametrize("dropout", ["0", "0.2"])
def test_a_trial_that_was_interrupted_goes_on_from_its_checkpoint(tmp_path, cut_off, capsys, dropout):
    checkpoints, small = tmp_path / "smoke-paper" / "checkpoints", [*SMALL, "--set", f"dropout={dropout}"]
    cut_off(*small, "--out", str(tmp_path))
    assert len(list(checkpoints.iterdir())) == 1
    capsys.readouterr()
    assert main([*small, "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "continues at step 4" in out
    assert out.count("continues at") == 1
    assert not checkpoints.exists()
    assert main([*small, "--out", str(tmp_path / "whole")]) == 0
    found, whole = (
        {
            r.key: (r.status, r.steps, r.tokens, r.selection_loss, r.test_loss)
            for r in Store(out, "smoke-paper").records()
        }
        for out in (tmp_path, tmp_path / "whole")
    )
    assert found == whole


def test_failures_are_recorded_tried_again_and_exit_3(tmp_path, monkeypatch, capsys):
    honest = Trial.update

    def update(self):
        if self.config.method == "lopt2" and self.step == 3:
            raise RuntimeError("broken on purpose")
        return honest(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "update", update)
        assert sweep(tmp_path) == 3
    out = capsys.readouterr().out
    assert "2 × RuntimeError" in out
    assert "no confirmed trial: lopt2 n=4 r=1" in out
    failed = [r for r in Store(tmp_path, "smoke-paper").records() if r.status == "failed"]
    assert {r.error["message"] for r in failed} == {"broken on purpose"}
    assert all("Traceback" in r.error["traceback"] for r in failed)
    table = pandas.read_parquet(tmp_path / "smoke-paper" / "trials.parquet")
    assert (table[table.status == "failed"].error == "RuntimeError: broken on purpose").all()

    assert sweep(tmp_path) == 0
    names = set(keys(tmp_path))
    assert {f"{r.key}.failed-1.json" for r in failed} <= names
    assert sum(not n.count("failed") for n in names) == 9


def test_a_diverged_search_trial_is_a_result_and_leaves_exit_0(tmp_path, monkeypatch):
    honest = Trial.loss

    def loss(self, positions):
        factor = float("nan") if self.config.learning_rate != 0.3 and self.phase == "search" else 1.0
        return honest(self, positions) * factor

    monkeypatch.setattr(Trial, "loss", loss)
    assert sweep(tmp_path) == 0
    records = Store(tmp_path, "smoke-paper").records()
    assert sum(r.status == "diverged" for r in records) == 3
    assert all(r.config["learning_rate"] == 0.3 for r in records if r.phase == "confirm")


def test_a_damaged_record_runs_again(tmp_path, capsys):
    assert sweep(tmp_path) == 0
    before = keys(tmp_path)
    victim = sorted(before)[0]
    path = tmp_path / "smoke-paper" / "trials" / victim
    path.write_text(path.read_text()[:50])
    assert sweep(tmp_path) == 0
    assert victim in keys(tmp_path)
    assert f"{victim} is damaged" in capsys.readouterr().out


def test_missing_data_is_one_line_before_anything_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LOPT_DATA_DIR", str(tmp_path / "nowhere"))
    assert main(["--space", "smoke", "--local-mode", "--set", "task=sst2", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert "LOPT_DATA_DIR" in error
    assert not (tmp_path / "smoke-paper" / "manifest.json").exists()


def test_every_report_carries_the_record_of_a_stop(tiny, tmp_path):
    job = Job(config=tiny, phase="search", cell="c", stratum="s", out=str(tmp_path), run="r")
    reports = list(execute(job))
    assert [r["status"] for r in reports] == ["running", "complete"]
    carried = [json.loads(r["record"]) for r in reports]
    assert [c["status"] for c in carried] == ["stopped", "complete"]
    assert [c["steps"] for c in carried] == [3, 6]


def test_a_trial_that_has_failed_goes_on_from_its_checkpoint_when_it_is_tried_again(tmp_path, monkeypatch, capsys):
    honest = Trial.update

    def update(self):
        if self.config.method == "lopt1" and self.phase == "search" and self.step == 5:
            raise RuntimeError("the disk of the data was full")
        return honest(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "update", update)
        assert sweep(tmp_path) == 3
    failed = [r.key for r in Store(tmp_path, "smoke-paper").records() if r.status == "failed"]
    assert failed
    checkpoints = tmp_path / "smoke-paper" / "checkpoints"
    assert {path.stem for path in checkpoints.iterdir()} == {f"{key}-000000004" for key in failed}
    capsys.readouterr()
    assert sweep(tmp_path) == 0
    assert capsys.readouterr().out.count("continues at step 4") == len(failed)
    assert not checkpoints.exists()
    assert main([*SMALL, "--out", str(tmp_path / "whole")]) == 0
    found, whole = (
        {r.key: (r.status, r.steps, r.selection_loss) for r in Store(out, "smoke-paper").records() if r.key in failed}
        for out in (tmp_path, tmp_path / "whole")
    )
    assert found == whole


def test_a_trial_that_only_a_model_of_the_earlier_ones_would_propose_goes_on(tmp_path, monkeypatch, capsys):
    """The 20th search trial, the seventh of its cell: the sampler's own proposals would differ in a new process."""
    command = [part.replace("trials=2", "trials=8") for part in SMALL] + ["--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(Budget, "over", lambda self: self._started >= 20)
        assert main(command) == 4
    run = tmp_path / "smoke-paper"
    (checkpoint,) = (run / "checkpoints").iterdir()
    record = run / "trials" / f"{checkpoint.stem.partition('-')[0]}.json"
    assert not record.exists()
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.count("continues at") == 1
    assert record.exists()
    assert len(keys(tmp_path)) == 27


@pytest.mark.parametrize("error", [MemoryError(), AssertionError(), RuntimeError("two\nlines")])
def test_errors_without_a_message_or_with_a_long_one_do_not_stop_the_sweep(tmp_path, monkeypatch, error):
    monkeypatch.setattr(Trial, "update", lambda self: (_ for _ in ()).throw(error))
    assert sweep(tmp_path) == 3
    assert sweep(tmp_path) == 3
    assert len(list((tmp_path / "smoke-paper" / "trials").glob("*.failed-1.json"))) == 6


def test_how_long_a_run_has_taken_is_known_when_its_command_is_killed(tmp_path, monkeypatch):
    honest, clock, noted = Trial.update, [0.0], []
    monkeypatch.setattr(Sweep, "_elapsed_s", lambda self: clock[0])

    def manifest():
        return json.loads((tmp_path / "smoke-paper" / "manifest.json").read_text())

    def update(self):
        clock[0] += 25.0
        noted.append((clock[0], manifest()["elapsed_s"]))
        return honest(self)

    monkeypatch.setattr(Trial, "update", update)
    assert sweep(tmp_path) == 0
    assert all(0 <= at - known <= 60 + 3 * 25 for at, known in noted), "an evaluation at every second step"
    assert manifest()["elapsed_s"] == clock[0] > 1000
    clock[0] += 10.0
    assert sweep(tmp_path) == 0
    assert manifest()["elapsed_s"] == clock[0] - 10.0, "nothing was left to do"


def test_derived_files_are_mended_by_the_same_command(tmp_path):
    assert sweep(tmp_path) == 0
    run = tmp_path / "smoke-paper"
    for name in ("trials.parquet", "baselines.json"):
        (run / name).unlink()
        assert sweep(tmp_path) == 0
        assert (run / name).is_file()
    assert json.loads((run / "manifest.json").read_text())["status"] == "complete"


def test_other_data_under_an_existing_run_is_refused(tmp_path, monkeypatch, capsys):
    import pyarrow
    import pyarrow.parquet

    def mirror(word):
        from lopt import data

        (tmp_path / "mirror" / "toy").mkdir(parents=True, exist_ok=True)
        for split in ("train", "validation"):
            table = pyarrow.table({"text": [f"{word} {i}" for i in range(60)], "label": [i % 2 for i in range(60)]})
            pyarrow.parquet.write_table(table, tmp_path / "mirror" / "toy" / f"{split}.parquet")
        data._load.cache_clear()
        data._draw.cache_clear()
        data._prepare.cache_clear()

    monkeypatch.setenv("LOPT_DATA_DIR", str(tmp_path / "mirror"))
    mirror("one")
    assert sweep(tmp_path) == 0
    mirror("two")
    before = keys(tmp_path)
    capsys.readouterr()
    assert sweep(tmp_path, "--seeds", "2") == 2
    assert "holds trials of data revision" in capsys.readouterr().err
    assert keys(tmp_path) == before
    assert json.loads((tmp_path / "smoke-paper" / "manifest.json").read_text())["status"] == "complete"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("length=300", "window of tiny is 256"),
        ("max_tokens=3", "leaves no room for text"),
    ],
)
def test_what_would_fail_in_every_trial_is_one_line_before_the_first(tmp_path, capsys, setting, words):
    assert sweep(tmp_path, "--set", setting) == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "smoke-paper" / "trials").exists()


def test_label_words_that_share_a_token_are_one_line_before_the_first_trial(tmp_path, capsys):
    make_model("llama").save_pretrained(tmp_path / "model")
    make_tokenizer("llama").save_pretrained(tmp_path / "model")
    capsys.readouterr()  # what saving a model prints
    assert sweep(tmp_path, "--set", f"backbone={tmp_path / 'model'}", "--set", "label_words= fine, fun") == 2
    error = capsys.readouterr().err.strip()
    assert "share their first token" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "smoke-paper" / "trials").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*SMALL, "--out", str(tmp_path / "file")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_audited_trials_run_to_the_end_and_are_noted(tmp_path):
    more = ["--set", "trials=6", "--set", "max_steps=12", "--set", "grace_steps=2", "--out", str(tmp_path)]
    base = ["--space", "smoke", "--local-mode", *more]
    assert main(base) == 0
    store = Store(tmp_path, "smoke-paper")
    stopped = {r.key for r in store.records() if r.status == "stopped"}
    assert stopped, "choose a setting in which some are stopped"
    assert store.audits() == {}
    assert main([*base, "--name", "audited", "--audit", "1"]) == 0
    store = Store(tmp_path, "audited")
    records = {r.key: r for r in store.records()}
    assert {r.status for r in records.values()} == {"complete"}
    audits = store.audits()
    assert set(audits) <= set(records) and audits
    for key, audit in audits.items():
        best = max(e.selection_accuracy for e in records[key].evaluations if e.step <= audit["step"])
        assert audit["selection_accuracy"] == best


def test_a_trial_that_takes_too_long_has_failed_and_the_summary_says_how_to_see_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Trial, "elapsed_s", property(lambda self: 100.0 if self.config.method == "lopt2" else 0.0))
    assert sweep(tmp_path, "--max-trial-time", "90s") == 3
    out = capsys.readouterr().out
    failed = [r for r in Store(tmp_path, "smoke-paper").records() if r.status == "failed"]
    assert {(r.config["method"], r.error["type"]) for r in failed} == {("lopt2", "TimeoutError")}
    assert "2 × TimeoutError: it took longer than 90 s (--max-trial-time), and was at step 2" in out
    assert "python -m lopt run --config" in out
    assert any(r.key in out for r in failed)
    assert sweep(tmp_path, "--max-trial-time", "200s") == 0, "failed trials are tried again"
