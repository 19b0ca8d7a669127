"""Measures the memory in use, and divides work that does not fit into memory."""

import contextlib
import gc
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

_PROCESS_FOLDER = Path("/proc/self")
# These messages come from Windows, other systems, CUDA and cuBLAS. Their exceptions have no type of their own.
_OUT_OF_MEMORY_MESSAGES = (
    "not enough memory",
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the memory of a GPU or of the machine was not enough."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return any(message in str(error) for message in _OUT_OF_MEMORY_MESSAGES)


def run_in_parts(function: Callable[[np.ndarray], None], rows: np.ndarray) -> None:
    """Call `function` on `rows`. If memory runs out, call it on each half instead, down to single rows."""
    try:
        function(rows)
        return
    except Exception as error:
        if not is_out_of_memory(error) or len(rows) == 1:
            raise
    release_unused()  # not within `except`, where the exception still holds the tensors of the pass
    half = len(rows) // 2
    run_in_parts(function, rows[:half])
    run_in_parts(function, rows[half:])


def release_unused() -> None:
    """Release memory that nothing uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def bytes_per_token(run_pass: Callable[[], int], device: torch.device) -> float:
    """Return the bytes that one token takes at the peak of a forward and backward pass on a GPU.

    Args:
        run_pass: runs a pass and returns its number of tokens.
    """
    reset_peak(device)
    bytes_before = torch.cuda.memory_allocated(device)
    token_count = run_pass()
    return max(1.0, (torch.cuda.max_memory_allocated(device) - bytes_before) / token_count)


def reset_peak(device: torch.device) -> None:
    """Begin a measurement of the peak of memory. `peak_bytes` returns its result."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        # Writing 5 resets VmHWM, the peak that Linux keeps for a process. If that is not allowed, the peak counts
        # from the start of the process. Other systems do not have this file.
        with contextlib.suppress(OSError):
            (_PROCESS_FOLDER / "clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int | None:
    """Return the largest number of bytes in use at once since `reset_peak`, or None if it is unknown.

    On a GPU the bytes of tensors count, on a CPU those of this process.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", (_PROCESS_FOLDER / "status").read_text())
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None
