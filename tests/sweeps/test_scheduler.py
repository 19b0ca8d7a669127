"""Early stopping: one ASHA a stratum, over Ray's own."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from lopt.training import Trial
from sweeps.scheduler import Mercy, StratifiedASHA, _draw
from sweeps.trial import METRIC, TIME
from tests.sweeps.records import make_record


def trial(name, stratum, phase="search"):
    return SimpleNamespace(trial_id=name, config={"stratum": stratum, "phase": phase})


def report(step, accuracy, status="running"):
    return {TIME: step, METRIC: accuracy, "status": status}


def make_asha(**changes):
    return StratifiedASHA(**{"grace_steps": 2, "reduction_factor": 3, "max_steps": 18, **changes})


def test_a_stratum_decides_as_rays_asha_alone_would():
    import random

    draw = random.Random(0)
    ours = make_asha()
    theirs = {
        s: AsyncHyperBandScheduler(
            time_attr=TIME, metric=METRIC, mode="max", grace_period=2, reduction_factor=3, max_t=18
        )
        for s in "ab"
    }
    decisions = []
    for number in range(60):
        one = trial(str(number), "ab"[number % 2])
        skill = draw.random() * (1 if number % 2 else 0.3)  # one stratum is much weaker
        ours.on_trial_add(None, one)
        theirs[one.config["stratum"]].on_trial_add(None, one)
        for step in range(2, 18, 2):
            result = report(step, skill * step)
            got = ours.on_trial_result(None, one, result)
            assert got == theirs[one.config["stratum"]].on_trial_result(None, one, result)
            if got == TrialScheduler.STOP:
                break
        decisions.append((one.config["stratum"], got))
    for stratum in "ab":
        share = sum(d == TrialScheduler.CONTINUE for s, d in decisions if s == stratum) / 30
        assert 0.03 < share < 0.5, "each stratum keeps some and stops most"


def test_a_strong_stratum_never_stops_a_weak_one():
    asha = make_asha()
    for number in range(9):
        strong = trial(f"s{number}", "strong")
        asha.on_trial_add(None, strong)
        asha.on_trial_result(None, strong, report(2, 0.9))
    weak = trial("w", "weak")
    asha.on_trial_add(None, weak)
    assert asha.on_trial_result(None, weak, report(2, 0.1)) == TrialScheduler.CONTINUE


def test_confirm_trials_are_never_stopped_and_the_last_report_is_no_rung():
    stopped = []
    asha = make_asha(on_stop=lambda trial_id, result: stopped.append(trial_id))
    for number in range(9):
        one = trial(f"g{number}", "a")
        asha.on_trial_add(None, one)
        asha.on_trial_result(None, one, report(2, 0.9))
    confirm, last = trial("c", "a", phase="confirm"), trial("l", "a")
    for one in (confirm, last):
        asha.on_trial_add(None, one)
    assert asha.on_trial_result(None, confirm, report(2, 0.0)) == TrialScheduler.CONTINUE
    assert asha.on_trial_result(None, last, report(18, 0.0, "complete")) == TrialScheduler.CONTINUE
    bad = trial("b", "a")
    asha.on_trial_add(None, bad)
    assert asha.on_trial_result(None, bad, report(2, 0.0)) == TrialScheduler.STOP
    assert stopped == ["b"]


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_replayed_rungs_decide_like_those_that_were_lived_through(tiny, metric):
    lived, replayed = (make_asha(grace_steps=4, max_steps=12) for _ in range(2))
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
        one = trial(record.key, "a")
        lived.on_trial_add(None, one)
        for evaluation in record.evaluations[:-1]:
            lived.on_trial_result(None, one, report(evaluation.step, evaluation.score(metric)))
    replayed.replay(records)
    for number in range(40):
        accuracy = 0.4 + number / 80
        outcomes = []
        for asha in (lived, replayed):
            one = trial(f"n{number}", "a")
            asha.on_trial_add(None, one)
            outcomes.append(asha.on_trial_result(None, one, report(4, accuracy)))
        assert outcomes[0] == outcomes[1]


def test_a_restored_trial_fills_the_rungs_that_it_passed_before(tiny):
    """Its first report comes late; what it had at the earlier rungs is in the record that the report carries."""
    made = Trial(tiny.replace(max_steps=18, eval_every=2), phase="search")
    for evaluation in made:
        if evaluation.step == 8:
            break
    record = made.finish(cell="a", stratum="a")
    accuracies = [e.selection_accuracy for e in record.evaluations]
    result = {**report(8, max(accuracies)), "restored": True, "record": json.dumps(record.to_dict())}
    asha, one = make_asha(), trial("one", "a")
    asha.on_trial_add(None, one)
    assert asha.on_trial_result(None, one, result) == TrialScheduler.CONTINUE
    (bracket,) = asha._asha(one)._brackets
    rungs = {milestone: recorded.get("one") for milestone, recorded in bracket._rungs}
    assert rungs == {2: accuracies[0], 6: max(accuracies[:3]), 18: None}

    best = trial("best", "a")
    asha.on_trial_add(None, best)
    asha.on_trial_result(None, best, report(6, 1.0))
    worst = trial("worst", "a")
    asha.on_trial_add(None, worst)
    late = dataclasses.replace(record, evaluations=record.evaluations[:3])
    result = {**report(6, 0.0), "restored": True, "record": json.dumps(late.to_dict())}
    assert asha.on_trial_result(None, worst, result) == TrialScheduler.STOP, "its last evaluation counts"


def test_an_audited_trial_goes_on_without_competing(tiny):
    audits = []
    asha = make_asha(audit=1.0, on_audit=audits.append, on_stop=lambda *_: pytest.fail("nobody is stopped"))
    for number in range(9):
        one = trial(f"g{number}", "a")
        asha.on_trial_add(None, one)
        asha.on_trial_result(None, one, report(2, 0.9))
    record = make_record(tiny, accuracy=0.1, steps=4, cell="a")
    bad = trial("b", "a")
    asha.on_trial_add(None, bad)
    for step in (2, 6):
        result = {**report(step, 0.1), "record": json.dumps(dataclasses.replace(record, steps=step).to_dict())}
        assert asha.on_trial_result(None, bad, result) == TrialScheduler.CONTINUE
    assert [(r.key, r.steps) for r in audits] == [(record.key, 2)], "where it would have been stopped, once"
    (bracket,) = asha._asha(bad)._brackets
    assert "b" not in dict(bracket._rungs)[6], "no rung beyond"

    # Under a later command: restored, and replayed when it is over.
    for audited in ({record.key: 2}, {}):
        again, restored = make_asha(audited=audited), trial("r", "a")
        again.replay([make_record(tiny.replace(seed=s), accuracy=0.9, cell="a") for s in range(1, 9)])
        again.on_trial_add(None, restored)
        late = make_record(tiny, accuracy=0.1, steps=8, cell="a")
        result = {**report(8, 0.1), "restored": True, "record": json.dumps(late.to_dict())}
        expected = TrialScheduler.CONTINUE if audited else TrialScheduler.STOP
        assert again.on_trial_result(None, restored, result) == expected


def test_who_is_audited_depends_on_the_key_alone_and_the_share_is_kept():
    chosen = [_draw(f"{number:016x}") for number in range(2000)]
    assert chosen == [_draw(f"{number:016x}") for number in range(2000)]
    assert 0.08 < sum(draw < 0.1 for draw in chosen) / 2000 < 0.12


def test_beyond_a_budget_every_trial_ends_at_its_report_and_none_counts_as_worse():
    over, worse = [], []
    asha = make_asha(over_budget=lambda: bool(over), on_stop=lambda trial_id, result: worse.append(trial_id))
    trials = [trial("a", "s"), trial("b", "s", "confirm")]
    for each in trials:
        asha.on_trial_add(None, each)
        assert asha.on_trial_result(None, each, report(4, 0.5)) == TrialScheduler.CONTINUE
    over.append(True)
    for each in trials:
        assert asha.on_trial_result(None, each, report(5, 0.5)) == TrialScheduler.STOP
        assert asha.on_trial_result(None, each, report(18, 0.5, "complete")) == TrialScheduler.CONTINUE
    assert worse == []


def test_beyond_a_budget_no_trial_gets_a_place():
    """Else those that wait would all be trained to their first report."""
    over, stopped = [], []
    asha = make_asha(over_budget=lambda: bool(over))
    states = (TuneTrial.RUNNING, TuneTrial.PENDING, TuneTrial.TERMINATED, TuneTrial.PENDING)
    trials = [SimpleNamespace(trial_id=str(n), status=status) for n, status in enumerate(states)]

    def stop(each):
        each.status = TuneTrial.TERMINATED
        stopped.append(each.trial_id)

    controller = SimpleNamespace(get_trials=lambda: trials, stop_trial=stop)
    assert asha.choose_trial_to_run(controller) is trials[1]
    assert not stopped
    over.append(True)
    assert asha.choose_trial_to_run(controller) is None
    assert stopped == ["1", "3"]
    assert trials[0].status == TuneTrial.RUNNING


class _Dying:
    """A trial under Tune's rules: the third death that counts fails it."""

    def __init__(self):
        self.trial_id, self.run_metadata = "a", SimpleNamespace(num_failures=0)
        self.now = 0.0
        self.mercy = Mercy(clock=lambda: self.now)

    def die(self, at):
        """Whether it is tried again."""
        self.now = at
        self.run_metadata.num_failures += 1
        if self.run_metadata.num_failures > 2:
            return False
        self.mercy.on_trial_recover(0, [], self)
        return True

    def evaluate(self, step):
        self.mercy.on_trial_result(0, [], self, {TIME: step})


