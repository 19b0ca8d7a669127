"""The supervisor of trials as they begin, report and end, alone and called by Ray's interfaces."""

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
from sweeps.on_ray.adapters import GuardedSupervisor, QueueSearcher, StoppingScheduler
from sweeps.on_ray.callbacks import DeathCounter
from sweeps.results.run_folder import StoreError
from sweeps.search.early_stopping import EarlyStopping
from sweeps.search.queue import TrialQueue
from sweeps.stopping.asha import ASHA
from sweeps.supervisor import Supervisor
from sweeps.work.job import SCORE, STEP, Job
from tests.sweeps.driver import by_rate
from tests.sweeps.records import make_record


class MemoryStore:
    """A store that keeps records in memory."""

    def __init__(self):
        self.records, self.set_aside_records, self.audited_records, self.error = {}, [], [], None

    def read(self, key):
        return self.records.get(key)

    def write(self, record):
        self.records[record.key] = record

    def set_aside(self, record):
        self.set_aside_records.append(self.records.pop(record.key))

    def add_audit(self, record):
        self.audited_records.append(record)

    def path(self, key):
        return SimpleNamespace(is_file=lambda: key in self.records)

    def store_error(self, reason):
        return StoreError(reason)

    def check(self):
        if self.error:
            raise StoreError(self.error)


class EventLog(Listener):
    """Keeps all events as (event, key, *further arguments)."""

    def __init__(self):
        self.events = []

    def __getattribute__(self, name):
        if name in vars(Listener) and not name.startswith("_"):
            return lambda job=None, *arguments: self.events.append(
                (name.removeprefix("on_"), job and job.key, *arguments)
            )
        return super().__getattribute__(name)

    def names(self):
        return [event[0] for event in self.events]


class Sweep:
    """A supervised sweep without training."""

    def __init__(self, audit=0.0):
        self.space, self.store, self.log = spaces.load("smoke", "paper"), MemoryStore(), EventLog()
        self.may_start, self.budget_is_spent = True, False
        budget = SimpleNamespace(may_start=lambda: self.may_start, is_spent=lambda: self.budget_is_spent)
        self.queue = TrialQueue(self.space, resolve=lambda config: config, finished=[], failed=[])
        self.supervisor = Supervisor(
            self.queue, EarlyStopping(self.space.stopping_rule, audit_share=audit), self.store, budget,
            job_of=self.job, listeners=[self.log],
        )  # fmt: skip
        self.number = 0

    def job(self, trial):
        return Job(
            config=trial.config, phase=trial.phase, cell=trial.cell.name, stratum=trial.stratum, out="o", run="r"
        )

    def begin(self):
        """Begin the next trial, and return its name and job; None if no trial may begin."""
        self.number += 1
        job = self.supervisor.begin_next_trial(f"t{self.number}")
        return (f"t{self.number}", job) if job else None

    def record(self, job, status="complete", score=None, steps=12):
        score = score_by_rate(job) if score is None else score
        return make_record(job.config, status, score, job.phase, job.cell, job.stratum, steps=steps)

    def report(self, job, step=4, score=0.5, **fields):
        record = json.dumps(self.record(job, "stopped", score, steps=step).to_dict())
        return {STEP: step, SCORE: score, "status": "running", "record": record, **fields}

    def end(self, name, job):
        self.store.write(self.record(job))
        self.supervisor.end(name, {"status": "complete", "record": "{}"})

    def run(self):
        while name_and_job := self.begin():
            self.end(*name_and_job)


def test_a_sweep_runs_to_its_end_and_listeners_get_every_event():
    sweep = Sweep()
    sweep.run()
    assert sweep.supervisor.is_idle and not sweep.supervisor.is_held_back_by_budget
    assert len(sweep.store.records) == 12
    assert sweep.log.names() == ["started", "ended"] * 12


