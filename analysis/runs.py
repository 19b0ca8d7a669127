"""Runs of a results store: where they are, their manifests, and the other files beside the manifests.

A manifest that cannot be read is an error. Other files that cannot be read are named in `Run.unreadable_files`.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from analysis.baselines import Baseline, parse_baselines
from analysis.group_sequential import SequentialDesign
from analysis.json_fields import (
    get_fraction,
    get_fractions,
    get_integer,
    get_number,
    get_object,
    get_objects,
    get_optional_object,
    get_text,
    get_texts,
    json_object,
)
from analysis.methods import FULL_PROMPT
from analysis.records import check_schema
from lopt import commands
from lopt.locations import Location, RemoteLocation, display_path, read_files, redact_secrets, to_location
from lopt.low_rank import LowRank

Parsed = TypeVar("Parsed")
# What reading a damaged file may raise.
READ_ERRORS = (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError)
_DEFAULT_REFERENCE = {"method": FULL_PROMPT}  # of a run whose manifest does not declare a reference
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class ReportError(ValueError):
    """A mistake in the user's input. The message says in one line what came, what is valid and how to fix it."""


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """A cell of the space, as the manifest describes it. Length, rank and shots are None if not set.

    `config` holds the values that all trials of the cell share.
    """

    name: str
    method: str
    backbone: str
    task: str
    length: int | None
    rank: int | None
    shots: int | None
    trainable_parameters: int | None
    config: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The predicted duration of a run in seconds.

    When it was predicted, the run had taken `elapsed_before_s` and had finished `finished_count` trials.
    """

    low_s: float
    high_s: float
    elapsed_before_s: float
    finished_count: int
    trial_count: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run's manifest, and the files beside it that are not records.

    Attributes:
        rungs: steps at which early stopping may stop a trial.
        elapsed_s: how long all commands of the run took together.
        audits: the step at which early stopping would have stopped each audited trial, by the trial's key.
        low_rank: how low-rank the prompt of a confirmed trial is, by the trial's key.
        left_out_keys: keys of trials that the run's space no longer has. They are not counted anywhere.
        titles: titles of the tasks, by name. Runs of earlier versions have none.
        reference: the values of fields of TrialConfig by which the space declares its reference.
        margin: the margin (a fraction) that the space declares. Runs of earlier versions have none.
        former_margins: other margins that earlier commands of the run declared.
        design: the looks of a run that adds seeds until it is decided, else None.
        unreadable_files: damaged files beside the manifest, each as "name: reason".
    """

    path: Location
    manifest: dict[str, Any]
    cells: tuple[PlannedCell, ...]
    rungs: tuple[int, ...]
    elapsed_s: float | None
    audits: dict[str, int]
    low_rank: dict[str, LowRank]
    prediction: Prediction | None
    left_out_keys: frozenset[str]
    titles: dict[str, str]
    reference: dict[str, Any]
    margin: float | None
    former_margins: tuple[float, ...]
    design: SequentialDesign | None
    unreadable_files: tuple[str, ...]

    @property
    def name(self) -> str:
        return str(self.manifest.get("run") or self.path.name)

    @property
    def status(self) -> str:
        return str(self.manifest.get("status", "unknown"))

    @property
    def path_text(self) -> str:
        """The run's path as a user in the current folder would type it."""
        return display_path(self.path.resolve())


def find_runs(root: Location) -> list[Location]:
    """Return the runs under `root`, newest first. The time of a run is `updated_at` in its manifest, else the time of
    the manifest's file."""
    runs = [path for path in root.glob("*") if (path / "manifest.json").is_file()]
    return sorted(runs, key=_updated_at, reverse=True)


def find_named_runs(names: Sequence[str], root: Location) -> list[Location]:
    """Return the runs with these names, or the newest run if `names` is empty.

    A name is a folder, a URL, or the name of a folder under `root`.

    Raises:
        ReportError: there is no such run.
    """
    locations = {name: to_location(name) for name in names}
    all_are_remote = all(isinstance(path, RemoteLocation) for path in locations.values())
    known_runs = find_runs(root) if not names or not all_are_remote else []
    if not names and not known_runs:
        command = commands.command_line("sweep", "--space", "NAME")
        raise ReportError(f"there are no runs under {root}: start one with `{command}`, or give another --results")
    run_paths: list[Location] = [] if names else [known_runs[0]]
    for name, path in locations.items():
        candidates = [path] if isinstance(path, RemoteLocation) else [path, root / name]
        run_path = next((candidate for candidate in candidates if is_file(candidate / "manifest.json")), None)
        if run_path is None:
            places = " and ".join(map(str, candidates))
            valid_text = f"valid: {', '.join(known.name for known in known_runs)}, or a folder or URL"
            advice = valid_text if known_runs else f"{root} holds no runs: see --results"
            run = redact_secrets(name)
            raise ReportError(f"there is no run {run!r} (looked for manifest.json in {places}); {advice}")
        if run_path.resolve() not in [path.resolve() for path in run_paths]:
            run_paths.append(run_path)
    return run_paths


def is_file(path: Location) -> bool:
    """Return whether there is a file. Unlike `Path.is_file`, this raises no error for a name that no file can have."""
    return os.path.isfile(path) if isinstance(path, Path) else path.is_file()


def _read_json(file: Location) -> Any:
    return parse_json(file.read_bytes())


def parse_json(content: bytes) -> Any:
    """Parse JSON. In its texts, replace control characters and lone surrogates, because a report cannot hold them."""
    return _replace_unprintable(json.loads(content))


def _replace_unprintable(value: Any) -> Any:
    if isinstance(value, str):
        return _UNPRINTABLE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_replace_unprintable(item) for item in value]
    if isinstance(value, dict):
        return {_replace_unprintable(name): _replace_unprintable(item) for name, item in value.items()}
    return value


