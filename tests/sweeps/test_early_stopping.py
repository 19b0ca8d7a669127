"""Early stopping has one rule for each stratum; the rules decide as Ray's own schedulers do."""

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
from sweeps.search.early_stopping import Decision, EarlyStopping, _audit_draw
from sweeps.stopping import StoppingRule
from sweeps.stopping._rungs import Rungs, rung_steps
from tests.bad_input import fixed
from tests.sweeps.records import make_record

SETTINGS = {"grace_steps": 2, "reduction_factor": 3, "max_steps": 18}


def asha(**changes):
    return stopping.get("asha")(**{**SETTINGS, **changes})


def asha_by_stratum(rule_changes=None, **options):
    return EarlyStopping(lambda: asha(**(rule_changes or {})), **options)


class _RayTrial:
    def __init__(self, key):
        self.trial_id, self.config, self.status = key, {}, "RUNNING"


class RayRule:
    """One of Ray's schedulers with the interface of a stopping rule."""

    def __init__(self, scheduler):
        self.scheduler, self.trials = scheduler, {}

    def report(self, key, step, value):
        if key not in self.trials:
            self.trials[key] = _RayTrial(key)
            self.scheduler.on_trial_add(None, self.trials[key])
        controller = SimpleNamespace(get_live_trials=lambda: set(), search_alg=None)
        decision = self.scheduler.on_trial_result(controller, self.trials[key], {"step": step, "score": value})
        return decision == TrialScheduler.STOP


def ray_asha(**changes):
    settings = {**SETTINGS, **changes}
    return RayRule(
        AsyncHyperBandScheduler(
            time_attr="step", metric="score", mode="max", grace_period=settings["grace_steps"],
            reduction_factor=settings["reduction_factor"], max_t=settings["max_steps"],
        )
    )  # fmt: skip


# Reports of up to eight trials in any order: the trial's number and its score in twentieths.
report_lists = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 20)), min_size=1, max_size=120)


def assert_same_decisions(our_rule, ray_rule, reports, eval_every, max_steps):
    """Compare two rules. Each report is a trial's next evaluation; a trial that has stopped reports no more."""
    steps, stopped = {}, set()
    for number, score in reports:
        step = steps[number] = steps.get(number, 0) + eval_every
        if number in stopped or step >= max_steps:
            continue
        stops = our_rule.report(str(number), step, score / 20)
        assert stops == ray_rule.report(str(number), step, score / 20)
        stopped |= {number} if stops else set()


@given(report_lists, st.sampled_from([(1, 1), (2, 2), (2, 1)]), st.sampled_from([2, 3, 4]))
@fixed(60)
def test_rungs_at_evaluations_decide_as_rays_do(reports, grace_steps_and_eval_every, factor):
    grace_steps, eval_every = grace_steps_and_eval_every
    changes = {"grace_steps": grace_steps, "reduction_factor": factor, "max_steps": 40}
    assert_same_decisions(asha(**changes), ray_asha(**changes), reports, eval_every, 40)


def test_a_report_beyond_a_skipped_rung_does_not_count_on_that_rung():
    """Ray's scheduler puts a trial's next report on the lower rung that the trial has skipped."""
    our_rule, ray_rule = asha(grace_steps=1, max_steps=40), ray_asha(grace_steps=1, max_steps=40)
    for rule in (our_rule, ray_rule):
        assert not rule.report("skips", 4, 0.9)  # beyond the rungs at 1 and 3
        assert not rule.report("skips", 5, 0.9)
    assert ray_rule.report("young", 1, 0.5), "compared with a report after 5 steps"
    assert not our_rule.report("young", 1, 0.5), "the first on this rung"


def test_rungs_lie_below_the_last_step():
    assert rung_steps(2, 3, 18) == [2, 6]
    assert rung_steps(2, 3, 19) == [2, 6, 18]
    assert rung_steps(5, 3, 5) == []


