"""The Ray cluster that a sweep runs on: a running one (RAY_ADDRESS), or one that is started on this machine."""

import contextlib
import logging
import math
import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lopt.config import TrialConfig
from sweeps.budget import OutOfTime

_NOTICE_S = 15.0  # after this time the user is told what the command is waiting for
# Ray's sockets are below its temporary folder, at a path such as this one. The whole path of a socket has a limit.
_SOCKET_SUFFIX = "/session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store.1"
_MAX_SOCKET_PATH = 103 if sys.platform == "darwin" else 107  # bytes
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # for Ray, if the path of its usual folder is too long
_LOCAL_FOLDER_VARIABLES = ("LOPT_DATA_DIR", "LOPT_MODEL_DIR", "LOPT_CACHE_DIR")


def connect() -> None:
    """Start Ray, or join a running Ray, and turn off Ray's own output."""
    _set_environment()
    import ray

    address = os.environ.get("RAY_ADDRESS")
    if not address:
        _warn_about_unused_nodes()
        _ensure_token()
    folder_option: dict[str, Any] = {} if address else {"_temp_dir": temporary_folder()}
    with _keep_sigterm_handler():
        ray.init(
            # Without "local" Ray would try to connect to an earlier cluster if that has left its address in a file.
            address=address or "local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": _worker_environment()} if address else None,
            **folder_option,
        )


def _warn_about_unused_nodes() -> None:
    """Say that a Slurm job has further nodes, which a Ray that is started on this machine does not use."""
    node_count = os.environ.get("SLURM_JOB_NUM_NODES") or "1"
    if node_count != "1":
        what = f"this Slurm job has {node_count} nodes, but RAY_ADDRESS is not set, so only this node is used"
        print(f"warning: {what}: submit the sweep with sbatch cluster/slurm.sbatch", file=sys.stderr, flush=True)


