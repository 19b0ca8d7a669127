"""The values of the command line's options, from the texts that a user gives."""

import argparse
import contextlib
import re
from collections.abc import Callable


def tracker_name(name: str) -> str:
    """Check that there is a tracker of this name, and return the name."""
    from sweeps import trackers

    try:
        return trackers.get(name).name
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 999,999,999")
    return int(text)


def _make_number_parser(kind: str, is_valid: Callable[[float], bool]) -> Callable[[str], float]:
    """Return a function that parses a number. The error for any other text says that the text is not a `kind`."""

    def parse_number(text: str) -> float:
        with contextlib.suppress(ValueError):
            value = float(text)
            if is_valid(value):
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not a {kind}")

    return parse_number


price = _make_number_parser("price above 0", lambda value: 0 < value < float("inf"))
hours = _make_number_parser("number of hours above 0", lambda value: 0 < value < float("inf"))
_parse_percentage_points = _make_number_parser(
    "margin: give percentage points above 0 and below 100, such as 1", lambda value: 0 < value < 100
)
share = _make_number_parser("share from 0 to 1", lambda value: 0 <= value <= 1)


def margin(text: str) -> float:
    """Return the margin as a fraction; the text has percentage points."""
    return _parse_percentage_points(text) / 100


def duration(text: str) -> float:
    """Return the seconds of a duration such as 90s, 30m or 2h."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", text)
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration above 0; give one such as 90s, 30m or 2h")
    number, unit = match.groups()
    if not unit:
        raise argparse.ArgumentTypeError(
            f"{text!r} has no unit; give {text}s, {text}m or {text}h for seconds, minutes or hours"
        )
    return float(number) * {"s": 1, "m": 60, "h": 3600}[unit]
