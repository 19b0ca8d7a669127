"""A run's folder: who works on it, and the files that describe the run as a whole.

<out>/<run>/manifest.json  baselines.json  audits.json  probe.json  .lock or lock/
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lopt.errors import one_line
from lopt.locations import check_replaces, display_path, location, move, redacted, write
from lopt.records import SCHEMA_VERSION, TrialRecord, dumps, now, provenance
from sweeps.results import lock
from sweeps.results.json_types import check_audits, check_baselines, check_manifest
from sweeps.results.read_record import USE_NEWER

_OF_A_RUN = {"manifest.json", "trials", "checkpoints", "artifacts", "predictions"}  # each says that it has begun
_NAME, _LONGEST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*"), 100
_Class = TypeVar("_Class", bound=type)


class StoreError(OSError):
    """Results cannot be read or written: one line with where, why and how to go on."""


def raising_store_errors(cls: _Class) -> _Class:
    """The class, whose methods raise StoreErrors in place of OSErrors."""

    def wrapped(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(self: RunFolder, /, *args: Any, **kwargs: Any) -> Any:
            try:
                return method(self, *args, **kwargs)
            except StoreError:
                raise
            except OSError as error:
                reason = error.strerror or str(error) or type(error).__name__
                raise self.broken(" ".join(reason.split())) from error

        return call

    for name, member in list(vars(cls).items()):
        if callable(member) and not name.startswith("__"):
            setattr(cls, name, wrapped(member))
    return cls


@raising_store_errors
class RunFolder:
    """A run in a folder or behind a URL (see `lopt.locations`).

    out: the folder of all runs, as given. folder: the run's.
    """

    def __init__(self, out: str | Path, run: str) -> None:
        if len(run) > _LONGEST_NAME:
            raise ValueError(f"run name {run[:20] + '…'!r} has {len(run)} characters: give at most {_LONGEST_NAME}")
        if not _NAME.fullmatch(run):
            raise ValueError(f"run name {run!r}: give letters, digits, '.', '_' and '-', the first a letter or digit")
        folder = location(out) / run
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

    def __str__(self) -> str:
        return display_path(self.folder)

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

    def _held(self, stack: contextlib.ExitStack, command: list[str]) -> lock.Hold:
        check_replaces(self.folder)
        return stack.enter_context(lock.held(self.folder, command))

    def check(self) -> None:
        """What whoever holds the run can rely on, once it has a manifest.

        Raises:
            StoreError: the run is no longer there, or no longer this command's.
        """
        if lost := self._hold.lost():
            raise self.broken(lost)
        if not (self.folder / "manifest.json").is_file():
            raise self.broken("the run's manifest.json is gone")

    def broken(self, reason: str) -> StoreError:
        """An error that says why results cannot be kept."""
        return StoreError(
            f"results in {self} cannot be kept: {redacted(reason)}. Mend that; the same command continues"
        )

    # --- manifest ----------------------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, or None before the first command.

        Raises:
            ValueError: it is damaged, or was written by a newer version of this program.
        """
        manifest: dict[str, Any] | None = self._json("manifest.json", check_manifest)
        version = (manifest or {}).get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            path = self.folder / "manifest.json"
            raise ValueError(f"{path}: of schema {version}; this program reads 1 to {SCHEMA_VERSION}; {USE_NEWER}")
        return manifest

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

    def write_prediction(self, prediction: Mapping[str, Any]) -> None:
        """What the rest of the run will take, by `sweeps.forecast.probe`; and what it has taken, to compare later."""
        before = (self.manifest() or {}).get("elapsed_s", 0.0)
        about = {"elapsed_before_s": before, "made_at": now(), "provenance": provenance()}
        write(self.folder / "probe.json", dumps({"prediction": dict(prediction), **about}).encode())

    def write_baselines(self, baselines: list[dict[str, Any]]) -> None:
        """Zero-shot and majority-class accuracy of each backbone and task."""
        write(self.folder / "baselines.json", dumps(baselines).encode())

    def baselines(self) -> list[dict[str, Any]]:
        return self._json("baselines.json", check_baselines) or []

    def _json(self, name: str, check: Callable[[Any], None]) -> Any:
        """A file beside the records, None where there is none; ValueError when `check` raises one."""
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_bytes())
            check(content)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is damaged ({one_line(error)}): mend it, or give --name for a new run, --fresh to begin this "
                "one anew"
            ) from None
        return content

    def audits(self) -> dict[str, dict[str, float]]:
        """Trials that early stopping would have stopped, by their keys: step, and accuracy on the selection examples
        until then."""
        path = self.folder / "audits.json"
        try:
            audits: dict[str, dict[str, float]] = json.loads(path.read_bytes())
            check_audits(audits)
        except OSError:  # none yet
            return {}
        except (ValueError, RecursionError) as error:
            aside: Any = path.with_name(f"{path.name}.damaged")
            path.rename(aside)
            print(f"{path} is damaged ({one_line(error)}); set aside, as if no trial had been audited", flush=True)
            return {}
        return audits

    def add_audit(self, record: TrialRecord) -> None:
        """Notes that a trial, of which this is the record so far, would have been stopped here."""
        audit = {"step": record.steps, "selection_accuracy": record.selection_accuracy or 0.0}
        write(self.folder / "audits.json", dumps({**self.audits(), record.key: audit}).encode())

    def holds_a_run(self) -> bool:
        """Whether anything of a run is there, its manifest or not."""
        return any(file.name in _OF_A_RUN for file in self.folder.glob("*"))

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

    def put_back(self, aside: str) -> bool:
        """Gives a run that was put aside its name again, where nothing has come in its place; whether it did."""
        if self.holds_a_run():
            return False
        with contextlib.suppress(OSError):
            move(self.folder.with_name(aside), self.folder)
            return True
        return False
