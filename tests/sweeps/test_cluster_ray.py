"""Sweeps on a Ray cluster of several nodes, or of nodes that come later."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from lopt import checkpoint
from tests.sweeps.ray_sweeps import COMMAND, ROOT, UNTIMED_TRIALS, find_processes, finish, record_files, start, wait_for

pytestmark = pytest.mark.timeout(600)

FIND_WORKERS = """
import json, os, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from sweeps.on_ray import keeper as keeper_module

ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
keeper = keeper_module.start_keeper()


def describe(worker):
    import os, ray
    return ray.get_runtime_context().get_node_id(), os.environ["CUDA_VISIBLE_DEVICES"], os.getpid()


@ray.remote(num_cpus=0, num_gpus=0.5)
def client():
    import ray
    from sweeps.on_ray import keeper as keeper_module
    device = keeper_module.current_device()
    worker = ray.get(ray.get_actor(keeper_module.KEEPER).worker.remote(*device))
    return device, ray.get(worker.__ray_call__.remote(describe))


nodes = [node["NodeID"] for node in ray.nodes()]
strategies = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes for _ in range(3)]
clients = [client.options(scheduling_strategy=strategy).remote() for strategy in strategies]
other = ray.get(ray.get(keeper.worker.remote(nodes[1], "1")).__ray_call__.remote(describe))
print(json.dumps({"nodes": nodes, "clients": ray.get(clients), "other": other}))
"""


@pytest.mark.ray
def test_budgets_hold_on_a_cluster(tmp_path):
    """The time budget includes the wait for a first machine. A GPU counts in full if its trials reserve only a part."""
    from ray.cluster_utils import Cluster

    def sweep(*options):
        return subprocess.run(
            [*COMMAND, "--out", str(tmp_path), *options], cwd=ROOT, env=environment, capture_output=True, text=True,
            timeout=250,
        )  # fmt: skip

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        environment = {**os.environ, "RAY_ADDRESS": cluster.address, "PYTHONPATH": str(ROOT), "LOPT_DEVICE": "cpu"}
        process = sweep("--max-wall-time", "25s")
        assert process.returncode == 4, process.stdout + process.stderr
        assert "waiting until the cluster has room for 1 GPU" in process.stdout
        assert "the time of --max-wall-time ran out before the cluster had room for 1 GPU" in process.stdout
        assert "the same command continues" in process.stdout
        process = sweep("--max-wall-time", "10s", "--probe")
        assert process.returncode == 4, process.stdout + process.stderr
        assert "error: the time of --max-wall-time ran out before" in process.stderr
        (tmp_path / "ray_bootstrap_config.yaml").write_text("available_node_types: {cpu: {resources: {CPU: 2}}}")
        environment["HOME"] = str(tmp_path)
        process = sweep("--max-wall-time", "20s")
        assert process.returncode == 4, process.stdout + process.stderr
        assert "waiting until the cluster has room for a trial" in process.stdout, "it starts machines without GPUs"
        assert "the time of --max-wall-time ran out before the cluster had any machine" in process.stdout
        environment["HOME"] = os.environ["HOME"]
        cluster.add_node(num_cpus=2, num_gpus=1)
        endless = "--set", "max_steps=200000", "--set", "eval_every=20", "--set", "grace_steps=200000"
        alone = "--trials-per-gpu", "4", "--max-concurrent", "1"
        process = sweep(*endless, *alone, "--max-gpu-hours", str(10 / 3600), "--name", "hours")
        assert process.returncode == 4, process.stdout + process.stderr
        (path,) = (tmp_path / "hours" / "checkpoints").glob("*.safetensors")
        assert checkpoint.read_description(path)["elapsed_s"] < 20, (
            "it would be 40 s if only the reserved quarter of the GPU counted"
        )
    finally:
        cluster.shutdown()


@pytest.mark.ray
def test_each_gpu_of_a_cluster_has_one_worker(tmp_path):
    """On two nodes with simulated GPUs: the sweep joins the cluster of RAY_ADDRESS, and a trial reserves 1/K of a GPU.

    The worker of a GPU runs on the node of that GPU, and sees no other.
    """
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1})
    try:
        cluster.add_node(num_cpus=2, num_gpus=1)
        environment = {**os.environ, "RAY_ADDRESS": cluster.address, "PYTHONPATH": str(ROOT), "LOPT_DEVICE": "cpu"}
        process = subprocess.run(
            [*COMMAND, "--out", str(tmp_path), "--trials-per-gpu", "2", "--set", "trials=2"],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250,
        )  # fmt: skip
        assert process.returncode == 0, process.stdout + process.stderr
        assert len(record_files(tmp_path)) == 9
        assert "trials that share a backbone: 2 on each GPU" in process.stdout

        process = subprocess.run(
            [sys.executable, "-c", FIND_WORKERS], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
        )
        assert process.returncode == 0, process.stdout + process.stderr
        output = json.loads(process.stdout.strip().splitlines()[-1])
        pids = {node: set() for node in output["nodes"]}
        for (node, device), (worker_node, worker_device, pid) in output["clients"]:
            assert (node, device) == (worker_node, worker_device)
            pids[node].add(pid)
        assert [len(pids_of_node) for pids_of_node in pids.values()] == [1, 1]
        assert len(set.union(*pids.values())) == 2
        node, device, pid = output["other"]
        assert (node, device) == (output["nodes"][1], "1")
        assert pid not in set.union(*pids.values())
    finally:
        cluster.shutdown()


@pytest.mark.ray
def test_a_gpu_that_torch_does_not_see_ends_the_sweep_before_its_first_trial(tmp_path):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1})
    try:
        environment = {**os.environ, "RAY_ADDRESS": cluster.address, "PYTHONPATH": str(ROOT)}
        environment.pop("LOPT_DEVICE", None)
        process = subprocess.run(
            [*COMMAND, "--out", str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250
        )
        assert process.returncode == 2, process.stdout + process.stderr
        (line,) = process.stderr.strip().splitlines()
        assert f"error: node {socket.gethostname()} reserved a GPU, torch sees none: driver or image" in line
    finally:
        cluster.shutdown()


@pytest.mark.ray
def test_a_machine_that_joins_is_used_and_one_that_leaves_is_forgotten(tmp_path, monkeypatch):
    """Two nodes with simulated GPUs. The second joins during the sweep, and leaves again."""
    from ray.cluster_utils import Cluster

    def wait_until_running(count):
        for line in process.stdout:
            lines.append(line)
            if (match := re.search(r"(\d+) running", line)) and int(match[1]) == count:
                return
        raise AssertionError("".join(lines))

    cluster, lines = Cluster(initialize_head=True, head_node_args={"num_cpus": 0}), []
    try:
        cluster.add_node(num_cpus=2, num_gpus=1)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        monkeypatch.setenv("LOPT_DEVICE", "cpu")
        changes = ("max_steps=3000", "eval_every=10", "grace_steps=3000", "trials=4", "precision=fp64")
        options = [word for change in changes for word in ("--set", change)]
        process = start(tmp_path, *options, "--trials-per-gpu", "2")
        wait_until_running(2)
        node = cluster.add_node(num_cpus=2, num_gpus=1)
        wait_until_running(4)
        cluster.remove_node(node)
        wait_until_running(2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) != 0
        assert not any("5 running" in line for line in lines)
    finally:
        cluster.shutdown()


@pytest.mark.ray
def test_two_sweeps_on_one_cluster_share_it(tmp_path, monkeypatch):
    """The second sweep finishes trials while the first one, which had the whole cluster, still has trials left."""
    from ray.cluster_utils import Cluster

    def count_records(name):
        return len(list((tmp_path / name / "trials").glob("*.json")))

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1})
    try:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        monkeypatch.setenv("LOPT_DEVICE", "cpu")
        options = [*UNTIMED_TRIALS, "--seeds", "4", "--trials-per-gpu", "2"]
        first = start(tmp_path, *options, "--name", "first")
        wait_for(lambda: count_records("first") >= 1, first)
        second = start(tmp_path, *options, "--name", "second")
        wait_for(lambda: count_records("second") >= 2, second)
        assert first.poll() is None and count_records("first") < 18
        for process in (second, first):
            code, out = finish(process)
            assert code == 0, out
        assert count_records("first") == count_records("second") == 18
    finally:
        cluster.shutdown()


@pytest.mark.ray
def test_no_process_stays_on_a_cluster_when_the_driver_is_killed(tmp_path, monkeypatch):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        process = start(tmp_path, *UNTIMED_TRIALS)
        checkpoints = tmp_path / "smoke-paper" / "checkpoints"
        wait_for(lambda: len(list(checkpoints.glob("*.safetensors"))) >= 2, process)
        actors = ("ray::Worker", "ray::Keeper", "ImplicitFunc")
        assert all(find_processes(os.getpid(), title) for title in actors)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        end = time.monotonic() + 60
        while any(find_processes(os.getpid(), title) for title in actors):
            assert time.monotonic() < end, "the sweep's processes are still there"
            time.sleep(0.2)
        code, out = finish(start(tmp_path, *UNTIMED_TRIALS))
        assert code == 0, out
        assert len(re.findall(r"continues at step", out)) >= 1
        assert not checkpoints.exists()
    finally:
        cluster.shutdown()
