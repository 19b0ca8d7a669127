"""The record of one trial: its result, its configuration and its provenance. Tables and plots read it."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from lopt.field_types import Fraction, check_field_types, field_types
from lopt.migrations import LATER_SETTINGS, SCHEMA_VERSION, migrate

OWN_FIELDS = ("accuracy", "macro_f1")  # metrics that have fields of their own, which are older than other metrics
PHASES = ("search", "confirm")
STATUSES = ("complete", "stopped", "diverged", "failed")
# Fields that may differ when the same trial is trained twice.
MEASURED_FIELDS = ("wall_time_s", "train_time_s", "evaluation_time_s", "test_time_s", "peak_memory_bytes", "started_at",
            "provenance")  # fmt: skip
_CODE_FOLDERS = ("lopt", "sweeps", "analysis")
_RECORDED_PACKAGES = ("torch", "transformers", "tokenizers", "peft", "numpy", "ray", "optuna", "datasets", "pyarrow")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation on the held-out examples. Accuracies and shares are fractions, and losses are in nats.

    Attributes:
        step: number of updates before the evaluation.
        top_class_share: share of the examples that get the most frequent prediction.
        wall_time_s: seconds since the trial began.
        predictions: hash of the predicted classes; None in records of schema 1.
        selection_scores: values of the metrics that have no field of their own, by the metric's name.
    """

    step: int
    selection_accuracy: Fraction
    selection_loss: float
    train_loss: float
    top_class_share: Fraction
    wall_time_s: float
    selection_macro_f1: Fraction | None = None
    predictions: str | None = None
    selection_scores: dict[str, float] = field(default_factory=dict)

    def score(self, metric: str) -> float | None:
        """Return the value of a metric, or None if this evaluation does not have it."""
        return _score(self, "selection", metric)


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One complete, stopped, diverged or failed trial. Immutable; `to_dict` returns it as JSON.

    Attributes:
        selection_*: results of the evaluation on held-out data that is best by the configuration's metric. The prompt
            of this evaluation is kept.
        held_out_*: results of that prompt on the whole held-out part, for complete trials. None in records of schemas 1
            to 3.
        test_*: results of the saved prompt on the reported split, for trials of the confirm phase.
        held_out_scores, test_scores: values of the metrics that have no field of their own, by the metric's name. Empty
            in records of schemas 1 to 4.
        test_split_size: size of the whole split; test_n is smaller if a subset was scored.
        steps: number of updates of the start that was kept. abandoned_starts, abandoned_steps: number of the starts
            before it, which learnt nothing, and of their updates (`lopt.restarts`).
        truncated: number of texts that were cut to fit, for each part of the data (train, selection, test).
        tokens: number of prompt and text tokens trained on, without padding.
        wall_time_s: seconds since the trial began.
        train_time_s, evaluation_time_s, test_time_s: seconds on its device for its steps, for its evaluations on
            held-out data, and for the reported split. The time of a pass with several trials is divided among them in
            proportion to their tokens.
        peak_memory_bytes: most memory in use at once: by tensors on a GPU, by the process on a CPU. None if the trial
            shared passes.
        error: None, or type, message and traceback of the exception.
    """

    key: str
    phase: str
    status: str
    cell: str | None = None
    stratum: str | None = None
    config: dict[str, Any]
    width: int
    trainable_parameters: int
    stored_parameters: int
    materialised_parameters: int
    steps: int
    max_steps: int
    abandoned_starts: int = 0
    abandoned_steps: int = 0
    evaluations: tuple[Evaluation, ...] = ()
    selection_accuracy: Fraction | None = None
    selection_loss: float | None = None
    selection_step: int | None = None
    selection_n: int | None = None
    held_out_accuracy: Fraction | None = None
    held_out_macro_f1: Fraction | None = None
    held_out_loss: float | None = None
    held_out_n: int | None = None
    held_out_scores: dict[str, float] = field(default_factory=dict)
    test_accuracy: Fraction | None = None
    test_macro_f1: Fraction | None = None
    test_loss: float | None = None
    test_scores: dict[str, float] = field(default_factory=dict)
    test_n: int | None = None
    test_split: str | None = None
    test_split_size: int | None = None
    majority_accuracy: Fraction | None = None
    truncated: dict[str, int] = field(default_factory=dict)
    protocol: str = ""
    wall_time_s: float = 0.0
    train_time_s: float | None = None
    evaluation_time_s: float | None = None
    test_time_s: float | None = None
    peak_memory_bytes: int | None = None
    tokens: int = 0
    started_at: str = ""
    error: dict[str, str] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for name, value, valid_words in (("phase", self.phase, PHASES), ("status", self.status, STATUSES)):
            if value not in valid_words:
                raise ValueError(f"{name} is {value!r}; valid: {', '.join(valid_words)}")
        if self.error is not None and not {"type", "message"} <= {*self.error}:
            raise ValueError(f"`error` is {self.error!r}; it needs type and message")

    @property
    def metric(self) -> str:
        """The metric that selects the best evaluation and the best trial. Records without one used accuracy."""
        return str(self.config.get("metric", LATER_SETTINGS["metric"]))

    @property
    def selection_score(self) -> float | None:
        """The best value of `metric`; None before the first evaluation."""
        if self.metric == "accuracy":
            return self.selection_accuracy
        best_evaluations = (evaluation for evaluation in self.evaluations if evaluation.step == self.selection_step)
        return next((evaluation.score(self.metric) for evaluation in best_evaluations), None)

    @property
    def held_out_score(self) -> float | None:
        """The value of `metric` on the whole held-out part; None if it was not scored there."""
        return _score(self, "held_out", self.metric)

    @property
    def test_score(self) -> float | None:
        """The value of `metric` on the reported split; None if it was not scored there."""
        return _score(self, "test", self.metric)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialRecord:
        """Return the record whose `to_dict` returned `values`.

        Raises:
            NewerSchemaError: the schema is newer than this program.
            ValueError: a field is missing, unknown or of another type.
        """
        if not isinstance(values, Mapping):
            raise ValueError("a record is a JSON object")
        try:
            values = migrate(values)
            if not isinstance(values.get("evaluations", ()), list | tuple):
                raise ValueError(f"`evaluations` is {values['evaluations']!r}; it must be a list")
            evaluations = tuple(Evaluation(**fields) for fields in values.get("evaluations", ()))
            record = cls(**{**values, "evaluations": evaluations})
        except TypeError as error:
            raise ValueError(f"not a trial record: {str(error).replace('TrialRecord.__init__() ', '')}") from None
        for instance in (record, *evaluations):
            check_field_types(instance)
        return record

    def to_row(self) -> dict[str, Any]:
        """Return a row of `trials.parquet`: the main settings and the results. `error` becomes `type: message`."""
        row: dict[str, Any] = {}
        for name in _FIELD_COLUMNS:
            if name == "trainable_parameters":
                row |= {setting: self.config.get(setting) for setting in _CONFIG_COLUMNS}
            if name == "selection_accuracy":
                row |= {"metric": self.metric, "selection_score": self.selection_score}
            if name == "test_accuracy":
                row["test_score"] = self.test_score
            row[name] = getattr(self, name)
        row |= {f"test_{metric}": score for metric, score in self.test_scores.items()}
        return {**row, "error": f"{self.error['type']}: {self.error['message']}" if self.error else None}


def _score(result: Evaluation | TrialRecord, part: str, metric: str) -> float | None:
    """Return the value of a metric on a part of the data ("selection", "held_out" or "test"); None if it is missing."""
    if metric in OWN_FIELDS:
        value: float | None = getattr(result, f"{part}_{metric}")
        return value
    scores: dict[str, float] = getattr(result, f"{part}_scores")
    return scores.get(metric)


_CONFIG_COLUMNS = ("method", "backbone", "task", "length", "rank", "learning_rate", "seed", "batch_size", "optimizer",
             "dropout", "precision")  # fmt: skip
_OMITTED_FIELDS = ("width", "test_loss", "protocol", "schema_version")
_FIELD_COLUMNS = tuple(
    name for name, field_type in field_types(TrialRecord).items() if field_type.is_plain and name not in _OMITTED_FIELDS
)


def utc_now() -> str:
    """Return the current time in UTC, in ISO 8601 format, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def collect_provenance(**further_entries: Any) -> dict[str, Any]:
    """Return git commit, dirty flag, versions and hardware of this process, and the further entries."""
    return {**_describe_software(), "hardware": _describe_hardware(), **further_entries}


