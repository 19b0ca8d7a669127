"""A trial's checkpoints as files, `checkpoints/<key>-<step>.safetensors`. Only the file with the highest step is used.

Therefore a trial never loses steps. A process that was taken for dead may still write checkpoints. These have fewer
steps than the checkpoints of its successor, so they are never used.
"""

from lopt.locations import Location, write_file


def newest_paths(folder: Location) -> dict[str, Location]:
    """Return the path of each trial's newest checkpoint, by the trial's key."""
    return {path.name.partition("-")[0]: path for path in _sorted_checkpoints(folder)}  # the last path of a key stays


def read(folder: Location, key: str) -> bytes | None:
    """Return a trial's newest checkpoint, or None if there is none.

    Raises:
        OSError: The checkpoint cannot be read.
    """
    missing_path = None
    while (newest_path := next(reversed(_sorted_checkpoints(folder, key)), None)) not in (None, missing_path):
        try:
            return newest_path.read_bytes()
        except FileNotFoundError:  # a checkpoint with a higher step has replaced it in the meantime
            missing_path = newest_path
    return None


def write_step(folder: Location, key: str, step: int, content: bytes) -> None:
    """Write a trial's checkpoint after `step` steps, and remove those with fewer steps."""
    name = f"{key}-{step:09}.safetensors"
    write_file(folder / name, content)
    for path in _sorted_checkpoints(folder, key):
        if path.name < name:
            path.unlink(missing_ok=True)


def drop(folder: Location, key: str) -> None:
    """Remove a trial's checkpoints."""
    for path in _sorted_checkpoints(folder, key):
        path.unlink(missing_ok=True)


def _sorted_checkpoints(folder: Location, key: str = "*") -> list[Location]:
    """Return the paths of checkpoints, of all trials or of one, sorted by trial and then by step."""
    paths: list[Location] = list(folder.glob(f"{key}-*.safetensors"))
    return sorted(paths, key=lambda path: path.name)
