"""Which trial runs next: studies and winners."""

from __future__ import annotations

import dataclasses

import pytest

from lopt import methods
from lopt.ranges import Choice
from sweeps import spaces
from sweeps.planning import settings
from sweeps.planning.check_space import check_space
from sweeps.search.study import CellStudy
from sweeps.search.winners import winner
from tests.sweeps.driver import Driver, by_rate
from tests.sweeps.records import make_record


def test_every_cell_gets_its_equal_number_of_trials_then_its_winner_is_confirmed():
    made = settings.with_seeds(spaces.load("smoke", "paper"), 2)
    driver = Driver(made, by_rate).run()
    for cell in made.cells:
        search = [j for j in driver.trials if j.cell.name == cell.name and j.phase == "search"]
        confirm = [j for j in driver.trials if j.cell.name == cell.name and j.phase == "confirm"]
        assert len(search) == 3
        assert search[0].config.learning_rate == 0.3, "the first point comes first"
        assert {j.config.seed for j in search} == {0}
        assert [j.config.seed for j in confirm] == [1, 2]
        best = max(search, key=lambda j: by_rate(j)[1])
        assert {j.config.learning_rate for j in confirm} == {best.config.learning_rate}
    assert len({j.config.key for j in driver.trials}) == len(driver.trials)


def test_a_continued_sweep_runs_only_what_is_missing_and_knows_what_was_learned():
    made = spaces.load("smoke", "paper")
    whole = Driver(made, by_rate).run()
    for kept in (4, 9, 11):
        first = Driver(made, by_rate)
        for _ in range(kept):
            first.end(first.start())
        again = Driver(made, by_rate, finished=first.records.values()).run()
        assert not set(first.records) & {j.config.key for j in again.trials}
        assert len(first.records) + len(again.trials) == len(whole.trials) == 12
        for state in again.cells:
            assert state.study.states()["complete"] == 3
    finished = Driver(made, by_rate, finished=whole.records.values())
    assert finished.queue.counts() == (0, 0)
    assert finished.start() is None
    assert not finished.queue.waits


def test_optuna_is_told_what_happened():
    """Complete, pruned and failed exactly as the store says; a stopped trial's early value is no result."""
    made = spaces.load("smoke", "paper")
    ends = {0: ("complete", 0.6), 1: ("stopped", 0.99), 2: ("diverged", 0.5)}
    seen = {}

    def outcome(job):
        seen[job.cell.name] = number = seen.get(job.cell.name, -1) + 1
        return ends[number] if job.phase == "search" else ("complete", 0.6)

    driver = Driver(made, outcome).run()
    for state in driver.cells:
        assert state.study.states() == {"complete": 1, "pruned": 1, "fail": 1}
        assert state.study._study.best_value == 0.6
    replayed = Driver(made, outcome, finished=driver.records.values())
    for state in replayed.cells:
        counted = {n: c for n, c in state.study.states().items() if n != "waiting"}
        assert counted == {"complete": 1, "pruned": 1, "fail": 1}


def test_a_trial_that_left_nothing_is_a_failure_and_the_sweep_goes_on():
    driver = Driver(spaces.load("smoke", "paper"), lambda job: None).run()
    assert len(driver.trials) == 9
    assert all(state.study.states() == {"fail": 3} for state in driver.cells)


def test_failed_trials_are_tried_again_within_the_same_number():
    made = spaces.load("smoke", "paper")
    first = Driver(made, lambda job: ("failed", None) if job.config.learning_rate == 0.3 else by_rate(job)).run()
    finished = [r for r in first.records.values() if r.status != "failed"]
    failed = [r for r in first.records.values() if r.status == "failed"]
    assert {r.config["learning_rate"] for r in failed} == {0.3}
    assert len(failed) == 3
    again = Driver(made, by_rate, finished=finished, failed=failed).run()
    assert sorted(j.config.key for j in again.trials if j.phase == "search") == sorted(r.key for r in failed)


def test_a_repeated_point_is_not_run_twice():
    made = settings.with_settings(spaces.load("smoke", "paper"), {"learning_rate": "0.1,0.2", "trials": "6"})
    driver = Driver(made, by_rate).run()
    search = [j for j in driver.trials if j.phase == "search"]
    assert len({j.config.key for j in search}) == len(search) == 2 * 3
    assert all(state.searched for state in driver.cells)


def test_without_anything_to_search_a_cell_has_one_trial():
    made = settings.with_settings(spaces.load("smoke", "paper"), {"learning_rate": "0.1"})
    driver = Driver(made, by_rate).run()
    assert [j.phase for j in driver.trials].count("search") == 3


