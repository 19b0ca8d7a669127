"""Predictions that cannot be used are named at the top of the report, together with their effect on it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from analysis.cells import groups
from analysis.load import load
from analysis.notes import warnings
from analysis.report import main
from tests.analysis.simulated import simulated_run


@pytest.fixture
def run(store):
    """A run of a full prompt and two smaller prompts, with three seeds each."""
    return simulated_run(store, [0.0, 0.02], n=200)


def prediction_files(run, rank):
    """Return the files of predictions of the seeds of the cell with this rank."""
    records = [json.loads(file.read_text()) for file in sorted((run / "trials").glob("*.json"))]
    keys = [record["key"] for record in records if record["config"]["rank"] == rank]
    return [run / "predictions" / f"{key}.parquet" for key in keys]


def rewrite(file, change):
    table = pyarrow.parquet.read_table(file).to_pydict()
    change(table)
    pyarrow.parquet.write_table(pyarrow.table(table), file)


def drop_last_example(table):
    for values in table.values():
        values.pop()


def repeat_example(table):
    table["example_id"][7] = table["example_id"][6]


def change_ids(table):
    table["example_id"] = [1000 + i for i in table["example_id"]]


def change_classes(table):
    for name in ("gold", "predicted"):
        table[name] = [1 - value for value in table[name]]


def change_predictions(table):
    table["predicted"] = [1 - value for value in table["predicted"]]


DAMAGE = {
    "missing": (lambda file: file.unlink(), "missing"),
    "empty": (lambda file: file.write_bytes(b""), "damaged"),
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:-20]), "damaged"),
    "no parquet": (lambda file: file.write_bytes(b"PAR1" * 50), "damaged"),
    "a folder": (lambda file: (file.unlink(), file.mkdir()), "damaged"),
    "no column": (lambda file: rewrite(file, lambda table: table.pop("predicted")), "damaged"),
    "texts": (lambda file: rewrite(file, lambda table: table.update(gold=[*map(str, table["gold"])])), "damaged"),
    "fewer examples": (lambda file: rewrite(file, drop_last_example), "it holds 199 examples, but its record has 200"),
    "an example twice": (lambda file: rewrite(file, repeat_example), "damaged: example 6 occurs twice"),
    "other examples": (
        lambda file: rewrite(file, change_ids),
        "its examples or their classes are not those of other trials",
    ),
    "other classes": (lambda file: rewrite(file, change_classes), "its examples or their classes are not those of"),
    "another record's": (lambda file: rewrite(file, change_predictions), "it gives an accuracy of"),
}


def prediction_warnings(run):
    """Return what the top of the report says about predictions."""
    results = load([run])
    return [warning for warning in warnings(results, groups(results)) if "Predictions" in warning]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_cannot_be_used_is_named_with_its_effect(run, damage):
    spoil, reason = DAMAGE[damage]
    file = prediction_files(run, 1)[0]
    spoil(file)
    (warning,) = prediction_warnings(run)
    assert warning.startswith(f"Predictions that cannot be used: {run.name}/predictions/{file.name} (")
    assert reason in warning
    assert "come from the seeds' scores alone (LoPT-1 n=10 r=1)" in warning
    assert "no verdict against the reference (LoPT-1 n=10 r=1)" in warning
    (group,) = groups(load([run]))
    assert group.find("lopt1", 10, 1).accuracy.seeds == 3


def test_whole_predictions_give_no_warning(run):
    assert prediction_warnings(run) == []


def test_the_warning_comes_before_the_answer_on_both_pages(run, tmp_path, capsys):
    file = prediction_files(run, 1)[0]
    file.write_bytes(file.read_bytes()[:-20])
    assert main([str(run), "--out", str(tmp_path / "out")]) == 0
    pages = [(tmp_path / "out" / name).read_text() for name in ("report.html", "report.md")]
    for text in (*(page.replace("\\_", "_") for page in pages), capsys.readouterr().out):
        assert 0 <= text.index("Predictions that") < text.index(file.name) < text.index("On movie_snippets")


def test_each_file_is_named(run):
    missing = [file for rank in (1, 2) for file in prediction_files(run, rank)[:2]]
    for file in missing:
        file.unlink()
    (warning,) = prediction_warnings(run)
    assert all(f"{run.name}/predictions/{file.name} (missing)" in warning for file in missing)
    assert warning.count(".parquet") == 4


def test_without_the_references_file_there_is_no_verdict_at_all(run):
    prediction_files(run, None)[0].unlink()
    (warning,) = prediction_warnings(run)
    assert "against the reference (LoPT-1 n=10 r=1, LoPT-1 n=10 r=2)" in warning


def test_a_folder_that_is_missing_is_named_once(run):
    shutil.rmtree(run / "predictions")
    (warning,) = prediction_warnings(run)
    assert warning.count(f"{run.name}/predictions (missing)") == 1 and ".parquet" not in warning


def test_trials_meant_to_be_scored_on_other_examples_give_no_warning(store):
    run = store(test_n=50)
    for seed in range(2):
        run.predict(run.confirm("lopt1", 10, 1, 0.0, config__seed=seed), np.arange(50) % 5 > 0)
    record = run.predict(run.confirm("lopt1", 10, 2, 0.0, config__data_seed=7), np.arange(50) % 4 > 0)
    rewrite(run.path / "predictions" / f"{record['key']}.parquet", change_ids)
    assert prediction_warnings(run.write()) == []


def test_missing_predictions_of_a_single_seed_change_nothing(store):
    run = store(cells=[("lopt1", 10, 1)])
    run.confirm("lopt1", 10, 1, 0.8)
    (run.path / "predictions").mkdir()
    (warning,) = prediction_warnings(run.write())
    assert warning.endswith("(missing). Without them, nothing changes.")
