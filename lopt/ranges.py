"""Ranges of searched values. A method declares the ranges of its settings, and a space those of its cells."""

import sys
from dataclasses import dataclass
from typing import Any

_LOWEST_REAL, _HIGHEST_REAL = -sys.float_info.max, sys.float_info.max


@dataclass(frozen=True)
class Real:
    """A range of real numbers, sampled uniformly, or log-uniformly if `log` is set."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        are_numbers = _is_number(self.low) and _is_number(self.high)
        if not (
            are_numbers and _LOWEST_REAL <= self.low < self.high <= _HIGHEST_REAL and (self.low > 0 or not self.log)
        ):
            raise ValueError(
                f"range {self.low!r} to {self.high!r} is not valid: give numbers with low < high, both above 0 if the "
                "range is logarithmic"
            )

    def __str__(self) -> str:
        return f"{self.low:g} … {self.high:g}{' (log)' if self.log else ''}"

    def __contains__(self, value: Any) -> bool:
        return _is_number(value) and self.low <= value <= self.high


@dataclass(frozen=True)
class Whole:
    """A range of whole numbers, both ends included."""

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        are_whole_numbers = all(isinstance(end, int) and not isinstance(end, bool) for end in (self.low, self.high))
        if not (are_whole_numbers and 1 <= self.low < self.high):
            raise ValueError(
                f"range {self.low!r} to {self.high!r} is not valid: give whole numbers with 1 <= low < high"
            )

    def __str__(self) -> str:
        return f"{self.low} … {self.high}{' (log)' if self.log else ''}"

    def __contains__(self, value: Any) -> bool:
        return _is_number(value) and value == int(value) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """A choice among different values."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        values = self.values
        if not isinstance(values, list | tuple) or not values or any(values.count(value) > 1 for value in values):
            raise ValueError(f"choice of {values!r} is not valid: give a tuple of one or more values, each once")
        object.__setattr__(self, "values", tuple(values))

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))

    def __contains__(self, value: Any) -> bool:
        return value in self.values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


Range = Real | Whole | Choice
