"""Signals to the real command: the first lets it save its trials, the second ends it at once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest

from sweeps.results.store import Store
from tests.processes import usual_signals

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).resolve().parents[2]


def settings(*, eval_every, evaluations, trials):
    """Return options with which no trial depends on timing. In fp64, packing changes no visible digit."""
    steps = eval_every * evaluations
    values = {"max_steps": steps, "eval_every": eval_every, "grace_steps": steps, "trials": trials, "precision": "fp64"}
    return tuple(word for name, value in values.items() for word in ("--set", f"{name}={value}"))


SHORT = settings(eval_every=20, evaluations=3, trials=2)
# Here it takes seconds from one evaluation to the next. All trials of a worker are evaluated at the same steps.
FAR_APART = settings(eval_every=200, evaluations=2, trials=1)


def start(tmp_path, *arguments, values=SHORT):
    """Start the command in a process group of its own, as a shell does."""
    with usual_signals():
        return subprocess.Popen(
            [sys.executable, "sweeps/run.py", "--space", "smoke", *values, "--out", str(tmp_path), *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )


def read_until(process, pattern):
    """Return the output of the command up to a line that matches the pattern."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(pattern, line):
            return "".join(lines)
    raise AssertionError("".join(lines))


def send(process, number):
    """Send SIGINT to the whole group, as Ctrl-C does, or SIGTERM to the driver alone, because Ray's processes would end
    at it."""
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)


def end(process, seconds=280):
    out, _ = process.communicate(timeout=seconds)
    assert "Traceback" not in out, out
    return process.returncode, out


def record_times(tmp_path, run="smoke-paper"):
    """Return each record file of a run, and when it was written."""
    return {path: path.stat().st_mtime_ns for path in (tmp_path / run / "trials").glob("*.json")}


def checkpoint_files(tmp_path):
    return list((tmp_path / "smoke-paper" / "checkpoints").glob("*.safetensors"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return a function that returns the folder of a run without interruption, on Ray or in local mode. Each such run
    is made once."""
    folder, runs = tmp_path_factory.mktemp("undisturbed"), {}

    def run(*mode, values=SHORT):
        if (mode, values) not in runs:
            name = f"undisturbed{len(runs)}"
            code, out = end(start(folder, *mode, "--name", name, values=values))
            assert code == 0, out
            runs[mode, values] = folder / name
        return runs[mode, values]

    return run


def continue_and_compare(tmp_path, undisturbed, *mode, values=SHORT):
    """Give the same command again. It must finish the sweep, leave earlier records alone, and have the results of an
    undisturbed run."""
    earlier_records = record_times(tmp_path)
    code, out = end(start(tmp_path, *mode, values=values))
    assert code == 0, out
    assert {path: time for path, time in record_times(tmp_path).items() if path in earlier_records} == earlier_records
    assert not (tmp_path / "smoke-paper" / "checkpoints").exists()
    columns = ["key", "phase", "status", "steps", "selection_accuracy", "test_accuracy", "tokens"]
    table, undisturbed_table = (
        pandas.read_parquet(run / "trials.parquet")[columns].sort_values("key", ignore_index=True)
        for run in (tmp_path / "smoke-paper", undisturbed(*mode, values=values))
    )
    pandas.testing.assert_frame_equal(table, undisturbed_table)
    assert not list((tmp_path / "smoke-paper" / "trials").glob("*.failed-*"))
    return out


@pytest.mark.ray
@pytest.mark.parametrize("number", [signal.SIGINT])
def test_the_first_signal_saves_the_running_trials_between_evaluations(tmp_path, undisturbed, number):
    process = start(tmp_path, values=FAR_APART)
    while not checkpoint_files(tmp_path):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    time.sleep(1.5)
    send(process, number)
    code, out = end(process)
    assert code == 130, out
    assert "saving the trials that run" in out
    assert "the same command continues" in out
    assert checkpoint_files(tmp_path)
    assert Store(tmp_path, "smoke-paper").manifest()["status"] == "interrupted"
    out = continue_and_compare(tmp_path, undisturbed, values=FAR_APART)
    steps = [int(step) for step in re.findall(r"continues at step (\d+)", out)]
    assert steps
    assert 200 < max(steps) < 400, "between two evaluations"


@pytest.mark.ray
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_at_once(tmp_path, undisturbed, number):
    process = start(tmp_path)
    read_until(process, "complete at step")
    send(process, number)
    read_until(process, "saving the trials|interrupted")
    send(process, number)
    code, out = end(process, 10)
    assert code == 130, out
    assert "ended at once" in out
    time.sleep(6)  # the orphaned Ray of the first command ends by itself
    continue_and_compare(tmp_path, undisturbed)


@pytest.mark.ray
@pytest.mark.parametrize("line", ["preparing"])
def test_a_signal_before_the_first_trial_ends_the_command_with_130(tmp_path, undisturbed, line):
    """The signal comes while Ray is started, or while weights are loaded."""
    process = start(tmp_path)
    read_until(process, line)
    time.sleep(1)
    send(process, signal.SIGTERM)
    code, out = end(process)
    assert code == 130, out
    continue_and_compare(tmp_path, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_local_mode_ends_the_command_with_130(tmp_path, undisturbed, number):
    process = start(tmp_path, "--local-mode")
    read_until(process, "complete at step")
    send(process, number)
    code, out = end(process)
    assert code == 130, out
    assert "the same command continues" in out
    continue_and_compare(tmp_path, undisturbed, "--local-mode")


def test_a_signal_that_the_parent_wants_ignored_stays_ignored():
    """`nohup` and the background jobs of a shell ignore signals."""
    code = (
        "import os, signal; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "from sweeps import interrupt; interrupt.install_handlers();"
        "os.kill(os.getpid(), signal.SIGINT); print('alive')"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.stdout == "alive\n", process.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_processes_of_tests_end_at_a_signal_that_the_tests_ignore(number):
    """Tests ignore signals when they run in the background of a script."""
    original_handler = signal.signal(number, signal.SIG_IGN)
    try:
        with usual_signals():
            process = subprocess.Popen([sys.executable, "-c", "print('up', flush=True); import time; time.sleep(60)"],
                                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip
        assert process.stdout.readline()
        process.send_signal(number)
        assert process.wait(30) == -number or process.returncode == 1
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, original_handler)
