"""Waiting for machines, and what the user is told about it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sweeps.on_ray import callbacks, waiting
from sweeps.on_ray.callbacks import WaitingWatch
from sweeps.on_ray.waiting import Wait, reasons_in

STATUS = """======== Autoscaler status: 2026-11-30 21:00:00.000000 ========
Node status
---------------------------------------------------------------
Active:
 1 head.cpu
Pending:
{pending}
Recent failures:
{failures}

Resources
---------------------------------------------------------------
Total Usage:
 0B/1.00GiB memory
Pending Demands:
 {{'GPU': 1.0}}: 1+ pending tasks/actors
"""


@pytest.mark.parametrize(
    ("pending", "failures", "reason"),
    [
        (" (no pending nodes)", " (no failures)", "Ray reports no failure, so all machines are busy or it starts none"),
        (" worker.l4, 1 launching", " (no failures)", "starting: worker.l4, 1 launching"),
        (
            " (no pending nodes)",
            " worker.l4: InsufficientInstanceCapacity (latest_attempt: 12:00:00)\n"
            " worker.a10g: MaxSpotInstanceCountExceeded",
            "failed: worker.l4: InsufficientInstanceCapacity (latest_attempt: 12:00:00); "
            "worker.a10g: MaxSpotInstanceCountExceeded",
        ),
        (
            " 10.0.0.5: worker.l4, setting-up",
            " worker.l4: NodeTerminated (ip: 10.0.0.4)",
            "failed: worker.l4: NodeTerminated (ip: 10.0.0.4), starting: 10.0.0.5: worker.l4, setting-up",
        ),
    ],
)
def test_the_reason_is_what_ray_says_of_its_machines(pending, failures, reason):
    assert reasons_in(STATUS.format(pending=pending, failures=failures)) == reason


def test_a_set_up_that_fails_is_read_from_the_log_of_the_autoscaler(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    log = tmp_path / "ray" / "session_latest" / "logs" / "monitor.out"
    assert waiting._setup_error(waiting._monitor_log()) == "", "on a machine that is not the head"
    log.parent.mkdir(parents=True)
    for text, error in (
        ("2026 INFO starting", ""),
        ("ERROR: No matching distribution\nNew status: update-failed\nretrying", "ERROR: No matching distribution"),
        ("ERROR: a pip\n2026 \x1b[31mERR\x1b[0m updater.py New status: update-failed\x1b[0m", "ERROR: a pip"),
        ("2026 \x1b[31mERR\x1b[0m updater.py: x\nNew status: \x1b[1mupdate-failed", "2026 ERR updater.py: x"),
        ("ERROR: a\nNew status: update-failed\nNew status: up-to-date", ""),
        ("New status: up-to-date\nNew status: update-failed", "see monitor.out in Ray's logs"),
    ):
        log.write_text(text)
        assert waiting._setup_error(waiting._monitor_log()) == error
    status = STATUS.format(pending=" a1: worker.l4,", failures=" (no failures)")
    assert reasons_in(status, "ERROR: x") == "the set-up of a machine has failed: ERROR: x, starting: a1: worker.l4,"


def test_without_an_autoscaler_the_user_has_to_add_a_machine():
    assert "one has to be added" in reasons_in("No cluster status. It may take a few seconds …")


@pytest.fixture
def clock():
    return SimpleNamespace(now=0.0)


def test_a_wait_is_told_again_and_again_and_ends(clock, capsys):
    wait = Wait("1 GPU", max_wait_s=1800, clock=lambda: clock.now, read_reasons=lambda: "all machines are busy")
    told_at = []
    for clock.now in range(0, 1800, 5):
        wait.note()
        if out := capsys.readouterr().out:
            told_at.append((clock.now, out))
    assert [now for now, _ in told_at] == [15, 315, 615, 915, 1215, 1515]
    assert told_at[0][1] == (
        "waiting until the cluster has room for 1 GPU: all machines are busy. `ray status` on the cluster says more\n"
    )
    assert "(for 5 minutes so far)" in told_at[1][1]
    clock.now = 1800
    with pytest.raises(ValueError, match=r"no room for 1 GPU within 30 minutes: all machines are busy.*--max-wait"):
        wait.note()


def test_a_wait_is_told_sooner_if_its_reasons_change(clock, capsys):
    first, second = "starting: a1b2c3d4e5f6: worker", "starting: 11b2c3d4e5f6: worker"
    reasons = {0: "all are busy", 100: first, 200: second, 250: "failed"}
    wait = Wait(
        "1 GPU",
        max_wait_s=1800,
        clock=lambda: clock.now,
        read_reasons=lambda: reasons[max(now for now in reasons if now <= clock.now)],
    )
    told_at = []
    for clock.now in range(0, 400, 5):
        wait.note()
        if out := capsys.readouterr().out:
            told_at.append((clock.now, out.split(": ", 1)[1].partition(".")[0]))
    assert told_at == [(15, "all are busy"), (105, first), (255, "failed")]


def test_trials_that_wait_for_lost_machines_are_named_and_the_sweep_ends(clock, monkeypatch, capsys):
    monkeypatch.setattr(waiting, "why_no_room", lambda: "all machines are gone")
    monkeypatch.setattr(
        callbacks, "Wait", lambda needed, max_wait_s: Wait(needed, max_wait_s=max_wait_s, clock=lambda: clock.now)
    )
    errors = []
    watch = WaitingWatch("1 GPU", 60.0, errors.append)

    def step(*statuses):
        watch.on_step_end(0, [SimpleNamespace(status=status) for status in statuses])

    step("PENDING", "RUNNING")
    clock.now = 100.0
    step("PENDING", "PENDING", "TERMINATED")
    clock.now = 116.0
    step("PENDING")
    assert "room for 1 GPU: all machines are gone" in capsys.readouterr().out
    step("RUNNING", "PENDING")
    clock.now = 200.0
    step("PENDING")
    step("TERMINATED")
    clock.now = 300.0
    step("PENDING")
    assert errors == [], "each wait begins anew"
    clock.now = 361.0
    step("PENDING")
    assert "within 1 minutes" in str(errors[0])
