"""The keeper of a sweep's workers, and the workers as Ray's actors.

    driver ──owns──> Keeper ──owns──> Worker, one a device <──admit, next, evict── a client in each trial's process

Whoever is owned goes with its owner, so nothing is left of a sweep whose driver dies, also on a cluster that stays.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from sweeps.work.worker import Worker

KEEPER = "keeper"  # its name in the sweep's namespace
SAVE_S = 10.0  # an interrupted command waits so long for its trials' checkpoints
_CALLS = 256  # that a worker answers at a time: one waits for each trial


class Keeper:
    """Owns the workers of a sweep; a Ray actor that the driver owns."""

    def __init__(self) -> None:
        self._workers: dict[tuple[str, str | None], tuple[Any, Any]] = {}
        self._hangs: Counter[tuple[str, str | None]] = Counter()  # workers that were ended for that
        self._trained: dict[str, tuple[str, str | None]] = {}  # where each trial was last, by key

    def worker(self, node: str, device: str | None, key: str | None = None) -> Any:
        """The live worker of a GPU, or of a node without one; started when there is none.

        Args:
            key: of the trial that is to train there. Where it has trained before, its client has died, of which that
                worker knows nothing: it is told to let the trial go.
        """
        import ray

        if key is not None:
            before = self._trained.get(key)
            if before in self._workers and before != (node, device):
                self._workers[before][0].evict_by_key.remote(key)
            self._trained[key] = node, device
        handle, death = self._workers.get((node, device), (None, None))
        if handle is None or ray.wait([death], timeout=0)[0]:
            handle = _start(node, device)
            self._workers[node, device] = handle, handle.until_death.remote()
        return handle

    def hangs(self, node: str, device: str | None) -> int:
        """How many workers of this device have been ended because they hung."""
        return self._hangs[node, device]

    def end(self, node: str, device: str | None, hangs: int) -> None:
        """Ends a worker that hangs, unless another client has had it ended since there were so many."""
        import ray

        if (node, device) in self._workers and self._hangs[node, device] == hangs:
            self._hangs[node, device] += 1
            ray.kill(self._workers[node, device][0])

    def save(self) -> list[Any]:
        """Asks every worker for checkpoints of its trials; what tells when they are there."""
        return [handle.save.remote() for handle, _ in self._workers.values()]


def _start(node: str, device: str | None) -> Any:
    # It reserves nothing: its trials do.
    environment = None if device is None else {"env_vars": {"CUDA_VISIBLE_DEVICES": device}}
    return _actor(Worker, node, num_gpus=0, max_concurrency=_CALLS, runtime_env=environment)


def start_keeper() -> Any:
    """The sweep's keeper, on this node; it lives as long as the handle returned."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    return _actor(Keeper, here, name=KEEPER, max_restarts=-1, max_task_retries=-1)


def _actor(kind: type, node: str, **options: Any) -> Any:
    """A handle of a new actor on that node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    actor: Any = ray.remote(kind)
    return actor.options(num_cpus=0, scheduling_strategy=there, **options).remote()


def place() -> tuple[str, str | None]:
    """This process's node, and the GPU that Ray has given it a share of; None without one."""
    import ray

    return ray.get_runtime_context().get_node_id(), next((str(number) for number in ray.get_gpu_ids()), None)


def call_there(
    keeper: Any,
    resources: Mapping[str, float],
    function: Callable[..., dict[str, Any]],
    *arguments: Any,
    left_s: Callable[[], float] = lambda: math.inf,
) -> dict[str, Any]:
    """What a function finds on a device that has these resources; its worker stays, with what it has loaded.

    Args:
        left_s: time that there is for it.

    Raises:
        OutOfTime: that was not enough.
    """
    from sweeps.on_ray.cluster import answer, once

    where = answer(once(place, resources).remote(), left_s(), wants=resources)
    worker: Any = answer(keeper.worker.remote(*where), left_s())
    return answer(worker.call.remote(function, *arguments), left_s())


def save(keeper: Any) -> None:
    """Checkpoints of all trials in workers, as far as a worker is between two steps within `SAVE_S` seconds."""
    import ray

    with contextlib.suppress(ray.exceptions.RayError):
        if saved := ray.get(keeper.save.remote(), timeout=SAVE_S):
            ray.wait(saved, num_returns=len(saved), timeout=SAVE_S)
