"""Early stopping: one rule a stratum; the rungs beside Ray's own."""

from __future__ import annotations

import dataclasses
import random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from lopt import registry
from sweeps import stopping
from sweeps.search.early_stopping import Decision, EarlyStopping, _draw
from sweeps.stopping import StoppingRule
from sweeps.stopping._rungs import Rungs, rung_steps
from tests.bad_input import fixed
from tests.sweeps.records import make_record

RULES = {"grace_steps": 2, "reduction_factor": 3, "max_steps": 18}


def asha(**changes):
    return stopping.get("asha")(**{**RULES, **changes})


def early(rules=None, **changes):
    return EarlyStopping(lambda: asha(**(rules or {})), **changes)


class _Trial:
    def __init__(self, key):
        self.trial_id, self.config, self.status = key, {}, "RUNNING"


class Theirs:
    """A scheduler of Ray's with the interface of a rule."""

    def __init__(self, scheduler):
        self.scheduler, self.trials = scheduler, {}

    def report(self, key, step, value):
        if key not in self.trials:
            self.trials[key] = _Trial(key)
            self.scheduler.on_trial_add(None, self.trials[key])
        controller = SimpleNamespace(get_live_trials=lambda: set(), search_alg=None)
        decision = self.scheduler.on_trial_result(controller, self.trials[key], {"step": step, "score": value})
        return decision == TrialScheduler.STOP


def rays_asha(**changes):
    rules = {**RULES, **changes}
    return Theirs(
        AsyncHyperBandScheduler(
            time_attr="step", metric="score", mode="max", grace_period=rules["grace_steps"],
            reduction_factor=rules["reduction_factor"], max_t=rules["max_steps"],
        )
    )  # fmt: skip


streams = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 20)), min_size=1, max_size=120)


def same_decisions(ours, theirs, stream, every, most):
    """Reports of some trials in any order, each at its next evaluation until it is stopped."""
    steps, stopped, decisions = {}, set(), []
    for key, value in stream:
        step = steps[key] = steps.get(key, 0) + every
        if key in stopped or step >= most:
            continue
        decision = ours.report(str(key), step, value / 20)
        assert decision == theirs.report(str(key), step, value / 20)
        decisions.append(decision)
        stopped |= {key} if decision else set()
    return decisions


@given(streams, st.sampled_from([(1, 1), (2, 2), (2, 1)]), st.sampled_from([2, 3, 4]))
@fixed(60)
def test_rungs_decide_as_rays_do_where_evaluations_meet_them(stream, grid, factor):
    grace, every = grid
    rules = {"grace_steps": grace, "reduction_factor": factor, "max_steps": 40}
    same_decisions(asha(**rules), rays_asha(**rules), stream, every, 40)


def test_where_evaluations_skip_a_rung_a_late_report_does_not_count_there():
    """Ray's scheduler puts a trial's next report on the lower rung that it has skipped."""
    ours, theirs = asha(grace_steps=1, max_steps=40), rays_asha(grace_steps=1, max_steps=40)
    for rule in (ours, theirs):
        assert not rule.report("skips", 4, 0.9)  # past the rungs at 1 and 3
        assert not rule.report("skips", 5, 0.9)
    assert theirs.report("young", 1, 0.5), "compared with a report after 5 steps"
    assert not ours.report("young", 1, 0.5), "the first on this rung"


def test_rungs_lie_below_the_last_step():
    assert rung_steps(2, 3, 18) == [2, 6]
    assert rung_steps(2, 3, 19) == [2, 6, 18]
    assert rung_steps(5, 3, 5) == []


def test_a_trial_that_is_forgotten_counts_on_no_rung():
    rungs = Rungs([2, 6], 3)
    for key, value in (("good", 0.9), ("gone", 0.99)):
        rungs.report(key, 2, value)
    rungs.forget("gone")
    assert not rungs.report("new", 2, 0.9)


@given(streams)
@fixed(60)
def test_the_median_rule_decides_as_rays_does(stream):
    ours = stopping.get("median")(**{**RULES, "max_steps": 40})
    theirs = Theirs(
        MedianStoppingRule(time_attr="step", metric="score", mode="max", grace_period=2, min_samples_required=3)
    )
    same_decisions(ours, theirs, stream, 2, 40)


def test_a_stratum_decides_as_it_would_alone():
    """One stratum is much weaker; each keeps some trials and stops most."""
    draw, ours, theirs = random.Random(0), early(), {stratum: rays_asha() for stratum in "ab"}
    ends = []
    for number in range(60):
        stratum = "ab"[number % 2]
        skill = draw.random() * (1 if number % 2 else 0.3)
        for step in range(2, 18, 2):
            stops = ours.report(stratum, str(number), step, skill * step) is Decision.STOP
            assert stops == theirs[stratum].report(str(number), step, skill * step)
            if stops:
                break
        ends.append((stratum, stops))
    for stratum in "ab":
        assert 0.03 < sum(not stops for s, stops in ends if s == stratum) / 30 < 0.5


