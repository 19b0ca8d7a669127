"""A trial's checkpoint as a file, `checkpoints/<key>-<step>.safetensors`: the one of most steps counts.

So a trial never goes back behind a checkpoint, whoever still writes: a process that was taken for dead, and is behind
the one that took its place, replaces nothing.
"""

from __future__ import annotations

import json
from typing import Any

from lopt.places import Place, read_part, write
from sweeps.results.json_kinds import as_kind

_FIRST_BYTES = 1 << 16


def newest(folder: Place) -> dict[str, Place]:
    """Where each trial's checkpoint is, by key."""
    return {path.name.partition("-")[0]: path for path in _sorted(folder)}  # the last one stays


def read(folder: Place, key: str) -> bytes | None:
    """A trial's checkpoint, or None when there is none.

    Raises:
        OSError: it cannot be read.
    """
    gone = None
    while (found := next(reversed(_sorted(folder, key)), None)) not in (None, gone):
        try:
            return found.read_bytes()
        except FileNotFoundError:  # one of more steps has come since
            gone = found
    return None


def write_step(folder: Place, key: str, step: int, content: bytes) -> None:
    """Writes a trial's checkpoint after so many steps; those after fewer go."""
    name = f"{key}-{step:09}.safetensors"
    write(folder / name, content)
    for path in _sorted(folder, key):
        if path.name < name:
            path.unlink(missing_ok=True)


def drop(folder: Place, key: str) -> None:
    """Takes a trial's checkpoints away."""
    for path in _sorted(folder, key):
        path.unlink(missing_ok=True)


def describe(path: Place) -> dict[str, Any]:
    """What a checkpoint says of itself, read without torch: key, config, phase, cell, step, evaluations, ...

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    begun = read_part(path, 0, _FIRST_BYTES)  # of a file at a URL no more than this, and the rest of a long header
    size = 8 + int.from_bytes(begun[:8], "little")
    header = begun[8:size] + (read_part(path, len(begun), size) if size > len(begun) == _FIRST_BYTES else b"")
    try:
        return as_kind("its description", json.loads(json.loads(header)["__metadata__"]["trial"]), dict)
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not a checkpoint: {error}") from None


def _sorted(folder: Place, key: str = "*") -> list[Place]:
    """By trial, then by step."""
    found: list[Place] = list(folder.glob(f"{key}-*.safetensors"))
    return sorted(found, key=lambda path: path.name)
