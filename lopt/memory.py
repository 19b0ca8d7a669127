"""How much memory is used, and when it runs out."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_OWN = Path("/proc/self")


def ran_out(error: BaseException) -> bool:
    """Whether an exception says that memory, of a GPU or of the machine, was not enough."""
    import torch

    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "not enough memory" in str(error)


def free() -> None:
    """Gives back what nobody holds any more."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def watch(device: torch.device) -> None:
    """Begins to measure what `peak` gives."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # not Linux, or not allowed: the peak is the process's whole life's
            (_OWN / "clear_refs").write_text("5")


def peak(device: torch.device) -> int | None:
    """Most bytes at once since `watch`: of tensors on a GPU, of this process on a CPU; None where it is not known."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", (_OWN / "status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
