"""Predictions that cannot be used are named at the top of the report, with what of it changes."""

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
    """A full prompt and two smaller ones, of three seeds each."""
    return simulated_run(store, [0.0, 0.02], n=200)


def files_of(run, rank):
    """Files of predictions of a cell's seeds."""
    records = [json.loads(file.read_text()) for file in sorted((run / "trials").glob("*.json"))]
    return [run / "predictions" / f"{r['key']}.parquet" for r in records if r["config"]["rank"] == rank]


def rewrite(file, change):
    table = pyarrow.parquet.read_table(file).to_pydict()
    change(table)
    pyarrow.parquet.write_table(pyarrow.table(table), file)


def shorter(table):
    for values in table.values():
        values.pop()


def twice(table):
    table["example_id"][7] = table["example_id"][6]


def others(table):
    table["example_id"] = [1000 + i for i in table["example_id"]]


def other_classes(table):
    for name in ("gold", "predicted"):
        table[name] = [1 - value for value in table[name]]


def wrong(table):
    table["predicted"] = [1 - value for value in table["predicted"]]


DAMAGE = {
    "missing": (lambda file: file.unlink(), "missing"),
    "empty": (lambda file: file.write_bytes(b""), "damaged"),
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:-20]), "damaged"),
    "no parquet": (lambda file: file.write_bytes(b"PAR1" * 50), "damaged"),
    "a folder": (lambda file: (file.unlink(), file.mkdir()), "damaged"),
    "no column": (lambda file: rewrite(file, lambda table: table.pop("predicted")), "damaged"),
    "texts": (lambda file: rewrite(file, lambda t: t.update(gold=[str(v) for v in t["gold"]])), "damaged"),
    "fewer examples": (lambda file: rewrite(file, shorter), "holds 199 examples, its record has 200"),
    "an example twice": (lambda file: rewrite(file, twice), "damaged: example 6 occurs twice"),
    "other examples": (lambda file: rewrite(file, others), "of other examples"),
    "other classes": (lambda file: rewrite(file, other_classes), "or other classes of them"),
    "another record's": (lambda file: rewrite(file, wrong), "gives an accuracy of"),
}


def said(run):
    """What the top of the report says of predictions."""
    results = load([run])
    return [text for text in warnings(results, groups(results)) if "Predictions" in text]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_cannot_be_used_is_named_with_what_changes(run, damage):
    change, why = DAMAGE[damage]
    file = files_of(run, 1)[0]
    change(file)
    (text,) = said(run)
    assert text.startswith(f"Predictions that cannot be used: {run.name}/predictions/{file.name} (") and why in text
    assert "come from the seeds' accuracies alone (LoPT-1 n=10 r=1)" in text
    assert "no verdict, against the full prompt (LoPT-1 n=10 r=1)" in text
    (group,) = groups(load([run]))
    assert group.find("lopt1", 10, 1).accuracy.seeds == 3


def test_whole_predictions_are_not_spoken_of(run):
    assert said(run) == []


def test_it_stands_above_the_answer_on_both_pages(run, tmp_path, capsys):
    file = files_of(run, 1)[0]
    file.write_bytes(file.read_bytes()[:-20])
    assert main([str(run), "--out", str(tmp_path / "out")]) == 0
    pages = [(tmp_path / "out" / name).read_text() for name in ("report.html", "report.md")]
    for text in (*(page.replace("\\_", "_") for page in pages), capsys.readouterr().out):
        assert 0 <= text.index("Predictions that") < text.index(file.name) < text.index("On movie_snippets")


def test_each_file_is_named(run):
    named = [file for rank in (1, 2) for file in files_of(run, rank)[:2]]
    for file in named:
        file.unlink()
    (text,) = said(run)
    assert all(f"{run.name}/predictions/{file.name} (missing)" in text for file in named)
    assert text.count(".parquet") == 4


def test_the_full_prompts_file_takes_every_verdict(run):
    files_of(run, None)[0].unlink()
    (text,) = said(run)
    assert "against the full prompt (LoPT-1 n=10 r=1, LoPT-1 n=10 r=2)" in text


def test_a_folder_that_is_missing_is_named_once(run):
    shutil.rmtree(run / "predictions")
    (text,) = said(run)
    assert text.count(f"{run.name}/predictions (missing)") == 1 and ".parquet" not in text


def test_trials_that_were_to_be_scored_on_other_examples_are_no_damage(store):
    s = store(test_n=50)
    for seed in range(2):
        s.predict(s.confirm("lopt1", 10, 1, 0.0, config__seed=seed), np.arange(50) % 5 > 0)
    record = s.predict(s.confirm("lopt1", 10, 2, 0.0, config__data_seed=7), np.arange(50) % 4 > 0)
    rewrite(s.path / "predictions" / f"{record['key']}.parquet", others)
    assert said(s.write()) == []


def test_one_seed_alone_changes_nothing(store):
    s = store(cells=[("lopt1", 10, 1)])
    s.confirm("lopt1", 10, 1, 0.8)
    (s.path / "predictions").mkdir()
    (text,) = said(s.write())
    assert text.endswith("(missing). Without them nothing changes.")
