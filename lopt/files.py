"""Writes a file completely or not at all, and refuses git-lfs pointers."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write all of `content` to `path`, or change nothing if that fails.

    A temporary file is written beside `path`, flushed and then renamed. The folder is made if it does not exist.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file_descriptor, temporary_path = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(file_descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary_path, 0o644)
        os.replace(temporary_path, path)
    except BaseException:
        Path(temporary_path).unlink(missing_ok=True)
        raise


def refuse_lfs_pointer(path: Path) -> None:
    """Raise ValueError if a file is a git-lfs pointer, which is what git leaves until git-lfs fetches the file."""
    if not path.is_file() or path.stat().st_size > 1024:
        return
    if path.read_bytes().startswith(b"version https://git-lfs.github.com/spec/"):
        raise ValueError(
            f"{path} is a git-lfs pointer and not the file itself: fetch it with 'git lfs pull' in its repository, or "
            "download it again"
        )
