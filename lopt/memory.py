"""When memory runs out."""

from __future__ import annotations


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
