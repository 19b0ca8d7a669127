"""What trackers tell of a trial: its settings, its curves and its final metrics, under the names that users expect.

A name with a slash is a group and a curve in it, as in TensorBoard, MLflow and Weights & Biases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lopt.config import TrialConfig, name_without_path
from lopt.locations import redact_secrets
from lopt.records import TrialRecord

# Fields of an evaluation that are no curves.
_NO_CURVES = {"step", "score", "predictions"}
_FINAL_FIELDS = (
    "selection_accuracy", "selection_loss", "held_out_accuracy", "held_out_macro_f1", "held_out_loss", "test_accuracy",
    "test_macro_f1", "test_loss", "trainable_parameters", "stored_parameters", "steps", "tokens", "wall_time_s",
    "peak_memory_bytes",
)  # fmt: skip


def plain_settings(config: TrialConfig) -> dict[str, bool | int | float | str | None]:
    """Return all settings of a trial as plain values; those of the method's options have a name with a dot."""
    settings: dict[str, bool | int | float | str | None] = {}
    for name, value in config.to_dict().items():
        entries = {f"{name}.{option}": item for option, item in value.items()} if isinstance(value, Mapping) else None
        for key, item in (entries if entries is not None else {name: value}).items():
            is_plain = item is None or isinstance(item, bool | int | float)
            settings[key] = item if is_plain else redact_secrets(str(item))
    return settings


def curve_metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of an evaluation, by the names of their curves, such as "selection/accuracy"."""
    return {
        _curve_name(name): float(value)
        for name, value in evaluation.items()
        if name not in _NO_CURVES and isinstance(value, int | float)
    }


def final_metrics(record: TrialRecord) -> dict[str, float]:
    """Return the numbers of a record that a trial has at its end, such as "final/test_accuracy"."""
    values = {"score": record.selection_score} | {name: getattr(record, name) for name in _FINAL_FIELDS}
    return {f"final/{name}": float(value) for name, value in values.items() if value is not None}


def tags_of(config: TrialConfig, space_name: str, phase: str) -> dict[str, str]:
    """Return the words by which a user looks for trials, by what they name."""
    task, backbone = name_without_path(config.task), name_without_path(config.backbone)
    return {"space": space_name, "phase": phase, "method": config.method, "task": task, "backbone": backbone}


def trial_title(config: TrialConfig, phase: str, cell: str) -> str:
    """Return the title of a trial in a list, such as "lopt1 n=4 r=2, lr 0.3, seed 0"."""
    seed_text = f", seed {config.seed}" if phase == "confirm" else ""
    return f"{cell}, lr {config.learning_rate:.3g}{seed_text}"


def failure_note(record: TrialRecord) -> str:
    """Return the type and message of the error of a failed trial; "" if it has not failed."""
    return redact_secrets(f"{record.error['type']}: {record.error['message']}") if record.error else ""


def _curve_name(name: str) -> str:
    for group in ("selection", "train"):
        if name.startswith(f"{group}_"):
            return f"{group}/{name.removeprefix(f'{group}_')}"
    return f"trial/{name}"
