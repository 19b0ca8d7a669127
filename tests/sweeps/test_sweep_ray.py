"""Sweeps of `smoke` on Ray. The first test belongs to the default tier, the others to the tier `ray`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pandas
import pytest

from tests.sweeps.ray_sweeps import ROOT, UNTIMED_TRIALS, find_processes, finish, record_files, start, wait_for

pytestmark = pytest.mark.timeout(600)


LONGER_TRIALS = ("--set", "max_steps=60", "--set", "eval_every=4")


def finish_with_same_command(tmp_path):
    """Finish the sweep with the same command, and check that no earlier record has been written again."""
    written_at = {file: file.stat().st_mtime_ns for file in record_files(tmp_path)}
    code, out = finish(start(tmp_path, *LONGER_TRIALS))
    assert code == 0, out
    assert len(record_files(tmp_path)) == 12
    assert {file: file.stat().st_mtime_ns for file in written_at} == written_at


def test_a_sweep_on_ray_is_complete_and_reported(tmp_path):
    code, out = finish(start(tmp_path))
    assert code == 0, out
    table = pandas.read_parquet(tmp_path / "smoke-paper" / "trials.parquet")
    assert dict(table.groupby("phase").size()) == {"confirm": 3, "search": 9}
    assert set(table.status) <= {"complete", "stopped"}
    assert (table[table.status == "stopped"].steps < table[table.status == "stopped"].max_steps).all()
    assert "12/12 done" in out
    assert "Traceback" not in out
    assert re.search(r"trials that share a backbone: \d+ on each node", out)
    assert not (tmp_path / "smoke-paper" / "checkpoints").exists()
    assert not (tmp_path / "smoke-paper" / "ray").exists(), "Ray's own files are removed at the end"
    assert json.loads((tmp_path / "smoke-paper" / "baselines.json").read_text())[0]["test_n"] == 120

    report = subprocess.run(
        [sys.executable, "analysis/report.py", str(tmp_path / "smoke-paper")], cwd=ROOT, capture_output=True, text=True
    )
    assert report.returncode == 0, report.stderr
    assert (tmp_path / "smoke-paper" / "report" / "report.html").stat().st_size > 10_000


@pytest.mark.ray
def test_trials_that_a_time_budget_ends_go_on_later(tmp_path):
    endless = ("--set", "max_steps=1000000", "--set", "eval_every=40", "--set", "grace_steps=1000000")
    for continues in (False, True):
        for seconds in (20, 60, 180):  # on a busy machine the start takes longer
            code, out = finish(start(tmp_path, *endless, f"--max-wall-time={seconds}s"))
            assert code == 4, out
            assert record_files(tmp_path) == []
            if "stopped at the budget, can be continued" in out:
                break
        assert list((tmp_path / "smoke-paper" / "checkpoints").glob("*.safetensors")), out
        assert ("continues at step" in out) == continues


@pytest.mark.ray
def test_a_killed_driver_loses_no_finished_trial(tmp_path):
    process = start(tmp_path, *LONGER_TRIALS)
    wait_for(lambda: len(record_files(tmp_path)) >= 3, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    time.sleep(6)  # the Ray of the first command ends by itself
    finish_with_same_command(tmp_path)


@pytest.mark.ray
def test_a_sweep_is_complete_although_the_process_of_a_trial_dies(tmp_path):
    process = start(tmp_path, "--set", "max_steps=200", "--set", "eval_every=4", "--set", "grace_steps=100")
    wait_for(lambda: len(record_files(tmp_path)) >= 1 and find_processes(process.pid, "ImplicitFunc"), process)
    find_processes(process.pid, "ImplicitFunc")[0].kill()
    code, out = finish(process)
    assert code == 0, out
    assert len(record_files(tmp_path)) == 12


@pytest.mark.ray
def test_a_trial_may_lose_its_process_many_times_if_it_makes_progress(tmp_path):
    """This happens on machines that are taken away. Only deaths without an evaluation between them count."""
    longer = ("--set", "max_steps=400", "--set", "eval_every=4", "--set", "grace_steps=400")
    process = start(tmp_path, *longer, "--max-trials", "1")
    checkpoints = tmp_path / "smoke-paper" / "checkpoints"
    for _ in range(4):
        seen = set()  # checkpoints since the last death; the first may have been written just before that
        while len(seen) < 3:
            wait_for(lambda: any(checkpoints.glob("*.safetensors")), process)
            seen |= {file.name for file in checkpoints.glob("*.safetensors")}
        trial_processes = find_processes(process.pid, "ImplicitFunc")
        assert trial_processes
        for trial_process in trial_processes:
            trial_process.kill()
    code, out = finish(process)
    assert code == 4, out
    (record,) = [json.loads(path.read_text()) for path in record_files(tmp_path)]
    assert record["status"] == "complete", out
    assert [evaluation["step"] for evaluation in record["evaluations"]] == list(range(4, 401, 4))
    assert len(re.findall(r"continues at step", out)) == 4


def read_table(tmp_path, run):
    """Return the results of a run, without the columns that depend on time."""
    columns = ["key", "phase", "status", "steps", "selection_accuracy", "test_accuracy", "tokens"]
    table = pandas.read_parquet(tmp_path / run / "trials.parquet")
    return table[columns].sort_values("key").reset_index(drop=True)


# With these options the trials do not depend on timing: none is stopped, and the sampler does not use its model yet.
# Packing adds numbers in another order, which makes no visible difference in fp64.


@pytest.mark.ray
def test_after_a_worker_is_killed_trials_go_on_from_their_checkpoints(tmp_path):
    process = start(tmp_path, *UNTIMED_TRIALS)
    checkpoints = tmp_path / "smoke-paper" / "checkpoints"
    wait_for(lambda: len(list(checkpoints.glob("*.safetensors"))) >= 3, process)
    clients = find_processes(process.pid, "ImplicitFunc")
    assert clients
    for client in clients:
        assert not any("libtorch" in file.path for file in client.memory_maps()), "a client imports no torch"
    (worker,) = find_processes(process.pid, "ray::Worker")
    assert any("libtorch" in file.path for file in worker.memory_maps())
    worker.kill()
    code, out = finish(process)
    assert code == 0, out
    steps = [int(step) for step in re.findall(r"continues at step (\d+)", out)]
    assert len(steps) >= 3
    assert min(steps) >= 4
    assert not checkpoints.exists()

    code, out = finish(start(tmp_path, *UNTIMED_TRIALS, "--name", "unkilled"))
    assert code == 0, out
    assert "continues" not in out
    pandas.testing.assert_frame_equal(read_table(tmp_path, "smoke-paper"), read_table(tmp_path, "unkilled"))


@pytest.mark.ray
def test_local_mode_and_ray_give_the_same_records(tmp_path):
    """An asynchronous search may choose other trials, but one configuration gives the same result wherever it runs."""
    options = ["--set", "learning_rate=0.1", "--set", "precision=fp64"]
    code, out = finish(start(tmp_path, *options))
    assert code == 0, out
    code, out = finish(start(tmp_path, *options, "--local-mode", "--name", "local"))
    assert code == 0, out
    pandas.testing.assert_frame_equal(read_table(tmp_path, "smoke-paper"), read_table(tmp_path, "local"))


MIXED_SPACE = """
from sweeps.space import Cell, Space, Spec

