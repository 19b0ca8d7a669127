"""Waiting until a cluster has room for trials: what the command waits for, why, and for how long at most."""

import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from lopt.errors import to_one_line
from sweeps.budget import OutOfTime

_FIRST_NOTICE_S, _NOTICE_INTERVAL_S = 15.0, 300.0  # when the user is told first, and how often then
_STATUS_S = 20.0  # how long `ray status` may take
_LOOK_S = 1.0  # how often a wait looks whether it is over


class Wait:
    """One wait for room in the cluster. `note` is called again and again while it lasts.

    Args:
        needed: What the cluster needs room for, in words, such as "1 GPU".
        max_wait_s: The wait fails after this time.
        read_reasons: Returns why no room comes, as far as Ray knows.
    """

    def __init__(
        self,
        needed: str,
        *,
        max_wait_s: float,
        clock: Callable[[], float] = time.monotonic,
        read_reasons: Callable[[], str] | None = None,
    ) -> None:
        self._needed, self._max_wait_s = needed, max_wait_s
        self._clock, self._read_reasons = clock, read_reasons or reasons
        self._began_at = clock()
        self._next_notice_at = self._began_at + _FIRST_NOTICE_S

    def note(self) -> None:
        """Tell the user about the wait if it is time to.

        Raises:
            ValueError: The wait has lasted too long.
        """
        now = self._clock()
        if now - self._began_at >= self._max_wait_s:
            raise ValueError(
                f"the cluster had no room for {self._needed} within {self._max_wait_s / 60:.0f} minutes: "
                f"{self._read_reasons()}. `ray status` on the cluster says more, and --max-wait gives it more time"
            )
        if now >= self._next_notice_at:
            self._next_notice_at = now + _NOTICE_INTERVAL_S
            minutes = (now - self._began_at) / 60
            since = f" (for {minutes:.0f} minutes so far)" if minutes >= 1 else ""
            notice = f"waiting until the cluster has room for {self._needed}{since}: {self._read_reasons()}"
            print(f"{notice}. `ray status` on the cluster says more", flush=True)


def wait_for(
    reference: Any,
    left_s: float = math.inf,
    *,
    resources: Mapping[str, float] | None = None,
    max_wait_s: float = math.inf,
) -> Any:
    """Wait for a remote call, and return its result.

    Args:
        reference: Ray's reference of the call.
        left_s: The seconds that are left of the command's time.
        resources: The resources that the call needs before it can begin, as in `Allocation`.
        max_wait_s: How long the call may wait for these resources.

    Raises:
        OutOfTime: The call has not returned after `left_s` seconds.
        ValueError: The cluster had no room for too long.
    """
    import ray

    deadline = time.monotonic() + left_s
    if resources:
        wait = Wait(_needed_text(resources), max_wait_s=max_wait_s)
        while not ray.wait([reference], timeout=max(0.0, min(_LOOK_S, deadline - time.monotonic())))[0]:
            if time.monotonic() >= deadline:
                break
            wait.note()
    try:
        return ray.get(reference, timeout=None if math.isinf(left_s) else max(0.0, deadline - time.monotonic()))
    except ray.exceptions.GetTimeoutError:
        event = f"had room for {_needed_text(resources)}" if resources else "had prepared weights and data"
        raise OutOfTime(f"the time of --max-wall-time ran out before the cluster {event}") from None


def _needed_text(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name.upper()}" for name, amount in resources.items() if amount)


def reasons() -> str:
    """Return why the cluster has no room, from what `ray status` says of its machines."""
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "status"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=_STATUS_S)
    except (OSError, subprocess.TimeoutExpired):
        return "Ray does not say why"
    return reasons_in(process.stdout)


def reasons_in(status: str) -> str:
    """Return why a cluster has no room, from the output of `ray status`."""
    if "Node status" not in status:
        return "Ray starts no machines here by itself, so one has to be added (ray start --address=…) or become free"
    failures, pending = (_lines_below(status, title) for title in ("Recent failures:", "Pending:"))
    parts = [f"failed: {'; '.join(failures)}"] if failures else []
    parts += [f"starting: {'; '.join(pending)}"] if pending else []
    return ", ".join(parts) or "Ray reports no failure, so all machines are busy or it starts none"


def _lines_below(status: str, title: str) -> list[str]:
    """Return the entries below a title in the output of `ray status`."""
    _, _, rest = status.partition(f"\n{title}\n")
    lines = []
    for line in rest.splitlines():
        if not line.startswith(" "):
            break
        lines.append(to_one_line(line))
    return [line for line in lines if not line.startswith("(no ")]
