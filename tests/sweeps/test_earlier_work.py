"""Earlier commands and other runs: changed spaces, --fresh, --reuse and --warm-start."""

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
from sweeps.search.earlier_work import divide_by_fit
from sweeps.search.other_runs import can_warm_start
from sweeps.search.queue import SEARCH_SEED
from tests.sweeps.driver import Driver, by_rate
from tests.sweeps.records import make_record

SMALL = ["--space", "smoke", "--local-mode", "--set", "max_steps=6"]


def sweep(out, *options):
    return main([*SMALL, "--out", str(out), *options])


def write_times(out, run="smoke-paper"):
    """Return the time at which each record of a run was written, by the name of its file."""
    return {path.name: path.stat().st_mtime_ns for path in (out / run / "trials").iterdir()}


def test_a_run_continues_with_more_trials_and_cells(tmp_path, capsys):
    assert sweep(tmp_path, "--set", "trials=2") == 0
    before = write_times(tmp_path)
    capsys.readouterr()
    assert sweep(tmp_path, "--set", "trials=3") == 0
    out = capsys.readouterr().out
    assert "the space has changed since run smoke-paper began: trials_per_cell 2 → 3" in out
    assert "no longer counted" not in out
    after = write_times(tmp_path)
    assert {name: after[name] for name in before} == before, "no trial runs twice"
    table = pandas.read_parquet(tmp_path / "smoke-paper" / "trials.parquet")
    assert dict(table[table.phase == "search"].groupby("cell").size()) == dict.fromkeys(set(table.cell), 3)
    assert sweep(tmp_path, "--set", "trials=3", "--set", "length=4,6") == 0
    assert "new cells prompt_tuning n=6" in capsys.readouterr().out
    table = pandas.read_parquet(tmp_path / "smoke-paper" / "trials.parquet")
    assert len(set(table.cell)) == 6


def test_trials_that_no_longer_fit_are_named_and_kept(tmp_path, capsys):
    assert sweep(tmp_path, "--set", "trials=3") == 0
    before = write_times(tmp_path)
    capsys.readouterr()
    narrower = ("--set", "trials=3", "--set", "learning_rate=0.2:0.4")
    assert sweep(tmp_path, *narrower) == 0
    out = capsys.readouterr().out
    assert "learning_rate 0.001 … 1 (log) → 0.2 … 0.4" in out
    assert "kept, but no longer counted" in out
    assert "is outside 0.2 … 0.4" in out
    assert set(before) <= set(write_times(tmp_path))
    store = Store(tmp_path, "smoke-paper")
    space = settings.with_settings(spaces.load("smoke", "paper"), {"max_steps": "6", "learning_rate": "0.2:0.4"})
    fitting_records, misfit_counts = divide_by_fit(space, store.records())
    fitting_keys = {record.key for record in fitting_records}
    assert len(fitting_records) + misfit_counts.total() == len(store.records())
    assert len([record for record in fitting_records if record.phase == "search"]) == 9
    assert all(0.2 <= record.config["learning_rate"] <= 0.4 for record in fitting_records)
    assert f"complete: {len(fitting_records)} trials" in out
    assert store.left_out_keys() == sorted({record.key for record in store.records()} - fitting_keys)
    results = load([store.folder])
    assert {trial.key for trial in results.trials} == fitting_keys
    assert results.left_out_count == misfit_counts.total()
    assert sweep(tmp_path, *narrower) == 0, "the same command again"
    out = capsys.readouterr().out
    assert f"continuing run smoke-paper: {len(fitting_records)} trials are finished" in out
    assert f"complete: {len(fitting_records)} trials" in out
    assert sweep(tmp_path, "--set", "trials=3") == 0, "the original ranges again"
    assert set(before) <= set(write_times(tmp_path))
    assert not set(before) & set(store.left_out_keys())


_SPACE = """
from sweeps.space import Cell, Real, Space, Spec

def build(profile):
    fixed = {"method": "lopt1", "length": 4, "rank": 2}
    cell = Cell(name=NAME, fixed=fixed, search={"learning_rate": Real(0.01, 1.0, log=True)})
    base = {"task": "toy", "backbone": "tiny", "max_steps": 4, "eval_every": 2, "train_examples": 16}
    common = {"base": base, "trials": 2, "confirm_seeds": 1, "grace_steps": 4}
    return Space(name="named", title="Named", profile=profile, grid=lambda axes: (cell,), **common)

SPEC = Spec("named", build)
"""


