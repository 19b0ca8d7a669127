"""Real Ray sweeps of `smoke`. The first belongs to the default tier, the others to the tier `ray`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "sweeps/run.py", "--space", "smoke"]


def start(tmp_path, *more):
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*COMMAND, "--out", str(tmp_path), *more],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process, seconds=200):
    out, _ = process.communicate(timeout=seconds)
    return process.returncode, out


def records(tmp_path):
    return sorted((tmp_path / "smoke-paper" / "trials").glob("*.json"))


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


LONGER = ("--set", "max_steps=60", "--set", "eval_every=4")


def continue_and_compare(tmp_path):
    """The same command finishes the sweep and touches no record that was there."""
    done = {p: p.stat().st_mtime_ns for p in records(tmp_path)}
    code, out = finish(start(tmp_path, *LONGER))
    assert code == 0, out
    assert len(records(tmp_path)) == 12
    assert {p: p.stat().st_mtime_ns for p in done} == done


def test_smoke_on_ray(tmp_path):
    code, out = finish(start(tmp_path))
    assert code == 0, out
    table = pandas.read_parquet(tmp_path / "smoke-paper" / "trials.parquet")
    assert dict(table.groupby("phase").size()) == {"confirm": 3, "search": 9}
    assert set(table.status) <= {"complete", "stopped"}
    assert (table[table.status == "stopped"].steps < table[table.status == "stopped"].max_steps).all()
    assert "12/12 done" in out
    assert "Traceback" not in out
    assert not (tmp_path / "smoke-paper" / "ray").exists(), "Ray's own files go with the sweep"
    assert json.loads((tmp_path / "smoke-paper" / "baselines.json").read_text())[0]["test_n"] == 120

    report = subprocess.run(
        [sys.executable, "analysis/report.py", str(tmp_path / "smoke-paper")], cwd=ROOT, capture_output=True, text=True
    )
    assert report.returncode == 0, report.stderr
    assert (tmp_path / "smoke-paper" / "report" / "report.html").stat().st_size > 10_000


@pytest.mark.ray
def test_ctrl_c_keeps_finished_trials_and_the_same_command_continues(tmp_path):
    process = start(tmp_path, *LONGER)
    wait_for(lambda: len(records(tmp_path)) >= 2, process)
    os.kill(process.pid, signal.SIGINT)
    code, out = finish(process, 60)
    assert code == 130, out
    assert "the same command continues" in out
    continue_and_compare(tmp_path)


@pytest.mark.ray
def test_a_driver_killed_outright_loses_no_finished_trial(tmp_path):
    process = start(tmp_path, *LONGER)
    wait_for(lambda: len(records(tmp_path)) >= 3, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    time.sleep(6)  # the orphaned Ray of the first command ends by itself
    continue_and_compare(tmp_path)


@pytest.mark.ray
def test_a_worker_that_dies_costs_nothing(tmp_path):
    import psutil

    process = start(tmp_path, "--set", "max_steps=200", "--set", "eval_every=4", "--set", "grace_steps=100")

    def workers():
        found = psutil.Process(process.pid).children(recursive=True)
        return [p for p in found if "ImplicitFunc" in " ".join(p.cmdline() or [p.name()])]

    wait_for(lambda: len(records(tmp_path)) >= 1 and workers(), process)
    workers()[0].kill()
    code, out = finish(process)
    assert code == 0, out
    assert len(records(tmp_path)) == 12


@pytest.mark.ray
def test_local_mode_and_ray_give_the_same_records(tmp_path):
    """The search is asynchronous, so its trials differ; one configuration gives one result, wherever it runs."""
    fixed = ["--set", "learning_rate=0.1"]
    code, out = finish(start(tmp_path, *fixed))
    assert code == 0, out
    code, out = finish(start(tmp_path, *fixed, "--local-mode", "--name", "local"))
    assert code == 0, out
    tables = [pandas.read_parquet(tmp_path / run / "trials.parquet") for run in ("smoke-paper", "local")]
    columns = ["key", "phase", "status", "steps", "selection_accuracy", "test_accuracy", "tokens"]
    one, two = (t[columns].sort_values("key").reset_index(drop=True) for t in tables)
    pandas.testing.assert_frame_equal(one, two)


@pytest.mark.ray
def test_two_nodes_with_made_up_gpus(tmp_path):
    """A trial reserves 1/K of a GPU; the sweep finds the cluster through RAY_ADDRESS."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1})
    try:
        cluster.add_node(num_cpus=2, num_gpus=1)
        environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        done = subprocess.run(
            [*COMMAND, "--out", str(tmp_path), "--trials-per-gpu", "2", "--set", "trials=2"],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(records(tmp_path)) == 9
    finally:
        cluster.shutdown()
