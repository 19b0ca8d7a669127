"""A process that trains: its threads, its memory, and how it is ended when its trial hangs."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lopt.device import has_gpu, is_cpu_chosen, usable_cpu_count
from sweeps.work.job import HANG_S, overdue_message

if TYPE_CHECKING:
    from sweeps.work.execution import Execution


def set_threads(threads: int | None) -> None:
    """Limit this process to `threads` processor threads, so that trials that train at once do not compete for them.

    It never has more threads than CPUs that it may use.
    """
    import torch

    torch.set_num_threads(min(threads or torch.get_num_threads(), usable_cpu_count()))


def unusable_gpu_error(gpu: str | None) -> str:
    """Return why PyTorch cannot use the GPU that this process has reserved; "" if it can or has reserved none.

    Args:
        gpu: The number of the reserved GPU, or None.
    """
    if gpu is None or is_cpu_chosen() or has_gpu():
        return ""
    return (
        f"node {socket.gethostname()} reserved a GPU, torch sees none: driver or image. Install NVIDIA's driver and a "
        "torch with CUDA there, or take the node out of the cluster"
    )


def release_memory() -> None:
    """Give memory that a trial has freed back to the operating system.

    Without this call, the memory of a worker would grow with every trial, because each trial runs in another thread and
    glibc keeps a separate heap for each thread.
    """
    import ctypes

    from lopt import memory

    memory.release_unused()
    with contextlib.suppress(OSError, AttributeError):  # the C library is not glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextlib.contextmanager
def end_process_when_overdue(execution: Execution, limit_s: float | None) -> Iterator[None]:
    """If this process's only trial hangs beyond its time limit, write a failed record and end the process.

    The trial hangs if it reaches no evaluation within `HANG_S` seconds after the limit.
    """
    if limit_s is None:
        yield
        return

    def end_process(limit_s: float) -> None:
        if execution.trial is not None and execution.trial.is_over:  # scoring has no time limit
            return
        step = execution.trial.step if execution.trial else 0
        execution.fail(TimeoutError(overdue_message(limit_s, f"hung at step {step:,}")))
        os._exit(1)

    timer = threading.Timer(limit_s + HANG_S, end_process, (limit_s,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
