"""What a command may use of machines, and what it has used."""

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
    """Seconds of all GPUs together in which they had a trial. One that several trials share counts once, and in full
    for one that has it alone, however small a part of it that trial reserves.

    Where a trial is, it says at its first report; before that it counts as where there is room.

    Args:
        clock: in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._spent, self._since = clock, 0.0, clock()
        self._reserved: dict[str, float] = {}  # GPUs, by trial
        self._device: dict[str, str] = {}  # of a trial that runs; "" where that is not known yet

    def reserves(self, trial: str, gpus: float) -> None:
        """A trial is to run, and reserves so many GPUs, 0 on a processor."""
        self._reserved[trial] = gpus

    def began(self, trial: str) -> None:
        """A trial has its place."""
        if self._reserved.get(trial):
            self._count()
            self._device[trial] = ""

    def is_on(self, trial: str, device: str) -> None:
        """A trial that runs is on this device."""
        if self._device.get(trial, device) != device:
            self._count()
            self._device[trial] = device

    def ended(self, trial: str) -> None:
        """A trial has left its place: it is over, or its process has died."""
        self._count()
        self._device.pop(trial, None)

    @property
    def seconds(self) -> float:
        self._count()
        return self._spent

    def _count(self) -> None:
        now = self._clock()
        known = set(self._device.values()) - {""}
        least = math.ceil(round(sum(self._reserved[trial] for trial in self._device), 6))  # 1.0000000000000002 is 1
        self._spent += (now - self._since) * max(len(known), least)
        self._since = now


class OutOfTime(Exception):
    """What a command waits for was not there in the time that it has."""


class Budget(Listener):
    """The limits of the options: trials, wall time, GPU-hours.

    Args:
        elapsed_s: since the command began.
        gpus_of: GPUs that a job's trial reserves.

    Attributes:
        gpu_time: of all trials.
    """

    def __init__(
        self, options: Options, elapsed_s: Callable[[], float], gpus_of: Callable[[Job], float] = lambda job: 0.0
    ) -> None:
        self._options, self._elapsed_s, self._gpus_of = options, elapsed_s, gpus_of
        self._started, self.gpu_time = 0, GpuTime()

    def left_s(self) -> float:
        """Of wall time."""
        most = self._options.max_wall_time_s
        return math.inf if most is None else max(0.0, most - self._elapsed_s())

    def over(self) -> bool:
        """Whether running trials are to end, too."""
        most = self._options.max_gpu_hours
        return not self.left_s() or (most is not None and self.gpu_time.seconds >= most * 3600)

    def may_start(self) -> bool:
        """Whether another trial may."""
        most = self._options.max_trials
        return not self.over() and (most is None or self._started < most)

    def started(self, job: Job) -> None:
        self._started += 1
        self.gpu_time.reserves(job.key, self._gpus_of(job))

    def placed(self, job: Job) -> None:
        self.gpu_time.began(job.key)

    def displaced(self, job: Job) -> None:
        self.gpu_time.ended(job.key)

    def reported(self, job: Job, report: Report) -> None:
        self.gpu_time.is_on(job.key, report.get("device", ""))

    def paused(self, job: Job, report: Report) -> None:
        self.gpu_time.ended(job.key)

    def requeued(self, job: Job) -> None:
        self._started -= 1
        self.gpu_time.ended(job.key)

    def ended(self, job: Job, record: TrialRecord) -> None:
        self.gpu_time.ended(job.key)