def _ensure_token() -> None:
    """Give Ray an authentication token for this command if Ray cannot store one of its own in the home folder."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    folder = Path(os.path.expanduser("~/.ray"))
    try:
        if not (folder / "auth_token").is_file():
            folder.mkdir(exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def temporary_folder() -> str | None:
    """Return a folder with a short path for Ray's sockets and logs, or None if Ray's usual folder is short enough.

    Raises:
        ValueError: No folder has a path that is short enough.
    """
    on_linux = sys.platform.startswith("linux")
    # Ray chooses the parent of its usual folder in this way.
    parent = os.environ.get("RAY_TMPDIR") or (on_linux and os.environ.get("TMPDIR")) or "/tmp"
    usual_folder = os.path.join(parent, "ray")
    max_length = _MAX_SOCKET_PATH - len(_SOCKET_SUFFIX)
    if len(os.fsencode(usual_folder)) <= max_length:
        return None
    for folder in _SHORT_FOLDERS:
        if os.access(folder, os.W_OK | os.X_OK):
            short_folder = f"{folder}/ray-{os.getuid()}"
            where = f"in {short_folder}, because the path {usual_folder} is too long for a socket"
            print(f"Ray keeps its sockets and logs {where}", flush=True)
            return short_folder
    raise ValueError(
        f"the path of Ray's folder {usual_folder} is too long for a socket: set RAY_TMPDIR to a folder of at most "
        f"{max_length - 4} characters, or give --local-mode"
    )


def wait_for(reference: Any, left_s: float = math.inf, *, resources: Mapping[str, float] | None = None) -> Any:
    """Wait for a remote call, and return its result.

    Args:
        reference: Ray's reference of the call.
        resources: The resources that the call needs before it can begin, as in `Allocation`.

    Raises:
        OutOfTime: The call has not returned after `left_s` seconds.
    """
    import ray

    needed_text = ", ".join(f"{amount:g} {name.upper()}" for name, amount in (resources or {}).items() if amount)
    try:
        if resources and left_s > _NOTICE_S and not ray.wait([reference], timeout=_NOTICE_S)[0]:
            print(f"waiting until the cluster has room for {needed_text}", flush=True)
            left_s -= _NOTICE_S
        return ray.get(reference, timeout=None if math.isinf(left_s) else left_s)
    except ray.exceptions.GetTimeoutError:
        event = f"had room for {needed_text}" if resources else "had prepared weights and data"
        raise OutOfTime(f"the time of --max-wall-time ran out before the cluster {event}") from None


@contextlib.contextmanager
def _keep_sigterm_handler() -> Iterator[None]:
    """Undo the SIGTERM handlers that Ray sets, because they would end the command before it has saved its trials."""
    earlier_handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:  # raised by one of Ray's handlers
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, earlier_handler)


@dataclass(frozen=True, kw_only=True)
class Machines:
    """What the cluster offers to trials.

    Attributes:
        gpu_count, cpu_count: The numbers of GPUs and CPUs of all nodes together.
        node_count: The number of nodes that have CPUs; 1 if none has.
        cpus_per_node: The number of CPUs of the smallest of these nodes.
        may_grow: Whether the cluster may start more machines.
    """

    gpu_count: int
    cpu_count: int
    node_count: int
    cpus_per_node: int
    may_grow: bool

    @property
    def has_gpus(self) -> bool:
        """Whether trials run on GPUs. If no node has any GPU or CPU, it is assumed that GPU nodes start on demand."""
        return bool(self.gpu_count or not self.cpu_count)


def read_machines(nodes: list[dict[str, Any]], *, max_gpu_hours: float | None) -> Machines:
    """Return what the nodes offer together. `nodes` is what `ray.nodes` returns.

    Raises:
        ValueError: A budget of GPU-hours is given on a machine without a GPU.
    """
    node_resources = [node["Resources"] for node in nodes if node["Alive"]]
    gpu_count = int(sum(amounts.get("GPU", 0) for amounts in node_resources))
    is_joined = bool(os.environ.get("RAY_ADDRESS"))
    if max_gpu_hours is not None and not gpu_count and not is_joined:
        raise ValueError("--max-gpu-hours is given, but this machine has no GPU: leave the option out")
    node_cpu_counts = [int(amounts["CPU"]) for amounts in node_resources if amounts.get("CPU", 0) >= 1]
    return Machines(
        gpu_count=gpu_count,
        cpu_count=sum(node_cpu_counts),
        node_count=max(1, len(node_cpu_counts)),
        cpus_per_node=min(node_cpu_counts, default=1),
        may_grow=is_joined,
    )


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """What one trial reserves, and how many trials run at once.

    Attributes:
        solo_resources: What a trial that trains alone reserves: the number of each resource by name ("cpu" or "gpu").
        shared_resources: The same for a trial that shares its backbone.
        pack_size: How many trials share a backbone on a device.
        concurrent_count: How many trials run at once.
        solo_threads: Processor threads of a trial that trains alone. If it is None, PyTorch chooses them.
        shared_threads: Processor threads of a worker, for all its trials together. None has the same meaning.
    """

    solo_resources: Mapping[str, float]
    shared_resources: Mapping[str, float]
    pack_size: int
    concurrent_count: int
    solo_threads: int | None
    shared_threads: int | None

    def resources_for(self, shares_backbone: bool) -> Mapping[str, float]:
        """Return the resources of one trial."""
        return self.shared_resources if shares_backbone else self.solo_resources

    def job_fields(self, config: TrialConfig) -> dict[str, Any]:
        """Return the fields of a `Job` that depend on the allocation."""
        threads = self.shared_threads if config.shares_backbone else self.solo_threads
        return {"shares_backbone": config.shares_backbone, "threads": threads, "pack_size": self.pack_size}

    def placement_group(self, job: Mapping[str, Any]) -> Any:
        """Return what Ray Tune reserves for a job, which is given as JSON."""
        from ray import tune

        resources = self.resources_for(job["shares_backbone"])
        return tune.PlacementGroupFactory([{name.upper(): amount for name, amount in resources.items() if amount}])


def allocate(
    machines: Machines, pack_size: int, *, trials_per_gpu: int | None = None, max_concurrent: int | None = None
) -> Allocation:
    """Decide what each trial reserves. On each device, `pack_size` trials share a backbone; others train alone.

    Args:
        trials_per_gpu: How many trials that train alone run on one GPU. If it is None, one does.
        max_concurrent: At most this many trials run at once. If it is None, the machines alone set the limit.
    """
    if machines.has_gpus:
        # A cluster that starts machines on demand may have no GPU yet. It starts some when enough trials wait for them.
        concurrent_count = max(machines.gpu_count, 8 if machines.may_grow else 1) * pack_size
        solo_resources = {"cpu": 1.0, "gpu": _share(1, trials_per_gpu or 1)}
        shared_resources = {"gpu": _share(1, pack_size)}
        solo_threads, shared_threads = None, None
    else:
        solo_count = min(max_concurrent or machines.cpu_count, machines.cpu_count)
        solo_threads = max(1, min(machines.cpus_per_node, machines.cpu_count // solo_count))
        shared_threads = machines.cpus_per_node
        concurrent_count = max(machines.node_count * pack_size, solo_count)
        solo_resources = {"cpu": float(solo_threads)}
        shared_resources = {"cpu": _share(machines.cpus_per_node, pack_size)}
    return Allocation(
        solo_resources=solo_resources,
        shared_resources=shared_resources,
        pack_size=pack_size,
        concurrent_count=min(concurrent_count, max_concurrent or concurrent_count),
        solo_threads=solo_threads,
        shared_threads=shared_threads,
    )


def _share(whole: int, parts: int) -> float:
    """Return `whole / parts`, rounded down to Ray's unit, so that six sixths are not more than the whole."""
    return math.floor(whole / parts * 10_000) / 10_000


def one_shot_function(function: Callable[..., Any], resources: Mapping[str, float]) -> Any:
    """Return a remote function whose process ends with its call, so that the backbone's memory is freed."""
    import ray

    make_remote: Any = ray.remote(max_calls=1, num_cpus=resources.get("cpu", 0), num_gpus=resources.get("gpu", 0))
    return make_remote(function)


def _set_environment() -> None:
    """Set the environment variables of Ray and of its processes.

    Ray's own output and Ctrl-C handler are turned off, because the sweep has its own progress line and way to end.
    """
    for name, value in {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the trial's record names the last death of its process
        "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # rarely, because a sweep continues from its store, not from Ray's snapshot
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)
    for name in _LOCAL_FOLDER_VARIABLES:
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).absolute())
    root = str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _worker_environment() -> dict[str, str]:
    """Return the environment variables that the processes of a running cluster need. No other variable is sent."""
    # The AWS variables say where the results are. They hold no secret.
    aws_names = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
    names = (
        *_LOCAL_FOLDER_VARIABLES,
        *aws_names,
        "LOPT_TEXT_CACHE_GB",
        "HF_HOME",
        "HF_HUB_OFFLINE",
        "TOKENIZERS_PARALLELISM",
    )
    return {name: os.environ[name] for name in names if os.environ.get(name)}