def test_trials_of_a_renamed_cell_belong_to_the_cell_of_the_new_name(tmp_path, capsys):
    file = tmp_path / "named.py"
    command = ["--space", str(file), "--local-mode", "--out", str(tmp_path), "--name", "run"]
    file.write_text(_SPACE.replace("NAME", "'before'"))
    assert main([*command, "--max-trials", "1"]) == 4
    file.write_text(_SPACE.replace("NAME", "'between'"))
    assert main(command) == 0
    file.write_text(_SPACE.replace("NAME", "'after'"))
    names = write_times(tmp_path, "run")
    records_before = {name: json.loads((tmp_path / "run" / "trials" / name).read_text()) for name in names}
    capsys.readouterr()
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "complete: 3 trials" in out
    assert "3 trials now belong to another cell, which has the same settings: between → after" in out
    store = Store(tmp_path, "run")
    assert store.left_out_keys() == []
    assert {record.cell for record in store.records()} == {record.stratum for record in store.records()} == {"after"}
    for name, before in records_before.items():
        after = json.loads((tmp_path / "run" / "trials" / name).read_text())
        assert after | {"cell": "", "stratum": ""} == before | {"cell": "", "stratum": ""}, "no trial ran twice"


def test_other_rules_are_refused_and_fresh_starts_over(tmp_path, capsys):
    assert sweep(tmp_path, "--set", "trials=1") == 0
    before = write_times(tmp_path)
    capsys.readouterr()
    assert sweep(tmp_path, "--set", "trials=1", "--set", "grace_steps=2") == 2
    assert "--fresh to start this one over" in capsys.readouterr().err
    assert write_times(tmp_path) == before
    assert sweep(tmp_path, "--set", "trials=1", "--set", "grace_steps=2", "--fresh") == 0
    assert "kept as smoke-paper-before-1" in capsys.readouterr().out
    assert write_times(tmp_path, "smoke-paper-before-1") == before
    assert not set(write_times(tmp_path).values()) & set(before.values())
    assert sweep(tmp_path, "--fresh", "--name", "other", "--set", "trials=1") == 0, "there is no earlier run to keep"
    assert not (tmp_path / "other-before-1").exists()


@pytest.mark.parametrize("damage", [b"{", b"5", b"\xff", None])
def test_fresh_starts_over_even_if_the_manifest_is_damaged_or_gone(tmp_path, capsys, damage):
    assert sweep(tmp_path, "--set", "trials=1") == 0
    before, manifest = write_times(tmp_path), tmp_path / "smoke-paper" / "manifest.json"
    manifest.unlink() if damage is None else manifest.write_bytes(damage)
    capsys.readouterr()
    assert sweep(tmp_path, "--set", "trials=1") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert (
        ("manifest.json is damaged" if damage else "is missing") in line
        and "manifest.json" in line
        and "--fresh" in line
        and "--name" in line
    )
    assert write_times(tmp_path) == before
    assert sweep(tmp_path, "--set", "trials=1", "--fresh") == 0
    assert "kept as smoke-paper-before-1" in capsys.readouterr().out
    assert write_times(tmp_path, "smoke-paper-before-1") == before
    assert not set(write_times(tmp_path).values()) & set(before.values()), "the new run has records of its own"


def test_fresh_keeps_no_folder_in_which_nothing_had_begun(tmp_path, monkeypatch):
    monkeypatch.setenv("LOPT_DATA_DIR", str(tmp_path / "nowhere"))
    assert sweep(tmp_path, "--set", "task=sst2") == 2
    assert not (tmp_path / "smoke-paper").exists()
    (tmp_path / "smoke-paper").mkdir()  # a killed command leaves such a folder
    (tmp_path / "smoke-paper" / ".lock").touch()
    monkeypatch.delenv("LOPT_DATA_DIR")
    assert sweep(tmp_path, "--set", "trials=1", "--fresh", "--max-trials", "1") == 4
    assert not (tmp_path / "smoke-paper-before-1").exists()


