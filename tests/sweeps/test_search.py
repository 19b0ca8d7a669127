"""The order of trials, what studies learn from them, and which of them win."""

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
    space = settings.with_settings(spaces.load("smoke", "paper"), {"confirm_seeds": "2"})
    driver = Driver(space, by_rate).run()
    for cell in space.cells:
        trials = [trial for trial in driver.trials if trial.cell.name == cell.name]
        search = [trial for trial in trials if trial.phase == "search"]
        confirm = [trial for trial in trials if trial.phase == "confirm"]
        assert len(search) == 3
        assert search[0].config.learning_rate == 0.3, "the first point comes first"
        assert {trial.config.seed for trial in search} == {0}
        assert [trial.config.seed for trial in confirm] == [1, 2]
        best = max(search, key=lambda trial: by_rate(trial)[1])
        assert {trial.config.learning_rate for trial in confirm} == {best.config.learning_rate}
    assert len({trial.config.key for trial in driver.trials}) == len(driver.trials)


def test_a_continued_sweep_runs_only_the_missing_trials_and_its_studies_know_the_others():
    space = spaces.load("smoke", "paper")
    uninterrupted = Driver(space, by_rate).run()
    for finished_count in (4, 9, 11):
        first = Driver(space, by_rate)
        for _ in range(finished_count):
            first.end(first.start())
        continued = Driver(space, by_rate, finished=first.records.values()).run()
        assert not set(first.records) & {trial.config.key for trial in continued.trials}
        assert len(first.records) + len(continued.trials) == len(uninterrupted.trials) == 12
        for cell_search in continued.cell_searches:
            assert cell_search.study.count_by_state()["complete"] == 3
    complete = Driver(space, by_rate, finished=uninterrupted.records.values())
    assert complete.queue.count_unfinished_trials() == (0, 0)
    assert complete.start() is None
    assert not complete.queue.has_waiting_trial


def test_optuna_is_told_how_each_trial_ends():
    """Its states are those of the records; the early score of a stopped trial is not its result."""
    space = spaces.load("smoke", "paper")
    outcomes = [("complete", 0.6), ("stopped", 0.99), ("diverged", 0.5)]
    numbers = {}

    def outcome(trial):
        numbers[trial.cell.name] = number = numbers.get(trial.cell.name, -1) + 1
        return outcomes[number] if trial.phase == "search" else ("complete", 0.6)

    driver = Driver(space, outcome).run()
    for cell_search in driver.cell_searches:
        assert cell_search.study.count_by_state() == {"complete": 1, "pruned": 1, "fail": 1}
        assert cell_search.study._study.best_value == 0.6
    replayed = Driver(space, outcome, finished=driver.records.values())
    for cell_search in replayed.cell_searches:
        states = {state: count for state, count in cell_search.study.count_by_state().items() if state != "waiting"}
        assert states == {"complete": 1, "pruned": 1, "fail": 1}


def test_a_trial_without_a_record_is_a_failure_and_the_sweep_goes_on():
    driver = Driver(spaces.load("smoke", "paper"), lambda trial: None).run()
    assert len(driver.trials) == 9
    assert all(cell_search.study.count_by_state() == {"fail": 3} for cell_search in driver.cell_searches)


def test_failed_trials_are_tried_again_within_the_same_number():
    space = spaces.load("smoke", "paper")
    first = Driver(space, lambda trial: ("failed", None) if trial.config.learning_rate == 0.3 else by_rate(trial)).run()
    finished = [record for record in first.records.values() if record.status != "failed"]
    failed = [record for record in first.records.values() if record.status == "failed"]
    assert {record.config["learning_rate"] for record in failed} == {0.3}
    assert len(failed) == 3
    continued = Driver(space, by_rate, finished=finished, failed=failed).run()
    search_keys = [trial.config.key for trial in continued.trials if trial.phase == "search"]
    assert sorted(search_keys) == sorted(record.key for record in failed)


def test_a_repeated_point_is_not_run_twice():
    space = settings.with_settings(spaces.load("smoke", "paper"), {"learning_rate": "0.1,0.2", "trials": "6"})
    driver = Driver(space, by_rate).run()
    search = [trial for trial in driver.trials if trial.phase == "search"]
    assert len({trial.config.key for trial in search}) == len(search) == 2 * 3
    assert all(cell_search.is_search_over for cell_search in driver.cell_searches)


