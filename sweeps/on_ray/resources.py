"""The devices of a Ray cluster, as the forecast sees them."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray

from lopt.config import TrialConfig
from sweeps.forecast.measure import measure
from sweeps.forecast.probe import CPU_SLOWDOWN, Resources
from sweeps.on_ray import cluster
from sweeps.on_ray.keeper import call_in_worker
from sweeps.on_ray.tune import ReadyCluster

_EXPECTED_GPU_COUNT = 8  # of a cluster that starts machines on demand, before it has any


def ray_resources(ready_cluster: ReadyCluster, elapsed_s: float) -> Resources:
    """Return the devices of a Ray cluster as resources of the forecast.

    Trials that share a backbone are measured in the worker of a device. Other trials are measured in processes of their
    own: as many at once as the sweep would run at once on a device.

    Args:
        elapsed_s: The seconds since the command began. A sweep needs the same time to get to this point.
    """
    machines, allocation = ready_cluster.machines, ready_cluster.allocation
    resource_name, amount_per_device = ("gpu", 1.0) if machines.has_gpus else ("cpu", float(machines.cpus_per_node))
    shared_share = allocation.shared_resources[resource_name] / amount_per_device
    solo_share = allocation.solo_resources[resource_name] / amount_per_device
    gpu_count = machines.gpu_count or (_EXPECTED_GPU_COUNT if machines.may_grow else 1)
    concurrent_count = allocation.concurrent_count(replace(machines, gpu_count=gpu_count))

    def measure_on_cluster(configs: list[TrialConfig]) -> dict[str, Any]:
        costs_by_key: dict[str, dict[str, float]] = {}
        measurements: list[dict[str, Any]] = []
        for shares_backbone in (True, False):
            matching_configs = [config for config in configs if config.shares_backbone == shares_backbone]
            if not matching_configs:
                continue
            config_dicts = [config.to_dict() for config in matching_configs]
            if shares_backbone:
                arguments = config_dicts, allocation.pack_size, allocation.shared_threads
                measurements.append(
                    call_in_worker(ready_cluster.keeper, allocation.shared_resources, measure, *arguments)
                )
            else:
                remote_measure = cluster.one_shot_function(measure, allocation.solo_resources)
                trials_at_once = range(int(1 / solo_share))
                references = [
                    remote_measure.remote(config_dicts, None, allocation.solo_threads) for _ in trials_at_once
                ]
                measurements.append(_combine_measurements(ray.get(references)))
            costs_by_key |= {
                config.key: cost for config, cost in zip(matching_configs, measurements[-1]["costs"], strict=True)
            }
        return {
            "costs": [costs_by_key[config.key] for config in configs],
            "figures": [figure for measurement in measurements for figure in measurement["figures"]],
            "spread": max(measurement["spread"] for measurement in measurements),
            "hardware": measurements[0]["hardware"],
        }

    def measure_start_s() -> float:
        began_at = time.monotonic()
        ray.get(cluster.one_shot_function(import_like_a_trial, {}).remote())
        processes_per_cpu = max(1.0, concurrent_count / max(1, machines.cpu_count))
        return elapsed_s + (time.monotonic() - began_at) * processes_per_cpu

    return Resources(
        device_count=max(1, gpu_count if machines.has_gpus else machines.node_count),
        max_concurrent=concurrent_count,
        shared_share=shared_share,
        solo_share=solo_share,
        measure_start_s=measure_start_s,
        measure=measure_on_cluster,
        slowdown=1.0 if machines.has_gpus else CPU_SLOWDOWN,
    )


def _combine_measurements(measurements: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Combine measurements that were made at the same time: return their mean costs and their largest spread."""
    costs_by_config = zip(*(measurement["costs"] for measurement in measurements), strict=True)
    costs = [{name: float(np.mean([cost[name] for cost in group])) for name in group[0]} for group in costs_by_config]
    return {**measurements[0], "costs": costs, "spread": max(measurement["spread"] for measurement in measurements)}


def import_like_a_trial() -> None:
    """Import what the process of a trial imports before the trial begins."""
    import ray.tune  # noqa: F401

    import sweeps.work.worker  # noqa: F401
