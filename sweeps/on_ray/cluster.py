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

_NOTICE_S = 15.0  # after this time a user is told what the command is waiting for
# Ray's sockets are in its temporary folder, and the path of a socket must not be longer than this.
_SOCKET = "/session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store.1"
_LONGEST_SOCKET_PATH = 103 if sys.platform == "darwin" else 107  # bytes
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # where Ray's folder may be if the usual one is too long
_LOCAL_FOLDERS = ("LOPT_DATA_DIR", "LOPT_MODEL_DIR", "LOPT_CACHE_DIR")


def connect() -> None:
    """Start or join Ray without its own output."""
    _silence_ray()
    import ray

    address = os.environ.get("RAY_ADDRESS")
    if not address:
        _ensure_token()
    folder: dict[str, Any] = {} if address else {"_temp_dir": temporary_folder()}
    with _sigterm_handler_kept():
        ray.init(
            # Without "local" a file that an earlier cluster left behind would make Ray connect to that cluster.
            address=address or "local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": _worker_environment()} if address else None,
            **folder,
        )


def _ensure_token() -> None:
    """Give Ray a token for this command if Ray cannot keep its own token in the home folder."""
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
    """Return where Ray keeps its sockets and logs if it is started here; None if its usual folder is short enough.

    Raises:
        ValueError: No folder is short enough.
    """
    on_linux = sys.platform.startswith("linux")
    usual = os.environ.get("RAY_TMPDIR") or (on_linux and os.environ.get("TMPDIR")) or "/tmp"  # as Ray chooses it
    usual = os.path.join(usual, "ray")
    longest = _LONGEST_SOCKET_PATH - len(_SOCKET)
    if len(os.fsencode(usual)) <= longest:
        return None
    for folder in _SHORT_FOLDERS:
        if os.access(folder, os.W_OK | os.X_OK):
            short = f"{folder}/ray-{os.getuid()}"
            print(f"Ray keeps its sockets and logs in {short}, because {usual} is too long for a socket", flush=True)
            return short
    raise ValueError(
        f"Ray's folder {usual} is too long for a socket: set RAY_TMPDIR to a folder of at most {longest - 4} "
        "characters, or give --local-mode"
    )


def wait_for(reference: Any, left_s: float = math.inf, *, resources: Mapping[str, float] | None = None) -> Any:
    """Return the result of a remote call.

    Args:
        resources: What the call needs before it can begin.

    Raises:
        OutOfTime: The call has not returned after `left_s` seconds.
    """
    import ray

    needed = ", ".join(f"{share:g} {name.upper()}" for name, share in (resources or {}).items() if share)
    try:
        if resources and left_s > _NOTICE_S and not ray.wait([reference], timeout=_NOTICE_S)[0]:
            print(f"waiting until the cluster has room for {needed}", flush=True)
            left_s -= _NOTICE_S
        return ray.get(reference, timeout=None if math.isinf(left_s) else left_s)
    except ray.exceptions.GetTimeoutError:
        delay = f"had room for {needed}" if resources else "had prepared weights and data"
        raise OutOfTime(f"the time was over before the cluster {delay}") from None


