"""The trials of a run that goes on, as rows of a page. Each row remembers which version of the page brought what.

A trial that runs is read from `running/` (`sweeps/results/running_files.py` describes these files), one that has ended
from its record. Only what is new is read.
"""

from __future__ import annotations

import contextlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.runs import READ_ERRORS, error_text
from lopt.locations import Location, read_files
from lopt.records import TrialRecord
from lopt.settings import METRICS

_KEY_LENGTH = 16
_HEAD_LENGTH = 60  # bytes; they hold the time at which a file was begun
_TRACEBACK_LINES = 12  # the last lines of a traceback; those above them lead there


@dataclass
class Row:
    """A trial on the page.

    Attributes:
        values: what the page shows, as JSON.
        points: steps and scores of the trial's evaluations. A score is a fraction, or None.
        point_versions: the version that brought each point.
        begun_at_version: the version at which `points` began anew.
        version: the version that changed the row last.
    """

    values: dict[str, Any]
    points: list[tuple[int, float | None]] = field(default_factory=list)
    point_versions: list[int] = field(default_factory=list)
    begun_at_version: int = 0
    version: int = 0

    def add_point(self, step: int, score: float | None, version: int) -> None:
        """Add an evaluation. A step that is not after the last one begins the curve anew."""
        if self.points and step <= self.points[-1][0]:
            self.begin_points(version)
        self.points.append((step, score))
        self.point_versions.append(version)

    def begin_points(self, version: int) -> None:
        self.points, self.point_versions, self.begun_at_version = [], [], version

    def changes(self, since: int) -> dict[str, Any]:
        """Return the row for a page that has version `since`: the points that it has already are left out."""
        first = 0 if self.begun_at_version > since else bisect_right(self.point_versions, since)
        return {**self.values, "first_point": first, "points": self.points[first:]}


class Trials:
    """All trials of a run, read again by `refresh`."""

    def __init__(self, run: Location) -> None:
        self._run = run
        self.rows: dict[str, Row] = {}
        self._version_by_gone_key: dict[str, int] = {}
        self._read_by_file: dict[str, tuple[bytes, int]] = {}  # local: first bytes, and bytes read, by name
        self._seen_objects: set[str] = set()  # behind a URL: names of the objects that are read
        self._signature_by_key: dict[str, Any] = {}  # of the records that are read
        self.unreadable_files: dict[str, str] = {}  # why a record cannot be read, by the file's name

    def refresh(self, version: int) -> bool:
        """Read what is new, as part of this version, and return whether there was anything."""
        # In this order, because a trial's record is written before its file in `running/` is removed.
        running_keys, is_changed = self._refresh_running(version)
        recorded_keys, is_record_changed = self._refresh_records(version)
        gone_keys = self.rows.keys() - running_keys - recorded_keys
        for key in gone_keys:
            del self.rows[key]
            self._version_by_gone_key[key] = version
        return is_changed or is_record_changed or bool(gone_keys)

    def changes(self, since: int) -> dict[str, Any]:
        """Return the rows that have changed after version `since`, and the keys of those that are gone."""
        return {
            "rows": [row.changes(since) for row in self.rows.values() if row.version > since],
            "gone": [key for key, version in self._version_by_gone_key.items() if version > since],
        }

    # --- trials that run -----------------------------------------------------------------------------------------

    def _refresh_running(self, version: int) -> tuple[set[str], bool]:
        """Read new lines. Return the keys of the trials that run, and whether there were new lines."""
        folder, keys, is_changed = self._run / "running", set(), False
        chunks = _new_chunks(folder, self._read_by_file) if isinstance(folder, Path) else self._new_objects(folder)
        for key, lines, is_new_file in chunks:
            keys.add(key)
            if lines:
                self._read_lines(key, lines, version, is_new_file=is_new_file)
                is_changed = True
        return keys, is_changed

    def _new_objects(self, folder: Location) -> Iterator[tuple[str, list[str], bool]]:
        files = {file.name: file for file in folder.glob("*.jsonl")}
        new_names = sorted(files.keys() - self._seen_objects)
        contents = {file.name: content for file, content in read_files([files[name] for name in new_names])}
        self._seen_objects &= files.keys()
        for name in files.keys() - contents.keys():
            yield name[:_KEY_LENGTH], [], False
        for name in new_names:
            content = contents.get(name)
            if isinstance(content, bytes):  # else the trial has ended meanwhile
                self._seen_objects.add(name)
                yield name[:_KEY_LENGTH], content.decode().splitlines(), name.endswith("-000000.jsonl")

    def _read_lines(self, key: str, lines: Iterable[str], version: int, *, is_new_file: bool) -> None:
        row = self.rows.get(key)
        if row is None or is_new_file:
            row = self.rows[key] = Row({}, begun_at_version=version)
        row.version = version
        for line in lines:
            entry = json.loads(line)
            if "config" in entry:
                row.values |= _description(entry)
            elif "evaluation" in entry:
                evaluation = entry["evaluation"]
                row.add_point(evaluation["step"], evaluation["score"], version)
                row.values |= {"status": "running", "step": evaluation["step"], "note": entry.get("note", "")}
                row.values["device"] = entry.get("device") or row.values.get("device", "")
            elif entry.get("event") in _STATUS_BY_EVENT:
                row.values["status"] = _STATUS_BY_EVENT[entry["event"]]
        scores = [score for _, score in row.points if score is not None]
        row.values["score"] = max(scores, default=None)

    # --- trials that have ended ------------------------------------------------------------------------------------

    def _refresh_records(self, version: int) -> tuple[set[str], bool]:
        """Read new records. Return the keys of all records, and whether there was a new one."""
        folder = self._run / "trials"
        signatures = _local_signatures(folder) if isinstance(folder, Path) else _remote_signatures(folder)
        new_keys = [key for key, signature in signatures.items() if self._signature_by_key.get(key) != signature]
        lost_keys = self._signature_by_key.keys() - signatures.keys()
        for key in lost_keys:
            del self._signature_by_key[key]
        for file, content in read_files([folder / f"{key}.json" for key in new_keys]):
            key = file.name[:_KEY_LENGTH]
            try:
                if isinstance(content, OSError):
                    raise content
                record = TrialRecord.from_dict(json.loads(content))
                self.unreadable_files.pop(file.name, None)
            except FileNotFoundError:
                continue  # it was set aside meanwhile, because its trial is tried again
            except READ_ERRORS as error:
                self.unreadable_files[file.name] = error_text(error)
            else:
                self.rows[key] = _row_of_record(record, version)
            self._signature_by_key[key] = signatures[key]
        return {*signatures}, bool(new_keys or lost_keys)


