"""Each exit code once, of the real command. 0 on Ray and what leads to 3 and 4 have tests of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import usual_signals

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("--space", "smoke", "--local-mode", "--set", "trials=1", "--set", "max_steps=4")
BROKEN_TRIAL = """
from lopt.training import Trial
from sweeps.spaces.smoke import SPEC

honest = Trial.update


def update(self):
    if self.config.method == "lopt1":
        raise RuntimeError("on purpose")
    return honest(self)


Trial.update = update
"""
BROKEN_PROGRAM = """
import sweeps.planning.plan_text
from sweeps.spaces.smoke import SPEC


def text(plan, run):
    raise RuntimeError("on purpose")


sweeps.planning.plan_text.text = text
"""


def run(*arguments, **more):
    return subprocess.run(
        [sys.executable, "sweeps/run.py", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=200, **more
    )


def test_0_complete_and_4_at_a_budget(tmp_path):
    done = run(*SHORT, "--out", str(tmp_path), "--max-trials", "1")
    assert done.returncode == 4, done.stderr
    assert "stopped at a budget" in done.stdout
    done = run(*SHORT, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [("--space", "smoky"), ("--space", "smoke", "--set", "rank=0"), ("--space", "smoke", "--max-trials", "0"), ()],
)
def test_2_wrong_usage_is_said_in_one_line(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert "error: " in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_3_a_trial_failed(tmp_path):
    (tmp_path / "space.py").write_text(BROKEN_TRIAL)
    done = run("--space", str(tmp_path / "space.py"), *SHORT[2:], "--out", str(tmp_path))
    assert done.returncode == 3, done.stderr
    assert "RuntimeError" in done.stdout
    assert "no confirmed trial: lopt1" in done.stdout


def test_a_sweep_goes_on_when_nobody_reads_its_progress_any_more(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "sweeps/run.py", *SHORT, "--out", str(tmp_path)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert any("/6 done" in line for line in process.stdout)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(200) == 0
    done = run(*SHORT, "--out", str(tmp_path))
    assert "6 trials are finished" in done.stdout


def test_130_interrupted(tmp_path):
    with usual_signals():
        process = subprocess.Popen(
            [sys.executable, "sweeps/run.py", *SHORT, "--out", str(tmp_path)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    for line in process.stdout:
        if "preparing" in line:
            break
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert "Traceback" not in out


def test_1_anything_else_is_a_fault_of_the_program_and_shows_where(tmp_path):
    (tmp_path / "space.py").write_text(BROKEN_PROGRAM)
    done = run("--space", str(tmp_path / "space.py"), "--dry-run")
    assert done.returncode == 1, done.stderr
    assert "on purpose" in done.stderr


@pytest.mark.parametrize("arguments", [("--dry-run",), ("--dry-run", "--json"), ("--help",)])
def test_1_when_nobody_reads_the_output_without_a_word(arguments):
    """Also where Python keeps the output back until the end, as it does unless told otherwise."""
    reader, writer = os.pipe()
    os.close(reader)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "sweeps/run.py", "--space", "smoke", *arguments],
        cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, env=buffered,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
