"""What earlier commands and other runs have left: changed spaces, --fresh, --reuse, --warm-start."""

from __future__ import annotations

import json
import re

import pandas
import pytest

from analysis.load import load
from lopt import load_prompt
from lopt.training import Trial
from sweeps import spaces
from sweeps.planning import settings
from sweeps.results.store import Store
from sweeps.run import main
from sweeps.search.earlier_work import fitting
from sweeps.search.other_runs import can_warm_start
from sweeps.search.queue import SEARCH_SEED
from tests.sweeps.driver import Driver, by_rate
from tests.sweeps.records import make_record

SMALL = ["--space", "smoke", "--local-mode", "--set", "max_steps=6"]


def sweep(out, *more):
    return main([*SMALL, "--out", str(out), *more])


def written(out, run="smoke-paper"):
    return {p.name: p.stat().st_mtime_ns for p in (out / run / "trials").iterdir()}


def test_more_trials_and_cells_continue_a_run(tmp_path, capsys):
    assert sweep(tmp_path, "--set", "trials=2") == 0
    before = written(tmp_path)
    capsys.readouterr()
    assert sweep(tmp_path, "--set", "trials=3") == 0
    out = capsys.readouterr().out
    assert "the space has changed since run smoke-paper began: trials_per_cell 2 → 3" in out
    assert "no longer counted" not in out
    after = written(tmp_path)
    assert {name: after[name] for name in before} == before, "nothing runs twice"
    table = pandas.read_parquet(tmp_path / "smoke-paper" / "trials.parquet")
    assert dict(table[table.phase == "search"].groupby("cell").size()) == dict.fromkeys(set(table.cell), 3)
    assert sweep(tmp_path, "--set", "trials=3", "--set", "length=4,6") == 0
    assert "new cells prompt_tuning n=6" in capsys.readouterr().out
    table = pandas.read_parquet(tmp_path / "smoke-paper" / "trials.parquet")
    assert len(set(table.cell)) == 6


def test_what_no_longer_fits_is_said_and_kept(tmp_path, capsys):
    assert sweep(tmp_path, "--set", "trials=3") == 0
    before = written(tmp_path)
    capsys.readouterr()
    narrowed = ("--set", "trials=3", "--set", "learning_rate=0.2:0.4")
    assert sweep(tmp_path, *narrowed) == 0
    out = capsys.readouterr().out
    assert "learning_rate 0.001 … 1 (log) → 0.2 … 0.4" in out
    assert "kept, but no longer counted" in out
    assert "is outside 0.2 … 0.4" in out
    assert set(before) <= set(written(tmp_path))
    store = Store(tmp_path, "smoke-paper")
    made = settings.with_settings(spaces.load("smoke", "paper"), {"max_steps": "6", "learning_rate": "0.2:0.4"})
    fit, why = fitting(made, store.records())
    assert len(fit) + why.total() == len(store.records())
    searched = [r for r in fit if r.phase == "search"]
    assert len(searched) == 9
    assert all(0.2 <= r.config["learning_rate"] <= 0.4 for r in fit)
    assert f"complete: {len(fit)} trials" in out
    assert store.left_out() == sorted({r.key for r in store.records()} - {r.key for r in fit})
    found = load([store.folder])
    assert {trial.key for trial in found.trials} == {r.key for r in fit}
    assert found.left_out == why.total()
    assert sweep(tmp_path, *narrowed) == 0, "the same once more"
    assert f"continuing run smoke-paper: {len(fit)} trials are finished" in (out := capsys.readouterr().out)
    assert f"complete: {len(fit)} trials" in out
    assert sweep(tmp_path, "--set", "trials=3") == 0, "and back"
    assert set(before) <= set(written(tmp_path))
    assert not set(before) & set(store.left_out())


