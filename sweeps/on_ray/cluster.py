"""The machines of a Ray cluster, and how many trials run on them at once."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lopt.config import TrialConfig
from sweeps.on_ray.connection import joined_address

_CLUSTER_FILE = Path("~/ray_bootstrap_config.yaml").expanduser()


@dataclass(frozen=True, kw_only=True)
class Machines:
    """What the cluster offers to trials.

    Attributes:
        gpu_count, cpu_count: The numbers of GPUs and CPUs of all nodes together.
        node_count: The number of nodes that have CPUs; 1 if none has.
        cpus_per_node: The number of CPUs of the smallest of these nodes.
        may_grow: Whether machines may join.
        expects_gpus: Whether the cluster has no GPU yet, and starts machines with GPUs on demand. If nothing says which
            machines it starts, this is assumed where no node has a CPU, either.
    """

    gpu_count: int
    cpu_count: int
    node_count: int
    cpus_per_node: int
    may_grow: bool
    expects_gpus: bool = False

    @property
    def has_gpus(self) -> bool:
        """Whether trials run on GPUs."""
        return bool(self.gpu_count or self.expects_gpus)


def read_machines(nodes: list[dict[str, Any]]) -> Machines:
    """Return what the nodes offer together. `nodes` is what `ray.nodes` returns."""
    node_resources = [node["Resources"] for node in nodes if node["Alive"]]
    node_cpu_counts = [int(amounts["CPU"]) for amounts in node_resources if amounts.get("CPU", 0) >= 1]
    gpu_count = int(sum(amounts.get("GPU", 0) for amounts in node_resources))
    cpu_count, may_grow = sum(node_cpu_counts), joined_address() is not None
    return Machines(
        gpu_count=gpu_count,
        cpu_count=cpu_count,
        node_count=max(1, len(node_cpu_counts)),
        cpus_per_node=min(node_cpu_counts, default=1),
        may_grow=may_grow,
        expects_gpus=may_grow and not gpu_count and _starts_gpu_machines(_CLUSTER_FILE, unknown=not cpu_count),
    )


def _starts_gpu_machines(cluster_file: Path, *, unknown: bool) -> bool:
    """Return whether the file of a cluster, which `ray up` leaves on the head, has a type of machines with GPUs.

    Without a readable file, return `unknown`.
    """
    import yaml

    try:
        node_types = yaml.safe_load(cluster_file.read_text())["available_node_types"].values()
        return any((node_type.get("resources") or {}).get("GPU") for node_type in node_types)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError, AttributeError):
        return unknown


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """What one trial reserves. It follows from the machines that are there when the sweep begins.

    Attributes:
        solo_resources: What a trial that trains alone reserves: the number of each resource by name ("cpu" or "gpu").
        shared_resources: The same for a trial that shares its backbone.
        pack_size: How many trials share a backbone on a device.
        max_concurrent: At most this many trials run at once. None means that the machines alone set the limit.
        solo_threads: Processor threads of a trial that trains alone. If it is None, PyTorch chooses them.
        shared_threads: Processor threads of a worker, for all its trials together. None has the same meaning.
    """

    solo_resources: Mapping[str, float]
    shared_resources: Mapping[str, float]
    pack_size: int
    max_concurrent: int | None
    solo_threads: int | None
    shared_threads: int | None

    @property
    def uses_gpus(self) -> bool:
        """Whether trials reserve GPUs."""
        return "gpu" in self.shared_resources

    def concurrent_count(self, machines: Machines) -> int:
        """Return how many trials have room on the machines at once; at least one."""
        if self.uses_gpus:
            count = max(1, machines.gpu_count) * self.pack_size
        else:
            count = max(machines.node_count * self.pack_size, int(machines.cpu_count / self.solo_resources["cpu"]))
        return min(count, self.max_concurrent or count)

    def resources_for(self, shares_backbone: bool) -> Mapping[str, float]:
        """Return the resources of one trial."""
        return self.shared_resources if shares_backbone else self.solo_resources

    def job_fields(self, config: TrialConfig) -> dict[str, Any]:
        """Return the fields of a `Job` that depend on the allocation."""
        threads = self.shared_threads if config.shares_backbone else self.solo_threads
        return {"shares_backbone": config.shares_backbone, "threads": threads, "pack_size": self.pack_size}

    def placement_group(self, job: Mapping[str, Any]) -> Any:
        """Return what Ray Tune reserves for a job, which is given as JSON."""
        from ray import tune

        resources = self.resources_for(job["shares_backbone"])
        return tune.PlacementGroupFactory([{name.upper(): amount for name, amount in resources.items() if amount}])


def allocate(
    machines: Machines, pack_size: int, *, trials_per_gpu: int | None = None, max_concurrent: int | None = None
) -> Allocation:
    """Decide what each trial reserves. On each device, `pack_size` trials share a backbone; others train alone.

    Args:
        trials_per_gpu: How many trials that train alone run on one GPU. If it is None, one does.
        max_concurrent: At most this many trials run at once. If it is None, the machines alone set the limit.
    """
    if machines.has_gpus:
        solo_resources = {"cpu": 1.0, "gpu": _share(1, trials_per_gpu or 1)}
        shared_resources = {"gpu": _share(1, pack_size)}
        solo_threads, shared_threads = None, None
    else:
        solo_count = min(max_concurrent or machines.cpu_count, machines.cpu_count)
        solo_threads = max(1, min(machines.cpus_per_node, machines.cpu_count // solo_count))
        shared_threads = machines.cpus_per_node
        solo_resources = {"cpu": float(solo_threads)}
        shared_resources = {"cpu": _share(machines.cpus_per_node, pack_size)}
    return Allocation(
        solo_resources=solo_resources,
        shared_resources=shared_resources,
        pack_size=pack_size,
        max_concurrent=max_concurrent,
        solo_threads=solo_threads,
        shared_threads=shared_threads,
    )


def _share(whole: int, parts: int) -> float:
    """Return `whole / parts`, rounded down to Ray's unit, so that six sixths are not more than the whole."""
    return math.floor(whole / parts * 10_000) / 10_000


def one_shot_function(function: Callable[..., Any], resources: Mapping[str, float]) -> Any:
    """Return a remote function whose process ends with its call, so that the backbone's memory is freed."""
    import ray

    make_remote: Any = ray.remote(max_calls=1, num_cpus=resources.get("cpu", 0), num_gpus=resources.get("gpu", 0))
    return make_remote(function)
