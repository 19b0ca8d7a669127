"""What machines offer, and what a trial reserves on them."""

from __future__ import annotations

import os
import socket
from dataclasses import replace

import pytest

from sweeps.on_ray import cluster, connection
from sweeps.on_ray.cluster import Machines, allocate, read_machines


def test_what_a_trial_reserves():
    one_node = Machines(gpu_count=0, cpu_count=8, node_count=1, cpus_per_node=8, may_grow=False)
    allocation = allocate(one_node, 6)
    assert (allocation.shared_resources, allocation.solo_resources) == ({"cpu": 1.3333}, {"cpu": 1.0})
    assert allocation.concurrent_count(one_node) == 8
    assert (allocation.shared_threads, allocation.solo_threads) == (8, 1)
    assert allocate(one_node, 16).concurrent_count(one_node) == 16
    limited = allocate(one_node, 6, max_concurrent=2)
    assert (limited.solo_resources, limited.concurrent_count(one_node), limited.solo_threads) == ({"cpu": 4.0}, 2, 4)
    two_gpus = Machines(gpu_count=2, cpu_count=16, node_count=2, cpus_per_node=8, may_grow=False)
    allocation = allocate(two_gpus, 6)
    assert (allocation.shared_resources, allocation.solo_resources) == ({"gpu": 0.1666}, {"cpu": 1.0, "gpu": 1.0})
    assert allocation.concurrent_count(two_gpus) == 12
    assert (allocation.solo_threads, allocation.shared_threads) == (None, None)
    assert allocate(two_gpus, 4, trials_per_gpu=4).solo_resources == {"cpu": 1.0, "gpu": 0.25}
    two_nodes = Machines(gpu_count=0, cpu_count=4, node_count=2, cpus_per_node=2, may_grow=True)
    assert allocate(two_nodes, 4, max_concurrent=1).solo_resources == {"cpu": 2.0}, "no more than a node has"
    no_workers_yet = Machines(gpu_count=0, cpu_count=0, node_count=1, cpus_per_node=1, may_grow=True, expects_gpus=True)
    allocation = allocate(no_workers_yet, 4)
    assert allocation.shared_resources == {"gpu": 0.25}
    counts = [allocation.concurrent_count(replace(no_workers_yet, gpu_count=count)) for count in (0, 1, 3)]
    assert counts == [4, 4, 12], "machines that join are used"


def test_what_a_cluster_offers(monkeypatch, tmp_path):
    monkeypatch.setattr(cluster, "_CLUSTER_FILE", tmp_path / "cluster.yaml")

    def node(alive=True, **resources):
        return {"Alive": alive, "Resources": resources}

    nodes = [node(CPU=8.0, GPU=2.0), node(CPU=4.0), node(alive=False, CPU=64.0), node()]
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    machines = read_machines(nodes)
    assert machines == Machines(gpu_count=2, cpu_count=12, node_count=2, cpus_per_node=4, may_grow=False)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    machines = read_machines([node()])
    assert machines == Machines(
        gpu_count=0, cpu_count=0, node_count=1, cpus_per_node=1, may_grow=True, expects_gpus=True
    ), "nothing says which machines it starts"


def test_a_head_with_cpus_does_not_train_where_gpus_start_on_demand(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(cluster, "_CLUSTER_FILE", tmp_path / "cluster.yaml")
    head = [{"Alive": True, "Resources": {"CPU": 4.0}}]
    assert not read_machines(head).has_gpus
    for text in (
        "",
        "[1]",
        "available_node_types: {a: {}}",
        "a: [",
        "available_node_types: {a: {resources: {CPU: 4}}}",
    ):
        (tmp_path / "cluster.yaml").write_text(text)
        assert not read_machines(head).has_gpus, text
    assert not read_machines([{"Alive": True, "Resources": {}}]).has_gpus, "it starts machines without GPUs only"
    (tmp_path / "cluster.yaml").write_text("available_node_types: {a: {}, b: {resources: {CPU: 4, GPU: 1}}}")
    assert read_machines(head).has_gpus
    assert allocate(read_machines(head), 2).shared_resources == {"gpu": 0.5}
    monkeypatch.delenv("RAY_ADDRESS")
    assert not read_machines(head).has_gpus, "the file is of another cluster"


def test_ray_gets_a_token_if_it_cannot_keep_one_in_the_home_folder(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    connection._ensure_token()
    assert "RAY_AUTH_TOKEN" not in os.environ, "Ray writes its own file"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")  # so that pytest removes the variable after the test
    connection._ensure_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_a_slurm_job_of_several_nodes_without_a_ray_address_is_told_that_one_node_works(monkeypatch, capsys):
    monkeypatch.delenv("SLURM_JOB_NUM_NODES", raising=False)
    connection._warn_about_unused_nodes()
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    connection._warn_about_unused_nodes()
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    connection._warn_about_unused_nodes()
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    assert "2 nodes" in message and "only this node is used" in message and "cluster/slurm.sbatch" in message


# --- the folder of Ray's sockets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("length", [10, 36, 42, 60, 200])
def test_a_folder_that_is_too_long_for_a_socket_is_not_used(variable, length, monkeypatch, tmp_path_factory, capsys):
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    users_folder = "/" + "x" * (length - 1)
    monkeypatch.setenv(variable, users_folder)
    short_folder = connection.temporary_folder()
    folder = short_folder or f"{users_folder}/ray"
    assert len(f"{folder}/session_2026-11-30_03-53-58_177962_4194304/sockets/plasma_store") <= 107
    assert (short_folder is None) == (length <= 36), "the user's own folder is used if it is short enough"
    message = capsys.readouterr().out
    if short_folder is None:
        assert message == ""
    else:
        assert short_folder in message and users_folder in message and len(message.splitlines()) == 1


def test_without_a_short_folder_the_error_says_what_to_set(monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/" + "x" * 100)
    monkeypatch.setattr(connection, "_SHORT_FOLDERS", ("/nowhere",))
    with pytest.raises(ValueError, match="set RAY_TMPDIR to a folder of at most 37 characters, or give --local-mode"):
        connection.temporary_folder()


# --- the address of a cluster --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://10.0.0.1:10001", "does not run through Ray's client"),
        ("head", "give the address that `ray start --head` has printed"),
        ("head:port", "give the address that `ray start --head` has printed"),
        ("127.0.0.1:{closed}", "nothing answers there"),
        ("127.0.0.1:99999", "nothing answers there"),
        ("host.invalid:6379", "nothing answers there"),
        ("127.0.0.1:{silent}", "no Ray answers there"),
    ],
)
def test_a_cluster_that_does_not_answer_is_named_in_one_line(address, message, monkeypatch):
    with socket.socket() as silent, socket.socket() as closed:
        for listener in (silent, closed):
            listener.bind(("127.0.0.1", 0))
        silent.listen()
        ports = {"silent": silent.getsockname()[1], "closed": closed.getsockname()[1]}
        monkeypatch.setattr(connection, "_HEALTH_CHECK_S", 0.5)
        monkeypatch.setenv("RAY_ADDRESS", address.format(**ports))
        with pytest.raises(ValueError) as raised:
            connection.connect()
    assert message in str(raised.value) and f"RAY_ADDRESS is '{address.format(**ports)}'" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_the_word_local_is_no_address(monkeypatch):
    for value, address in (("local", None), ("", None), ("auto", "auto"), (" 10.0.0.1:6379 ", "10.0.0.1:6379")):
        monkeypatch.setenv("RAY_ADDRESS", value)
        assert connection.joined_address() == address