_NAMED = """
from sweeps.space import Cell, Real, Space, Spec

def build(profile):
    fixed = {"method": "lopt1", "length": 4, "rank": 2}
    cell = Cell(name=NAME, fixed=fixed, search={"learning_rate": Real(0.01, 1.0, log=True)})
    base = {"task": "toy", "backbone": "tiny", "max_steps": 4, "eval_every": 2, "train_examples": 16}
    common = {"base": base, "trials": 2, "confirm_seeds": 1, "grace_steps": 4}
    return Space(name="named", title="Named", profile=profile, grid=lambda axes: (cell,), **common)

SPEC = Spec("named", build)
"""


def test_trials_of_a_cell_that_has_another_name_now_are_that_cells(tmp_path, capsys):
    file = tmp_path / "named.py"
    command = ["--space", str(file), "--local-mode", "--out", str(tmp_path), "--name", "run"]
    file.write_text(_NAMED.replace("NAME", "'before'"))
    assert main([*command, "--max-trials", "1"]) == 4
    file.write_text(_NAMED.replace("NAME", "'between'"))
    assert main(command) == 0
    file.write_text(_NAMED.replace("NAME", "'after'"))
    steps = {name: json.loads((tmp_path / "run" / "trials" / name).read_text()) for name in written(tmp_path, "run")}
    capsys.readouterr()
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "complete: 3 trials" in out
    assert "3 trials now of another cell, which has their settings: between → after" in out
    store = Store(tmp_path, "run")
    assert store.left_out() == []
    assert {record.cell for record in store.records()} == {record.stratum for record in store.records()} == {"after"}
    for name, before in steps.items():
        now = json.loads((tmp_path / "run" / "trials" / name).read_text())
        assert now | {"cell": "", "stratum": ""} == before | {"cell": "", "stratum": ""}, "nothing ran twice"


def test_other_rules_are_refused_and_fresh_begins_anew(tmp_path, capsys):
    assert sweep(tmp_path, "--set", "trials=1") == 0
    before = written(tmp_path)
    capsys.readouterr()
    assert sweep(tmp_path, "--set", "trials=1", "--set", "grace_steps=2") == 2
    assert "--fresh to begin this one anew" in capsys.readouterr().err
    assert written(tmp_path) == before
    assert sweep(tmp_path, "--set", "trials=1", "--set", "grace_steps=2", "--fresh") == 0
    assert "kept as smoke-paper-before-1" in capsys.readouterr().out
    assert written(tmp_path, "smoke-paper-before-1") == before
    assert not set(written(tmp_path).values()) & set(before.values())
    assert sweep(tmp_path, "--fresh", "--name", "other", "--set", "trials=1") == 0, "nothing to keep"
    assert not (tmp_path / "other-before-1").exists()


@pytest.mark.parametrize("damage", [b"{", b"5", b"\xff", None])
def test_fresh_begins_anew_whatever_has_become_of_the_manifest(tmp_path, capsys, damage):
    assert sweep(tmp_path, "--set", "trials=1") == 0
    before, manifest = written(tmp_path), tmp_path / "smoke-paper" / "manifest.json"
    manifest.unlink() if damage is None else manifest.write_bytes(damage)
    capsys.readouterr()
    assert sweep(tmp_path, "--set", "trials=1") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "manifest.json is " in line and "--fresh" in line and "--name" in line
    assert written(tmp_path) == before
    assert sweep(tmp_path, "--set", "trials=1", "--fresh") == 0
    assert "kept as smoke-paper-before-1" in capsys.readouterr().out
    assert written(tmp_path, "smoke-paper-before-1") == before
    assert not set(written(tmp_path).values()) & set(before.values()), "nothing is taken over"


def test_a_command_that_began_nothing_leaves_nothing_to_keep(tmp_path, monkeypatch):
    monkeypatch.setenv("LOPT_DATA_DIR", str(tmp_path / "nowhere"))
    assert sweep(tmp_path, "--set", "task=sst2") == 2
    assert not (tmp_path / "smoke-paper").exists()
    (tmp_path / "smoke-paper").mkdir()  # as a command that was killed leaves it
    (tmp_path / "smoke-paper" / ".lock").touch()
    monkeypatch.delenv("LOPT_DATA_DIR")
    assert sweep(tmp_path, "--set", "trials=1", "--fresh", "--max-trials", "1") == 4
    assert not (tmp_path / "smoke-paper-before-1").exists()


