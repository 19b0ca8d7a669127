"""The budget of one command: how many trials it may start, and how much wall time and GPU time it may use."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sweeps.listener import Listener
from sweeps.options import Options

if TYPE_CHECKING:
    from lopt.records import TrialRecord
    from sweeps.work.job import Job, Report


class GpuTime:
    """Counts the seconds during which GPUs have trials, added up over all GPUs.

    A GPU that several trials share counts once. A GPU that has a single trial counts in full, however small the part
    of it that the trial reserves.

    The device of a trial is known from its first report on. Before that, only its reservation is known, so the number
    of GPUs in use is at least the sum of the reservations.

    Args:
        clock: Returns the current time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counted_s, self._counted_until = 0.0, clock()
        self._reserved_gpus: dict[str, float] = {}  # by the trial's key; parts of a GPU are possible
        self._devices: dict[str, str] = {}  # of placed trials, by the trial's key; "" until a report names it

    def reserve(self, key: str, gpus: float) -> None:
        """Note how many GPUs a trial will reserve; 0 on a machine without a GPU."""
        self._reserved_gpus[key] = gpus

    def place(self, key: str) -> None:
        """Start to count a trial, which has now been placed on a machine."""
        if self._reserved_gpus.get(key):
            self._count()
            self._devices[key] = ""

    def locate(self, key: str, device: str) -> None:
        """Note the device of a running trial."""
        if self._devices.get(key, device) != device:
            self._count()
            self._devices[key] = device

    def remove(self, key: str) -> None:
        """Stop counting a trial that has left its place because the trial is over or its process has died."""
        self._count()
        self._devices.pop(key, None)

    @property
    def seconds(self) -> float:
        """Seconds counted until now."""
        self._count()
        return self._counted_s

    def _count(self) -> None:
        """Add the seconds since the last count."""
        now = self._clock()
        known_devices = set(self._devices.values()) - {""}
        reserved_gpus = sum(self._reserved_gpus[key] for key in self._devices)
        whole_gpus = math.ceil(round(reserved_gpus, 6))  # a sum of 1.0000000000000002 is one GPU
        self._counted_s += (now - self._counted_until) * max(len(known_devices), whole_gpus)
        self._counted_until = now


class OutOfTime(Exception):
    """The time limit of the command has passed while it waited, for example for machines."""


class Budget(Listener):
    """The limits that the options set to the number of trials, the wall time and the GPU-hours.

    Args:
        elapsed_s: Returns the number of seconds since the command began.
        gpus_of: Returns how many GPUs the trial of a job reserves.

    Attributes:
        gpu_time: GPU time of all trials of the command.
    """

    def __init__(
        self, options: Options, elapsed_s: Callable[[], float], gpus_of: Callable[[Job], float] = lambda job: 0.0
    ) -> None:
        self._options, self._elapsed_s, self._gpus_of = options, elapsed_s, gpus_of
        self._started_count, self.gpu_time = 0, GpuTime()

    def left_s(self) -> float:
        """Return the seconds of wall time that are left; infinity without a limit."""
        limit_s = self._options.max_wall_time_s
        return math.inf if limit_s is None else max(0.0, limit_s - self._elapsed_s())

    def is_spent(self) -> bool:
        """Return whether the wall time or the GPU-hours are used up. Running trials then end, too."""
        max_gpu_hours = self._options.max_gpu_hours
        return not self.left_s() or (max_gpu_hours is not None and self.gpu_time.seconds >= max_gpu_hours * 3600)

    def may_start(self) -> bool:
        """Return whether another trial may start."""
        max_trials = self._options.max_trials
        return not self.is_spent() and (max_trials is None or self._started_count < max_trials)

    def to_dict(self) -> dict[str, float | None]:
        """Return what the command has used, and its limits; None where there is no limit."""
        options = self._options
        return {
            "started_count": self._started_count,
            "max_trials": options.max_trials,
            "wall_time_s": self._elapsed_s(),
            "max_wall_time_s": options.max_wall_time_s,
            "gpu_hours": self.gpu_time.seconds / 3600,
            "max_gpu_hours": options.max_gpu_hours,
        }

    def on_started(self, job: Job) -> None:
        self._started_count += 1
        self.gpu_time.reserve(job.key, self._gpus_of(job))

    def on_placed(self, job: Job) -> None:
        self.gpu_time.place(job.key)

    def on_displaced(self, job: Job) -> None:
        self.gpu_time.remove(job.key)

    def on_reported(self, job: Job, report: Report) -> None:
        self.gpu_time.locate(job.key, report.get("device", ""))

    def on_paused(self, job: Job, report: Report) -> None:
        self.gpu_time.remove(job.key)

    def on_requeued(self, job: Job) -> None:
        self._started_count -= 1
        self.gpu_time.remove(job.key)

    def on_ended(self, job: Job, record: TrialRecord) -> None:
        self.gpu_time.remove(job.key)
