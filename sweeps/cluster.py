"""The Ray that a sweep runs on: a cluster that is up (RAY_ADDRESS), or one of this machine's own."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_LOCAL_FOLDERS = ("LOPT_DATA_DIR", "LOPT_MODEL_DIR", "LOPT_CACHE_DIR")


def connect() -> None:
    """Starts or joins Ray, quietly."""
    _quiet()
    import ray

    address = os.environ.get("RAY_ADDRESS")
    ray.init(
        # A stale file of an earlier cluster makes a plain init connect to it, so "local" is said outright.
        address=address or "local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": _environment()} if address else None,
    )


def placement(
    cluster: Mapping[str, float],
    *,
    trials_per_gpu: int | None,
    max_concurrent: int | None,
    max_gpu_hours: float | None,
) -> tuple[dict[str, float], int]:
    """Resources of one trial, and how many run at once.

    Raises:
        ValueError: an option about GPUs on a machine that has none.
    """
    gpus, cpus = cluster.get("GPU", 0), int(cluster.get("CPU", 0))
    joined = bool(os.environ.get("RAY_ADDRESS"))
    given = {"--trials-per-gpu": trials_per_gpu, "--max-gpu-hours": max_gpu_hours}
    for name, value in given.items():
        if value is not None and not gpus and not joined:
            raise ValueError(f"{name} is given, but there is no GPU here: leave it out")
    # A head that offers nothing has workers that come on demand.
    if gpus or trials_per_gpu or (joined and not cpus):
        packed = trials_per_gpu or 1
        # An autoscaled cluster may have no GPU yet: enough trials must wait for it to start some.
        resources, concurrent = {"cpu": 1.0, "gpu": 1 / packed}, max_concurrent or max(int(gpus), 8) * packed
    else:
        cpus = max(1, cpus)
        concurrent = min(max_concurrent or cpus, cpus)
        resources = {"cpu": float(max(1, cpus // concurrent)), "gpu": 0.0}
    # Else Ray keeps one trial pending at a time, and an autoscaled cluster grows one machine at a time.
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(concurrent))
    return resources, concurrent


def once(function: Callable[..., Any], resources: Mapping[str, float]) -> Any:
    """A remote function whose process ends with its task, and gives the backbone's memory back."""
    import ray

    wrap: Any = ray.remote(max_calls=1, num_cpus=resources["cpu"], num_gpus=resources["gpu"])
    return wrap(function)


def collected(references: list[Any]) -> list[dict[str, Any]]:
    """What the references hold; those that failed are named and left out."""
    import ray

    found = []
    for reference in references:
        try:
            found.append(ray.get(reference))
        except ray.exceptions.RayError as error:  # the report does without; trials are not affected
            print(f"no zero-shot baseline: {str(error).splitlines()[-1]}", file=sys.stderr)
    return found


def _quiet() -> None:
    """Ray's own output off, its handler of Ctrl-C too: the sweep has one progress line and its own exit."""
    for name, value in {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # the results store is the truth; Ray's snapshot is not used
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)
    for name in _LOCAL_FOLDERS:
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).absolute())
    root = str(Path(__file__).resolve().parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _environment() -> dict[str, str]:
    """What workers of a running cluster need to know, by name; nothing else of the environment travels."""
    names = (*_LOCAL_FOLDERS, "HF_HOME", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM")
    return {name: os.environ[name] for name in names if os.environ.get(name)}
