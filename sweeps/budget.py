"""What a command may use of machines, and what it has used."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from sweeps.options import Options


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


class Budget:
    """The limits of the options: trials, wall time, GPU-hours.

    Args:
        elapsed_s: since the command began.

    Attributes:
        started: trials. gpu_time: of them.
    """

    def __init__(self, options: Options, elapsed_s: Callable[[], float]) -> None:
        self._options, self._elapsed_s = options, elapsed_s
        self.started, self.gpu_time = 0, GpuTime()

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
        return not self.over() and (most is None or self.started < most)
