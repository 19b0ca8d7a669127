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

    A trial's first report names its device. Until then, the trial counts by its reservation: all placed trials together
    occupy at least as many GPUs as they reserve.

    Args:
        clock: Returns the current time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counted_s, self._counted_until = 0.0, clock()
        self._reserved: dict[str, float] = {}  # GPUs that each trial reserves, by the trial's key
        self._devices: dict[str, str] = {}  # device of each placed trial; "" until the trial reports it

    def reserve(self, trial: str, gpus: float) -> None:
        """Note how many GPUs a trial will reserve; 0 on a machine without GPU."""
        self._reserved[trial] = gpus

    def place(self, trial: str) -> None:
        """Count a trial from now on: it has its place on a machine."""
        if self._reserved.get(trial):
            self._count()
            self._devices[trial] = ""

    def locate(self, trial: str, device: str) -> None:
        """Note the device of a trial that runs."""
        if self._devices.get(trial, device) != device:
            self._count()
            self._devices[trial] = device

    def remove(self, trial: str) -> None:
        """Stop counting a trial that has left its place, because it is over or its process has died."""
        self._count()
        self._devices.pop(trial, None)

    @property
    def seconds(self) -> float:
        """Seconds counted until now."""
        self._count()
        return self._counted_s

    def _count(self) -> None:
        """Add the seconds since the last count."""
        now = self._clock()
        known_devices = set(self._devices.values()) - {""}
        reserved = sum(self._reserved[trial] for trial in self._devices)
        needed_gpus = math.ceil(round(reserved, 6))  # a sum of 1.0000000000000002 is one GPU
        self._counted_s += (now - self._counted_until) * max(len(known_devices), needed_gpus)
        self._counted_until = now


class OutOfTime(Exception):
    """The time limit of the command has passed while it waited, for example for machines."""


class Budget(Listener):
    """The limits that the options set: number of trials, wall time and GPU-hours.

    Args:
        elapsed_s: Returns the seconds since the command began.
        gpus_of: Returns how many GPUs the trial of a job reserves.

    Attributes:
        gpu_time: GPU time of all trials of the command.
    """

    def __init__(
        self, options: Options, elapsed_s: Callable[[], float], gpus_of: Callable[[Job], float] = lambda job: 0.0
    ) -> None:
        self._options, self._elapsed_s, self._gpus_of = options, elapsed_s, gpus_of
        self._started_trials, self.gpu_time = 0, GpuTime()

    def left_s(self) -> float:
        """Return the seconds of wall time that are left; infinity without a limit."""
        limit_s = self._options.max_wall_time_s
        return math.inf if limit_s is None else max(0.0, limit_s - self._elapsed_s())

    def is_spent(self) -> bool:
        """Return whether time or GPU-hours are used up, so that running trials end, too."""
        max_gpu_hours = self._options.max_gpu_hours
        return not self.left_s() or (max_gpu_hours is not None and self.gpu_time.seconds >= max_gpu_hours * 3600)

    def may_start(self) -> bool:
        """Return whether another trial may start."""
        max_trials = self._options.max_trials
        return not self.is_spent() and (max_trials is None or self._started_trials < max_trials)

    def started(self, job: Job) -> None:
        self._started_trials += 1
        self.gpu_time.reserve(job.key, self._gpus_of(job))

    def placed(self, job: Job) -> None:
        self.gpu_time.place(job.key)

    def displaced(self, job: Job) -> None:
        self.gpu_time.remove(job.key)

    def reported(self, job: Job, report: Report) -> None:
        self.gpu_time.locate(job.key, report.get("device", ""))

    def paused(self, job: Job, report: Report) -> None:
        self.gpu_time.remove(job.key)

    def requeued(self, job: Job) -> None:
        self._started_trials -= 1
        self.gpu_time.remove(job.key)

    def ended(self, job: Job, record: TrialRecord) -> None:
        self.gpu_time.remove(job.key)
