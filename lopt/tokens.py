"""Token ids of many texts: in one array, and on disk under a hash of all that they depend on.

What a worker has tokenised, the next one reads from `cache_dir()/tokens`. That changes no result: a file is never out
of date, a damaged one is made again, and a cache that cannot be written is done without.
"""

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Self, overload

import numpy as np

from lopt.files import write_atomically
from lopt.packages import cache_dir
from lopt.types import Tokenizer

LEAST_CHARACTERS = 250_000  # fewer are tokenised about as fast as the tokenizer is hashed
MOST_BYTES = 2 * 2**30  # of all files; those used longest ago go first
_FORMAT = "3"  # of what is in a file, and of how ids are made


class TokenIds(Sequence[tuple[int, ...]]):
    """Token ids of many texts, end to end in one array: four bytes a token, where tuples of integers take about forty.

    flat: all ids. lengths: tokens of each text, `[N]`.
    """

    def __init__(self, flat: np.ndarray, lengths: np.ndarray) -> None:
        self.flat, self.lengths = flat, lengths
        self._ends = np.cumsum(lengths)

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Self:
        """From one sequence of ids a text."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return cls(np.fromiter(chain.from_iterable(rows), np.int32, lengths.sum()), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[tuple[int, ...], ...]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, ...] | tuple[tuple[int, ...], ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(len(self))[index])
        end = self._ends[index]
        return tuple(self.flat[end - self.lengths[index] : end].tolist())


def folder() -> Path:
    """Where the files lie."""
    return cache_dir() / "tokens"


def cached(tokenizer: Tokenizer, parts: Sequence[str], make: Callable[[], Sequence[Sequence[int]]]) -> TokenIds:
    """What `make` gives, or gave to an earlier caller with the same tokenizer and `parts`.

    parts: all that the ids depend on beside the tokenizer.
    """
    path = _path(tokenizer, parts) if sum(map(len, parts)) >= LEAST_CHARACTERS else None
    found = _read(path) if path is not None else None
    if found is None:
        found = TokenIds.of(make())
        if path is not None:
            _write(path, found)
    return found


def _path(tokenizer: Tokenizer, parts: Sequence[str]) -> Path | None:
    """The file of these parts; None where there is no folder, or the tokenizer has steps in Python."""
    import tokenizers

    try:
        content, place = tokenizer.backend_tokenizer.to_str(), folder()
    except Exception:  # tokenizers raises plain Exception
        return None
    reads_special = str(getattr(tokenizer, "split_special_tokens", None))  # not part of the content
    digest = hashlib.sha256()
    for part in (_FORMAT, tokenizers.__version__, type(tokenizer).__name__, reads_special, content, *parts):
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return place / f"{digest.hexdigest()[:40]}.npz"


def _read(path: Path) -> TokenIds | None:
    # Not mapped into memory: a file that another machine removes from a shared folder would end this process.
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:  # its checksums are compared
            found = TokenIds(arrays["flat"], arrays["lengths"])
    except Exception:  # absent, or damaged, for which every layer has an error of its own
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return found


def _write(path: Path, ids: TokenIds) -> None:
    made = io.BytesIO()
    np.savez(made, flat=ids.flat, lengths=ids.lengths)
    with contextlib.suppress(OSError):  # read-only or full
        write_atomically(path, made.getbuffer())
        _evict(path.parent)


def _evict(place: Path) -> None:
    """Removes the files used longest ago, and what interrupted writers left, until `MOST_BYTES` are kept."""
    files = sorted(((s.st_mtime_ns, s.st_size, p) for p in place.iterdir() for s in [p.stat()]), reverse=True)
    total = 0
    for _, size, path in files:
        total += size
        if total > MOST_BYTES:
            path.unlink(missing_ok=True)
