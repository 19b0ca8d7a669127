"""A run that may still go on, as the page shows it. It is read again when a page asks, but seldom enough.

After each reading there is a pause of at least 20 times the processor time that it took. So the page never takes more
than 5 % of a core for long, however large the run is.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from analysis.runs import READ_ERRORS, ReportError, Run, error_text, load_run
from analysis.watching.answers import answers_html
from analysis.watching.trials import Trials
from lopt.locations import Location, display_path, redact_secrets

_PAUSE_FACTOR = 20.0
_MIN_PAUSE_S, _MIN_REMOTE_PAUSE_S = 1.0, 5.0
_MANIFEST_PAUSE_S = 5.0
SILENCE_S = 90.0  # a command that has not written `running/status.json` for this long does not live any more


class Throttle:
    """Says when the next reading may begin."""

    def __init__(self, min_pause_s: float) -> None:
        self._min_pause_s, self._next_at = min_pause_s, 0.0

    def is_due(self) -> bool:
        return time.monotonic() >= self._next_at

    def note_cost(self, processor_s: float) -> None:
        """Begin the pause after a reading that has taken so much processor time."""
        self._next_at = time.monotonic() + max(self._min_pause_s, _PAUSE_FACTOR * processor_s)


class LiveRun:
    """The state of a run for its page. The run need not exist yet."""

    def __init__(self, location: Location, make_answers: Callable[[Location], str] = answers_html) -> None:
        self._location, self._make_answers = location, make_answers
        self.session = secrets.token_hex(4)  # tells a page that the versions of another session do not count
        self._lock, self._version = threading.Lock(), 0
        self._trials = Trials(location)
        self._throttle = Throttle(_MIN_PAUSE_S if isinstance(location, Path) else _MIN_REMOTE_PAUSE_S)
        self._manifest_throttle = Throttle(_MANIFEST_PAUSE_S)
        self._run: Run | None = None
        self._problem = ""  # why the run cannot be read
        self._status: dict[str, Any] = {}
        self._status_changed_at: float | None = None  # when this process saw `status.json` change
        self._answers, self._answers_version, self._answers_record_count = "", 0, -1
        self._answers_throttle, self._answers_thread = Throttle(_MIN_PAUSE_S), threading.Thread()

    def state(self, since: int = 0) -> dict[str, Any]:
        """Return as JSON what has changed after version `since`, and everything that is small."""
        with self._lock:
            began_s = time.thread_time()
            is_due = self._throttle.is_due()
            if is_due:
                self._refresh()
            state = {
                "session": self.session,
                "version": self._version,
                "run": self._describe_run(),
                "status": self._status,
                **self._trials.changes(since),
                "unreadable": [f"{name}: {reason}" for name, reason in self._trials.unreadable_files.items()],
                "answers": self._answers if self._answers_version > since else None,
            }
            if is_due:
                self._throttle.note_cost(time.thread_time() - began_s)
            return state

    def _refresh(self) -> None:
        try:
            if self._trials.refresh(self._version + 1):
                self._version += 1
            self._refresh_status()
            self._add_reasons()
            if self._manifest_throttle.is_due():
                began_s = time.thread_time()
                self._run = load_run(self._location) if (self._location / "manifest.json").is_file() else None
                self._manifest_throttle.note_cost(time.thread_time() - began_s)
            self._problem = ""
        except ReportError as error:
            self._problem = str(error)
        except READ_ERRORS as error:
            self._problem = f"the run cannot be read now: {redact_secrets(error_text(error))}"
        self._begin_answers()

    def _refresh_status(self) -> None:
        try:
            status = json.loads((self._location / "running" / "status.json").read_bytes())
        except FileNotFoundError:
            return
        if status == self._status:
            return
        # The first reading says nothing about when the file was written.
        is_first, self._status = not self._status, status
        self._status_changed_at = None if is_first else time.monotonic()
        self._version += 1

    def _add_reasons(self) -> None:
        """Add to the rows of stopped trials why they were stopped."""
        for stop in self._status.get("stops", ()):
            row = self._trials.rows.get(stop["key"])
            if row is not None and row.values.get("status") == "stopped" and "reason" not in row.values:
                self._version += 1
                row.values["reason"], row.version = stop["reason"], self._version

    def _is_alive(self) -> bool:
        """Return whether the command that works on the run gives signs of life."""
        if self._status_changed_at is not None:
            return time.monotonic() - self._status_changed_at < SILENCE_S
        if not self._status:
            return False
        age_s = (datetime.now(UTC) - datetime.fromisoformat(self._status["written_at"])).total_seconds()
        return age_s < SILENCE_S

    def _elapsed_s(self, run: Run) -> float | None:
        """Return how long all commands of the run have taken. The manifest of a running one is a minute old at most."""
        if run.elapsed_s is None or run.status != "running" or not self._status:
            return run.elapsed_s
        times = [self._status["written_at"], run.manifest["updated_at"]]
        written_at, updated_at = (datetime.fromisoformat(text) for text in times)
        return run.elapsed_s + max(0.0, (written_at - updated_at).total_seconds())

    def _describe_run(self) -> dict[str, Any]:
        run = self._run
        described = {"location": display_path(self._location), "problem": self._problem, "exists": run is not None}
        if run is None:
            return described
        space = run.manifest["space"]
        prediction = run.prediction
        return {
            **described,
            "name": run.name,
            "title": space.get("title", ""),
            "status": run.status,
            "is_alive": self._is_alive(),
            "command": run.manifest.get("command", []),
            "rungs": run.rungs,
            "elapsed_s": self._elapsed_s(run),
            "stopping": space.get("stopping", "asha"),
            "seeds_are_added": run.design is not None,
            "prediction": prediction
            and {
                "low_s": prediction.low_s,
                "high_s": prediction.high_s,
                "elapsed_before_s": prediction.elapsed_before_s,
            },
        }

    def _begin_answers(self) -> None:
        """Compute the answers again in another thread, if there are new records and it is time."""
        record_count = sum("wall_time_s" in row.values for row in self._trials.rows.values())
        is_new = record_count != self._answers_record_count
        if is_new and self._run and self._answers_throttle.is_due() and not self._answers_thread.is_alive():
            self._answers_record_count = record_count
            self._answers_thread = threading.Thread(target=self._compute_answers, daemon=True, name="answers")
            self._answers_thread.start()

    def _compute_answers(self) -> None:
        began_s = time.thread_time()
        try:
            answers = self._make_answers(self._location)
        except READ_ERRORS as error:  # a file that is being written; the next time it is complete
            answers = ""
            self._problem = f"the answer so far cannot be computed: {redact_secrets(error_text(error))}"
        with self._lock:
            self._answers_throttle.note_cost(time.thread_time() - began_s)
            if answers:
                self._version += 1
                self._answers, self._answers_version = answers, self._version
