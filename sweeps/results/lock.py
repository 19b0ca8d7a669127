"""Let only one command at a time hold a run, which means work on it. Tell other commands who holds it.

In a folder, a lock of the operating system decides. It ends with its process. Behind a URL there are no such locks.
There the holder has a lease: a file that it writes again every few seconds. A lease is over when a waiting command has
seen no change in the file for `LEASE_S` by its own clock. So the clocks of the machines need not agree.

    <run>/.lock  .holder                        in a folder
    <run>/lock/00000001.json  00000002.json     behind a URL: each lease has the next number, and the highest is valid

A command takes a lease by creating the file of the next number, which must not exist, so that only one of several
commands succeeds. The file with the highest number is never removed, so that no number is used twice. When its holder
ends, it writes into the file that the lease is over.
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

from lopt.errors import to_one_line
from lopt.files import write_atomically
from lopt.locations import Location, RemoteLocation, redact_secrets
from lopt.records import utc_now

LEASE_S = 60.0  # a lease is over when its file has not changed for this long
RENEW_S = 10.0  # how often the holder writes its lease again
POLL_S = 1.0  # how often a waiting command reads the lease
_MAX_ATTEMPTS = 10  # how often a command tries to lock a folder that other commands keep removing


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The clock of a lease, which tests replace. `wait` waits for an event, at most for a number of seconds."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    wait: Callable[[threading.Event, float], bool] = threading.Event.wait


class Hold:
    """A command's hold on a run."""

    def lost_reason(self) -> str:
        """Return why the command no longer holds the run, or "" if it still does."""
        return ""


@contextlib.contextmanager
def hold_run(folder: Location, command: list[str], clock: Clock | None = None) -> Iterator[Hold]:
    """Hold the run in a folder.

    Raises:
        ValueError: Another command holds it; the message names that command.
    """
    holder = _describe_holder(command)
    if isinstance(folder, Path):
        with _lock_folder(folder, holder):
            yield Hold()
        return
    lease = _Lease(folder, holder, clock or Clock())
    lease.take()
    try:
        yield lease
    finally:
        lease.give_back()


def _describe_holder(command: list[str]) -> dict[str, Any]:
    """Return a description of this command as the holder of a run, without secrets."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        user = str(os.getuid())
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "user": user,
        "since": utc_now(),
        "command": [redact_secrets(word) for word in command],
        "machine": _machine_id(),
        "id": secrets.token_hex(8),
    }


def _machine_id() -> str:
    """Return an id of the environment in which process ids are unique: host, last boot and container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _held_error(run: str, holder: dict[str, Any]) -> ValueError:
    """Return the error that names the holder of a run."""
    description = "another command"
    if holder:
        words = holder.get("command")
        command = shlex.join(map(str, words)) if isinstance(words, list) and words else "a program"
        description += f": {command}, process {holder.get('process')} of {holder.get('user')} on {holder.get('host')}"
        description += f", since {holder.get('since')}"
    advice = "Wait for it or end it, or give --name for a new run"
    return ValueError(f"run {run!r} is being worked on by {to_one_line(description)}. {advice}")


def _parse_holder(content: bytes | str) -> dict[str, Any]:
    """Return the description of a holder, or an empty one if the content is damaged."""
    try:
        holder = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


