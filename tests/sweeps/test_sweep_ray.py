"""Real Ray sweeps of `smoke`. The first belongs to the default tier, the others to the tier `ray`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas
import psutil
import pytest

from lopt import checkpoint

pytestmark = pytest.mark.timeout(600)
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


def finish(process, seconds=280):
    out, _ = process.communicate(timeout=seconds)
    return process.returncode, out


def records(tmp_path):
    return sorted((tmp_path / "smoke-paper" / "trials").glob("*.json"))


def wait_for(condition, process, seconds=200):
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
    assert re.search(r"trials that share a backbone: \d+ on each node", out)
    assert not (tmp_path / "smoke-paper" / "checkpoints").exists()
    assert not (tmp_path / "smoke-paper" / "ray").exists(), "Ray's own files go with the sweep"
    assert json.loads((tmp_path / "smoke-paper" / "baselines.json").read_text())[0]["test_n"] == 120

    report = subprocess.run(
        [sys.executable, "analysis/report.py", str(tmp_path / "smoke-paper")], cwd=ROOT, capture_output=True, text=True
    )
    assert report.returncode == 0, report.stderr
    assert (tmp_path / "smoke-paper" / "report" / "report.html").stat().st_size > 10_000


@pytest.mark.ray
def test_a_budget_of_time_ends_running_trials_which_go_on_later(tmp_path):
    endless = ("--set", "max_steps=1000000", "--set", "eval_every=40", "--set", "grace_steps=1000000")
    for again in (False, True):
        for seconds in (20, 60, 180):  # the start takes longer on a busy machine
            code, out = finish(start(tmp_path, *endless, f"--max-wall-time={seconds}s"))
            assert code == 4, out
            assert records(tmp_path) == []
            if "stopped at the budget, can go on" in out:
                break
        assert list((tmp_path / "smoke-paper" / "checkpoints").glob("*.safetensors")), out
        assert ("continues at step" in out) == again


@pytest.mark.ray
def test_a_driver_killed_outright_loses_no_finished_trial(tmp_path):
    process = start(tmp_path, *LONGER)
    wait_for(lambda: len(records(tmp_path)) >= 3, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    time.sleep(6)  # the orphaned Ray of the first command ends by itself
    continue_and_compare(tmp_path)


def processes(root, title):
    """Processes below `root` whose title, which Ray sets, holds `title`."""
    found = []
    for process in psutil.Process(root).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if title in " ".join(process.cmdline() or [process.name()]):
                found.append(process)
    return found


@pytest.mark.ray
def test_a_trials_process_that_dies_costs_nothing(tmp_path):
    process = start(tmp_path, "--set", "max_steps=200", "--set", "eval_every=4", "--set", "grace_steps=100")
    wait_for(lambda: len(records(tmp_path)) >= 1 and processes(process.pid, "ImplicitFunc"), process)
    processes(process.pid, "ImplicitFunc")[0].kill()
    code, out = finish(process)
    assert code == 0, out
    assert len(records(tmp_path)) == 12


@pytest.mark.ray
def test_a_trial_may_lose_its_process_many_times_as_long_as_it_goes_on(tmp_path):
    """As on machines that are taken away: only deaths without an evaluation between them are the trial's own."""
    longer = ("--set", "max_steps=400", "--set", "eval_every=4", "--set", "grace_steps=400")
    process = start(tmp_path, *longer, "--max-trials", "1")
    checkpoints = tmp_path / "smoke-paper" / "checkpoints"
    for _ in range(4):
        seen = set()
        while len(seen) < 3:  # evaluations since the last death; the first may have been under way
            wait_for(lambda: any(checkpoints.glob("*.safetensors")), process)
            seen |= {c.name for c in checkpoints.glob("*.safetensors")}
        running = processes(process.pid, "ImplicitFunc")
        assert running
        for one in running:
            one.kill()
    code, out = finish(process)
    assert code == 4, out
    (record,) = [json.loads(path.read_text()) for path in records(tmp_path)]
    assert record["status"] == "complete", out
    assert [e["step"] for e in record["evaluations"]] == list(range(4, 401, 4))
    assert len(re.findall(r"continues at step", out)) == 4


def table_of(tmp_path, run):
    """What a run found, without what depends on time."""
    columns = ["key", "phase", "status", "steps", "selection_accuracy", "test_accuracy", "tokens"]
    table = pandas.read_parquet(tmp_path / run / "trials.parquet")
    return table[columns].sort_values("key").reset_index(drop=True)


