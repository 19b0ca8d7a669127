"""The processors that this process may use: a GPU or the CPU, and how many CPUs. Copies to a GPU and waits for it."""

import os
import time
from typing import Any

from lopt.types import Tensor


def has_gpu() -> bool:
    """Return whether this process trains on a GPU: PyTorch sees one, and the variable LOPT_DEVICE is not "cpu".

    Raises:
        ValueError: LOPT_DEVICE is neither empty nor "cpu".
    """
    import torch

    return not is_cpu_chosen() and torch.cuda.is_available()


def is_cpu_chosen() -> bool:
    """Return whether the variable LOPT_DEVICE says that this process trains on the CPU, whatever else is there.

    Raises:
        ValueError: LOPT_DEVICE is neither empty nor "cpu".
    """
    device = os.environ.get("LOPT_DEVICE", "")
    if device not in ("", "cpu"):
        raise ValueError(
            f"LOPT_DEVICE is {device!r}: set it to cpu, or leave it out to train on a GPU where there is one"
        )
    return device == "cpu"


def default_device() -> Any:
    """Return the first visible GPU, or the CPU if there is none or LOPT_DEVICE is "cpu"."""
    import torch

    return torch.device("cuda" if has_gpu() else "cpu")


def to_device(values: Any, device: Any) -> Tensor:
    """Return numbers as a tensor on a device. The CPU does not wait for the copy to a GPU."""
    import torch

    tensor = torch.as_tensor(values)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def time_of_device_s(device: Any) -> float:
    """Return the time in seconds of the performance counter, once a GPU has done all that it was told to do."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def usable_cpu_count() -> int:
    """Return how many CPUs this process may use: its CPU set (taskset, Slurm) and its cgroup's quota count."""
    from loky import cpu_count

    count: int = cpu_count()
    return count
