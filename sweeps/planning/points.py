"""The points of a cell. A cell has fewer trials than the space asks for if its lists give fewer points."""

from collections.abc import Iterator
from itertools import chain, islice, product
from typing import Any

from lopt.ranges import Choice, Real, Whole
from sweeps.space import Cell, Space

_MAX_POINTS = 10_000  # a cell with more points counts as endless


def all_points(cell: Cell) -> Iterator[dict[str, Any]] | None:
    """Return all points of a cell; None if a range of real numbers makes them endless."""
    method_choice = cell.search.get("method")
    parts = []
    for method in method_choice.values if isinstance(method_choice, Choice) else (None,):
        values: dict[str, Any] = {}
        for name, searched in cell.search.items():
            if "." in name and name.partition(".")[0] != method:
                continue
            if isinstance(searched, Real):
                return None
            values[name] = range(searched.low, searched.high + 1) if isinstance(searched, Whole) else searched.values
        if method is not None:
            values["method"] = (method,)
        parts.append(_combinations(values))
    return chain.from_iterable(parts)


def _combinations(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return every combination of the values of each name."""
    return (dict(zip(values, combination, strict=True)) for combination in product(*values.values()))


def trial_count(space: Space, cell: Cell) -> int:
    """Return the number of search trials of a cell: the number that the space asks for, or as many different trials as
    the cell has."""
    points = all_points(cell) if cell.search else iter([{}])
    if points is None:
        return space.trials
    keys: set[str] = set()
    for count, point in enumerate(islice(points, _MAX_POINTS), start=1):
        keys.add(space.config(cell, point, seed=0).key)
        if len(keys) == space.trials or count == _MAX_POINTS:
            return space.trials
    return len(keys)
