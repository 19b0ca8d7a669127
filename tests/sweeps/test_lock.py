"""One command at a time, in a folder and behind a URL; leases by an injected clock."""

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

from lopt.locations import RemoteLocation, location
from sweeps.results import lock
from sweeps.results.lock import Clock, held

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ["python", "sweeps/run.py", "--out", "s3://me:password@bucket", "--set", "token=abc"]


class Watch:
    """A clock that only goes on when somebody sleeps; its holder never renews."""

    def __init__(self, at: float = 0.0) -> None:
        self.at = at

    def sleep(self, seconds: float) -> None:
        self.at += seconds

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.at, sleep=self.sleep, wait=lambda over, seconds: over.wait())


@pytest.fixture
def quick(monkeypatch):
    """Leases of seconds, as they really run."""
    for name, seconds in {"LEASE_S": 2.0, "RENEW_S": 0.05, "LOOK_S": 0.02}.items():
        monkeypatch.setattr(lock, name, seconds)


def test_the_second_is_refused_and_told_of_the_first(anywhere, quick):
    folder = location(anywhere) / "run"
    with held(folder, COMMAND), pytest.raises(ValueError) as caught, held(folder, COMMAND):
        pass
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    for word in ("'run'", "being worked on", f"process {os.getpid()}", os.uname().nodename, "sweeps/run.py", "--name"):
        assert word in said
    assert "password" not in said and "abc" not in said
    with held(folder, COMMAND):
        pass


def test_what_was_given_back_is_free_at_once(anywhere):
    watch = Watch()
    for _ in range(3):
        with held(location(anywhere) / "run", COMMAND, watch.clock) as hold:
            assert hold.lost() == ""
    assert watch.at == 0


def test_a_lease_that_is_not_renewed_is_taken_over_and_its_holder_told(url, monkeypatch, capsys):
    folder, first, second = location(url) / "run", Watch(), Watch()
    with monkeypatch.context() as patch:
        patch.setattr(lock, "now", lambda: "2999-01-01T00:00:00+00:00")  # what its clock says does not matter
        hold = held(folder, COMMAND, first.clock)
        lease = hold.__enter__()
    assert lease.lost() == ""
    with held(folder, COMMAND, second.clock) as taken:
        assert lock.LEASE_S < second.at < 2 * lock.LEASE_S
        assert "seeing whether it is alive" in capsys.readouterr().err
        assert taken.lost() == ""
        first.at = lock.LEASE_S - 1
        assert "another command may have taken the run" in lease.lost(), "known before anybody may take it"
        assert len(list((folder / "lock").glob("*"))) == 1
        lease._clock = Clock(monotonic=first.clock.monotonic, wait=lambda over, seconds: False)
        lease._renew()
        assert "being worked on" in lease.lost()
        hold.__exit__(None, None, None)
    with held(folder, COMMAND, second.clock):
        pass


def test_two_that_could_create_the_same_number_notice_each_other(monkeypatch):
    """A file system whose exclusive create is none: both find nothing, both write, both read their own."""
    folder, watch, honest = location(f"memory://{uuid.uuid4().hex}") / "run", Watch(), lock._Lease._highest
    first, second = held(folder, COMMAND, watch.clock), held(folder, COMMAND, watch.clock)
    one = first.__enter__()
    with monkeypatch.context() as patch:
        seen = iter([(0, b"")])
        patch.setattr(lock._Lease, "_highest", lambda self: next(seen, None) or honest(self))
        patch.setattr(RemoteLocation, "create", RemoteLocation.write_bytes)
        two = second.__enter__()
    assert one._number == two._number
    for lease in (two, one):
        lease._clock = Clock(monotonic=lambda: 0.0, wait=lambda over, seconds, lease=lease: lease._beat > 0)
        lease._renew()
    assert two.lost() == ""
    assert "being worked on by another command" in one.lost()
    kept = (folder / "lock" / "00000001.json").read_bytes()
    first.__exit__(None, None, None)
    assert (folder / "lock" / "00000001.json").read_bytes() == kept, "it is not the first's to give back"
    second.__exit__(None, None, None)
    with held(folder, COMMAND, watch.clock):
        assert watch.at == 0


def test_what_another_has_written_since_is_not_given_back(monkeypatch):
    folder, watch = location(f"memory://{uuid.uuid4().hex}") / "run", Watch()
    with held(folder, COMMAND, watch.clock):
        others = json.dumps({"id": "another", "process": 1, "host": "h"}).encode()
        (folder / "lock" / "00000001.json").write_bytes(others)
    assert (folder / "lock" / "00000001.json").read_bytes() == others


def test_a_storage_that_is_away_for_a_moment_costs_nothing(url, quick, monkeypatch):
    folder = location(url) / "run"
    with held(folder, COMMAND) as lease:
        with monkeypatch.context() as patch:
            patch.setattr(lease, "_highest", lambda: (_ for _ in ()).throw(OSError("away")))
            threading.Event().wait(0.3)
        threading.Event().wait(0.3)
        assert lease.lost() == ""
        assert type(pickle.loads(pickle.dumps(lease))) is lock.Hold, "Tune copies what it reaches"
        assert b'"beat": 0' not in (folder / "lock" / "00000001.json").read_bytes()


def test_a_dead_process_of_this_machine_holds_nothing(url, monkeypatch):
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    folder, watch, honest = location(url) / "run", Watch(), lock._me
    with monkeypatch.context() as patch:
        patch.setattr(lock, "_me", lambda command: honest(command) | {"process": int(ended.stdout)})
        left = [held(folder, COMMAND, watch.clock)]
        left[0].__enter__()
    with held(folder, COMMAND, watch.clock):
        assert watch.at == 0
    with monkeypatch.context() as patch:
        patch.setattr(lock, "_me", lambda command: honest(command) | {"process": int(ended.stdout), "machine": "other"})
        left.append(held(folder, COMMAND, watch.clock))
        left[1].__enter__()
    with held(folder, COMMAND, watch.clock):
        assert watch.at > lock.LEASE_S, "of another machine nothing is known"


def test_of_many_that_come_at_once_one_holds_it(url, quick):
    folder, inside, most = location(url) / "run", [], []

    def work(number):
        try:
            with held(folder, COMMAND):
                inside.append(number)
                most.append(len(inside))
                threading.Event().wait(0.5)
                inside.remove(number)
                return "held"
        except ValueError:
            return "refused"

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    assert "held" in found
    assert max(most) == 1


def test_a_killed_holder_of_a_folder_leaves_it_at_once(tmp_path):
    code = f"""
        import time
        from pathlib import Path
        from sweeps.results.lock import held
        with held(Path({str(tmp_path / "run")!r}), ["first"]):
            print("held", flush=True)
            time.sleep(60)
    """
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=f"process {holder.pid}"), held(tmp_path / "run", COMMAND):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with held(tmp_path / "run", COMMAND):
        pass


def test_a_damaged_lease_is_over_when_it_stays_so(url):
    folder, watch = location(url) / "run", Watch()
    (folder / "lock" / "00000003.json").write_bytes(b"{")
    (folder / "lock" / "notes.json").write_bytes(b"")
    with held(folder, COMMAND, watch.clock):
        assert watch.at > lock.LEASE_S
        assert (folder / "lock" / "00000004.json").is_file()
