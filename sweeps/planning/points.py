"""The points of a cell, one for each combination of its searched values. A cell has at most one trial per point."""

from collections.abc import Iterator
from itertools import chain, islice, product
from typing import Any

from lopt.ranges import Choice, Real, Whole
from sweeps.space import Cell, Space

_MAX_POINTS = 10_000  # a cell with more points counts as a cell with endlessly many


def all_points(cell: Cell) -> Iterator[dict[str, Any]] | None:
    """Return all points of a cell; None if there are endlessly many, because a range has real numbers."""
    method_choice = cell.search.get("method")
    points_by_method = []
    for method in method_choice.values if isinstance(method_choice, Choice) else (None,):
        values_by_name: dict[str, Any] = {}
        for name, searched_range in cell.search.items():
            if "." in name and name.partition(".")[0] != method:
                continue
            if isinstance(searched_range, Real):
                return None
            if isinstance(searched_range, Whole):
                values_by_name[name] = range(searched_range.low, searched_range.high + 1)
            else:
                values_by_name[name] = searched_range.values
        if method is not None:
            values_by_name["method"] = (method,)
        points_by_method.append(_combinations(values_by_name))
    return chain.from_iterable(points_by_method)


def _combinations(values_by_name: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return every combination of one value for each name."""
    return (dict(zip(values_by_name, combination, strict=True)) for combination in product(*values_by_name.values()))


def search_trial_count(space: Space, cell: Cell) -> int:
    """Return the number of search trials of a cell: the number that the space asks for, or the number of different
    trials that the cell has, if that is smaller.

    Raises:
        ValueError: The space asks for none, but the cell searches a field.
    """
    if not space.trials and cell.search:
        raise ValueError(
            f"trials is 0, but cell {cell.name} searches {', '.join(cell.search)}: give one trial or more, or fix these"
        )
    if not space.trials:
        return 0
    points = all_points(cell) if cell.search else iter([{}])
    if points is None:
        return space.trials
    trial_keys: set[str] = set()
    for point_count, point in enumerate(islice(points, _MAX_POINTS), start=1):
        trial_keys.add(space.config(cell, point, seed=0).key)
        if len(trial_keys) == space.trials or point_count == _MAX_POINTS:
            return space.trials
    return len(trial_keys)
