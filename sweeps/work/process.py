"""What a process that trains does to itself: its threads, its memory, and its end when its trial hangs."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sweeps.work.job import HANG_S, overdue

if TYPE_CHECKING:
    from sweeps.work.execution import Execution


def set_threads(threads: int | None) -> None:
    """Limits this process to so many processor threads, so that trials side by side do not fight for them."""
    import torch

    if threads:
        torch.set_num_threads(threads)


def release_memory() -> None:
    """Gives back what a trial has left free: the next one in this process runs in another thread, for which glibc keeps
    memory apart, so that a worker would grow with every trial."""
    import ctypes

    from lopt import memory

    memory.free()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextlib.contextmanager
def ended_when_overdue(execution: Execution, limit_s: float | None) -> Iterator[None]:
    """Ends this process, after a record, when its one trial is out of time and comes to no evaluation."""
    if limit_s is None:
        yield
        return
    limit = limit_s

    def end() -> None:
        if execution.trial is not None and execution.trial.over:  # trained; scoring has all the time it needs
            return
        step = execution.trial.step if execution.trial else 0
        execution.fail(TimeoutError(overdue(limit, f"hung at step {step:,}")))
        os._exit(1)

    timer = threading.Timer(limit + HANG_S, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
