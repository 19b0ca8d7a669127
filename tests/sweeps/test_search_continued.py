"""A search that is continued with more values or trials runs the new trials, and no trial twice."""

from __future__ import annotations

import dataclasses
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopt.ranges import Choice, Real, Whole
from sweeps import spaces
from sweeps.planning import settings
from sweeps.planning.plan import make_plan
from sweeps.planning.points import all_points, search_trial_count
from sweeps.results.store import Store
from sweeps.run import main
from sweeps.search.earlier_work import divide_by_fit
from tests.bad_input import fixed
from tests.sweeps.driver import Driver, by_rate

TWO, FOUR = "0.1,0.3", "0.05,0.1,0.3,0.5"


def run_commands(commands, outcome=by_rate, name="smoke", profile="paper"):
    """Run commands, given by their settings, one after another on one run; return the driver of each command."""
    records, drivers = {}, []
    for changes in commands:
        space = settings.with_settings(spaces.load(name, profile), changes)
        driver = continue_run(space, records, outcome)
        records |= driver.records
        drivers.append(driver)
    return drivers


def continue_run(space, records, outcome):
    """Run a sweep that continues from the records of earlier commands."""
    finished, _ = divide_by_fit(space, [record for record in records.values() if record.status != "failed"])
    failed, _ = divide_by_fit(space, [record for record in records.values() if record.status == "failed"])
    driver = Driver(space, outcome, finished=finished, failed=failed).run()
    keys = [trial.config.key for trial in driver.trials]
    assert len(set(keys)) == len(keys), "no trial runs twice"
    assert not set(keys) & {record.key for record in finished}, "no finished trial runs again"
    return driver


def rates(driver, cell="lopt1 n=4 r=2", phase="search"):
    trials = [trial for trial in driver.trials if (trial.cell.name, trial.phase) == (cell, phase)]
    return sorted(trial.config.learning_rate for trial in trials)


def search_trials(driver):
    return [trial for trial in driver.trials if trial.phase == "search"]


@pytest.mark.parametrize(
    ("commands", "values_tried"),
    [
        pytest.param(
            [{"learning_rate": FOUR, "trials": "2"}, {"learning_rate": FOUR, "trials": "4"}], [2, 4], id="more trials"
        ),
        pytest.param([{"learning_rate": TWO}, {"learning_rate": "0.1,0.3,1.0"}], [2, 3], id="another value"),
        pytest.param(
            [{"learning_rate": FOUR, "trials": "2"}, {"learning_rate": "0.2,0.4", "trials": "4"}],
            [2, 2],
            id="other values",
        ),
        pytest.param(
            [{"learning_rate": FOUR, "trials": "4"}, {"learning_rate": FOUR, "trials": "2"}], [4, 4], id="fewer trials"
        ),
        pytest.param(
            [{"learning_rate": FOUR, "trials": trials} for trials in ("1", "2", "9", "3")],
            [1, 2, 4, 4],
            id="more, then fewer",
        ),
        pytest.param([{"learning_rate": "0.1"}, {"learning_rate": FOUR, "trials": "9"}], [1, 4], id="one, then a list"),
        pytest.param(
            [{"learning_rate": TWO}, {"learning_rate": "0.1:0.5", "trials": "5"}], [2, 5], id="a list, then a range"
        ),
        pytest.param(
            [{"learning_rate": "0.1:0.5", "trials": "3"}, {"learning_rate": "0.05:0.5", "trials": "4"}],
            [3, 4],
            id="a wider range",
        ),
        pytest.param([{"learning_rate": TWO}, {"learning_rate": TWO}], [2, 2], id="the same again"),
    ],
)
def test_untried_values_run_whatever_has_been_confirmed(commands, values_tried):
    tried_rates = set()
    for driver, expected in zip(run_commands(commands), values_tried, strict=True):
        (lopt1,) = [search for search in driver.cell_searches if search.cell.name == "lopt1 n=4 r=2"]
        tried_rates |= set(rates(driver))
        if lopt1.study:
            in_range = {rate for rate in tried_rates if rate in lopt1.cell.search["learning_rate"]}
        else:
            in_range = tried_rates
        assert len(in_range) == expected
        assert driver.queue.count_unfinished_trials() == (0, 0)


