"""A run's folder: the command that works on it, and the files that describe the run as a whole.

If results cannot be written, the sweep ends with a `StoreError`, and no trial counts as failed because of it. What is
finished is kept, and the same command continues. No secret is written: secrets are removed from commands and URLs
(`lopt.locations`), and environment variables are left out.

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

from lopt.errors import to_one_line
from lopt.locations import check_can_replace, display_path, move_folder, redact_secrets, to_location, write_file
from lopt.records import SCHEMA_VERSION, TrialRecord, collect_provenance, to_json, utc_now
from sweeps.results import lock
from sweeps.results.json_types import check_audits, check_baselines, check_manifest
from sweeps.results.read_record import NEWER_VERSION_ADVICE

# If one of these is in the folder, the run has begun.
_RUN_FILES = {"manifest.json", "trials", "checkpoints", "artifacts", "predictions", "low_rank"}
_VALID_NAME, _MAX_NAME_LENGTH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*"), 100
_Class = TypeVar("_Class", bound=type)


class StoreError(OSError):
    """Results cannot be read or written. The message says in one line where, why, and how to go on."""


def raising_store_errors(cls: _Class) -> _Class:
    """Decorate a class, so that its methods raise a StoreError instead of an OSError."""

    def wrap(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(self: RunFolder, /, *args: Any, **kwargs: Any) -> Any:
            try:
                return method(self, *args, **kwargs)
            except StoreError:
                raise
            except OSError as error:
                reason = error.strerror or str(error) or type(error).__name__
                raise self.store_error(" ".join(reason.split())) from error

        return call

    for name, attribute in list(vars(cls).items()):
        if callable(attribute) and not name.startswith("__"):
            setattr(cls, name, wrap(attribute))
    return cls


@raising_store_errors
class RunFolder:
    """The folder of a run, in a file system or behind a URL (see `lopt.locations`).

    Attributes:
        out: The location of all runs.
        run: The name of the run.
        folder: The location of the run.

    Raises:
        ValueError: The name is not valid, or the folder is a link to a place outside of `out`.
    """

    def __init__(self, out: str | Path, run: str) -> None:
        if len(run) > _MAX_NAME_LENGTH:
            raise ValueError(f"run name {run[:20] + '…'!r} has {len(run)} characters: give at most {_MAX_NAME_LENGTH}")
        if not _VALID_NAME.fullmatch(run):
            raise ValueError(
                f"run name {run!r} is not valid: give a letter or digit, and then letters, digits, '.', '_' and '-'"
            )
        folder = to_location(out) / run
        if isinstance(folder, Path):
            folder = folder.absolute()
            if not folder.resolve().is_relative_to(folder.parent.resolve()):
                raise ValueError(
                    f"{folder} leads to {folder.resolve()}, outside of {folder.parent}: "
                    "give the real folder with --out and --name"
                )
        # A URL keeps its credentials here, because processes on other machines need them.
        self.out = str(folder.parent) if isinstance(folder, Path) else str(out)
        self.run, self.folder = run, folder
        self._hold = lock.Hold()

    def __str__(self) -> str:
        return display_path(self.folder)

    @contextlib.contextmanager
    def hold(self, command: list[str] | None = None) -> Iterator[None]:
        """Hold the run, so that no other command works on it.

        Raises:
            ValueError: Another command holds it, or the file system cannot replace a file.
            StoreError: The run cannot be written.
        """
        with contextlib.ExitStack() as stack:
            self._hold = self._take_hold(stack, command or [])
            yield

    def _take_hold(self, stack: contextlib.ExitStack, command: list[str]) -> lock.Hold:
        check_can_replace(self.folder)
        return stack.enter_context(lock.hold_run(self.folder, command))

    def check(self) -> None:
        """Check that this command still holds the run, and that the run's manifest is still there.

        Raises:
            StoreError: The command does not hold the run any more, or the manifest is gone.
        """
        if lost_reason := self._hold.lost_reason():
            raise self.store_error(lost_reason)
        if not (self.folder / "manifest.json").is_file():
            raise self.store_error("the run's manifest.json is gone")

    def store_error(self, reason: str) -> StoreError:
        """Return an error with the reason why results cannot be kept."""
        safe_reason = redact_secrets(reason)
        return StoreError(f"results in {self} cannot be kept: {safe_reason}. Fix that; the same command continues")

    # --- manifest ----------------------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any] | None:
        """Return the manifest, or None if no command has written one yet.

        Raises:
            ValueError: The manifest is damaged, or was written by a newer version of this program.
        """
        manifest: dict[str, Any] | None = self._read_json("manifest.json", check_manifest)
        version = (manifest or {}).get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            path = self.folder / "manifest.json"
            raise ValueError(
                f"{path} has schema {version}; this program reads 1 to {SCHEMA_VERSION}; {NEWER_VERSION_ADVICE}"
            )
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
        left_out_keys: Sequence[str] = (),
        titles: Mapping[str, str] | None = None,
    ) -> None:
        """Write the manifest. Margins that earlier commands declared are kept as `former_margins`.

        Args:
            status: "running", "complete", "interrupted", or "stopped" (by a budget).
            space: The space, as JSON.
            identity: A hash of everything that must not change during a run (`Space.identity`).
            elapsed_s: The time since this command last wrote the manifest. It is added to the time of the run so far.
            left_out_keys: Keys of trials that a changed space no longer has. Their records are kept, but not used.
            titles: Titles of tasks, by name, for a report on a machine without the folder of a task. Titles that
                earlier commands have written are kept.
        """
        earlier_manifest = self.manifest() or {}
        earlier_titles = earlier_manifest.get("titles")
        former_margins = list(earlier_manifest.get("former_margins", ()))
        if (earlier_margin := earlier_manifest.get("space", {}).get("margin")) not in (None, space.get("margin")):
            former_margins.append(earlier_margin)
        content = {
            "schema_version": SCHEMA_VERSION,
            "run": self.run,
            "profile": profile,
            "status": status,
            "command": [redact_secrets(word) for word in command],
            "started_at": earlier_manifest.get("started_at", utc_now()),
            "updated_at": utc_now(),
            "elapsed_s": round(earlier_manifest.get("elapsed_s", 0.0) + elapsed_s, 3),
            "identity": identity,
            "space": dict(space),
            "former_margins": former_margins,
            "left_out": list(left_out_keys),
            "titles": {**(earlier_titles if isinstance(earlier_titles, dict) else {}), **(titles or {})},
            "provenance": collect_provenance(),
        }
        write_file(self.folder / "manifest.json", to_json(content).encode())

    def left_out_keys(self) -> list[str]:
        """Return the keys of trials that are no longer used (see `write_manifest`)."""
        return list((self.manifest() or {}).get("left_out", ()))

    def write_prediction(self, prediction: Mapping[str, Any]) -> None:
        """Write the forecast of `sweeps.forecast.probe` for the rest of the run.

        The time of the run so far is also written, so that the forecast can later be compared with the time that the
        rest really took.
        """
        elapsed_before_s = (self.manifest() or {}).get("elapsed_s", 0.0)
        facts = {"elapsed_before_s": elapsed_before_s, "made_at": utc_now(), "provenance": collect_provenance()}
        write_file(self.folder / "probe.json", to_json({"prediction": dict(prediction), **facts}).encode())

    def write_baselines(self, baselines: list[dict[str, Any]]) -> None:
        """Write the zero-shot and majority-class accuracy of each backbone and task."""
        write_file(self.folder / "baselines.json", to_json(baselines).encode())

    def baselines(self) -> list[dict[str, Any]]:
        """Return the baselines, or an empty list if none are written. A damaged file raises a ValueError."""
        return self._read_json("baselines.json", check_baselines) or []

    def _read_json(self, name: str, check: Callable[[Any], None]) -> Any:
        """Return the content of a JSON file of the run, or None if there is no such file.

        Raises:
            ValueError: The file is damaged: it is not JSON, or `check` raises a ValueError.
        """
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_bytes())
            check(content)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is damaged ({to_one_line(error)}): repair it, give --name for a new run, or give --fresh to "
                "start this run over"
            ) from None
        return content

    def audits(self) -> dict[str, dict[str, float]]:
        """Return the audits, by the keys of their trials.

        An audit is about a trial that early stopping would have stopped. It has the "step" at which the trial would
        have been stopped, and its "selection_accuracy" up to that step. A damaged file is renamed, and counts as empty.
        """
        path = self.folder / "audits.json"
        try:
            audits: dict[str, dict[str, float]] = json.loads(path.read_bytes())
            check_audits(audits)
        except OSError:  # there is no file yet
            return {}
        except (ValueError, RecursionError) as error:
            new_path: Any = path.with_name(f"{path.name}.damaged")
            path.rename(new_path)
            note = f"renamed to {new_path.name}; the run continues without earlier audits"
            print(f"{path} is damaged ({to_one_line(error)}); {note}", flush=True)
            return {}
        return audits

    def add_audit(self, record: TrialRecord) -> None:
        """Add an audit: early stopping would have stopped the trial here. `record` is the trial's record so far."""
        audit = {"step": record.steps, "selection_accuracy": record.selection_accuracy or 0.0}
        write_file(self.folder / "audits.json", to_json({**self.audits(), record.key: audit}).encode())

    def contains_run(self) -> bool:
        """Return whether the folder contains at least one file or folder of a run."""
        return any(file.name in _RUN_FILES for file in self.folder.glob("*"))

    def put_aside(self) -> str | None:
        """Rename the run to `<run>-before-N`, to make room for a new run. No file is read, because any may be damaged.

        Returns:
            The new name, or None if there is no run to rename.

        Raises:
            ValueError: Another command works on the run.
        """
        if not self.contains_run():
            return None
        number = 1
        while (new_folder := self.folder.with_name(f"{self.run}-before-{number}")).exists():
            number += 1
        with self.hold():
            move_folder(self.folder, new_folder)
            (new_folder / ".holder").unlink(missing_ok=True)
        return new_folder.name

    def put_back(self, aside_name: str) -> bool:
        """Give a run that was put aside its old name, unless a new run has that name. Return whether this was done."""
        if self.contains_run():
            return False
        with contextlib.suppress(OSError):
            move_folder(self.folder.with_name(aside_name), self.folder)
            return True
        return False
