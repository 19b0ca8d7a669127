"""The play of a sweep, against closed forms, a step-by-step play, and the rule of early stopping itself."""

from __future__ import annotations

import dataclasses
from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from sweeps import spaces
from sweeps.forecast.play import Cost, Play, forecast, random_quality
from sweeps.planning import settings
from sweeps.search.early_stopping import Decision, EarlyStopping
from sweeps.search.queue import TrialQueue
from tests.sweeps.records import make_record

SMOKE = spaces.load("smoke", "paper")  # three cells, rungs at 4 of 12 steps, evaluated at every second


def sweep(**given):
    return settings.with_settings(SMOKE, {name: str(value) for name, value in given.items()})


def cost(cell="c", **changes):
    values = {
        "stratum": cell, "shared": True, "share": 0.25, "fixed_s": 0.5, "step_s": 1.0, "evaluation_s": 2.0,
        "begin_s": 3.0, "score_s": 10.0, "eval_every": 2,
    }  # fmt: skip
    return Cost(**(values | changes))


def play(made, kinds=None, *, devices=1, concurrent=4, quality=lambda number, rung: 0.0, finished=(), **changes):
    costs = kinds or [[cost(cell.name, **changes)] for cell in made.cells]
    return Play(made, costs, devices=devices, concurrent=concurrent, quality=quality, finished=finished).run()


def test_one_trial_at_a_time_is_a_sum():
    """Nobody is worse than an equal, so none stops: 9 search trials of 12 steps, 3 confirm trials."""
    made = sweep()
    found = play(made, concurrent=1)
    assert found.trials == 12
    assert found.steps == 12 * 12
    assert found.seconds == pytest.approx(12 * (3.0 + 12 * (0.5 + 1.0 + 2.0 / 2)) + 3 * 10.0)


def test_trials_together_pay_once_for_the_step():
    """One trial a cell: three of the search together, then three that confirm, and are scored one after another."""
    made = sweep(trials=1)
    together = 12 * (0.5 + 3 * (1.0 + 1.0))
    assert play(made).seconds == pytest.approx(2 * (3.0 + together) + 3 * 10.0)
    alone = 12 * (0.5 + 1.0 + 1.0)
    assert play(made, share=1.0, devices=3).seconds == pytest.approx(2 * (3.0 + alone) + 10.0)
    assert play(made, share=0.3, shared=False).seconds == pytest.approx(2 * (3.0 + alone) + 10.0)


def test_a_trial_alone_may_take_longer_for_a_step_than_several_together():
    made = sweep(trials=1)
    falling = {"fixed_s": 4.0, "step_s": -1.0, "least_s": 1.5, "evaluation_s": 0.0, "begin_s": 0.0, "score_s": 0.0}
    assert play(made, **falling).seconds == pytest.approx(2 * 12 * 1.5)
    assert play(made, concurrent=1, **falling).seconds == pytest.approx(6 * 12 * 3.0)


def by_steps(made, concurrent, fixed_s, step_s):
    """The same sweep without early stopping, a step at a time; nothing to evaluate, to score or to begin."""
    waiting = deque((cell, "search") for _ in range(made.trials) for cell in range(len(made.cells)))
    left = [made.trials] * len(made.cells)
    confirm, running, seconds = deque(), [], 0.0
    while running or waiting or confirm:
        while len(running) < concurrent and (confirm or waiting):
            running.append([*(confirm or waiting).popleft(), made.max_steps])
        seconds += fixed_s + sum(step_s[trial[0]] for trial in running)
        for trial in running:
            trial[2] -= 1
        for trial in [trial for trial in running if trial[2] == 0]:
            running.remove(trial)
            if trial[1] == "search":
                left[trial[0]] -= 1
                if not left[trial[0]]:
                    confirm.extend([(trial[0], "confirm")] * made.confirm_seeds)
    return seconds


