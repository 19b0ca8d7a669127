"""The simulation of a sweep agrees with closed forms, a step-by-step simulation, and early stopping itself."""

from __future__ import annotations

import dataclasses
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from sweeps import spaces
from sweeps.forecast.cost import Cost
from sweeps.forecast.simulate import SimulatedSweep, forecast, random_score_function
from sweeps.planning import settings
from sweeps.search.early_stopping import Decision, EarlyStopping
from sweeps.search.queue import TrialQueue
from tests.sweeps.records import make_record

SMOKE = spaces.load("smoke", "paper")  # three cells, 12 steps, a rung at step 4, an evaluation at every second step


def smoke_with(**changes):
    return settings.with_settings(SMOKE, {name: str(value) for name, value in changes.items()})


def one_cell(space):
    return dataclasses.replace(space, grid=lambda axes: SMOKE.grid(axes)[:1])


def cost(cell="c", **changes):
    values = {
        "stratum": cell, "shares_device": True, "device_share": 0.25, "fixed_s": 0.5, "step_s": 1.0,
        "evaluation_s": 2.0, "begin_s": 3.0, "score_s": 10.0, "eval_every": 2,
    }  # fmt: skip
    return Cost(**(values | changes))


def equal_quality(number, rung):
    return 0.0


def falling_quality(number, rung):
    return -number


def simulate(
    space, costs=None, *, device_count=1, max_concurrent=4, score_at_rung=equal_quality, finished=(), **changes
):
    costs = costs or [[cost(cell.name, **changes)] for cell in space.cells]
    return SimulatedSweep(
        space,
        costs,
        device_count=device_count,
        max_concurrent=max_concurrent,
        score_at_rung=score_at_rung,
        finished=finished,
    ).run()


def test_the_time_of_one_trial_at_a_time_is_a_sum():
    """No trial is worse than an equal one, so none stops: 9 search trials of 12 steps and 3 confirm trials run."""
    simulated = simulate(smoke_with(), max_concurrent=1)
    assert simulated.trial_count == 12
    assert simulated.step_count == 12 * 12
    assert simulated.duration_s == pytest.approx(12 * (3.0 + 12 * (0.5 + 1.0 + 2.0 / 2)) + 3 * 10.0)


def test_trials_that_step_together_share_the_fixed_time_of_a_step():
    """Each cell has one search trial. The three run together, then three confirm trials, scored one after another."""
    space = smoke_with(trials=1)
    together = 12 * (0.5 + 3 * (1.0 + 1.0))
    assert simulate(space).duration_s == pytest.approx(2 * (3.0 + together) + 3 * 10.0)
    alone = 12 * (0.5 + 1.0 + 1.0)
    assert simulate(space, device_share=1.0, device_count=3).duration_s == pytest.approx(2 * (3.0 + alone) + 10.0)
    assert simulate(space, device_share=0.3, shares_device=False).duration_s == pytest.approx(2 * (3.0 + alone) + 10.0)


def test_a_step_of_one_trial_may_take_longer_than_a_step_of_several():
    space = smoke_with(trials=1)
    falling = {"fixed_s": 4.0, "step_s": -1.0, "min_step_s": 1.5, "evaluation_s": 0.0, "begin_s": 0.0, "score_s": 0.0}
    assert simulate(space, **falling).duration_s == pytest.approx(2 * 12 * 1.5)
    assert simulate(space, max_concurrent=1, **falling).duration_s == pytest.approx(6 * 12 * 3.0)


def seconds_step_by_step(space, max_concurrent, fixed_s, step_s):
    """Simulate the sweep one step at a time, without early stopping, evaluations, scores or time to begin a trial."""
    waiting = deque((cell, "search") for _ in range(space.trials) for cell in range(len(space.cells)))
    search_trials_left = [space.trials] * len(space.cells)
    confirm, running, seconds = deque(), [], 0.0
    while running or waiting or confirm:
        while len(running) < max_concurrent and (confirm or waiting):
            cell, phase = (confirm or waiting).popleft()
            running.append(SimpleNamespace(cell=cell, phase=phase, steps_left=space.max_steps))
        seconds += fixed_s + sum(step_s[trial.cell] for trial in running)
        for trial in running:
            trial.steps_left -= 1
        for trial in [trial for trial in running if trial.steps_left == 0]:
            running.remove(trial)
            if trial.phase == "search":
                search_trials_left[trial.cell] -= 1
                if not search_trials_left[trial.cell]:
                    confirm.extend([(trial.cell, "confirm")] * space.confirm_seeds)
    return seconds


