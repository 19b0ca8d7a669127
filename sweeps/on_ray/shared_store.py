"""Whether every machine that trains sees the results where the driver sees them.

The driver puts a file of a random name into the run's folder. A machine that does not see this file keeps its results
elsewhere, so no trial may begin there.
"""

import contextlib
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lopt.errors import to_one_line
from lopt.locations import display_path, write_file
from sweeps.results.store import Store

_PREFIX = ".driver-"
_PATIENCE_S = 10.0  # how long a shared file system may take to show a new file to another machine


@contextlib.contextmanager
def mark(store: Store) -> Iterator[str]:
    """Put a mark into the run's folder as long as the context lasts, and return the mark's name."""
    name = f"{_PREFIX}{secrets.token_hex(8)}"
    for old_mark in store.folder.glob(f"{_PREFIX}*"):  # of commands that were killed
        old_mark.unlink(missing_ok=True)
    write_file(store.folder / name, b"The driver of a sweep has put this file here, and removes it at the end.\n")
    try:
        yield name
    finally:
        with contextlib.suppress(OSError):
            (store.folder / name).unlink(missing_ok=True)


def error_here(out: str, run: str, mark_name: str, patience_s: float = _PATIENCE_S) -> str:
    """Return why results of this machine would not come to the driver; "" if this machine sees the mark."""
    store = Store(out, run)
    deadline = time.monotonic() + patience_s
    while not (store.folder / mark_name).is_file():
        if time.monotonic() >= deadline:
            place = store.folder if isinstance(store.folder, Path) else display_path(store.folder)
            return (
                f"machine {socket.gethostname()} does not see the driver's results in {place}: "
                "give --out a folder that all machines of the cluster share (such as one of NFS), or a URL (such as "
                "s3://bucket/results)"
            )
        time.sleep(0.5)
    return ""


def check_machines(store: Store, mark_name: str, nodes: list[dict[str, Any]]) -> None:
    """Check that all machines of a cluster on which trials can run see the mark. `nodes` is what `ray.nodes` returns.

    Raises:
        ValueError: One of them does not see it, or cannot run this project.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote_error: Any = ray.remote(num_cpus=0, max_calls=1)(error_here)
    machines = [node for node in nodes if node["Alive"] and (node["Resources"].keys() & {"CPU", "GPU"})]
    strategies = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in machines]
    arguments = store.out, store.run, mark_name
    references = [remote_error.options(scheduling_strategy=strategy).remote(*arguments) for strategy in strategies]
    for node, reference in zip(machines, references, strict=True):
        try:
            error = ray.get(reference, timeout=60)
        except ray.exceptions.RayTaskError as task_error:
            reason = to_one_line(task_error.cause)
            raise ValueError(
                f"machine {node['NodeManagerHostname']} cannot run this project ({reason}): install the same version "
                "there, in the environment that starts Ray"
            ) from None
        except ray.exceptions.RayError:  # the machine is gone; trials look again where they begin
            continue
        if error:
            raise ValueError(error)