def load_run(path: Location) -> Run:
    """Read a run's manifest and the files beside it. Raises ReportError if the manifest cannot be read."""
    manifest_file = path / "manifest.json"
    try:
        manifest = json_object(_read_json(manifest_file), "a manifest")
        check_schema(manifest)
        space = get_object(manifest, "space")
        provenance = get_optional_object(manifest, "provenance")
        for name in ("hardware", "versions"):
            get_optional_object(provenance, name)
        rungs = space.get("rungs") or []
        if not isinstance(rungs, list) or not all(isinstance(rung, int) for rung in rungs):
            raise ValueError(f"`rungs` is {rungs!r}, not a list of whole numbers")
        titles = get_optional_object(manifest, "titles")
        unreadable_files: list[str] = []
        return Run(
            path=path,
            manifest=manifest,
            cells=tuple(_planned_cells(space)),
            rungs=tuple(rungs),
            elapsed_s=get_number(manifest, "elapsed_s"),
            audits=_read_optional_file(path / "audits.json", _parse_audits, unreadable_files) or {},
            low_rank=_load_low_rank(path, unreadable_files),
            prediction=_read_optional_file(path / "probe.json", _parse_prediction, unreadable_files),
            left_out_keys=frozenset(get_texts(manifest, "left_out")),
            titles={task: get_text(titles, task) for task in titles},
            reference=get_optional_object(space, "reference") or _DEFAULT_REFERENCE,
            margin=get_fraction(space, "margin") or None,
            former_margins=tuple(get_fractions(manifest, "former_margins")),
            design=SequentialDesign.from_dict(values)
            if (values := get_optional_object(space, "until_decided"))
            else None,
            unreadable_files=tuple(unreadable_files),
        )
    except READ_ERRORS as error:
        raise ReportError(
            f"{manifest_file} cannot be read ({error_text(error)}). It should be the JSON object that a sweep writes: "
            "repeat the sweep's command, which says how to fix it, or give another run"
        ) from None


def _read_optional_file(file: Location, parse: Callable[[Any], Parsed], errors: list[str]) -> Parsed | None:
    """Parse a file beside the manifest. Return None if it is missing or damaged. Add to `errors` why it is damaged."""
    try:
        return parse(_read_json(file)) if file.is_file() else None
    except READ_ERRORS as error:
        errors.append(f"{file.parent.name}/{file.name}: {error_text(error)}")
        return None


def _load_low_rank(run: Location, errors: list[str]) -> dict[str, LowRank]:
    """Read the files `low_rank/<key>.json` of a run. Add to `errors` why a file is damaged."""
    low_rank_by_key: dict[str, LowRank] = {}
    files = [file for file in (run / "low_rank").glob("*.json") if not file.name.startswith(".")]
    for file, content in read_files(sorted(files, key=lambda file: file.name)):
        try:
            if isinstance(content, OSError):
                raise content
            low_rank = LowRank.from_dict(parse_json(content))
            if file.name != f"{low_rank.key}.json":
                raise ValueError("its name and its key do not match")
            low_rank_by_key[low_rank.key] = low_rank
        except READ_ERRORS as error:
            errors.append(f"{run.name}/low_rank/{file.name}: {error_text(error)}")
    return low_rank_by_key


def _parse_prediction(content: Any) -> Prediction:
    """Return the prediction that `sweeps/run.py --probe` wrote."""
    probe = json_object(content, "a prediction")
    predicted = get_object(probe, "prediction")
    seconds = get_object(predicted, "seconds")
    values: dict[str, Any] = {
        "low_s": get_number(seconds, "low"),
        "high_s": get_number(seconds, "high"),
        "elapsed_before_s": get_number(probe, "elapsed_before_s"),
        "finished_count": get_integer(predicted, "trials_done"),
        "trial_count": get_integer(predicted, "trials"),
    }
    if None in values.values():
        raise ValueError("not a prediction: a number is missing")
    return Prediction(**values)


def _planned_cells(space: dict[str, Any]) -> list[PlannedCell]:
    """Return the cells of a space. A free search has none, because its only cell does not set a method."""
    base = get_optional_object(space, "base")
    cells_with_configs = [(cell, base | get_optional_object(cell, "config")) for cell in get_objects(space, "cells")]
    return [
        PlannedCell(
            name=str(cell.get("name") or ""),
            method=config["method"],
            backbone=config["backbone"],
            task=config["task"],
            length=get_integer(config, "length"),
            rank=get_integer(config, "rank"),
            shots=get_integer(config, "shots"),
            trainable_parameters=get_integer(cell, "trainable_parameters"),
            config=config,
        )
        for cell, config in cells_with_configs
        if all(isinstance(config.get(name), str) for name in ("method", "backbone", "task"))
    ]


def _parse_audits(content: Any) -> dict[str, int]:
    audits = json_object(content, "a list of audits by key")
    return {key: get_integer(get_object(audits, key), "step") or 0 for key in audits}


def load_baselines(file: Location) -> list[Baseline]:
    if not file.is_file():
        return []
    return parse_baselines(_read_json(file))


def _updated_at(run: Location) -> float:
    manifest_file = run / "manifest.json"
    try:
        return datetime.fromisoformat(_read_json(manifest_file)["updated_at"]).timestamp()
    except READ_ERRORS:
        return manifest_file.lstat().st_mtime if isinstance(manifest_file, Path) else 0.0


def error_text(error: Exception) -> str:
    """Say in one line why a file cannot be read."""
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON at line {error.lineno}, column {error.colno}"
    return " ".join(str(error).split()) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
