"""Results on disk: one immutable JSON record a trial, and what is derived from them.

<out>/<run>/manifest.json  baselines.json  audits.json  probe.json  trials.parquet
            trials/<key>.json  artifacts/<key>/  predictions/<key>.parquet  report/
            checkpoints/<key>-<step>.safetensors  of trials that are not over, or have failed
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from lopt import checkpoint
from lopt.config import TrialConfig, known_as
from lopt.errors import one_line
from lopt.metrics import Predictions
from lopt.places import Place, at_hand, check_replaces, move, place, redacted, remove_all, shown, write
from lopt.records import SCHEMA_VERSION, TrialRecord, dumps, now, provenance
from sweeps.results import checkpoint_file, lock
from sweeps.results.json_kinds import as_kind, check_audits, check_baselines, check_manifest
from sweeps.results.record_file import USE_NEWER, Damaged, checked_key, parse, read_all

FINAL = ("complete", "stopped", "diverged")
_OF_A_RUN = {"manifest.json", "trials", "checkpoints", "artifacts", "predictions"}  # each says that it has begun
_NAME, _LONGEST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*"), 100
_P = ParamSpec("_P")
_R = TypeVar("_R")


class StoreError(OSError):
    """Results cannot be read or written: one line with where, why and how to go on."""


def _reached(method: Callable[Concatenate[Store, _P], _R]) -> Callable[Concatenate[Store, _P], _R]:
    """The method, whose OSErrors are StoreErrors."""

    @functools.wraps(method)
    def reached(self: Store, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return method(self, *args, **kwargs)
        except StoreError:
            raise
        except OSError as error:
            raise self._broken(" ".join((error.strerror or str(error) or type(error).__name__).split())) from error

    return reached


class Store:
    """One run's results, in a folder or behind a URL (see `lopt.places`).

    out: the folder of all runs, as given. folder: the run's. places: where folders of tasks and backbones lie now, by
    field and name; trials that used them elsewhere are read as if they had lain there.
    """

    def __init__(self, out: str | Path, run: str) -> None:
        if len(run) > _LONGEST_NAME:
            raise ValueError(f"run name {run[:20] + '…'!r} has {len(run)} characters: give at most {_LONGEST_NAME}")
        if not _NAME.fullmatch(run):
            raise ValueError(f"run name {run!r}: give letters, digits, '.', '_' and '-', the first a letter or digit")
        folder = place(out) / run
        if isinstance(folder, Path):
            folder = folder.absolute()
            if not folder.resolve().is_relative_to(folder.parent.resolve()):
                raise ValueError(
                    f"{folder} leads to {folder.resolve()}, outside of {folder.parent}: give that as --out"
                )
        # A URL stays as given, with its credentials: processes elsewhere open it, too.
        self.out = str(folder.parent) if isinstance(folder, Path) else str(out)
        self.run, self.folder = run, folder
        self._hold = lock.Hold()
        self.places: dict[tuple[str, str], str] = {}

    def know(self, configs: Iterable[TrialConfig]) -> None:
        """Learns where the folders of these trials lie; of two with one name nothing."""
        found: dict[tuple[str, str], set[str]] = {}
        for config in configs:
            for name in ("task", "backbone"):
                place = getattr(config, name)
                if Path(place).is_absolute():
                    found.setdefault((name, known_as(place)), set()).add(place)
        self.places = {key: next(iter(places)) for key, places in found.items() if len(places) == 1}

    def _here(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A configuration with its folders where they lie now."""
        absolute = [n for n in ("task", "backbone") if isinstance(values.get(n), str) and Path(values[n]).is_absolute()]
        places = {name: self.places.get((name, known_as(values[name])), values[name]) for name in absolute}
        return {**values, **places}

    def _with_places(self, record: TrialRecord) -> TrialRecord:
        return replace(record, config=self._here(record.config)) if self.places else record

    def __str__(self) -> str:
        return shown(self.folder)

    @contextlib.contextmanager
    def held(self, command: list[str] | None = None) -> Iterator[None]:
        """Only one command at a time works on a run.

        Raises:
            ValueError: another one does, or the file system cannot replace a file.
            StoreError: nothing can be written there.
        """
        with contextlib.ExitStack() as stack:
            self._hold = self._held(stack, command or [])
            yield

    @_reached
    def _held(self, stack: contextlib.ExitStack, command: list[str]) -> lock.Hold:
        check_replaces(self.folder)
        return stack.enter_context(lock.held(self.folder, command))

    @_reached
    def check(self) -> None:
        """What whoever holds the run can rely on, once it has a manifest.

        Raises:
            StoreError: the run is no longer there, or no longer this command's.
        """
        if lost := self._hold.lost():
            raise self._broken(lost)
        if not (self.folder / "manifest.json").is_file():
            raise self._broken("the run's manifest.json is gone")

    def _broken(self, reason: str) -> StoreError:
        return StoreError(
            f"results in {self} cannot be kept: {redacted(reason)}. Mend that; the same command continues"
        )

    # --- manifest ----------------------------------------------------------------------------------------------

    @_reached
    def manifest(self) -> dict[str, Any] | None:
        """The manifest, or None before the first command.

        Raises:
            ValueError: it is damaged, or was written by a newer version of this program.
        """
        found: dict[str, Any] | None = self._json("manifest.json", check_manifest)
        version = (found or {}).get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            path = self.folder / "manifest.json"
            raise ValueError(f"{path}: of schema {version}; this program reads 1 to {SCHEMA_VERSION}; {USE_NEWER}")
        return found

    @_reached
    def write_manifest(
        self,
        *,
        status: str,
        space: Mapping[str, Any],
        identity: str,
        command: list[str],
        profile: str,
        elapsed_s: float = 0.0,
        left_out: Sequence[str] = (),
        titles: Mapping[str, str] | None = None,
    ) -> None:
        """Status is running, complete, interrupted, or stopped at a budget. `elapsed_s` is added to what earlier
        commands took. `left_out`: keys of trials that the space, which has changed, no longer has; they stay, and
        count nowhere. `titles`: of tasks by their names, for reports, which may be made where a task's folder is not;
        those of earlier commands stay."""
        before = self.manifest() or {}
        earlier = before.get("titles")
        content = {
            "schema_version": SCHEMA_VERSION,
            "run": self.run,
            "profile": profile,
            "status": status,
            "command": [redacted(word) for word in command],
            "started_at": before.get("started_at", now()),
            "updated_at": now(),
            "elapsed_s": round(before.get("elapsed_s", 0.0) + elapsed_s, 3),
            "identity": identity,
            "space": dict(space),
            "left_out": list(left_out),
            "titles": {**(earlier if isinstance(earlier, dict) else {}), **(titles or {})},
            "provenance": provenance(),
        }
        write(self.folder / "manifest.json", dumps(content).encode())

    def left_out(self) -> list[str]:
        """Keys of trials that count nowhere, as `write_manifest` was told."""
        return list((self.manifest() or {}).get("left_out", ()))

    @_reached
    def write_prediction(self, found: Mapping[str, Any]) -> None:
        """What the rest of the run will take, by `sweeps.forecast.probe`; and what it has taken, to compare later."""
        before = (self.manifest() or {}).get("elapsed_s", 0.0)
        content = {"prediction": dict(found), "elapsed_before_s": before, "made_at": now(), "provenance": provenance()}
        write(self.folder / "probe.json", dumps(content).encode())

    @_reached
    def write_baselines(self, baselines: list[dict[str, Any]]) -> None:
        """Zero-shot and majority-class accuracy of each backbone and task."""
        write(self.folder / "baselines.json", dumps(baselines).encode())

    @_reached
    def baselines(self) -> list[dict[str, Any]]:
        return self._json("baselines.json", check_baselines) or []

    def _json(self, name: str, check: Callable[[Any], None]) -> Any:
        """A file beside the records, None where there is none; ValueError when `check` raises one."""
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_bytes())
            check(found)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is damaged ({one_line(error)}): mend it, or give --name for a new run, --fresh to begin this "
                "one anew"
            ) from None
        return found

    def audits(self) -> dict[str, dict[str, float]]:
        """Trials that early stopping would have stopped, by their keys: step, and accuracy on the selection examples
        until then."""
        path = self.folder / "audits.json"
        try:
            found: dict[str, dict[str, float]] = json.loads(path.read_bytes())
            check_audits(found)
        except OSError:  # none yet
            return {}
        except (ValueError, RecursionError) as error:
            aside: Any = path.with_name(f"{path.name}.damaged")
            path.rename(aside)
            print(f"{path} is damaged ({one_line(error)}); set aside, as if no trial had been audited", flush=True)
            return {}
        return found

    @_reached
    def add_audit(self, record: TrialRecord) -> None:
        """Notes that a trial, of which this is the record so far, would have been stopped here."""
        found = {"step": record.steps, "selection_accuracy": record.selection_accuracy or 0.0}
        write(self.folder / "audits.json", dumps({**self.audits(), record.key: found}).encode())

    # --- records -----------------------------------------------------------------------------------------------

    def path(self, key: str) -> Place:
        return self.folder / "trials" / f"{checked_key(key)}.json"

    def artifact(self, key: str) -> Place:
        return self.folder / "artifacts" / checked_key(key)

    @_reached
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

    @_reached
    def move(self, records: Iterable[TrialRecord]) -> None:
        """Writes records again whose trials are now of other cells; nothing else of them has changed."""
        for record in records:
            write(self.path(record.key), dumps(record.to_dict()).encode())

    @_reached
    def adopt(self, record: TrialRecord, other: Store, key_there: str | None = None) -> None:
        """Makes another run's finished trial this run's: its files, which may have another key there, then its
        record."""
        key_there = key_there or record.key
        predictions = other.folder / "predictions" / f"{key_there}.parquet"
        if predictions.is_file():
            write(self.folder / "predictions" / f"{record.key}.parquet", predictions.read_bytes())
        with at_hand(other.artifact(key_there)) as made:
            if made.is_dir():
                self.write_artifact(record.key, made)
        self.write(record)

    @_reached
    def holds_a_run(self) -> bool:
        """Whether anything of a run is there, its manifest or not."""
        return any(found.name in _OF_A_RUN for found in self.folder.glob("*"))

    @_reached
    def put_aside(self) -> str | None:
        """Renames the run, with all that is in it, to make room for a new one of its name: `<run>-before-N`, returned;
        None when there is nothing to keep. What it holds may be damaged: nothing is read.

        Raises:
            ValueError: another command works on it.
        """
        if not self.holds_a_run():
            return None
        number = 1
        while (aside := self.folder.with_name(f"{self.run}-before-{number}")).exists():
            number += 1
        with self.held():
            move(self.folder, aside)
            (aside / ".holder").unlink(missing_ok=True)
        return aside.name

    @_reached
    def put_back(self, aside: str) -> bool:
        """Gives a run that was put aside its name again, where nothing has come in its place; whether it did."""
        if self.holds_a_run():
            return False
        with contextlib.suppress(OSError):
            move(self.folder.with_name(aside), self.folder)
            return True
        return False

    @_reached
    def write_artifact(self, key: str, made: Path) -> None:
        """Keeps the files of a folder; the description comes last."""
        for file in sorted(made.iterdir(), key=lambda file: (file.suffix == ".json", file.name)):
            write(self.artifact(key) / file.name, file.read_bytes())

    @_reached
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

    @_reached
    def records(self) -> list[TrialRecord]:
        """All records, oldest first. A damaged one becomes `<key>.json.damaged`, as if its trial had not run.

        Raises:
            ValueError: a record was written by a newer version of this program; nothing is touched.
        """
        found, damaged = read_all(self.folder / "trials")
        for path, why in damaged:
            path.rename(path.with_name(path.name + ".damaged"))
            print(f"{path} is damaged ({why}); set aside, as if its trial had not run", flush=True)
        return [self._with_places(record) for record in found]

    @_reached
    def peek(self) -> list[TrialRecord]:
        """The same of a run that another command may hold: nothing is touched, and damaged records are left out.

        Raises:
            ValueError: as `records`.
        """
        found, damaged = read_all(self.folder / "trials")
        for path, why in damaged:
            print(f"{path} is damaged ({why}); left out", flush=True)
        return [self._with_places(record) for record in found]

    @_reached
    def set_aside(self, record: TrialRecord) -> None:
        """Renames a failed record to `<key>.failed-N.json`; its trial runs again."""
        path: Any = self.path(record.key)
        number = 1
        while path.with_name(f"{record.key}.failed-{number}.json").exists():
            number += 1
        path.rename(path.with_name(f"{record.key}.failed-{number}.json"))

    @_reached
    def write_table(self) -> Place:
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
    def checkpoints(self) -> Place:
        return self.folder / "checkpoints"

    @_reached
    def read_checkpoint(self, key: str) -> bytes | None:
        """A trial's newest checkpoint, or None when there is none."""
        return checkpoint_file.read(self.checkpoints, checked_key(key))

    @_reached
    def write_checkpoint(self, key: str, step: int, content: bytes) -> None:
        """Writes a trial's checkpoint after so many steps; those after fewer go."""
        checkpoint_file.write_step(self.checkpoints, checked_key(key), step, content)

    @_reached
    def drop_checkpoints(self, key: str) -> None:
        """Takes a trial's checkpoints away: it is over, or they are damaged."""
        checkpoint_file.drop(self.checkpoints, checked_key(key))

    @_reached
    def interrupted(self) -> list[tuple[TrialConfig, str]]:
        """Search trials that have a checkpoint and no record, with the names of their cells, in the order of their
        keys. Damaged checkpoints are left out."""
        found = []
        for _, path in sorted(checkpoint_file.newest(self.checkpoints).items()):
            with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
                described = checkpoint.describe(path)
                config = TrialConfig.from_dict(self._here(as_kind("its settings", described["config"], dict)))
                if described["phase"] == "search" and not self.path(config.key).exists():
                    found.append((config, as_kind("cell", described["cell"], str)))
        return found

    @_reached
    def clear_checkpoints(self, *, complete: bool) -> None:
        """At the end of a command: all of them when the sweep is complete, but for those of failed trials; else the
        folder if it is empty."""
        folder = self.checkpoints
        if complete and not any(record.status == "failed" for record in self.records()):
            remove_all(folder)
        elif isinstance(folder, Path):
            with contextlib.suppress(OSError):
                folder.rmdir()
