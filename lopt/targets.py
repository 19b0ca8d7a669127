"""Reads what a row's answer is: its class, its number, and the group that it belongs to."""

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

from lopt.errors import short_repr
from lopt.tasks import Row, Task


def class_number(task: Task, value: Any) -> int | None:
    """Return the number of the class that a value gives by name or by number, or None if it gives none.

    If the task's answers are numbers, this is the class with the nearest number.
    """
    if task.class_numbers:
        return _nearest_class(task.class_numbers, value)
    has_numeric_class = _has_numeric_class(task.classes)
    if type(value) is int and 0 <= value < len(task.classes) and not has_numeric_class:  # fast path for most rows
        return value
    # As texts, null and NaN would match classes that are named "None" and "nan".
    if not isinstance(value, str | int | float) or value != value:
        return None
    text = str(value).strip()
    if isinstance(value, bool) and text not in task.classes:
        text = text.lower()  # as JSON writes it
    if text in task.classes:
        return task.classes.index(text)
    number = None if isinstance(value, bool) else _parse_number(text)
    if number is None:
        return None
    # If classes are named 1 to 5, the value 0 is not the first class. 1.0 is the class 1, because pandas writes whole
    # numbers in this form if a column has gaps.
    if has_numeric_class:
        equal_classes = [i for i, class_name in enumerate(task.classes) if _parse_number(class_name) == number]
        return equal_classes[0] if len(equal_classes) == 1 else None
    return int(number) if 0 <= number < len(task.classes) and number == int(number) else None


@lru_cache(maxsize=256)
def _parse_number(text: str) -> Decimal | None:
    """Return the number that a text spells in digits, with or without sign and point, or None for any other text."""
    return Decimal(text) if re.fullmatch(r"-?\d+(\.\d+)?", text) else None


@lru_cache(maxsize=32)
def _has_numeric_class(classes: tuple[str, ...]) -> bool:
    """Return whether the name of a class is a number. If so, a row gives its class by name and never by number."""
    return any(_parse_number(name) is not None for name in classes)


def _nearest_class(class_numbers: Sequence[float], value: Any) -> int | None:
    """Return the class with the nearest number; None if the value is not a number between the first and the last."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
    if not class_numbers[0] <= number <= class_numbers[-1]:
        return None
    return min(range(len(class_numbers)), key=lambda i: abs(class_numbers[i] - number))


def valid_labels(task: Task) -> str:
    """Return the valid labels of a task in words."""
    if task.class_numbers:
        return f"a number from {task.class_numbers[0]:g} to {task.class_numbers[-1]:g}"
    names = ", ".join(task.classes)
    return names if _has_numeric_class(task.classes) else f"{names}, or their numbers 0 to {len(task.classes) - 1}"


def find_group_fault(task: Task, row: Row) -> str:
    """Return why the row's group cannot be read, as a text that follows the row's number; empty for a good row."""
    for name in task.groups:
        if not isinstance(value := _field(row, name), str | int) or isinstance(value, bool):
            return f": `{name}`, which names the row's group, is {short_repr(value)}; give a whole number or a text"
    return ""


def group_numbers(task: Task, row: Row, numbers: dict[Any, int]) -> tuple[int, int]:
    """Return the numbers of the row's cluster and of its group. Groups of a split are counted from 0 in `numbers`."""
    names = tuple(_field(row, name) for name in task.groups)
    cluster, group = (numbers.setdefault(part, len(numbers)) for part in (names[:1], names))
    return cluster, group


def _field(row: Row, name: str) -> Any:
    """Return the value of a column, or of a field of a column (`column.field`); None if there is none."""
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