def test_a_trial_that_is_worse_is_stopped_with_its_record_and_the_others_go_on():
    sweep = Sweep()
    (better, better_job), (worse, worse_job) = begin_two_of_one_cell(sweep)
    assert sweep.supervisor.report(better, sweep.report(better_job, score=0.9))
    assert not sweep.supervisor.report(worse, sweep.report(worse_job, score=0.1))
    assert sweep.store.records[worse_job.key].status == "stopped"
    sweep.supervisor.end(worse, sweep.report(worse_job, score=0.1))
    assert sweep.log.names()[-2:] == ["stopped", "ended"]


def score_by_rate(job):
    _, score = by_rate(job)
    return score


def begin_two_of_one_cell(sweep):
    """Begin four trials, because the three cells take turns, and return the two of the first cell."""
    names_and_jobs = [sweep.begin() for _ in range(4)]
    assert names_and_jobs[0][1].cell == names_and_jobs[3][1].cell
    return names_and_jobs[0], names_and_jobs[3]


def test_an_audited_trial_goes_on_and_is_noted():
    sweep = Sweep(audit=1.0)
    (better, better_job), (worse, worse_job) = begin_two_of_one_cell(sweep)
    sweep.supervisor.report(better, sweep.report(better_job, score=0.9))
    assert sweep.supervisor.report(worse, sweep.report(worse_job, score=0.1))
    assert [record.key for record in sweep.store.audited_records] == [worse_job.key]
    assert worse_job.key not in sweep.store.records


def test_confirm_trials_are_never_stopped_and_the_last_report_is_not_an_evaluation():
    sweep = Sweep()
    for _ in range(9):
        sweep.end(*sweep.begin())
    name, job = sweep.begin()
    assert job.phase == "confirm"
    assert sweep.supervisor.report(name, sweep.report(job, score=0.0))
    assert sweep.supervisor.report(name, {"status": "complete", STEP: 12, SCORE: 0.0})


def test_beyond_a_budget_every_trial_ends_at_its_report_and_none_is_recorded_as_stopped():
    sweep = Sweep()
    name, job = sweep.begin()
    assert sweep.supervisor.report(name, sweep.report(job))
    sweep.budget_is_spent = True
    assert not sweep.supervisor.report(name, sweep.report(job, step=6))
    assert sweep.supervisor.report(name, {"status": "complete", STEP: 12, SCORE: 0.0}), "the trial is over anyway"
    assert not sweep.store.records


@pytest.mark.parametrize("waiting", [False, True])
@pytest.mark.parametrize("position", [0, 4, 9, 10])
def test_a_trial_paused_at_a_budget_waits_and_has_not_failed(position, waiting):
    """From position 9 on, trials are confirm trials."""
    sweep = Sweep()
    for _ in range(position):
        sweep.end(*sweep.begin())
    name, job = sweep.begin()
    counts, report = sweep.queue.count_unfinished_trials(), None if waiting else sweep.report(job)
    sweep.may_start = False
    sweep.supervisor.end(name, report)
    assert sweep.begin() is None
    assert sweep.supervisor.is_idle and sweep.supervisor.is_held_back_by_budget
    assert sweep.queue.count_unfinished_trials() == counts
    assert sweep.log.events[-1] == ("paused", job.key, report or {})
    sweep.may_start = True
    sweep.run()
    started = [key for event, key, *_ in sweep.log.events if event == "started"]
    assert started.count(job.key) == 2, "the trial goes on once"
    assert len(sweep.store.records) == 12
    assert not sweep.supervisor.is_held_back_by_budget


