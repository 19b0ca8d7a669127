"""The page of a run that goes on, in a real browser. Slow, because each test starts the browser."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import threading

import pytest

from analysis.watching.live_run import LiveRun
from analysis.watching.server import PageServer

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KEYS = ["a" * 16, "b" * 16, "c" * 16]
HOSTILE = "<img src=x onerror=\"document.title='broken'\">"


def row(key, status, steps, **values):
    fixed = {"phase": "search", "cell": f"lopt1 {HOSTILE}", "stratum": "lopt1", "learning_rate": 0.3, "seed": 0}
    times = {
        "started_at": "2026-01-01T00:00:00+00:00",
        "max_steps": 40,
        "score": 0.6,
        "step": steps[-1] if steps else 0,
    }
    points = [(step, 0.5 + step / 100) for step in steps]
    return {"key": key, "status": status, "first_point": 0, "points": points, **fixed, **times, **values}


def answer(version, rows, *, status="running", gone=(), answers=None, session="one"):
    progress = {"done_count": 0, "total_count": 3, "running_count": 2, "waiting_count": 0, "count_by_status": {},
                "step_count": 10, "left_s": 60.0}  # fmt: skip
    budget = {"started_count": 3, "max_trials": None, "wall_time_s": 30.0, "max_wall_time_s": 60.0, "gpu_hours": 0.0,
              "max_gpu_hours": None}  # fmt: skip
    run = {"location": "results/run", "problem": "", "exists": True, "name": "run", "title": "Smoke", "status": status,
           "is_alive": True, "command": [], "rungs": [4, 12], "elapsed_s": 30.0,
           "stopping": "asha", "seeds_are_added": False,
           "prediction": {"low_s": 60.0, "high_s": 120.0, "elapsed_before_s": 0.0}}  # fmt: skip
    return {
        "session": session, "version": version, "run": run, "rows": rows, "gone": list(gone), "unreadable": [],
        "status": {"progress": progress, "budget": budget, "steps_per_s": 2.5, "stops": []}, "answers": answers,
    }  # fmt: skip


class ScriptedRun(LiveRun):
    """A run that gives one prepared answer after the other, and the last one from then on. It notes the questions."""

    def __init__(self, answers):
        self.session, self._prepared, self.questions = "one", answers, []

    def state(self, since=0):
        self.questions.append(since)
        return self._prepared[min(len(self.questions), len(self._prepared)) - 1]


def page_after(answers, tmp_path, seconds, width=1280):
    """Return the page's document after so many seconds of its own time, and what it asked for."""
    run = ScriptedRun(answers)
    with PageServer(run, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},1000", f"--virtual-time-budget={1000 * seconds}", "--dump-dom", server.url,
        ]  # fmt: skip
        env = {**os.environ, "LANG": "C.UTF-8", "NO_PROXY": "127.0.0.1"}
        process = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
        server.shutdown()
    assert process.stdout, process.stderr[-2000:]
    return process.stdout, run.questions


def section(page, name):
    """Return the text of a section of the page; "" if it is hidden."""
    match = re.search(rf'<section id="{name}"([^>]*)>(.*?)</section>', page, re.DOTALL)
    if "hidden" in match[1]:
        return ""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", match[2])).split())


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_rows_appear_curves_grow_and_a_stop_a_failure_and_the_end_are_seen_without_a_reload(tmp_path):
    answers = [
        answer(1, [row(KEYS[0], "running", [2])]),
        answer(2, [{**row(KEYS[0], "running", [4, 6]), "first_point": 1}, row(KEYS[1], "waiting", [])]),
        answer(3, [
            row(KEYS[0], "stopped", [2, 4, 6], wall_time_s=3.0, reason="rung 4: its score 0.6 is below 0.7"),
            row(KEYS[1], "failed", [2], wall_time_s=1.0, error=f"ValueError: {HOSTILE}",
                traceback='File "x.py", line 7'),
            row(KEYS[2], "running", [2, 4]),
        ]),
        answer(4, [row(KEYS[2], "complete", [2, 4, 40], wall_time_s=9.0, test_accuracy=0.9)], status="complete",
               answers='<div class="answer"><p>Two parameters are enough.</p></div>'),
    ]  # fmt: skip
    page, questions = page_after(answers[:2], tmp_path, 3)
    assert questions[:2] == [0, 1], "the page asks for what is new"
    assert 'data-points="3"' in page, "the point that the page had, and two new ones"
    assert "6 of 40" in section(page, "running") and "waits for room" in section(page, "running")
    assert section(page, "stops") == section(page, "failures") == ""
    assert ">running<" in page and "by the probe 0:30 to 1:30" in page and "0:30 of 1:00" in page
    page, questions = page_after(answers, tmp_path, 9)
    assert questions[:4] == [0, 1, 2, 3]
    assert "rung 4: its score 0.6 is below 0.7" in section(page, "stops")
    assert f"ValueError: {HOSTILE}" in section(page, "failures") and 'File "x.py", line 7' in section(page, "failures")
    assert section(page, "running") == ""
    assert all(word in section(page, "ended") for word in ("stopped", "failed", "complete", "90.0 %"))
    assert "Two parameters are enough." in section(page, "answers-section")
    assert re.search(r'class="badge good"[^>]*>complete<', page)
    assert "<title>0/3 run</title>" in page, "no text of the run is taken for code"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_page_goes_on_with_a_server_that_was_started_again(tmp_path):
    answers = [
        answer(7, [row(KEYS[0], "running", [2, 4])]),
        answer(2, [row(KEYS[1], "running", [2])], session="two"),
    ]
    page, _ = page_after(answers, tmp_path, 5)
    assert 'data-key="bbbb' in page and 'data-key="aaaa' not in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_page_says_that_the_run_has_not_begun_and_that_its_command_is_silent(tmp_path):
    waiting = answer(0, [])
    waiting["run"] = {"location": "results/run", "problem": "", "exists": False}
    waiting["status"] = {}
    page, _ = page_after([waiting], tmp_path, 3)
    assert ">not begun<" in page and "There is no run in results/run yet" in page
    silent = answer(1, [row(KEYS[0], "running", [2])])
    silent["run"]["is_alive"] = False
    page, _ = page_after([silent], tmp_path, 3)
    assert ">no sign of life<" in page and "The same command continues the run" in page
