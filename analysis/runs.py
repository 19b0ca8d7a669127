"""Runs of a results store: where they lie, and each one's manifest with what stands beside it.

A manifest that cannot be read is an error; another file that cannot be is named in `Run.unreadable`.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from analysis.records import (
    check_schema,
    fraction,
    integer,
    json_object,
    mapping,
    mappings,
    number,
    optional_mapping,
    optional_text,
    text,
    texts,
)
from lopt import commands
from lopt.locations import Location, RemoteLocation, display_path, location, redacted

Parsed = TypeVar("Parsed")
# What a damaged file may raise.
UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class ReportError(ValueError):
    """Bad input of the user: says what came, what is valid and how to mend it, in one line."""


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """A cell of a table's space as the manifest has it; length, rank and shots are None where it says none."""

    name: str
    method: str
    backbone: str
    task: str
    length: int | None
    rank: int | None
    shots: int | None
    trainable_parameters: int | None


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """How long a run was predicted to take, in seconds, and where it stood then."""

    low_s: float
    high_s: float
    elapsed_before_s: float
    trials_done: int
    trials: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run's manifest, and the files beside it that are not records."""

    path: Location
    manifest: dict[str, Any]
    cells: tuple[PlannedCell, ...]
    rungs: tuple[int, ...]  # steps at which a trial may be stopped
    elapsed_s: float | None  # of all its commands together
    audits: dict[str, int]  # steps at which trials that went on would have been stopped, by their keys
    prediction: Prediction | None
    left_out: frozenset[str]  # keys of trials that count nowhere
    titles: dict[str, str]  # of tasks by their names; none of runs of earlier versions
    unreadable: tuple[str, ...]  # files beside the manifest that are damaged: "name: why"

    @property
    def name(self) -> str:
        return str(self.manifest.get("run") or self.path.name)

    @property
    def status(self) -> str:
        return str(self.manifest.get("status", "unknown"))

    @property
    def shown(self) -> str:
        """As a user in the current folder would type it."""
        return display_path(self.path.resolve())


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What a backbone does without any prompt on the reported split, and who always names the commonest class.
    Accuracies are fractions, of `test_n` examples."""

    backbone: str
    task: str
    test_split: str | None
    test_n: int | None
    zero_shot_accuracy: float | None
    majority_accuracy: float | None


def find_runs(root: Location) -> list[Location]:
    """The runs under `root`, newest first by the manifest's updated_at (else by the file's time)."""
    runs = [path for path in root.glob("*") if (path / "manifest.json").is_file()]
    return sorted(runs, key=_updated_at, reverse=True)


def resolve(names: Sequence[str], root: Location) -> list[Location]:
    """The runs named (a folder, a URL, or a name under `root`); none named: the newest.

    Raises ReportError where there is no such run.
    """
    direct = {name: location(name) for name in names}
    known = find_runs(root) if not names or not all(isinstance(p, RemoteLocation) for p in direct.values()) else []
    valid = f"valid: {', '.join(path.name for path in known)}, or a folder or URL"
    mend = valid if known else f"{root} holds no runs: see --results"
    if not names and not known:
        begin = commands.line("sweep", "--space", "NAME")
        raise ReportError(f"no runs under {root}: start one with `{begin}`, or give --results")
    paths: list[Location] = [] if names else [known[0]]
    for name, given in direct.items():
        tries = [given] if isinstance(given, RemoteLocation) else [given, root / name]
        path = next((path for path in tries if is_file(path / "manifest.json")), None)
        if path is None:
            looked = " and ".join(str(path) for path in tries)
            raise ReportError(f"no run {redacted(name)!r} (looked for manifest.json in {looked}); {mend}")
        if path.resolve() not in [other.resolve() for other in paths]:
            paths.append(path)
    return paths


def is_file(path: Location) -> bool:
    """Also of a name that no folder can have."""
    return os.path.isfile(path) if isinstance(path, Path) else path.is_file()


def _read(file: Location) -> Any:
    return parsed(file.read_bytes())


def parsed(content: bytes) -> Any:
    """JSON, its texts such as a report can hold: without half characters and control characters."""
    return _clean(json.loads(content))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _CONTROL.sub("\ufffd", value)
    if isinstance(value, list):
        return [_clean(each) for each in value]
    return {_clean(name): _clean(each) for name, each in value.items()} if isinstance(value, dict) else value


def load_run(path: Location) -> Run:
    file = path / "manifest.json"
    try:
        manifest = json_object(_read(file), "a manifest")
        check_schema(manifest)
        space = mapping(manifest, "space")
        provenance = optional_mapping(manifest, "provenance")
        for name in ("hardware", "versions"):
            optional_mapping(provenance, name)
        rungs = space.get("rungs") or []
        if not isinstance(rungs, list) or not all(isinstance(rung, int) for rung in rungs):
            raise ValueError(f"rungs is {rungs!r}, not a list of whole numbers")
        titles = optional_mapping(manifest, "titles")
        unreadable: list[str] = []
        return Run(
            path=path,
            manifest=manifest,
            cells=tuple(_planned(space)),
            rungs=tuple(rungs),
            elapsed_s=number(manifest, "elapsed_s"),
            audits=_beside(path / "audits.json", _audits, unreadable) or {},
            prediction=_beside(path / "probe.json", _prediction, unreadable),
            left_out=frozenset(texts(manifest, "left_out")),
            titles={task: text(titles, task) for task in titles},
            unreadable=tuple(unreadable),
        )
    except UNREADABLE as error:
        raise ReportError(
            f"{file} cannot be read ({why(error)}); it should be the JSON object that a sweep writes: "
            "repeat the sweep's command, which says how to mend it, or give another run"
        ) from None


def _beside(file: Location, parse: Callable[[Any], Parsed], unreadable: list[str]) -> Parsed | None:
    """What a file beside the manifest says; None where it is missing, or damaged, which is then noted."""
    try:
        return parse(_read(file)) if file.is_file() else None
    except UNREADABLE as error:
        unreadable.append(f"{file.parent.name}/{file.name}: {why(error)}")
        return None


def _prediction(content: Any) -> Prediction:
    """What `sweeps/run.py --probe` wrote."""
    probe = json_object(content, "a prediction")
    predicted = mapping(probe, "prediction")
    seconds = mapping(predicted, "seconds")
    values: dict[str, Any] = {
        "low_s": number(seconds, "low"),
        "high_s": number(seconds, "high"),
        "elapsed_before_s": number(probe, "elapsed_before_s"),
        "trials_done": integer(predicted, "trials_done"),
        "trials": integer(predicted, "trials"),
    }
    if None in values.values():
        raise ValueError("not a prediction: a number is missing")
    return Prediction(**values)


def _planned(space: dict[str, Any]) -> list[PlannedCell]:
    """The cells of a table's space; a free search has none with a method of its own."""
    base = optional_mapping(space, "base")
    planned = [(cell, base | optional_mapping(cell, "config")) for cell in mappings(space, "cells")]
    return [
        PlannedCell(
            name=str(cell.get("name") or ""),
            method=config["method"],
            backbone=config["backbone"],
            task=config["task"],
            length=integer(config, "length"),
            rank=integer(config, "rank"),
            shots=integer(config, "shots"),
            trainable_parameters=integer(cell, "trainable_parameters"),
        )
        for cell, config in planned
        if all(isinstance(config.get(name), str) for name in ("method", "backbone", "task"))
    ]


def _audits(content: Any) -> dict[str, int]:
    audits = json_object(content, "a list of audits by key")
    return {key: integer(mapping(audits, key), "step") or 0 for key in audits}


def load_baselines(file: Location) -> list[Baseline]:
    if not file.is_file():
        return []
    content = _read(file)
    if not isinstance(content, list):
        raise ValueError("not a list of baselines")
    return [
        Baseline(
            backbone=text(each, "backbone"),
            task=text(each, "task"),
            test_split=optional_text(each, "test_split"),
            test_n=integer(each, "test_n"),
            zero_shot_accuracy=fraction(each, "zero_shot_accuracy"),
            majority_accuracy=fraction(each, "majority_accuracy"),
        )
        for each in mappings({"baselines": content}, "baselines")
    ]


def _updated_at(run: Location) -> float:
    file = run / "manifest.json"
    try:
        return datetime.fromisoformat(_read(file)["updated_at"]).timestamp()
    except UNREADABLE:
        return file.lstat().st_mtime if isinstance(file, Path) else 0.0


def why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON at line {error.lineno}, column {error.colno}"
    return " ".join(str(error).split()) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