@examples(deadline=None, max_examples=25)
@given(
    trials=st.integers(1, 5),
    seeds=st.integers(1, 3),
    concurrent=st.integers(1, 8),
    step_s=st.lists(st.floats(0.1, 3.0), min_size=3, max_size=3),
    fixed_s=st.floats(0.0, 2.0),
)
def test_the_play_is_that_of_single_steps(trials, seeds, concurrent, step_s, fixed_s):
    made = sweep(trials=trials, confirm_seeds=seeds, grace_steps=100)
    nothing = {"fixed_s": fixed_s, "evaluation_s": 0.0, "begin_s": 0.0, "score_s": 0.0, "share": 1 / concurrent}
    kinds = [[cost(cell.name, step_s=s, **nothing)] for cell, s in zip(made.cells, step_s, strict=True)]
    found = play(made, kinds, concurrent=concurrent)
    assert found.seconds == pytest.approx(by_steps(made, concurrent, fixed_s, step_s))


def steps_by_the_rule(made, quality):
    """Steps of one cell's search, one trial after another, by ASHA's rule as the paper gives it."""
    total, rungs = 0, [[] for _ in made.decision_steps()]
    for number in range(1, made.trials + 1):
        for rung, step in enumerate(made.decision_steps()):
            value, earlier = quality(number, rung), list(rungs[rung])
            rungs[rung].append(value)
            if earlier and value < np.percentile(earlier, 100 * (1 - 1 / made.reduction_factor)):
                total += step
                break
        else:
            total += made.max_steps
    return total