def test_a_cell_that_searches_nothing_has_one_trial():
    space = settings.with_settings(spaces.load("smoke", "paper"), {"learning_rate": "0.1"})
    driver = Driver(space, by_rate).run()
    assert [trial.phase for trial in driver.trials].count("search") == 3


def test_many_trials_can_run_at_once_and_confirm_trials_wait_for_the_search_of_their_cell():
    driver = Driver(spaces.load("smoke", "paper"), by_rate)
    running = [driver.start() for _ in range(9)]
    assert all(trial.phase == "search" for trial in running)
    assert driver.start() is None
    for trial in running[0::3]:  # all trials of the first cell
        driver.end(trial)
    confirm_trial = driver.start()
    assert (confirm_trial.phase, confirm_trial.cell.name) == ("confirm", running[0].cell.name)
    assert driver.start() is None


def test_the_free_search_confirms_the_best_of_each_size():
    space = settings.with_settings(spaces.load("search", "demo"), {"trials": "25", "backbone": "tiny", "task": "toy"})
    driver = Driver(space, by_rate).run()
    sizes = {trial.stratum for trial in driver.trials if trial.phase == "search"}
    confirmed = [trial.stratum for trial in driver.trials if trial.phase == "confirm"]
    assert len(sizes) > 2
    assert sorted(confirmed) == sorted(sizes)
    configs = [trial.config for trial in driver.trials]
    assert {config.method for config in configs} == {name for name in methods.names() if methods.get(name).paper_size}
    assert all((config.rank is None) != methods.get(config.method).uses_rank for config in configs)
    assert all((config.length is None) != methods.get(config.method).uses_length for config in configs)


def test_the_free_search_tries_the_papers_settings_first_and_keeps_each_method_in_its_own_ranges():
    space = settings.with_settings(spaces.load("search", "demo"), {"trials": "40", "backbone": "tiny", "task": "toy"})
    driver = Driver(space, by_rate).run()
    configs = [trial.config for trial in driver.trials if trial.phase == "search"]
    first = {config.method: config for config in configs[:6]}
    assert (first["lopt1"].length, first["lopt1"].rank, first["lopt1"].learning_rate) == (20, 5, 0.3)
    assert (first["ulpt"].rank, first["ulpt"].learning_rate) == (16, 0.6)
    assert (first["dept"].rank, first["dept"].options["update_learning_rate"]) == (45, 5e-4)
    assert (first["lora"].rank, first["lora"].learning_rate) == (8, 5e-4)
    for config in configs:
        learning_rates = methods.get(config.method).ranges["learning_rate"]
        assert learning_rates.low <= config.learning_rate <= learning_rates.high
    (cell_search,) = driver.cell_searches
    assert cell_search.study is not None
    for trial in cell_search.study._study.get_trials():
        method = trial.params["method"]
        assert {name.partition(".")[0] for name in trial.params} == {"method", method}, "no name of another method"


def test_a_sampler_that_proposes_only_known_points_does_not_end_the_search():
    """The best method has only one point, so TPE proposes that point again and again."""
    changes = {"method": "lopt1,fine_tuning", "fine_tuning.learning_rate": "0.001", "trials": "60"}
    space = settings.with_settings(spaces.load("search", "demo"), {**changes, "backbone": "tiny", "task": "toy"})

    def outcome(trial):
        return ("complete", 0.99 if trial.config.method == "fine_tuning" else 0.5)

    driver = Driver(space, outcome).run()
    tried_methods = [trial.config.method for trial in driver.trials if trial.phase == "search"]
    assert len(tried_methods) == 60
    assert tried_methods.count("fine_tuning") == 1


def test_replayed_trials_of_the_free_search_have_the_points_that_were_proposed():
    space = settings.with_settings(spaces.load("search", "demo"), {"trials": "12", "backbone": "tiny", "task": "toy"})
    driver = Driver(space, by_rate).run()
    continued = Driver(space, by_rate, finished=driver.records.values())
    (continued_search,), (cell_search,) = continued.cell_searches, driver.cell_searches
    replayed, proposed = continued_search.study._study.get_trials(), cell_search.study._study.get_trials()
    assert {tuple(sorted(trial.params.items())) for trial in replayed} >= {
        tuple(sorted(_with_cut_rank(trial.params).items())) for trial in proposed
    }


def _with_cut_rank(params):
    """Return the point with its rank cut to its length, as a trial trains it."""
    method = params["method"]
    if method not in ("lopt1", "lopt2"):
        return params
    return {**params, f"{method}.rank": min(params[f"{method}.rank"], params[f"{method}.length"])}


