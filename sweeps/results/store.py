"""The results of a run: for each trial one JSON record, which never changes, and the files that belong to it.

<out>/<run>/trials.parquet                        a table of all records
            trials/<key>.json                     the records
            artifacts/<key>/  predictions/<key>.parquet
            low_rank/<key>.json                   how low-rank a confirmed full prompt is (lopt.low_rank)
            checkpoints/<key>-<step>.safetensors  for trials that have not ended, or have failed
            report/
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lopt import checkpoint
from lopt.config import TrialConfig, name_without_path
from lopt.locations import Location, local_copy, remove_folder, write_file
from lopt.low_rank import LowRank
from lopt.metrics import Predictions
from lopt.records import TrialRecord, to_json
from sweeps.results import checkpoint_file
from sweeps.results.json_types import check_type
from sweeps.results.read_record import DamagedRecordError, check_key, parse_record, read_records
from sweeps.results.run_folder import RunFolder, raising_store_errors

# Trials of these statuses do not run again. A failed trial can run again.
FINAL_STATUSES = ("complete", "stopped", "diverged")


@raising_store_errors
class Store(RunFolder):
    """The trials of a run.

    Attributes:
        current_folders: The current folders of tasks and backbones, by field ("task" or "backbone") and folder name.
            When a record names another folder of the same name, it is read with the current folder instead.
    """

    def __init__(self, out: str | Path, run: str) -> None:
        super().__init__(out, run)
        self.current_folders: dict[tuple[str, str], str] = {}

    def remember_folders(self, configs: Iterable[TrialConfig]) -> None:
        """Store the folders of the tasks and backbones of these configurations as `current_folders`.

        If two of them have the same name, neither is stored.
        """
        folders_by_field_and_name: dict[tuple[str, str], set[str]] = {}
        for config in configs:
            for field in ("task", "backbone"):
                folder = getattr(config, field)
                if Path(folder).is_absolute():
                    folders_by_field_and_name.setdefault((field, name_without_path(folder)), set()).add(folder)
        self.current_folders = {
            field_and_name: next(iter(folders))
            for field_and_name, folders in folders_by_field_and_name.items()
            if len(folders) == 1
        }

    def _with_current_folders(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a configuration with the current folders of its task and backbone."""
        folders = {}
        for field in ("task", "backbone"):
            folder = values.get(field)
            if isinstance(folder, str) and Path(folder).is_absolute():
                folders[field] = self.current_folders.get((field, name_without_path(folder)), folder)
        return {**values, **folders}

    def _relocate(self, record: TrialRecord) -> TrialRecord:
        """Return the record with the current folders of its task and backbone."""
        return replace(record, config=self._with_current_folders(record.config)) if self.current_folders else record

    # --- records -----------------------------------------------------------------------------------------------

    def path(self, key: str) -> Location:
        """Return the path of a trial's record, whether or not the record exists."""
        return self.folder / "trials" / f"{check_key(key)}.json"

    def artifact_folder(self, key: str) -> Location:
        """Return the folder of a trial's artifact, whether or not it exists."""
        return self.folder / "artifacts" / check_key(key)

    def low_rank_path(self, key: str) -> Location:
        """Return the path of the file that says how low-rank a trial's prompt is, whether or not it exists."""
        return self.folder / "low_rank" / f"{check_key(key)}.json"

    def read_low_rank(self, key: str) -> LowRank | None:
        """Return how low-rank a trial's prompt is, or None if its file is missing or damaged."""
        with contextlib.suppress(FileNotFoundError, ValueError, RecursionError):
            return LowRank.from_dict(json.loads(self.low_rank_path(key).read_bytes()))
        return None

    def write(
        self, record: TrialRecord, predictions: Predictions | None = None, low_rank: LowRank | None = None
    ) -> None:
        """Write the predictions, the `low_rank` file and then the record of a trial that has ended, and remove its
        checkpoints.

        The record is written last, so that all other files exist if it does. A failed trial keeps its checkpoint, and
        goes on from there when it is tried again.

        A record with a status in `FINAL_STATUSES` is not replaced, because a process that was taken for dead may finish
        the trial after another process has finished it.
        """
        earlier_record = self.read(record.key)
        if earlier_record is None or earlier_record.status not in FINAL_STATUSES:
            if predictions is not None:
                self._write_predictions(record.key, predictions)
            if low_rank is not None:
                write_file(self.low_rank_path(record.key), to_json(low_rank.to_dict()).encode())
            write_file(self.path(record.key), to_json(record.to_dict()).encode())
        if record.status in FINAL_STATUSES:
            self.drop_checkpoints(record.key)

    def write_moved(self, records: Iterable[TrialRecord]) -> None:
        """Rewrite the records of trials that now belong to other cells. Nothing else in these records has changed."""
        for record in records:
            write_file(self.path(record.key), to_json(record.to_dict()).encode())

    def adopt(self, record: TrialRecord, source: Store, source_key: str | None = None) -> None:
        """Copy a finished trial from the store of another run into this one: first its files, then its record.

        Args:
            source_key: The key of the trial in the other run, if that is not `record.key`.
        """
        source_key = source_key or record.key
        predictions = source.folder / "predictions" / f"{source_key}.parquet"
        if predictions.is_file():
            write_file(self.folder / "predictions" / f"{record.key}.parquet", predictions.read_bytes())
        with local_copy(source.artifact_folder(source_key)) as artifact:
            if artifact.is_dir():
                self.write_artifact(record.key, artifact)
        low_rank = source.read_low_rank(source_key)
        self.write(record, low_rank=low_rank and replace(low_rank, key=record.key))

    def write_artifact(self, key: str, folder: Path) -> None:
        """Copy the files of a folder into a trial's artifact. The JSON file that describes the artifact comes last."""
        for file in sorted(folder.iterdir(), key=lambda file: (file.suffix == ".json", file.name)):
            write_file(self.artifact_folder(key) / file.name, file.read_bytes())

    def read(self, key: str) -> TrialRecord | None:
        """Return the record of a trial, or None if there is none or it is damaged.

        Raises:
            ValueError: The record was written by a newer version of this program.
        """
        path = self.path(key)
        try:
            return self._relocate(parse_record(path, path.read_bytes()))
        except (FileNotFoundError, DamagedRecordError):
            return None

    def records(self) -> list[TrialRecord]:
        """Return all records, oldest first. A damaged one is renamed to `<key>.json.damaged`, and its trial runs again.

        Raises:
            ValueError: A record was written by a newer version of this program. In this case no file is changed.
        """
        records, damaged_files = read_records(self.folder / "trials")
        for path, error in damaged_files:
            path.rename(path.with_name(path.name + ".damaged"))
            print(f"{path} is damaged ({error}); renamed to {path.name}.damaged, and its trial runs again", flush=True)
        return [self._relocate(record) for record in records]

    def readable_records(self) -> list[TrialRecord]:
        """Return all records, oldest first, of a run that another command may hold.

        No file is changed. Damaged records are left out.

        Raises:
            ValueError: A record was written by a newer version of this program.
        """
        records, damaged_files = read_records(self.folder / "trials")
        for path, error in damaged_files:
            print(f"{path} is damaged ({error}); left out", flush=True)
        return [self._relocate(record) for record in records]

    def set_aside(self, record: TrialRecord) -> None:
        """Rename the record of a failed trial to `<key>.failed-N.json`, so that the trial can run again."""
        path: Any = self.path(record.key)
        number = 1
        while path.with_name(f"{record.key}.failed-{number}.json").exists():
            number += 1
        path.rename(path.with_name(f"{record.key}.failed-{number}.json"))

    def write_table(self) -> Location:
        """Write `trials.parquet`, a table of all records, and return its location."""
        import pandas

        path = self.folder / "trials.parquet"
        rows = [record.to_row() for record in self.records()]
        table = pandas.DataFrame(rows)
        for column in ("length", "rank", "selection_step", "selection_n", "test_n", "test_split_size"):
            if column in table:
                table[column] = table[column].astype("Int64")
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        write_file(path, buffer.getvalue())
        return path

    def _write_predictions(self, key: str, predictions: Predictions) -> None:
        import pyarrow
        import pyarrow.parquet

        class_indices = range(predictions.logits.shape[1])
        logits = {f"logit_{class_index}": predictions.logits[:, class_index] for class_index in class_indices}
        table = pyarrow.table(
            {
                "example_id": predictions.example_ids,
                "gold": predictions.gold,
                "predicted": predictions.predicted,
                **logits,
                **_optional_columns(predictions),
            }
        )
        buffer = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(table, buffer, compression="zstd")
        write_file(self.folder / "predictions" / f"{key}.parquet", buffer.getvalue().to_pybytes())

    # --- checkpoints -------------------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Location:
        return self.folder / "checkpoints"

    def read_checkpoint(self, key: str) -> bytes | None:
        """Return a trial's newest checkpoint, or None if there is none."""
        return checkpoint_file.read(self.checkpoints, check_key(key))

    def write_checkpoint(self, key: str, step: int, content: bytes) -> None:
        """Write a trial's checkpoint after `step` steps, and remove those with fewer steps."""
        checkpoint_file.write_step(self.checkpoints, check_key(key), step, content)

    def drop_checkpoints(self, key: str) -> None:
        """Remove a trial's checkpoints, because the trial has ended or they are damaged."""
        checkpoint_file.drop(self.checkpoints, check_key(key))

    def interrupted_trials(self) -> list[tuple[TrialConfig, str]]:
        """Return the configurations of search trials that have a checkpoint and no record, with their cells' names.

        They are sorted by key. Damaged checkpoints are left out.
        """
        interrupted_trials = []
        for _, path in sorted(checkpoint_file.newest_paths(self.checkpoints).items()):
            with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
                description = checkpoint.read_description(path)
                values = check_type("the configuration", description["config"], dict)
                config = TrialConfig.from_dict(self._with_current_folders(values))
                if description["phase"] == "search" and not self.path(config.key).exists():
                    interrupted_trials.append((config, check_type("`cell`", description["cell"], str)))
        return interrupted_trials

    def clear_checkpoints(self, *, complete: bool) -> None:
        """At the end of a command, remove all checkpoints if the sweep is complete and no trial has failed.

        Otherwise only remove their folder if it is empty.
        """
        folder = self.checkpoints
        if complete and not any(record.status == "failed" for record in self.records()):
            remove_folder(folder)
        elif isinstance(folder, Path):
            with contextlib.suppress(OSError):
                folder.rmdir()


def _optional_columns(predictions: Predictions) -> dict[str, Any]:
    """Return the columns that only some tasks have: groups, and true and predicted numbers."""
    columns: dict[str, Any] = {}
    if predictions.groups is not None:
        columns |= {"cluster": predictions.groups[:, 0], "group": predictions.groups[:, 1]}
    if predictions.gold_numbers is not None:
        columns |= {"gold_number": predictions.gold_numbers, "predicted_number": predictions.predicted_numbers}
    return columns
