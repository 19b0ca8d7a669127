"""The devices of a Ray cluster, as the forecast knows them."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray

from lopt.config import TrialConfig
from sweeps.forecast.measure import measure
from sweeps.forecast.probe import BESIDE_ON_CPU, Resources
from sweeps.on_ray import cluster
from sweeps.on_ray.keeper import call_there
from sweeps.on_ray.tune import ReadyCluster


def on_ray(ready: ReadyCluster, elapsed_s: float) -> Resources:
    """The devices of Ray: trials that share a backbone are measured in a device's worker, others in processes of their
    own, as many side by side as a device holds.

    Args:
        elapsed_s: since the command began; a sweep that begins needs as long to come so far.
    """
    machines, allocation = ready.machines, ready.allocation
    kind, whole = ("gpu", 1.0) if machines.has_gpus else ("cpu", float(machines.node_cpus))
    shared, alone = allocation.shared[kind] / whole, allocation.solo[kind] / whole
    devices = (machines.gpus or allocation.concurrent // allocation.packed) if machines.has_gpus else machines.nodes

    def measure_there(configs: list[TrialConfig]) -> dict[str, Any]:
        costs: dict[str, dict[str, float]] = {}
        parts: list[dict[str, Any]] = []
        for shares in (True, False):
            some = [config for config in configs if config.shares_backbone == shares]
            values = [config.to_dict() for config in some]
            if shares and some:
                arguments = values, allocation.packed, allocation.shared_threads
                parts.append(call_there(ready.keeper, allocation.shared, measure, *arguments))
            elif some:
                one, side_by_side = cluster.once(measure, allocation.solo), range(int(1 / alone))
                parts.append(_mean(ray.get([one.remote(values, None, allocation.threads) for _ in side_by_side])))
            if some:
                costs |= {config.key: each for config, each in zip(some, parts[-1]["costs"], strict=True)}
        return {
            "costs": [costs[config.key] for config in configs],
            "figures": [figure for part in parts for figure in part["figures"]],
            "spread": max(part["spread"] for part in parts),
            "hardware": parts[0]["hardware"],
        }

    def start_s() -> float:
        began = time.monotonic()
        ray.get(cluster.once(start_like_a_trial, {}).remote())
        return elapsed_s + (time.monotonic() - began) * max(1.0, allocation.concurrent / max(1, machines.cpus))

    return Resources(
        devices=max(1, devices),
        concurrent=allocation.concurrent,
        shared=shared,
        alone=alone,
        start_s=start_s,
        measure=measure_there,
        slower=1.0 if machines.has_gpus else BESIDE_ON_CPU,
    )


def _mean(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of what was measured side by side."""
    each = zip(*(part["costs"] for part in parts), strict=True)
    costs = [{name: float(np.mean([cost[name] for cost in some])) for name in some[0]} for some in each]
    return {**parts[0], "costs": costs, "spread": max(part["spread"] for part in parts)}


def start_like_a_trial() -> None:
    """What a trial's process does before it begins."""
    import ray.tune  # noqa: F401

    import sweeps.work.worker  # noqa: F401
