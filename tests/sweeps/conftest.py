from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from lopt.training import Trial
from sweeps.run import main
from tests.sweeps.ray_stand_in import ActorHandle, replace_ray


@pytest.fixture
def cut_off(monkeypatch):
    """Return a function that runs a command and interrupts it after five steps of its first trial."""

    def run(*command):
        original_update, steps = Trial.update, []

        def update(self):
            if len(steps) == 5:
                raise KeyboardInterrupt
            steps.append(self.step)
            return original_update(self)

        with monkeypatch.context() as patch:
            patch.setattr(Trial, "update", update)
            assert main(list(command)) == 130

    return run


@pytest.fixture
def ray_with_workers(monkeypatch):
    """A function that replaces Ray by a stand-in whose keeper hands out the given workers, one after the other.

    It returns a list, to which the keeper adds the devices whose workers it is told to end.
    """

    def replace(workers):
        remaining_workers, ended_devices = iter(workers), []
        keeper = SimpleNamespace(
            worker=lambda node, device, key: ActorHandle(next(remaining_workers)),
            end_worker=lambda node, device, hang_count: ended_devices.append((node, device)),
            hang_count=lambda node, device: len(ended_devices),
        )
        replace_ray(monkeypatch, keeper)
        return ended_devices

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return replace


@pytest.fixture
def configs(tiny):
    """Configurations of several methods and lengths. In fp64 packing makes no visible difference."""
    base = tiny.replace(precision="fp64", max_steps=12, eval_every=4)
    return [
        *[base.replace(seed=seed) for seed in range(3)],
        base.replace(method="prompt_tuning", rank=None, options={}),
        base.replace(method="lopt2", options={}),
        base.replace(length=6),
    ]
