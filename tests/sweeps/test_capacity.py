"""How many trials may run at once while machines and sweeps come and go."""

from __future__ import annotations

from collections import Counter

import pytest
import ray
import ray.util

from sweeps.on_ray import capacity as capacity_module
from sweeps.on_ray.capacity import Capacity, MachineRequest
from sweeps.on_ray.cluster import allocate, read_machines


class FakeCluster:
    """A cluster of machines with one GPU each, on which several sweeps run."""

    def __init__(self, monkeypatch):
        self.gpus, self.sweeps, self.free_gpus, self.requested = 1, 1, 0.0, None
        monkeypatch.setenv("RAY_ADDRESS", "auto")
        monkeypatch.setattr(capacity_module, "_REFRESH_S", 0.0)
        monkeypatch.setattr(ray, "nodes", self.nodes)
        monkeypatch.setattr(ray, "available_resources", lambda: {"GPU": self.free_gpus})
        monkeypatch.setattr(ray.util, "list_named_actors", self.list_named_actors)
        monkeypatch.setattr(capacity_module, "MachineRequest", lambda: self)

    def nodes(self):
        machine = {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}
        return [{"Alive": True, "Resources": {}}, *(machine for _ in range(self.gpus))]

    def list_named_actors(self, all_namespaces):
        assert all_namespaces
        keepers = [{"name": "keeper", "namespace": str(number)} for number in range(self.sweeps)]
        return [*keepers, {"name": "another actor", "namespace": "x"}]

    def ask_for(self, gpu_count):
        self.requested = gpu_count


@pytest.fixture
def fake_cluster(monkeypatch):
    return FakeCluster(monkeypatch)


def make_capacity(pack_size=4, *, shared=0, alone=0, max_concurrent=None):
    machines = read_machines(ray.nodes())
    allocation = allocate(machines, pack_size, max_concurrent=max_concurrent)
    return Capacity(allocation, lambda: Counter({True: shared, False: alone}), may_grow=machines.may_grow)


def limit_of(capacity):
    return next(count for count in range(1000) if not capacity.has_room(count))


def test_machines_that_join_are_used_and_those_that_leave_are_forgotten(fake_cluster):
    capacity = make_capacity()
    limits = []
    for fake_cluster.gpus in (1, 3, 2, 0):
        limits.append(limit_of(capacity))
    assert limits == [4, 12, 8, 4], "without any machine, enough trials wait for the first one"
    fake_cluster.gpus = 3
    assert limit_of(make_capacity(max_concurrent=5)) == 5


def test_sweeps_on_one_cluster_have_equal_shares_and_use_room_that_no_other_takes(fake_cluster):
    fake_cluster.gpus, fake_cluster.sweeps = 4, 2
    capacity = make_capacity()
    assert limit_of(capacity) == 8
    fake_cluster.free_gpus = 0.25
    assert limit_of(capacity) == 16
    fake_cluster.free_gpus, fake_cluster.sweeps = 0.0, 3
    assert limit_of(capacity) == 6
    fake_cluster.sweeps = 100
    assert limit_of(capacity) == 1, "no sweep stands still"


def test_beyond_its_share_a_sweep_begins_one_trial_at_a_look(fake_cluster, monkeypatch):
    fake_cluster.gpus, fake_cluster.sweeps, fake_cluster.free_gpus = 4, 2, 1.0
    capacity = make_capacity()
    monkeypatch.setattr(capacity_module, "_REFRESH_S", 1000.0)
    assert [capacity.has_room(count) for count in (7, 8, 9, 8, 7)] == [True, True, False, False, True]
    monkeypatch.setattr(capacity_module, "_REFRESH_S", 0.0)
    assert capacity.has_room(9)


@pytest.mark.parametrize(
    ("counts", "gpus", "requested"),
    [
        ({"shared": 100}, 0, 25),
        ({"shared": 100}, 3, 22),
        ({"shared": 3}, 0, 1),
        ({"shared": 4}, 1, 0),
        ({"shared": 0}, 2, -2),
        ({"alone": 7}, 1, 6),
        ({"alone": 7, "shared": 8}, 1, 8),
        ({"shared": 100, "max_concurrent": 10}, 0, 3),
    ],
)
def test_the_cluster_is_asked_for_as_many_gpus_as_the_trials_can_use(fake_cluster, counts, gpus, requested):
    fake_cluster.gpus = 1
    capacity = make_capacity(**counts)
    fake_cluster.gpus = gpus
    capacity.has_room(0)
    assert fake_cluster.requested == requested


def test_a_cluster_of_cpus_is_asked_for_nothing(fake_cluster, monkeypatch):
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0}}])
    capacity = make_capacity(shared=100)
    assert limit_of(capacity) == 4
    assert fake_cluster.requested is None


def test_a_request_waits_for_trials_to_take_what_is_free_and_goes_when_it_is_met(monkeypatch):
    groups, free_gpus = [], 1.0

    class Group:
        def __init__(self, bundles, strategy):
            self.bundles, self.is_placed = bundles, False
            groups.append(self)

        def wait(self, seconds):
            return self.is_placed

    monkeypatch.setattr(ray, "available_resources", lambda: {"GPU": free_gpus})
    monkeypatch.setattr(ray.util, "placement_group", Group)
    monkeypatch.setattr(ray.util, "remove_placement_group", groups.remove)
    request = MachineRequest()
    request.ask_for(3)
    assert groups == [], "trials can have the free GPU"
    free_gpus = 0.75
    request.ask_for(3)
    request.ask_for(3)
    assert [group.bundles for group in groups] == [[{"GPU": 1.0}] * 3]
    request.ask_for(2)
    request.ask_for(2)
    assert [len(group.bundles) for group in groups] == [2]
    groups[0].is_placed = True
    request.ask_for(2)
    assert groups == [], "what it holds is for the trials"
    request.ask_for(0)
    request.ask_for(-1)
    assert groups == []
