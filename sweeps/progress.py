"""The line of progress: rewritten in place on a terminal, printed as plain lines elsewhere."""

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping

from lopt.errors import cut_short, discard_output
from lopt.records import TrialRecord
from lopt.settings import METRICS
from sweeps.listener import Listener
from sweeps.work.job import STEP, Job, Report

_TERMINAL_INTERVAL_S, _PLAIN_INTERVAL_S = 0.5, 30.0  # the line is drawn this often at most, unless there is an event


class Progress(Listener):
    """Counts trials and prints the line.

    Args:
        total: Number of trials of the whole sweep, as far as it is known.
        done: Number of trials that earlier commands have finished.
        steps_left: Returns the expected number of steps still to do, given the steps that each running trial has done.
        grows: Whether the total grows with every confirm trial that starts. In a free search, nobody knows beforehand
            how many there will be.
    """

    def __init__(
        self, *, total: int, done: int, steps_left: Callable[[Mapping[str, int]], float], grows: bool = False
    ) -> None:
        self._total, self._done, self._steps_left, self._grows = total, done, steps_left, grows
        self.counts: Counter[str] = Counter()  # trials by status
        self._steps: dict[str, int] = {}  # steps of each running trial
        self._reports: Counter[str] = Counter()  # reports of each running trial
        self._steps_done = 0  # steps of this command alone
        self._stepped_at: float | None = None  # when the last of them were reported; None while the pace is unknown
        self._best: tuple[TrialRecord, str] | None = None  # record and cell of the best trial of this command
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
            self._add_steps(key, int(report[STEP]), tells_pace=self._reports[key] > 1)
        note = report.get("note")
        self._draw(event=f"{job}: {note}" if note else None)

    def _add_steps(self, key: str, step: int, *, tells_pace: bool) -> None:
        self._steps_done += max(0, step - self._steps[key])
        self._steps[key] = step
        if tells_pace or self._stepped_at is not None:
            self._stepped_at = time.monotonic()

    def ended(self, job: Job, record: TrialRecord) -> None:
        self._add_steps(job.key, record.steps, tells_pace=True)
        self._forget(job)
        self._done += 1
        self.counts[record.status] += 1
        score = record.selection_score
        if score is not None and (self._best is None or score > (self._best[0].selection_score or 0.0)):
            self._best = (record, job.cell)
        self._draw(event=_ending(job, record))

    def paused(self, job: Job, report: Report) -> None:
        self._forget(job)
        notes = [note for note in (report.get("note"), "stopped at the budget, can go on") if note]
        self._draw(event=f"{job}: {'; '.join(notes)}" if report else None)

    def requeued(self, job: Job) -> None:
        self._total -= self._grows and job.phase == "confirm"
        self._forget(job)
        self._draw(event=f"{job}: waits for its turn again, because its process died before it began")

    def _forget(self, job: Job) -> None:
        del self._steps[job.key]
        self._reports.pop(job.key, None)

    def time_left_s(self) -> float | None:
        """Return the seconds left at the pace up to the last report.

        None until a trial has reported twice or ended: before that, most of the time went into the start.
        """
        if self._stepped_at is None or not self._steps_done:
            return None
        seconds_per_step = (self._stepped_at - self._began) / self._steps_done
        return max(0.0, self._steps_left(self._steps) * seconds_per_step - (time.monotonic() - self._stepped_at))

    def line(self) -> str:
        """Return the line: elapsed time, counts, the best trial and the time left."""
        parts = [f"{self._done}/{self._total} done", f"{len(self._steps)} running", f"{self.counts['stopped']} stopped"]
        if self.counts["diverged"]:
            parts.append(f"{self.counts['diverged']} diverged")
        parts.append(f"{self.counts['failed']} failed")
        if self._best:
            best_record, cell = self._best
            parts.append(f"best {_format_score(best_record)} ({cell})")
        left_s = self.time_left_s()
        if left_s is not None and self._done < self._total:
            parts.append(f"about {clock(left_s)} left")
        return f"[{clock(time.monotonic() - self._began)}] " + " · ".join(parts)

    def _draw(self, event: str | None = None) -> None:
        """Print the line and an event; without an event, only if the last line is old enough."""
        now, on_terminal = time.monotonic(), _on_terminal()
        if not event and now - self._drawn_at < (_TERMINAL_INTERVAL_S if on_terminal else _PLAIN_INTERVAL_S):
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
        except OSError:  # nobody reads the output any more, which is no reason to end a sweep
            discard_output()

    def close(self) -> None:
        """Leave the last line on the terminal."""
        if _on_terminal() and self._width:
            print(flush=True)


def _on_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _ending(job: Job, record: TrialRecord) -> str:
    """Return how a trial ended, in one line."""
    if record.status == "failed":
        error = record.error or {}
        lines = str(error.get("message") or "").splitlines() or [""]
        return f"{job}: failed, {error.get('type')}: {cut_short(lines[0], 120)}"
    score = f", {_format_score(record)} held out" if record.selection_score is not None else ""
    test = f", {100 * record.test_accuracy:.1f} % on {record.test_split}" if record.test_accuracy is not None else ""
    return f"{job}: {record.status} at step {record.steps:,}{score}{test}"


def _format_score(record: TrialRecord) -> str:
    """Return a trial's best held-out score in percent, with the name of its metric unless that is accuracy."""
    metric = "" if record.metric == "accuracy" else f" {METRICS.get(record.metric, record.metric)}"
    return f"{100 * (record.selection_score or 0.0):.1f} %{metric}"


def clock(seconds: float) -> str:
    """Return a duration as h:mm:ss or m:ss."""
    whole_seconds = int(seconds)
    hours, minutes = whole_seconds // 3600, whole_seconds // 60 % 60
    return f"{hours}:{minutes:02}:{whole_seconds % 60:02}" if hours else f"{minutes}:{whole_seconds % 60:02}"
