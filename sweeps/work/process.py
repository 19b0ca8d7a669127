"""Threads and memory of a process that trains, and its end when its trial hangs."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sweeps.work.job import HANG_S, overdue_message

if TYPE_CHECKING:
    from sweeps.work.execution import Execution


def set_threads(threads: int | None) -> None:
    """Limit this process to `threads` processor threads, so that trials side by side do not compete for them."""
    import torch

    if threads:
        torch.set_num_threads(threads)


def release_memory() -> None:
    """Give memory that a trial has freed back to the operating system.

    The next trial in this process runs in another thread, for which glibc keeps a heap of its own. Without this call
    a worker would grow with every trial.
    """
    import ctypes

    from lopt import memory

    memory.release_unused()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextlib.contextmanager
def ended_when_overdue(execution: Execution, limit_s: float | None) -> Iterator[None]:
    """End this process, after writing a record, if its only trial exceeds its time limit and comes to no evaluation."""
    if limit_s is None:
        yield
        return
    limit = limit_s

    def end() -> None:
        if execution.trial is not None and execution.trial.is_over:  # it is trained; scoring has no time limit
            return
        step = execution.trial.step if execution.trial else 0
        execution.fail(TimeoutError(overdue_message(limit, f"hung at step {step:,}")))
        os._exit(1)

    timer = threading.Timer(limit + HANG_S, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
