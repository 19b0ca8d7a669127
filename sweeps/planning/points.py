"""The points of a cell, one for each combination of its searched values. A cell has at most one trial per point."""

from collections.abc import Iterator
from itertools import chain, islice, product
from typing import Any

from lopt.ranges import Choice, Real, Whole
from sweeps.space import Cell, Space

_MAX_POINTS = 10_000  # a cell with more points counts as having endlessly many


def all_points(cell: Cell) -> Iterator[dict[str, Any]] | None:
    """Return all points of a cell; None if there are endlessly many, because a range has real numbers."""
    method_choice = cell.search.get("method")
    points_by_method = []
    for method in method_choice.values if isinstance(method_choice, Choice) else (None,):
        values: dict[str, Any] = {}
        for name, searched_range in cell.search.items():
            if "." in name and name.partition(".")[0] != method:
                continue
            if isinstance(searched_range, Real):
                return None
            if isinstance(searched_range, Whole):
                values[name] = range(searched_range.low, searched_range.high + 1)
            else:
                values[name] = searched_range.values
        if method is not None:
            values["method"] = (method,)
        points_by_method.append(_combinations(values))
    return chain.from_iterable(points_by_method)


def _combinations(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return every combination of the values of the names."""
    return (dict(zip(values, combination, strict=True)) for combination in product(*values.values()))


def trial_count(space: Space, cell: Cell) -> int:
    """Return the number of search trials of a cell: the number that the space asks for, or the number of different
    trials that the cell has, if that is smaller."""
    points = all_points(cell) if cell.search else iter([{}])
    if points is None:
        return space.trials
    keys: set[str] = set()
    for count, point in enumerate(islice(points, _MAX_POINTS), start=1):
        keys.add(space.config(cell, point, seed=0).key)
        if len(keys) == space.trials or count == _MAX_POINTS:
            return space.trials
    return len(keys)