def test_reuse_takes_finished_trials_of_the_same_key(tmp_path, capsys, monkeypatch):
    assert sweep(tmp_path, "--set", "trials=2") == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(Trial, "update", lambda self: pytest.fail("no trial should be trained"))
        assert sweep(tmp_path, "--set", "trials=2", "--name", "again", "--reuse", "smoke-paper") == 0
    assert "reused 9 of 9 trials (smoke-paper)" in capsys.readouterr().out
    store = Store(tmp_path, "again")
    assert set(write_times(tmp_path, "again")) == set(write_times(tmp_path))
    for record in store.records():
        assert record.provenance["reused_from"] == "smoke-paper"
        if record.phase == "confirm":
            assert load_prompt(store.artifact_folder(record.key)).test_accuracy == record.test_accuracy
            assert (store.folder / "predictions" / f"{record.key}.parquet").is_file()
    assert sweep(tmp_path, "--set", "trials=3", "--name", "more", "--reuse") == 0, "from all runs"
    reused = re.search(r"reused (\d+) of 12 trials", capsys.readouterr().out)
    assert 6 <= int(reused[1]) <= 9, "all search trials, and the confirm trials of those that are still winners"


def test_reuse_takes_no_trials_of_other_settings(tmp_path, capsys):
    assert sweep(tmp_path, "--set", "trials=1") == 0
    capsys.readouterr()
    assert sweep(tmp_path, "--set", "trials=1", "--set", "batch_size=4", "--name", "other", "--reuse") == 0
    assert (
        "reused 0 of 6 trials (none of the 6 finished trials of other runs has these settings)"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("flag", ["--reuse", "--warm-start"])
@pytest.mark.parametrize(("run", "words"), [("nowhere", "'nowhere' is not in"), ("../x", "run name '../x'")])
def test_a_run_that_does_not_exist_is_named_in_one_line(tmp_path, capsys, flag, run, words):
    assert sweep(tmp_path, flag, run) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1


def test_a_warm_start_teaches_the_search_and_does_not_count_as_its_trials(tmp_path, capsys):
    assert sweep(tmp_path, "--set", "trials=3") == 0
    capsys.readouterr()
    # With another batch size no trial can be reused, but the sampler can learn from all of them.
    options = ["--set", "trials=2", "--set", "batch_size=4", "--name", "warm", "--warm-start", "smoke-paper"]
    assert sweep(tmp_path, *options) == 0
    assert "the search learns from 9 trials of other runs" in capsys.readouterr().out
    records = Store(tmp_path, "warm").records()
    assert sum(record.phase == "search" for record in records) == 6
    assert json.loads((tmp_path / "warm" / "manifest.json").read_text())["status"] == "complete"
    options = ["--set", "trials=2", "--set", "metric=macro_f1", "--name", "other", "--warm-start", "smoke-paper"]
    assert sweep(tmp_path, *options) == 0
    message = "from 0 trials of other runs; 9 more cannot be used: they were selected by another metric"
    assert message in capsys.readouterr().out


def test_the_first_points_come_first_then_the_best_point_of_the_warm_start(monkeypatch):
    space = spaces.load("smoke", "paper")
    (cell, *_) = space.cells
    config = space.config(cell, {"learning_rate": 0.3}, seed=SEARCH_SEED).replace(batch_size=4)
    warm_start_records = [
        make_record(config.replace(learning_rate=rate), accuracy=0.5 + rate / 10 if rate < 0.3 else 0.4, cell="x")
        for rate in (0.001, 0.02, 0.1, 0.5)
    ]
    usable = [can_warm_start(other_cell, warm_start_records[0], "accuracy") for other_cell in space.cells]
    assert usable == [True, False, False]
    assert not can_warm_start(cell, warm_start_records[0], "macro_f1"), "accuracies say nothing about macro-F1"
    driver = Driver(space, by_rate, warm_start_records=warm_start_records).run()
    in_cell = [trial for trial in driver.trials if trial.cell.name == cell.name and trial.phase == "search"]
    rates = [trial.config.learning_rate for trial in in_cell]
    assert rates[:2] == [0.3, 0.1]
    assert len(rates) == 3, "records of the warm start do not count as trials of the cell"
