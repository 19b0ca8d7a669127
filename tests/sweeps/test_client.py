"""The logic of a client, with a stand-in for Ray in this process."""

from __future__ import annotations

import socket
import sys
import time
from types import SimpleNamespace

import pytest

import lopt.device
from lopt.resolve import resolve
from sweeps.on_ray import client
from sweeps.on_ray import keeper as keeper_module
from sweeps.results.store import Store
from sweeps.work.worker import Worker
from tests.sweeps.clients import job_of
from tests.sweeps.ray_stand_in import ActorHandle, ActorUnschedulable, MortalWorker, replace_ray


@pytest.fixture
def config(tiny):
    return tiny.replace(precision="fp64", max_steps=12, eval_every=4)


def test_when_a_worker_dies_another_one_goes_on_from_the_checkpoint(config, tmp_path, ray_with_workers):
    ray_with_workers([MortalWorker(1), MortalWorker(2), MortalWorker(9)])
    reports = list(client.reports_from_worker(job_of(config, tmp_path)))
    assert [(report["step"], report["note"]) for report in reports] == [
        (4, ""),
        (4, "continues at step 4"),
        (8, ""),
        (8, "continues at step 8"),
        (12, ""),
    ]


def test_a_worker_that_cannot_be_placed_counts_as_dead(config, tmp_path, ray_with_workers):
    class UnplacedWorker(Worker):
        def admit(self, job, steps_alone=False):
            raise ActorUnschedulable("its node is dead")

    ray_with_workers([UnplacedWorker(), MortalWorker(9)])
    assert [report["step"] for report in client.reports_from_worker(job_of(config, tmp_path))] == [4, 8, 12]


def test_a_trial_that_makes_workers_die_fails(config, tmp_path, ray_with_workers):
    ray_with_workers([MortalWorker(2), *(MortalWorker(1) for _ in range(9))])
    reports = list(client.reports_from_worker(job_of(config, tmp_path)))
    assert [report["step"] for report in reports] == [4, 8, 8, 8, 0]
    record = Store(tmp_path, "r").read(resolve(config).key)
    assert record.status == "failed"
    assert "died 3 times, the last time after step 8" in record.error["message"]
    assert Store(tmp_path, "r").read_checkpoint(record.key)


def test_a_gpu_that_torch_cannot_use_is_named_and_fails_the_trial(config, tmp_path, ray_with_workers, monkeypatch):
    ray_with_workers([Worker(), Worker()])
    monkeypatch.setattr(client, "_usable_gpus", {None})
    monkeypatch.setattr(sys.modules["ray"], "get_gpu_ids", lambda: [0])
    monkeypatch.setattr(lopt.device, "has_gpu", lambda: False)
    (report,) = client.reports_from_worker(job_of(config, tmp_path))
    assert report["machine_error"].startswith(f"node {socket.gethostname()} reserved a GPU, torch sees none: driver or")
    record = Store(tmp_path, "r").read(resolve(config).key)
    assert (record.status, record.error["message"]) == ("failed", report["machine_error"])
    monkeypatch.setenv("LOPT_DEVICE", "cpu")
    steps = [report["step"] for report in client.reports_from_worker(job_of(config, tmp_path, run="other"))]
    assert steps == [4, 8, 12]


def test_a_client_that_is_closed_evicts_its_trial(config, tmp_path, ray_with_workers):
    worker = Worker()
    ray_with_workers([worker])
    reports = client.reports_from_worker(job_of(config, tmp_path))
    assert next(reports)["step"] == 4
    assert worker._hosted
    reports.close()
    end = time.monotonic() + 5
    while worker._hosted:  # the client does not wait for the eviction
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_trial_that_moves_to_another_device_is_evicted_where_its_client_died(config, tmp_path, monkeypatch):
    current_node, workers = ["first"], {}

    class LastingWorker(Worker):
        def wait_until_death(self):
            pass

    def start_worker(node, device):
        workers[node] = LastingWorker()
        return ActorHandle(workers[node])

    monkeypatch.setattr(keeper_module, "_start_worker", start_worker)
    replace_ray(monkeypatch, keeper_module.Keeper())
    ray = sys.modules["ray"]
    ray.get_runtime_context = lambda: SimpleNamespace(get_node_id=lambda: current_node[0])
    ray.wait = lambda deaths, num_returns, timeout: ([], deaths)
    dead_client = client.reports_from_worker(job_of(config, tmp_path))
    assert next(dead_client)["step"] == 4
    current_node[0] = "second"
    other_client = client.reports_from_worker(job_of(config.replace(seed=2), tmp_path))
    assert next(other_client)["step"] == 4
    assert len(workers["first"]._hosted) == 1
    assert [report["step"] for report in client.reports_from_worker(job_of(config, tmp_path))] == [4, 8, 12]
    assert workers["first"]._hosted == {}
    assert [report["step"] for report in other_client] == [8, 12]
