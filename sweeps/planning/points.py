"""The points of a cell: where lists and whole numbers are used up, it has fewer trials than asked."""

from collections.abc import Iterator
from itertools import chain, islice, product
from typing import Any

from lopt.ranges import Choice, Real, Whole
from sweeps.space import Cell, Space

_MOST = 10_000  # a cell of more points is taken for one without end


def every_point(cell: Cell) -> Iterator[dict[str, Any]] | None:
    """All points of a cell; None where a range of real numbers makes them endless."""
    chosen = cell.search.get("method")
    parts = []
    for method in chosen.values if isinstance(chosen, Choice) else (None,):
        values: dict[str, Any] = {}
        for name, searched in cell.search.items():
            if "." in name and name.partition(".")[0] != method:
                continue
            if isinstance(searched, Real):
                return None
            values[name] = range(searched.low, searched.high + 1) if isinstance(searched, Whole) else searched.values
        if method is not None:
            values["method"] = (method,)
        parts.append(_product(values))
    return chain.from_iterable(parts)


def _product(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (dict(zip(values, point, strict=True)) for point in product(*values.values()))


def trials_of(space: Space, cell: Cell) -> int:
    """How many search trials a cell has: the space's number, or as many as it has different ones."""
    points = every_point(cell) if cell.search else iter([{}])
    if points is None:
        return space.trials
    keys: set[str] = set()
    for position, point in enumerate(islice(points, _MOST), start=1):
        keys.add(space.config(cell, point, seed=0).key)
        if len(keys) == space.trials or position == _MOST:
            return space.trials
    return len(keys)
