"""The Ray that a sweep runs on: a cluster that is up (RAY_ADDRESS), or one of this machine's own."""

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

_NOTICE_S = 15.0  # a user is told what is waited for after so long
# Ray's sockets lie in its temporary folder, and a socket's path has a limit.
_SOCKET = "/session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store.1"
_MOST_SOCKET = 103 if sys.platform == "darwin" else 107  # bytes
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # places for it where the usual one is too long
_LOCAL_FOLDERS = ("LOPT_DATA_DIR", "LOPT_MODEL_DIR", "LOPT_CACHE_DIR")


def connect() -> None:
    """Starts or joins Ray, quietly."""
    _quiet()
    import ray

    address = os.environ.get("RAY_ADDRESS")
    if not address:
        _have_token()
    folder: dict[str, Any] = {} if address else {"_temp_dir": temporary_folder()}
    with _sigterm_kept():
        ray.init(
            # A stale file of an earlier cluster makes a plain init connect to it, so "local" is said outright.
            address=address or "local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": _environment()} if address else None,
            **folder,
        )


def _have_token() -> None:
    """Ray keeps a token for its own processes in the home folder. Where it cannot, it gets one for this command."""
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
    """Where a Ray of this machine's own keeps its sockets and logs; None where its usual folder is short enough.

    Raises:
        ValueError: no folder is.
    """
    on_linux = sys.platform.startswith("linux")
    usual = os.environ.get("RAY_TMPDIR") or (on_linux and os.environ.get("TMPDIR")) or "/tmp"  # as Ray
    usual = os.path.join(usual, "ray")
    most = _MOST_SOCKET - len(_SOCKET)
    if len(os.fsencode(usual)) <= most:
        return None
    for folder in _SHORT_FOLDERS:
        if os.access(folder, os.W_OK | os.X_OK):
            short = f"{folder}/ray-{os.getuid()}"
            print(f"Ray keeps its sockets and logs in {short}, for {usual} is too long for a socket", flush=True)
            return short
    raise ValueError(
        f"Ray's folder {usual} is too long for a socket: set RAY_TMPDIR to one of at most {most - 4} characters, "
        "or give --local-mode"
    )


def answer(asked: Any, left_s: float = math.inf, *, wants: Mapping[str, float] | None = None) -> Any:
    """What a remote call returns.

    Args:
        wants: resources without which it cannot begin.

    Raises:
        OutOfTime: it has not returned after `left_s` seconds.
    """
    import ray

    room = "room for " + ", ".join(f"{share:g} {name.upper()}" for name, share in (wants or {}).items() if share)
    try:
        if wants and left_s > _NOTICE_S and not ray.wait([asked], timeout=_NOTICE_S)[0]:
            print(f"waiting until the cluster has {room}", flush=True)
            left_s -= _NOTICE_S
        return ray.get(asked, timeout=None if math.isinf(left_s) else left_s)
    except ray.exceptions.GetTimeoutError:
        raise OutOfTime(
            f"the time was over before the cluster had {room if wants else 'made weights and data ready'}"
        ) from None


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Undoes the handlers of SIGTERM that Ray sets, which end the command without its last words."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:  # one of them has been called
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True, kw_only=True)
class Machines:
    """What trials can have of the cluster. node_cpus: of the smallest node with any. on_demand: more may come."""

    gpus: int
    cpus: int
    nodes: int
    node_cpus: int
    on_demand: bool

    @property
    def has_gpus(self) -> bool:
        """Whether trials run on GPUs: a head that offers nothing has workers that come on demand, with GPUs."""
        return bool(self.gpus or not self.cpus)


def machines(nodes: list[dict[str, Any]], *, max_gpu_hours: float | None) -> Machines:
    """What Ray's `nodes` offer together.

    Raises:
        ValueError: an option about GPUs on a machine that has none.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus, joined = int(sum(r.get("GPU", 0) for r in alive)), bool(os.environ.get("RAY_ADDRESS"))
    if max_gpu_hours is not None and not gpus and not joined:
        raise ValueError("--max-gpu-hours is given, but there is no GPU here: leave it out")
    cpus = [int(r["CPU"]) for r in alive if r.get("CPU", 0) >= 1]
    return Machines(
        gpus=gpus, cpus=sum(cpus), nodes=max(1, len(cpus)), node_cpus=min(cpus, default=1), on_demand=joined
    )


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """What one trial reserves, alone and where `packed` of them share a backbone, and how many run at once.

    threads, shared_threads: of the processor, for a trial alone and for all that share; None leaves them.
    """

    solo: Mapping[str, float]
    shared: Mapping[str, float]
    packed: int
    concurrent: int
    threads: int | None
    shared_threads: int | None

    def of(self, shares_backbone: bool) -> Mapping[str, float]:
        return self.shared if shares_backbone else self.solo

    def terms(self, config: TrialConfig) -> dict[str, Any]:
        """What a job says of it: shared, threads, packed."""
        shared = config.shares_backbone
        threads = self.shared_threads if shared else self.threads
        return {"shared": shared, "threads": threads, "packed": self.packed}

    def group(self, job: Mapping[str, Any]) -> Any:
        """What Ray Tune reserves for the values of a job."""
        from ray import tune

        wanted = self.of(job["shared"])
        return tune.PlacementGroupFactory([{name.upper(): share for name, share in wanted.items() if share}])


def allocate(
    here: Machines, packed: int, *, trials_per_gpu: int | None = None, max_concurrent: int | None = None
) -> Allocation:
    """`packed` trials that share a backbone on each device; others alone, or `trials_per_gpu` of them on a GPU."""
    if here.has_gpus:
        # An autoscaled cluster may have no GPU yet: enough trials must wait for it to start some.
        concurrent = max(here.gpus, 8 if here.on_demand else 1) * packed
        solo, shared = {"cpu": 1.0, "gpu": _share(1, trials_per_gpu or 1)}, {"gpu": _share(1, packed)}
        threads, shared_threads = None, None
    else:
        alone = min(max_concurrent or here.cpus, here.cpus)
        threads, shared_threads = max(1, min(here.node_cpus, here.cpus // alone)), here.node_cpus
        concurrent = max(here.nodes * packed, alone)
        solo, shared = {"cpu": float(threads)}, {"cpu": _share(here.node_cpus, packed)}
    return Allocation(
        solo=solo,
        shared=shared,
        packed=packed,
        concurrent=min(concurrent, max_concurrent or concurrent),
        threads=threads,
        shared_threads=shared_threads,
    )


def _share(whole: int, parts: int) -> float:
    """Rounded down to Ray's unit: a sixth six times must not be more than the whole."""
    return math.floor(whole / parts * 10_000) / 10_000


def once(function: Callable[..., Any], resources: Mapping[str, float]) -> Any:
    """A remote function whose process ends with its task, and gives the backbone's memory back."""
    import ray

    wrap: Any = ray.remote(max_calls=1, num_cpus=resources.get("cpu", 0), num_gpus=resources.get("gpu", 0))
    return wrap(function)


def _quiet() -> None:
    """Ray's own output off, its handler of Ctrl-C too: the sweep has one progress line and its own exit."""
    for name, value in {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a death that is the last one is in its record
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
    root = str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _environment() -> dict[str, str]:
    """What workers of a running cluster need to know, by name; nothing else of the environment travels."""
    results = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")  # where, and no secret
    names = (*_LOCAL_FOLDERS, *results, "LOPT_TEXT_CACHE_GB", "HF_HOME", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM")
    return {name: os.environ[name] for name in names if os.environ.get(name)}
