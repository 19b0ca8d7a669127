"""The progress line. On a terminal it is rewritten in place; elsewhere each update is printed as a new line."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lopt.errors import cut_after_word, discard_output
from lopt.records import TrialRecord
from sweeps.listener import Listener
from sweeps.work.job import STEP, Job, Report

if TYPE_CHECKING:
    from sweeps.search.queue import TrialQueue

_TERMINAL_INTERVAL_S, _PLAIN_INTERVAL_S = 0.5, 30.0  # shortest time between two lines, unless there is an event


class Progress(Listener):
    """Counts trials and prints the progress line.

    Args:
        total_count: Number of trials of the whole sweep, as far as it is known.
        done_count: Number of trials that earlier commands have finished.
        steps_left: Returns the expected number of steps still to do, given the steps that each running trial has done.
        total_grows: Whether each confirm trial adds one to the total when it starts, because the number of confirm
            trials is not known beforehand (in a free search).
        count_left: Returns the number of trials that are left or running, if seeds may be added until it is decided.
            The total then follows from it.
    """

    def __init__(
        self,
        *,
        total_count: int,
        done_count: int,
        steps_left: Callable[[Mapping[str, int]], float],
        total_grows: bool = False,
        count_left: Callable[[], int] | None = None,
    ) -> None:
        self._count_left = count_left
        self._total_count, self._done_count = total_count, done_count
        self._steps_left, self._total_grows = steps_left, total_grows
        self.status_counts: Counter[str] = Counter()  # number of ended trials by status
        self._steps_by_key: dict[str, int] = {}  # steps of each running trial, by the trial's key
        self._placed_keys: set[str] = set()  # of running trials that have room on a machine
        self._report_counts: Counter[str] = Counter()  # number of reports of each running trial, by the trial's key
        self._new_step_count = 0  # steps that this command has done
        self._last_step_at: float | None = None  # time of the last of these steps; None while the pace is unknown
        self._best_trial: tuple[TrialRecord, str] | None = None  # record and cell of the best trial of this command
        self._began_at, self._drawn_at = time.monotonic(), 0.0
        self._line_width = 0  # of the last line on the terminal

    @classmethod
    def of_queue(cls, queue: TrialQueue, done_count: int, *, adds_seeds: bool) -> Progress:
        """Return the progress of a queue whose sweep has so many finished trials.

        `adds_seeds` says whether seeds are added until it is decided.
        """
        total_grows = queue.space.by_size
        search_count, confirm_count = queue.count_unfinished_trials()
        return cls(
            total_count=done_count + search_count + (0 if total_grows else confirm_count),
            done_count=done_count,
            steps_left=queue.steps_left,
            total_grows=total_grows,
            count_left=(lambda: sum(queue.count_unfinished_trials())) if adds_seeds else None,
        )

    def on_started(self, job: Job) -> None:
        if self._total_grows and job.phase == "confirm":
            self._total_count += 1
        self._steps_by_key[job.key] = 0
        self._draw()

    def on_placed(self, job: Job) -> None:
        self._placed_keys.add(job.key)
        self._draw()

    def on_displaced(self, job: Job) -> None:
        self._placed_keys.discard(job.key)
        self._draw()

    def on_reported(self, job: Job, report: Report) -> None:
        key = job.key
        if report.get("restored"):
            self._steps_by_key[key] = int(report[STEP])
        else:
            self._report_counts[key] += 1
            self._add_steps(key, int(report[STEP]), pace_is_known=self._report_counts[key] > 1)
        note = report.get("note")
        self._draw(event_text=f"{job}: {note}" if note else None)

    def _add_steps(self, key: str, step: int, *, pace_is_known: bool) -> None:
        """Count the steps of a trial up to `step`. `pace_is_known` says whether they show the pace (`time_left_s`)."""
        self._new_step_count += max(0, step - self._steps_by_key[key])
        self._steps_by_key[key] = step
        if pace_is_known or self._last_step_at is not None:
            self._last_step_at = time.monotonic()

    def on_ended(self, job: Job, record: TrialRecord) -> None:
        self._add_steps(job.key, record.steps, pace_is_known=True)
        self._forget(job)
        self._done_count += 1
        self.status_counts[record.status] += 1
        score = _held_out_score(record)
        if score is not None and (self._best_trial is None or score > (_held_out_score(self._best_trial[0]) or 0.0)):
            self._best_trial = (record, job.cell)
        self._draw(event_text=_describe_end(job, record))

    def on_paused(self, job: Job, report: Report) -> None:
        self._forget(job)
        notes = [note for note in (report.get("note"), "stopped at the budget, can be continued") if note]
        self._draw(event_text=f"{job}: {'; '.join(notes)}" if report else None)

    def on_requeued(self, job: Job) -> None:
        if self._total_grows and job.phase == "confirm":
            self._total_count -= 1
        self._forget(job)
        self._draw(event_text=f"{job}: waits for its turn again, because its process died before the trial began")

    def _forget(self, job: Job) -> None:
        del self._steps_by_key[job.key]
        self._placed_keys.discard(job.key)
        self._report_counts.pop(job.key, None)

    def time_left_s(self) -> float | None:
        """Return the seconds left at the pace up to the last report.

        Return None until a trial has reported twice or ended, because before that most of the time went into the start.
        """
        if self._last_step_at is None or not self._new_step_count:
            return None
        seconds_per_step = (self._last_step_at - self._began_at) / self._new_step_count
        since_last_step_s = time.monotonic() - self._last_step_at
        return max(0.0, self._steps_left(self._steps_by_key) * seconds_per_step - since_last_step_s)

    def to_dict(self) -> dict[str, Any]:
        """Return the counts of trials, the steps that this command has done, and the seconds left, if known."""
        self._update_total()
        return {
            "done_count": self._done_count,
            "total_count": self._total_count,
            "running_count": len(self._placed_keys),
            "waiting_count": len(self._steps_by_key) - len(self._placed_keys),
            "count_by_status": dict(self.status_counts),
            "step_count": self._new_step_count,
            "left_s": self.time_left_s(),
        }

    def _update_total(self) -> None:
        if self._count_left:
            self._total_count = self._done_count + self._count_left()

    def line(self) -> str:
        """Return the line: elapsed time, counts, the best trial and the time left."""
        self._update_total()
        parts = [f"{self._done_count}/{self._total_count} done", f"{len(self._placed_keys)} running"]
        if waiting_count := len(self._steps_by_key) - len(self._placed_keys):
            parts.append(f"{waiting_count} waiting for room")
        parts.append(f"{self.status_counts['stopped']} stopped")
        if self.status_counts["diverged"]:
            parts.append(f"{self.status_counts['diverged']} diverged")
        parts.append(f"{self.status_counts['failed']} failed")
        if self._best_trial:
            record, cell_name = self._best_trial
            parts.append(f"best {_format_score(record)} ({cell_name})")
        left_s = self.time_left_s()
        if left_s is not None and self._done_count < self._total_count:
            parts.append(f"about {format_duration(left_s)} left")
        return f"[{format_duration(time.monotonic() - self._began_at)}] " + " · ".join(parts)

    def _draw(self, event_text: str | None = None) -> None:
        """Print the line and the text of an event; without an event, only if the last line is old enough."""
        now, on_terminal = time.monotonic(), _is_on_terminal()
        if not event_text and now - self._drawn_at < (_TERMINAL_INTERVAL_S if on_terminal else _PLAIN_INTERVAL_S):
            return
        try:
            if on_terminal:
                columns = shutil.get_terminal_size().columns - 1
                if event_text:
                    print(f"\r{event_text[:columns].ljust(self._line_width)}")
                line = self.line()[:columns]
                print(f"\r{line.ljust(self._line_width)}", end="", flush=True)
                self._line_width = len(line)
            else:
                print(f"{self.line()}{f' | {event_text}' if event_text else ''}", flush=True)
            self._drawn_at = now
        except OSError:  # a sweep goes on even if nobody reads its output any more
            discard_output()

    def close(self) -> None:
        """End the last line on the terminal, so that later output does not overwrite it."""
        if _is_on_terminal() and self._line_width:
            print(flush=True)


def _is_on_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _describe_end(job: Job, record: TrialRecord) -> str:
    """Return how a trial ended, in one line."""
    if record.status == "failed":
        error = record.error or {}
        lines = str(error.get("message") or "").splitlines() or [""]
        return f"{job}: failed, {error.get('type')}: {cut_after_word(lines[0], 120)}"
    text = f"{job}: {record.status} at step {record.steps:,}"
    if _held_out_score(record) is not None:
        text += f", {_format_score(record)} on held-out examples"
    if record.test_score is not None:
        text += f", {_format_metric(record, record.test_score)} on {record.test_split}"
    return text


def _format_score(record: TrialRecord) -> str:
    """Return a trial's best held-out score, as `_format_metric` writes it."""
    return _format_metric(record, _held_out_score(record) or 0.0)


def _format_metric(record: TrialRecord, score: float) -> str:
    """Return a score in percent, with the name of the record's metric unless that is accuracy."""
    from lopt import metrics  # imported here, because it brings numpy, which --help does not need

    metric_title = "" if record.metric == "accuracy" else f" {metrics.title(record.metric)}"
    return f"{100 * score:.1f} %{metric_title}"


def _held_out_score(record: TrialRecord) -> float | None:
    """Return a trial's score on the whole held-out part. If it was not scored there, return that of its best
    evaluation."""
    return record.selection_score if record.held_out_score is None else record.held_out_score


def format_duration(seconds: float) -> str:
    """Return a duration as h:mm:ss or m:ss."""
    whole_seconds = int(seconds)
    hours, minutes = whole_seconds // 3600, whole_seconds // 60 % 60
    return f"{hours}:{minutes:02}:{whole_seconds % 60:02}" if hours else f"{minutes}:{whole_seconds % 60:02}"