def test_deaths_on_a_machine_that_is_being_taken_away_count_once():
    trial = _Dying()
    assert all(trial.die(at) for at in (1.0, 1.5, 2.0, 11.0, 20.0, 30.0))
    assert trial.run_metadata.num_failures == 1


def test_a_trial_whose_process_always_dies_fails_at_last():
    trial, deaths = _Dying(), 0
    while trial.die(7.0 * deaths):
        deaths += 1
        assert deaths < 15
    assert deaths > 2


def test_deaths_with_evaluations_between_them_do_not_add_up():
    trial = _Dying()
    for step in range(1, 20):
        assert trial.die(100.0 * step)
        trial.evaluate(step)
    assert trial.die(3000.0)
    trial.evaluate(19)  # nothing new
    assert trial.die(3100.0)
    assert not trial.die(3200.0)


@pytest.mark.parametrize(("status", "begun"), [("PENDING", False), ("RUNNING", True)])
def test_of_a_dead_process_it_is_told_whether_the_trial_had_begun_in_it(status, begun):
    told = []
    asha = make_asha(on_error=lambda *death: told.append(death))
    one, other = trial("one", "a"), trial("other", "a")
    for each in (one, other):
        each.status = status
        asha.on_trial_add(None, each)
    asha.on_trial_result(None, one, report(2, 0.9))
    asha.on_trial_error(None, one)
    assert told == [("one", None, begun)]
    (bracket,) = asha._strata["a"]._brackets
    assert any("one" in recorded for _, recorded in bracket._rungs) == begun, "it comes again under another name"
