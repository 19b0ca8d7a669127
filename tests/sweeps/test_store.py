from __future__ import annotations

import dataclasses
import json
import tempfile
import threading
from pathlib import Path

import numpy as np
import pandas
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopt.metrics import Predictions
from lopt.records import TrialRecord
from lopt.train_alone import train
from lopt.training import Trial
from sweeps.results.store import Store

COLUMNS = [
    "key", "phase", "status", "method",
    "backbone", "task", "length", "rank",
    "learning_rate", "seed", "trainable_parameters", "stored_parameters",
    "materialised_parameters", "steps", "max_steps", "selection_accuracy",
    "test_accuracy", "test_n", "wall_time_s", "tokens",
    "started_at", "error",
]  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path, "run")


@pytest.fixture(scope="module")
def record():
    from lopt.config import TrialConfig

    return train(
        TrialConfig(
            method="lopt1", task="toy", backbone="tiny", length=4, rank=2, learning_rate=0.1, max_steps=2, eval_every=2,
            precision="fp32",
        )
    )  # fmt: skip


def test_a_record_is_read_as_it_was_written(store, record):
    assert store.read(record.key) is None
    store.write(record)
    assert store.read(record.key) == record
    assert store.records() == [record]
    files = [path.name for path in (store.folder / "trials").iterdir()]
    assert files == [f"{record.key}.json"], "no temporary files stay"


def test_predictions_and_table_are_written(store, record, tiny):
    predictions = Predictions(np.array([3, 5]), np.array([0, 1]), np.array([[1.0, 0.0], [2.0, 0.0]]))
    store.write(record, predictions)
    table = pyarrow.parquet.read_table(store.folder / "predictions" / f"{record.key}.parquet").to_pydict()
    assert table == {
        "example_id": [3, 5], "gold": [0, 1], "predicted": [0, 0], "logit_0": [1.0, 2.0], "logit_1": [0.0, 0.0],
    }  # fmt: skip
    rows = pandas.read_parquet(store.write_table())
    assert set(COLUMNS) <= set(rows.columns)
    assert rows.loc[0, "key"] == record.key
    assert rows.loc[0, "test_accuracy"] == record.test_accuracy


def test_a_run_without_records_has_an_empty_table(store):
    store.folder.mkdir()
    assert len(pandas.read_parquet(store.write_table())) == 0


def test_a_damaged_record_is_set_aside_with_a_message(store, record, capsys):
    store.write(record)
    path = store.path(record.key)
    path.write_text(path.read_text()[:100])
    assert store.records() == []
    assert path.with_name(path.name + ".damaged").exists()
    assert "renamed to" in capsys.readouterr().out
    assert store.records() == []


def test_a_failed_record_is_kept_under_another_name(store, record):
    for number in (1, 2):
        store.write(record)
        store.set_aside(record)
        assert (store.folder / "trials" / f"{record.key}.failed-{number}.json").exists()
    assert store.records() == []


def test_readers_never_see_half_a_record(store, record):
    failed = dataclasses.replace(record, status="failed")  # a complete record is not written again
    store.write(failed)
    stop, was_whole = threading.Event(), []

    def read():
        while not stop.is_set():
            was_whole.append(store.read(failed.key) == failed)

    reader = threading.Thread(target=read)
    reader.start()
    writes = 0
    while writes < 50 or len(was_whole) < 20:
        store.write(failed)
        writes += 1
    stop.set()
    reader.join()
    assert all(was_whole)


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "a\nb", "-x", "x" * 101])
def test_run_names_stay_inside_the_results_folder(tmp_path, name):
    with pytest.raises(ValueError, match="run name"):
        Store(tmp_path, name)


@pytest.mark.parametrize("key", ["../../etc/passwd", "ABCDEF0123456789", "0123", ""])
def test_keys_stay_inside_the_run(store, key):
    with pytest.raises(ValueError, match="trial key"):
        store.path(key)
    with pytest.raises(ValueError, match="trial key"):
        store.artifact_folder(key)


def test_only_one_command_at_a_time_holds_a_run(store, tmp_path):
    with store.hold(), pytest.raises(ValueError, match="being worked on"), Store(tmp_path, "run").hold():
        pass
    with store.hold():
        pass


