"""What each tracker writes, as the tracker's own reader finds it."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import optuna
import pytest

from lopt.training import Trial
from sweeps import trackers
from sweeps.results.store import Store
from sweeps.run import main
from sweeps.trackers import _trials
from tests.bad_input import refused
from tests.sweeps.records import make_record

PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb", "optuna": "optuna"}
SECRET = "very-secret-value"
ROOT = Path(__file__).resolve().parents[2]


def has_package(name):
    return all(
        find_spec(package)
        for package in (PACKAGES[name], *trackers.registry.find("sweeps.trackers", name, "").packages)
    )


def needs(name):
    return pytest.mark.skipif(not has_package(name), reason=f"no {PACKAGES[name]}: pip install -e '.[track]'")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The store of a smoke sweep that all trackers have followed. One of its search trials has failed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_API_KEY", SECRET)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        out = tmp_path_factory.mktemp("tracked")
        update = Trial.update

        def update_or_fail(self):
            if self.config.method == "lopt2" and self.config.learning_rate != 0.3 and self.step == 5:
                raise RuntimeError("no such luck")
            return update(self)

        patch.setattr(Trial, "update", update_or_fail)
        options = [option for name in PACKAGES if has_package(name) for option in ("--track", name)]
        assert main(["--space", "smoke", "--local-mode", "--out", str(out), "--set", "trials=2", *options]) == 3
    return Store(out, "smoke-paper")


def curve(record):
    return {evaluation.step: evaluation.selection_accuracy for evaluation in record.evaluations}


def test_no_secret_is_in_any_file(run):
    files = [file for file in run.folder.rglob("*") if file.is_file()]
    assert files and not [file for file in files if SECRET.encode() in file.read_bytes()]


@needs("tensorboard")
def test_tensorboard_reads_the_curves_and_final_metrics_of_each_trial(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    for record in run.records():
        (folder,) = (run.folder / "tensorboard").glob(f"*/{record.phase}-{record.key[:8]}")
        reader = EventAccumulator(str(folder)).Reload()
        written_curve = (
            {event.step: event.value for event in reader.Scalars("selection/accuracy")} if record.evaluations else {}
        )
        assert written_curve == pytest.approx(curve(record))
        assert reader.Scalars("final/trainable_parameters")[0].value == record.trainable_parameters
        if record.status == "complete":
            assert reader.Scalars("final/score")[0].value == pytest.approx(record.selection_score)
        content = reader.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
        settings = metadata.parse_session_start_info_plugin_data(content).hparams
        assert settings["learning_rate"].number_value == record.config["learning_rate"]
        assert settings["status"].string_value == record.status


@needs("mlflow")
def test_mlflow_finds_an_experiment_a_parent_for_each_cell_and_the_trials_in_it(run):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lopt/smoke-paper")
    runs = client.search_runs([experiment.experiment_id])
    parents = {item.info.run_id: item for item in runs if "lopt.key" not in item.data.tags}
    children = {item.data.tags["lopt.key"]: item for item in runs if "lopt.key" in item.data.tags}
    records = {record.key: record for record in run.records()}
    assert children.keys() == records.keys()
    assert sorted(item.info.run_name for item in parents.values()) == sorted({r.cell for r in records.values()})
    for key, item in children.items():
        record = records[key]
        assert parents[item.data.tags["mlflow.parentRunId"]].info.run_name == record.cell
        assert float(item.data.params["learning_rate"]) == record.config["learning_rate"]
        assert item.data.tags["lopt.method"] == record.config["method"]
        assert item.info.status == ("FAILED" if record.status == "failed" else "FINISHED")
        assert {m.step: m.value for m in client.get_metric_history(item.info.run_id, "selection/accuracy")} == curve(
            record
        )
        if record.status == "complete":
            assert item.data.metrics["final/score"] == record.selection_score
        if record.status == "failed":
            assert item.data.tags["mlflow.note.content"] == "RuntimeError: no such luck"


def read_log(content):
    """Yield the records of an offline file of Weights & Biases.

    It has the format of LevelDB's log, after a header of 7 bytes: blocks of 32 KiB, and in them chunks with a checksum
    (4 bytes), a length (2 bytes) and a type (1: whole record, 2: its first, 3: a middle, 4: its last chunk).
    """
    assert content[:4] == b":W&B"
    position, record = 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


@needs("wandb")
def test_the_offline_files_of_wandb_hold_the_group_the_settings_the_curve_and_the_summary(run):
    from wandb.proto.wandb_internal_pb2 import Record

    records = {record.key: record for record in run.records()}
    for key, record in records.items():
        (file,) = (run.folder / "wandb").glob(f"offline-run-*-{key}/run-{key}.wandb")
        parts = [Record.FromString(data) for data in read_log(file.read_bytes())]
        (started,) = [part.run for part in parts if part.WhichOneof("record_type") == "run"]
        assert (started.run_group, started.job_type, started.project) == ("smoke-paper", record.phase, "lopt")
        assert {"smoke", record.phase, record.config["method"]} <= {*started.tags}
        settings = {item.key: json.loads(item.value_json) for item in started.config.update}
        assert settings["learning_rate"] == record.config["learning_rate"] and settings["cell"] == record.cell
        rows = [{item.key or item.nested_key[0]: json.loads(item.value_json) for item in part.history.item}
                for part in parts if part.WhichOneof("record_type") == "history"]  # fmt: skip
        assert {row["_step"]: row["selection/accuracy"] for row in rows} == curve(record)
        summary = {item.key or item.nested_key[0]: json.loads(item.value_json)
                   for part in parts for item in part.summary.update}  # fmt: skip
        assert summary["status"] == record.status
        assert summary["final/trainable_parameters"] == record.trainable_parameters
        (end,) = [part.exit for part in parts if part.WhichOneof("record_type") == "exit"]
        assert end.exit_code == (record.status == "failed")


def test_optuna_finds_a_study_for_each_cell_with_its_search_trials(run):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(run.folder / "optuna.log")))
    records = {record.key: record for record in run.records() if record.phase == "search"}
    cells = {record.cell for record in records.values()}
    assert {*optuna.get_all_study_names(storage)} == {f"smoke-paper/{cell}" for cell in cells}
    mirrored = {}
    for cell in cells:
        study = optuna.load_study(study_name=f"smoke-paper/{cell}", storage=storage)
        assert study.direction == optuna.study.StudyDirection.MAXIMIZE
        mirrored |= {trial.user_attrs["key"]: (cell, trial) for trial in study.trials}
    assert mirrored.keys() == records.keys()
    states = {"complete": "COMPLETE", "stopped": "PRUNED", "diverged": "FAIL", "failed": "FAIL"}
    for key, (cell, trial) in mirrored.items():
        record = records[key]
        assert (cell, trial.state.name) == (record.cell, states[record.status])
        assert trial.params["learning_rate"] == record.config["learning_rate"]
        assert trial.intermediate_values == curve(record)
        if record.status == "complete":
            assert trial.value == record.selection_score


def test_a_journal_that_is_begun_late_gets_the_finished_trials_and_none_twice(tmp_path):
    command = ["--space", "smoke", "--local-mode", "--out", str(tmp_path), "--set"]
    assert main([*command, "trials=2"]) == 0
    for _ in range(2):
        assert main([*command, "trials=3", "--track", "optuna"]) == 0
    store = Store(tmp_path, "smoke-paper")
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(store.folder / "optuna.log"))
    )
    names = optuna.get_all_study_names(storage)
    trials = [trial for name in names for trial in optuna.load_study(study_name=name, storage=storage).trials]
    expected = sorted(record.key for record in store.records() if record.phase == "search")
    assert sorted(trial.user_attrs["key"] for trial in trials) == expected


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_is_said_with_its_command_before_the_sweep_begins(monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    refused(main, "--space", "smoke", "--track", name, "--dry-run", words=[name, "pip install 'lopt-sweep[track]'"])


@pytest.mark.parametrize("name", [name for name in PACKAGES if has_package(name)])
def test_a_run_at_a_url_is_refused_by_a_tracker_that_needs_a_folder(monkeypatch, name):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    arguments = ["--space", "smoke", "--local-mode", "--out", f"memory://{name}", "--track", name]
    refused(main, *arguments, words=[f"'{name}' writes to a folder", "--out"])


@needs("mlflow")
@needs("tensorboard")
def test_a_trial_that_was_interrupted_has_each_evaluation_once(tmp_path, cut_off):
    from mlflow.tracking import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = ["--set", "trials=2", "--track", "mlflow", "--track", "tensorboard"]
    command = ["--space", "smoke", "--local-mode", "--out", str(tmp_path), *options]
    cut_off(*command)
    assert main(command) == 0
    store = Store(tmp_path, "smoke-paper")
    client = MlflowClient(f"sqlite:///{store.folder / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("lopt/smoke-paper").experiment_id])
    run_ids = {run.data.tags.get("lopt.key"): run.info.run_id for run in runs}
    for record in store.records():
        steps = [evaluation.step for evaluation in record.evaluations]
        assert [metric.step for metric in client.get_metric_history(run_ids[record.key], "selection/accuracy")] == steps
        (folder,) = (store.folder / "tensorboard").glob(f"*/{record.phase}-{record.key[:8]}")
        assert [event.step for event in EventAccumulator(str(folder)).Reload().Scalars("selection/accuracy")] == steps


@needs("wandb")
def test_wandb_without_an_api_key_says_what_to_do(tmp_path):
    """In a process of its own, because wandb remembers a key of this process."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    env |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    arguments = ["--space", "smoke", "--local-mode", "--out", str(tmp_path), "--track", "wandb"]
    command = [sys.executable, str(ROOT / "sweeps" / "run.py"), *arguments]
    process = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1
    assert "wandb login" in process.stderr and "WANDB_MODE=offline" in process.stderr


def test_metrics_without_a_field_of_their_own_are_curves_and_final_numbers_too(tiny):
    evaluation = {"step": 4, "selection_accuracy": 0.5, "selection_scores": {"matthews": 0.1}, "predictions": "x"}
    assert _trials.curve_metrics(evaluation) == {"selection/accuracy": 0.5, "selection/matthews": 0.1}
    record = replace(make_record(tiny), held_out_scores={"matthews": 0.2}, test_scores={"matthews": 0.3})
    metrics = _trials.final_metrics(record)
    assert (metrics["final/held_out_matthews"], metrics["final/test_matthews"]) == (0.2, 0.3)