@contextlib.contextmanager
def _sigterm_handler_kept() -> Iterator[None]:
    """Undo the SIGTERM handlers that Ray sets: they would end the command before it can save trials and say so."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:  # raised by one of Ray's handlers
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@dataclass(frozen=True, kw_only=True)
class Machines:
    """What the cluster offers to trials.

    Attributes:
        gpus, cpus: Their numbers on all nodes together.
        nodes, node_cpus: Number of nodes with CPUs, at least one; CPUs of the smallest of them.
        on_demand: Whether the cluster may start more machines.
    """

    gpus: int
    cpus: int
    nodes: int
    node_cpus: int
    on_demand: bool

    @property
    def has_gpus(self) -> bool:
        """Whether trials run on GPUs. A head that offers nothing has workers that start on demand, with GPUs."""
        return bool(self.gpus or not self.cpus)


def read_machines(nodes: list[dict[str, Any]], *, max_gpu_hours: float | None) -> Machines:
    """Return what the nodes, as `ray.nodes` describes them, offer together.

    Raises:
        ValueError: A budget of GPU-hours is given on a machine without a GPU.
    """
    offers = [node["Resources"] for node in nodes if node["Alive"]]
    gpus, has_joined = int(sum(offer.get("GPU", 0) for offer in offers)), bool(os.environ.get("RAY_ADDRESS"))
    if max_gpu_hours is not None and not gpus and not has_joined:
        raise ValueError("--max-gpu-hours is given, but this machine has no GPU: leave the option out")
    cpus = [int(offer["CPU"]) for offer in offers if offer.get("CPU", 0) >= 1]
    return Machines(
        gpus=gpus, cpus=sum(cpus), nodes=max(1, len(cpus)), node_cpus=min(cpus, default=1), on_demand=has_joined
    )


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """What one trial reserves, and how many trials run at once.

    Attributes:
        solo, shared: Resources of a trial that trains alone, and of one that shares its backbone.
        packed, concurrent: How many trials share a backbone, and how many run at once.
        threads: Processor threads of a trial that trains alone; None leaves PyTorch's own choice.
        shared_threads: The same for all trials together that share a backbone.
    """

    solo: Mapping[str, float]
    shared: Mapping[str, float]
    packed: int
    concurrent: int
    threads: int | None
    shared_threads: int | None

    def resources_for(self, shares_backbone: bool) -> Mapping[str, float]:
        """Return the resources of one trial."""
        return self.shared if shares_backbone else self.solo

    def job_fields(self, config: TrialConfig) -> dict[str, Any]:
        """Return the job's entries that depend on the allocation: shared, threads and packed."""
        shared = config.shares_backbone
        threads = self.shared_threads if shared else self.threads
        return {"shared": shared, "threads": threads, "packed": self.packed}

    def placement_group(self, job: Mapping[str, Any]) -> Any:
        """Return what Ray Tune reserves for a job, which is given as JSON."""
        from ray import tune

        resources = self.resources_for(job["shared"])
        return tune.PlacementGroupFactory([{name.upper(): share for name, share in resources.items() if share}])


def allocate(
    machines: Machines, packed: int, *, trials_per_gpu: int | None = None, max_concurrent: int | None = None
) -> Allocation:
    """Pack `packed` trials that share a backbone on each device. The other trials train alone.

    Args:
        trials_per_gpu: How many of these other trials run on one GPU; None for one.
        max_concurrent: How many trials run at once at most.
    """
    if machines.has_gpus:
        # A cluster that starts machines on demand may have no GPU yet. It starts some when enough trials wait for them.
        concurrent = max(machines.gpus, 8 if machines.on_demand else 1) * packed
        solo, shared = {"cpu": 1.0, "gpu": _share(1, trials_per_gpu or 1)}, {"gpu": _share(1, packed)}
        threads, shared_threads = None, None
    else:
        solo_trials = min(max_concurrent or machines.cpus, machines.cpus)
        threads = max(1, min(machines.node_cpus, machines.cpus // solo_trials))
        shared_threads = machines.node_cpus
        concurrent = max(machines.nodes * packed, solo_trials)
        solo, shared = {"cpu": float(threads)}, {"cpu": _share(machines.node_cpus, packed)}
    return Allocation(
        solo=solo,
        shared=shared,
        packed=packed,
        concurrent=min(concurrent, max_concurrent or concurrent),
        threads=threads,
        shared_threads=shared_threads,
    )


def _share(whole: int, parts: int) -> float:
    """Return a part of a whole, rounded down to Ray's unit: six sixths must not be more than the whole."""
    return math.floor(whole / parts * 10_000) / 10_000


def one_shot(function: Callable[..., Any], resources: Mapping[str, float]) -> Any:
    """Return a remote function whose process ends with its task, and so frees the backbone's memory."""
    import ray

    wrap: Any = ray.remote(max_calls=1, num_cpus=resources.get("cpu", 0), num_gpus=resources.get("gpu", 0))
    return wrap(function)


def _silence_ray() -> None:
    """Turn off Ray's own output and its Ctrl-C handler: the sweep has one progress line and its own way to end."""
    for name, value in {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the last death of a trial's process is in the trial's record
        "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # a sweep continues from the results store, not from Ray's snapshot
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
    root = str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _worker_environment() -> dict[str, str]:
    """Return the environment variables that the processes of a running cluster need. No other variable is sent."""
    # Where the results are; these variables hold no secret.
    results = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
    names = (*_LOCAL_FOLDERS, *results, "LOPT_TEXT_CACHE_GB", "HF_HOME", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM")
    return {name: os.environ[name] for name in names if os.environ.get(name)}
