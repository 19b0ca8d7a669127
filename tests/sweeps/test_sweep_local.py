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


def sweep(tmp_path, *arguments):
    return main([*SMALL, "--out", str(tmp_path), *arguments])


def record_times(tmp_path):
    """Return the name of each record file, and when it was written."""
    return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "smoke-paper" / "trials").iterdir()}


def test_a_sweep_runs_to_its_end_and_runs_nothing_twice(tmp_path, capsys):
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

    before = record_times(tmp_path)
    assert sweep(tmp_path) == 0
    assert record_times(tmp_path) == before, "nothing runs twice"
    assert "continuing run smoke-paper: 9 trials are finished" in capsys.readouterr().out
    assert sweep(tmp_path, "--seeds", "2") == 0
    assert len(record_times(tmp_path)) == 12, "more seeds continue the run"
    assert {name: record_times(tmp_path)[name] for name in before} == before


def test_other_settings_under_an_existing_name_are_refused(tmp_path, capsys):
    assert sweep(tmp_path) == 0
    capsys.readouterr()
    assert main([*SMALL[:3], "--out", str(tmp_path), "--set", "trials=2", "--set", "max_steps=8"]) == 2
    error = capsys.readouterr().err
    assert "max_steps 6 → 8" in error
    assert "--name" in error
    assert len(error.strip().splitlines()) == 1


def test_an_interrupt_keeps_the_records_of_finished_trials_only(tmp_path, monkeypatch, capsys):
    original_update, steps = Trial.update, []

    def update(self):
        steps.append(1)
        if len(steps) == 20:
            raise KeyboardInterrupt
        return original_update(self)

    monkeypatch.setattr(Trial, "update", update)
    assert sweep(tmp_path) == 130
    finished = record_times(tmp_path)
    assert 0 < len(finished) < 9
    statuses = {record.status for record in Store(tmp_path, "smoke-paper").records()}
    assert statuses <= {"complete", "stopped"}
    assert json.loads((tmp_path / "smoke-paper" / "manifest.json").read_text())["status"] == "interrupted"
    assert sweep(tmp_path) == 0
    assert len(record_times(tmp_path)) == 9
    assert {name: record_times(tmp_path)[name] for name in finished} == finished


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
    assert main([*small, "--out", str(tmp_path / "undisturbed")]) == 0
    results, undisturbed_results = (
        {
            record.key: (record.status, record.steps, record.tokens, record.selection_loss, record.test_loss)
            for record in Store(out, "smoke-paper").records()
        }
        for out in (tmp_path, tmp_path / "undisturbed")
    )
    assert results == undisturbed_results


def test_failed_trials_are_recorded_and_tried_again_and_exit_with_3(tmp_path, monkeypatch, capsys):
    original_update = Trial.update

    def update(self):
        if self.config.method == "lopt2" and self.step == 3:
            raise RuntimeError("broken on purpose")
        return original_update(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "update", update)
        assert sweep(tmp_path) == 3
    out = capsys.readouterr().out
    assert "2 × RuntimeError" in out
    assert "no confirmed trial: lopt2 n=4 r=1" in out
    failed = [record for record in Store(tmp_path, "smoke-paper").records() if record.status == "failed"]
    assert {record.error["message"] for record in failed} == {"broken on purpose"}
    assert all("Traceback" in record.error["traceback"] for record in failed)
    table = pandas.read_parquet(tmp_path / "smoke-paper" / "trials.parquet")
    assert (table[table.status == "failed"].error == "RuntimeError: broken on purpose").all()

    assert sweep(tmp_path) == 0
    names = set(record_times(tmp_path))
    assert {f"{record.key}.failed-1.json" for record in failed} <= names
    assert sum("failed" not in name for name in names) == 9


def test_a_diverged_search_trial_is_a_result_and_exits_with_0(tmp_path, monkeypatch):
    original_loss = Trial.loss

    def loss(self, positions):
        factor = float("nan") if self.config.learning_rate != 0.3 and self.phase == "search" else 1.0
        return original_loss(self, positions) * factor

    monkeypatch.setattr(Trial, "loss", loss)
    assert sweep(tmp_path) == 0
    records = Store(tmp_path, "smoke-paper").records()
    assert sum(record.status == "diverged" for record in records) == 3
    assert all(record.config["learning_rate"] == 0.3 for record in records if record.phase == "confirm")


