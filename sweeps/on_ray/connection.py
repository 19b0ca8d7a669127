"""The connection to Ray: to a running cluster (RAY_ADDRESS), or to one that is started on this machine."""

import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lopt.device import usable_cpu_count
from lopt.errors import to_one_line

# Ray's sockets are below its temporary folder, at a path such as this one. The whole path of a socket has a limit.
_SOCKET_SUFFIX = "/session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store.1"
_MAX_SOCKET_PATH = 103 if sys.platform == "darwin" else 107  # bytes
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # for Ray, if the path of its usual folder is too long
_LOCAL_FOLDER_VARIABLES = ("LOPT_DATA_DIR", "LOPT_MODEL_DIR", "LOPT_CACHE_DIR")
_ANSWER_S = 5.0  # how long a machine may take to accept a connection
_HEALTH_CHECK_S = 14.0  # how long Ray may take to answer there, the start of the program that asks included


def connect() -> None:
    """Start Ray, or join a running Ray, and turn off Ray's own output.

    Raises:
        ValueError: The cluster of RAY_ADDRESS cannot be joined.
    """
    _set_environment()
    import ray

    address = joined_address()
    if address:
        check_address(address)
        options: dict[str, Any] = {"runtime_env": {"env_vars": _worker_environment()}}
    else:
        _warn_about_unused_nodes()
        _ensure_token()
        options = {"_temp_dir": temporary_folder(), "num_cpus": usable_cpu_count()}
    with _keep_sigterm_handler():
        try:
            ray.init(
                # Without "local" Ray would try to connect to an earlier cluster if that has left its address in a file.
                address=address or "local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **options,
            )
        except (ConnectionError, RuntimeError) as error:  # such as another version of Ray or Python on the cluster
            if not address:
                raise
            raise ValueError(f"the Ray cluster at {address} cannot be joined: {to_one_line(error)}") from None


def joined_address() -> str | None:
    """Return the address of the running cluster that the command joins; None if it starts a Ray of its own."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return None if address in ("", "local") else address


def check_address(address: str) -> None:
    """Check that a Ray cluster answers at an address, because `ray.init` would wait for it without an end.

    Raises:
        ValueError: Nothing answers there, or the address is not that of a cluster.
    """
    named_address = f"RAY_ADDRESS is {address!r}"
    advice = "give the address that `ray start --head` has printed (host:port), or auto on a machine of the cluster"
    if "://" in address:
        raise ValueError(
            f"{named_address}, but a sweep does not run through Ray's client: run it on a machine of the cluster, with "
            "RAY_ADDRESS=auto"
        )
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"{named_address}: {advice}")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
        except (OSError, OverflowError) as error:
            raise ValueError(f"{named_address}, but nothing answers there ({to_one_line(error)}): {advice}") from None
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "health-check"]
    command += [] if address == "auto" else ["--address", address]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=_HEALTH_CHECK_S)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{named_address}, but no Ray answers there: {advice}") from None
    if process.returncode:
        reason = to_one_line((process.stderr.strip() or "no Ray answers there").splitlines()[-1])
        raise ValueError(f"{named_address}, but its health check fails ({reason}): {advice}")


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
        "LOPT_DEVICE",
        "LOPT_TEXT_CACHE_GB",
        "HF_HOME",
        "HF_HUB_OFFLINE",
        "TOKENIZERS_PARALLELISM",
    )
    return {name: os.environ[name] for name in names if os.environ.get(name)}