@examples(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_the_sweeps_own_early_stopping_decides(seed):
    made = sweep(trials=8, max_steps=80, eval_every=2, confirm_seeds=1)
    made = dataclasses.replace(made, grid=lambda axes: SMOKE.grid(axes)[:1])
    values = np.random.default_rng(seed).normal(size=(9, len(made.decision_steps())))
    found = play(made, concurrent=1, quality=lambda number, rung: values[number, rung])
    assert found.steps == steps_by_the_rule(made, lambda number, rung: values[number, rung]) + made.max_steps


def test_a_rung_between_evaluations_counts_at_the_next():
    made = sweep(trials=2, grace_steps=3, eval_every=4)
    made = dataclasses.replace(made, grid=lambda axes: SMOKE.grid(axes)[:1])
    found = play(made, concurrent=1, quality=lambda number, rung: -number, eval_every=4)
    assert found.steps == 12 + 4 + 12


def test_who_is_audited_runs_to_the_end():
    made = sweep(trials=6, max_steps=80, eval_every=2, confirm_seeds=1)
    made = dataclasses.replace(made, grid=lambda axes: SMOKE.grid(axes)[:1])

    def steps_of(audit):
        costs = [[cost("c")]]
        given = {"devices": 1, "concurrent": 1, "quality": lambda number, rung: -number}
        return Play(made, costs, **given, audit=audit).run().steps

    assert steps_of(audit=0.0) < steps_of(audit=1.0) == 7 * 80
    steps = [said(made, audit=share).steps for share in (0.0, 0.5, 1.0)]
    assert steps[0] < steps[1] < steps[2] == 7 * 80


def test_what_is_finished_is_not_run_again_and_its_rungs_decide():
    made = sweep(max_steps=12)
    configs = [made.example(cell) for cell in made.cells]
    finished = [
        make_record(config.replace(learning_rate=0.1 * (n + 1)), accuracy=0.9, cell=cell.name)
        for cell, config in zip(made.cells, configs, strict=True)
        for n in range(2)
    ]
    found = play(made, finished=finished, quality=lambda number, rung: 0.5)
    assert found.trials == 3 + 3
    assert found.steps == 3 * 4 + 3 * 12, "they are worse than those that are finished"
    finished += [
        make_record(config.replace(seed=1), accuracy=0.9, cell=cell.name, phase="confirm")
        for cell, config in zip(made.cells, configs, strict=True)
    ]
    finished += [make_record(c, accuracy=0.95, cell=cell.name) for cell, c in zip(made.cells, configs, strict=True)]
    assert play(made, finished=finished).seconds == 0.0


def test_trials_beyond_the_room_wait():
    made = sweep(trials=1)
    assert play(made, share=1.0, shared=False, concurrent=9).seconds == pytest.approx(
        play(made, share=1.0, shared=False, concurrent=1).seconds
    )


def test_a_free_search_confirms_each_size():
    made = spaces.load("search", "demo")
    kinds = [[cost("small", eval_every=10), cost("large", eval_every=10, step_s=2.0)]]
    turns = iter(range(made.trials))
    found = Play(
        made, kinds, devices=1, concurrent=4, quality=lambda number, rung: 0.0, pick=lambda kinds: next(turns) % kinds
    ).run()
    assert found.trials == made.trials + 2 * made.confirm_seeds


def said(made, factor=1.0, **given):
    times = {name: factor * getattr(cost(), name) for name in vars(cost()) if name.endswith("_s")}
    kinds = [[cost(cell.name, **times)] for cell in made.cells]
    return forecast(made, kinds, **({"devices": 1, "concurrent": 4, "spread": 0.1, "draws": 30} | given))


def test_a_range_is_in_order_and_not_too_wide():
    made = sweep(trials=6)
    for spread in (0.08, 0.15):
        found = said(made, spread=spread, draws=200)
        assert found.low_s < found.median_s < found.high_s <= 2.0 * found.low_s
    assert said(made, spread=0.15, draws=200).high_s > said(made, spread=0.08, draws=200).high_s
    assert said(made) == said(made), "the same again"


@examples(deadline=None, max_examples=25)
@given(factor=st.floats(0.1, 10.0))
def test_twice_as_slow_takes_twice_as_long(factor):
    made = sweep(trials=2)
    one, other = said(made, draws=10), said(made, factor, draws=10)
    for name in ("low_s", "median_s", "high_s"):
        assert getattr(other, name) == pytest.approx(factor * getattr(one, name))


@examples(deadline=None, max_examples=25)
@given(trials=st.integers(1, 6), seeds=st.integers(1, 4))
def test_more_to_do_takes_longer(trials, seeds):
    """In the play's mean; without early stopping, since with it one trial more can stop another earlier."""
    base = {"trials": trials, "confirm_seeds": seeds, "grace_steps": 100}
    less = said(sweep(**base), draws=3)
    assert said(sweep(**base | {"confirm_seeds": seeds + 1}), draws=3).median_s > less.median_s
    assert said(sweep(**base | {"trials": trials + 1}), draws=3).median_s > less.median_s
    assert said(sweep(**base), draws=3, start_s=100.0).low_s > less.low_s


def test_qualities_are_alike_at_the_rungs_of_one_trial_and_differ_between_trials():
    correlations = []
    for seed in range(40):
        quality = random_quality(np.random.default_rng(seed), 50)
        values = np.array([[quality(number, rung) for rung in range(2)] for number in range(200)])
        correlations.append(np.corrcoef(values.T)[0, 1])
    assert 0.2 < np.mean(correlations) < 0.8
    assert min(correlations) > -0.2


def test_every_play_assigns_its_trials_to_brackets_anew():
    made = sweep(stopping="hyperband", trials=3)
    costs = [[cost(cell.name)] for cell in made.cells]
    given = {"devices": 1, "concurrent": 4, "quality": lambda number, rung: -number}
    assert len({Play(made, costs, **given, number=number).run().steps for number in range(20)}) > 1


@pytest.mark.parametrize("name", spaces.names())
def test_the_forecast_and_the_sweep_run_the_same_trials(name):
    """One at a time, where the scores of the trials fall: in both, the order of cells, and who is stopped where."""
    made = spaces.load(name, "paper" if name == "smoke" else "demo")
    made = settings.with_settings(made, {"trials": "4", "reduction_factor": "2"})
    if made.by_size or any(len(made.examples(cell)) > 1 for cell in made.cells):
        pytest.skip("its trials differ in size, which the forecast draws")
    queue = TrialQueue(made, resolve=lambda config: config, finished=[], failed=[])
    stops = EarlyStopping(made.stopping_rule)
    steps = trials = 0
    while trial := queue.next():
        trials, status, reached = trials + 1, "complete", made.max_steps
        for step in made.decision_steps() if trial.phase == "search" else ():
            if stops.report(trial.stratum, trial.config.key, step, -trials) is Decision.STOP:
                status, reached = "stopped", step
                break
        steps += reached
        queue.end(trial, make_record(trial.config, status, 1 / trials, trial.phase, trial.cell.name, trial.stratum))
    every = {cell.name: made.example(cell).eval_every for cell in made.cells}
    costs = [[cost(name, eval_every=every[name])] for name in every]
    play = Play(made, costs, devices=1, concurrent=1, quality=lambda number, rung: -number).run()
    assert (play.trials, play.steps) == (trials, steps)
