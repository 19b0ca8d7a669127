"""Token ids of many texts: in one array, and in a cache on disk.

The cache is the folder `cache_dir()/tokens`. Texts that one worker has tokenised need not be tokenised by the next. The
cache changes no result: a file is named by a hash of all that its ids depend on, so it is never out of date. A damaged
file is replaced, and a cache that cannot be written is not used.
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

MIN_CHARACTERS = 250_000  # fewer are not cached: tokenising them is about as fast as hashing the tokenizer
MAX_BYTES = 2 * 2**30  # of all files together; beyond this, the least recently used files are removed
_FORMAT_VERSION = "3"  # version of the files' content, and of how this program computes ids


class TokenIds(Sequence[tuple[int, ...]]):
    """Token ids of many texts, one after another in one array.

    A token takes four bytes here, and about forty in a tuple of integers.

    Args:
        flat_ids: the ids of all texts.
        lengths: the number of tokens of each text, `[N]`.
    """

    def __init__(self, flat_ids: np.ndarray, lengths: np.ndarray) -> None:
        self.flat_ids, self.token_counts = flat_ids, lengths
        self._ends = np.cumsum(lengths)

    @classmethod
    def from_lists(cls, texts: Sequence[Sequence[int]]) -> Self:
        """Return the ids of N texts. `texts` has one sequence of ids for each text."""
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        return cls(np.fromiter(chain.from_iterable(texts), np.int32, lengths.sum()), lengths)

    def __len__(self) -> int:
        return len(self.token_counts)

    @overload
    def __getitem__(self, index: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[tuple[int, ...], ...]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, ...] | tuple[tuple[int, ...], ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(len(self))[index])
        end = self._ends[index]
        return tuple(self.flat_ids[end - self.token_counts[index] : end].tolist())


def cache_folder() -> Path:
    """Return the folder of the cached files."""
    return cache_dir() / "tokens"


def cached_token_ids(
    tokenizer: Tokenizer, key_parts: Sequence[str], tokenise: Callable[[], Sequence[Sequence[int]]]
) -> TokenIds:
    """Return the ids that `tokenise` returns, from the cache if it has them.

    Args:
        key_parts: everything that the ids depend on except the tokenizer. This includes the texts.
    """
    path = _cache_path(tokenizer, key_parts) if sum(map(len, key_parts)) >= MIN_CHARACTERS else None
    token_ids = _read(path) if path is not None else None
    if token_ids is None:
        token_ids = TokenIds.from_lists(tokenise())
        if path is not None:
            _write(path, token_ids)
    return token_ids


def _cache_path(tokenizer: Tokenizer, key_parts: Sequence[str]) -> Path | None:
    """Return the path of the file with these ids.

    The path is None if there is no cache folder, or if the tokenizer cannot be hashed because it has steps in Python.
    """
    import tokenizers

    try:
        tokenizer_json, tokens_folder = tokenizer.backend_tokenizer.to_str(), cache_folder()
    except Exception:  # tokenizers raises plain Exception
        return None
    splits_special_text = str(getattr(tokenizer, "split_special_tokens", None))  # `to_str()` does not include it
    hasher = hashlib.sha256()
    for part in (
        _FORMAT_VERSION,
        tokenizers.__version__,
        type(tokenizer).__name__,
        splits_special_text,
        tokenizer_json,
        *key_parts,
    ):
        encoded = part.encode("utf-8", "surrogatepass")
        hasher.update(len(encoded).to_bytes(8, "little"))
        hasher.update(encoded)
    return tokens_folder / f"{hasher.hexdigest()[:40]}.npz"


def _read(path: Path) -> TokenIds | None:
    # The file is not mapped into memory: this process would crash if another machine removed the file from a shared
    # folder.
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:  # verifies the checksums
            token_ids = TokenIds(arrays["flat"], arrays["lengths"])
    except Exception:  # the file is absent or damaged, and each layer has its own exceptions for damage
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return token_ids


def _write(path: Path, token_ids: TokenIds) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, flat=token_ids.flat_ids, lengths=token_ids.token_counts)
    with contextlib.suppress(OSError):  # the folder is read-only or the disk is full
        write_atomically(path, buffer.getbuffer())
        _remove_oldest(path.parent)


def _remove_oldest(tokens_folder: Path) -> None:
    """Remove the least recently used files until `MAX_BYTES` remain. These include files of interrupted writers."""
    file_stats = ((path, path.stat()) for path in tokens_folder.iterdir())
    newest_first = sorted(((stat.st_mtime_ns, stat.st_size, path) for path, stat in file_stats), reverse=True)
    total_bytes = 0
    for _, size, path in newest_first:
        total_bytes += size
        if total_bytes > MAX_BYTES:
            path.unlink(missing_ok=True)