def test_many_trials_can_be_pending_and_confirmation_waits_for_its_cell():
    driver = Driver(spaces.load("smoke", "paper"), by_rate)
    pending = [driver.start() for _ in range(9)]
    assert all(job.phase == "search" for job in pending)
    assert driver.start() is None
    for job in pending[0::3]:  # the whole first cell
        driver.end(job)
    job = driver.start()
    assert (job.phase, job.cell.name) == ("confirm", pending[0].cell.name)
    assert driver.start() is None


def test_the_free_search_confirms_the_best_of_each_size():
    made = settings.with_settings(spaces.load("search", "demo"), {"trials": "25", "backbone": "tiny", "task": "toy"})
    driver = Driver(made, by_rate).run()
    sizes = {j.stratum for j in driver.trials if j.phase == "search"}
    confirmed = [j.stratum for j in driver.trials if j.phase == "confirm"]
    assert len(sizes) > 2
    assert sorted(confirmed) == sorted(sizes)
    configs = [j.config for j in driver.trials]
    assert {c.method for c in configs} == {name for name in methods.names() if methods.get(name).paper}
    assert all((c.rank is None) != methods.get(c.method).uses_rank for c in configs)
    assert all((c.length is None) != methods.get(c.method).uses_length for c in configs)


def test_the_free_search_tries_the_papers_settings_first_and_keeps_each_method_in_its_own_ranges():
    made = settings.with_settings(spaces.load("search", "demo"), {"trials": "40", "backbone": "tiny", "task": "toy"})
    driver = Driver(made, by_rate).run()
    configs = [j.config for j in driver.trials if j.phase == "search"]
    first = {c.method: c for c in configs[:6]}
    assert (first["lopt1"].length, first["lopt1"].rank, first["lopt1"].learning_rate) == (20, 5, 0.3)
    assert (first["ulpt"].rank, first["ulpt"].learning_rate) == (16, 0.6)
    assert (first["dept"].rank, first["dept"].options["update_learning_rate"]) == (45, 5e-4)
    assert (first["lora"].rank, first["lora"].learning_rate) == (8, 5e-4)
    for config in configs:
        ranges = methods.get(config.method).ranges
        rate = ranges["learning_rate"]
        assert rate.low <= config.learning_rate <= rate.high
    (cell,) = driver.cells
    assert cell.study is not None
    for trial in cell.study._study.get_trials():
        method = trial.params["method"]
        assert {n.partition(".")[0] for n in trial.params} == {"method", method}, "no parameter of another method"


def test_a_sampler_that_keeps_to_known_points_does_not_end_the_search():
    """A method whose points are all alike, and best: TPE proposes it again and again."""
    chosen = {"method": "lopt1,fine_tuning", "fine_tuning.learning_rate": "0.001", "trials": "60"}
    made = settings.with_settings(spaces.load("search", "demo"), {**chosen, "backbone": "tiny", "task": "toy"})

    def outcome(job):
        return ("complete", 0.99 if job.config.method == "fine_tuning" else 0.5)

    driver = Driver(made, outcome).run()
    searched = [j.config.method for j in driver.trials if j.phase == "search"]
    assert len(searched) == 60
    assert searched.count("fine_tuning") == 1


def test_replayed_trials_of_the_free_search_are_those_that_were_asked():
    made = settings.with_settings(spaces.load("search", "demo"), {"trials": "12", "backbone": "tiny", "task": "toy"})
    driver = Driver(made, by_rate).run()
    again = Driver(made, by_rate, finished=driver.records.values())
    (cell,), (before,) = again.cells, driver.cells
    assert {tuple(sorted(t.params.items())) for t in cell.study._study.get_trials()} >= {
        tuple(sorted({**t.params, **_clipped(t.params)}.items())) for t in before.study._study.get_trials()
    }


def _clipped(params):
    """A rank above the length was trained as the length."""
    method = params["method"]
    if method not in ("lopt1", "lopt2"):
        return {}
    return {f"{method}.rank": min(params[f"{method}.rank"], params[f"{method}.length"])}


def test_the_winner_has_the_best_held_out_accuracy_of_the_complete_trials(tiny):
    def record(rate, *outcome):
        return make_record(tiny.replace(learning_rate=rate), *outcome)

    low, high = record(0.1, "complete", 0.7), record(0.2, "complete", 0.8)
    stopped, diverged = record(0.3, "stopped", 0.99), record(0.4, "diverged", 0.99)
    assert winner([low, high, stopped, diverged]) == high
    assert winner([stopped, diverged]) == stopped
    assert winner([diverged]) is None
    tied = make_record(tiny.replace(learning_rate=0.5), "complete", 0.8, loss=0.1)
    assert winner([high, tied]) == tied, "equal accuracy: the lower loss"


