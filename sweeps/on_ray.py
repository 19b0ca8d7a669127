"""A sweep's trials on Ray: what they need is made ready there, then Ray Tune runs them."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lopt.config import TrialConfig
from sweeps import client, cluster
from sweeps import keeper as keepers
from sweeps.budget import GpuTime
from sweeps.cluster import Machines, Placement
from sweeps.options import Options
from sweeps.trial import METRIC, prepare, tune_function

Prepare = Callable[[list[dict[str, Any]], list[int]], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Ground:
    """here: the cluster's machines. placed: where a trial goes on them. keeper: the workers live as long as this
    handle. found: what `prepare` found there."""

    here: Machines
    placed: Placement
    keeper: Any
    found: dict[str, Any]


@contextlib.contextmanager
def prepared(
    options: Options,
    settle_with: Callable[[Prepare], dict[str, Any]],
    *,
    trials: int,
    left_s: Callable[[], float],
    baselines: bool = True,
) -> Iterator[Ground]:
    """The Ray cluster of RAY_ADDRESS, else a Ray of this machine's own, with everything there that trials need.

    Args:
        settle_with: calls what it is given, which prepares configurations there, and returns what that found.
        trials: that the sweep searches with.
        left_s: time that there is for it.

    Raises:
        OutOfTime: that was not enough: no machine came, or what it had to load took longer.
    """
    cluster.connect()
    import ray

    try:
        here = cluster.machines(ray.nodes(), max_gpu_hours=options.max_gpu_hours)
        given = {"trials_per_gpu": options.trials_per_gpu, "max_concurrent": options.max_concurrent}
        alone = cluster.placement(here, 1, **given)
        keeper = keepers.start_keeper()

        def prepare_there(configs: list[dict[str, Any]], wanted: list[int]) -> dict[str, Any]:
            a_device = math.inf if here.on_demand else trials / max(1, here.gpus or here.nodes)
            asked = configs, wanted if baselines else [], alone.shared_threads, a_device
            if all(TrialConfig.from_dict(config).shares_backbone for config in configs):
                return keepers.call_there(keeper, alone.shared, prepare, *asked, left_s=left_s)
            # A trial that trains alone wants the whole device: nothing stays there.
            cluster.answer(cluster.once(keepers.place, alone.solo).remote(), left_s(), wants=alone.solo)
            return cluster.answer(cluster.once(prepare, alone.solo).remote(*asked), left_s())

        found = settle_with(prepare_there)
        placed = cluster.placement(here, options.trials_per_gpu or found["packed"], **given)
        print(f"trials that share a backbone: {placed.packed} on each {'GPU' if here.has_gpus else 'node'}", flush=True)
        yield Ground(here=here, placed=placed, keeper=keeper, found=found)
    finally:
        ray.shutdown()


def tune(
    ground: Ground, searcher: Any, scheduler: Any, snapshots: Path, *, gpu_time: GpuTime, save: Callable[[], bool]
) -> None:
    """Runs all trials that the searcher has, with the scheduler's stops.

    Args:
        snapshots: a folder of Ray's own.
        gpu_time: counts it.
        save: asked when the sweep is interrupted, whether trials are to leave checkpoints.

    Raises:
        KeyboardInterrupt: it was interrupted.
    """
    from ray import tune

    from sweeps.scheduler import Mercy, Places

    # Else Ray keeps one trial pending at a time, and an autoscaled cluster grows one machine at a time.
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(ground.placed.concurrent))
    tuner = tune.Tuner(
        tune.with_resources(tune_function, ground.placed.group),
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=ground.placed.concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=snapshots.name,
            storage_path=str(snapshots.parent),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=client.DEATHS - 1),
            callbacks=[Mercy(), Places(gpu_time)],
        ),
    )
    try:
        tuner.fit()
    except KeyboardInterrupt:
        if save():
            print("\nsaving the trials that run; Ctrl-C again ends at once", flush=True)
            keepers.save(ground.keeper)
        raise