@lru_cache(maxsize=1)
def _describe_software() -> dict[str, Any]:
    import importlib.metadata  # imported here because it takes time and a report does not need it

    versions = {"python": platform.python_version()}
    for package in _RECORDED_PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**_git_state(), "versions": versions}


def _git_state() -> dict[str, Any]:
    """Return commit and dirty flag of the git checkout that holds this package; None for both if there is no checkout.

    The checkout is dirty if a tracked file of the three packages has changed, or if they hold a Python file that is
    not in a commit, such as a user's own method. Other files, such as data, results, a filled-in cluster.yaml or a
    page of the documentation, cannot change a result.
    """
    root = Path(__file__).resolve().parent.parent

    def run_git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if Path(run_git("rev-parse", "--show-toplevel")).resolve() != root:
            raise OSError("installed inside another repository")
        changed_files = run_git("status", "--porcelain", "--untracked-files=no", "--", *_CODE_FOLDERS)
        new_files = run_git(
            "ls-files", "--others", "--exclude-standard", "--", *(f"{name}/*.py" for name in _CODE_FOLDERS)
        )
        return {"commit": run_git("rev-parse", "HEAD"), "dirty": bool(changed_files or new_files)}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def _describe_hardware() -> dict[str, Any]:
    hardware: dict[str, Any] = {
        "node": platform.node(),  # the name of the machine
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
    }
    cpuinfo_file = Path("/proc/cpuinfo")
    if cpuinfo_file.is_file():
        cpu_entries = (
            line.partition(":") for line in cpuinfo_file.read_text().splitlines() if line[:10] == "model name"
        )
        hardware["cpu"] = next((name.strip() for _, _, name in cpu_entries), None)
    torch = sys.modules.get("torch")  # if this process uses it; a report or a plan must not import it
    if torch is not None:
        hardware["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            hardware["gpu"] = torch.cuda.get_device_name()
            hardware["gpu_memory_bytes"] = torch.cuda.get_device_properties(0).total_memory
    return hardware


def to_json(value: Any) -> str:
    """Return a value as JSON text as in the store: with sorted keys, indented, and without NaN (ValueError)."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"
