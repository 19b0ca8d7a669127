"""A client whose trial is beyond its time limit, with a stand-in for Ray in this process."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import SimpleNamespace

import pytest

import lopt.backbones
import lopt.training
from lopt.engine import Engine
from lopt.resolve import resolve
from lopt.training import Trial
from sweeps.on_ray import client
from sweeps.results.store import Store
from sweeps.work import process
from sweeps.work.worker import Worker
from tests.sweeps.clients import job_of
from tests.sweeps.ray_stand_in import POOL, ActorDied, ActorHandle, MortalWorker, replace_ray

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tiny):
    return tiny.replace(precision="fp64", max_steps=12, eval_every=4)


@pytest.fixture
def short_hang(config, monkeypatch):
    """A trial beyond its time limit counts as hanging after 0.4 s."""
    Trial(config)  # loads weights and data, so that the next trial is set up at once
    for module in (client, process):
        monkeypatch.setattr(module, "HANG_S", 0.4)


def make_step_hang(monkeypatch, seed):
    """Let the seventh step of a trial with this seed hang. Return an event that ends the hang."""
    end_of_hang, original = threading.Event(), Engine.advance

    def advance(self):
        if any(trial.config.seed == seed and trial.step == 6 for trial in self.trials):
            end_of_hang.wait(30)
            raise RuntimeError("a worker that was ended")
        return original(self)

    monkeypatch.setattr(Engine, "advance", advance)
    return end_of_hang


def test_a_trial_whose_step_hangs_fails_and_its_worker_is_ended(
    config, tmp_path, ray_with_workers, monkeypatch, short_hang
):
    end_of_hang = make_step_hang(monkeypatch, config.seed)
    ended_devices = ray_with_workers([Worker()])
    *reports, last = client.reports_from_worker(job_of(config, tmp_path, limit_s=2.0))
    end_of_hang.set()
    assert [report["step"] for report in reports] == [4] and last["status"] == "failed"
    assert ended_devices == [("node", None)]
    record = Store(tmp_path, "r").read(resolve(config).key)
    assert record.error["type"] == "TimeoutError"
    assert "longer than 2 s (--max-trial-time), and reached no evaluation after step 4" in record.error["message"]


@pytest.mark.parametrize("part", ["weights", "data"])
def test_a_trial_whose_setup_hangs_fails_and_its_worker_is_ended(
    config, tmp_path, ray_with_workers, monkeypatch, short_hang, part
):
    config, end_of_hang = resolve(config), threading.Event()
    function = (lopt.backbones, "load") if part == "weights" else (lopt.training, "prepare_data")
    monkeypatch.setattr(*function, lambda *arguments: end_of_hang.wait(30))
    ended_devices = ray_with_workers([Worker()])
    (report,) = client.reports_from_worker(job_of(config, tmp_path, limit_s=0.5))
    assert (report["status"], report["step"]) == ("failed", 0) and ended_devices == [("node", None)]
    error = Store(tmp_path, "r").read(config.key).error
    end_of_hang.set()
    assert error["type"] == "TimeoutError"
    assert "longer than 0 s (--max-trial-time), and was still reading weights and data" in error["message"]


def test_a_worker_that_was_ended_for_another_trial_is_not_counted_as_a_death(config, tmp_path, ray_with_workers):
    class EndedWorker(Worker):
        def admit(self, job, steps_alone=False):
            ended_devices.append("a device")
            raise ActorDied("the actor was killed")

    ended_devices = ray_with_workers([*(EndedWorker() for _ in range(client.MAX_DEATHS)), MortalWorker(9)])
    assert [report["step"] for report in client.reports_from_worker(job_of(config, tmp_path))] == [4, 8, 12]


class SharedWorker:
    """The worker of a device as clients on Ray see it. When it is ended, its calls fail and another takes its place."""

    def __init__(self):
        self.lock, self.worker, self.ended_workers = threading.Lock(), Worker(), []

    def keeper(self):
        """A keeper that hands out this worker."""
        return SimpleNamespace(
            worker=lambda node, device, key: self.handle(),
            end_worker=self.end_worker,
            hang_count=lambda node, device: len(self.ended_workers),
        )

    def handle(self):
        worker, ended_workers = self.worker, self.ended_workers

        def raise_if_ended():
            if worker in ended_workers:
                raise ActorDied("the actor was killed")

        class MortalActor:
            def __getattr__(self, name):
                def call(*arguments):
                    raise_if_ended()
                    return getattr(worker, name)(*arguments)

                return call

            def admit(self, job, steps_alone):
                future = POOL.submit(worker.admit, job, steps_alone)
                while not wait([future], 0.05).done:
                    raise_if_ended()
                return future.result()

            def next(self, name):
                report = worker.next(name)
                raise_if_ended()
                return report

        return ActorHandle(MortalActor())

    def end_worker(self, node, device, hang_count):
        with self.lock:
            if hang_count < len(self.ended_workers):
                return
            ended_worker, self.worker = self.worker, Worker()
            self.ended_workers.append(ended_worker)
        for name in list(ended_worker._hosted):  # calls that wait in the worker end
            ended_worker.evict(name)


def test_when_a_step_of_several_trials_hangs_only_the_one_at_fault_fails(config, tmp_path, monkeypatch, short_hang):
    end_of_hang, shared = make_step_hang(monkeypatch, 2), SharedWorker()
    replace_ray(monkeypatch, shared.keeper())
    jobs = [job_of(config.replace(seed=seed), tmp_path, limit_s=3.0) for seed in (1, 2, 3)]
    with ThreadPoolExecutor(3) as pool:
        all_reports = pool.map(lambda job: list(client.reports_from_worker(job)), jobs)
        statuses = [reports[-1]["status"] for reports in all_reports]
    end_of_hang.set()
    assert statuses == ["complete", "failed", "complete"]
    assert len(shared.ended_workers) == 2, "once with all trials in it, once with only the one at fault"


def test_trials_that_wait_for_one_whose_setup_hangs_are_not_at_fault(config, tmp_path, monkeypatch, short_hang):
    is_hanging, end_of_hang, original, shared = threading.Event(), threading.Event(), Trial.__init__, SharedWorker()

    def set_up(self, config, **options):
        if config.seed == 2:
            is_hanging.set()
            end_of_hang.wait(30)
        original(self, config, **options)

    monkeypatch.setattr(Trial, "__init__", set_up)
    replace_ray(monkeypatch, shared.keeper())

    def last_status(seed):
        job = job_of(config.replace(seed=seed), tmp_path, limit_s=4.0)
        return list(client.reports_from_worker(job))[-1]["status"]

    with ThreadPoolExecutor(3) as pool:
        statuses = [pool.submit(last_status, 2)]
        assert is_hanging.wait(30)
        statuses += [pool.submit(last_status, seed) for seed in (1, 3)]
        assert [status.result() for status in statuses] == ["failed", "complete", "complete"]
    end_of_hang.set()
    assert len(shared.ended_workers) == 1


def test_a_slow_trial_fails_without_the_end_of_its_worker(config, tmp_path, ray_with_workers, monkeypatch, short_hang):
    original = Engine.advance
    monkeypatch.setattr(Engine, "advance", lambda self: threading.Event().wait(0.3) or original(self))
    ended_devices = ray_with_workers([Worker()])
    job = job_of(config.replace(eval_every=12), tmp_path, limit_s=0.5)
    assert [report["status"] for report in client.reports_from_worker(job)] == ["failed"] and ended_devices == []


def test_a_trial_that_is_being_scored_has_no_time_limit(config, tmp_path, ray_with_workers, monkeypatch, short_hang):
    original = Trial.finish

    def finish(self, **options):
        if self.is_over:
            threading.Event().wait(4.5)
        return original(self, **options)

    monkeypatch.setattr(Trial, "finish", finish)
    ray_with_workers([Worker()])
    reports = list(client.reports_from_worker(job_of(config, tmp_path, phase="confirm", limit_s=3.0)))
    assert reports[-1]["status"] == "complete"


TRAIN_ALONE = """
import json, sys, time
from lopt.config import TrialConfig
from lopt.training import Trial
from sweeps.on_ray import keeper
from sweeps.work import process
import ray.tune
keeper.current_device = lambda: ("node", None)  # the original would start Ray, or join a running one
ray.tune.report = lambda report: print(report["status"], report["step"], flush=True)
process.HANG_S = 0.5
original = Trial.update
def update(self):
    if self.step == 6 and sys.argv[2] == "hangs":
        time.sleep(60)
    return original(self)
Trial.update = update
job = json.loads(sys.argv[1])
Trial(TrialConfig.from_dict(job["config"]))  # imports and loads before the trial's time begins
from sweeps.on_ray import trainable
trainable._store_error = lambda out, run: ""  # there is no keeper to ask
trainable.train(job)
"""


@pytest.mark.parametrize("behaviour", ["hangs", "goes on"])
def test_a_hanging_trial_that_trains_alone_writes_its_record_and_ends_its_process(config, tmp_path, behaviour):
    job = dataclasses.replace(job_of(config, tmp_path, limit_s=8.0), shares_backbone=False)
    command = [sys.executable, "-c", TRAIN_ALONE, json.dumps(job.to_dict()), behaviour]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    record = Store(tmp_path, "r").read(resolve(config).key)
    if behaviour == "goes on":
        assert first.returncode == 0 and record.status == "complete", first.stderr
        return
    assert first.returncode == 1 and first.stdout.split("\n")[0] == "running 4"
    assert record.status == "failed" and "hung at step 6" in record.error["message"]
    # Ray starts the trial once more. The trial then only reports its failure, and does not train again.
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (second.returncode, second.stdout) == (0, "failed 6\n"), second.stderr
