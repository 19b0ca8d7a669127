"""The keeper of a sweep's workers, and the workers as Ray actors.

    driver ──owns──> Keeper ──owns──> Worker, one a device <──admit, next, evict── a client in each trial's process

An actor ends with its owner. So nothing is left of a sweep whose driver dies, even on a cluster that stays up.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from sweeps.work.worker import Worker

KEEPER = "keeper"  # the actor's name in the namespace of the sweep
SAVE_S = 10.0  # how long an interrupted command waits for the checkpoints of its trials
_CONCURRENT_CALLS = 256  # calls that a worker can answer at a time: every trial has one that waits

Device = tuple[str, str | None]  # a node, and one of its GPUs; None for the node itself where it has no GPU


class Keeper:
    """Owns the workers of a sweep. It is a Ray actor that the driver owns."""

    def __init__(self) -> None:
        # The handle of each device's worker, and the reference of its `until_death` call.
        self._workers: dict[Device, tuple[Any, Any]] = {}
        self._hangs: Counter[Device] = Counter()  # how many workers were ended because they hung
        self._last_device: dict[str, Device] = {}  # where each trial was trained last, by key

    def worker(self, node: str, device: str | None, key: str | None = None) -> Any:
        """Return the live worker of a GPU, or of a node without GPUs. A worker is started if there is none.

        Args:
            key: The trial that will train there. If it has trained on another device before, its client there has
                died. That device's worker does not know this, so it is told to evict the trial.
        """
        import ray

        if key is not None:
            last_device = self._last_device.get(key)
            if last_device in self._workers and last_device != (node, device):
                self._workers[last_device][0].evict_by_key.remote(key)
            self._last_device[key] = node, device
        handle, death = self._workers.get((node, device), (None, None))
        if handle is None or ray.wait([death], timeout=0)[0]:
            handle = _start_worker(node, device)
            self._workers[node, device] = handle, handle.until_death.remote()
        return handle

    def hangs(self, node: str, device: str | None) -> int:
        """Return how many workers of this device have been ended because they hung."""
        return self._hangs[node, device]

    def end(self, node: str, device: str | None, hangs: int) -> None:
        """End a worker that hangs, if `hangs` is still the count that the method `hangs` returns.

        If the count has grown since the client asked for it, another client has had the worker ended already.
        """
        import ray

        if (node, device) in self._workers and self._hangs[node, device] == hangs:
            self._hangs[node, device] += 1
            ray.kill(self._workers[node, device][0])

    def save(self) -> list[Any]:
        """Ask every worker to write checkpoints of its trials. Return references that are ready when they have."""
        return [handle.save.remote() for handle, _ in self._workers.values()]


def _start_worker(node: str, device: str | None) -> Any:
    # A worker reserves no resources: its trials do.
    environment = None if device is None else {"env_vars": {"CUDA_VISIBLE_DEVICES": device}}
    return _start_actor(Worker, node, num_gpus=0, max_concurrency=_CONCURRENT_CALLS, runtime_env=environment)


def start_keeper() -> Any:
    """Start the keeper of the sweep on this node. It lives as long as the handle that is returned."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    return _start_actor(Keeper, node, name=KEEPER, max_restarts=-1, max_task_retries=-1)


def _start_actor(actor_class: type, node: str, **options: Any) -> Any:
    """Start an actor on this node and return its handle."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    on_node = NodeAffinitySchedulingStrategy(node, soft=False)
    actor: Any = ray.remote(actor_class)
    return actor.options(num_cpus=0, scheduling_strategy=on_node, **options).remote()


def current_device() -> Device:
    """Return this process's node, and the GPU that Ray has given it a share of."""
    import ray

    return ray.get_runtime_context().get_node_id(), next((str(number) for number in ray.get_gpu_ids()), None)


def call_in_worker(
    keeper: Any,
    resources: Mapping[str, float],
    function: Callable[..., dict[str, Any]],
    *arguments: Any,
    left_s: Callable[[], float] = lambda: math.inf,
) -> dict[str, Any]:
    """Call a function in the worker of a device that has these resources. The worker keeps what the function loads.

    Args:
        left_s: Returns how much time is left for the call.

    Raises:
        OutOfTime: The time was not enough.
    """
    from sweeps.on_ray.cluster import one_shot, wait_for

    device = wait_for(one_shot(current_device, resources).remote(), left_s(), resources=resources)
    worker: Any = wait_for(keeper.worker.remote(*device), left_s())
    return wait_for(worker.call.remote(function, *arguments), left_s())


def save_trials(keeper: Any) -> None:
    """Write checkpoints of all trials in workers, as far as their current steps end within `SAVE_S` seconds."""
    import ray

    with contextlib.suppress(ray.exceptions.RayError):
        if references := ray.get(keeper.save.remote(), timeout=SAVE_S):
            ray.wait(references, num_returns=len(references), timeout=SAVE_S)
