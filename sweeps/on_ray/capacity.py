"""How many trials may run at once while machines join and leave, and how many machines the sweep asks for."""

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from sweeps.on_ray.cluster import Allocation, read_machines
from sweeps.on_ray.keeper import KEEPER

_REFRESH_S = 2.0  # how often the cluster is looked at


class Capacity:
    """The number of trials that may run at once, from a fresh look at the cluster every few seconds.

    Machines that join are used, and machines that have left do not count. If several sweeps run on the cluster, each
    has an equal share. A sweep may exceed its share where there is room that no other sweep takes.

    On a cluster that starts machines on demand, the capacity also asks for them (`MachineRequest`).

    Args:
        count_trials: Returns how many trials run or could begin now, by whether they share a backbone.
    """

    def __init__(self, allocation: Allocation, count_trials: Callable[[], Counter[bool]], *, may_grow: bool) -> None:
        self._allocation, self._count_trials = allocation, count_trials
        self._request = MachineRequest() if may_grow and allocation.uses_gpus else None
        self._looked_at, self._limit, self._share, self._may_exceed_share = -math.inf, 0, 0, False

    def has_room(self, running_count: int) -> bool:
        """Return whether one more trial may begin while `running_count` trials of this sweep run."""
        if time.monotonic() - self._looked_at >= _REFRESH_S:
            self._look()
        if running_count < min(self._limit, self._share):
            return True
        if running_count >= self._limit or not self._may_exceed_share:
            return False
        self._may_exceed_share = False  # until the next look, because other sweeps see the same room
        return _has_free_resources(self._allocation)

    def _look(self) -> None:
        import ray

        self._looked_at = time.monotonic()
        machines = read_machines(ray.nodes())
        self._limit = self._allocation.concurrent_count(machines)
        self._share, self._may_exceed_share = math.ceil(self._limit / max(1, _count_sweeps())), True
        if self._request:
            counts = self._count_trials()
            trial_count = min(counts.total(), self._allocation.max_concurrent or counts.total())
            gpus_per_trial = sum(
                count * self._allocation.resources_for(shares_backbone).get("gpu", 0.0)
                for shares_backbone, count in counts.items()
            ) / max(1, counts.total())
            self._request.ask_for(math.ceil(trial_count * gpus_per_trial - 0.01) - machines.gpu_count)


def _count_sweeps() -> int:
    """Return how many sweeps run on the cluster. Each has a keeper in a namespace of its own."""
    from ray.util import list_named_actors

    return sum(actor["name"] == KEEPER for actor in list_named_actors(all_namespaces=True))


def _has_free_resources(allocation: Allocation) -> bool:
    """Return whether the cluster has room for a trial that no trial of any sweep takes."""
    import ray

    available = ray.available_resources()
    resources = allocation.shared_resources
    return all(available.get(name.upper(), 0.0) >= amount for name, amount in resources.items())


class MachineRequest:
    """Asks a cluster that starts machines on demand for more GPUs than it has.

    The request is a placement group for all missing GPUs. While it waits, Ray's autoscaler counts them as demand. It
    ends with the command. `ray.autoscaler.sdk.request_resources` would keep machines after a command that was killed.

    Trials go before the request: there is none while a whole GPU is free.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._gpu_count = 0

    def ask_for(self, gpu_count: int) -> None:
        """Let a request for so many GPUs wait; none for a number below one."""
        import ray
        from ray.util import placement_group, remove_placement_group

        if self._group is not None and (gpu_count != self._gpu_count or self._group.wait(0)):
            remove_placement_group(self._group)
            self._group = None
        elif self._group is None and gpu_count > 0 and ray.available_resources().get("GPU", 0.0) < 1:
            self._group = placement_group([{"GPU": 1.0}] * gpu_count, strategy="SPREAD")
            self._gpu_count = gpu_count
