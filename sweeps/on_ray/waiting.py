"""Waiting until a cluster has room for trials: what the command waits for, why, and for how long at most."""

import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lopt.errors import to_one_line
from sweeps.budget import OutOfTime

_FIRST_NOTICE_S, _NOTICE_INTERVAL_S = 15.0, 300.0  # when the user is told first, and how often then
_LOOK_INTERVAL_S = 30.0  # how often the reasons of a wait are looked for
_STATUS_S = 20.0  # how long `ray status` may take
_LOG_CHARACTERS = 100_000  # so much of the end of a log is read
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;]*m")  # colours in that log
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
        self._clock, self._read_reasons = clock, read_reasons or why_no_room
        self._began_at = clock()
        self._next_look_at, self._next_notice_at = self._began_at + _FIRST_NOTICE_S, -math.inf
        self._last_reasons = ""  # without numbers

    def note(self) -> None:
        """Tell the user about the wait if its reasons have changed, or if the last notice is long ago.

        Raises:
            ValueError: The wait has lasted too long.
        """
        now = self._clock()
        if now - self._began_at >= self._max_wait_s:
            raise ValueError(
                f"the cluster had no room for {self._needed} within {self._max_wait_s / 60:.0f} minutes: "
                f"{self._read_reasons()}. `ray status` on the cluster says more, and --max-wait gives it more time"
            )
        if now < self._next_look_at:
            return
        self._next_look_at, reasons = now + _LOOK_INTERVAL_S, self._read_reasons()
        reasons_without_numbers = re.sub(r"[0-9a-f-]{8,}|\d+", "", reasons)
        if now >= self._next_notice_at or reasons_without_numbers != self._last_reasons:
            self._next_notice_at, self._last_reasons = now + _NOTICE_INTERVAL_S, reasons_without_numbers
            minutes = (now - self._began_at) / 60
            since = f" (for {minutes:.0f} minutes so far)" if minutes >= 1 else ""
            notice = f"waiting until the cluster has room for {self._needed}{since}: {reasons}"
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


def wait_for_machine(left_s: float, *, max_wait_s: float) -> None:
    """Wait until the cluster has a machine for trials. Where Ray starts machines on demand, ask for one.

    Raises:
        OutOfTime: No machine has come after `left_s` seconds.
        ValueError: No machine has come after `max_wait_s` seconds.
    """
    from ray.util import placement_group, remove_placement_group

    deadline, wait = time.monotonic() + left_s, Wait("a trial", max_wait_s=max_wait_s)
    request = placement_group([{"CPU": 1.0}])
    try:
        while not request.wait(_LOOK_S):
            if time.monotonic() >= deadline:
                raise OutOfTime("the time of --max-wall-time ran out before the cluster had any machine for trials")
            wait.note()
    finally:
        remove_placement_group(request)


def _needed_text(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{math.ceil(amount)} {name.upper()}" for name, amount in resources.items() if amount)


def why_no_room() -> str:
    """Return why the cluster has no room, from what `ray status` says of its machines."""
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "status"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=_STATUS_S)
    except (OSError, subprocess.TimeoutExpired):
        return "Ray does not say why"
    return reasons_in(process.stdout, _setup_error(_monitor_log()))


def reasons_in(status: str, setup_error: str = "") -> str:
    """Return why a cluster has no room.

    Args:
        status: The output of `ray status`.
        setup_error: Why a machine could not be set up, which `ray status` does not say.
    """
    if "Node status" not in status:
        return "Ray starts no machines here by itself, so one has to be added (ray start --address=…) or become free"
    failures, pending = (_lines_below(status, title) for title in ("Recent failures:", "Pending:"))
    parts = [f"the set-up of a machine has failed: {setup_error}"] if setup_error else []
    parts += [f"failed: {'; '.join(failures)}"] if failures else []
    parts += [f"starting: {'; '.join(pending)}"] if pending else []
    return ", ".join(parts) or "Ray reports no failure, so all machines are busy or it starts none"


def _monitor_log() -> Path:
    """Return the log of Ray's autoscaler, which lies on the head of a cluster."""
    return Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray/session_latest/logs/monitor.out")


def _setup_error(monitor_log: Path) -> str:
    """Return why the last set-up of a machine has failed, from the autoscaler's log; "" if it has not failed."""
    try:
        text = monitor_log.read_text(errors="replace")[-_LOG_CHARACTERS:]
    except OSError:
        return ""
    before, failed, after = text.rpartition("update-failed")
    if not failed or "up-to-date" in after:
        return ""
    lines = _TERMINAL_CODES.sub("", before).splitlines()
    for marker in ("ERROR: ", "ERR"):  # what the set-up's commands print, and then what the autoscaler says of them
        if errors := [line for line in lines if marker in line]:
            return to_one_line(errors[-1])
    return "see monitor.out in Ray's logs"


def _lines_below(status: str, title: str) -> list[str]:
    """Return the entries below a title in the output of `ray status`."""
    _, _, rest = status.partition(f"\n{title}\n")
    lines = []
    for line in rest.splitlines():
        if not line.startswith(" "):
            break
        lines.append(to_one_line(line))
    return [line for line in lines if not line.startswith("(no ")]
