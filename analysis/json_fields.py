"""Reads the fields of JSON objects. An error says in one line which field is wrong, and how."""

import math
from reprlib import repr as short_repr
from typing import Any

_TYPE_NAMES = {list: "a list", str: "a text", bool: "a Boolean", int: "a number", float: "a number", type(None): "null"}


def json_object(value: Any, expected: str) -> dict[str, Any]:
    """Return the content of a JSON file. Raise ValueError if it is not an object. `expected` says what the file should
    hold, such as "a record"."""
    if not isinstance(value, dict):
        type_name = _TYPE_NAMES.get(type(value), "something else")
        raise ValueError(f"not {expected}: it should be a JSON object, but is {type_name}")
    return value


# Each function below returns one entry of a JSON object. It raises a ValueError that names the entry if the entry has
# another type than the function returns.


def get_object(source: dict[str, Any], name: str) -> dict[str, Any]:
    """Return an object that must be there."""
    if not isinstance(value := source.get(name), dict):
        raise ValueError(f"`{name}` is {short_repr(value)}, not an object")
    return value


def get_optional_object(source: dict[str, Any], name: str) -> dict[str, Any]:
    """Return an object, or an empty one if it is missing."""
    return {} if source.get(name) is None else get_object(source, name)


def get_objects(source: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return a list of objects, or an empty list if it is missing."""
    return _get_list(source, name, dict, "objects")


def get_texts(source: dict[str, Any], name: str) -> list[str]:
    """Return a list of texts, or an empty list if it is missing."""
    return _get_list(source, name, str, "texts")


def _get_list(source: dict[str, Any], name: str, item_type: Any, items_name: str) -> list[Any]:
    value = [] if source.get(name) is None else source[name]
    if not isinstance(value, list) or not all(isinstance(item, item_type) for item in value):
        raise ValueError(f"`{name}` is {short_repr(value)}, not a list of {items_name}")
    return value


def get_text(source: dict[str, Any], name: str) -> str:
    """Return a text that must be there and must not be empty."""
    if not isinstance(value := source.get(name), str) or not value:
        raise ValueError(f"`{name}` is {short_repr(value)}, not a text")
    return value


def get_optional_text(source: dict[str, Any], name: str) -> str | None:
    """Return a text, or None if it is missing."""
    return None if source.get(name) is None else get_text(source, name)


def get_number(source: dict[str, Any], name: str) -> float | None:
    """Return a number, or None if it is missing, infinite or NaN."""
    value = source.get(name)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"`{name}` is {short_repr(value)}, not a number")
    return float(value)


def get_integer(source: dict[str, Any], name: str, minimum: int = 0) -> int | None:
    """Return a whole number of at least `minimum`, or None if `get_number` returns None."""
    if (value := get_number(source, name)) is None:
        return None
    if value < minimum or value != int(value):
        raise ValueError(f"`{name}` is {short_repr(source[name])}, not a whole number of {minimum} or more")
    return int(value)


def get_fraction(source: dict[str, Any], name: str) -> float | None:
    """Return a number in [0, 1], or None if `get_number` returns None."""
    if (value := get_number(source, name)) is not None and not 0 <= value <= 1:
        raise ValueError(f"`{name}` is {value}, not a fraction in [0, 1]")
    return value


def get_fractions(source: dict[str, Any], name: str) -> list[float]:
    """Return a list of numbers in [0, 1]; an empty list if it is missing."""
    numbers = _get_list(source, name, int | float, "numbers")
    if not all(0 <= number <= 1 for number in numbers):
        raise ValueError(f"`{name}` is {numbers}, not a list of fractions in [0, 1]")
    return numbers
