"""A client's own logic, with a Ray of this process."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
import time
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
from sweeps.on_ray import keeper as keepers
from sweeps.results.store import Store
from sweeps.work import process
from sweeps.work.worker import Worker
from tests.sweeps.test_workers import job_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def one(tiny):
    return tiny.replace(precision="fp64", max_steps=12, eval_every=4)


class Dead(Exception):
    """RayActorError."""


class Unplaced(Exception):
    """ActorUnschedulableError."""


class Late(Exception):
    """GetTimeoutError."""


POOL = ThreadPoolExecutor(16)


class RemoteLocation:
    """A handle of `target`: `handle.method.remote(...)` gives what `ray.get` waits for."""

    def __init__(self, target):
        self.target = target

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *arguments: POOL.submit(getattr(self.target, name), *arguments))


def get(future, timeout=None):
    try:
        return future.result(timeout)
    except TimeoutError:
        raise Late from None


def ray_with(monkeypatch, keeper):
    """A Ray of this process with such a keeper."""
    fake = SimpleNamespace(
        get=get,
        get_actor=lambda name: RemoteLocation(keeper),
        get_gpu_ids=list,
        get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "node"),
        exceptions=SimpleNamespace(RayActorError=Dead, ActorUnschedulableError=Unplaced, GetTimeoutError=Late),
    )
    monkeypatch.setitem(sys.modules, "ray", fake)


@pytest.fixture
def ray_of(monkeypatch):
    """A Ray of this process, in which the keeper gives the workers that are handed in, one after the other; the places
    of those that it is told to end."""

    def make(some):
        left, ended = iter(some), []
        keeper = SimpleNamespace(
            worker=lambda node, device, key: RemoteLocation(next(left)),
            end=lambda node, device, hangs: ended.append((node, device)),
            hangs=lambda node, device: len(ended),
        )
        ray_with(monkeypatch, keeper)
        return ended

    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    return make


class Mortal(Worker):
    """Dies at its `life`-th answer."""

    def __init__(self, life):
        super().__init__()
        self.life = life

    def next(self, name):
        self.life -= 1
        if self.life < 0:
            raise Dead("the actor is dead")
        return super().next(name)


def test_when_a_worker_dies_another_goes_on_from_the_checkpoint(one, tmp_path, ray_of):
    ray_of([Mortal(1), Mortal(2), Mortal(9)])
    reports = list(client.follow(job_of(one, tmp_path)))
    assert [(r["step"], r["note"]) for r in reports] == [
        (4, ""),
        (4, "continues at step 4"),
        (8, ""),
        (8, "continues at step 8"),
        (12, ""),
    ]


def test_a_worker_that_cannot_be_placed_is_one_that_died(one, tmp_path, ray_of):
    class Homeless(Worker):
        def admit(self, job, apart=False):
            raise Unplaced("its node is dead")

    ray_of([Homeless(), Mortal(9)])
    assert [r["step"] for r in client.follow(job_of(one, tmp_path))] == [4, 8, 12]


def test_a_trial_that_workers_die_of_is_given_up(one, tmp_path, ray_of):
    ray_of([Mortal(2), *(Mortal(1) for _ in range(9))])
    reports = list(client.follow(job_of(one, tmp_path)))
    assert [r["step"] for r in reports] == [4, 8, 8, 8, 0]
    record = Store(tmp_path, "r").read(resolve(one).key)
    assert record.status == "failed"
    assert "died 3 times, the last time after step 8" in record.error["message"]
    assert Store(tmp_path, "r").read_checkpoint(record.key)


def test_a_client_that_is_closed_evicts_its_trial(one, tmp_path, ray_of):
    worker = Worker()
    ray_of([worker])
    reports = client.follow(job_of(one, tmp_path))
    assert next(reports)["step"] == 4
    assert worker._seats
    reports.close()
    end = time.monotonic() + 5
    while worker._seats:  # it is not waited for
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_trial_that_comes_to_another_device_is_let_go_where_its_client_died(one, tmp_path, monkeypatch):
    node, made = ["first"], {}

    class Lasting(Worker):
        def until_death(self):
            pass

    def start(node, device):
        made[node] = Lasting()
        return RemoteLocation(made[node])

    monkeypatch.setattr(keepers, "_start", start)
    ray_with(monkeypatch, keepers.Keeper())
    fake = sys.modules["ray"]
    fake.get_runtime_context = lambda: SimpleNamespace(get_node_id=lambda: node[0])
    fake.wait = lambda deaths, timeout: ([], deaths)
    dead = client.follow(job_of(one, tmp_path))
    assert next(dead)["step"] == 4
    node[0] = "second"
    other = client.follow(job_of(one.replace(seed=2), tmp_path))
    assert next(other)["step"] == 4
    assert len(made["first"]._seats) == 1
    assert [r["step"] for r in client.follow(job_of(one, tmp_path))] == [4, 8, 12]
    assert made["first"]._seats == {}
    assert [r["step"] for r in other] == [8, 12]


# --- a trial that has had its time --------------------------------------------------------------------------------


@pytest.fixture
def soon(one, monkeypatch):
    Trial(one)  # weights and data are there: a trial is made in no time
    for module in (client, process):
        monkeypatch.setattr(module, "HANG_S", 0.4)


def hang(monkeypatch, seed):
    """A step hangs in which a trial of this seed is to make its seventh; until the event."""
    stuck, honest = threading.Event(), Engine.advance

    def advance(self):
        if any(trial.config.seed == seed and trial.step == 6 for trial in self.trials):
            stuck.wait(30)
            raise RuntimeError("a worker that was ended")
        return honest(self)

    monkeypatch.setattr(Engine, "advance", advance)
    return stuck


def test_when_a_step_hangs_the_trial_has_failed_and_the_worker_is_ended(one, tmp_path, ray_of, monkeypatch, soon):
    stuck = hang(monkeypatch, one.seed)
    ended = ray_of([Worker()])
    *reports, last = client.follow(job_of(one, tmp_path, limit_s=2.0))
    stuck.set()
    assert [r["step"] for r in reports] == [4] and last["status"] == "failed"
    assert ended == [("node", None)]
    record = Store(tmp_path, "r").read(resolve(one).key)
    assert record.error["type"] == "TimeoutError"
    assert "longer than 2 s (--max-trial-time), and came to no evaluation after step 4" in record.error["message"]


@pytest.mark.parametrize("part", ["weights", "data"])
def test_when_the_making_of_a_trial_hangs_it_has_failed_and_the_worker_is_ended(
    one, tmp_path, ray_of, monkeypatch, soon, part
):
    config, stuck = resolve(one), threading.Event()
    where = (lopt.backbones, "load") if part == "weights" else (lopt.training, "prepare")
    monkeypatch.setattr(*where, lambda *given: stuck.wait(30))
    ended = ray_of([Worker()])
    (report,) = client.follow(job_of(config, tmp_path, limit_s=0.5))
    assert (report["status"], report["step"]) == ("failed", 0) and ended == [("node", None)]
    error = Store(tmp_path, "r").read(config.key).error
    stuck.set()
    assert error["type"] == "TimeoutError"
    assert "longer than 0 s (--max-trial-time), and was still reading weights and data" in error["message"]


def test_workers_that_were_ended_for_other_trials_are_no_deaths(one, tmp_path, ray_of):
    class Ended(Worker):
        def admit(self, job, apart=False):
            ended.append(self)
            raise Dead("the actor was killed")

    ended = ray_of([*(Ended() for _ in range(client.DEATHS)), Mortal(9)])
    assert [r["step"] for r in client.follow(job_of(one, tmp_path))] == [4, 8, 12]


class Shared:
    """Workers on Ray, as far as clients see them: one at a time for all, whose calls fail when it has been ended."""

    def __init__(self):
        self.lock, self.worker, self.ended = threading.Lock(), Worker(), []

    def handle(self):
        worker, shared = self.worker, self

        class Guarded:
            def __getattr__(self, name):
                def call(*arguments):
                    if worker in shared.ended:
                        raise Dead("the actor was killed")
                    return getattr(worker, name)(*arguments)

                return call

            def admit(self, job, apart):
                made = POOL.submit(worker.admit, job, apart)
                while not wait([made], 0.05).done:
                    if worker in shared.ended:
                        raise Dead("the actor was killed")
                return made.result()

            def next(self, name):
                found = worker.next(name)
                if worker in shared.ended:
                    raise Dead("the actor was killed")
                return found

        return RemoteLocation(Guarded())

    def end(self, node, device, hangs):
        with self.lock:
            if hangs < len(self.ended):
                return
            old, self.worker = self.worker, Worker()
            self.ended.append(old)
        for name in list(old._seats):  # whoever waits in it hears of its end
            old.evict(name)


def test_of_trials_whose_common_step_hangs_only_the_one_at_fault_fails(one, tmp_path, monkeypatch, soon):
    stuck, shared = hang(monkeypatch, 2), Shared()
    keeper = SimpleNamespace(
        worker=lambda node, device, key: shared.handle(), end=shared.end, hangs=lambda node, device: len(shared.ended)
    )
    ray_with(monkeypatch, keeper)
    jobs = [job_of(one.replace(seed=seed), tmp_path, limit_s=3.0) for seed in (1, 2, 3)]
    with ThreadPoolExecutor(3) as pool:
        ends = [reports[-1]["status"] for reports in pool.map(lambda job: list(client.follow(job)), jobs)]
    stuck.set()
    assert ends == ["complete", "failed", "complete"]
    assert len(shared.ended) == 2, "once with all in it, once with the one at fault alone"


def test_trials_that_wait_for_one_whose_making_hangs_are_not_at_fault(one, tmp_path, monkeypatch, soon):
    hangs, stuck, honest, shared = threading.Event(), threading.Event(), Trial.__init__, Shared()

    def make(self, config, **given):
        if config.seed == 2:
            hangs.set()
            stuck.wait(30)
        honest(self, config, **given)

    monkeypatch.setattr(Trial, "__init__", make)
    keeper = SimpleNamespace(
        worker=lambda node, device, key: shared.handle(), end=shared.end, hangs=lambda node, device: len(shared.ended)
    )
    ray_with(monkeypatch, keeper)

    def end(seed):
        return list(client.follow(job_of(one.replace(seed=seed), tmp_path, limit_s=4.0)))[-1]["status"]

    with ThreadPoolExecutor(3) as pool:
        ends = [pool.submit(end, 2)]
        assert hangs.wait(30)
        ends += [pool.submit(end, seed) for seed in (1, 3)]
        assert [each.result() for each in ends] == ["failed", "complete", "complete"]
    stuck.set()
    assert len(shared.ended) == 1


def test_a_trial_that_is_merely_slow_fails_alone(one, tmp_path, ray_of, monkeypatch, soon):
    honest = Engine.advance
    monkeypatch.setattr(Engine, "advance", lambda self: threading.Event().wait(0.3) or honest(self))
    ended = ray_of([Worker()])
    config = one.replace(eval_every=12)
    reports = list(client.follow(job_of(config, tmp_path, limit_s=0.5)))
    assert [r["status"] for r in reports] == ["failed"] and ended == []


def test_a_trial_that_is_being_scored_has_all_the_time_it_needs(one, tmp_path, ray_of, monkeypatch, soon):
    honest = Trial.finish

    def finish(self, **given):
        if self.over:
            threading.Event().wait(4.5)
        return honest(self, **given)

    monkeypatch.setattr(Trial, "finish", finish)
    ray_of([Worker()])
    reports = list(client.follow(job_of(one, tmp_path, phase="confirm", limit_s=3.0)))
    assert reports[-1]["status"] == "complete"


ALONE = """
import json, sys, time
from lopt.config import TrialConfig
from lopt.training import Trial
from sweeps.on_ray import keeper
from sweeps.work import process
import ray.tune
keeper.place = lambda: ("node", None)  # which would start Ray, or join whatever runs
ray.tune.report = lambda report: print(report["status"], report["step"], flush=True)
process.HANG_S = 0.5
honest = Trial.update
def update(self):
    if self.step == 6 and sys.argv[2] == "hangs":
        time.sleep(60)
    return honest(self)
Trial.update = update
job = json.loads(sys.argv[1])
Trial(TrialConfig.from_dict(job["config"]))  # imports and loads before the trial's time begins
from sweeps.on_ray.trainable import train
train(job)
"""


@pytest.mark.parametrize("how", ["hangs", "goes on"])
def test_a_trial_alone_that_hangs_ends_its_process_after_its_record(one, tmp_path, how):
    job = dataclasses.replace(job_of(one, tmp_path, limit_s=8.0), shared=False)
    command = [sys.executable, "-c", ALONE, json.dumps(job.to_dict()), how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    record = Store(tmp_path, "r").read(resolve(one).key)
    if how == "goes on":
        assert done.returncode == 0 and record.status == "complete", done.stderr
        return
    assert done.returncode == 1 and done.stdout.split("\n")[0] == "running 4"
    assert record.status == "failed" and "hung at step 6" in record.error["message"]
    # Ray starts the trial once more: it says what has become of it, and does not train again.
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (again.returncode, again.stdout) == (0, "failed 6\n"), again.stderr
