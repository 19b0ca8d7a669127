"""The progress line, and the events that are printed with it."""

from __future__ import annotations

import re
import sys

import pytest

from lopt.config import TrialConfig
from lopt.failure import failed_record
from lopt.records import utc_now
from lopt.training import Trial
from sweeps import spaces
from sweeps.planning import settings
from sweeps.progress import Progress, format_duration
from sweeps.search.queue import TrialQueue
from sweeps.work.job import Job


def make_job(seed=0):
    config = TrialConfig(task="toy", backbone="tiny", method="lopt1", length=4, rank=2, learning_rate=0.1, seed=seed)
    return Job(config=config, phase="search", cell="lopt1 n=4 r=2", stratum="s", out="o", run="r")


JOB_A, JOB_B = make_job(0), make_job(1)


@pytest.fixture
def record(tiny):
    """Return the record of a trial that stopped at its first evaluation."""
    trial = Trial(tiny, phase="search")
    for _ in trial:
        break
    return trial.finish()


def run_two_trials(record):
    """Give Progress the events of one trial that ends with this record, and of one that fails."""
    failed = failed_record(
        JOB_B.config,
        RuntimeError("its process died"),
        phase="search",
        cell=JOB_B.cell,
        stratum="s",
        started_at=utc_now(),
    )
    progress = Progress(total_count=2, done_count=0, steps_left=lambda steps: 6.0)
    progress.on_started(JOB_A)
    progress.on_reported(JOB_A, {"step": 3})
    progress.on_ended(JOB_A, record)
    progress.on_started(JOB_B)
    progress.on_ended(JOB_B, failed)
    progress.close()


def test_plain_lines_without_a_terminal(record, capsys):
    run_two_trials(record)
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("[0:0") for line in lines)
    assert "1/2 done · 0 running · 1 stopped · 0 failed · best" in lines[-2]
    assert "about 0:0" in lines[-2]
    assert "search lopt1 n=4 r=2, lr 0.1: stopped at step 3" in lines[-2]
    assert "2/2 done · 0 running · 1 stopped · 1 failed" in lines[-1]
    assert "its process died" in lines[-1]


def test_the_note_of_a_report_is_printed_once(capsys):
    progress = Progress(total_count=2, done_count=0, steps_left=lambda steps: 6.0)
    progress.on_started(JOB_A)
    progress.on_reported(JOB_A, {"step": 3, "note": "continues at step 3"})
    progress.on_reported(JOB_A, {"step": 6, "note": ""})
    lines = [line for line in capsys.readouterr().out.splitlines() if "|" in line]
    assert [line.split("| ")[1] for line in lines] == ["search lopt1 n=4 r=2, lr 0.1: continues at step 3"]


@pytest.mark.parametrize(
    ("note", "event"),
    [
        ("", "stopped at the budget, can be continued"),
        ("continues at step 3", "continues at step 3; stopped at the budget, can be continued"),
    ],
)
def test_the_report_at_which_a_budget_ends_a_trial_prints_its_note(capsys, note, event):
    progress = Progress(total_count=2, done_count=0, steps_left=lambda steps: 6.0)
    progress.on_started(JOB_A)
    progress.on_paused(JOB_A, {"step": 3, "note": note})
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"search lopt1 n=4 r=2, lr 0.1: {event}")


def test_one_line_on_a_terminal(record, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    run_two_trials(record)
    printed = capsys.readouterr().out
    final_lines = [re.split("\r", line)[-1] for line in printed.split("\n")]
    assert len([line for line in final_lines if line.strip()]) == 3, "two events and the last line stay"
    assert all(len(part) <= 60 for part in re.split("[\r\n]", printed))


def test_the_time_left_is_unknown_before_the_pace_is_known(monkeypatch):
    """The start takes 100 s; then two steps take a second."""
    now_s = 0.0
    monkeypatch.setattr("sweeps.progress.time.monotonic", lambda: now_s)
    progress = Progress(total_count=3, done_count=0, steps_left=lambda steps: 60.0 - sum(steps.values()))
    progress.on_started(JOB_A)
    progress.on_started(JOB_B)
    now_s = 100.0
    progress.on_reported(JOB_B, {"step": 20, "restored": True})
    now_s = 105.0
    progress.on_reported(JOB_A, {"step": 10})
    progress.on_reported(JOB_B, {"step": 30})
    assert progress.time_left_s() is None
    assert "left" not in progress.line()
    now_s = 110.0
    progress.on_reported(JOB_A, {"step": 20})
    assert progress.time_left_s() == pytest.approx((60 - 50) * 110 / 30), (
        "another command has done the first 20 steps of B"
    )
    now_s = 120.0
    assert progress.time_left_s() == pytest.approx((60 - 50) * 110 / 30 - 10)
    now_s = 500.0
    assert progress.time_left_s() == 0.0


def test_a_trial_that_has_ended_makes_the_pace_known(record):
    progress = Progress(total_count=2, done_count=0, steps_left=lambda steps: 6.0)
    progress.on_started(JOB_A)
    progress.on_reported(JOB_A, {"step": 3})
    assert progress.time_left_s() is None
    progress.on_ended(JOB_A, record)
    assert progress.time_left_s() is not None


def test_durations_have_hours_only_if_needed():
    assert [format_duration(seconds) for seconds in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]


def test_expected_steps_fall_with_the_position_of_a_trial():
    space = spaces.load("ablation", "paper")
    expected = [space.expected_steps(position) for position in range(1, 11)]
    assert expected[0] == space.max_steps
    assert expected == sorted(expected, reverse=True)
    assert expected[-1] == pytest.approx(500 + 1000 / 3 + 3000 / 9 + 500 / 27)


def test_the_steps_left_are_the_sum_over_all_trials_that_are_left():
    """The rule is asked once for each trial, not again at each event."""
    space = settings.with_settings(spaces.load("smoke", "paper"), {"trials": "60"})
    calls = []
    object.__setattr__(space, "expected_steps", lambda position: calls.append(position) or 1.0 + 100 / position)
    queue = TrialQueue(space, resolve=lambda config: config, finished=[], failed=[])
    running = [queue.begin_next_trial() for _ in range(7)]  # of three cells; the first has three of them
    steps = {running[0].config.key: 4, running[1].config.key: 2}
    for _ in range(3):
        left = [len(range(3, 60)), len(range(2, 60)), len(range(2, 60))]
        waiting = sum(sum(1 + 100 / position for position in range(61 - count, 61)) for count in left)
        begun = 3 * (1 + 100 / 3) + 4 * (1 + 100 / 2) - 4 - 2
        assert queue.steps_left(steps) == pytest.approx(waiting + begun + 3 * space.max_steps)
    assert calls == list(range(1, 61))
