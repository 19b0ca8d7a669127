"""Which trials of a worker are in a step, and for which the step waits, without Ray."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lopt.engine import Engine
from sweeps.work import worker as worker_module
from sweeps.work.execution import Execution
from sweeps.work.worker import Worker
from tests.sweeps.clients import job_of, run_client, run_clients


@pytest.fixture
def step_sizes(monkeypatch):
    """The number of trials in each step. A step takes at least 0.2 s, and waits for every trial that has reported."""
    sizes, original = [], Engine.advance

    def advance(self):
        sizes.append(len(self.trials))
        time.sleep(0.2)
        return original(self)

    monkeypatch.setattr(Engine, "advance", advance)
    monkeypatch.setattr(worker_module, "_MIN_WAIT_S", 5.0)
    return sizes


def test_trials_that_report_together_go_on_together(configs, tmp_path, step_sizes):
    worker, names = Worker(), []
    for config in configs:
        names.append(worker.admit(job_of(config, tmp_path)))
    for step in (4, 8, 12):
        with ThreadPoolExecutor(len(names)) as pool:
            assert {report["step"] for report in pool.map(worker.next, names)} == {step}
    assert step_sizes == [6] * 12


def test_the_first_step_waits_for_as_many_trials_as_the_worker_has_room_for(configs, tmp_path, step_sizes, monkeypatch):
    monkeypatch.setattr(worker_module, "_FIRST_WAIT_S", 60.0)
    worker, jobs = Worker(), [job_of(config, tmp_path, pack_size=3) for config in configs[:3]]
    with ThreadPoolExecutor(3) as pool:
        began_at, clients = time.monotonic(), []
        for job in jobs:
            clients.append(pool.submit(run_client, worker, job))
            time.sleep(0.3)
        assert [len(client.result()) for client in clients] == [3, 3, 3]
    assert step_sizes == [3] * 12
    assert time.monotonic() - began_at < 60, "it does not wait any longer"


def test_the_first_step_does_not_wait_for_a_trial_that_has_failed(configs, tmp_path, step_sizes, monkeypatch):
    monkeypatch.setattr(worker_module, "_FIRST_WAIT_S", 60.0)
    original = Execution.begin

    def begin(self):
        return self.fail(ValueError("no")) if self.config.length == 6 else original(self)

    monkeypatch.setattr(Execution, "begin", begin)
    worker, jobs = Worker(), [job_of(config, tmp_path, pack_size=2) for config in (configs[0], configs[5])]
    began_at = time.monotonic()
    first, second = run_clients(worker, jobs)
    assert [first[-1]["status"], second[-1]["status"]] == ["complete", "failed"]
    assert time.monotonic() - began_at < 60


def test_the_first_step_waits_only_for_a_limited_time(configs, tmp_path, step_sizes, monkeypatch):
    monkeypatch.setattr(worker_module, "_FIRST_WAIT_S", 1.0)
    worker, job = Worker(), job_of(configs[0], tmp_path, pack_size=3)
    began_at = time.monotonic()
    name = worker.admit(job)
    with ThreadPoolExecutor(1) as pool:
        report = pool.submit(worker.next, name)
        while not step_sizes:
            time.sleep(0.01)
        assert time.monotonic() - began_at >= 1.0
        assert report.result()["step"] == 4
    assert step_sizes == [1] * 4
    worker.evict(name)


def test_all_trials_that_arrive_during_a_step_are_in_the_next_one(configs, tmp_path, step_sizes, monkeypatch):
    worker, jobs = Worker(), [job_of(config, tmp_path) for config in configs[:4]]
    original, is_stepping = Engine.advance, threading.Event()

    def advance(self):
        is_stepping.set()
        ends_at = time.monotonic() + 60
        while not step_sizes and worker._arriving_count < 3 and time.monotonic() < ends_at:
            time.sleep(0.01)  # the first step lasts until the others have arrived
        return original(self)

    monkeypatch.setattr(Engine, "advance", advance)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(run_client, worker, jobs[0])
        assert is_stepping.wait(60)
        others = [pool.submit(run_client, worker, job) for job in jobs[1:]]
        assert all(client.result()[-1]["status"] == "complete" for client in [first, *others])
    assert step_sizes[:2] == [1, 4]


def test_a_trial_that_takes_long_to_set_up_is_waited_for_only_once(configs, tmp_path, step_sizes, monkeypatch):
    monkeypatch.setattr(worker_module, "_MIN_WAIT_S", 2.0)
    may_begin, original = threading.Event(), Execution.begin

    def begin(self):
        if self.config.length == 6:
            assert may_begin.wait(60)
        return original(self)

    monkeypatch.setattr(Execution, "begin", begin)
    worker, early, late = Worker(), job_of(configs[0], tmp_path), job_of(configs[5], tmp_path)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run_client, worker, early)
        while not step_sizes:
            time.sleep(0.01)
        began_at = time.monotonic()
        second = pool.submit(run_client, worker, late)
        assert first.result()[-1]["status"] == "complete"
        assert 2.0 <= time.monotonic() - began_at < 12, "waiting before every remaining step would take 22 s"
        may_begin.set()
        assert second.result()[-1]["status"] == "complete"
    assert step_sizes == [1] * 24