def test_a_stopped_trial_is_confirmed_where_none_has_completed():
    driver = Driver(
        spaces.load("smoke", "paper"), lambda trial: ("stopped" if trial.phase == "search" else "complete", 0.5)
    )
    confirmed = [trial.cell.name for trial in driver.run().trials if trial.phase == "confirm"]
    assert len(confirmed) == 3


def test_trials_that_wait_to_go_on_count_among_the_steps_that_are_left():
    space = spaces.load("smoke", "paper")
    fresh = Driver(space, by_rate)
    waiting = [(trial.config, trial.cell.name) for trial in (fresh.start() for _ in range(3))]
    assert Driver(space, by_rate, interrupted=waiting).queue.steps_left({}) == fresh.queue.steps_left({})


def test_a_study_can_be_replayed_and_its_first_points_are_not_run_again(tiny):
    (cell, *_) = spaces.load("smoke", "paper").cells
    study = CellStudy(cell, trials=3, seed=0)
    study.replay(make_record(tiny.replace(learning_rate=0.3), cell=cell.name))
    study.enqueue_first()
    assert study.ask().point["learning_rate"] != pytest.approx(0.3)
    fresh = CellStudy(cell, trials=3, seed=0)
    fresh.enqueue_first()
    assert fresh.ask().point["learning_rate"] == 0.3


def test_a_trial_that_was_cut_off_comes_first_and_its_study_knows_it():
    """Its checkpoint would be lost with it: a sampler that has learned more proposes other points."""
    made = settings.with_settings(spaces.load("smoke", "paper"), {"trials": "14"})
    first = Driver(made, by_rate)
    for _ in range(36):
        first.end(first.start())
    cut_off = first.start()
    config = cut_off.config
    again = Driver(made, by_rate, finished=first.records.values(), interrupted=[(config, cut_off.cell.name)])
    resumed = again.start()
    assert resumed.config == cut_off.config
    (state,) = [s for s in again.cells if s.cell.name == cut_off.cell.name]
    assert state.study.states()["running"] == 1
    again.end(resumed)
    again.run()
    assert len(again.records) == 36 + len(again.trials) == 14 * 3 + 3
    for state in again.cells:
        states = state.study.states()
        assert (states["complete"], states.get("running", 0)) == (14, 0)


def test_a_first_point_that_was_cut_off_is_not_proposed_twice():
    made = spaces.load("smoke", "paper")
    jobs = [Driver(made, by_rate).start()]
    interrupted = [(job.config, job.cell.name) for job in jobs]
    driver = Driver(made, by_rate, interrupted=interrupted).run()
    assert len({j.config.key for j in driver.trials}) == len(driver.trials) == 12
    for state in driver.cells:
        assert state.study.states()["complete"] == 3


def test_what_selects_is_the_metric():
    """Of a cell that is selected on macro-F1 neither the winner nor what the search learns is a matter of accuracy."""
    smoke = settings.with_settings(spaces.load("smoke", "paper"), {"metric": "macro_f1"})
    cell = smoke.cells[0]
    configs = [smoke.config(cell, {"learning_rate": rate}, seed=0) for rate in (0.1, 0.2, 0.3)]
    scores = [(0.9, 0.5), (0.8, 0.7), (0.85, 0.6)]
    records = [
        make_record(config, accuracy=accuracy, macro_f1=macro_f1, cell=cell.name)
        for config, (accuracy, macro_f1) in zip(configs, scores, strict=True)
    ]
    assert [record.selection_score for record in records] == [0.5, 0.7, 0.6]
    assert winner(records) == records[1]
    by_accuracy = [make_record(r.replace(metric="accuracy"), accuracy=a, macro_f1=f) for r, (a, f) in
                   zip(configs, scores, strict=True)]  # fmt: skip
    assert winner(by_accuracy) == by_accuracy[0]
    study = CellStudy(cell, trials=3, seed=0)
    for record in records:
        study.replay(record)
    trials = study._study.get_trials(deepcopy=False)
    assert [trial.value for trial in trials] == [0.5, 0.7, 0.6]
    assert [set(trial.intermediate_values.values()) for trial in trials] == [{0.5}, {0.7}, {0.6}]


def test_a_metric_cannot_be_searched():
    smoke = spaces.load("smoke", "paper")
    with pytest.raises(ValueError, match=r"metric takes one value in space smoke, not 'accuracy,macro_f1'"):
        settings.with_settings(smoke, {"metric": "accuracy,macro_f1"})
    cells = tuple(
        dataclasses.replace(cell, search={**cell.search, "metric": Choice(("accuracy", "macro_f1"))})
        for cell in smoke.cells
    )
    with pytest.raises(ValueError, match="metric is the same for all trials of a cell; give it in fixed or base"):
        check_space(dataclasses.replace(smoke, grid=lambda axes: cells))
