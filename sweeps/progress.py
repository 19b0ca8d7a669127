"""One line that says where a sweep stands: rewritten in place on a terminal, printed as plain lines elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from lopt.records import TrialRecord
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
        self._finished_steps = 0
        self._best: tuple[float, str] | None = None
        self._began, self._drawn_at, self._width = time.monotonic(), 0.0, 0

    def started(self, trial_id: str, job: Mapping[str, Any]) -> None:
        self._steps[trial_id], self._jobs[trial_id] = 0, job
        self._draw()

    def reported(self, trial_id: str, report: Mapping[str, Any]) -> None:
        self._steps[trial_id] = int(report[TIME])
        note = report.get("note")
        self._draw(event=f"{_what(self._jobs[trial_id])}: {note}" if note else None)

    def ended(self, trial_id: str, job: Mapping[str, Any], record: TrialRecord | None) -> None:
        if trial_id in self._steps:
            del self._steps[trial_id], self._jobs[trial_id]
            self._finished_steps += record.steps if record else 0
        self.done += 1
        self.counts[record.status if record else "failed"] += 1
        accuracy = record.selection_accuracy if record else None
        if accuracy is not None and (self._best is None or accuracy > self._best[0]):
            self._best = (accuracy, str(job["cell"]))
        self._draw(event=_event(job, record))

    def time_left_s(self) -> float | None:
        """From the pace so far; None before the first steps were reported."""
        made = self._finished_steps + sum(self._steps.values())
        elapsed = time.monotonic() - self._began
        return self._steps_left(self._steps) * elapsed / made if made else None

    def line(self) -> str:
        parts = [f"{self.done}/{self.total} done", f"{len(self._steps)} running", f"{self.counts['stopped']} stopped"]
        if self.counts["diverged"]:
            parts.append(f"{self.counts['diverged']} diverged")
        parts.append(f"{self.counts['failed']} failed")
        if self._best:
            parts.append(f"best {100 * self._best[0]:.1f} % ({self._best[1]})")
        left = self.time_left_s()
        if left is not None and self.done < self.total:
            parts.append(f"about {clock(left)} left")
        return f"[{clock(time.monotonic() - self._began)}] " + " · ".join(parts)

    def _draw(self, event: str | None = None) -> None:
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
        return text + f"failed, {error.get('type')}: {_first_line(error.get('message'))[:120]}"
    accuracy = f", {100 * record.selection_accuracy:.1f} % held out" if record.selection_accuracy is not None else ""
    test = f", {100 * record.test_accuracy:.1f} % on {record.test_split}" if record.test_accuracy is not None else ""
    return text + f"{record.status} at step {record.steps:,}{accuracy}{test}"


def _first_line(message: object) -> str:
    return next(iter(str(message or "").splitlines()), "")


def clock(seconds: float) -> str:
    """h:mm:ss or m:ss."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