def test_a_forgotten_trial_counts_on_no_rung():
    rungs = Rungs([2, 6], 3)
    for key, score in (("good", 0.9), ("gone", 0.99)):
        rungs.report(key, 2, score)
    rungs.forget("gone")
    assert not rungs.report("new", 2, 0.9)


@given(report_lists)
@fixed(60)
def test_the_median_rule_decides_as_rays_does(reports):
    our_rule = stopping.get("median")(**{**SETTINGS, "max_steps": 40})
    ray_rule = RayRule(
        MedianStoppingRule(time_attr="step", metric="score", mode="max", grace_period=2, min_samples_required=3)
    )
    assert_same_decisions(our_rule, ray_rule, reports, 2, 40)


def test_a_stratum_decides_as_it_would_alone():
    """One stratum is much weaker. In each, some trials run to their end and most stop."""
    generator = random.Random(0)
    early_stopping, ray_rules = asha_by_stratum(), {stratum: ray_asha() for stratum in "ab"}
    ends = []
    for number in range(60):
        stratum = "ab"[number % 2]
        skill = generator.random() * (1 if number % 2 else 0.3)
        for step in range(2, 18, 2):
            stops = early_stopping.report(stratum, str(number), step, skill * step) is Decision.STOP
            assert stops == ray_rules[stratum].report(str(number), step, skill * step)
            if stops:
                break
        ends.append((stratum, stops))
    for stratum in "ab":
        complete_count = sum(not stops for trial_stratum, stops in ends if trial_stratum == stratum)
        assert 0.03 < complete_count / 30 < 0.5


def test_a_strong_stratum_never_stops_a_weak_one():
    early_stopping = asha_by_stratum()
    for number in range(9):
        early_stopping.report("strong", f"s{number}", 2, 0.9)
    assert early_stopping.report("weak", "w", 2, 0.1) is Decision.GO_ON


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_replayed_records_lead_to_the_same_decisions_as_the_reports_themselves(tiny, metric):
    reported, replayed = (asha_by_stratum({"grace_steps": 4, "max_steps": 12}) for _ in range(2))
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
            reported.report("a", record.key, evaluation.step, evaluation.score(metric))
    replayed.replay([*records, make_record(tiny.replace(seed=1), accuracy=1.0, phase="confirm", stratum="a")])
    for number in range(40):
        score = 0.4 + number / 80
        assert reported.report("a", f"n{number}", 4, score) == replayed.report("a", f"n{number}", 4, score)


def test_a_restored_trial_counts_on_the_rungs_that_it_passed_before(tiny):
    """Its first report comes late; its record has the scores at the earlier rungs."""
    record = make_record(tiny, accuracy=0.5, steps=8, cell="a")  # evaluated at steps 4 and 8
    early_stopping = asha_by_stratum({"grace_steps": 4, "max_steps": 40})
    early_stopping.restore(record)
    assert early_stopping.report("a", record.key, 8, 0.5) is Decision.GO_ON
    assert early_stopping.report("a", "worse", 4, 0.4) is Decision.STOP, "compared on the rung at 4"

    early_stopping = asha_by_stratum({"grace_steps": 4, "reduction_factor": 2, "max_steps": 40})
    early_stopping.report("a", "best", 8, 1.0)
    early_stopping.restore(dataclasses.replace(record))
    assert early_stopping.report("a", record.key, 8, 0.5) is Decision.STOP, "its last evaluation counts"


