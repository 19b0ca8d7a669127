"""Checks a space before anything runs: settings that its trials would refuse are errors at once."""

from lopt import methods
from lopt.config import FIELDS
from lopt.ranges import Choice
from lopt.registry import nearest
from sweeps import samplers, stopping
from sweeps.space import Cell, Space


def check_space(space: Space) -> None:
    """Raises ValueError on any value of a list, or end of a range, that a trial would refuse; and on an unknown sampler
    or rule of early stopping, or one that does not fit."""
    stopping.get(space.stopping)
    sampler = samplers.get(space.sampler)
    twins: dict[str, str] = {}
    for cell in space.cells:
        _check_names(space, cell)
        if cell.search:
            sampler.check(cell)
        for name, searched in cell.search.items():
            method, dot, field_name = name.rpartition(".")
            low = {**space.low_ends(cell), **({"method": method} if dot else {})}
            for value in searched.values if isinstance(searched, Choice) else (searched.low, searched.high):
                point = {**low, name: value}
                if field_name == "rank":
                    least = space.config(cell, low, seed=0).length
                    longer = isinstance(value, int) and least is not None
                    point[f"{method}{dot}length"] = max(value, least) if longer else least
                space.config(cell, point, seed=0)
        for first in cell.first:
            for name, value in first.items():
                if name not in cell.search or (value is not None and value not in cell.search[name]):
                    raise ValueError(
                        f"space {space.name}, cell {cell.name}: first gives {name} the value {value!r}, which lies "
                        f"outside of what is searched ({cell.search.get(name, 'nothing')})"
                    )
            space.config(cell, {**space.low_ends(cell), **first}, seed=0)
        trials = f"{space.example(cell).key} {sorted((name, str(values)) for name, values in cell.search.items())}"
        if trials in twins:
            raise ValueError(
                f"space {space.name}: {twins[trials]} and {cell.name} have the same trials, and a trial has one cell"
            )
        twins[trials] = cell.name


def _check_names(space: Space, cell: Cell) -> None:
    """Raises ValueError on a name that is neither a field of TrialConfig nor an option of a method."""
    valid = {*FIELDS, *methods.options()}
    if "max_steps" in {*cell.fixed, *cell.search}:  # rungs and budgets are of the whole space
        raise ValueError(f"space {space.name}, cell {cell.name}: max_steps is one for all cells; give it in base")
    if "metric" in cell.search:  # scores by different metrics cannot be compared
        raise ValueError(f"space {space.name}, cell {cell.name}: metric is one for a cell; give it in fixed or base")
    for name in {**space.base, **cell.fixed, **cell.search, **{n: v for p in cell.first for n, v in p.items()}}:
        method, dot, own = name.rpartition(".")
        if own not in valid or (dot and method not in methods.names()):
            hint = nearest(own, valid)
            raise ValueError(
                f"space {space.name}, cell {cell.name}: unknown name {name!r}; valid are the fields of "
                f"TrialConfig and the options of methods.{hint}"
            )
