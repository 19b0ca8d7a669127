"""A stand-in for Ray in this process."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

from sweeps.work.worker import Worker


class ActorDied(Exception):
    """The stand-in for RayActorError."""


class ActorUnschedulable(Exception):
    """The stand-in for ActorUnschedulableError."""


class GetTimeout(Exception):
    """The stand-in for GetTimeoutError."""


POOL = ThreadPoolExecutor(16)


class ActorHandle:
    """A handle of `target` as Ray has it: `handle.method.remote(...)` returns a future for `ray.get`."""

    def __init__(self, target):
        self.target = target

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *arguments: POOL.submit(getattr(self.target, name), *arguments))


def get(future, timeout=None):
    try:
        return future.result(timeout)
    except TimeoutError:
        raise GetTimeout from None


def replace_ray(monkeypatch, keeper):
    """Replace Ray by a stand-in in this process that has this keeper."""
    ray = SimpleNamespace(
        get=get,
        get_actor=lambda name: ActorHandle(keeper),
        get_gpu_ids=list,
        get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "node"),
        exceptions=SimpleNamespace(
            RayActorError=ActorDied, ActorUnschedulableError=ActorUnschedulable, GetTimeoutError=GetTimeout
        ),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)


class MortalWorker(Worker):
    """A worker that returns this many reports, and then dies."""

    def __init__(self, report_count):
        super().__init__()
        self.reports_left = report_count

    def next(self, name):
        self.reports_left -= 1
        if self.reports_left < 0:
            raise ActorDied("the actor is dead")
        return super().next(name)