# Which trials there are depends on no timing: none is stopped, and the sampler has not begun to model. In fp64 packing,
# which adds in another order, changes nothing that can be seen.
FIXED = ("--set", "max_steps=120", "--set", "eval_every=4", "--set", "grace_steps=120", "--set", "trials=2",
         "--set", "precision=fp64")  # fmt: skip


@pytest.mark.ray
def test_a_worker_that_is_killed_costs_only_the_steps_since_the_checkpoints(tmp_path):
    process = start(tmp_path, *FIXED)
    checkpoints = tmp_path / "smoke-paper" / "checkpoints"
    wait_for(lambda: len(list(checkpoints.glob("*.safetensors"))) >= 3, process)
    clients = processes(process.pid, "ImplicitFunc")
    assert clients
    for client in clients:
        assert not any("libtorch" in m.path for m in client.memory_maps()), "a trial's own process imports no torch"
    (worker,) = processes(process.pid, "ray::Worker")
    assert any("libtorch" in m.path for m in worker.memory_maps())
    worker.kill()
    code, out = finish(process)
    assert code == 0, out
    steps = [int(step) for step in re.findall(r"continues at step (\d+)", out)]
    assert len(steps) >= 3
    assert min(steps) >= 4
    assert not checkpoints.exists()

    code, out = finish(start(tmp_path, *FIXED, "--name", "unkilled"))
    assert code == 0, out
    assert "continues" not in out
    pandas.testing.assert_frame_equal(table_of(tmp_path, "smoke-paper"), table_of(tmp_path, "unkilled"))


@pytest.mark.ray
def test_local_mode_and_ray_give_the_same_records(tmp_path):
    """The search is asynchronous, so its trials differ; one configuration gives one result, wherever it runs."""
    fixed = ["--set", "learning_rate=0.1", "--set", "precision=fp64"]
    code, out = finish(start(tmp_path, *fixed))
    assert code == 0, out
    code, out = finish(start(tmp_path, *fixed, "--local-mode", "--name", "local"))
    assert code == 0, out
    pandas.testing.assert_frame_equal(table_of(tmp_path, "smoke-paper"), table_of(tmp_path, "local"))


MIXED = """
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
def test_methods_that_share_a_backbone_and_methods_that_change_it_in_one_sweep(tmp_path):
    pytest.importorskip("peft")
    (tmp_path / "mixed.py").write_text(MIXED)
    command = [sys.executable, "sweeps/run.py", "--space", str(tmp_path / "mixed.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    table = pandas.read_parquet(tmp_path / "mixed-paper" / "trials.parquet")
    assert dict(table[table.status == "complete"].groupby("method").size()) == dict.fromkeys(
        ("fine_tuning", "lopt1", "lora"), 3
    )


WHERE = """
import json, os, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
from sweeps.on_ray import keeper as keepers

ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
keeper = keepers.start_keeper()


def see(worker):
    import os, ray
    return ray.get_runtime_context().get_node_id(), os.environ["CUDA_VISIBLE_DEVICES"], os.getpid()


@ray.remote(num_cpus=0, num_gpus=0.5)
def client():
    import ray
    from sweeps.on_ray import keeper as keepers
    place = keepers.place()
    worker = ray.get(ray.get_actor(keepers.KEEPER).worker.remote(*place))
    return place, ray.get(worker.__ray_call__.remote(see))


