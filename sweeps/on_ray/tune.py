"""Prepare a Ray cluster for the trials of a sweep, and run them there with Ray Tune."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lopt.config import TrialConfig
from sweeps.on_ray import client, cluster, connection, keeper, shared_store
from sweeps.on_ray.cluster import Allocation, Machines
from sweeps.on_ray.waiting import wait_for, wait_for_machine
from sweeps.options import Options
from sweeps.results.run_folder import StoreError
from sweeps.results.store import Store
from sweeps.work.job import SCORE
from sweeps.work.prepare import prepare

if TYPE_CHECKING:
    from sweeps.supervisor import Supervisor

# Takes configurations and the indices of those that get a baseline, and returns what `prepare` returns.
PrepareFunction = Callable[[list[dict[str, Any]], list[int]], dict[str, Any]]

_PREPARING_SHARE = 10  # this part of a device is reserved while data and weights are prepared


@dataclass(frozen=True, kw_only=True)
class ReadyCluster:
    """A cluster on which everything that trials need is ready.

    Attributes:
        keeper: The handle of the keeper, the actor that owns the workers. The workers live as long as this handle.
        prepared: What `prepare` has returned on the cluster.
    """

    machines: Machines
    allocation: Allocation
    keeper: Any
    prepared: dict[str, Any]


@contextlib.contextmanager
def prepare_cluster(
    store: Store,
    options: Options,
    resolve_settings: Callable[[PrepareFunction], dict[str, Any]],
    first_trial_count: int,
    left_s: Callable[[], float],
    *,
    score_baselines: bool = True,
) -> Iterator[ReadyCluster]:
    """Prepare the Ray cluster of RAY_ADDRESS, or one that is started on this machine, for the trials of a sweep.

    Args:
        store: The store of the run, which every machine must see.
        resolve_settings: Is given a function that runs `prepare` on the cluster. It calls that function with the
            configurations of the sweep, and returns what the function returns.
        first_trial_count: The number of trials that can run at the beginning.
        left_s: Returns how many seconds are left until the cluster must be ready.
        score_baselines: Whether zero-shot baselines are scored.

    Raises:
        OutOfTime: The time was not enough: no machine came, or loading took too long.
        ValueError: The cluster cannot be joined or used.
    """
    connection.connect()
    import ray

    with contextlib.ExitStack() as stack:
        stack.callback(ray.shutdown)
        machines = cluster.read_machines(ray.nodes())
        if not machines.cpu_count and not machines.has_gpus:
            wait_for_machine(left_s(), max_wait_s=options.max_wait_s)
            machines = cluster.read_machines(ray.nodes())
        if options.max_gpu_hours is not None and not machines.gpu_count and not machines.may_grow:
            raise ValueError("--max-gpu-hours is given, but this machine has no GPU: leave the option out")
        if machines.may_grow and not machines.has_gpus:
            print(f"no machine of the cluster has a GPU: trials train on {machines.cpu_count} CPUs", flush=True)
        mark_name = stack.enter_context(shared_store.mark(store))
        if machines.may_grow:
            shared_store.check_machines(store, mark_name, ray.nodes())
        limits = {"trials_per_gpu": options.trials_per_gpu, "max_concurrent": options.max_concurrent}
        unpacked_allocation = cluster.allocate(machines, 1, **limits)  # used until the pack size is known
        keeper_actor = keeper.start_keeper(mark_name)

        def prepare_on_cluster(configs: list[dict[str, Any]], baseline_indices: list[int]) -> dict[str, Any]:
            device_count = max(1, machines.gpu_count or machines.node_count)
            trials_per_device = math.inf if machines.may_grow else first_trial_count / device_count
            scored_indices = baseline_indices if score_baselines else []
            arguments = configs, scored_indices, unpacked_allocation.shared_threads, trials_per_device
            if all(TrialConfig.from_dict(config).shares_backbone for config in configs):
                # A small part is enough. A whole device might never be free where other sweeps run.
                resources = cluster.allocate(machines, _PREPARING_SHARE, **limits).shared_resources
                return keeper.call_in_worker(
                    keeper_actor, resources, prepare, *arguments, left_s=left_s, max_wait_s=options.max_wait_s
                )
            # A trial that trains alone needs the whole device, so nothing may stay loaded there.
            resources = unpacked_allocation.solo_resources
            room_reference = cluster.one_shot_function(keeper.usable_device_error, resources).remote()
            if error := wait_for(room_reference, left_s(), resources=resources, max_wait_s=options.max_wait_s):
                raise ValueError(error)
            return wait_for(cluster.one_shot_function(prepare, resources).remote(*arguments), left_s())

        prepared = resolve_settings(prepare_on_cluster)
        limits["trials_per_gpu"] = options.trials_per_gpu or prepared["solo_count"]
        allocation = cluster.allocate(machines, options.trials_per_gpu or prepared["pack_size"], **limits)
        device_name = "GPU" if machines.has_gpus else "node"
        print(f"trials that share a backbone: {allocation.pack_size} on each {device_name}", flush=True)
        yield ReadyCluster(machines=machines, allocation=allocation, keeper=keeper_actor, prepared=prepared)


def run_trials(ready_cluster: ReadyCluster, supervisor: Supervisor, snapshot_folder: Path, max_wait_s: float) -> None:
    """Run all trials of the supervisor.

    Args:
        snapshot_folder: The folder of Ray's own files. Nothing else reads or writes there.
        max_wait_s: The sweep ends if no trial has had room for this long.

    Raises:
        KeyboardInterrupt: The command was interrupted, and its trials have written checkpoints.
        StoreError: Results can no longer be kept.
        ValueError: A machine cannot be used, or no trial has had room for too long.
        Exception: A plugin of the search has raised this error.
    """
    from ray import tune

    from sweeps.on_ray.adapters import GuardedSupervisor, QueueSearcher, StoppingScheduler
    from sweeps.on_ray.callbacks import DeathCounter, ProcessWatcher, WaitingWatch
    from sweeps.on_ray.capacity import Capacity
    from sweeps.on_ray.trainable import train

    # By default Ray keeps one trial pending at a time. Here the capacity decides how many begin.
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "100000")
    guarded_supervisor, allocation = GuardedSupervisor(supervisor), ready_cluster.allocation
    capacity = Capacity(allocation, supervisor.count_trials, may_grow=ready_cluster.machines.may_grow)

    def end_sweep(error: Exception) -> None:
        guarded_supervisor.error = error
        raise KeyboardInterrupt from error

    needed = "1 GPU" if allocation.uses_gpus else "a trial"
    tuner = tune.Tuner(
        tune.with_resources(train, allocation.placement_group),
        tune_config=tune.TuneConfig(
            metric=SCORE,
            mode="max",
            search_alg=QueueSearcher(guarded_supervisor, capacity),
            scheduler=StoppingScheduler(guarded_supervisor),
            num_samples=-1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=snapshot_folder.name,
            storage_path=str(snapshot_folder.parent),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=client.MAX_DEATHS - 1),
            callbacks=[DeathCounter(), ProcessWatcher(supervisor), WaitingWatch(needed, max_wait_s, end_sweep)],
        ),
    )
    try:
        tuner.fit()
        supervisor.check_results()
    except KeyboardInterrupt:
        if isinstance(guarded_supervisor.error, StoreError):
            raise guarded_supervisor.error from None
        if guarded_supervisor.error:
            keeper.save_trials(ready_cluster.keeper)
            raise guarded_supervisor.error from None
        print("\nsaving the trials that run; Ctrl-C again ends at once", flush=True)
        keeper.save_trials(ready_cluster.keeper)
        raise
