"""Sweeps of `smoke` on Ray, in processes of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

UNTIMED_TRIALS = ("--set", "max_steps=120", "--set", "eval_every=4", "--set", "grace_steps=120", "--set", "trials=2",
                  "--set", "precision=fp64")  # fmt: skip


ROOT = Path(__file__).resolve().parents[2]


COMMAND = [sys.executable, "sweeps/run.py", "--space", "smoke"]


def start(out, *options):
    """Start a sweep in a process of its own, and return the process."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*COMMAND, "--out", str(out), *options],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process, seconds=280):
    """Wait for the end of a sweep. Return its exit code and its output."""
    out, _ = process.communicate(timeout=seconds)
    return process.returncode, out


def record_files(tmp_path):
    return sorted((tmp_path / "smoke-paper" / "trials").glob("*.json"))


def wait_for(condition, process, seconds=200):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, f"the condition did not become true in {seconds} s"
        time.sleep(0.05)


def find_processes(root, title):
    """Return the processes below the process `root` whose title, which Ray sets, contains `title`."""
    matching = []
    for process in psutil.Process(root).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if title in " ".join(process.cmdline() or [process.name()]):
                matching.append(process)
    return matching
