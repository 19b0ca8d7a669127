"""The keeper of a sweep's workers, and the workers as Ray actors.

    driver ──owns──> keeper ──owns──> one worker per device <──calls── clients, one in each trial's process

An actor ends with its owner. So if the driver dies, all actors of its sweep end, even on a cluster that stays up.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from sweeps.on_ray.waiting import wait_for
from sweeps.work.process import unusable_gpu_error
from sweeps.work.worker import Worker

KEEPER = "keeper"  # the actor's name in the namespace of the sweep
SAVE_S = 10.0  # how long an interrupted command waits for the checkpoints of its trials
_CONCURRENT_CALLS = 256  # how many calls a worker accepts at once; each of its trials keeps one call open

Device = tuple[str, str | None]  # the id of a node and the number of one of its GPUs; None if the node has no GPU


class Keeper:
    """Owns the workers of a sweep. It is a Ray actor that the driver owns."""

    def __init__(self, mark_name: str = "") -> None:
        self._mark_name = mark_name
        # The handle of each device's worker, and the reference of its `wait_until_death` call.
        self._workers: dict[Device, tuple[Any, Any]] = {}
        self._hang_counts: Counter[Device] = Counter()  # how many workers were ended because they hung
        self._last_device: dict[str, Device] = {}  # where each trial was trained last, by the trial's key

    def worker(self, node_id: str, gpu: str | None, key: str | None = None) -> Any:
        """Return the live worker of a GPU, or of a node without GPUs. If there is none, start it.

        Args:
            key: The key of the trial that will train there. If the trial has trained on another device before, its
                client there has died. The worker of that device may not know this, so it is told to evict the trial.
        """

        self._forget_lost_workers()
        if key is not None:
            last_device = self._last_device.get(key)
            if last_device in self._workers and last_device != (node_id, gpu):
                self._workers[last_device][0].evict_by_key.remote(key)
            self._last_device[key] = node_id, gpu
        if (node_id, gpu) not in self._workers:
            handle = _start_worker(node_id, gpu)
            self._workers[node_id, gpu] = handle, handle.wait_until_death.remote()
        return self._workers[node_id, gpu][0]

    def _forget_lost_workers(self) -> None:
        """Forget workers that have died, such as those of machines that have left the cluster."""
        import ray

        references = [death_reference for _, death_reference in self._workers.values()]
        dead_references = set(ray.wait(references, num_returns=len(references), timeout=0)[0]) if references else set()
        self._workers = {device: pair for device, pair in self._workers.items() if pair[1] not in dead_references}

    def mark_name(self) -> str:
        """Return the name of the file by which machines see whether they share the results (`shared_store.mark`)."""
        return self._mark_name

    def hang_count(self, node_id: str, gpu: str | None) -> int:
        """Return how many workers of this device have been ended because they hung."""
        return self._hang_counts[node_id, gpu]

    def end_worker(self, node_id: str, gpu: str | None, hang_count: int) -> None:
        """End a worker that hangs. If `hang_count` is out of date, another client has ended it already."""
        import ray

        if (node_id, gpu) in self._workers and self._hang_counts[node_id, gpu] == hang_count:
            self._hang_counts[node_id, gpu] += 1
            ray.kill(self._workers[node_id, gpu][0])

    def save(self) -> list[Any]:
        """Ask every worker to write checkpoints of its trials. Return the references of these calls."""
        return [handle.save.remote() for handle, _ in self._workers.values()]


def _start_worker(node_id: str, gpu: str | None) -> Any:
    # A worker reserves no resources, because its trials do.
    environment = None if gpu is None else {"env_vars": {"CUDA_VISIBLE_DEVICES": gpu}}
    return _start_actor(Worker, node_id, num_gpus=0, max_concurrency=_CONCURRENT_CALLS, runtime_env=environment)


def start_keeper(mark_name: str = "") -> Any:
    """Start the keeper of the sweep on this node. It lives as long as the returned handle."""
    import ray

    node_id = ray.get_runtime_context().get_node_id()
    return _start_actor(Keeper, node_id, mark_name, name=KEEPER, max_restarts=-1, max_task_retries=-1)


def _start_actor(actor_class: type, node_id: str, *arguments: Any, **options: Any) -> Any:
    """Start an actor on a node, and return its handle."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    on_node = NodeAffinitySchedulingStrategy(node_id, soft=False)
    actor: Any = ray.remote(actor_class)
    return actor.options(num_cpus=0, scheduling_strategy=on_node, **options).remote(*arguments)


def current_device() -> Device:
    """Return this process's node, and the GPU of which Ray has given the process a share."""
    import ray

    return ray.get_runtime_context().get_node_id(), next((str(number) for number in ray.get_gpu_ids()), None)


def usable_device_error() -> str:
    """Return why PyTorch cannot use the GPU that this process has reserved, or ""."""
    return unusable_gpu_error(current_device()[1])


def call_in_worker(
    keeper: Any,
    resources: Mapping[str, float],
    function: Callable[..., dict[str, Any]],
    *arguments: Any,
    left_s: Callable[[], float] = lambda: math.inf,
    max_wait_s: float = math.inf,
) -> dict[str, Any]:
    """Call a function in the worker of a device that has these resources free. What it loads stays in the worker.

    Args:
        left_s: Returns how many seconds are left for the call.
        max_wait_s: How long the call may wait for the resources.

    Raises:
        OutOfTime: The time was not enough.
        ValueError: The cluster had no room for too long, or PyTorch cannot use the reserved GPU.
    """
    from sweeps.on_ray.cluster import one_shot_function

    room_reference = one_shot_function(current_device, resources).remote()
    device = wait_for(room_reference, left_s(), resources=resources, max_wait_s=max_wait_s)
    worker: Any = wait_for(keeper.worker.remote(*device), left_s())
    if error := wait_for(worker.call.remote(unusable_gpu_error, device[1]), left_s()):
        raise ValueError(error)
    return wait_for(worker.call.remote(function, *arguments), left_s())


def save_trials(keeper: Any) -> None:
    """Write checkpoints of the trials in workers, except in workers whose step takes longer than `SAVE_S` seconds."""
    import ray

    with contextlib.suppress(ray.exceptions.RayError):
        if references := ray.get(keeper.save.remote(), timeout=SAVE_S):
            ray.wait(references, num_returns=len(references), timeout=SAVE_S)
