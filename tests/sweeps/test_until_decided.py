"""Sweeps with --until-decided, through the command in this process."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from analysis.cells import groups
from analysis.comparisons import courses
from analysis.load import load
from lopt.training import Trial
from sweeps.results.store import Store
from sweeps.run import main
from sweeps.work import execution
from tests.sweeps import ray_sweeps

RUN = "smoke-paper"
SMALL = ["--space", "smoke", "--local-mode", "--set", "trials=1", "--set", "max_steps=2", "--until-decided"]


def sweep(out, *arguments):
    return main([*SMALL, "--out", str(out), *arguments])


def confirm_seeds(out):
    """Return the seeds of the confirm trials of each cell."""
    seeds = {}
    for record in Store(out, RUN).readable_records():
        if record.phase == "confirm":
            seeds.setdefault(record.cell, []).append(record.config["seed"])
    return {cell: sorted(cell_seeds) for cell, cell_seeds in seeds.items()}


def looks(out):
    """Return the looks at each cell, with the numbers that they rest on."""
    (group,) = groups(load([out / RUN]))
    return [
        (course.cell.name, course.outcome, course.reason, [(look.seeds, look.difference.mean) for look in course.looks])
        for course in courses(group).all
    ]


@pytest.fixture(scope="module")
def open_run(tmp_path_factory):
    """A run whose question stays open for some looks."""
    out = tmp_path_factory.mktemp("open")
    assert sweep(out, "--margin", "10", "--most-seeds", "6") == 0
    return out


def test_a_wide_margin_is_decided_at_the_first_look(tmp_path, capsys):
    assert sweep(tmp_path, "--margin", "60") == 0
    out = capsys.readouterr().out
    assert "0/12 done" in out and "12/12 done" in out
    assert "Decided with 3 seeds of the reference: LoPT-2 (n = 4, r = 1, 64 parameters) is the smallest cell" in out
    assert set(map(tuple, confirm_seeds(tmp_path).values())) == {(1, 2, 3)}
    design = json.loads((tmp_path / RUN / "manifest.json").read_text())["space"]["until_decided"]
    assert design["margin"] == 0.6 and design["looks"][0] == 3 and design["looks"][-1] == 20
    assert sweep(tmp_path, "--margin", "60") == 0, "a decided run has nothing left to do"
    assert set(map(tuple, confirm_seeds(tmp_path).values())) == {(1, 2, 3)}


def test_seeds_are_added_where_the_verdict_is_open(open_run, capsys):
    seeds = confirm_seeds(open_run)
    used = {name: len(history) for name, _, _, history in looks(open_run)}
    assert max(used.values()) > 1, "the run has more than one look"
    for name, outcome, reason, history in looks(open_run):
        assert outcome != "undecided" or reason
        assert len(seeds[name]) == history[-1][0], "a cell has the seeds of its last look, and no more"
    assert len(seeds["prompt_tuning n=4"]) == max(len(cell_seeds) for cell_seeds in seeds.values())


@pytest.mark.parametrize("most_trials", [2, 5])
def test_a_run_that_stops_and_continues_has_the_same_looks(open_run, tmp_path, most_trials):
    arguments = ["--margin", "10", "--most-seeds", "6"]
    codes = [sweep(tmp_path, *arguments, "--max-trials", str(most_trials)) for _ in range(12)]
    assert codes[0] == 4 and codes[-1] == 0
    assert looks(tmp_path) == looks(open_run)
    assert confirm_seeds(tmp_path) == confirm_seeds(open_run)


def test_an_interrupted_round_continues(open_run, tmp_path, monkeypatch):
    arguments, started = ["--margin", "10", "--most-seeds", "6"], []
    original = execution.execute

    def execute(job):
        started.append(job.key)
        if len(started) == 13:
            raise KeyboardInterrupt
        return original(job)

    monkeypatch.setattr("sweeps.sweep.execute", execute)
    assert sweep(tmp_path, *arguments) == 130
    assert sweep(tmp_path, *arguments) == 0
    assert len(started) == len(set(started)) + 1, "only the interrupted trial begins twice"
    assert looks(tmp_path) == looks(open_run)


def test_a_failed_seed_is_not_tried_again_at_once(tmp_path, monkeypatch, capsys):
    arguments = ["--margin", "60"]
    original = Trial.update

    def update(self):
        if self.config.seed == 2 and self.config.method == "lopt1":
            raise RuntimeError("no luck")
        return original(self)

    monkeypatch.setattr(Trial, "update", update)
    assert sweep(tmp_path, *arguments) == 3
    assert "Not decided yet: the next look is at 3 seeds" in capsys.readouterr().out
    monkeypatch.undo()
    assert sweep(tmp_path, *arguments) == 0
    assert "Decided with 3 seeds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--margin", "9", "--most-seeds", "6"], "cannot be changed afterwards"),
        (["--margin", "10", "--most-seeds", "7"], "cannot be changed afterwards"),
        (["--margin", "10", "--most-seeds", "6", "--seeds", "4"], "cannot be changed afterwards"),
        (["--margin", "10", "--seeds", "2"], "looks for the first time at 3 seeds"),
        (["--margin", "10", "--most-seeds", "2"], "is below the 3 seeds of the first look"),
        (["--margin", "10", "--set", "confirm_seeds=4"], "cannot be changed afterwards"),
        (["--margin", "10", "--set", "margin=0.1"], "--margin and --set margin set the same number"),
        (
            ["--margin", "10", "--seeds", "3", "--set", "confirm_seeds=3"],
            "--seeds and --set confirm_seeds set the same",
        ),
        (["--margin", "100"], "'100' is not a margin"),
        (["--margin", "10", "--set", "reference=lora"], "unknown key"),
        (["--margin", "10", "--set", "max_steps=3"], "--set max_steps is given twice"),
        (["--margin", "10", "--set", "length=4,5"], "cannot be changed any more (cells)"),
        (["--margin", "10", "--set", "learning_rate=0.1:0.2"], "cannot be changed any more (cells)"),
    ],
)
def test_other_looks_than_those_of_the_run_are_refused(open_run, capsys, changes, message):
    assert sweep(open_run, *changes) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error and len(error.strip().splitlines()) == 1


def test_more_search_trials_are_refused_because_they_may_change_a_winner(open_run, capsys):
    arguments = [word.replace("trials=1", "trials=3") for word in SMALL]
    assert main([*arguments, "--out", str(open_run), "--margin", "10"]) == 2
    assert "cannot be changed any more (trials)" in capsys.readouterr().err


def test_a_run_keeps_its_looks_without_their_options(open_run, capsys):
    assert sweep(open_run, "--margin", "10") == 0, "the most seeds are those that the run began with"
    assert main([*SMALL[:-1], "--out", str(open_run)]) == 2
    assert "give --until-decided again" in capsys.readouterr().err


def test_a_run_with_confirm_trials_cannot_begin_to_look(tmp_path, capsys):
    assert main([*SMALL[:-1], "--out", str(tmp_path)]) == 0
    assert sweep(tmp_path) == 2
    assert "before the first of them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "search", "--until-decided"], "searches their size"),
        (["--space", "smoke", "--most-seeds", "5"], "--most-seeds goes with --until-decided"),
        (["--space", "ablation", "--set", "length=20", "--until-decided", "--set", "rank=1"], None),
    ],
)
def test_what_cannot_be_decided_is_refused_in_one_line(tmp_path, capsys, arguments, message):
    code = main([*arguments, "--out", str(tmp_path), "--dry-run"])
    captured = capsys.readouterr()
    assert code == (2 if message else 0)
    assert (message or "looks") in captured.err + captured.out


def test_the_plan_says_when_it_looks_and_with_what_chance_it_decides(tmp_path, capsys):
    arguments = ["--space", "smoke", "--until-decided", "--margin", "30", "--out", str(tmp_path), "--dry-run"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "  looks      at 3, 5, " in out and "the chance that they end decided is " in out
    assert main([*arguments, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["until_decided"]["looks"][-1] == 20 and plan["most_steps"] > plan["expected_steps"]


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_sweep_on_ray_that_is_killed_and_continues_has_the_looks_of_local_mode(tmp_path):
    arguments = ["--until-decided", "--margin", "10", "--most-seeds", "6", "--set", "trials=1", "--set", "max_steps=2",
                 "--set", "precision=fp64"]  # fmt: skip
    assert main(["--space", "smoke", "--local-mode", *arguments, "--out", str(tmp_path / "local")]) == 0
    on_ray = tmp_path / "ray"
    process = ray_sweeps.start(on_ray, *arguments)
    ray_sweeps.wait_for(lambda: len(ray_sweeps.record_files(on_ray)) >= 13, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    time.sleep(6)  # the Ray of the first command ends by itself
    code, out = ray_sweeps.finish(ray_sweeps.start(on_ray, *arguments))
    assert code == 0, out
    assert looks(on_ray) == looks(tmp_path / "local")
    assert confirm_seeds(on_ray) == confirm_seeds(tmp_path / "local")