@examples(deadline=None, max_examples=25)
@given(
    trials=st.integers(1, 5),
    seeds=st.integers(1, 3),
    max_concurrent=st.integers(1, 8),
    step_s=st.lists(st.floats(0.1, 3.0), min_size=3, max_size=3),
    fixed_s=st.floats(0.0, 2.0),
)
def test_the_simulation_agrees_with_a_simulation_of_single_steps(trials, seeds, max_concurrent, step_s, fixed_s):
    space = smoke_with(trials=trials, confirm_seeds=seeds, grace_steps=100)
    other_values = {"fixed_s": fixed_s, "evaluation_s": 0.0, "begin_s": 0.0, "score_s": 0.0}
    other_values["device_share"] = 1 / max_concurrent
    costs = [
        [cost(cell.name, step_s=cell_step_s, **other_values)]
        for cell, cell_step_s in zip(space.cells, step_s, strict=True)
    ]
    simulated = simulate(space, costs, max_concurrent=max_concurrent)
    assert simulated.duration_s == pytest.approx(seconds_step_by_step(space, max_concurrent, fixed_s, step_s))


def steps_by_asha(space, score_at_rung):
    """Return the steps of one cell's search, one trial after another, by ASHA's rule as the paper states it."""
    total, rungs = 0, [[] for _ in space.decision_steps()]
    for number in range(1, space.trials + 1):
        for rung, step in enumerate(space.decision_steps()):
            score, earlier_scores = score_at_rung(number, rung), list(rungs[rung])
            rungs[rung].append(score)
            if earlier_scores and score < np.percentile(earlier_scores, 100 * (1 - 1 / space.reduction_factor)):
                total += step
                break
        else:
            total += space.max_steps
    return total


