"""Checks of the parts of a space. Each raises ValueError, and says what came, what is valid and how to mend it."""

from collections.abc import Mapping
from typing import Any

from lopt.config import CONFIG_FIELDS
from lopt.registry import did_you_mean

# A report has a reference for each backbone, task and number of shots. The seed differs between the trials of a cell,
# the revisions are filled in where trials run, and the last two fields have several values.
_NOT_IN_REFERENCE = ("task", "backbone", "shots", "seed", "data_revision", "model_revision", "options", "label_words")


_MAX_COUNT = 1_000_000


def check_count(name: str, count: object, minimum: int) -> None:
    """Raise ValueError unless `count` is a whole number from `minimum` to a million."""
    if isinstance(count, bool) or not isinstance(count, int) or not minimum <= count <= _MAX_COUNT:
        raise ValueError(f"{name} is {count!r}; give a whole number from {minimum} to {_MAX_COUNT:,}")


def check_margin(margin: object) -> None:
    """Raise ValueError unless `margin` is a fraction between 0 and 1."""
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 < margin < 1:
        raise ValueError(f"margin is {margin!r}; give a fraction above 0 and below 1, such as 0.01 for 1 pp")


def check_mapping(label: str, mapping: object) -> None:
    """Raise ValueError unless `mapping` is a mapping whose keys are names."""
    if not isinstance(mapping, Mapping) or not all(isinstance(name, str) for name in mapping):
        raise ValueError(f"{label} is {mapping!r}; give a mapping from names to values")


def check_one_line(label: str, text: object) -> None:
    """Raise ValueError unless `text` is text of one line."""
    if not isinstance(text, str) or not text.strip() or len(text.splitlines()) > 1:
        raise ValueError(f"{label} is {text!r}; give text of one line")


def check_reference(label: str, reference: Mapping[str, Any]) -> None:
    """Raise ValueError unless `reference` maps fields of TrialConfig to a text, a number or None."""
    check_mapping(label, reference)
    valid_names = [name for name in CONFIG_FIELDS if name not in _NOT_IN_REFERENCE]
    if not reference:
        raise ValueError(f"{label} is empty; give at least a method, such as {{'method': 'prompt_tuning'}}")
    for name, value in reference.items():
        if name not in valid_names:
            raise ValueError(f"{label} has {name!r}; valid: {', '.join(valid_names)}.{did_you_mean(name, valid_names)}")
        if not isinstance(value, str | int | float | None):
            raise ValueError(f"{label}: {name} is {value!r}; give one text or number")
        if isinstance(value, float) and value - value != 0:
            raise ValueError(f"{label}: {name} is {value!r}; give a finite number")
