"""Every sampler searches a cell, continues a search, and refuses a cell that it cannot search."""

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


def space_with(sampler, name="smoke", **changes):
    profile = "paper" if name == "smoke" else "demo"
    return settings.with_settings(spaces.load(name, profile), {"sampler": sampler, "trials": "12", **changes})


def search_trials(driver):
    return [trial for trial in driver.trials if trial.phase == "search"]


def rates(driver, cell_index=0):
    cell_name = driver.cell_searches[cell_index].cell.name
    return [trial.config.learning_rate for trial in search_trials(driver) if trial.cell.name == cell_name]


@pytest.mark.parametrize("sampler", ANY_CELL)
def test_every_trial_is_another_point_within_the_ranges(sampler):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        driver = Driver(space_with(sampler), by_rate).run()
    for cell_index in range(3):
        cell_rates = rates(driver, cell_index)
        assert len(set(cell_rates)) == 12 and cell_rates[0] == 0.3, "the space's first point comes first"
        assert all(1e-3 <= rate <= 1.0 for rate in cell_rates)


@pytest.mark.parametrize("sampler", ANY_CELL)
def test_a_continued_search_tries_other_points(sampler):
    space = space_with(sampler, trials="40")
    first = Driver(space, by_rate)
    for _ in range(90):
        first.end(first.start())
    continued = Driver(space, by_rate, finished=first.records.values()).run()
    assert not {trial.config.key for trial in continued.trials} & {trial.config.key for trial in first.trials}
    assert len(rates(first)) + len(rates(continued)) == 40


@pytest.mark.parametrize("sampler", ANY_CELL)
def test_the_free_search_runs_with_methods_that_have_ranges_of_their_own(sampler):
    space = space_with(sampler, "search", backbone="tiny", task="toy", trials="20")
    trials = search_trials(Driver(space, by_rate).run())
    assert len({trial.config.key for trial in trials}) == len(trials) == 20
    assert len({trial.config.method for trial in trials}) >= 4


def test_a_quasi_random_sequence_covers_a_range_more_evenly_than_random_points():
    """The largest gap between 31 rates, on a logarithmic scale, is smaller. An interruption does not change the
    sequence."""

    def largest_gap(sampler):
        driver = Driver(space_with(sampler, trials="32"), by_rate).run()
        return max(np.diff(np.sort([math.log10(rate) for rate in [1e-3, *rates(driver)[1:], 1.0]])))

    assert largest_gap("qmc") < 0.7 * largest_gap("random")
    space = space_with("qmc", trials="32")
    uninterrupted, first = Driver(space, by_rate).run(), Driver(space, by_rate)
    for _ in range(60):
        first.end(first.start())
    continued = Driver(space, by_rate, finished=first.records.values()).run()
    assert sorted([*rates(first), *rates(continued)]) == pytest.approx(sorted(rates(uninterrupted)))


def test_the_quasi_random_sequence_is_optunas(tiny):
    """A study of one range has the same points as Optuna's sampler used directly."""
    (cell, *_) = spaces.load("smoke", "paper").cells
    study = CellStudy(cell, trial_count=9, seed=3, sampler="qmc")
    optuna_study = optuna.create_study(sampler=optuna.samplers.QMCSampler(scramble=True, seed=3))
    optuna_study.add_trial(optuna.trial.create_trial(
        value=0.0, params={"learning_rate": 0.3},
        distributions={"learning_rate": optuna.distributions.FloatDistribution(1e-3, 1.0, log=True)},
    ))  # fmt: skip
    optuna_rates = [optuna_study.ask().suggest_float("learning_rate", 1e-3, 1.0, log=True) for _ in range(8)]
    assert [study.ask().point["learning_rate"] for _ in range(8)] == pytest.approx(optuna_rates)


def space_of_two_ranges(**changes):
    """Return a free search over the rank and the learning rate of LoPT-1 alone."""
    fixed = {"method": "lopt1", "length": "32", "backbone": "tiny", "task": "toy"}
    return settings.with_settings(spaces.load("search", "demo"), {**fixed, **changes})


