"""How much memory is used, and what to do when it runs out."""

import contextlib
import gc
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

_THIS_PROCESS = Path("/proc/self")
# Messages of exceptions without a type of their own, from: Windows, other systems, CUDA, and the libraries of CUDA.
_MESSAGES = ("not enough memory", "can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the memory of a GPU or of the machine was not enough."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return any(message in str(error) for message in _MESSAGES)


def run_in_parts(function: Callable[[np.ndarray], None], rows: np.ndarray) -> None:
    """Call `function` on `rows`. If memory runs out, call it on each half instead, down to single rows."""
    try:
        function(rows)
        return
    except Exception as error:
        if not is_out_of_memory(error) or len(rows) == 1:
            raise
    release_unused()  # after the `except` block, because in it the exception still holds the tensors of the pass
    half = len(rows) // 2
    run_in_parts(function, rows[:half])
    run_in_parts(function, rows[half:])


def release_unused() -> None:
    """Release memory that nothing uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def reset_peak(device: torch.device) -> None:
    """Start the measurement whose result `peak_bytes` returns."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        # Writing 5 resets VmHWM. If that is not allowed, the peak counts from the start of the process. Only Linux
        # has this file.
        with contextlib.suppress(OSError):
            (_THIS_PROCESS / "clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int | None:
    """Return the most bytes in use at once since `reset_peak`: by tensors on a GPU, by this process on a CPU. None if
    unknown."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", (_THIS_PROCESS / "status").read_text())
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None