nodes = [node["NodeID"] for node in ray.nodes()]
tasks = [client.options(scheduling_strategy=On(node, soft=False)).remote() for node in nodes for _ in range(3)]
other = ray.get(ray.get(keeper.worker.remote(nodes[1], "1")).__ray_call__.remote(see))
print(json.dumps({"nodes": nodes, "seen": ray.get(tasks), "other": other}))
"""


@pytest.mark.ray
def test_budgets_on_a_cluster(tmp_path):
    """Wall time also bounds the wait for a first machine; a GPU counts in full for trials that reserve a part of it."""
    from ray.cluster_utils import Cluster

    def sweep(*more):
        return subprocess.run(
            [*COMMAND, "--out", str(tmp_path), *more], cwd=ROOT, env=environment, capture_output=True, text=True,
            timeout=250,
        )  # fmt: skip

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        environment = {**os.environ, "RAY_ADDRESS": cluster.address, "PYTHONPATH": str(ROOT)}
        done = sweep("--max-wall-time", "25s")
        assert done.returncode == 4, done.stdout + done.stderr
        assert "waiting until the cluster has room for 1 GPU" in done.stdout
        assert "the time was over before the cluster had room for 1 GPU" in done.stdout
        assert "the same command continues" in done.stdout
        done = sweep("--max-wall-time", "10s", "--probe")
        assert done.returncode == 4, done.stdout + done.stderr
        assert "error: the time was over before" in done.stderr
        cluster.add_node(num_cpus=2, num_gpus=1)
        endless = "--set", "max_steps=200000", "--set", "eval_every=20", "--set", "grace_steps=200000"
        alone = "--trials-per-gpu", "4", "--max-concurrent", "1"
        done = sweep(*endless, *alone, "--max-gpu-hours", str(10 / 3600), "--name", "hours")
        assert done.returncode == 4, done.stdout + done.stderr
        (path,) = (tmp_path / "hours" / "checkpoints").glob("*.safetensors")
        assert checkpoint.describe(path)["elapsed_s"] < 20, "40 s of a quarter"
    finally:
        cluster.shutdown()


@pytest.mark.ray
def test_two_nodes_with_made_up_gpus(tmp_path):
    """A trial reserves 1/K of a GPU; the sweep finds the cluster through RAY_ADDRESS. Each GPU has one worker, on its
    node, which sees that GPU alone."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1})
    try:
        cluster.add_node(num_cpus=2, num_gpus=1)
        environment = {**os.environ, "RAY_ADDRESS": cluster.address, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*COMMAND, "--out", str(tmp_path), "--trials-per-gpu", "2", "--set", "trials=2"],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(records(tmp_path)) == 9
        assert "trials that share a backbone: 2 on each GPU" in done.stdout

        done = subprocess.run(
            [sys.executable, "-c", WHERE], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(done.stdout.strip().splitlines()[-1])
        pids = {node: set() for node in found["nodes"]}
        for (node, device), (its_node, its_device, pid) in found["seen"]:
            assert (node, device) == (its_node, its_device)
            pids[node].add(pid)
        assert [len(some) for some in pids.values()] == [1, 1]
        assert len(set.union(*pids.values())) == 2
        node, device, pid = found["other"]
        assert (node, device) == (found["nodes"][1], "1")
        assert pid not in set.union(*pids.values())
    finally:
        cluster.shutdown()


@pytest.mark.ray
def test_nothing_is_left_on_a_cluster_of_a_driver_that_is_killed(tmp_path, monkeypatch):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        process = start(tmp_path, *FIXED)
        checkpoints = tmp_path / "smoke-paper" / "checkpoints"
        wait_for(lambda: len(list(checkpoints.glob("*.safetensors"))) >= 2, process)
        actors = ("ray::Worker", "ray::Keeper", "ImplicitFunc")
        assert all(processes(os.getpid(), title) for title in actors)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        end = time.monotonic() + 60
        while any(processes(os.getpid(), title) for title in actors):
            assert time.monotonic() < end, "the sweep's processes are still there"
            time.sleep(0.2)
        code, out = finish(start(tmp_path, *FIXED))
        assert code == 0, out
        assert len(re.findall(r"continues at step", out)) >= 1
        assert not checkpoints.exists()
    finally:
        cluster.shutdown()


@pytest.mark.ray
def test_a_sweep_on_ray_into_s3(s3):
    from lopt.locations import location
    from sweeps.results.store import Store

    code, out = finish(start(s3))
    assert code == 0, out
    assert "Traceback" not in out
    found = Store(s3, "smoke-paper").records()
    assert len(found) == 12
    assert {r.status for r in found} <= {"complete", "stopped"}
    names = {file.name for file in (location(s3) / "smoke-paper").glob("*")}
    assert not names & {"ray", "checkpoints"}


@pytest.mark.ray
def test_a_store_that_fails_in_mid_run_ends_a_sweep_on_ray_with_one_line(tmp_path):
    process = start(tmp_path, *LONGER)
    wait_for(lambda: len(records(tmp_path)) >= 2, process)
    away = tmp_path / "away"
    (tmp_path / "smoke-paper" / "trials").rename(away)
    (tmp_path / "smoke-paper" / "trials").write_text("no folder")
    code, out = finish(process)
    assert code == 1, out
    assert "Traceback" not in out
    assert out.count("error: results in") == 1, out
    (tmp_path / "smoke-paper" / "trials").unlink()
    away.rename(tmp_path / "smoke-paper" / "trials")
    continue_and_compare(tmp_path)
