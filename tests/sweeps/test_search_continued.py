"""A search that goes on with more values, more trials or other winners: what is new runs, and nothing runs twice."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopt.ranges import Choice, Real, Whole
from sweeps import spaces
from sweeps.planning import settings
from sweeps.planning.plan import make_plan
from sweeps.planning.points import every_point, trials_of
from sweeps.results.store import Store
from sweeps.run import main
from sweeps.search.earlier_work import fitting
from tests.bad_input import fixed
from tests.sweeps.driver import Driver, by_rate

TWO, FOUR = "0.1,0.3", "0.05,0.1,0.3,0.5"


def continued(commands, outcome=by_rate, name="smoke", profile="paper"):
    """The drivers of some commands on one run, each with what those before it have left."""
    records, drivers = {}, []
    for chosen in commands:
        made = settings.with_settings(spaces.load(name, profile), chosen)
        mine, _ = fitting(made, [r for r in records.values() if r.status != "failed"])
        failed, _ = fitting(made, [r for r in records.values() if r.status == "failed"])
        driver = Driver(made, outcome, finished=mine, failed=failed).run()
        keys = [job.config.key for job in driver.trials]
        assert len(set(keys)) == len(keys), "no trial runs twice"
        assert not set(keys) & {record.key for record in mine}, "nor what was finished"
        records |= driver.records
        drivers.append(driver)
    return drivers


def rates(driver, cell="lopt1 n=4 r=2", phase="search"):
    return sorted(job.config.learning_rate for job in driver.trials if (job.cell.name, job.phase) == (cell, phase))


@pytest.mark.parametrize(
    ("commands", "searched"),
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
            [{"learning_rate": FOUR, "trials": n} for n in ("1", "2", "9", "3")], [1, 2, 4, 4], id="more, then fewer"
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
def test_what_has_not_been_tried_runs_whatever_was_confirmed(commands, searched):
    drivers = continued(commands)
    tried = set()
    for driver, expected in zip(drivers, searched, strict=True):
        (lopt1,) = [s for s in driver.cells if s.cell.name == "lopt1 n=4 r=2"]
        tried |= set(rates(driver))
        within = {rate for rate in tried if rate in lopt1.cell.search["learning_rate"]} if lopt1.study else tried
        assert len(within) == expected
        assert driver.queue.counts() == (0, 0)


@pytest.mark.parametrize("status", ["complete", "stopped", "diverged"])
def test_the_winner_of_more_trials_is_confirmed_once(status):
    """By_rate likes 0.1 best, which the first command has not got."""

    def outcome(job):
        state, accuracy = by_rate(job)
        return (status if job.phase == "search" and job.config.learning_rate == 0.3 else state, accuracy)

    first, second, third = continued(
        [{"learning_rate": values} for values in ("0.3,1.0", "0.3,1.0,0.1", "1.0,0.1,0.3")]
    )
    assert rates(first, phase="confirm") == [0.3]
    assert (rates(second), rates(second, phase="confirm")) == ([0.1], [0.1])
    assert not third.trials
    first, second, _ = continued(
        [{"learning_rate": values} for values in ("0.3,1.0", "0.3,1.0,0.1", "1.0,0.1,0.3")], outcome
    )
    assert (rates(second), rates(second, phase="confirm")) == ([0.1], [0.1])


def test_a_winner_that_stays_is_not_confirmed_again():
    _, second = continued([{"learning_rate": "0.1,1.0"}, {"learning_rate": "0.1,1.0,0.5"}])
    assert (rates(second), rates(second, phase="confirm")) == ([0.5], [])


def test_a_failed_trial_does_not_take_the_place_of_a_value():
    """TPE may propose again what has failed."""

    def outcome(job):
        return ("failed", None) if job.config.learning_rate == 0.3 else by_rate(job)

    first, second = continued([{"learning_rate": FOUR, "trials": "4"}] * 2, outcome)
    assert rates(first) == [0.05, 0.1, 0.3, 0.5]
    assert (rates(second), rates(second, phase="confirm")) == ([0.3], []), "it alone is tried again"


def test_a_trial_that_was_cut_off_goes_on_and_the_other_values_run():
    made = settings.with_settings(spaces.load("smoke", "paper"), {"learning_rate": "0.1,0.3,1.0"})
    cell = made.cells[1]
    config = made.config(cell, {"learning_rate": 1.0}, seed=0)
    (before,) = continued([{"learning_rate": TWO}])
    driver = Driver(made, by_rate, finished=before.records.values(), interrupted=[(config, cell.name)]).run()
    assert (rates(driver), rates(driver, phase="confirm")) == ([1.0], [])


def test_lists_of_several_fields_are_tried_in_every_combination():
    chosen = {"learning_rate": "0.1,0.3", "method": "lopt1,prompt_tuning,lora", "length": "4,6", "rank": "1,2"}
    common = {"backbone": "tiny", "task": "toy", "trials": "50"}
    first, second = continued(
        [{**common, **chosen}, {**common, **chosen, "learning_rate": "0.1,0.3,0.5"}], name="search", profile="demo"
    )
    # LoPT-1 2·2·2, prompt tuning 2·2 (it has no rank), LoRA 2·2 (it has no length)
    assert len([job for job in first.trials if job.phase == "search"]) == 8 + 4 + 4
    assert len([job for job in second.trials if job.phase == "search"]) == 4 + 2 + 2


def test_a_rank_above_the_length_is_the_same_trial_as_the_length():
    made = settings.with_settings(spaces.load("search", "demo"), {"method": "lopt1", "length": "4,8", "rank": "2,4,8"})
    made = settings.with_settings(made, {"learning_rate": "0.1", "trials": "9"})
    assert len(list(every_point(made.cells[0]))) == 6
    assert trials_of(made, made.cells[0]) == 5


def test_a_range_of_whole_numbers_has_an_end():
    chosen = {"method": "lopt1", "length": "8:10", "rank": "1,2", "learning_rate": "0.1", "trials": "20"}
    (driver,) = continued([{**chosen, "backbone": "tiny", "task": "toy"}], name="search", profile="demo")
    assert len([job for job in driver.trials if job.phase == "search"]) == 6


def test_a_method_without_end_goes_on_when_the_others_are_used_up():
    """Nine methods of one point each, of which the sampler thinks best, and one range."""
    chosen = {"method": "lopt1,prompt_tuning,ulpt,dept,lora,fine_tuning", "trials": "40"}
    for name in ("prompt_tuning", "ulpt", "dept", "lora", "fine_tuning"):
        chosen[f"{name}.learning_rate"] = "0.01"
        chosen |= {f"{name}.rank": "2"} if name in ("ulpt", "dept", "lora") else {}
        chosen |= {f"{name}.length": "8"} if name not in ("lora", "fine_tuning") else {}
    chosen["dept.update_learning_rate"] = "0.001"

    def outcome(job):
        return "complete", 0.2 if job.config.method == "lopt1" else 0.9

    (driver,) = continued([{**chosen, "backbone": "tiny", "task": "toy"}], outcome, name="search", profile="demo")
    assert len([job for job in driver.trials if job.phase == "search"]) == 40


lists = st.lists(st.sampled_from([0.05, 0.1, 0.2, 0.3, 0.5, 1.0]), min_size=1, max_size=4, unique=True)


@given(st.lists(st.tuples(lists, st.integers(1, 5), st.sampled_from(["", "0.1", "0.3"])), min_size=1, max_size=4))
@fixed(20)
def test_any_commands_on_a_run_leave_nothing_to_try(commands):
    """Values, trials a cell, and a rate at which trials fail."""
    records = {}
    for values, trials, failing in commands:
        chosen = {"learning_rate": ",".join(map(str, values)), "trials": str(trials)}
        made = settings.with_settings(spaces.load("smoke", "paper"), chosen)

        def outcome(job, failing=failing):
            return ("failed", None) if str(job.config.learning_rate) == failing else by_rate(job)

        finished, _ = fitting(made, [r for r in records.values() if r.status != "failed"])
        failed, _ = fitting(made, [r for r in records.values() if r.status == "failed"])
        driver = Driver(made, outcome, finished=finished, failed=failed).run()
        records |= driver.records
        assert driver.queue.counts() == (0, 0)
        for cell in made.cells:
            mine = [r for r in records.values() if r.cell == cell.name and r.phase == "search"]
            tried = {r.config["learning_rate"] for r in mine} & set(values)
            assert len(tried) >= min(trials, len(values))
            able = [r for r in mine if r.status == "complete" and r.config["learning_rate"] in values]
            best = max(able, key=lambda r: (r.selection_accuracy, r.key), default=None)
            confirmed = {
                r.config["learning_rate"] for r in records.values() if r.cell == cell.name and r.phase == "confirm"
            }
            assert best is None or best.config["learning_rate"] in confirmed


ranges = st.one_of(
    st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True).map(lambda values: Choice(tuple(values))),
    st.tuples(st.integers(1, 5), st.integers(1, 4)).map(lambda pair: Whole(pair[0], pair[0] + pair[1])),
)


@given(ranges, ranges, st.integers(1, 20), st.booleans())
@fixed(20)
def test_the_plan_says_how_many_trials_run(batch, steps, trials, endless):
    made = spaces.load("smoke", "paper")
    search = {"batch_size": batch, "eval_every": steps, "learning_rate": Real(0.1, 1.0) if endless else Choice((0.1,))}
    grid = made.grid
    cells = lambda axes: [type(c)(name=c.name, fixed=c.fixed, search=search) for c in grid(axes)][:1]  # noqa: E731
    made = type(made)(**{**vars(made), "grid": cells, "trials": trials})
    planned = make_plan(made)
    driver = Driver(made, lambda job: ("complete", 0.5)).run()
    assert planned.search_trials == sum(job.phase == "search" for job in driver.trials)
    sizes = [len(r.values) if isinstance(r, Choice) else r.high - r.low + 1 for r in (batch, steps)]
    assert planned.search_trials == (trials if endless else min(trials, math.prod(sizes)))
    if not endless:
        points = {(p["batch_size"], p["eval_every"]) for p in every_point(made.cells[0])}
        assert points == set(product(*(getattr(r, "values", None) or range(r.low, r.high + 1) for r in (batch, steps))))


@pytest.mark.parametrize(
    ("first", "then", "more"),
    [
        (["learning_rate=0.05,0.1,0.3,0.5", "trials=2"], ["learning_rate=0.05,0.1,0.3,0.5", "trials=4"], 2),
        (["learning_rate=0.1,0.3"], ["learning_rate=0.1,0.3,1.0"], 1),
    ],
)
def test_the_command_trains_the_values_that_are_new(tmp_path, capsys, first, then, more):
    command = ["--space", "smoke", "--local-mode", "--out", str(tmp_path), "--name", "a"]
    small = ["--set", "max_steps=2", "--set", "eval_every=1", "--set", "grace_steps=2"]
    assert main([*command, *small, *(word for each in first for word in ("--set", each))]) == 0
    before = {record.key for record in Store(tmp_path, "a").records()}
    assert main([*command, *small, *(word for each in then for word in ("--set", each))]) == 0
    added = [record for record in Store(tmp_path, "a").records() if record.key not in before]
    assert sum(record.phase == "search" for record in added) == 3 * more
    capsys.readouterr()
    assert main([*command, "--dry-run", "--set", then[0], "--set", "trials=9"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  trials ")]
    values = then[0].count(",") + 1
    words = f"{3 * values} search trials ({values} per cell instead of 9, because the lists have no further values)"
    assert words in line