@examples(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_the_sweeps_own_early_stopping_decides(seed):
    space = one_cell(smoke_with(trials=8, max_steps=80, eval_every=2, confirm_seeds=1))
    scores = np.random.default_rng(seed).normal(size=(9, len(space.decision_steps())))
    simulated = simulate(space, max_concurrent=1, score_at_rung=lambda number, rung: scores[number, rung])
    assert simulated.step_count == steps_by_asha(space, lambda number, rung: scores[number, rung]) + space.max_steps


def test_a_rung_between_two_evaluations_counts_at_the_second_one():
    space = one_cell(smoke_with(trials=2, grace_steps=3, eval_every=4))
    simulated = simulate(space, max_concurrent=1, score_at_rung=falling_quality, eval_every=4)
    assert simulated.step_count == 12 + 4 + 12


def test_audited_trials_run_to_the_end():
    space = one_cell(smoke_with(trials=6, max_steps=80, eval_every=2, confirm_seeds=1))

    def steps_with(audit):
        options = {"device_count": 1, "max_concurrent": 1, "score_at_rung": falling_quality}
        return SimulatedSweep(space, [[cost("c")]], **options, audit_share=audit).run().step_count

    assert steps_with(audit=0.0) < steps_with(audit=1.0) == 7 * 80
    steps = [short_forecast(space, audit_share=share).step_count for share in (0.0, 0.5, 1.0)]
    assert steps[0] < steps[1] < steps[2] == 7 * 80


def test_finished_trials_are_not_run_again_and_count_on_their_rungs():
    space = smoke_with(max_steps=12)
    configs = [space.sample_config(cell) for cell in space.cells]
    finished = [
        make_record(config.replace(learning_rate=0.1 * (number + 1)), accuracy=0.9, cell=cell.name)
        for cell, config in zip(space.cells, configs, strict=True)
        for number in range(2)
    ]
    simulated = simulate(space, finished=finished, score_at_rung=lambda number, rung: 0.5)
    assert simulated.trial_count == 3 + 3
    assert simulated.step_count == 3 * 4 + 3 * 12, "the new search trials are worse than the finished ones"
    finished += [
        make_record(config.replace(seed=1), accuracy=0.9, cell=cell.name, phase="confirm")
        for cell, config in zip(space.cells, configs, strict=True)
    ]
    finished += [
        make_record(config, accuracy=0.95, cell=cell.name) for cell, config in zip(space.cells, configs, strict=True)
    ]
    assert simulate(space, finished=finished).duration_s == 0.0


def test_trials_for_which_no_device_is_free_wait():
    space = smoke_with(trials=1)
    assert simulate(space, device_share=1.0, shares_device=False, max_concurrent=9).duration_s == pytest.approx(
        simulate(space, device_share=1.0, shares_device=False, max_concurrent=1).duration_s
    )


def test_a_free_search_confirms_each_size():
    space = spaces.load("search", "demo")
    costs = [[cost("small", eval_every=10), cost("large", eval_every=10, step_s=2.0)]]
    numbers = iter(range(space.trials))
    options = {"score_at_rung": equal_quality, "pick_kind": lambda kind_count: next(numbers) % kind_count}
    simulated = SimulatedSweep(space, costs, device_count=1, max_concurrent=4, **options).run()
    assert simulated.trial_count == space.trials + 2 * space.confirm_seeds


def short_forecast(space, factor=1.0, **changes):
    """Return the forecast of a few simulations in which every time is multiplied by `factor`."""
    times = {name: factor * getattr(cost(), name) for name in vars(cost()) if name.endswith("_s")}
    costs = [[cost(cell.name, **times)] for cell in space.cells]
    options = {"device_count": 1, "max_concurrent": 4, "spread": 0.1, "simulation_count": 30}
    return forecast(space, costs, **(options | changes))


def test_a_range_is_in_order_and_not_too_wide():
    space = smoke_with(trials=6)
    narrow, wide = (short_forecast(space, spread=spread, simulation_count=200) for spread in (0.08, 0.15))
    for predicted in (narrow, wide):
        assert predicted.low_s < predicted.median_s < predicted.high_s <= 2.0 * predicted.low_s
    assert wide.high_s > narrow.high_s
    assert short_forecast(space) == short_forecast(space), "a forecast can be repeated"


@examples(deadline=None, max_examples=25)
@given(factor=st.floats(0.1, 10.0))
def test_a_sweep_of_slower_steps_takes_longer_by_the_same_factor(factor):
    space = smoke_with(trials=2)
    measured, scaled = short_forecast(space, simulation_count=10), short_forecast(space, factor, simulation_count=10)
    for name in ("low_s", "median_s", "high_s"):
        assert getattr(scaled, name) == pytest.approx(factor * getattr(measured, name))


@examples(deadline=None, max_examples=25)
@given(trials=st.integers(1, 6), seeds=st.integers(1, 4))
def test_a_sweep_of_more_trials_takes_longer(trials, seeds):
    """The median is longer. Early stopping is off, because with it one more trial can stop another one earlier."""
    base = {"trials": trials, "confirm_seeds": seeds, "grace_steps": 100}
    shorter = short_forecast(smoke_with(**base), simulation_count=3)
    for change in ({"confirm_seeds": seeds + 1}, {"trials": trials + 1}):
        assert short_forecast(smoke_with(**base | change), simulation_count=3).median_s > shorter.median_s
    assert short_forecast(smoke_with(**base), simulation_count=3, start_s=100.0).low_s > shorter.low_s


def test_qualities_are_alike_at_the_rungs_of_one_trial_and_differ_between_trials():
    correlations = []
    for seed in range(40):
        score_at_rung = random_score_function(np.random.default_rng(seed), 50)
        scores = np.array([[score_at_rung(number, rung) for rung in range(2)] for number in range(200)])
        correlations.append(np.corrcoef(scores.T)[0, 1])
    assert 0.2 < np.mean(correlations) < 0.8
    assert min(correlations) > -0.2


def test_every_simulation_assigns_its_trials_to_brackets_again():
    space = smoke_with(stopping="hyperband", trials=3)
    costs = [[cost(cell.name)] for cell in space.cells]
    options = {"device_count": 1, "max_concurrent": 4, "score_at_rung": falling_quality}
    assert len({SimulatedSweep(space, costs, **options, number=number).run().step_count for number in range(20)}) > 1


@pytest.mark.parametrize("name", spaces.names())
def test_the_forecast_and_the_sweep_run_the_same_trials(name):
    """One trial runs at a time and each is worse than the last. Both take the cells in the same order and stop the same
    trials at the same steps."""
    space = spaces.load(name, "paper" if name == "smoke" else "demo")
    space = settings.with_settings(space, {"trials": "4", "reduction_factor": "2"})
    if space.by_size or any(len(space.sample_configs(cell)) > 1 for cell in space.cells):
        pytest.skip("the space's trials differ in size, which the forecast chooses at random")
    queue = TrialQueue(space, resolve=lambda config: config, finished=[], failed=[])
    early_stopping = EarlyStopping(space.stopping_rule)
    steps = trials = 0
    while trial := queue.begin_next_trial():
        trials, status, last_step = trials + 1, "complete", space.max_steps
        for step in space.decision_steps() if trial.phase == "search" else ():
            if early_stopping.report(trial.stratum, trial.config.key, step, -trials) is Decision.STOP:
                status, last_step = "stopped", step
                break
        steps += last_step
        queue.end(trial, make_record(trial.config, status, 1 / trials, trial.phase, trial.cell.name, trial.stratum))
    eval_every = {cell.name: space.sample_config(cell).eval_every for cell in space.cells}
    costs = [[cost(name, eval_every=eval_every[name])] for name in eval_every]
    simulated = SimulatedSweep(space, costs, device_count=1, max_concurrent=1, score_at_rung=falling_quality).run()
    assert (simulated.trial_count, simulated.step_count) == (trials, steps)


def test_complete_trials_are_also_scored_on_the_whole_held_out_part():
    """Three search trials and one confirm trial, one after another; each of them pays for it, and no stopped one does."""
    space = one_cell(smoke_with(stopping="none"))
    times = [simulate(space, max_concurrent=1, held_out_s=held_out_s).duration_s for held_out_s in (0.0, 7.0)]
    assert times[1] - times[0] == pytest.approx(4 * 7.0)
    assert (cost(held_out_s=7.0).final_s("search"), cost(held_out_s=7.0).final_s("confirm")) == (7.0, 17.0)