@pytest.mark.parametrize("status", ["complete", "stopped", "diverged"])
def test_the_winner_of_more_trials_is_confirmed_once(status):
    """`by_rate` has its best score at 0.1, which the first command does not try."""

    def outcome(trial):
        rate_status, accuracy = by_rate(trial)
        return (status if trial.phase == "search" and trial.config.learning_rate == 0.3 else rate_status, accuracy)

    commands = [{"learning_rate": values} for values in ("0.3,1.0", "0.3,1.0,0.1", "1.0,0.1,0.3")]
    first, second, third = run_commands(commands)
    assert rates(first, phase="confirm") == [0.3]
    assert (rates(second), rates(second, phase="confirm")) == ([0.1], [0.1])
    assert not third.trials
    first, second, _ = run_commands(commands, outcome)
    assert (rates(second), rates(second, phase="confirm")) == ([0.1], [0.1])


def test_a_winner_that_stays_the_winner_is_not_confirmed_again():
    _, second = run_commands([{"learning_rate": "0.1,1.0"}, {"learning_rate": "0.1,1.0,0.5"}])
    assert (rates(second), rates(second, phase="confirm")) == ([0.5], [])


def test_a_failed_trial_does_not_take_the_place_of_a_value():
    """TPE may propose the point of a failed trial again."""

    def outcome(trial):
        return ("failed", None) if trial.config.learning_rate == 0.3 else by_rate(trial)

    first, second = run_commands([{"learning_rate": FOUR, "trials": "4"}] * 2, outcome)
    assert rates(first) == [0.05, 0.1, 0.3, 0.5]
    assert (rates(second), rates(second, phase="confirm")) == ([0.3], []), "only the failed trial is tried again"


def test_an_interrupted_trial_goes_on_and_the_other_values_run():
    space = settings.with_settings(spaces.load("smoke", "paper"), {"learning_rate": "0.1,0.3,1.0"})
    cell = space.cells[1]
    config = space.config(cell, {"learning_rate": 1.0}, seed=0)
    (earlier,) = run_commands([{"learning_rate": TWO}])
    driver = Driver(space, by_rate, finished=earlier.records.values(), interrupted=[(config, cell.name)]).run()
    assert (rates(driver), rates(driver, phase="confirm")) == ([1.0], [])


def test_lists_of_several_fields_are_tried_in_every_combination():
    lists = {"learning_rate": "0.1,0.3", "method": "lopt1,prompt_tuning,lora", "length": "4,6", "rank": "1,2"}
    changes = {"backbone": "tiny", "task": "toy", "trials": "50", **lists}
    first, second = run_commands([changes, {**changes, "learning_rate": "0.1,0.3,0.5"}], name="search", profile="demo")
    # LoPT-1 has 2·2·2 trials, prompt tuning 2·2 (it has no rank), LoRA 2·2 (it has no length).
    assert len(search_trials(first)) == 8 + 4 + 4
    assert len(search_trials(second)) == 4 + 2 + 2


def test_a_rank_above_the_length_is_the_same_trial_as_the_length():
    space = settings.with_settings(spaces.load("search", "demo"), {"method": "lopt1", "length": "4,8", "rank": "2,4,8"})
    space = settings.with_settings(space, {"learning_rate": "0.1", "trials": "9"})
    assert len(list(all_points(space.cells[0]))) == 6
    assert search_trial_count(space, space.cells[0]) == 5


def test_a_range_of_whole_numbers_has_finitely_many_points():
    changes = {"method": "lopt1", "length": "8:10", "rank": "1,2", "learning_rate": "0.1", "trials": "20"}
    (driver,) = run_commands([{**changes, "backbone": "tiny", "task": "toy"}], name="search", profile="demo")
    assert len(search_trials(driver)) == 6


def test_the_search_goes_on_with_a_real_range_when_the_other_methods_have_no_points_left():
    """LoPT-1 has a range of learning rates. Each other method has one point, which the sampler prefers."""
    changes = {"method": "lopt1,prompt_tuning,ulpt,dept,lora,fine_tuning", "trials": "40"}
    for name in ("prompt_tuning", "ulpt", "dept", "lora", "fine_tuning"):
        changes[f"{name}.learning_rate"] = "0.01"
        changes |= {f"{name}.rank": "2"} if name in ("ulpt", "dept", "lora") else {}
        changes |= {f"{name}.length": "8"} if name not in ("lora", "fine_tuning") else {}
    changes["dept.update_learning_rate"] = "0.001"

    def outcome(trial):
        return "complete", 0.2 if trial.config.method == "lopt1" else 0.9

    (driver,) = run_commands([{**changes, "backbone": "tiny", "task": "toy"}], outcome, name="search", profile="demo")
    assert len(search_trials(driver)) == 40