@pytest.mark.parametrize("content", ["[" * 100_000, "5", "", "\ud800"])
def test_a_damaged_manifest_or_baselines_file_is_named(store, content):
    store.folder.mkdir(parents=True, exist_ok=True)
    for name, read in (("manifest.json", store.manifest), ("baselines.json", store.baselines)):
        (store.folder / name).write_bytes(content.encode("utf-8", "surrogatepass"))
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            read()


@pytest.mark.parametrize("change", [{"config": 5}, {"key": None}, {"started_at": 1}, {"error": "E"}])
def test_a_record_with_a_value_of_a_wrong_type_is_refused(record, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        TrialRecord.from_dict({**record.to_dict(), **change})


def test_a_manifest_that_is_not_json_is_damaged(store):
    store.folder.mkdir()
    (store.folder / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        store.manifest()


def test_a_record_with_nan_is_not_written(store, tiny):
    trial = Trial(tiny, phase="search")
    for _ in trial:
        break
    values = trial.finish().to_dict()
    values["selection_loss"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write(TrialRecord.from_dict(values))
    json.dumps(trial.finish().to_dict(), allow_nan=False)


def test_a_failed_trial_keeps_its_checkpoint(store, record):
    store.write_checkpoint(record.key, 1, b"one")
    store.write(dataclasses.replace(record, status="failed"))
    assert store.read_checkpoint(record.key) == b"one"
    store.clear_checkpoints(complete=True)
    assert store.read_checkpoint(record.key) == b"one"
    store.write(record)
    assert store.read_checkpoint(record.key) is None


def test_a_record_removes_its_checkpoint_and_a_complete_sweep_removes_all(store, record):
    for key in (record.key, "0" * 16):
        store.write_checkpoint(key, 1, b"")
    store.write(record)
    assert [path.name for path in store.checkpoints.iterdir()] == [f"{'0' * 16}-000000001.safetensors"]
    store.clear_checkpoints(complete=False)
    assert store.read_checkpoint("0" * 16) == b"", "the checkpoint of a trial that can go on stays"
    store.clear_checkpoints(complete=True)
    assert not store.checkpoints.exists()
    store.checkpoints.mkdir()
    store.clear_checkpoints(complete=False)
    assert not store.checkpoints.exists(), "an empty folder is removed"
    with pytest.raises(ValueError, match="16 hexadecimal digits"):
        store.write_checkpoint("../secret", 1, b"")


@given(
    writers=st.lists(st.lists(st.integers(1, 9), max_size=6, unique=True).map(sorted), max_size=3),
    turns=st.lists(st.integers(0, 2), max_size=20),
)
def test_a_trial_never_goes_back_behind_a_checkpoint(writers, turns):
    """Several processes train the trial, because some were taken for dead. Each has its own pace."""
    with tempfile.TemporaryDirectory() as folder:
        store, highest_step = Store(folder, "r"), 0
        for turn in turns:
            if turn < len(writers) and writers[turn]:
                step = writers[turn].pop(0)
                store.write_checkpoint("0" * 16, step, str(step).encode())
                highest_step = max(highest_step, step)
                assert store.read_checkpoint("0" * 16) == str(highest_step).encode()
        assert len(list(store.checkpoints.glob("*"))) <= 1 + len(writers)


def test_a_newer_checkpoint_is_read_if_the_older_one_is_removed_meanwhile(store, monkeypatch):
    store.write_checkpoint("0" * 16, 1, b"one")
    original = Path.read_bytes

    def read_bytes(self):
        monkeypatch.setattr(Path, "read_bytes", original)
        store.write_checkpoint("0" * 16, 2, b"two")
        return original(self)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert store.read_checkpoint("0" * 16) == b"two"


@pytest.mark.parametrize("status", ["complete", "stopped", "diverged"])
@pytest.mark.parametrize("later_status", ["complete", "stopped", "failed"])
def test_a_finished_trial_keeps_its_first_record(store, record, status, later_status):
    first = dataclasses.replace(record, status=status, selection_accuracy=0.5)
    store.write(first)
    store.write(dataclasses.replace(record, status=later_status, wall_time_s=1e6))
    assert store.records() == [first]


def test_a_failed_record_is_replaced_by_a_later_one(store, record):
    store.write(dataclasses.replace(record, status="failed"))
    store.write(record)
    assert store.records() == [record]