def test_a_strong_stratum_never_stops_a_weak_one():
    stops = early()
    for number in range(9):
        stops.report("strong", f"s{number}", 2, 0.9)
    assert stops.report("weak", "w", 2, 0.1) is Decision.GO_ON


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_replayed_rungs_decide_like_those_that_were_lived_through(tiny, metric):
    lived, replayed = (early({"grace_steps": 4, "max_steps": 12}) for _ in range(2))
    records = [
        make_record(
            tiny.replace(learning_rate=0.01 * (i + 1), metric=metric),
            cell="c",
            stratum="a",
            **{"accuracy": 0.9, metric: 0.5 + i / 20},
        )
        for i in range(6)
    ]
    for record in records:
        for evaluation in record.evaluations[:-1]:
            lived.report("a", record.key, evaluation.step, evaluation.score(metric))
    replayed.replay([*records, make_record(tiny.replace(seed=1), accuracy=1.0, phase="confirm", stratum="a")])
    for number in range(40):
        score = 0.4 + number / 80
        assert lived.report("a", f"n{number}", 4, score) == replayed.report("a", f"n{number}", 4, score)


def test_a_restored_trial_fills_the_rungs_that_it_passed_before(tiny):
    """Its first report comes late; what it had at the earlier rungs is in its record."""
    record = make_record(tiny, accuracy=0.5, steps=8, cell="a")  # evaluated at 4 and 8
    stops = early({"grace_steps": 4, "max_steps": 40})
    stops.restore(record)
    assert stops.report("a", record.key, 8, 0.5) is Decision.GO_ON
    assert stops.report("a", "worse", 4, 0.4) is Decision.STOP, "compared on the rung at 4"

    last = early({"grace_steps": 4, "reduction_factor": 2, "max_steps": 40})
    last.report("a", "best", 8, 1.0)
    last.restore(dataclasses.replace(record))
    assert last.report("a", record.key, 8, 0.5) is Decision.STOP, "its last evaluation counts"


def test_an_audited_trial_goes_on_without_competing(tiny):
    stops = early(audit=1.0)
    for number in range(9):
        stops.report("a", f"g{number}", 2, 0.9)
    assert stops.report("a", "bad", 2, 0.1) is Decision.AUDIT
    assert stops.report("a", "bad", 6, 0.1) is Decision.GO_ON, "audited once"
    assert stops.report("a", "other", 6, 0.05) is Decision.GO_ON, "the first on the rung beyond"

    # Under a later command: restored, and replayed when it is over.
    late = make_record(tiny, accuracy=0.1, steps=8, cell="a")
    for audited in ({late.key: 2}, {}):
        again = early(audited=audited)
        again.replay([make_record(tiny.replace(seed=s), accuracy=0.9, cell="a") for s in range(1, 9)])
        again.restore(late)
        expected = Decision.GO_ON if audited else Decision.STOP
        assert again.report("a", late.key, 8, 0.1) is expected


def test_who_is_audited_depends_on_the_key_alone_and_the_share_is_kept():
    chosen = [_draw(f"{number:016x}") for number in range(2000)]
    assert chosen == [_draw(f"{number:016x}") for number in range(2000)]
    assert 0.08 < sum(draw < 0.1 for draw in chosen) / 2000 < 0.12


# --- every rule ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=registry.names("sweeps.stopping"))
def rule(request) -> StoppingRule:
    return stopping.get(request.param)(grace_steps=4, reduction_factor=3, max_steps=60)


def test_no_trial_stops_in_its_grace_period_or_when_it_is_the_best(rule):
    draw = random.Random(1)
    for number in range(40):
        for step in range(2, 60, 2):
            stops = rule.report(f"{number:016x}", step, draw.random())
            assert not (stops and step < 4)
            if stops:
                break
    for step in range(2, 60, 2):
        assert not rule.report("best", step, 2.0)


def test_the_steps_of_the_plan_are_those_of_equally_good_trials(rule):
    """Many trials one after another, all alike but for luck at every evaluation; within a third."""
    draw, total, expected, trials = random.Random(2), 0, 0.0, 300
    for number in range(trials):
        best = 0.0
        for step in range(2, 61, 2):
            best = max(best, draw.random())
            if step < 60 and rule.report(f"{number:016x}", step, best):
                break
        total += step
        expected += rule.expected_steps(number + 1, 2)
    assert total / 1.5 < expected < total * 1.5, (total, expected)


def test_steps_of_decisions_lie_between_the_grace_period_and_the_end(rule):
    assert all(4 <= step < 60 for step in rule.decision_steps(2))
    assert rule.expected_steps(1, 2) <= 60


@pytest.mark.parametrize("name", registry.names("sweeps.stopping"))
@pytest.mark.parametrize("wrong", [{"grace_steps": 0}, {"reduction_factor": 1}])
def test_rules_that_never_end_are_refused(name, wrong):
    with pytest.raises(ValueError, match="or more"):
        stopping.get(name)(**{**RULES, **wrong})


def test_a_trial_that_is_forgotten_may_begin_anew(rule):
    for number in range(9):
        for step in range(2, 60, 2):
            rule.report(f"{number:016x}", step, 0.5)
    rule.report("again", 4, 0.1)
    rule.forget("again")
    assert not rule.report("again", 2, 0.9)
    assert not rule.report("again", 4, 0.9)


def test_hyperbands_brackets_share_the_trials_and_the_last_stops_nobody():
    rule = stopping.get("hyperband")(grace_steps=2, reduction_factor=3, max_steps=60)
    keys = [f"{number:016x}" for number in range(2000)]
    brackets = [rule.bracket(key) for key in keys]
    shares = [brackets.count(bracket) / 2000 for bracket in range(5)]
    assert shares == sorted(shares, reverse=True) and shares[-1] > 0, "the one that stops earliest has most"
    (last, *others) = [key for key, bracket in zip(keys, brackets, strict=True) if bracket == 4]
    for key in others:
        rule.report(key, 54, 1.0)
    assert not rule.report(last, 54, 0.0)
