"""A sweep's trials on Ray: prepare the cluster for them, then run them with Ray Tune."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lopt.config import TrialConfig
from sweeps.on_ray import client, cluster, keeper
from sweeps.on_ray.cluster import Allocation, Machines
from sweeps.options import Options
from sweeps.work.job import SCORE
from sweeps.work.prepare import prepare

if TYPE_CHECKING:
    from sweeps.supervisor import Supervisor

Prepare = Callable[[list[dict[str, Any]], list[int]], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class ReadyCluster:
    """A cluster on which everything that trials need is ready.

    Attributes:
        allocation: What a trial reserves of the machines.
        keeper: The handle of the keeper; the workers live as long as this handle.
        prepared: What `prepare` returned on the cluster.
    """

    machines: Machines
    allocation: Allocation
    keeper: Any
    prepared: dict[str, Any]


@contextlib.contextmanager
def ready_cluster(
    options: Options,
    resolve_with: Callable[[Prepare], dict[str, Any]],
    *,
    trials: int,
    left_s: Callable[[], float],
    baselines: bool = True,
) -> Iterator[ReadyCluster]:
    """Provide the Ray cluster of RAY_ADDRESS, or one that is started on this machine, with all that trials need.

    Args:
        resolve_with: Is called with a function that prepares configurations on the cluster, calls that function, and
            returns what it has returned.
        trials: Number of search trials of the sweep.
        left_s: Returns how much time is left until the cluster must be ready.
        baselines: Whether zero-shot baselines are scored.

    Raises:
        OutOfTime: The time was not enough: no machine came, or loading took too long.
    """
    cluster.connect()
    import ray

    try:
        machines = cluster.read_machines(ray.nodes(), max_gpu_hours=options.max_gpu_hours)
        limits = {"trials_per_gpu": options.trials_per_gpu, "max_concurrent": options.max_concurrent}
        unpacked = cluster.allocate(machines, 1, **limits)
        keeper_actor = keeper.start_keeper()

        def prepare_on_cluster(configs: list[dict[str, Any]], baseline_indices: list[int]) -> dict[str, Any]:
            trials_per_device = math.inf if machines.on_demand else trials / max(1, machines.gpus or machines.nodes)
            indices = baseline_indices if baselines else []
            arguments = configs, indices, unpacked.shared_threads, trials_per_device
            if all(TrialConfig.from_dict(config).shares_backbone for config in configs):
                return keeper.call_in_worker(keeper_actor, unpacked.shared, prepare, *arguments, left_s=left_s)
            # A trial that trains alone needs the whole device, so nothing may stay loaded there.
            has_room = cluster.one_shot(keeper.current_device, unpacked.solo).remote()
            cluster.wait_for(has_room, left_s(), resources=unpacked.solo)
            return cluster.wait_for(cluster.one_shot(prepare, unpacked.solo).remote(*arguments), left_s())

        prepared = resolve_with(prepare_on_cluster)
        allocation = cluster.allocate(machines, options.trials_per_gpu or prepared["packed"], **limits)
        device = "GPU" if machines.has_gpus else "node"
        print(f"trials that share a backbone: {allocation.packed} on each {device}", flush=True)
        yield ReadyCluster(machines=machines, allocation=allocation, keeper=keeper_actor, prepared=prepared)
    finally:
        ray.shutdown()


def run_trials(ready: ReadyCluster, supervisor: Supervisor, snapshots: Path) -> None:
    """Run all trials of the supervisor.

    Args:
        snapshots: A folder that only Ray uses.

    Raises:
        KeyboardInterrupt: The command was interrupted, and its trials have left checkpoints.
        StoreError: Results can no longer be kept.
        Exception: An error that a plugin of the search has raised.
    """
    from ray import tune

    from sweeps.on_ray.adapters import GuardedSupervisor, QueueSearcher, StoppingScheduler
    from sweeps.on_ray.callbacks import DeathCounter, TrialProcesses
    from sweeps.on_ray.trainable import train

    # By default Ray keeps one trial pending at a time, and a cluster would start its machines one by one.
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(ready.allocation.concurrent))
    supervised = GuardedSupervisor(supervisor)
    tuner = tune.Tuner(
        tune.with_resources(train, ready.allocation.placement_group),
        tune_config=tune.TuneConfig(
            metric=SCORE,
            mode="max",
            search_alg=QueueSearcher(supervised),
            scheduler=StoppingScheduler(supervised),
            num_samples=-1,
            max_concurrent_trials=ready.allocation.concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=snapshots.name,
            storage_path=str(snapshots.parent),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=client.DEATHS - 1),
            callbacks=[DeathCounter(), TrialProcesses(supervisor)],
        ),
    )
    try:
        tuner.fit()
    except KeyboardInterrupt:
        if supervised.error:
            raise supervised.error from None
        print("\nsaving the trials that run; Ctrl-C again ends at once", flush=True)
        keeper.save_trials(ready.keeper)
        raise
