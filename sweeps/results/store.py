"""Results on disk: one immutable JSON record a trial, and what is derived from them.

<out>/<run>/trials.parquet
            trials/<key>.json  artifacts/<key>/  predictions/<key>.parquet  report/
            checkpoints/<key>-<step>.safetensors  of trials that are not over, or have failed
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lopt import checkpoint
from lopt.config import TrialConfig, known_as
from lopt.locations import Location, local_copy, remove_all, write
from lopt.metrics import Predictions
from lopt.records import TrialRecord, dumps
from sweeps.results import checkpoint_file
from sweeps.results.json_types import as_kind
from sweeps.results.read_record import Damaged, checked_key, parse, read_all
from sweeps.results.run_folder import RunFolder, raising_store_errors

FINAL = ("complete", "stopped", "diverged")


@raising_store_errors
class Store(RunFolder):
    """A run's trials. places: where folders of tasks and backbones lie now, by field and name; trials that used them
    elsewhere are read as if they had lain there."""

    def __init__(self, out: str | Path, run: str) -> None:
        super().__init__(out, run)
        self.places: dict[tuple[str, str], str] = {}

    def know(self, configs: Iterable[TrialConfig]) -> None:
        """Learns where the folders of these trials lie; of two with one name nothing."""
        known: dict[tuple[str, str], set[str]] = {}
        for config in configs:
            for name in ("task", "backbone"):
                folder = getattr(config, name)
                if Path(folder).is_absolute():
                    known.setdefault((name, known_as(folder)), set()).add(folder)
        self.places = {key: next(iter(places)) for key, places in known.items() if len(places) == 1}

    def _here(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A configuration with its folders where they lie now."""
        absolute = [n for n in ("task", "backbone") if isinstance(values.get(n), str) and Path(values[n]).is_absolute()]
        places = {name: self.places.get((name, known_as(values[name])), values[name]) for name in absolute}
        return {**values, **places}

    def _with_places(self, record: TrialRecord) -> TrialRecord:
        return replace(record, config=self._here(record.config)) if self.places else record

    # --- records -----------------------------------------------------------------------------------------------

    def path(self, key: str) -> Location:
        return self.folder / "trials" / f"{checked_key(key)}.json"

    def artifact(self, key: str) -> Location:
        return self.folder / "artifacts" / checked_key(key)

    def write(self, record: TrialRecord, predictions: Predictions | None = None) -> None:
        """Writes predictions first: a record's presence says that everything of the trial is there. Its checkpoints,
        now of no use, go; a failed trial keeps its own, and goes on from it when it is tried again.

        A trial is finished once: where it has ended otherwise than by failure, its record stays as it is. A process
        that was taken for dead may come to the end of a trial that another has finished.
        """
        earlier = self.read(record.key)
        if earlier is None or earlier.status not in FINAL:
            if predictions is not None:
                self._write_predictions(record.key, predictions)
            write(self.path(record.key), dumps(record.to_dict()).encode())
        if record.status in FINAL:
            self.drop_checkpoints(record.key)

    def move(self, records: Iterable[TrialRecord]) -> None:
        """Writes records again whose trials are now of other cells; nothing else of them has changed."""
        for record in records:
            write(self.path(record.key), dumps(record.to_dict()).encode())

    def adopt(self, record: TrialRecord, other: Store, key_there: str | None = None) -> None:
        """Makes another run's finished trial this run's: its files, which may have another key there, then its
        record."""
        key_there = key_there or record.key
        predictions = other.folder / "predictions" / f"{key_there}.parquet"
        if predictions.is_file():
            write(self.folder / "predictions" / f"{record.key}.parquet", predictions.read_bytes())
        with local_copy(other.artifact(key_there)) as artifact:
            if artifact.is_dir():
                self.write_artifact(record.key, artifact)
        self.write(record)

    def write_artifact(self, key: str, folder: Path) -> None:
        """Keeps the files of a folder; the description comes last."""
        for file in sorted(folder.iterdir(), key=lambda file: (file.suffix == ".json", file.name)):
            write(self.artifact(key) / file.name, file.read_bytes())

    def read(self, key: str) -> TrialRecord | None:
        """The record of one trial, or None when there is none, or a damaged one.

        Raises:
            ValueError: it was written by a newer version of this program.
        """
        path = self.path(key)
        try:
            return self._with_places(parse(path, path.read_bytes()))
        except (FileNotFoundError, Damaged):
            return None

    def records(self) -> list[TrialRecord]:
        """All records, oldest first. A damaged one becomes `<key>.json.damaged`, as if its trial had not run.

        Raises:
            ValueError: a record was written by a newer version of this program; nothing is touched.
        """
        records, damaged = read_all(self.folder / "trials")
        for path, why in damaged:
            path.rename(path.with_name(path.name + ".damaged"))
            print(f"{path} is damaged ({why}); set aside, as if its trial had not run", flush=True)
        return [self._with_places(record) for record in records]

    def peek(self) -> list[TrialRecord]:
        """The same of a run that another command may hold: nothing is touched, and damaged records are left out.

        Raises:
            ValueError: as `records`.
        """
        records, damaged = read_all(self.folder / "trials")
        for path, why in damaged:
            print(f"{path} is damaged ({why}); left out", flush=True)
        return [self._with_places(record) for record in records]

    def set_aside(self, record: TrialRecord) -> None:
        """Renames a failed record to `<key>.failed-N.json`; its trial runs again."""
        path: Any = self.path(record.key)
        number = 1
        while path.with_name(f"{record.key}.failed-{number}.json").exists():
            number += 1
        path.rename(path.with_name(f"{record.key}.failed-{number}.json"))

    def write_table(self) -> Location:
        """Derives `trials.parquet` from the records."""
        import pandas

        path = self.folder / "trials.parquet"
        rows = [record.flat() for record in self.records()]
        table = pandas.DataFrame(rows)
        for column in ("length", "rank", "selection_step", "selection_n", "test_n", "test_split_size"):
            if column in table:
                table[column] = table[column].astype("Int64")
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        write(path, buffer.getvalue())
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
        write(self.folder / "predictions" / f"{key}.parquet", buffer.getvalue().to_pybytes())

    # --- checkpoints -------------------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Location:
        return self.folder / "checkpoints"

    def read_checkpoint(self, key: str) -> bytes | None:
        """A trial's newest checkpoint, or None when there is none."""
        return checkpoint_file.read(self.checkpoints, checked_key(key))

    def write_checkpoint(self, key: str, step: int, content: bytes) -> None:
        """Writes a trial's checkpoint after so many steps; those after fewer go."""
        checkpoint_file.write_step(self.checkpoints, checked_key(key), step, content)

    def drop_checkpoints(self, key: str) -> None:
        """Takes a trial's checkpoints away: it is over, or they are damaged."""
        checkpoint_file.drop(self.checkpoints, checked_key(key))

    def interrupted(self) -> list[tuple[TrialConfig, str]]:
        """Search trials that have a checkpoint and no record, with the names of their cells, in the order of their
        keys. Damaged checkpoints are left out."""
        interrupted = []
        for _, path in sorted(checkpoint_file.newest(self.checkpoints).items()):
            with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
                described = checkpoint.describe(path)
                config = TrialConfig.from_dict(self._here(as_kind("its settings", described["config"], dict)))
                if described["phase"] == "search" and not self.path(config.key).exists():
                    interrupted.append((config, as_kind("cell", described["cell"], str)))
        return interrupted

    def clear_checkpoints(self, *, complete: bool) -> None:
        """At the end of a command: all of them when the sweep is complete, but for those of failed trials; else the
        folder if it is empty."""
        folder = self.checkpoints
        if complete and not any(record.status == "failed" for record in self.records()):
            remove_all(folder)
        elif isinstance(folder, Path):
            with contextlib.suppress(OSError):
                folder.rmdir()
