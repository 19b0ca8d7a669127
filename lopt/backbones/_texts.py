"""The store of attention keys and values of texts before a suffix. All trials and epochs share it.

A suffix is a soft prompt after the text. In a causal model a text does not see what follows it. So the text's keys and
values, which the suffix sees, are the same in every trial, and are computed once. The store finds a text by its token
ids. On a CPU the tensors lie in a file that is mapped into memory, on a GPU in the GPU's memory. They are gone when the
process ends. If the store is full, the keys and values of any other text are computed again whenever a pass needs
them.
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

from lopt.device import to_device
from lopt.packages import cache_dir

LIMIT_VARIABLE = "LOPT_TEXT_CACHE_GB"
_DEFAULT_LIMIT_GB = 16.0
_LARGEST_FREE_SHARE = 0.25  # of the free disk, or of a GPU's free memory
_GROWTH_BYTES = 256 * 2**20  # the file grows by this many bytes at a time

TextIds = tuple[int, ...]  # the token ids of a text


class TextStore:
    """A store of keys and values ("states") of texts.

    Args:
        shape: (layers, heads of keys and values, dimension of a head).
        compute: a function that returns the keys and values `[L, 2, H_kv, T, D]` of each text.
        limit_bytes: the most bytes to store. If it is None, the limit is `LOPT_TEXT_CACHE_GB` or 16 GB, but at most a
            quarter of the free disk or of the GPU's free memory.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        dtype: Any,
        device: Any,
        compute: Callable[[Sequence[TextIds]], Sequence[Tensor]],
        *,
        limit_bytes: int | None = None,
    ) -> None:
        self.shape, self.dtype, self.device, self._compute = shape, dtype, device, compute
        self.limit_bytes = _default_limit_bytes(device) if limit_bytes is None else limit_bytes
        self.used_bytes = 0
        self.computed_text_count = 0  # a text that is computed again counts again
        self._stored_states: dict[TextIds, Tensor] = {}
        self._file = _MappedFile() if device.type == "cpu" else None
        self._lock = threading.Lock()

    def missing_texts(self, texts: Iterable[TextIds]) -> list[TextIds]:
        """Return the texts that are not in the store. Return an empty list if the store is full."""
        return [text for text in texts if text not in self._stored_states] if self.used_bytes < self.limit_bytes else []

    def compute_and_store(self, texts: Sequence[TextIds]) -> dict[TextIds, Tensor]:
        """Compute the keys and values of texts, store as many as there is room for, and return all of them.

        Several threads may call this at the same time.
        """
        # Inference mode is off, because training cannot use tensors that an evaluation stores in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            states_by_text = dict(zip(texts, self._compute(texts), strict=True)) if texts else {}
            with self._lock:
                self.computed_text_count += len(states_by_text)
                for text, states in states_by_text.items():
                    self._store(text, states)
        return states_by_text

    def get(self, texts: Sequence[TextIds]) -> tuple[Tensor, Tensor]:
        """Return the keys and values of texts and the texts' lengths. Texts that are not in the store are computed.

        Returns:
            Keys and values `[L, 2, R, H_kv, S, D]`, zero where a text is shorter than S. Lengths `[R]`.
        """
        computed_states = self.compute_and_store(
            sorted({text for text in texts if text not in self._stored_states}, key=len)
        )
        layer_count, head_count, head_width = self.shape
        longest_length = max(map(len, texts))
        padded_shape = (layer_count, 2, len(texts), head_count, longest_length, head_width)
        states_L2RHSD = torch.zeros(padded_shape, dtype=self.dtype, device=self.device)
        for row, text in enumerate(texts):
            states_L2RHSD[:, :, row, :, : len(text)] = (
                computed_states[text] if text in computed_states else self._stored_states[text]
            )
        return states_L2RHSD, to_device([len(text) for text in texts], self.device)

    def _store(self, text: TextIds, states: Tensor) -> None:
        size_bytes = states.numel() * states.element_size()
        if text in self._stored_states:
            return
        destination = None
        if self.used_bytes + size_bytes <= self.limit_bytes:
            destination = (
                states if self._file is None else self._file.allocate_tensor(states.shape, states.dtype, size_bytes)
            )
        if destination is None:  # the store or the disk is full
            self.limit_bytes = self.used_bytes  # from now on `missing_texts` returns no texts
            return
        self._stored_states[text] = destination if destination is states else destination.copy_(states)
        self.used_bytes += size_bytes


class _MappedFile:
    """A file without a name in the cache folder. It grows piece by piece, and each piece is mapped into memory."""

    def __init__(self) -> None:
        try:
            self._file = tempfile.TemporaryFile(dir=cache_dir())  # noqa: SIM115  # it lives as long as the store
        except OSError:  # the cache folder is read-only
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._size_bytes, self._free_bytes = 0, 0
        self._piece: Any = None

    def allocate_tensor(self, shape: Sequence[int], dtype: Any, size_bytes: int) -> Tensor | None:
        """Return a tensor whose memory is part of the file, or None if the disk is full."""
        if size_bytes > self._free_bytes:
            piece_bytes = max(size_bytes, _GROWTH_BYTES)
            piece_bytes += -piece_bytes % mmap.ALLOCATIONGRANULARITY
            try:  # The disk is reserved first: a write to a mapped page on a full disk would kill the process.
                _reserve_disk(self._file.fileno(), self._size_bytes, piece_bytes)
            except OSError:
                return None
            self._piece = mmap.mmap(self._file.fileno(), piece_bytes, offset=self._size_bytes)
            self._size_bytes += piece_bytes
            self._free_bytes = piece_bytes
        element_count = size_bytes // torch.empty((), dtype=dtype).element_size()
        offset_bytes = len(self._piece) - self._free_bytes
        self._free_bytes -= size_bytes + -size_bytes % 64
        return torch.frombuffer(self._piece, dtype=dtype, count=element_count, offset=offset_bytes).view(*shape)


def _reserve_disk(file_descriptor: int, offset_bytes: int, size_bytes: int) -> None:
    """Reserve these bytes of a file on the disk. If the system has no call for this (macOS), write zeros.

    Raises:
        OSError: the disk is full.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file_descriptor, offset_bytes, size_bytes)
        return
    zero_bytes = bytes(1 << 20)
    while size_bytes:
        written_bytes = os.pwrite(file_descriptor, zero_bytes[:size_bytes], offset_bytes)
        offset_bytes, size_bytes = offset_bytes + written_bytes, size_bytes - written_bytes


def _default_limit_bytes(device: Any) -> int:
    limit_text = os.environ.get(LIMIT_VARIABLE)
    try:
        limit_gb = float(limit_text) if limit_text else _DEFAULT_LIMIT_GB
    except ValueError:
        limit_gb = -1.0
    if not limit_gb >= 0:
        raise ValueError(f"{LIMIT_VARIABLE} is {limit_text!r}; give a number of gigabytes, or 0 to store no texts")
    if device.type == "cuda":
        free_bytes = torch.cuda.mem_get_info(device)[0]
    else:
        free_bytes = shutil.disk_usage(cache_dir()).free
    return int(min(limit_gb * 1e9, _LARGEST_FREE_SHARE * free_bytes))