_STATUS_BY_EVENT = {"placed": "running", "displaced": "waiting", "paused": "paused"}


def _description(entry: Mapping[str, Any]) -> dict[str, Any]:
    config = entry["config"]
    return {
        **{name: entry[name] for name in ("key", "phase", "cell", "stratum", "started_at")},
        **_settings(config, config.get("metric", "accuracy")),
        "max_steps": config["max_steps"],
        "status": "waiting",
        "step": 0,
    }


def _settings(config: Mapping[str, Any], metric: str) -> dict[str, Any]:
    settings = {name: config.get(name) for name in ("method", "length", "rank", "learning_rate", "seed", "task")}
    return {**settings, "metric": METRICS.get(metric, metric)}


def _row_of_record(record: TrialRecord, version: int) -> Row:
    values = {
        **{name: getattr(record, name) for name in ("key", "phase", "cell", "stratum", "started_at", "status")},
        **_settings(record.config, record.metric),
        "max_steps": record.max_steps,
        "step": record.steps,
        "score": record.selection_score,
        "test_accuracy": record.test_accuracy,
        "wall_time_s": record.wall_time_s,
    }
    if record.error:
        traceback_lines = record.error.get("traceback", "").rstrip().splitlines()
        values["error"] = f"{record.error['type']}: {record.error['message']}"
        values["traceback"] = "\n".join(traceback_lines[-_TRACEBACK_LINES:])
    row = Row(values, begun_at_version=version, version=version)
    for evaluation in record.evaluations:
        row.points.append((evaluation.step, evaluation.score(record.metric)))
        row.point_versions.append(version)
    return row


def _new_chunks(folder: Path, read_by_file: dict[str, tuple[bytes, int]]) -> Iterator[tuple[str, list[str], bool]]:
    """Yield for each trial's file its key, its new lines, and whether the file is new.

    Args:
        read_by_file: the first bytes of each file and how much of it has been read, by its name. It is updated.
    """
    sizes = {}
    for entry in _scan(folder):
        if entry.name.endswith(".jsonl") and not entry.name.startswith("."):
            with contextlib.suppress(FileNotFoundError):
                sizes[entry.name] = entry.stat().st_size
    for name in read_by_file.keys() - sizes.keys():
        del read_by_file[name]
    for name, size in sizes.items():
        head, offset = read_by_file.get(name, (b"", 0))
        if size == offset:
            yield name[:_KEY_LENGTH], [], False
            continue
        try:
            with (folder / name).open("rb") as stream:
                new_head = stream.read(_HEAD_LENGTH)
                is_new = new_head != head
                offset = 0 if is_new else offset
                stream.seek(offset)
                content = stream.read()
        except FileNotFoundError:
            continue
        content = content[: content.rfind(b"\n") + 1]  # a line may still be being written
        read_by_file[name] = new_head, offset + len(content)
        yield name[:_KEY_LENGTH], content.decode().splitlines(), is_new


def _scan(folder: Path) -> list[Any]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _local_signatures(folder: Path) -> dict[str, Any]:
    """Return what changes when a record is replaced, by the records' keys."""
    signatures = {}
    for entry in _scan(folder):
        if _is_record(entry.name):
            try:
                signatures[entry.name[:_KEY_LENGTH]] = entry.stat().st_mtime_ns, entry.stat().st_size
            except FileNotFoundError:
                continue
    return signatures


def _remote_signatures(folder: Location) -> dict[str, Any]:
    """Return what changes when a record is replaced: how often it was set aside as failed. By key."""
    names = [file.name for file in folder.glob("*.json")]
    signatures = {name[:_KEY_LENGTH]: 0 for name in names if _is_record(name)}
    for name in names:
        if ".failed-" in name and name[:_KEY_LENGTH] in signatures:
            signatures[name[:_KEY_LENGTH]] += 1
    return signatures


def _is_record(name: str) -> bool:
    return len(name) == _KEY_LENGTH + len(".json") and name.endswith(".json")
