from __future__ import annotations

import dataclasses
import json
import threading

import numpy as np
import pandas
import pyarrow.parquet
import pytest

from lopt.metrics import Predictions
from lopt.records import TrialRecord
from lopt.training import Trial, train
from sweeps.store import Store

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


def test_a_record_comes_back_equal(store, record):
    assert store.read(record.key) is None
    store.write(record)
    assert store.read(record.key) == record
    assert store.records() == [record]
    assert [p.name for p in (store.folder / "trials").iterdir()] == [f"{record.key}.json"], "no temporary files stay"


def test_predictions_and_table(store, record, tiny):
    found = Predictions(np.array([3, 5]), np.array([0, 1]), np.array([[1.0, 0.0], [2.0, 0.0]]))
    store.write(record, found)
    table = pyarrow.parquet.read_table(store.folder / "predictions" / f"{record.key}.parquet").to_pydict()
    assert table == {
        "example_id": [3, 5], "gold": [0, 1], "predicted": [0, 0], "logit_0": [1.0, 2.0], "logit_1": [0.0, 0.0],
    }  # fmt: skip
    rows = pandas.read_parquet(store.write_table())
    assert set(COLUMNS) <= set(rows.columns)
    assert rows.loc[0, "key"] == record.key
    assert rows.loc[0, "test_accuracy"] == record.test_accuracy


def test_a_table_of_nothing(store):
    store.folder.mkdir()
    assert len(pandas.read_parquet(store.write_table())) == 0


def test_a_damaged_record_is_set_aside_and_said(store, record, capsys):
    store.write(record)
    path = store.path(record.key)
    path.write_text(path.read_text()[:100])
    assert store.records() == []
    assert path.with_name(path.name + ".damaged").exists()
    assert "set aside" in capsys.readouterr().out
    assert store.records() == []


def test_a_failed_record_is_kept_under_another_name(store, record):
    for number in (1, 2):
        store.write(record)
        store.set_aside(record)
        assert (store.folder / "trials" / f"{record.key}.failed-{number}.json").exists()
    assert store.records() == []


def test_readers_never_see_half_a_record(store, record):
    stop, seen = threading.Event(), []

    def read():
        while not stop.is_set():
            found = store.read(record.key)
            if found is not None:
                seen.append(found == record)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(50):
        store.write(record)
    stop.set()
    reader.join()
    assert seen
    assert all(seen)


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "a\nb", "-x", "x" * 101])
def test_run_names_stay_inside_the_results_folder(tmp_path, name):
    with pytest.raises(ValueError, match="run name"):
        Store(tmp_path, name)


@pytest.mark.parametrize("key", ["../../etc/passwd", "ABCDEF0123456789", "0123", ""])
def test_keys_stay_inside_the_run(store, key):
    with pytest.raises(ValueError, match="trial key"):
        store.path(key)
    with pytest.raises(ValueError, match="trial key"):
        store.artifact(key)


def test_one_command_at_a_time(store, tmp_path):
    with store.held(), pytest.raises(ValueError, match="being worked on"), Store(tmp_path, "run").held():
        pass
    with store.held():
        pass


@pytest.mark.parametrize("content", ["[" * 100_000, "5", "", "\ud800"])
def test_files_beside_the_records_that_hold_something_else_are_named(store, content):
    store.folder.mkdir(parents=True, exist_ok=True)
    for name, read in (("manifest.json", store.manifest), ("baselines.json", store.baselines)):
        (store.folder / name).write_bytes(content.encode("utf-8", "surrogatepass"))
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            read()


@pytest.mark.parametrize("change", [{"config": 5}, {"key": None}, {"started_at": 1}, {"error": "E"}])
def test_a_record_of_other_kinds_of_values_is_damaged(record, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        TrialRecord.from_dict({**record.to_dict(), **change})


def test_a_damaged_manifest_is_one_line(store):
    store.folder.mkdir()
    (store.folder / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        store.manifest()


def test_json_has_no_nan(store, tiny):
    trial = Trial(tiny, phase="search")
    for _ in trial:
        break
    values = trial.finish().to_dict()
    values["selection_loss"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write(TrialRecord.from_dict(values))
    json.dumps(trial.finish().to_dict(), allow_nan=False)


def test_a_failed_trial_keeps_its_checkpoint(store, record):
    path = store.checkpoint(record.key)
    path.parent.mkdir(parents=True)
    path.write_text("")
    store.write(dataclasses.replace(record, status="failed"))
    assert path.exists()
    store.clear_checkpoints(complete=True)
    assert path.exists()
    store.write(record)
    assert not path.exists()


def test_a_record_takes_its_checkpoint_away_and_the_end_of_a_sweep_all_of_them(store, record):
    path = store.checkpoint(record.key)
    other = store.checkpoint("0" * 16)
    path.parent.mkdir(parents=True)
    path.write_text("")
    other.write_text("")
    store.write(record)
    assert not path.exists()
    store.clear_checkpoints(complete=False)
    assert other.exists(), "what can be continued stays"
    store.clear_checkpoints(complete=True)
    assert not path.parent.exists()
    path.parent.mkdir()
    store.clear_checkpoints(complete=False)
    assert not path.parent.exists(), "an empty folder goes"
    with pytest.raises(ValueError, match="16 hexadecimal digits"):
        store.checkpoint("../secret")
