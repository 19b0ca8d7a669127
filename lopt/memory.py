"""How much memory is used, and when it runs out."""

import contextlib
import gc
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

_OWN = Path("/proc/self")
# What PyTorch says where it has no exception of its own: of a CPU (Windows, others), of CUDA, of its libraries.
_SAID = ("not enough memory", "can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def ran_out(error: BaseException) -> bool:
    """Whether an exception says that memory, of a GPU or of the machine, was not enough."""
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or any(said in str(error) for said in _SAID)


def in_parts(act: Callable[[np.ndarray], None], rows: np.ndarray) -> None:
    """`act` on `rows`; where memory runs out on their halves, one after the other, down to single rows."""
    try:
        act(rows)
        return
    except Exception as error:
        if not ran_out(error) or len(rows) == 1:
            raise
    free()  # now that the exception no longer holds what the pass held
    half = len(rows) // 2
    in_parts(act, rows[:half])
    in_parts(act, rows[half:])


def free() -> None:
    """Gives back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def watch(device: torch.device) -> None:
    """Begins to measure what `peak` gives."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # not Linux, or not allowed: the peak is the process's whole life's
            (_OWN / "clear_refs").write_text("5")


def peak(device: torch.device) -> int | None:
    """Most bytes at once since `watch`: of tensors on a GPU, of this process on a CPU; None where it is not known."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", (_OWN / "status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