def test_reuse_takes_finished_trials_of_the_same_key(tmp_path, capsys, monkeypatch):
    assert sweep(tmp_path, "--set", "trials=2") == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(Trial, "update", lambda self: pytest.fail("it should not train"))
        assert sweep(tmp_path, "--set", "trials=2", "--name", "again", "--reuse", "smoke-paper") == 0
    assert "reused 9 of 9 trials (smoke-paper)" in capsys.readouterr().out
    store = Store(tmp_path, "again")
    assert set(written(tmp_path, "again")) == set(written(tmp_path))
    for record in store.records():
        assert record.provenance["reused_from"] == "smoke-paper"
        if record.phase == "confirm":
            assert load_prompt(store.artifact(record.key)).test_accuracy == record.test_accuracy
            assert (store.folder / "predictions" / f"{record.key}.parquet").is_file()
    assert sweep(tmp_path, "--set", "trials=3", "--name", "more", "--reuse") == 0, "of all runs"
    found = re.search(r"reused (\d+) of 12 trials", capsys.readouterr().out)
    assert 6 <= int(found[1]) <= 9, "all search trials, and those confirmed that are still the best"


def test_reuse_takes_nothing_of_other_settings(tmp_path, capsys):
    assert sweep(tmp_path, "--set", "trials=1") == 0
    capsys.readouterr()
    assert sweep(tmp_path, "--set", "trials=1", "--set", "batch_size=4", "--name", "other", "--reuse") == 0
    assert "reused 0 of 6 trials (none of the 6 found there fits)" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--reuse", "--warm-start"])
@pytest.mark.parametrize(("run", "says"), [("nowhere", "'nowhere' is not in"), ("../x", "run name '../x'")])
def test_a_run_that_is_not_there_is_one_line(tmp_path, capsys, flag, run, says):
    assert sweep(tmp_path, flag, run) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.strip().splitlines()) == 1


def test_a_warm_start_teaches_the_search_and_takes_no_trial_from_it(tmp_path, capsys):
    assert sweep(tmp_path, "--set", "trials=3") == 0
    capsys.readouterr()
    # Another batch size: nothing to reuse, much to learn.
    more = ["--set", "trials=2", "--set", "batch_size=4", "--name", "warm", "--warm-start", "smoke-paper"]
    assert sweep(tmp_path, *more) == 0
    assert "the search learns from 9 trials of other runs" in capsys.readouterr().out
    records = Store(tmp_path, "warm").records()
    assert sum(r.phase == "search" for r in records) == 6
    assert json.loads((tmp_path / "warm" / "manifest.json").read_text())["status"] == "complete"
    other = ["--set", "trials=2", "--set", "metric=macro_f1", "--name", "other", "--warm-start", "smoke-paper"]
    assert sweep(tmp_path, *other) == 0
    said = "from 0 trials of other runs; 9 more are not used, because they were selected by another metric"
    assert said in capsys.readouterr().out


def test_the_first_points_come_first_then_the_best_of_the_lessons(monkeypatch):
    made = spaces.load("smoke", "paper")
    (cell, *_) = made.cells
    config = made.config(cell, {"learning_rate": 0.3}, seed=SEARCH_SEED).replace(batch_size=4)
    rates = (0.001, 0.02, 0.1, 0.5)
    warm_start_records = [
        make_record(config.replace(learning_rate=rate), accuracy=0.5 + rate / 10 if rate < 0.3 else 0.4, cell="x")
        for rate in rates
    ]
    assert [can_warm_start(each, warm_start_records[0], "accuracy") for each in made.cells] == [True, False, False]
    assert not can_warm_start(cell, warm_start_records[0], "macro_f1"), "accuracies say nothing of the macro-F1"
    driver = Driver(made, by_rate, warm_start_records=warm_start_records).run()
    tried = [j.config.learning_rate for j in driver.trials if j.cell.name == cell.name and j.phase == "search"]
    assert tried[:2] == [0.3, 0.1]
    assert len(tried) == 3, "lessons take no trial's place"