def test_the_trial_of_a_damaged_record_runs_again(tmp_path, capsys):
    assert sweep(tmp_path) == 0
    file_name = sorted(record_times(tmp_path))[0]
    path = tmp_path / "smoke-paper" / "trials" / file_name
    path.write_text(path.read_text()[:50])
    assert sweep(tmp_path) == 0
    assert file_name in record_times(tmp_path)
    assert f"{file_name} is damaged" in capsys.readouterr().out


def test_missing_data_are_refused_with_one_line_before_anything_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LOPT_DATA_DIR", str(tmp_path / "nowhere"))
    assert main(["--space", "smoke", "--local-mode", "--set", "task=sst2", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert "LOPT_DATA_DIR" in error
    assert not (tmp_path / "smoke-paper" / "manifest.json").exists()


def test_every_report_carries_the_record_of_a_trial_stopped_there(tiny, tmp_path):
    job = Job(config=tiny, phase="search", cell="c", stratum="s", out=str(tmp_path), run="r")
    reports = list(execute(job))
    assert [report["status"] for report in reports] == ["running", "complete"]
    records = [json.loads(report["record"]) for report in reports]
    assert [record["status"] for record in records] == ["stopped", "complete"]
    assert [record["steps"] for record in records] == [3, 6]


def test_a_trial_that_has_failed_goes_on_from_its_checkpoint_when_it_is_tried_again(tmp_path, monkeypatch, capsys):
    original_update = Trial.update

    def update(self):
        if self.config.method == "lopt1" and self.phase == "search" and self.step == 5:
            raise RuntimeError("the disk of the data was full")
        return original_update(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "update", update)
        assert sweep(tmp_path) == 3
    records = Store(tmp_path, "smoke-paper").records()
    failed_keys = [record.key for record in records if record.status == "failed"]
    assert failed_keys
    checkpoints = tmp_path / "smoke-paper" / "checkpoints"
    assert {path.stem for path in checkpoints.iterdir()} == {f"{key}-000000004" for key in failed_keys}
    capsys.readouterr()
    assert sweep(tmp_path) == 0
    assert capsys.readouterr().out.count("continues at step 4") == len(failed_keys)
    assert not checkpoints.exists()
    assert main([*SMALL, "--out", str(tmp_path / "undisturbed")]) == 0
    results, undisturbed_results = (
        {
            record.key: (record.status, record.steps, record.selection_loss)
            for record in Store(out, "smoke-paper").records()
            if record.key in failed_keys
        }
        for out in (tmp_path, tmp_path / "undisturbed")
    )
    assert results == undisturbed_results


def test_an_interrupted_trial_goes_on_even_if_the_sampler_would_not_propose_it_again(tmp_path, monkeypatch, capsys):
    """The trial is the 20th search trial, the seventh of its cell. The sampler proposes it from a model of the earlier
    trials, and its proposals would differ in a new process."""
    command = [part.replace("trials=2", "trials=8") for part in SMALL] + ["--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(Budget, "is_spent", lambda self: self._started_count >= 20)
        assert main(command) == 4
    run = tmp_path / "smoke-paper"
    (checkpoint,) = (run / "checkpoints").iterdir()
    record = run / "trials" / f"{checkpoint.stem.partition('-')[0]}.json"
    assert not record.exists()
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.count("continues at") == 1
    assert record.exists()
    assert len(record_times(tmp_path)) == 27


@pytest.mark.parametrize("error", [MemoryError(), AssertionError(), RuntimeError("two\nlines")])
def test_errors_without_a_message_or_with_several_lines_do_not_stop_the_sweep(tmp_path, monkeypatch, error):
    def update(self):
        raise error

    monkeypatch.setattr(Trial, "update", update)
    assert sweep(tmp_path) == 3
    assert sweep(tmp_path) == 3
    assert len(list((tmp_path / "smoke-paper" / "trials").glob("*.failed-1.json"))) == 6


def test_the_manifest_has_the_time_that_a_run_has_taken_even_if_the_command_is_killed(tmp_path, monkeypatch):
    original_update, clock = Trial.update, [0.0]
    noted_times = []  # pairs of the true time and the time in the manifest
    monkeypatch.setattr(Sweep, "_elapsed_s", lambda self: clock[0])

    def manifest():
        return json.loads((tmp_path / "smoke-paper" / "manifest.json").read_text())

    def update(self):
        clock[0] += 25.0
        noted_times.append((clock[0], manifest()["elapsed_s"]))
        return original_update(self)

    monkeypatch.setattr(Trial, "update", update)
    assert sweep(tmp_path) == 0
    # Trials are evaluated at every second step.
    assert all(0 <= elapsed_s - noted_s <= 60 + 3 * 25 for elapsed_s, noted_s in noted_times)
    assert manifest()["elapsed_s"] == clock[0] > 1000
    clock[0] += 10.0
    assert sweep(tmp_path) == 0
    assert manifest()["elapsed_s"] == clock[0] - 10.0, "nothing was left to do"


def test_the_same_command_writes_missing_derived_files_again(tmp_path):
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
        data._load_splits.cache_clear()
        data._draw_and_tokenise.cache_clear()
        data._prepare_from_cache_key.cache_clear()

    monkeypatch.setenv("LOPT_DATA_DIR", str(tmp_path / "mirror"))
    mirror("one")
    assert sweep(tmp_path) == 0
    mirror("two")
    before = record_times(tmp_path)
    capsys.readouterr()
    assert sweep(tmp_path, "--seeds", "2") == 2
    assert "holds trials of data revision" in capsys.readouterr().err
    assert record_times(tmp_path) == before
    assert json.loads((tmp_path / "smoke-paper" / "manifest.json").read_text())["status"] == "complete"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("length=300", "window of tiny is 256"),
        ("max_tokens=3", "leaves no room for text"),
    ],
)
def test_a_setting_that_fails_every_trial_is_refused_before_the_first(tmp_path, capsys, setting, words):
    assert sweep(tmp_path, "--set", setting) == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "smoke-paper" / "trials").exists()


