"""Whether machines see the results where the driver sees them."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest
import ray

from sweeps.on_ray import shared_store, trainable
from sweeps.results.store import Store
from tests.sweeps.clients import job_of


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "shared", "r")


def test_a_machine_that_sees_the_mark_shares_the_results(store, tmp_path):
    with shared_store.mark(store) as name:
        assert shared_store.error_here(store.out, "r", name) == ""
        error = shared_store.error_here(str(tmp_path / "other"), "r", name, patience_s=0)
        assert error.startswith(
            f"machine {socket.gethostname()} does not see the driver's results in {tmp_path}/other/r"
        )
        assert "give --out a folder that all machines" in error and len(error.splitlines()) == 1
    assert list(store.folder.iterdir()) == [], "nothing is left"
    assert shared_store.error_here(store.out, "r", name, patience_s=0)


def test_marks_of_killed_commands_are_removed_and_do_not_count(store):
    with shared_store.mark(store) as old_name:
        with shared_store.mark(store) as name:
            assert name != old_name
            assert shared_store.error_here(store.out, "r", old_name, patience_s=0)
        assert list(store.folder.iterdir()) == []


def test_results_at_a_url_are_shared(tmp_path):
    store = Store("memory://results", "r")
    with shared_store.mark(store) as name:
        assert shared_store.error_here(store.out, "r", name) == ""
        assert shared_store.error_here("memory://elsewhere", "r", name, patience_s=0)


def test_a_trial_on_a_machine_that_does_not_share_the_results_reports_it_and_writes_nothing(
    tmp_path, tiny, monkeypatch
):
    reports = []
    keeper = SimpleNamespace(mark_name=SimpleNamespace(remote=lambda: ".driver-1"))
    monkeypatch.setattr(trainable.ray, "get_actor", lambda name: keeper)
    monkeypatch.setattr(trainable.ray, "get", lambda value: value)
    monkeypatch.setattr(trainable, "current_device", lambda: ("node", None))
    monkeypatch.setattr(trainable.tune, "report", reports.append)
    monkeypatch.setattr(shared_store, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(shared_store.error_here, "__defaults__", (0.0,))
    trainable.train(job_of(tiny, tmp_path).to_dict())
    (report,) = reports
    assert "does not see the driver's results" in report["machine_error"] and report["status"] == "running"
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_cannot_run_the_project_is_named_and_one_that_is_gone_is_not(store, monkeypatch):
    answers = iter(
        [
            ray.exceptions.NodeDiedError("gone"),
            ray.exceptions.RayTaskError("f", "traceback", ModuleNotFoundError("No module named 'sweeps'")),
        ]
    )

    def get(reference, timeout):
        raise next(answers)

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(
        ray, "remote", lambda **options: lambda function: SimpleNamespace(options=lambda **options: calls)
    )
    calls = SimpleNamespace(remote=lambda *arguments: None)
    nodes = [
        {"Alive": True, "Resources": {"CPU": 1.0}, "NodeID": "a" * 56, "NodeManagerHostname": name} for name in "xy"
    ]
    dead_node, head = {"Alive": False, "Resources": {"CPU": 1.0}}, {"Alive": True, "Resources": {"memory": 1.0}}
    with pytest.raises(
        ValueError, match=r"machine y cannot run this project \(No module named 'sweeps'\): install the same"
    ):
        shared_store.check_machines(store, "mark", [dead_node, head, *nodes])
