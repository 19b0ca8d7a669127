"""Samplers: every one searches a cell, goes on where it was, and refuses what it cannot search."""

from __future__ import annotations

import json
import math
import warnings
from typing import ClassVar

import numpy as np
import optuna
import pytest

from lopt import registry
from lopt.training import Trial
from sweeps import samplers, spaces, trackers
from sweeps.listener import Listener
from sweeps.planning import settings
from sweeps.results.store import Store
from sweeps.run import main
from sweeps.search.study import CellStudy
from tests.bad_input import refused
from tests.sweeps.driver import Driver, by_rate

ANY_CELL = [name for name in registry.names("sweeps.samplers") if name != "cma_es"]
SMOKE = {"trials": "12"}


def swept(sampler, name="smoke", **chosen):
    profile = "paper" if name == "smoke" else "demo"
    return settings.with_settings(spaces.load(name, profile), {"sampler": sampler, **SMOKE, **chosen})


def rates(driver, cell=0):
    trials = [t for t in driver.trials if t.phase == "search"]
    return [t.config.learning_rate for t in trials if t.cell.name == driver.cells[cell].cell.name]


@pytest.mark.parametrize("sampler", ANY_CELL)
def test_every_trial_is_another_point_within_the_ranges(sampler):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        driver = Driver(swept(sampler), by_rate).run()
    for number in range(3):
        tried = rates(driver, number)
        assert len(set(tried)) == 12 and tried[0] == 0.3, "the space's first point comes first"
        assert all(1e-3 <= rate <= 1.0 for rate in tried)


@pytest.mark.parametrize("sampler", ANY_CELL)
def test_a_search_that_is_continued_tries_other_points(sampler):
    space = swept(sampler, trials="40")
    first = Driver(space, by_rate)
    for _ in range(90):
        first.end(first.start())
    again = Driver(space, by_rate, finished=first.records.values()).run()
    assert not {t.config.key for t in again.trials} & {t.config.key for t in first.trials}
    assert len(rates(first)) + len(rates(again)) == 40


@pytest.mark.parametrize("sampler", ANY_CELL)
def test_the_free_search_runs_with_methods_of_their_own_ranges(sampler):
    space = swept(sampler, "search", backbone="tiny", task="toy", trials="20")
    driver = Driver(space, by_rate).run()
    searched = [t for t in driver.trials if t.phase == "search"]
    assert len({t.config.key for t in searched}) == len(searched) == 20
    assert len({t.config.method for t in searched}) >= 4


def test_a_quasi_random_sequence_covers_a_range_more_evenly_than_chance():
    """The largest gap between 31 rates on the logarithmic scale; the same sequence whether it is interrupted or not."""

    def largest_gap(sampler):
        driver = Driver(swept(sampler, trials="32"), by_rate).run()
        return max(np.diff(np.sort([math.log10(rate) for rate in [1e-3, *rates(driver)[1:], 1.0]])))

    assert largest_gap("qmc") < 0.7 * largest_gap("random")
    space = swept("qmc", trials="32")
    whole, first = Driver(space, by_rate).run(), Driver(space, by_rate)
    for _ in range(60):
        first.end(first.start())
    again = Driver(space, by_rate, finished=first.records.values()).run()
    assert sorted([*rates(first), *rates(again)]) == pytest.approx(sorted(rates(whole)))


def test_optunas_own_sequence_is_taken(tiny):
    """The points of a study of one range are those of Optuna's sampler, asked in the plain way."""
    (cell, *_) = spaces.load("smoke", "paper").cells
    ours = CellStudy(cell, trials=9, seed=3, sampler="qmc")
    plain = optuna.create_study(sampler=optuna.samplers.QMCSampler(scramble=True, seed=3))
    plain.add_trial(optuna.trial.create_trial(
        value=0.0, params={"learning_rate": 0.3},
        distributions={"learning_rate": optuna.distributions.FloatDistribution(1e-3, 1.0, log=True)},
    ))  # fmt: skip
    theirs = [plain.ask().suggest_float("learning_rate", 1e-3, 1.0, log=True) for _ in range(8)]
    assert [ours.ask().point["learning_rate"] for _ in range(8)] == pytest.approx(theirs)


def two_numbers(**chosen):
    """The free search over LoPT-1's rank and learning rate alone."""
    fixed = {"method": "lopt1", "length": "32", "backbone": "tiny", "task": "toy"}
    return settings.with_settings(spaces.load("search", "demo"), {**fixed, **chosen})


