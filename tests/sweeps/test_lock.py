"""Only one command at a time holds a run, in a folder and behind a URL. Most tests of leases use a fake clock."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lopt.locations import RemoteLocation, to_location
from sweeps.results import lock
from sweeps.results.lock import Clock, hold_run

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ["python", "sweeps/run.py", "--out", "s3://me:password@bucket", "--set", "token=abc"]


class FakeTime:
    """A time that only passes when a command sleeps. A lease with this clock is never renewed."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0

    def sleep(self, seconds: float) -> None:
        self.elapsed_s += seconds

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.elapsed_s, sleep=self.sleep, wait=lambda over, seconds: over.wait())


@pytest.fixture
def short_lease(monkeypatch):
    """Leases of two seconds, with the real clock."""
    for name, seconds in {"LEASE_S": 2.0, "RENEW_S": 0.05, "POLL_S": 0.02}.items():
        monkeypatch.setattr(lock, name, seconds)


def test_a_second_command_is_refused_and_told_who_holds_the_run(anywhere, short_lease):
    folder = to_location(anywhere) / "run"
    with hold_run(folder, COMMAND), pytest.raises(ValueError) as caught, hold_run(folder, COMMAND):
        pass
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for word in ("'run'", "being worked on", f"process {os.getpid()}", os.uname().nodename, "sweeps/run.py", "--name"):
        assert word in message
    assert "password" not in message and "abc" not in message
    with hold_run(folder, COMMAND):
        pass


def test_a_run_that_was_given_back_is_free_at_once(anywhere):
    time = FakeTime()
    for _ in range(3):
        with hold_run(to_location(anywhere) / "run", COMMAND, time.clock) as hold:
            assert hold.lost_reason() == ""
    assert time.elapsed_s == 0


def test_a_lease_that_is_not_renewed_is_taken_and_its_holder_notices(url, monkeypatch, capsys):
    folder, first_time, second_time = to_location(url) / "run", FakeTime(), FakeTime()
    with monkeypatch.context() as patch:
        # The date that the holder writes is not used.
        patch.setattr(lock, "utc_now", lambda: "2999-01-01T00:00:00+00:00")
        first_hold = hold_run(folder, COMMAND, first_time.clock)
        first_lease = first_hold.__enter__()
    assert first_lease.lost_reason() == ""
    with hold_run(folder, COMMAND, second_time.clock) as second_lease:
        assert lock.LEASE_S < second_time.elapsed_s < 2 * lock.LEASE_S
        assert "checking whether that process is alive" in capsys.readouterr().err
        assert second_lease.lost_reason() == ""
        first_time.elapsed_s = lock.LEASE_S - 1
        assert "another command may have taken the run" in first_lease.lost_reason(), (
            "noticed before a command may take it"
        )
        assert len(list((folder / "lock").glob("*"))) == 1
        first_lease._clock = Clock(monotonic=first_time.clock.monotonic, wait=lambda over, seconds: False)
        first_lease._renew()
        assert "being worked on" in first_lease.lost_reason()
        first_hold.__exit__(None, None, None)
    with hold_run(folder, COMMAND, second_time.clock):
        pass


def test_two_commands_that_create_the_same_number_notice_it(monkeypatch):
    """On a file system without an exclusive create, both find no lease, write one, and read their own."""
    folder, time = to_location(f"memory://{uuid.uuid4().hex}") / "run", FakeTime()
    original = lock._Lease._read_highest_lease
    first_hold, second_hold = hold_run(folder, COMMAND, time.clock), hold_run(folder, COMMAND, time.clock)
    first_lease = first_hold.__enter__()
    with monkeypatch.context() as patch:
        empty = iter([(0, b"")])
        patch.setattr(lock._Lease, "_read_highest_lease", lambda self: next(empty, None) or original(self))
        patch.setattr(RemoteLocation, "create", RemoteLocation.write_bytes)
        second_lease = second_hold.__enter__()
    assert first_lease._number == second_lease._number
    for lease in (second_lease, first_lease):
        lease._clock = Clock(monotonic=lambda: 0.0, wait=lambda over, seconds, lease=lease: lease._renewal_count > 0)
        lease._renew()
    assert second_lease.lost_reason() == ""
    assert "being worked on by another command" in first_lease.lost_reason()
    content = (folder / "lock" / "00000001.json").read_bytes()
    first_hold.__exit__(None, None, None)
    assert (folder / "lock" / "00000001.json").read_bytes() == content, "the first command does not give it back"
    second_hold.__exit__(None, None, None)
    with hold_run(folder, COMMAND, time.clock):
        assert time.elapsed_s == 0


