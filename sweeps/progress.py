"""One line that says where a sweep stands: rewritten in place on a terminal, printed as plain lines elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from lopt.errors import cut_short, reader_has_gone
from lopt.records import TrialRecord
from lopt.settings import METRICS
from sweeps.trial import TIME

_REDRAW_S, _PLAIN_S = 0.5, 30.0


class Progress:
    """Counts trials and draws the line.

    Args:
        total: trials of the whole sweep, as far as known. done: finished by earlier commands.
        steps_left: expected steps still to do, given those of the running trials, for the time that is left.
    """

    def __init__(self, *, total: int, done: int, steps_left: Callable[[Mapping[str, int]], float]) -> None:
        self.total, self.done, self._steps_left = total, done, steps_left
        self.counts: Counter[str] = Counter()
        self._steps: dict[str, int] = {}
        self._jobs: dict[str, Mapping[str, Any]] = {}
        self._reports: Counter[str] = Counter()  # of each running trial
        self._made = 0  # steps, those under an earlier command left out
        self._made_at: float | None = None  # when the last of them were reported; None while the pace is unknown
        self._best: tuple[TrialRecord, str] | None = None
        self._began, self._drawn_at, self._width = time.monotonic(), 0.0, 0

    def started(self, trial_id: str, job: Mapping[str, Any]) -> None:
        self._steps[trial_id], self._jobs[trial_id] = 0, job
        self._draw()

    def reported(self, trial_id: str, report: Mapping[str, Any]) -> None:
        if report.get("restored"):
            self._steps[trial_id] = int(report[TIME])
        else:
            self._reports[trial_id] += 1
            self._step(trial_id, int(report[TIME]), known=self._reports[trial_id] > 1)
        note = report.get("note")
        self._draw(event=f"{_what(self._jobs[trial_id])}: {note}" if note else None)

    def _step(self, trial_id: str, step: int, *, known: bool) -> None:
        self._made += max(0, step - self._steps[trial_id])
        self._steps[trial_id] = step
        if known or self._made_at is not None:
            self._made_at = time.monotonic()

    def ended(self, trial_id: str, job: Mapping[str, Any], record: TrialRecord | None) -> None:
        if trial_id in self._steps:
            if record:
                self._step(trial_id, record.steps, known=True)
            self._forget(trial_id)
        self.done += 1
        self.counts[record.status if record else "failed"] += 1
        if record and record.selection_score is not None:
            best = self._best
            if best is None or record.selection_score > (best[0].selection_score or 0.0):
                self._best = (record, str(job["cell"]))
        self._draw(event=_event(job, record))

    def let_go(self, trial_id: str, report: Mapping[str, Any]) -> None:
        """A trial that a budget has stopped at this report, of which nobody else has been told; of one that was waiting
        for a place there is nothing to say."""
        notes = [note for note in (report.get("note"), "stopped at the budget, can go on") if note]
        text = f"{_what(self._jobs[trial_id])}: {'; '.join(notes)}"
        self._forget(trial_id)
        self._draw(event=text if report else None)

    def taken_back(self, trial_id: str, *, counted: bool) -> None:
        """A trial whose process was dead before it began. counted: it was expected from the first."""
        job = self._jobs[trial_id]
        if job["phase"] == "confirm" and not counted:
            self.total -= 1
        self._forget(trial_id)
        self._draw(event=f"{_what(job)}: tried again, its process had died before")

    def _forget(self, trial_id: str) -> None:
        del self._steps[trial_id], self._jobs[trial_id]
        self._reports.pop(trial_id, None)

    def time_left_s(self) -> float | None:
        """From the pace up to the last report; None until a trial has reported twice or ended, for before that most of
        the time went into the start."""
        if self._made_at is None or not self._made:
            return None
        pace = (self._made_at - self._began) / self._made
        return max(0.0, self._steps_left(self._steps) * pace - (time.monotonic() - self._made_at))

    def line(self) -> str:
        parts = [f"{self.done}/{self.total} done", f"{len(self._steps)} running", f"{self.counts['stopped']} stopped"]
        if self.counts["diverged"]:
            parts.append(f"{self.counts['diverged']} diverged")
        parts.append(f"{self.counts['failed']} failed")
        if self._best:
            parts.append(f"best {_score(self._best[0])} ({self._best[1]})")
        left = self.time_left_s()
        if left is not None and self.done < self.total:
            parts.append(f"about {clock(left)} left")
        return f"[{clock(time.monotonic() - self._began)}] " + " · ".join(parts)

    def _draw(self, event: str | None = None) -> None:
        try:
            self._print(event)
        except OSError:  # nobody reads any more, which is no reason to end a sweep
            reader_has_gone()

    def _print(self, event: str | None) -> None:
        now = time.monotonic()
        if _on_terminal():
            if event or now - self._drawn_at >= _REDRAW_S:
                columns = shutil.get_terminal_size().columns - 1
                if event:
                    print(f"\r{event[:columns].ljust(self._width)}")
                line = self.line()[:columns]
                print(f"\r{line.ljust(self._width)}", end="", flush=True)
                self._drawn_at, self._width = now, len(line)
        elif event or now - self._drawn_at >= _PLAIN_S:
            print(f"{self.line()}{f' | {event}' if event else ''}", flush=True)
            self._drawn_at = now

    def close(self) -> None:
        """Leaves the last line standing."""
        if _on_terminal() and self._width:
            print(flush=True)


def _on_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _what(job: Mapping[str, Any]) -> str:
    config = job["config"]
    text = f"{job['phase']} {job['cell']}"
    if job["cell"] == "search":
        text += f": {config['method']} n={config['length']}" + (f" r={config['rank']}" if config["rank"] else "")
    return text + f", lr {config['learning_rate']:.3g}"


def _event(job: Mapping[str, Any], record: TrialRecord | None) -> str:
    text = f"{_what(job)}: "
    if record is None:
        return text + "failed, its process died"
    if record.status == "failed":
        error = record.error or {}
        return text + f"failed, {error.get('type')}: {cut_short(_first_line(error.get('message')), 120)}"
    score = f", {_score(record)} held out" if record.selection_score is not None else ""
    test = f", {100 * record.test_accuracy:.1f} % on {record.test_split}" if record.test_accuracy is not None else ""
    return text + f"{record.status} at step {record.steps:,}{score}{test}"


def _score(record: TrialRecord) -> str:
    """Its best held-out score, which is an accuracy where nothing else is said."""
    name = "" if record.metric == "accuracy" else f" {METRICS.get(record.metric, record.metric)}"
    return f"{100 * (record.selection_score or 0.0):.1f} %{name}"


def _first_line(message: object) -> str:
    return next(iter(str(message or "").splitlines()), "")


def clock(seconds: float) -> str:
    """h:mm:ss or m:ss."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
