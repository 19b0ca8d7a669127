"""What is done with each trial as it begins, reports and ends, with and without Ray's interfaces before it."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from sweeps import spaces
from sweeps.listener import Listener
from sweeps.on_ray.adapters import QueueSearcher, StoppingScheduler, Supervised
from sweeps.on_ray.callbacks import ForgivenDeaths
from sweeps.results.run_folder import StoreError
from sweeps.search.early_stopping import EarlyStopping
from sweeps.search.queue import TrialQueue
from sweeps.stopping.asha import ASHA
from sweeps.supervisor import Supervisor
from sweeps.work.job import SCORE, STEP, Job
from tests.sweeps.driver import by_rate
from tests.sweeps.records import make_record


class Records:
    """A store that keeps records in memory."""

    def __init__(self):
        self.records, self.aside, self.audited, self.broken = {}, [], [], None

    def read(self, key):
        return self.records.get(key)

    def write(self, record):
        self.records[record.key] = record

    def set_aside(self, record):
        self.aside.append(self.records.pop(record.key))

    def add_audit(self, record):
        self.audited.append(record)

    def check(self):
        if self.broken:
            raise StoreError(self.broken)


class Heard(Listener):
    """All that is told, as (event, key)."""

    def __init__(self):
        self.events = []

    def __getattribute__(self, name):
        if name in vars(Listener) and not name.startswith("_"):
            return lambda job=None, *more: self.events.append((name, job and job.key, *more))
        return super().__getattribute__(name)

    def names(self):
        return [event[0] for event in self.events]


class Sweep:
    """A supervised sweep without training."""

    def __init__(self, audit=0.0):
        self.space, self.store, self.heard = spaces.load("smoke", "paper"), Records(), Heard()
        self.budget = SimpleNamespace(may=True, done=False)
        self.budget.may_start, self.budget.over = lambda: self.budget.may, lambda: self.budget.done
        self.queue = TrialQueue(self.space, resolve=lambda config: config, finished=[], failed=[])
        self.supervisor = Supervisor(
            self.queue, EarlyStopping(self.space.stopping_rule, audit=audit), self.store, self.budget,
            job_of=self.job, listeners=[self.heard],
        )  # fmt: skip
        self.number = 0

    def job(self, trial):
        place = {"cell": trial.cell.name, "stratum": trial.stratum, "out": "o", "run": "r"}
        return Job(config=trial.config, phase=trial.phase, **place)

    def begin(self):
        self.number += 1
        job = self.supervisor.next(f"t{self.number}")
        return (f"t{self.number}", job) if job else None

    def record(self, job, status="complete", score=None, steps=12):
        score = by_rate(job)[1] if score is None else score
        return make_record(job.config, status, score, job.phase, job.cell, job.stratum, steps=steps)

    def report(self, job, step=4, score=0.5, **more):
        record = json.dumps(self.record(job, "stopped", score, steps=step).to_dict())
        return {STEP: step, SCORE: score, "status": "running", "record": record, **more}

    def end(self, name, job):
        self.store.write(self.record(job))
        self.supervisor.end(name, {"status": "complete", "record": "{}"})

    def run(self):
        while begun := self.begin():
            self.end(*begun)


def test_a_sweep_runs_to_its_end_and_all_of_it_is_told():
    sweep = Sweep()
    sweep.run()
    assert sweep.supervisor.idle and not sweep.supervisor.held_back
    assert len(sweep.store.records) == 12
    assert sweep.heard.names() == ["started", "ended"] * 12


def test_a_trial_that_is_worse_is_stopped_with_its_record_and_the_others_go_on():
    sweep = Sweep()
    (good, first), (bad, second) = _two_of_one_cell(sweep)
    assert sweep.supervisor.report(good, sweep.report(first, score=0.9))
    assert not sweep.supervisor.report(bad, sweep.report(second, score=0.1))
    assert sweep.store.records[second.key].status == "stopped"
    sweep.supervisor.end(bad, sweep.report(second, score=0.1))
    assert sweep.heard.names()[-2:] == ["stopped", "ended"]


def _two_of_one_cell(sweep):
    begun = [sweep.begin() for _ in range(4)]
    assert begun[0][1].cell == begun[3][1].cell
    return begun[0], begun[3]


def test_an_audited_trial_goes_on_and_is_noted():
    sweep = Sweep(audit=1.0)
    (good, first), (bad, second) = _two_of_one_cell(sweep)
    sweep.supervisor.report(good, sweep.report(first, score=0.9))
    assert sweep.supervisor.report(bad, sweep.report(second, score=0.1))
    assert [record.key for record in sweep.store.audited] == [second.key]
    assert second.key not in sweep.store.records


def test_confirm_trials_are_never_stopped_and_the_last_report_is_no_evaluation():
    sweep = Sweep()
    for _ in range(9):
        sweep.end(*sweep.begin())
    name, job = sweep.begin()
    assert job.phase == "confirm"
    assert sweep.supervisor.report(name, sweep.report(job, score=0.0))
    assert sweep.supervisor.report(name, {"status": "complete", STEP: 12, SCORE: 0.0})


def test_beyond_a_budget_every_trial_ends_at_its_report_and_none_counts_as_worse():
    sweep = Sweep()
    name, job = sweep.begin()
    assert sweep.supervisor.report(name, sweep.report(job))
    sweep.budget.done = True
    assert not sweep.supervisor.report(name, sweep.report(job, step=6))
    assert sweep.supervisor.report(name, {"status": "complete", STEP: 12, SCORE: 0.0}), "it is over anyway"
    assert not sweep.store.records


@pytest.mark.parametrize("waiting", [False, True])
@pytest.mark.parametrize("after", [0, 4, 9, 10])
def test_a_trial_let_go_at_a_budget_waits_and_has_not_failed(after, waiting):
    """The confirm trials are those from number 9 on."""
    sweep = Sweep()
    for _ in range(after):
        sweep.end(*sweep.begin())
    name, job = sweep.begin()
    whole, report = sweep.queue.counts(), None if waiting else sweep.report(job)
    sweep.budget.may = False
    sweep.supervisor.end(name, report)
    assert sweep.begin() is None
    assert sweep.supervisor.idle and sweep.supervisor.held_back
    assert sweep.queue.counts() == whole
    assert sweep.heard.events[-1] == ("paused", job.key, report or {})
    sweep.budget.may = True
    sweep.run()
    started = [key for event, key, *_ in sweep.heard.events if event == "started"]
    assert started.count(job.key) == 2, "it goes on once"
    assert len(sweep.store.records) == 12
    assert not sweep.supervisor.held_back


@pytest.mark.parametrize("after", [0, 4, 9, 10])
def test_a_trial_whose_process_was_dead_before_it_began_comes_again_at_once(after):
    """The confirm trials are those from number 9 on."""
    sweep = Sweep()
    for _ in range(after):
        sweep.end(*sweep.begin())
    name, job = sweep.begin()
    whole = sweep.queue.counts()
    for _ in range(3):
        sweep.supervisor.died(name, None, begun=False)
        sweep.supervisor.end(name, None, died=True)
        assert sweep.heard.events[-1] == ("requeued", job.key)
        name, again = sweep.begin()
        assert again.key == job.key
        assert sweep.queue.counts() == whole
    sweep.end(name, again)
    sweep.run()
    assert len(sweep.store.records) == 12
    assert all(cell.study.states() == {"complete": 3} for cell in sweep.queue._turns.cells)


@pytest.mark.parametrize("report", [None, {}])
def test_a_trial_whose_process_died_has_failed(report):
    sweep = Sweep()
    name, job = sweep.begin()
    if report is None:
        sweep.supervisor.died(name, MemoryError("no room"), begun=True)
    sweep.supervisor.end(name, report, died=report is None)
    record = sweep.store.records[job.key]
    assert (record.status, record.error["type"]) == ("failed", "RuntimeError")
    assert ("MemoryError: no room" in record.error["message"]) == (report is None)
    assert sweep.heard.names()[-1] == "ended"


def test_a_record_that_is_not_seen_yet_is_read_from_the_last_report():
    sweep = Sweep()
    name, job = sweep.begin()
    record = sweep.record(job)
    sweep.supervisor.end(name, {"status": "complete", "record": json.dumps(record.to_dict())})
    assert sweep.heard.events[-1] == ("ended", job.key, record)


def test_an_earlier_failure_is_set_aside_when_its_trial_begins_again():
    sweep = Sweep()
    name, job = sweep.begin()
    sweep.supervisor.end(name, None)
    sweep.store.write(dataclasses.replace(sweep.record(job), status="failed"))
    while sweep.begin():
        pass
    assert [record.key for record in sweep.store.aside] == [job.key]


# --- behind Ray's interfaces -----------------------------------------------------------------------------------------


def adapters(sweep):
    supervised = Supervised(sweep.supervisor)
    return supervised, QueueSearcher(supervised), StoppingScheduler(supervised)


def tune_trial(name, status=TuneTrial.RUNNING):
    return SimpleNamespace(trial_id=name, status=status)


def test_tune_gets_jobs_and_hears_when_the_sweep_is_over():
    sweep = Sweep()
    _, searcher, scheduler = adapters(sweep)
    values = [searcher.suggest(f"t{number}") for number in range(9)]
    jobs = [Job.from_dict(json.loads(json.dumps(value))) for value in values]
    assert searcher.suggest("t9") is None, "winners wait for running trials"
    for number, job in enumerate(jobs):
        report = sweep.report(job, score=by_rate(job)[1])
        if scheduler.on_trial_result(None, tune_trial(f"t{number}"), report) == TrialScheduler.CONTINUE:
            sweep.store.write(sweep.record(job))
        searcher.on_trial_complete(f"t{number}", report)
    number = 10
    while isinstance(values := searcher.suggest(f"t{number}"), dict):
        sweep.store.write(sweep.record(Job.from_dict(values)))
        searcher.on_trial_complete(f"t{number}", {"status": "complete"})
        number += 1
    assert values == Searcher.FINISHED
    assert len(sweep.store.records) == 12


def test_results_that_cannot_be_kept_end_tune_as_an_interrupt_does():
    """Tune takes any exception for a trial's."""
    sweep = Sweep()
    supervised, searcher, scheduler = adapters(sweep)
    job = Job.from_dict(searcher.suggest("t0"))
    sweep.store.broken = "the disk is full"
    with pytest.raises(KeyboardInterrupt):
        scheduler.on_trial_result(None, tune_trial("t0"), sweep.report(job))
    assert str(supervised.error) == "the disk is full"
    with pytest.raises(KeyboardInterrupt):
        scheduler.on_trial_result(None, tune_trial("t0"), sweep.report(job, store_error="read-only"))
    assert str(supervised.error) == "read-only"