def test_a_lease_that_another_command_has_written_is_not_given_back(monkeypatch):
    folder, time = to_location(f"memory://{uuid.uuid4().hex}") / "run", FakeTime()
    with hold_run(folder, COMMAND, time.clock):
        content = json.dumps({"id": "another", "process": 1, "host": "h"}).encode()
        (folder / "lock" / "00000001.json").write_bytes(content)
    assert (folder / "lock" / "00000001.json").read_bytes() == content


def test_a_lease_is_kept_when_the_storage_fails_for_a_moment(url, short_lease, monkeypatch):
    folder = to_location(url) / "run"
    with hold_run(folder, COMMAND) as lease:
        with monkeypatch.context() as patch:
            patch.setattr(lease, "_read_highest_lease", lambda: (_ for _ in ()).throw(OSError("away")))
            threading.Event().wait(0.3)
        threading.Event().wait(0.3)
        assert lease.lost_reason() == ""
        assert type(pickle.loads(pickle.dumps(lease))) is lock.Hold, "Tune copies what its callbacks refer to"
        assert b'"beat": 0' not in (folder / "lock" / "00000001.json").read_bytes()


def test_the_lease_of_a_dead_process_of_this_machine_is_free(url, monkeypatch):
    dead_process = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    folder, time, original = to_location(url) / "run", FakeTime(), lock._describe_holder
    with monkeypatch.context() as patch:
        patch.setattr(
            lock, "_describe_holder", lambda command: original(command) | {"process": int(dead_process.stdout)}
        )
        abandoned_holds = [hold_run(folder, COMMAND, time.clock)]
        abandoned_holds[0].__enter__()
    with hold_run(folder, COMMAND, time.clock):
        assert time.elapsed_s == 0
    other_machine = {"process": int(dead_process.stdout), "machine": "other"}
    with monkeypatch.context() as patch:
        patch.setattr(lock, "_describe_holder", lambda command: original(command) | other_machine)
        abandoned_holds.append(hold_run(folder, COMMAND, time.clock))
        abandoned_holds[1].__enter__()
    with hold_run(folder, COMMAND, time.clock):
        assert time.elapsed_s > lock.LEASE_S, "nothing is known about processes of another machine"


def test_only_one_of_many_simultaneous_commands_holds_a_run(url, short_lease):
    folder, holders, counts = to_location(url) / "run", [], []

    def work(number):
        try:
            with hold_run(folder, COMMAND):
                holders.append(number)
                counts.append(len(holders))
                threading.Event().wait(0.5)
                holders.remove(number)
                return "held"
        except ValueError:
            return "refused"

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(work, range(4)))
    assert "held" in outcomes
    assert max(counts) == 1


def test_a_folder_is_free_at_once_when_its_holder_is_killed(tmp_path):
    code = f"""
        import time
        from pathlib import Path
        from sweeps.results.lock import hold_run
        with hold_run(Path({str(tmp_path / "run")!r}), ["first"]):
            print("held", flush=True)
            time.sleep(60)
    """
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=f"process {holder.pid}"), hold_run(tmp_path / "run", COMMAND):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with hold_run(tmp_path / "run", COMMAND):
        pass


def test_a_damaged_lease_is_over_when_it_does_not_change(url):
    folder, time = to_location(url) / "run", FakeTime()
    (folder / "lock" / "00000003.json").write_bytes(b"{")
    (folder / "lock" / "notes.json").write_bytes(b"")
    with hold_run(folder, COMMAND, time.clock):
        assert time.elapsed_s > lock.LEASE_S
        assert (folder / "lock" / "00000004.json").is_file()
