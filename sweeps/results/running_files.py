"""The trials that run now, as files. A page reads them while the sweep runs (`analysis/watching`).

<run>/running/<key>.jsonl           in a folder: one line for each evaluation or event, appended
      running/<key>-<time>-<number>.jsonl  behind a URL: an object with the lines since the last object
      running/status.json           counts, pace and budget of the command; written again while the command lives

Each file begins with a line that describes its trial. A trial that has ended has all evaluations in its record, so its
files are removed. Nothing reads these files to continue a sweep.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lopt.locations import Location, write_file
from lopt.records import to_json, utc_now
from sweeps.results.read_record import check_key

STATUS_INTERVAL_S = 2.0  # the shortest time between two writes of `status.json`
HEARTBEAT_S = 20.0  # `status.json` is written at least this often


class RunningFiles:
    """The folder `running/` of a run. Lines are written by `flush`; then they are on the disk or at the URL."""

    def __init__(self, folder: Location, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._description_by_key: dict[str, str] = {}  # the first line of each trial's files
        self._number_by_key: dict[str, int] = {}  # tells apart the files of a trial that has begun several times
        self._lines_by_key: dict[str, list[str]] = {}  # lines that are not written yet
        self._files_by_key: dict[str, list[Any]] = {}
        self._status: Mapping[str, Any] | None = None
        self._status_is_new, self._status_written_at, self._beat_count = False, -float("inf"), 0

    def clear(self) -> None:
        """Remove the files of an earlier command."""
        for file in self._folder.glob("*.jsonl"):
            file.unlink(missing_ok=True)

    def begin(self, key: str, description: Mapping[str, Any]) -> None:
        """Begin the files of a trial anew."""
        self.drop(check_key(key))
        # The beginning of a file tells the reader whether it is the same file as before.
        self._description_by_key[key] = json.dumps({"begun_at": utc_now(), **description})
        self._lines_by_key[key], self._number_by_key[key] = [], time.time_ns()

    def add(self, key: str, entry: Mapping[str, Any]) -> None:
        """Add a line to the files of a trial that has begun. The line of an unknown trial is left out."""
        if key in self._description_by_key:
            self._lines_by_key.setdefault(key, []).append(json.dumps(entry))

    def drop(self, key: str) -> None:
        """Remove the files of a trial."""
        self._description_by_key.pop(key, None)
        self._lines_by_key.pop(key, None)
        for file in self._files_by_key.pop(key, []):
            file.unlink(missing_ok=True)

    def earlier_stops(self) -> list[Any]:
        """Return the entry `stops` of the status that an earlier command has left."""
        try:
            return list(json.loads((self._folder / "status.json").read_bytes())["stops"])
        except (OSError, ValueError, TypeError, KeyError):
            return []

    def set_status(self, status: Mapping[str, Any]) -> None:
        """Replace the content of `status.json`."""
        self._status, self._status_is_new = status, True

    def flush(self, *, at_once: bool = False) -> None:
        """Write what is not written yet; the status only if it is due, or `at_once`."""
        for key, lines in self._lines_by_key.items():
            self._write_lines(key, lines)
        self._lines_by_key.clear()
        age_s = self._clock() - self._status_written_at
        is_due = age_s >= HEARTBEAT_S or (self._status_is_new and age_s >= STATUS_INTERVAL_S)
        if self._status is not None and (is_due or at_once):
            self._beat_count += 1
            content = {**self._status, "written_at": utc_now(), "beat": self._beat_count}
            write_file(self._folder / "status.json", to_json(content).encode())
            self._status_is_new, self._status_written_at = False, self._clock()

    def _write_lines(self, key: str, lines: list[str]) -> None:
        files = self._files_by_key.setdefault(key, [])
        if files and isinstance(files[0], Path):
            with files[0].open("a", encoding="utf-8") as stream:
                stream.write("".join(f"{line}\n" for line in lines))
            return
        # No object ever gets the name of another one, so a name that has been read need not be read again.
        suffix = "" if isinstance(self._folder, Path) else f"-{self._number_by_key[key]:016x}-{len(files):06}"
        file = self._folder / f"{key}{suffix}.jsonl"
        write_file(file, "".join(f"{line}\n" for line in [self._description_by_key[key], *lines]).encode())
        files.append(file)
