"""A trial's checkpoint as a file, `checkpoints/<key>-<step>.safetensors`: the one of most steps counts.

So a trial never goes back behind a checkpoint, whoever still writes: a process that was taken for dead, and is behind
the one that took its place, replaces nothing.
"""

from lopt.locations import Location, write

_FIRST_BYTES = 1 << 16


def newest(folder: Location) -> dict[str, Location]:
    """Where each trial's checkpoint is, by key."""
    return {path.name.partition("-")[0]: path for path in _sorted(folder)}  # the last one stays


def read(folder: Location, key: str) -> bytes | None:
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


def write_step(folder: Location, key: str, step: int, content: bytes) -> None:
    """Writes a trial's checkpoint after so many steps; those after fewer go."""
    name = f"{key}-{step:09}.safetensors"
    write(folder / name, content)
    for path in _sorted(folder, key):
        if path.name < name:
            path.unlink(missing_ok=True)


def drop(folder: Location, key: str) -> None:
    """Takes a trial's checkpoints away."""
    for path in _sorted(folder, key):
        path.unlink(missing_ok=True)


def _sorted(folder: Location, key: str = "*") -> list[Location]:
    """By trial, then by step."""
    found: list[Location] = list(folder.glob(f"{key}-*.safetensors"))
    return sorted(found, key=lambda path: path.name)
