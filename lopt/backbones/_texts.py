"""Keys and values of texts that no prompt changes: computed once, shared by every trial and epoch.

In a causal model a suffix leaves the text before it as it is, so what the suffix sees of a text is the same in every
trial. Texts are known by their token ids. They lie in a file that is mapped into memory (on a GPU, in its own memory)
and are dropped with the process; beyond the limit a text is computed again whenever it is met.
"""

import mmap
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from lopt.packages import cache_dir

LIMIT_VARIABLE = "LOPT_TEXT_CACHE_GB"
_DEFAULT_LIMIT_GB = 16.0
_FREE_SHARE = 0.25  # of the disk, or of a GPU's memory, at most
_GROWTH_BYTES = 256 * 2**20


class TextStates:
    """A store of keys and values, by the token ids of their text.

    Args:
        shape: (layers, heads of keys and values, dimension of a head).
        compute: keys and values `[L, 2, H_kv, T, D]` of each of the texts it is given.
        limit_bytes: None takes `LOPT_TEXT_CACHE_GB`, else 16 GB, and a quarter of what is free at most.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        dtype: Any,
        device: Any,
        compute: Callable[[Sequence[tuple[int, ...]]], Sequence[Tensor]],
        *,
        limit_bytes: int | None = None,
    ) -> None:
        self.shape, self.dtype, self.device, self._compute = shape, dtype, device, compute
        self.limit_bytes = _limit_bytes(device) if limit_bytes is None else limit_bytes
        self.used_bytes = 0
        self.computed = 0  # texts, however often
        self._kept: dict[tuple[int, ...], Tensor] = {}
        self._file = _File() if device.type == "cpu" else None
        self._lock = threading.Lock()

    def missing(self, texts: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Those that have not been met, as long as there is room for more."""
        return [text for text in texts if text not in self._kept] if self.used_bytes < self.limit_bytes else []

    def keep(self, texts: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], Tensor]:
        """Computes keys and values of texts, and keeps those for which there is room; all of them. Several threads may
        do so at a time."""
        with torch.inference_mode(False), torch.no_grad():  # what an evaluation leaves here serves training, too
            found = dict(zip(texts, self._compute(texts), strict=True)) if texts else {}
            with self._lock:
                self.computed += len(found)
                for text, states in found.items():
                    self._keep(text, states)
        return found

    def of(self, texts: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """Keys and values of texts, `[L, 2, N, H_kv, S, D]`, zero where a text is shorter than S, and their lengths
        `[N]`."""
        found = self.keep(sorted({text for text in texts if text not in self._kept}, key=len))
        layers, heads, dimension = self.shape
        longest = max(map(len, texts))
        size = (layers, 2, len(texts), heads, longest, dimension)
        made = torch.zeros(size, dtype=self.dtype, device=self.device)
        for row, text in enumerate(texts):
            made[:, :, row, :, : len(text)] = found[text] if text in found else self._kept[text]
        return made, torch.tensor([len(text) for text in texts], device=self.device)

    def _keep(self, text: tuple[int, ...], states: Tensor) -> None:
        size = states.numel() * states.element_size()
        if text in self._kept:
            return
        fits, room = self.used_bytes + size <= self.limit_bytes, None
        if fits:
            room = states if self._file is None else self._file.room(states.shape, states.dtype, size)
        if room is None:  # full, or the disk is: else texts would be read ahead in vain at every step
            self.limit_bytes = self.used_bytes
            return
        self._kept[text] = room if room is states else room.copy_(states)
        self.used_bytes += size


class _File:
    """A nameless file in the cache folder that is mapped into memory piece by piece."""

    def __init__(self) -> None:
        try:
            self._file = tempfile.TemporaryFile(dir=cache_dir())  # noqa: SIM115  # it lives as long as the store
        except OSError:  # a cache that can only be read
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._size, self._left = 0, 0
        self._piece: Any = None

    def room(self, shape: Sequence[int], dtype: Any, size: int) -> Tensor | None:
        """A tensor inside the file; None when the disk is full."""
        if size > self._left:
            grown = max(size, _GROWTH_BYTES)
            grown += -grown % mmap.ALLOCATIONGRANULARITY
            try:  # in advance, for a write to a mapped page that finds no disk would kill the process
                _allocate(self._file.fileno(), self._size, grown)
            except OSError:
                return None
            self._piece = mmap.mmap(self._file.fileno(), grown, offset=self._size)
            self._size += grown
            self._left = grown
        count = size // torch.empty((), dtype=dtype).element_size()
        offset = len(self._piece) - self._left
        self._left -= size + -size % 64
        return torch.frombuffer(self._piece, dtype=dtype, count=count, offset=offset).view(*shape)


def _allocate(file: int, offset: int, size: int) -> None:
    """Disk for these bytes; where the system has no call for it (macOS), by writing them. OSError when the disk is
    full."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, offset, size)
        return
    piece = bytes(1 << 20)
    while size:
        written = os.pwrite(file, piece[:size], offset)
        offset, size = offset + written, size - written


def _limit_bytes(device: Any) -> int:
    named = os.environ.get(LIMIT_VARIABLE)
    try:
        limit = float(named) if named else _DEFAULT_LIMIT_GB
    except ValueError:
        limit = -1.0
    if not limit >= 0:
        raise ValueError(f"{LIMIT_VARIABLE} is {named!r}; give a number of gigabytes, 0 for none")
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = shutil.disk_usage(cache_dir()).free
    return int(min(limit * 1e9, _FREE_SHARE * free))
