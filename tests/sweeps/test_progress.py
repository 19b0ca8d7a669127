from __future__ import annotations

import re
import sys

import pytest

from lopt.config import TrialConfig
from lopt.failure import failed_record
from lopt.records import now
from lopt.training import Trial
from sweeps import spaces
from sweeps.progress import Progress, clock
from sweeps.work.job import Job


def job(seed=0):
    settings = {"task": "toy", "backbone": "tiny", "method": "lopt1", "length": 4, "rank": 2, "learning_rate": 0.1}
    config = TrialConfig(**settings, seed=seed)
    return Job(config=config, phase="search", cell="lopt1 n=4 r=2", stratum="s", out="o", run="r")


A, B, C = (job(seed) for seed in range(3))


@pytest.fixture
def record(tiny):
    trial = Trial(tiny, phase="search")
    for _ in trial:
        break
    return trial.finish()


def run(record):
    place = {"phase": "search", "cell": B.cell, "stratum": "s", "started_at": now()}
    failed = failed_record(B.config, RuntimeError("its process died"), **place)
    progress = Progress(total=2, done=0, steps_left=lambda made: 6.0)
    progress.started(A)
    progress.reported(A, {"step": 3})
    progress.ended(A, record)
    progress.started(B)
    progress.ended(B, failed)
    progress.close()


def test_plain_lines_without_a_terminal(record, capsys):
    run(record)
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("[0:0") for line in lines)
    assert "1/2 done · 0 running · 1 stopped · 0 failed · best" in lines[-2]
    assert "about 0:0" in lines[-2]
    assert "search lopt1 n=4 r=2, lr 0.1: stopped at step 3" in lines[-2]
    assert "2/2 done · 0 running · 1 stopped · 1 failed" in lines[-1]
    assert "its process died" in lines[-1]


def test_a_note_is_an_event(capsys):
    progress = Progress(total=2, done=0, steps_left=lambda made: 6.0)
    progress.started(A)
    progress.reported(A, {"step": 3, "note": "continues at step 3"})
    progress.reported(A, {"step": 6, "note": ""})
    lines = [line for line in capsys.readouterr().out.splitlines() if "|" in line]
    assert [line.split("| ")[1] for line in lines] == ["search lopt1 n=4 r=2, lr 0.1: continues at step 3"]


@pytest.mark.parametrize(
    ("note", "said"),
    [
        ("", "stopped at the budget, can go on"),
        ("continues at step 3", "continues at step 3; stopped at the budget, can go on"),
    ],
)
def test_the_report_at_which_a_budget_ends_a_trial_has_its_note(capsys, note, said):
    progress = Progress(total=2, done=0, steps_left=lambda made: 6.0)
    progress.started(A)
    progress.paused(A, {"step": 3, "note": note})
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"search lopt1 n=4 r=2, lr 0.1: {said}")


def test_one_line_on_a_terminal(record, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    run(record)
    printed = capsys.readouterr().out
    kept = [re.split("\r", line)[-1] for line in printed.split("\n")]
    assert len([line for line in kept if line.strip()]) == 3, "two events and the last line stay"
    assert all(len(part) <= 60 for part in re.split("[\r\n]", printed))


def test_no_time_is_left_to_tell_before_the_pace_is_known(monkeypatch):
    """Here a start of 100 s, then two steps in a second."""
    at = 0.0
    monkeypatch.setattr("sweeps.progress.time.monotonic", lambda: at)
    progress = Progress(total=3, done=0, steps_left=lambda made: 60.0 - sum(made.values()))
    progress.started(A)
    progress.started(B)
    at = 100.0
    progress.reported(B, {"step": 20, "restored": True})
    at = 105.0
    progress.reported(A, {"step": 10})
    progress.reported(B, {"step": 30})
    assert progress.time_left_s() is None
    assert "left" not in progress.line()
    at = 110.0
    progress.reported(A, {"step": 20})
    assert progress.time_left_s() == pytest.approx((60 - 50) * 110 / 30), "the first 20 of b were not made here"
    at = 120.0
    assert progress.time_left_s() == pytest.approx((60 - 50) * 110 / 30 - 10)
    at = 500.0
    assert progress.time_left_s() == 0.0


def test_a_trial_that_has_ended_tells_the_pace(record):
    progress = Progress(total=2, done=0, steps_left=lambda made: 6.0)
    progress.started(A)
    progress.reported(A, {"step": 3})
    assert progress.time_left_s() is None
    progress.ended(A, record)
    assert progress.time_left_s() is not None


def test_clock():
    assert [clock(s) for s in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]


def test_expected_steps_fall_with_the_place_in_line_and_stay_within_the_most():
    made = spaces.load("ablation", "paper")
    expected = [made.expected_steps(n) for n in range(1, 11)]
    assert expected[0] == made.max_steps
    assert expected == sorted(expected, reverse=True)
    assert expected[-1] == pytest.approx(500 + 1000 / 3 + 3000 / 9 + 500 / 27)
