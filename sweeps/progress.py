"""One line that says where a sweep stands: rewritten in place on a terminal, printed as plain lines elsewhere."""

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping

from lopt.errors import cut_short, reader_has_gone
from lopt.records import TrialRecord
from lopt.settings import METRICS
from sweeps.listener import Listener
from sweeps.work.job import STEP, Job, Report

_REDRAW_S, _PLAIN_S = 0.5, 30.0


class Progress(Listener):
    """Counts trials and draws the line.

    Args:
        total: trials of the whole sweep, as far as known. done: finished by earlier commands.
        grows: with every confirm trial that begins, since nobody knows before how many there will be.
        steps_left: expected steps still to do, given those of the running trials by their keys.
    """

    def __init__(
        self, *, total: int, done: int, steps_left: Callable[[Mapping[str, int]], float], grows: bool = False
    ) -> None:
        self._total, self._done, self._steps_left, self._grows = total, done, steps_left, grows
        self.counts: Counter[str] = Counter()
        self._steps: dict[str, int] = {}  # of each running trial
        self._reports: Counter[str] = Counter()  # of each running trial
        self._steps_done = 0  # those under an earlier command left out
        self._stepped_at: float | None = None  # when the last of them were reported; None while the pace is unknown
        self._best: tuple[TrialRecord, str] | None = None
        self._began, self._drawn_at, self._width = time.monotonic(), 0.0, 0

    def started(self, job: Job) -> None:
        self._total += self._grows and job.phase == "confirm"
        self._steps[job.key] = 0
        self._draw()

    def reported(self, job: Job, report: Report) -> None:
        key = job.key
        if report.get("restored"):
            self._steps[key] = int(report[STEP])
        else:
            self._reports[key] += 1
            self._step(key, int(report[STEP]), known=self._reports[key] > 1)
        note = report.get("note")
        self._draw(event=f"{job}: {note}" if note else None)

    def _step(self, key: str, step: int, *, known: bool) -> None:
        self._steps_done += max(0, step - self._steps[key])
        self._steps[key] = step
        if known or self._stepped_at is not None:
            self._stepped_at = time.monotonic()

    def ended(self, job: Job, record: TrialRecord) -> None:
        self._step(job.key, record.steps, known=True)
        self._forget(job)
        self._done += 1
        self.counts[record.status] += 1
        score = record.selection_score
        if score is not None and (self._best is None or score > (self._best[0].selection_score or 0.0)):
            self._best = (record, job.cell)
        self._draw(event=_event(job, record))

    def paused(self, job: Job, report: Report) -> None:
        self._forget(job)
        notes = [note for note in (report.get("note"), "stopped at the budget, can go on") if note]
        self._draw(event=f"{job}: {'; '.join(notes)}" if report else None)

    def requeued(self, job: Job) -> None:
        self._total -= self._grows and job.phase == "confirm"
        self._forget(job)
        self._draw(event=f"{job}: tried again, its process had died before")

    def _forget(self, job: Job) -> None:
        del self._steps[job.key]
        self._reports.pop(job.key, None)

    def time_left_s(self) -> float | None:
        """From the pace up to the last report; None until a trial has reported twice or ended, for before that most of
        the time went into the start."""
        if self._stepped_at is None or not self._steps_done:
            return None
        pace = (self._stepped_at - self._began) / self._steps_done
        return max(0.0, self._steps_left(self._steps) * pace - (time.monotonic() - self._stepped_at))

    def line(self) -> str:
        parts = [f"{self._done}/{self._total} done", f"{len(self._steps)} running", f"{self.counts['stopped']} stopped"]
        if self.counts["diverged"]:
            parts.append(f"{self.counts['diverged']} diverged")
        parts.append(f"{self.counts['failed']} failed")
        if self._best:
            parts.append(f"best {_score(self._best[0])} ({self._best[1]})")
        left = self.time_left_s()
        if left is not None and self._done < self._total:
            parts.append(f"about {clock(left)} left")
        return f"[{clock(time.monotonic() - self._began)}] " + " · ".join(parts)

    def _draw(self, event: str | None = None) -> None:
        now, on_terminal = time.monotonic(), _on_terminal()
        if not event and now - self._drawn_at < (_REDRAW_S if on_terminal else _PLAIN_S):
            return
        try:
            if on_terminal:
                columns = shutil.get_terminal_size().columns - 1
                if event:
                    print(f"\r{event[:columns].ljust(self._width)}")
                line = self.line()[:columns]
                print(f"\r{line.ljust(self._width)}", end="", flush=True)
                self._width = len(line)
            else:
                print(f"{self.line()}{f' | {event}' if event else ''}", flush=True)
            self._drawn_at = now
        except OSError:  # nobody reads any more, which is no reason to end a sweep
            reader_has_gone()

    def close(self) -> None:
        """Leaves the last line standing."""
        if _on_terminal() and self._width:
            print(flush=True)


def _on_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _event(job: Job, record: TrialRecord) -> str:
    if record.status == "failed":
        error = record.error or {}
        lines = str(error.get("message") or "").splitlines() or [""]
        return f"{job}: failed, {error.get('type')}: {cut_short(lines[0], 120)}"
    score = f", {_score(record)} held out" if record.selection_score is not None else ""
    test = f", {100 * record.test_accuracy:.1f} % on {record.test_split}" if record.test_accuracy is not None else ""
    return f"{job}: {record.status} at step {record.steps:,}{score}{test}"


def _score(record: TrialRecord) -> str:
    """Its best held-out score, which is an accuracy where nothing else is said."""
    name = "" if record.metric == "accuracy" else f" {METRICS.get(record.metric, record.metric)}"
    return f"{100 * (record.selection_score or 0.0):.1f} %{name}"


def clock(seconds: float) -> str:
    """h:mm:ss or m:ss."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