def test_cma_es_searches_two_numbers_and_comes_nearer_to_the_best_than_chance():
    def near(trial):
        distance = (math.log10(trial.config.learning_rate) + 2) ** 2 + (math.log2(trial.config.rank) - 3) ** 2
        return "complete", 1 / (1 + distance)

    means = {}
    for sampler in ("cma_es", "random"):
        driver = Driver(two_numbers(sampler=sampler, trials="60"), near).run()
        last = [t for t in driver.trials if t.phase == "search"][-20:]
        means[sampler] = np.mean([near(trial)[1] for trial in last])
    assert means["cma_es"] > means["random"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--space", "smoke", "--set", "sampler=cma_es"], ["two ranges or more", "searches 1", "such as tpe"]),
        (["--space", "search", "--set", "sampler=cma_es"], ["method", "two ranges or more"]),
        (["--space", "smoke", "--set", "sampler=bayes"], ["unknown sampler 'bayes'", "cma_es, qmc, random, tpe"]),
        (["--space", "smoke", "--set", "stopping=halving"], ["unknown stopping rule", "asha, hyperband, median, none"]),
        (["--space", "smoke", "--track", "wand"], ["unknown tracker 'wand'", "events"]),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(arguments, words):
    refused(main, *arguments, "--dry-run", words=words)


def test_cma_es_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'lopt-sweep\[cma-es\]'"):
        samplers.get("cma_es").check(two_numbers().cells[0])


@pytest.mark.parametrize("rule", ["hyperband", "median", "none"])
def test_a_sweep_with_another_sampler_and_rule(tmp_path, capsys, rule):
    """It says so, continues with another sampler, and refuses another rule, under which trials would not compare."""
    command = ["--space", "smoke", "--local-mode", "--out", str(tmp_path), "--set", f"stopping={rule}"]
    assert main([*command, "--set", "sampler=qmc", "--track", "events", "--track", "events"]) == 0
    out = capsys.readouterr().out
    assert {"hyperband": "Hyperband in each", "median": "median rule in each", "none": "none: every"}[rule] in out
    assert "  sampler    qmc\n" in out
    records = Store(tmp_path, "smoke-paper").records()
    assert len(records) == 12
    assert rule != "none" or {record.status for record in records} == {"complete"}
    lines = [json.loads(line) for line in (tmp_path / "smoke-paper" / "events.jsonl").read_text().splitlines()]
    ended = {line["key"]: line["status"] for line in lines if line["event"] == "ended"}
    assert ended == {record.key: record.status for record in records}
    assert [line["event"] for line in lines].count("started") == 12
    assert main([*command, "--set", "sampler=random", "--set", "trials=4"]) == 0
    assert main([*command[:-1], "stopping=asha"]) == 2
    assert "stopping" in capsys.readouterr().err


def test_a_tracker_that_raises_is_named_once_and_the_sweep_goes_on(tmp_path, capsys, monkeypatch):
    from sweeps.trackers.events import Events

    def full(self, *arguments, **more):
        raise OSError("no space left on device")

    monkeypatch.setattr(Events, "_write", full)
    assert main(["--space", "smoke", "--local-mode", "--out", str(tmp_path), "--track", "events"]) == 0
    assert capsys.readouterr().err.count("tracker events failed and is left: OSError: no space left on device") == 1


class _Closing(Listener):
    """Counts how often it is closed."""

    name = "closing"
    closed: ClassVar = []

    def __init__(self, store, space):
        pass

    def close(self):
        self.closed.append(True)


@pytest.mark.parametrize(
    ("more", "code"), [([], 0), (["--max-trials", "2"], 4), (["--set", "task=nowhere/at-all"], 2), ("Ctrl-C", 130)]
)
def test_a_tracker_is_closed_once_however_the_command_ends(tmp_path, monkeypatch, more, code):
    monkeypatch.setattr(trackers, "get", lambda name: _Closing)
    monkeypatch.setattr(_Closing, "closed", [])
    command = ["--space", "smoke", "--local-mode", "--out", str(tmp_path), "--track", "closing"]
    if more == "Ctrl-C":

        def interrupted(self):
            raise KeyboardInterrupt

        monkeypatch.setattr(Trial, "update", interrupted)
        more = []
    assert main([*command, *more]) == code
    assert len(_Closing.closed) == (code != 2), "nothing follows a command that has not begun"


def test_the_events_tracker_wants_a_folder(capsys):
    assert main(["--space", "smoke", "--local-mode", "--out", "memory://events", "--track", "events"]) == 2
    assert "give --out a folder" in capsys.readouterr().err
