"""The devices of a Ray cluster, as the forecast sees them."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray

from lopt.config import TrialConfig
from sweeps.forecast.measure import measure
from sweeps.forecast.probe import CPU_SLOWDOWN, Resources
from sweeps.on_ray import cluster
from sweeps.on_ray.keeper import call_in_worker
from sweeps.on_ray.tune import ReadyCluster


def ray_resources(ready: ReadyCluster, elapsed_s: float) -> Resources:
    """Return the devices of a Ray cluster as resources of the forecast.

    Trials that share a backbone are measured in the worker of a device. Others are measured in processes of their own,
    as many side by side as a device holds.

    Args:
        elapsed_s: The time since the command began. A sweep that begins takes as long to come this far.
    """
    machines, allocation = ready.machines, ready.allocation
    kind, whole = ("gpu", 1.0) if machines.has_gpus else ("cpu", float(machines.node_cpus))
    shared, alone = allocation.shared[kind] / whole, allocation.solo[kind] / whole
    devices = (machines.gpus or allocation.concurrent // allocation.packed) if machines.has_gpus else machines.nodes

    def measure_on_cluster(configs: list[TrialConfig]) -> dict[str, Any]:
        costs: dict[str, dict[str, float]] = {}
        measurements: list[dict[str, Any]] = []
        for shares_backbone in (True, False):
            measured = [config for config in configs if config.shares_backbone == shares_backbone]
            if not measured:
                continue
            values = [config.to_dict() for config in measured]
            if shares_backbone:
                arguments = values, allocation.packed, allocation.shared_threads
                measurements.append(call_in_worker(ready.keeper, allocation.shared, measure, *arguments))
            else:
                remote_measure, side_by_side = cluster.one_shot(measure, allocation.solo), range(int(1 / alone))
                references = [remote_measure.remote(values, None, allocation.threads) for _ in side_by_side]
                measurements.append(_mean(ray.get(references)))
            costs |= {config.key: cost for config, cost in zip(measured, measurements[-1]["costs"], strict=True)}
        return {
            "costs": [costs[config.key] for config in configs],
            "figures": [figure for measurement in measurements for figure in measurement["figures"]],
            "spread": max(measurement["spread"] for measurement in measurements),
            "hardware": measurements[0]["hardware"],
        }

    def measure_start_s() -> float:
        began_at = time.monotonic()
        ray.get(cluster.one_shot(import_like_a_trial, {}).remote())
        return elapsed_s + (time.monotonic() - began_at) * max(1.0, allocation.concurrent / max(1, machines.cpus))

    return Resources(
        device_count=max(1, devices),
        max_concurrent=allocation.concurrent,
        shared_backbone_share=shared,
        alone_share=alone,
        measure_start_s=measure_start_s,
        measure=measure_on_cluster,
        slowdown=1.0 if machines.has_gpus else CPU_SLOWDOWN,
    )


def _mean(measurements: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of measurements that were made side by side."""
    costs_by_config = zip(*(measurement["costs"] for measurement in measurements), strict=True)
    costs = [{name: float(np.mean([cost[name] for cost in group])) for name in group[0]} for group in costs_by_config]
    return {**measurements[0], "costs": costs, "spread": max(measurement["spread"] for measurement in measurements)}


def import_like_a_trial() -> None:
    """Import what a trial's process imports before it begins."""
    import ray.tune  # noqa: F401

    import sweeps.work.worker  # noqa: F401