BASE = {"task": "toy", "backbone": "tiny", "batch_size": 8, "max_steps": 8, "eval_every": 2, "precision": "fp32"}
SHAPES = {"lopt1": {"length": 4, "rank": 2}, "lora": {"rank": 2}, "fine_tuning": {}}


def grid(axes):
    return tuple(Cell(name=name, fixed={"method": name, **shape}, search={}) for name, shape in SHAPES.items())


def build(profile):
    return Space(
        name="mixed", title="Mixed", profile=profile, base=BASE, axes={}, grid=grid, trials=1, confirm_seeds=2,
        grace_steps=4,
    )


SPEC = Spec("mixed", build)
"""


@pytest.mark.ray
def test_one_sweep_runs_methods_that_share_a_backbone_and_methods_that_change_it(tmp_path):
    pytest.importorskip("peft")
    (tmp_path / "mixed.py").write_text(MIXED_SPACE)
    command = [sys.executable, "sweeps/run.py", "--space", str(tmp_path / "mixed.py"), "--out", str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert process.returncode == 0, process.stdout + process.stderr
    table = pandas.read_parquet(tmp_path / "mixed-paper" / "trials.parquet")
    assert dict(table[table.status == "complete"].groupby("method").size()) == dict.fromkeys(
        ("fine_tuning", "lopt1", "lora"), 3
    )


# Three clients on each node, and then this program itself, ask the keeper for a worker. It prints the devices that the
# clients have and those that their workers see.


@pytest.mark.ray
def test_a_sweep_on_ray_with_results_in_s3(s3):
    from lopt.locations import to_location
    from sweeps.results.store import Store

    code, out = finish(start(s3))
    assert code == 0, out
    assert "Traceback" not in out
    records = Store(s3, "smoke-paper").records()
    assert len(records) == 12
    assert {record.status for record in records} <= {"complete", "stopped"}
    names = {file.name for file in (to_location(s3) / "smoke-paper").glob("*")}
    assert not names & {"ray", "checkpoints"}


@pytest.mark.ray
def test_a_failing_store_ends_a_sweep_on_ray_with_an_error_of_one_line(tmp_path):
    process = start(tmp_path, *LONGER_TRIALS)
    wait_for(lambda: len(record_files(tmp_path)) >= 2, process)
    moved_folder = tmp_path / "away"
    (tmp_path / "smoke-paper" / "trials").rename(moved_folder)
    (tmp_path / "smoke-paper" / "trials").write_text("this is not a folder")
    code, out = finish(process)
    assert code == 1, out
    assert "Traceback" not in out
    assert out.count("error: results in") == 1, out
    (tmp_path / "smoke-paper" / "trials").unlink()
    moved_folder.rename(tmp_path / "smoke-paper" / "trials")
    finish_with_same_command(tmp_path)
