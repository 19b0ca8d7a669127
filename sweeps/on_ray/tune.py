"""A sweep's trials on Ray: what they need is made ready there, then Ray Tune runs them."""

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

    allocation: what a trial has of its machines. keeper: the workers live as long as this handle. prepared: what
    `prepare` returned there.
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
    """The Ray cluster of RAY_ADDRESS, else a Ray of this machine's own, with everything there that trials need.

    Args:
        settle_with: calls what it is given, which prepares configurations there, and returns what that has returned.
        trials: that the sweep searches with.
        left_s: time that there is for it.

    Raises:
        OutOfTime: that was not enough: no machine came, or what it had to load took longer.
    """
    cluster.connect()
    import ray

    try:
        machines = cluster.machines(ray.nodes(), max_gpu_hours=options.max_gpu_hours)
        limits = {"trials_per_gpu": options.trials_per_gpu, "max_concurrent": options.max_concurrent}
        alone = cluster.allocate(machines, 1, **limits)
        keeper_actor = keeper.start_keeper()

        def prepare_there(configs: list[dict[str, Any]], wanted: list[int]) -> dict[str, Any]:
            a_device = math.inf if machines.on_demand else trials / max(1, machines.gpus or machines.nodes)
            arguments = configs, wanted if baselines else [], alone.shared_threads, a_device
            if all(TrialConfig.from_dict(config).shares_backbone for config in configs):
                return keeper.call_there(keeper_actor, alone.shared, prepare, *arguments, left_s=left_s)
            # A trial that trains alone wants the whole device: nothing stays there.
            cluster.answer(cluster.once(keeper.place, alone.solo).remote(), left_s(), wants=alone.solo)
            return cluster.answer(cluster.once(prepare, alone.solo).remote(*arguments), left_s())

        prepared = resolve_with(prepare_there)
        allocation = cluster.allocate(machines, options.trials_per_gpu or prepared["packed"], **limits)
        device = "GPU" if machines.has_gpus else "node"
        print(f"trials that share a backbone: {allocation.packed} on each {device}", flush=True)
        yield ReadyCluster(machines=machines, allocation=allocation, keeper=keeper_actor, prepared=prepared)
    finally:
        ray.shutdown()


def run_trials(ready: ReadyCluster, supervisor: Supervisor, snapshots: Path) -> None:
    """Runs all trials that the supervisor has.

    Args:
        snapshots: a folder of Ray's own.

    Raises:
        KeyboardInterrupt: it was interrupted; trials have left checkpoints.
        StoreError: results can no longer be kept. Whatever a plug-in of the search raises.
    """
    from ray import tune

    from sweeps.on_ray.adapters import QueueSearcher, StoppingScheduler, Supervised
    from sweeps.on_ray.callbacks import ForgivenDeaths, TrialPlaces
    from sweeps.on_ray.trainable import train

    # Else Ray keeps one trial pending at a time, and an autoscaled cluster grows one machine at a time.
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(ready.allocation.concurrent))
    supervised = Supervised(supervisor)
    tuner = tune.Tuner(
        tune.with_resources(train, ready.allocation.group),
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
            callbacks=[ForgivenDeaths(), TrialPlaces(supervisor)],
        ),
    )
    try:
        tuner.fit()
    except KeyboardInterrupt:
        if supervised.error:
            raise supervised.error from None
        print("\nsaving the trials that run; Ctrl-C again ends at once", flush=True)
        keeper.save(ready.keeper)
        raise