def test_a_rule_that_raises_ends_the_sweep_and_is_no_trials_failure(monkeypatch):
    sweep = Sweep()
    supervised, searcher, scheduler = adapters(sweep)
    job = Job.from_dict(searcher.suggest("t0"))
    monkeypatch.setattr(ASHA, "report", lambda *arguments: 1 / 0)
    with pytest.raises(KeyboardInterrupt):
        scheduler.on_trial_result(None, tune_trial("t0"), sweep.report(job))
    assert isinstance(supervised.error, ZeroDivisionError)


def test_beyond_a_budget_no_trial_gets_a_place():
    """Else those that wait would all be trained to their first report."""
    sweep = Sweep()
    _, _, scheduler = adapters(sweep)
    states = (TuneTrial.RUNNING, TuneTrial.PENDING, TuneTrial.TERMINATED, TuneTrial.PENDING)
    trials = [tune_trial(str(number), status) for number, status in enumerate(states)]
    stopped = []

    def stop(trial):
        trial.status = TuneTrial.TERMINATED
        stopped.append(trial.trial_id)

    controller = SimpleNamespace(get_trials=lambda: trials, stop_trial=stop)
    assert scheduler.choose_trial_to_run(controller) is trials[1]
    assert not stopped
    sweep.budget.done = True
    assert scheduler.choose_trial_to_run(controller) is None
    assert stopped == ["1", "3"]
    assert trials[0].status == TuneTrial.RUNNING


@pytest.mark.parametrize(("status", "begun"), [("PENDING", False), ("RUNNING", True)])
def test_of_a_dead_process_it_is_told_whether_the_trial_had_begun_in_it(status, begun):
    sweep = Sweep()
    _, searcher, scheduler = adapters(sweep)
    job = Job.from_dict(searcher.suggest("t0"))
    scheduler.on_trial_error(None, tune_trial("t0", status))
    searcher.on_trial_complete("t0", error=True)
    assert sweep.heard.names()[-1] == ("ended" if begun else "requeued")
    assert (job.key in sweep.store.records) == begun


class _Dying:
    """A trial under Tune's rules: the third death that counts fails it."""

    def __init__(self):
        self.trial_id, self.run_metadata = "a", SimpleNamespace(num_failures=0)
        self.now = 0.0
        self.forgiven = ForgivenDeaths(clock=lambda: self.now)

    def die(self, at):
        """Whether it is tried again."""
        self.now = at
        self.run_metadata.num_failures += 1
        if self.run_metadata.num_failures > 2:
            return False
        self.forgiven.on_trial_recover(0, [], self)
        return True

    def evaluate(self, step):
        self.forgiven.on_trial_result(0, [], self, {STEP: step})


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
