"""Results on disk: one immutable JSON record a trial, and what is derived from them.

<out>/<run>/manifest.json  baselines.json  trials.parquet
            trials/<key>.json  artifacts/<key>/  predictions/<key>.parquet  report/
            checkpoints/<key>.safetensors  of trials that are not over
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lopt.config import TrialConfig
from lopt.files import write_atomically
from lopt.metrics import Predictions
from lopt.records import SCHEMA_VERSION, NewerSchemaError, TrialRecord, dumps, flatten, now, provenance

FINAL = ("complete", "stopped", "diverged")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Store:
    """One run's results."""

    def __init__(self, out: str | Path, run: str) -> None:
        if not _NAME.fullmatch(run):
            raise ValueError(f"run name {run!r}: give letters, digits, '.', '_' and '-', the first a letter or digit")
        self.run, self.folder = run, (Path(out) / run).absolute()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Only one command at a time works on a run.

        Raises:
            ValueError: another one does.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise ValueError(
                f"run {self.run!r} is being worked on by another command: wait for it, or give --name"
            ) from None
        try:
            yield
        finally:
            lock.release()

    # --- manifest ----------------------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, or None before the first command.

        Raises:
            ValueError: it is damaged.
        """
        path = self.folder / "manifest.json"
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is damaged ({error}): mend it, or give --name for a new run") from None

    def write_manifest(
        self, *, status: str, space: Mapping[str, Any], identity: str, command: list[str], profile: str
    ) -> None:
        """Status is running, complete, interrupted, or stopped at a budget."""
        before = self.manifest() or {}
        content = {
            "schema_version": SCHEMA_VERSION,
            "run": self.run,
            "profile": profile,
            "status": status,
            "command": command,
            "started_at": before.get("started_at", now()),
            "updated_at": now(),
            "identity": identity,
            "space": dict(space),
            "provenance": provenance(),
        }
        write_atomically(self.folder / "manifest.json", dumps(content).encode())

    def write_baselines(self, baselines: list[dict[str, Any]]) -> None:
        """Zero-shot and majority-class accuracy of each backbone and task."""
        write_atomically(self.folder / "baselines.json", dumps(baselines).encode())

    def baselines(self) -> list[dict[str, Any]]:
        path = self.folder / "baselines.json"
        return json.loads(path.read_text()) if path.is_file() else []

    # --- records -----------------------------------------------------------------------------------------------

    def path(self, key: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]{16}", key):
            raise ValueError(f"trial key {key!r}: 16 hexadecimal digits are valid")
        return self.folder / "trials" / f"{key}.json"

    def artifact(self, key: str) -> Path:
        self.path(key)
        return self.folder / "artifacts" / key

    def checkpoint(self, key: str) -> Path:
        self.path(key)
        return self.folder / "checkpoints" / f"{key}.safetensors"

    def write(self, record: TrialRecord, predictions: Predictions | None = None) -> None:
        """Writes predictions first: a record's presence says that everything of the trial is there. Its checkpoint,
        now of no use, goes."""
        if predictions is not None:
            self._write_predictions(record.key, predictions)
        write_atomically(self.path(record.key), dumps(record.to_dict()).encode())
        self.checkpoint(record.key).unlink(missing_ok=True)

    def interrupted(self) -> list[tuple[TrialConfig, str]]:
        """Search trials that have a checkpoint and no record, with the names of their cells, in the order of their
        keys. Damaged checkpoints are left out."""
        found = []
        for path in sorted((self.folder / "checkpoints").glob("*.safetensors")):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                described = describe_checkpoint(path)
                config = TrialConfig.from_dict(described["config"])
                if described["phase"] == "search" and not self.path(config.key).exists():
                    found.append((config, described["cell"]))
        return found

    def clear_checkpoints(self, *, complete: bool) -> None:
        """At the end of a command: all of them when the sweep is complete, else the folder if it is empty."""
        folder = self.folder / "checkpoints"
        if complete:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def read(self, key: str) -> TrialRecord | None:
        """The record of one trial, or None when there is none."""
        path = self.path(key)
        return _parse(path) if path.is_file() else None

    def records(self) -> list[TrialRecord]:
        """All records, oldest first. A damaged one becomes `<key>.json.damaged`, as if its trial had not run.

        Raises:
            ValueError: a record was written by a newer version of this program; nothing is touched.
        """
        found = []
        for path in sorted((self.folder / "trials").glob("*.json")):
            if not re.fullmatch(r"[0-9a-f]{16}\.json", path.name):
                continue  # a record set aside
            try:
                found.append(_parse(path))
            except NewerSchemaError as error:
                raise ValueError(f"{path}: {error}; use the version of this program that wrote the run") from None
            except ValueError as error:
                path.rename(path.with_name(path.name + ".damaged"))
                print(f"{path} is damaged ({error}); set aside, as if its trial had not run", flush=True)
        return sorted(found, key=lambda r: (r.started_at, r.key))

    def set_aside(self, record: TrialRecord) -> None:
        """Renames a failed record to `<key>.failed-N.json`; its trial runs again."""
        path, number = self.path(record.key), 1
        while path.with_name(f"{record.key}.failed-{number}.json").exists():
            number += 1
        path.rename(path.with_name(f"{record.key}.failed-{number}.json"))

    def write_table(self) -> Path:
        """Derives `trials.parquet` from the records."""
        import pandas

        path = self.folder / "trials.parquet"
        rows = [flatten(record.to_dict()) for record in self.records()]
        scratch = path.with_name(".trials.parquet.new")
        table = pandas.DataFrame(rows)
        for column in ("length", "rank", "selection_step", "selection_n", "test_n", "test_split_size"):
            if column in table:
                table[column] = table[column].astype("Int64")
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(scratch, index=False)
        os.replace(scratch, path)
        return path

    def _write_predictions(self, key: str, predictions: Predictions) -> None:
        import pyarrow
        import pyarrow.parquet

        logits = {f"logit_{c}": predictions.logits[:, c] for c in range(predictions.logits.shape[1])}
        table = pyarrow.table(
            {
                "example_id": predictions.example_ids,
                "gold": predictions.gold,
                "predicted": predictions.predicted,
                **logits,
            }
        )
        buffer = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(table, buffer, compression="zstd")
        write_atomically(self.folder / "predictions" / f"{key}.parquet", buffer.getvalue().to_pybytes())


def describe_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, read without torch: key, config, phase, cell, step, evaluations, ..."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return json.loads(header["__metadata__"]["trial"])


def _parse(path: Path) -> TrialRecord:
    try:
        return TrialRecord.from_dict(json.loads(path.read_text()))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"not JSON: {error}") from None