def test_an_audited_trial_goes_on_without_competing(tiny):
    early_stopping = asha_by_stratum(audit_share=1.0)
    for number in range(9):
        early_stopping.report("a", f"g{number}", 2, 0.9)
    assert early_stopping.report("a", "bad", 2, 0.1) is Decision.AUDIT
    assert early_stopping.report("a", "bad", 6, 0.1) is Decision.GO_ON, "a trial is audited once"
    assert early_stopping.report("a", "other", 6, 0.05) is Decision.GO_ON, "the first trial on the next rung"

    # A later command restores the trial and does not stop it if it is known to be audited.
    record = make_record(tiny, accuracy=0.1, steps=8, cell="a")
    for audited_steps in ({record.key: 2}, {}):
        continued = asha_by_stratum(audited_steps=audited_steps)
        continued.replay([make_record(tiny.replace(seed=seed), accuracy=0.9, cell="a") for seed in range(1, 9)])
        continued.restore(record)
        expected = Decision.GO_ON if audited_steps else Decision.STOP
        assert continued.report("a", record.key, 8, 0.1) is expected


def test_the_key_alone_decides_which_trials_are_audited_and_the_share_is_right():
    draws = [_audit_draw(f"{number:016x}") for number in range(2000)]
    assert draws == [_audit_draw(f"{number:016x}") for number in range(2000)]
    assert 0.08 < sum(draw < 0.1 for draw in draws) / 2000 < 0.12


# --- every rule ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=registry.names("sweeps.stopping"))
def rule(request) -> StoppingRule:
    return stopping.get(request.param)(grace_steps=4, reduction_factor=3, max_steps=60)


def test_no_trial_stops_in_its_grace_period_or_when_it_is_the_best(rule):
    generator = random.Random(1)
    for number in range(40):
        for step in range(2, 60, 2):
            stops = rule.report(f"{number:016x}", step, generator.random())
            assert not (stops and step < 4)
            if stops:
                break
    for step in range(2, 60, 2):
        assert not rule.report("best", step, 2.0)


def test_the_expected_steps_are_those_of_equally_good_trials(rule):
    """The scores of many equal trials, one after another, are random. The expected steps are right within 50 %."""
    generator, total_steps, expected_steps = random.Random(2), 0, 0.0
    for number in range(300):
        best = 0.0
        for step in range(2, 61, 2):
            best = max(best, generator.random())
            if step < 60 and rule.report(f"{number:016x}", step, best):
                break
        total_steps += step
        expected_steps += rule.expected_steps(number + 1, 2)
    assert total_steps / 1.5 < expected_steps < total_steps * 1.5, (total_steps, expected_steps)


def test_decision_steps_lie_between_the_grace_period_and_the_end(rule):
    assert all(4 <= step < 60 for step in rule.decision_steps(2))
    assert rule.expected_steps(1, 2) <= 60


@pytest.mark.parametrize("name", registry.names("sweeps.stopping"))
@pytest.mark.parametrize("invalid", [{"grace_steps": 0}, {"reduction_factor": 1}])
def test_rules_with_endless_rungs_are_refused(name, invalid):
    with pytest.raises(ValueError, match="or more"):
        stopping.get(name)(**{**SETTINGS, **invalid})


def test_a_forgotten_trial_may_start_over(rule):
    for number in range(9):
        for step in range(2, 60, 2):
            rule.report(f"{number:016x}", step, 0.5)
    rule.report("again", 4, 0.1)
    rule.forget("again")
    assert not rule.report("again", 2, 0.9)
    assert not rule.report("again", 4, 0.9)


def test_hyperbands_brackets_share_the_trials_and_the_last_one_stops_no_trial():
    rule = stopping.get("hyperband")(grace_steps=2, reduction_factor=3, max_steps=60)
    keys = [f"{number:016x}" for number in range(2000)]
    brackets = [rule.bracket_index(key) for key in keys]
    shares = [brackets.count(bracket) / 2000 for bracket in range(5)]
    assert shares == sorted(shares, reverse=True) and shares[-1] > 0, "the bracket that stops earliest has most trials"
    (worst_key, *other_keys) = [key for key, bracket in zip(keys, brackets, strict=True) if bracket == 4]
    for key in other_keys:
        rule.report(key, 54, 1.0)
    assert not rule.report(worst_key, 54, 0.0)