@pytest.mark.parametrize("position", [0, 4, 9, 10])
def test_a_trial_whose_process_died_before_it_began_comes_again_at_once(position):
    """From position 9 on, trials are confirm trials."""
    sweep = Sweep()
    for _ in range(position):
        sweep.end(*sweep.begin())
    name, job = sweep.begin()
    counts = sweep.queue.count_unfinished_trials()
    for _ in range(3):
        sweep.supervisor.note_death(name, None, had_begun_in_process=False)
        sweep.supervisor.end(name, None, has_died=True)
        assert sweep.log.events[-1] == ("requeued", job.key)
        name, same_job = sweep.begin()
        assert same_job.key == job.key
        assert sweep.queue.count_unfinished_trials() == counts
    sweep.end(name, same_job)
    sweep.run()
    assert len(sweep.store.records) == 12
    assert all(cell.study.count_by_state() == {"complete": 3} for cell in sweep.queue._turns.cell_searches)


@pytest.mark.parametrize("report", [None, {}])
def test_a_trial_whose_process_died_has_failed(report):
    sweep = Sweep()
    name, job = sweep.begin()
    if report is None:
        sweep.supervisor.note_death(name, MemoryError("no room"), had_begun_in_process=True)
    sweep.supervisor.end(name, report, has_died=report is None)
    record = sweep.store.records[job.key]
    assert (record.status, record.error["type"]) == ("failed", "RuntimeError")
    assert ("MemoryError: no room" in record.error["message"]) == (report is None)
    assert sweep.log.names()[-1] == "ended"


def test_a_record_that_the_store_does_not_show_yet_is_read_from_the_last_report():
    sweep = Sweep()
    name, job = sweep.begin()
    record = sweep.record(job)
    sweep.supervisor.end(name, {"status": "complete", "record": json.dumps(record.to_dict())})
    assert sweep.log.events[-1] == ("ended", job.key, record)


def test_the_record_of_a_failed_trial_is_set_aside_when_the_trial_begins_again():
    sweep = Sweep()
    name, job = sweep.begin()
    sweep.supervisor.end(name, None)
    sweep.store.write(dataclasses.replace(sweep.record(job), status="failed"))
    while sweep.begin():
        pass
    assert [record.key for record in sweep.store.set_aside_records] == [job.key]


# --- called by Ray's interfaces --------------------------------------------------------------------------------------


def make_adapters(sweep):
    supervised = GuardedSupervisor(sweep.supervisor)
    unlimited = SimpleNamespace(has_room=lambda running_count: True)
    return supervised, QueueSearcher(supervised, unlimited), StoppingScheduler(supervised)


def make_tune_trial(name, status=TuneTrial.RUNNING):
    return SimpleNamespace(trial_id=name, status=status)


def test_tune_gets_jobs_and_is_told_when_the_sweep_is_over():
    sweep = Sweep()
    _, searcher, scheduler = make_adapters(sweep)
    job_dicts = [searcher.suggest(f"t{number}") for number in range(9)]
    jobs = [Job.from_dict(json.loads(json.dumps(job_dict))) for job_dict in job_dicts]
    assert searcher.suggest("t9") is None, "winners wait for running trials"
    for number, job in enumerate(jobs):
        report = sweep.report(job, score=score_by_rate(job))
        if scheduler.on_trial_result(None, make_tune_trial(f"t{number}"), report) == TrialScheduler.CONTINUE:
            sweep.store.write(sweep.record(job))
        searcher.on_trial_complete(f"t{number}", report)
    number = 10
    while isinstance(suggestion := searcher.suggest(f"t{number}"), dict):
        sweep.store.write(sweep.record(Job.from_dict(suggestion)))
        searcher.on_trial_complete(f"t{number}", {"status": "complete"})
        number += 1
    assert suggestion == Searcher.FINISHED
    assert len(sweep.store.records) == 12


def test_results_that_cannot_be_written_end_tune_as_an_interrupt_does():
    """Tune would take any other exception for a failure of the trial."""
    sweep = Sweep()
    supervised, searcher, scheduler = make_adapters(sweep)
    job = Job.from_dict(searcher.suggest("t0"))
    sweep.store.error = "the disk is full"
    with pytest.raises(KeyboardInterrupt):
        scheduler.on_trial_result(None, make_tune_trial("t0"), sweep.report(job))
    assert str(supervised.error) == "the disk is full"
    with pytest.raises(KeyboardInterrupt):
        scheduler.on_trial_result(None, make_tune_trial("t0"), sweep.report(job, store_error="read-only"))
    assert str(supervised.error) == "read-only"