def test_cma_es_searches_two_ranges_and_comes_nearer_to_the_best_point_than_random_points():
    def outcome(trial):
        distance = (math.log10(trial.config.learning_rate) + 2) ** 2 + (math.log2(trial.config.rank) - 3) ** 2
        return "complete", 1 / (1 + distance)

    means = {}
    for sampler in ("cma_es", "random"):
        driver = Driver(space_of_two_ranges(sampler=sampler, trials="60"), outcome).run()
        means[sampler] = np.mean([outcome(trial)[1] for trial in search_trials(driver)[-20:]])
    assert means["cma_es"] > means["random"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--space", "smoke", "--set", "sampler=cma_es"], ["two ranges", "searches only one range", "as tpe"]),
        (["--space", "search", "--set", "sampler=cma_es"], ["method", "two ranges or more"]),
        (["--space", "smoke", "--set", "sampler=bayes"], ["unknown sampler 'bayes'", "cma_es, qmc, random, tpe"]),
        (["--space", "smoke", "--set", "stopping=halving"], ["unknown stopping rule", "asha, hyperband, median, none"]),
        (["--space", "smoke", "--track", "wand"], ["unknown tracker 'wand'", "events"]),
    ],
)
def test_samplers_rules_and_trackers_that_do_not_fit_are_refused_before_anything_runs(arguments, words):
    refused(main, *arguments, "--dry-run", words=words)


def test_cma_es_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'lopt-sweep\[cma-es\]'"):
        samplers.get("cma_es").check(space_of_two_ranges().cells[0])


@pytest.mark.parametrize("rule", ["hyperband", "median", "none"])
def test_a_sweep_runs_with_another_sampler_and_another_stopping_rule(tmp_path, capsys, rule):
    """The plan names both. The run continues with another sampler, but not with another stopping rule, because its
    trials would not be comparable."""
    command = ["--space", "smoke", "--local-mode", "--out", str(tmp_path), "--set", f"stopping={rule}"]
    assert main([*command, "--set", "sampler=qmc", "--track", "events", "--track", "events"]) == 0
    out = capsys.readouterr().out
    assert {"hyperband": "Hyperband in each", "median": "median rule in each", "none": "none: every"}[rule] in out
    assert "  sampler    qmc\n" in out
    records = Store(tmp_path, "smoke-paper").records()
    assert len(records) == 12
    assert rule != "none" or {record.status for record in records} == {"complete"}
    events = [json.loads(line) for line in (tmp_path / "smoke-paper" / "events.jsonl").read_text().splitlines()]
    statuses = {event["key"]: event["status"] for event in events if event["event"] == "ended"}
    assert statuses == {record.key: record.status for record in records}
    assert [event["event"] for event in events].count("started") == 12
    assert main([*command, "--set", "sampler=random", "--set", "trials=4"]) == 0
    assert main([*command[:-1], "stopping=asha"]) == 2
    assert "stopping" in capsys.readouterr().err


def test_a_tracker_that_raises_is_named_once_and_the_sweep_goes_on(tmp_path, capsys, monkeypatch):
    from sweeps.trackers.events import Events

    def fail(self, *arguments, **details):
        raise OSError("no space left on device")

    monkeypatch.setattr(Events, "_write", fail)
    assert main(["--space", "smoke", "--local-mode", "--out", str(tmp_path), "--track", "events"]) == 0
    message = "tracker 'events' failed; the sweep continues without it: OSError: no space left on device"
    assert capsys.readouterr().err.count(message) == 1


class _ClosedTracker(Listener):
    """A tracker that records how often it is closed."""

    name = "closing"
    closed: ClassVar = []

    def __init__(self, store, space):
        pass

    def close(self):
        self.closed.append(True)


@pytest.mark.parametrize(
    ("options", "code"), [([], 0), (["--max-trials", "2"], 4), (["--set", "task=nowhere/at-all"], 2), ("Ctrl-C", 130)]
)
def test_a_tracker_is_closed_once_however_the_command_ends(tmp_path, monkeypatch, options, code):
    monkeypatch.setattr(trackers, "get", lambda name: _ClosedTracker)
    monkeypatch.setattr(_ClosedTracker, "closed", [])
    command = ["--space", "smoke", "--local-mode", "--out", str(tmp_path), "--track", "closing"]
    if options == "Ctrl-C":

        def interrupt(self):
            raise KeyboardInterrupt

        monkeypatch.setattr(Trial, "update", interrupt)
        options = []
    assert main([*command, *options]) == code
    assert len(_ClosedTracker.closed) == (code != 2), "a command that has not begun starts no tracker"


def test_the_events_tracker_needs_a_folder(capsys):
    assert main(["--space", "smoke", "--local-mode", "--out", "memory://events", "--track", "events"]) == 2
    assert "give a folder as --out" in capsys.readouterr().err