rate_lists = st.lists(st.sampled_from([0.05, 0.1, 0.2, 0.3, 0.5, 1.0]), min_size=1, max_size=4, unique=True)


@given(st.lists(st.tuples(rate_lists, st.integers(1, 5), st.sampled_from(["", "0.1", "0.3"])), min_size=1, max_size=4))
@fixed(20)
def test_any_commands_on_a_run_leave_nothing_to_try(commands):
    """Each command has its learning rates, its number of trials in a cell, and a rate at which trials fail."""
    records = {}
    for values, trials, failing_rate in commands:
        changes = {"learning_rate": ",".join(map(str, values)), "trials": str(trials)}
        space = settings.with_settings(spaces.load("smoke", "paper"), changes)

        def outcome(trial, failing_rate=failing_rate):
            return ("failed", None) if str(trial.config.learning_rate) == failing_rate else by_rate(trial)

        driver = continue_run(space, records, outcome)
        records |= driver.records
        assert driver.queue.count_unfinished_trials() == (0, 0)
        for cell in space.cells:
            in_cell = [record for record in records.values() if record.cell == cell.name]
            search_records = [record for record in in_cell if record.phase == "search"]
            tried_rates = {record.config["learning_rate"] for record in search_records} & set(values)
            assert len(tried_rates) >= min(trials, len(values))
            candidates = [
                record
                for record in search_records
                if record.status == "complete" and record.config["learning_rate"] in values
            ]
            best = max(candidates, key=lambda record: (record.selection_accuracy, record.key), default=None)
            confirmed_rates = {record.config["learning_rate"] for record in in_cell if record.phase == "confirm"}
            assert best is None or best.config["learning_rate"] in confirmed_rates


finite_ranges = st.one_of(
    st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True).map(lambda values: Choice(tuple(values))),
    st.tuples(st.integers(1, 5), st.integers(1, 4)).map(lambda pair: Whole(pair[0], pair[0] + pair[1])),
)


def values_of(finite_range):
    return getattr(finite_range, "values", None) or range(finite_range.low, finite_range.high + 1)


@given(finite_ranges, finite_ranges, st.integers(1, 20), st.booleans())
@fixed(20)
def test_the_plan_says_how_many_trials_run(batch_sizes, evaluations, trials, has_real_range):
    space = spaces.load("smoke", "paper")
    learning_rates = Real(0.1, 1.0) if has_real_range else Choice((0.1,))
    search = {"batch_size": batch_sizes, "eval_every": evaluations, "learning_rate": learning_rates}

    def first_cell(axes, grid=space.grid):
        cell = grid(axes)[0]
        return [type(cell)(name=cell.name, fixed=cell.fixed, search=search)]

    space = dataclasses.replace(space, grid=first_cell, trials=trials)
    plan = make_plan(space)
    driver = Driver(space, lambda trial: ("complete", 0.5)).run()
    assert plan.search_trial_count == len(search_trials(driver))
    combinations = set(product(values_of(batch_sizes), values_of(evaluations)))
    assert plan.search_trial_count == (trials if has_real_range else min(trials, len(combinations)))
    if not has_real_range:
        points = {(point["batch_size"], point["eval_every"]) for point in all_points(space.cells[0])}
        assert points == combinations


@pytest.mark.parametrize(
    ("first", "then", "new_trials"),
    [
        (["learning_rate=0.05,0.1,0.3,0.5", "trials=2"], ["learning_rate=0.05,0.1,0.3,0.5", "trials=4"], 2),
        (["learning_rate=0.1,0.3"], ["learning_rate=0.1,0.3,1.0"], 1),
    ],
)
def test_the_command_trains_the_new_values(tmp_path, capsys, first, then, new_trials):
    command = ["--space", "smoke", "--local-mode", "--out", str(tmp_path), "--name", "a"]
    small = ["--set", "max_steps=2", "--set", "eval_every=1", "--set", "grace_steps=2"]
    assert main([*command, *small, *(word for setting in first for word in ("--set", setting))]) == 0
    first_keys = {record.key for record in Store(tmp_path, "a").records()}
    assert main([*command, *small, *(word for setting in then for word in ("--set", setting))]) == 0
    added = [record for record in Store(tmp_path, "a").records() if record.key not in first_keys]
    assert sum(record.phase == "search" for record in added) == 3 * new_trials
    capsys.readouterr()
    assert main([*command, "--dry-run", "--set", then[0], "--set", "trials=9"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  trials ")]
    values = then[0].count(",") + 1
    words = f"{3 * values} search trials ({values} per cell instead of 9, because the lists have no further values)"
    assert words in line
