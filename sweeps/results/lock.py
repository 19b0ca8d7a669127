"""One command at a time works on a run, and says who it is.

In a folder the operating system's lock decides, which goes with its process. Behind a URL there is none: there the
holder keeps a lease, a file that it writes anew every few seconds. It is over when it has not changed for long while
somebody watched, by the watcher's own clock, so nothing depends on clocks that agree or only go forward.

    <run>/.lock  .holder                        in a folder
    <run>/lock/00000001.json  00000002.json     behind a URL: each lease has the next number, the highest counts

A number is only created where it was not, in which one of several commands succeeds, and the highest file always stays:
a lease that is over says so in it.
"""

import contextlib
import getpass
import json
import os
import secrets
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lopt.errors import one_line
from lopt.files import write_atomically
from lopt.locations import Location, RemoteLocation, redacted
from lopt.records import now

LEASE_S = 60.0  # a lease that has not changed for so long is over
RENEW_S = 10.0
LOOK_S = 1.0  # how often a waiting command looks
_ATTEMPTS = 10  # to lock a folder that others take away


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Time as a lease knows it; tests have their own. wait: for an event, at most so many seconds."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    wait: Callable[[threading.Event, float], bool] = threading.Event.wait


class Hold:
    """What the holder of a run knows of its hold."""

    def lost(self) -> str:
        """Why it has none any more, or ""."""
        return ""


@contextlib.contextmanager
def held(folder: Location, command: list[str], clock: Clock | None = None) -> Iterator[Hold]:
    """Holds a run's folder.

    Raises:
        ValueError: another command holds it; names it.
    """
    me = _me(command)
    if isinstance(folder, Path):
        with _locked(folder, me):
            yield Hold()
        return
    lease = _Lease(folder, me, clock or Clock())
    lease.take()
    try:
        yield lease
    finally:
        lease.give_back()


def _me(command: list[str]) -> dict[str, Any]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        user = str(os.getuid())
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "user": user,
        "since": now(),
        "command": [redacted(word) for word in command],
        "machine": _machine(),
        "id": secrets.token_hex(8),
    }


def _machine() -> str:
    """Where process numbers mean the same: the host, since it was started; in containers, this one."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _refusal(run: str, holder: dict[str, Any]) -> ValueError:
    who = "another command"
    if holder:
        words = holder.get("command")
        command = shlex.join(map(str, words)) if isinstance(words, list) and words else "a program"
        who += f": {command}, process {holder.get('process')} of {holder.get('user')} on {holder.get('host')}"
        who += f", since {holder.get('since')}"
    return ValueError(
        f"run {run!r} is being worked on by {one_line(who)}. Wait for it or end it, or give --name for a new run"
    )


def _parsed(content: bytes | str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


# --- in a folder -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(folder: Path, me: dict[str, Any]) -> Iterator[None]:
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    holder = folder / ".holder"
    try:
        lock = _lock(folder)
    except Timeout:
        found = ""
        with contextlib.suppress(OSError):
            found = holder.read_text()
        raise _refusal(folder.name, _parsed(found)) from None
    try:
        write_atomically(holder, json.dumps(me).encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink(missing_ok=True)
            _leave_no_trace(folder, new)
        lock.release()


def _lock(folder: Path) -> Any:
    """The lock of a run's folder, acquired.

    Raises:
        Timeout: another command has it.
        OSError: it cannot be made there.
    """
    for _ in range(_ATTEMPTS):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except FileNotFoundError:
            continue  # the folder was taken away by a command that left no trace
        if (folder / ".lock").exists():
            return lock
        lock.release()  # and here its file
    raise OSError(f"{folder} is taken away again and again")


def _leave_no_trace(folder: Path, new: list[Path]) -> None:
    """Takes the lock's file away, and the folders that came with it, where nothing else is: nothing has begun."""
    if {file.name for file in folder.glob("*")} == {".lock"}:
        (folder / ".lock").unlink()
        for each in new:
            each.rmdir()


# --- behind a URL ------------------------------------------------------------------------------------------------


