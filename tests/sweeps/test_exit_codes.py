"""Each exit code once, from the real command. Code 0 on Ray, and the causes of 3 and 4, have tests of their own."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import usual_signals

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("--space", "smoke", "--local-mode", "--set", "trials=1", "--set", "max_steps=4")
BROKEN_TRIAL = """
from lopt.training import Trial
from sweeps.spaces.smoke import SPEC

original_update = Trial.update


def update(self):
    if self.config.method == "lopt1":
        raise RuntimeError("on purpose")
    return original_update(self)


Trial.update = update
"""
BROKEN_PROGRAM = """
import sweeps.planning.plan_text
from sweeps.spaces.smoke import SPEC


def format_plan(plan, run, noise_by_task):
    raise RuntimeError("on purpose")


sweeps.planning.plan_text.format_plan = format_plan
"""


def run(*arguments):
    return subprocess.run(
        [sys.executable, "sweeps/run.py", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=200
    )


def test_0_when_complete_and_4_at_a_budget(tmp_path):
    process = run(*SHORT, "--out", str(tmp_path), "--max-trials", "1")
    assert process.returncode == 4, process.stderr
    assert "stopped at a budget" in process.stdout
    process = run(*SHORT, "--out", str(tmp_path))
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [("--space", "smoky"), ("--space", "smoke", "--set", "rank=0"), ("--space", "smoke", "--max-trials", "0"), ()],
)
def test_2_for_wrong_usage_with_one_line_of_error(arguments):
    process = run(*arguments)
    assert process.returncode == 2
    assert "error: " in process.stderr.strip().splitlines()[-1]
    assert "Traceback" not in process.stderr


def test_3_when_a_trial_failed(tmp_path):
    (tmp_path / "space.py").write_text(BROKEN_TRIAL)
    process = run("--space", str(tmp_path / "space.py"), *SHORT[2:], "--out", str(tmp_path))
    assert process.returncode == 3, process.stderr
    assert "RuntimeError" in process.stdout
    assert "no confirmed trial: lopt1" in process.stdout


def test_a_sweep_goes_on_when_nobody_reads_its_progress_any_more(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "sweeps/run.py", *SHORT, "--out", str(tmp_path)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert any("/6 done" in line for line in process.stdout)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(200) == 0
    process = run(*SHORT, "--out", str(tmp_path))
    assert "6 trials are finished" in process.stdout


def test_130_when_interrupted(tmp_path):
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


def test_130_when_the_terminal_is_lost_and_the_same_command_continues(tmp_path):
    """A connection through SSH that breaks sends SIGHUP, and takes the terminal away."""
    arguments = ["--space", "smoke", "--local-mode", "--out", str(tmp_path)]
    long = ["--set", "max_steps=100000", "--set", "eval_every=20", "--set", "grace_steps=100000"]
    with usual_signals():
        process_id, terminal = pty.fork()
        if process_id == 0:
            os.chdir(ROOT)
            os.execv(sys.executable, [sys.executable, "sweeps/run.py", *arguments, *long])
    checkpoints = tmp_path / "smoke-paper" / "checkpoints"
    end = time.monotonic() + 60
    while not list(checkpoints.glob("*.safetensors")):
        os.read(terminal, 10_000) if select.select([terminal], [], [], 0.1)[0] else None
        assert time.monotonic() < end
    os.close(terminal)
    _, status = os.waitpid(process_id, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert json.loads((tmp_path / "smoke-paper" / "manifest.json").read_text())["status"] == "interrupted"
    assert list(checkpoints.glob("*.safetensors"))


def test_1_for_a_fault_of_the_program_with_its_traceback(tmp_path):
    (tmp_path / "space.py").write_text(BROKEN_PROGRAM)
    process = run("--space", str(tmp_path / "space.py"), "--dry-run")
    assert process.returncode == 1, process.stderr
    assert "on purpose" in process.stderr


@pytest.mark.parametrize("arguments", [("--dry-run",), ("--dry-run", "--json"), ("--help",)])
def test_1_without_a_message_when_nobody_reads_the_output(arguments):
    """Also when Python buffers the output until the end, as it does by default."""
    reader, writer = os.pipe()
    os.close(reader)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.run(
        [sys.executable, "sweeps/run.py", "--space", "smoke", *arguments],
        cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, env=buffered,
    )  # fmt: skip
    os.close(writer)
    assert (process.returncode, process.stderr) == (1, "")