def test_the_winner_has_the_best_held_out_accuracy_of_the_complete_trials(tiny):
    def record_at(rate, *outcome):
        return make_record(tiny.replace(learning_rate=rate), *outcome)

    worse, better = record_at(0.1, "complete", 0.7), record_at(0.2, "complete", 0.8)
    stopped, diverged = record_at(0.3, "stopped", 0.99), record_at(0.4, "diverged", 0.99)
    assert winner([worse, better, stopped, diverged]) == better
    assert winner([stopped, diverged]) == stopped
    assert winner([diverged]) is None
    with_lower_loss = make_record(tiny.replace(learning_rate=0.5), "complete", 0.8, loss=0.1)
    assert winner([better, with_lower_loss]) == with_lower_loss, "among equal accuracies the lowest loss decides"


def test_a_stopped_trial_is_confirmed_if_no_trial_is_complete():
    driver = Driver(
        spaces.load("smoke", "paper"), lambda trial: ("stopped" if trial.phase == "search" else "complete", 0.5)
    )
    confirmed = [trial.cell.name for trial in driver.run().trials if trial.phase == "confirm"]
    assert len(confirmed) == 3


def test_the_steps_that_are_left_include_interrupted_trials():
    space = spaces.load("smoke", "paper")
    first = Driver(space, by_rate)
    interrupted = [(trial.config, trial.cell.name) for trial in (first.start() for _ in range(3))]
    assert Driver(space, by_rate, interrupted=interrupted).queue.steps_left({}) == first.queue.steps_left({})


def test_a_study_can_be_replayed_and_its_first_points_are_not_run_again(tiny):
    (cell, *_) = spaces.load("smoke", "paper").cells
    study = CellStudy(cell, trial_count=3, seed=0)
    study.replay(make_record(tiny.replace(learning_rate=0.3), cell=cell.name))
    study.enqueue_first_points()
    assert study.ask().point["learning_rate"] != pytest.approx(0.3)
    new_study = CellStudy(cell, trial_count=3, seed=0)
    new_study.enqueue_first_points()
    assert new_study.ask().point["learning_rate"] == 0.3


def test_an_interrupted_trial_comes_first_and_its_study_knows_it():
    """Otherwise its checkpoint would be lost, because a sampler that has learned more proposes other points."""
    space = settings.with_settings(spaces.load("smoke", "paper"), {"trials": "14"})
    first = Driver(space, by_rate)
    for _ in range(36):
        first.end(first.start())
    interrupted = first.start()
    continued = Driver(
        space,
        by_rate,
        finished=first.records.values(),
        interrupted=[(interrupted.config, interrupted.cell.name)],
    )
    resumed = continued.start()
    assert resumed.config == interrupted.config
    (cell_search,) = [search for search in continued.cell_searches if search.cell.name == interrupted.cell.name]
    assert cell_search.study.count_by_state()["running"] == 1
    continued.end(resumed)
    continued.run()
    assert len(continued.records) == 36 + len(continued.trials) == 14 * 3 + 3
    for cell_search in continued.cell_searches:
        states = cell_search.study.count_by_state()
        assert (states["complete"], states.get("running", 0)) == (14, 0)


def test_a_first_point_whose_trial_was_interrupted_is_not_proposed_twice():
    space = spaces.load("smoke", "paper")
    interrupted = Driver(space, by_rate).start()
    driver = Driver(space, by_rate, interrupted=[(interrupted.config, interrupted.cell.name)]).run()
    assert len({trial.config.key for trial in driver.trials}) == len(driver.trials) == 12
    for cell_search in driver.cell_searches:
        assert cell_search.study.count_by_state()["complete"] == 3


def test_the_winner_and_the_study_go_by_the_cells_metric():
    """In a cell with the metric macro-F1, accuracy decides neither the winner nor what the study learns."""
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
    accuracy_records = [
        make_record(config.replace(metric="accuracy"), accuracy=accuracy, macro_f1=macro_f1)
        for config, (accuracy, macro_f1) in zip(configs, scores, strict=True)
    ]
    assert winner(accuracy_records) == accuracy_records[0]
    study = CellStudy(cell, trial_count=3, seed=0)
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
    message = "`metric` must be the same for all trials of a cell; set it in `fixed` or `base`"
    with pytest.raises(ValueError, match=message):
        check_space(dataclasses.replace(smoke, grid=lambda axes: cells))