class _Lease(Hold):
    def __init__(self, folder: RemoteLocation, me: dict[str, Any], clock: Clock) -> None:
        self._run, self._folder, self._me, self._clock = folder.name, folder / "lock", me, clock
        self._number, self._beat = 0, 0
        self._renewed, self._taken_by = 0.0, ""
        self._over = threading.Event()
        self._renewer = threading.Thread(target=self._renew, daemon=True, name="lease")

    def __reduce__(self) -> tuple[Any, ...]:
        return Hold, ()  # Tune copies all that its callbacks reach; a copy holds nothing

    def take(self) -> None:
        """Takes the next number once the highest is over.

        Raises:
            ValueError: its holder is alive.
        """
        watched: tuple[int, bytes] | None = None
        since = 0.0
        while True:
            number, content = self._highest()
            holder = _parsed(content)
            free = number == 0 or holder.get("over") or _is_dead(holder)
            if watched is not None and (number, content) != watched and not free:
                raise _refusal(self._run, holder)
            if free or (watched is not None and self._clock.monotonic() - since > LEASE_S):
                self._number = number + 1
                self._file(self._number).create(self._content())
                if self._highest() == (self._number, self._content()):  # also where a PUT was repeated by itself
                    break
                continue  # another was quicker
            if watched is None:
                watched, since = (number, content), self._clock.monotonic()
                print(
                    f"run {self._run!r} was held by process {holder.get('process')} on {holder.get('host')}: "
                    f"seeing whether it is alive (at most {LEASE_S:.0f} s)",
                    file=sys.stderr,
                    flush=True,
                )
            self._clock.sleep(LOOK_S)
        for old in self._folder.glob("*.json"):
            if old.name < self._file(self._number).name:
                old.unlink(missing_ok=True)
        self._renewed = self._clock.monotonic()
        self._renewer.start()

    def lost(self) -> str:
        if self._taken_by:
            return self._taken_by
        silent_s = self._clock.monotonic() - self._renewed
        if silent_s > LEASE_S - RENEW_S:  # before anybody else may have it
            return (
                f"{self._folder} could not be written for {silent_s:.0f} s, and another command may have taken the run"
            )
        return ""

    def give_back(self) -> None:
        self._over.set()
        self._renewer.join()
        with contextlib.suppress(OSError):  # then it is over when it has not changed for long
            if not self.lost() and self._is_mine():
                if self._holds_nothing_else():
                    self._file(self._number).unlink(missing_ok=True)
                    return
                self._me["over"] = True
                self._file(self._number).write_bytes(self._content())

    def _renew(self) -> None:
        while not self._clock.wait(self._over, RENEW_S):
            with contextlib.suppress(OSError):  # tried again; `lost` tells when that has gone on for too long
                if not self._is_mine():
                    return
                self._beat += 1
                self._file(self._number).write_bytes(self._content())
                self._renewed = self._clock.monotonic()

    def _holds_nothing_else(self) -> bool:
        """Whether the run has no file but this lease: nothing has begun. Only the first is taken away, for a number is
        never given twice."""
        return self._number == 1 and {file.name for file in self._folder.parent.glob("*")} <= {self._folder.name}

    def _is_mine(self) -> bool:
        """Whether the lease that counts is this one. Where several could create one number, the last to write it has
        it: the others find its id in their file."""
        number, content = self._highest()
        holder = _parsed(content)
        mine = number == self._number and holder.get("id", self._me["id"]) == self._me["id"]
        if not mine:
            self._taken_by = str(_refusal(self._run, holder))
        return mine

    def _highest(self) -> tuple[int, bytes]:
        """The number that counts, and its file; (0, b"") without any."""
        while True:
            numbers = [int(file.name[:-5]) for file in self._folder.glob("*.json") if file.name[:-5].isdigit()]
            if not numbers:
                return 0, b""
            with contextlib.suppress(FileNotFoundError):  # a higher one has come since
                return max(numbers), self._file(max(numbers)).read_bytes()

    def _file(self, number: int) -> RemoteLocation:
        return self._folder / f"{number:08}.json"

    def _content(self) -> bytes:
        return json.dumps({**self._me, "beat": self._beat}).encode()


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether a holder is known to be gone: a process of this machine that is no more."""
    if holder.get("machine") != _machine() or not isinstance(holder.get("process"), int):
        return False
    try:
        os.kill(holder["process"], 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's; no number of a process
        return False
    return False