def test_label_words_that_share_a_token_are_refused_before_the_first_trial(tmp_path, capsys):
    make_model("llama").save_pretrained(tmp_path / "model")
    make_tokenizer("llama").save_pretrained(tmp_path / "model")
    capsys.readouterr()  # what saving a model prints
    assert sweep(tmp_path, "--set", f"backbone={tmp_path / 'model'}", "--set", "label_words= fine, fun") == 2
    error = capsys.readouterr().err.strip()
    assert "share their first token" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "smoke-paper" / "trials").exists()


def test_a_folder_that_cannot_be_written_is_refused_with_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*SMALL, "--out", str(tmp_path / "file")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_audited_trials_run_to_the_end_and_are_noted(tmp_path):
    settings = ["--set", "trials=6", "--set", "max_steps=12", "--set", "grace_steps=2"]
    command = ["--space", "smoke", "--local-mode", *settings, "--out", str(tmp_path)]
    assert main(command) == 0
    store = Store(tmp_path, "smoke-paper")
    assert any(record.status == "stopped" for record in store.records()), "the settings must stop some trials"
    assert store.audits() == {}
    assert main([*command, "--name", "audited", "--audit", "1"]) == 0
    store = Store(tmp_path, "audited")
    records = {record.key: record for record in store.records()}
    assert {record.status for record in records.values()} == {"complete"}
    audits = store.audits()
    assert set(audits) <= set(records) and audits
    for key, audit in audits.items():
        evaluations = [evaluation for evaluation in records[key].evaluations if evaluation.step <= audit["step"]]
        best = max(evaluation.selection_accuracy for evaluation in evaluations)
        assert audit["selection_accuracy"] == best


def test_a_trial_that_takes_too_long_fails_and_the_summary_says_how_to_reproduce_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Trial, "elapsed_s", property(lambda self: 100.0 if self.config.method == "lopt2" else 0.0))
    assert sweep(tmp_path, "--max-trial-time", "90s") == 3
    out = capsys.readouterr().out
    failed = [record for record in Store(tmp_path, "smoke-paper").records() if record.status == "failed"]
    assert {(record.config["method"], record.error["type"]) for record in failed} == {("lopt2", "TimeoutError")}
    assert "2 × TimeoutError: it took longer than 90 s (--max-trial-time), and was at step 2" in out
    assert "python -m lopt run --config" in out
    assert any(record.key in out for record in failed)
    assert sweep(tmp_path, "--max-trial-time", "200s") == 0, "failed trials are tried again"