def test_a_rule_that_raises_ends_the_sweep_and_does_not_fail_a_trial(monkeypatch):
    sweep = Sweep()
    supervised, searcher, scheduler = make_adapters(sweep)
    job = Job.from_dict(searcher.suggest("t0"))
    monkeypatch.setattr(ASHA, "report", lambda *arguments: 1 / 0)
    with pytest.raises(KeyboardInterrupt):
        scheduler.on_trial_result(None, make_tune_trial("t0"), sweep.report(job))
    assert isinstance(supervised.error, ZeroDivisionError)


def test_beyond_a_budget_no_trial_gets_a_place():
    """Otherwise all waiting trials would be trained to their first report."""
    sweep = Sweep()
    _, _, scheduler = make_adapters(sweep)
    statuses = (TuneTrial.RUNNING, TuneTrial.PENDING, TuneTrial.TERMINATED, TuneTrial.PENDING)
    trials = [make_tune_trial(str(number), status) for number, status in enumerate(statuses)]
    stopped = []

    def stop(trial):
        trial.status = TuneTrial.TERMINATED
        stopped.append(trial.trial_id)

    controller = SimpleNamespace(get_trials=lambda: trials, stop_trial=stop)
    assert scheduler.choose_trial_to_run(controller) is trials[1]
    assert not stopped
    sweep.budget_is_spent = True
    assert scheduler.choose_trial_to_run(controller) is None
    assert stopped == ["1", "3"]
    assert trials[0].status == TuneTrial.RUNNING


@pytest.mark.parametrize(("status", "begun"), [("PENDING", False), ("RUNNING", True)])
def test_a_trial_in_a_dead_process_is_requeued_only_if_it_had_not_begun(status, begun):
    sweep = Sweep()
    _, searcher, scheduler = make_adapters(sweep)
    job = Job.from_dict(searcher.suggest("t0"))
    scheduler.on_trial_error(None, make_tune_trial("t0", status))
    searcher.on_trial_complete("t0", error=True)
    assert sweep.log.names()[-1] == ("ended" if begun else "requeued")
    assert (job.key in sweep.store.records) == begun


class DyingTrial:
    """A trial under Tune's rules: it fails at the third death that counts."""

    def __init__(self):
        self.trial_id, self.run_metadata = "a", SimpleNamespace(num_failures=0)
        self.now = 0.0
        self.death_counter = DeathCounter(clock=lambda: self.now)

    def die(self, now):
        """Let the trial die at this time, and return whether it is tried again."""
        self.now = now
        self.run_metadata.num_failures += 1
        if self.run_metadata.num_failures > 2:
            return False
        self.death_counter.on_trial_recover(0, [], self)
        return True

    def evaluate(self, step):
        self.death_counter.on_trial_result(0, [], self, {STEP: step})


def test_deaths_on_a_machine_that_is_being_taken_away_count_once():
    trial = DyingTrial()
    assert all(trial.die(now) for now in (1.0, 1.5, 2.0, 11.0, 20.0, 30.0))
    assert trial.run_metadata.num_failures == 1


def test_a_trial_whose_process_always_dies_fails_at_last():
    trial, deaths = DyingTrial(), 0
    while trial.die(7.0 * deaths):
        deaths += 1
        assert deaths < 15
    assert deaths > 2


def test_deaths_with_evaluations_between_them_do_not_add_up():
    trial = DyingTrial()
    for step in range(1, 20):
        assert trial.die(100.0 * step)
        trial.evaluate(step)
    assert trial.die(3000.0)
    trial.evaluate(19)  # the trial repeats this step, so it is not progress
    assert trial.die(3100.0)
    assert not trial.die(3200.0)
