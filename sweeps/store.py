"""Results on disk: one immutable JSON record a trial, and what is derived from them.

<out>/<run>/manifest.json  baselines.json  audits.json  probe.json  trials.parquet
            trials/<key>.json  artifacts/<key>/  predictions/<key>.parquet  report/
            checkpoints/<key>.safetensors  of trials that are not over    begun.json  what these are
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
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
        return self._json("manifest.json", dict)

    def write_manifest(
        self,
        *,
        status: str,
        space: Mapping[str, Any],
        identity: str,
        command: list[str],
        profile: str,
        elapsed_s: float = 0.0,
    ) -> None:
        """Status is running, complete, interrupted, or stopped at a budget. `elapsed_s` is added to what earlier
        commands took."""
        before = self.manifest() or {}
        content = {
            "schema_version": SCHEMA_VERSION,
            "run": self.run,
            "profile": profile,
            "status": status,
            "command": command,
            "started_at": before.get("started_at", now()),
            "updated_at": now(),
            "elapsed_s": round(before.get("elapsed_s", 0.0) + elapsed_s, 3),
            "identity": identity,
            "space": dict(space),
            "provenance": provenance(),
        }
        write_atomically(self.folder / "manifest.json", dumps(content).encode())

    def write_prediction(self, found: Mapping[str, Any]) -> None:
        """What is left of the run will take, `sweeps.probe` says; with what it has taken so far, to compare later."""
        before = (self.manifest() or {}).get("elapsed_s", 0.0)
        content = {"prediction": dict(found), "elapsed_before_s": before, "made_at": now(), "provenance": provenance()}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "probe.json", dumps(content).encode())

    def write_baselines(self, baselines: list[dict[str, Any]]) -> None:
        """Zero-shot and majority-class accuracy of each backbone and task."""
        write_atomically(self.folder / "baselines.json", dumps(baselines).encode())

    def baselines(self) -> list[dict[str, Any]]:
        return self._json("baselines.json", list) or []

    def _json(self, name: str, kind: type) -> Any:
        """A file beside the records, None where there is none; ValueError when it does not hold a `kind`."""
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text())
            if not isinstance(found, kind):
                raise ValueError(f"it holds a {type(found).__name__}")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged ({error}): mend it, or give --name for a new run") from None
        return found

    def audits(self) -> dict[str, dict[str, float]]:
        """Trials that early stopping would have stopped, by their keys: step, and accuracy on the selection examples
        until then."""
        try:
            found = json.loads((self.folder / "audits.json").read_text())
        except (OSError, ValueError):  # none yet, or damaged: then they are not known as such
            return {}
        return found if isinstance(found, dict) else {}

    def add_audit(self, record: TrialRecord) -> None:
        """Notes that a trial, of which this is the record so far, would have been stopped here."""
        found = {"step": record.steps, "selection_accuracy": record.selection_accuracy or 0.0}
        write_atomically(self.folder / "audits.json", dumps({**self.audits(), record.key: found}).encode())

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

    def adopt(self, record: TrialRecord, other: Store) -> None:
        """Makes another run's finished trial this run's: its files, then its record."""
        predictions = Path("predictions", f"{record.key}.parquet")
        if (other.folder / predictions).is_file():
            write_atomically(self.folder / predictions, (other.folder / predictions).read_bytes())
        if other.artifact(record.key).is_dir():
            shutil.copytree(other.artifact(record.key), self.artifact(record.key), dirs_exist_ok=True)
        self.write(record)

    def put_aside(self) -> str | None:
        """Renames the run, with all that is in it, to make room for a new one of its name: `<run>-before-N`, returned;
        None when there is nothing to keep.

        Raises:
            ValueError: another command works on it.
        """
        if not self.folder.is_dir():
            return None
        number = 1
        while (aside := self.folder.with_name(f"{self.run}-before-{number}")).exists():
            number += 1
        with self.held():
            self.folder.rename(aside)
        return aside.name

    def write_begun(self, jobs: Iterable[Mapping[str, Any]]) -> None:
        """Jobs of trials that have begun and are not over: a sampler would not propose the same again."""
        write_atomically(self.folder / "begun.json", dumps([dict(job) for job in jobs]).encode())

    def begun(self) -> list[dict[str, Any]]:
        """Those that another command can go on with; their configurations name checkpoints."""
        path = self.folder / "begun.json"
        try:
            jobs = json.loads(path.read_text())
        except (OSError, ValueError):
            return []
        keys = [TrialConfig.from_dict(job["config"]).key for job in jobs]
        return [
            job
            for key, job in zip(keys, jobs, strict=True)
            if self.checkpoint(key).is_file() and not self.path(key).exists()
        ]

    def clear_checkpoints(self, *, complete: bool) -> None:
        """At the end of a command: all of them when the sweep is complete, else the folder if it is empty."""
        folder = self.folder / "checkpoints"
        if complete:
            shutil.rmtree(folder, ignore_errors=True)
            (self.folder / "begun.json").unlink(missing_ok=True)
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


def _parse(path: Path) -> TrialRecord:
    try:
        return TrialRecord.from_dict(json.loads(path.read_text()))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