# --- in a folder -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _lock_folder(folder: Path, holder: dict[str, Any]) -> Iterator[None]:
    """Lock a folder, and write the description of the holder into it."""
    new_folders = [path for path in (folder, *folder.parents) if not path.exists()]
    holder_file = folder / ".holder"
    try:
        lock = _acquire_lock(folder)
    except Timeout:
        content = ""
        with contextlib.suppress(OSError):
            content = holder_file.read_text()
        raise _held_error(folder.name, _parse_holder(content)) from None
    try:
        write_atomically(holder_file, json.dumps(holder).encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            holder_file.unlink(missing_ok=True)
            _remove_traces(folder, new_folders)
        lock.release()


def _acquire_lock(folder: Path) -> Any:
    """Return the acquired lock of a run's folder.

    Raises:
        Timeout: Another command has the lock.
        OSError: The lock's file cannot be created there.
    """
    for _ in range(_MAX_ATTEMPTS):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except FileNotFoundError:
            continue  # another command has just removed the folder (`_remove_traces`)
        if (folder / ".lock").exists():
            return lock
        lock.release()  # another command has just removed the lock's file
    raise OSError(f"other commands keep removing {folder}")


def _remove_traces(folder: Path, new_folders: list[Path]) -> None:
    """If the run has not begun, remove the lock's file and the new folders."""
    if {file.name for file in folder.glob("*")} == {".lock"}:
        (folder / ".lock").unlink()
        for new_folder in new_folders:
            new_folder.rmdir()


# --- behind a URL ------------------------------------------------------------------------------------------------


class _Lease(Hold):
    """The hold on a run behind a URL, kept by a thread that renews the lease."""

    def __init__(self, folder: RemoteLocation, holder: dict[str, Any], clock: Clock) -> None:
        self._run, self._folder, self._holder, self._clock = folder.name, folder / "lock", holder, clock
        self._number, self._renewal_count = 0, 0  # `_number` is in the name of the lease's file
        self._renewed_at, self._lost_reason = 0.0, ""
        self._end_event = threading.Event()
        self._renewer = threading.Thread(target=self._renew, daemon=True, name="lease")

    def __reduce__(self) -> tuple[Any, ...]:
        return Hold, ()  # Tune copies all that its callbacks refer to, and the copy of a lease must not hold the run

    def take(self) -> None:
        """Wait until the lease with the highest number is over, and create the file of the next number.

        Raises:
            ValueError: The holder of that lease is alive.
        """
        watched_lease: tuple[int, bytes] | None = None
        watched_since = 0.0
        while True:
            number, content = self._read_highest_lease()
            holder = _parse_holder(content)
            is_free = number == 0 or holder.get("over") or _is_dead(holder)
            if watched_lease is not None and (number, content) != watched_lease and not is_free:
                raise _held_error(self._run, holder)
            if is_free or (watched_lease is not None and self._clock.monotonic() - watched_since > LEASE_S):
                self._number = number + 1
                self._lease_file(self._number).create(self._lease_content())
                # The content decides. If a PUT was repeated, `create` may report a failure although it succeeds.
                if self._read_highest_lease() == (self._number, self._lease_content()):
                    break
                continue  # another command was quicker
            if watched_lease is None:
                watched_lease, watched_since = (number, content), self._clock.monotonic()
                print(
                    f"run {self._run!r} was held by process {holder.get('process')} on {holder.get('host')}: "
                    f"checking whether that process is alive (at most {LEASE_S:.0f} s)",
                    file=sys.stderr,
                    flush=True,
                )
            self._clock.sleep(POLL_S)
        for file in self._folder.glob("*.json"):
            if file.name < self._lease_file(self._number).name:
                file.unlink(missing_ok=True)
        self._renewed_at = self._clock.monotonic()
        self._renewer.start()

    def lost_reason(self) -> str:
        if self._lost_reason:
            return self._lost_reason
        silent_s = self._clock.monotonic() - self._renewed_at
        if silent_s > LEASE_S - RENEW_S:  # earlier than another command may take the run
            return (
                f"{self._folder} could not be written for {silent_s:.0f} s, and another command may have taken the run"
            )
        return ""

    def give_back(self) -> None:
        """End the lease, and write into its file that it is over."""
        self._end_event.set()
        self._renewer.join()
        with contextlib.suppress(OSError):  # if this fails, the lease is over after `LEASE_S`
            if not self.lost_reason() and self._check_is_valid():
                if self._may_be_removed():
                    self._lease_file(self._number).unlink(missing_ok=True)
                    return
                self._holder["over"] = True
                self._lease_file(self._number).write_bytes(self._lease_content())

    def _renew(self) -> None:
        while not self._clock.wait(self._end_event, RENEW_S):
            with contextlib.suppress(OSError):  # it is tried again; after too long, `lost_reason` returns a reason
                if not self._check_is_valid():
                    return
                self._renewal_count += 1
                self._lease_file(self._number).write_bytes(self._lease_content())
                self._renewed_at = self._clock.monotonic()

    def _may_be_removed(self) -> bool:
        """Return whether this lease is number 1 and the run has no other file.

        Only then may the lease be removed, because otherwise its number could be used twice.
        """
        return self._number == 1 and {file.name for file in self._folder.parent.glob("*")} <= {self._folder.name}

    def _check_is_valid(self) -> bool:
        """Return whether this lease is the valid one. If it is not, store the reason as `_lost_reason`.

        On a file system where several commands can create the same file, the last one to write it has the lease. The
        others see its id in the file.
        """
        number, content = self._read_highest_lease()
        holder = _parse_holder(content)
        is_own = number == self._number and holder.get("id", self._holder["id"]) == self._holder["id"]
        if not is_own:
            self._lost_reason = str(_held_error(self._run, holder))
        return is_own

    def _read_highest_lease(self) -> tuple[int, bytes]:
        """Return the highest number and the content of its file, or (0, b"") if there is none."""
        while True:
            numbers = [int(file.name[:-5]) for file in self._folder.glob("*.json") if file.name[:-5].isdigit()]
            if not numbers:
                return 0, b""
            with contextlib.suppress(FileNotFoundError):  # a higher number has replaced it in the meantime
                return max(numbers), self._lease_file(max(numbers)).read_bytes()

    def _lease_file(self, number: int) -> RemoteLocation:
        return self._folder / f"{number:08}.json"

    def _lease_content(self) -> bytes:
        return json.dumps({**self._holder, "beat": self._renewal_count}).encode()


def _is_dead(holder: dict[str, Any]) -> bool:
    """Return whether the holder was a process of this machine that no longer exists."""
    if holder.get("machine") != _machine_id() or not isinstance(holder.get("process"), int):
        return False
    try:
        os.kill(holder["process"], 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # a process of another user, or a number that no process can have
        return False
    return False
