"""What a sweep covers: cells, what is searched inside each, and the rules that all cells share."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lopt import backbones, methods, registry
from lopt.config import FIELDS, TrialConfig
from lopt.registry import nearest

PROFILES = ("paper", "demo")
SPACE_FIELDS = ("trials", "confirm_seeds", "grace_steps", "reduction_factor")


@dataclass(frozen=True)
class Real:
    """A range of real numbers, uniform or uniform in the logarithm."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not (self.low < self.high < math.inf and (self.low > 0 or not self.log)):
            raise ValueError(f"range {self.low!r} to {self.high!r}: give low < high, above 0 where it is logarithmic")

    def __str__(self) -> str:
        return f"{self.low:g} … {self.high:g}{' (log)' if self.log else ''}"


@dataclass(frozen=True)
class Whole:
    """A range of whole numbers, both ends included."""

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.low, int) and isinstance(self.high, int) and 1 <= self.low < self.high):
            raise ValueError(f"range {self.low!r} to {self.high!r}: give whole numbers, 1 <= low < high")

    def __str__(self) -> str:
        return f"{self.low} … {self.high}{' (log)' if self.log else ''}"


@dataclass(frozen=True)
class Choice:
    """A list of values."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


Range = Real | Whole | Choice


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a table, or the whole of a free search.

    fixed: fields of TrialConfig. search: the range of each searched field. first: points that are tried before the
    searcher proposes its own (the paper's settings).
    """

    name: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Range]
    first: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Space:
    """A sweep's whole description.

    base: fields of TrialConfig that all trials share. axes: lists of values that `grid` makes cells of.
    trials: search trials of each cell, the same for all. confirm_seeds: fresh seeds that repeat each winner.
    grace_steps, reduction_factor: no trial stops before grace_steps; of those that reach a rung, the best
    1/reduction_factor go on; rungs lie at grace_steps · reduction_factor^k. by_size: trials compete within a factor
    of two of parameter count; otherwise each inside its cell.
    """

    name: str
    title: str
    profile: str
    base: Mapping[str, Any]
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    grid: Callable[[Mapping[str, tuple[Any, ...]]], tuple[Cell, ...]]
    trials: int
    confirm_seeds: int
    grace_steps: int
    reduction_factor: int = 3
    by_size: bool = False

    def __post_init__(self) -> None:
        for name in SPACE_FIELDS:
            least = 2 if name == "reduction_factor" else 1
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; give a whole number, {least} or more")

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Cells of the grid, in the order of the table."""
        made = self.grid(self.axes)
        twice = [c.name for c in made if [d.name for d in made].count(c.name) > 1]
        if not made or twice:
            raise ValueError(f"space {self.name} has {'no cells' if not made else f'two cells named {twice[0]!r}'}")
        return made

    @property
    def max_steps(self) -> int:
        return int(self.base.get("max_steps", 5000))

    @property
    def rungs(self) -> list[int]:
        """Steps at which a trial may be stopped."""
        found, step = [], self.grace_steps
        while step < self.max_steps:
            found.append(step)
            step *= self.reduction_factor
        return found

    def expected_steps(self, position: int) -> float:
        """Steps that the search trial number `position` of a stratum (1 is the first) takes on average, if trials are
        equally good: the first passes every rung, the second half of the time, and later ones 1/reduction_factor."""
        share = max(1 / position, 1 / self.reduction_factor)
        ends = [*self.rungs, self.max_steps]
        begins = [0, *self.rungs]
        return sum(share**k * (end - begin) for k, (begin, end) in enumerate(zip(begins, ends, strict=True)))

    def config(self, cell: Cell, point: Mapping[str, Any], *, seed: int) -> TrialConfig:
        """The trial of a cell at one point of its ranges. A rank above the length is the length."""
        values = {**self.base, **cell.fixed, **point, "seed": seed}
        known = {name: value for name, value in values.items() if name in FIELDS}
        options = {name: value for name, value in values.items() if name not in FIELDS}
        method = methods.get(known.get("method"))
        if not method.uses_rank:
            known.pop("rank", None)
        elif "rank" in cell.search and known.get("rank"):
            known["rank"] = min(known["rank"], known.get("length", known["rank"]))
        return TrialConfig.from_dict({**known, "options": {**known.get("options", {}), **options}})

    def example(self, cell: Cell) -> TrialConfig:
        """A valid trial of the cell, for planning: its first point, else the low ends."""
        return self.config(cell, {**self._low(cell), **(cell.first[0] if cell.first else {})}, seed=0)

    @staticmethod
    def _low(cell: Cell) -> dict[str, Any]:
        return {name: r.values[0] if isinstance(r, Choice) else r.low for name, r in cell.search.items()}

    def check(self) -> None:
        """Raises ValueError on any value of a list, or end of a range, that a trial would refuse."""
        for cell in self.cells:
            example = self.example(cell)
            for name, made in cell.search.items():
                for value in made.values if isinstance(made, Choice) else (made.low, made.high):
                    point = {name: value} if name != "rank" else {name: value, "length": max(value, example.length)}
                    self.config(cell, {**self._low(cell), **point}, seed=0)

    def settings(self, cell: Cell) -> list[TrialConfig]:
        """The cell's example with each backbone, task and precision that its trials can have."""
        example = self.example(cell)
        made = [example]
        for name in ("backbone", "task", "precision"):
            values = getattr(cell.search.get(name), "values", None)
            made = [config.replace(**{name: v}) for config in made for v in values] if values else made
        return made

    def stratum(self, cell: Cell, config: TrialConfig) -> str:
        """Which trials this one competes with."""
        if not self.by_size:
            return cell.name
        width = backbones.facts(config.backbone).width
        counts = methods.get(config.method).counts(methods.shape_of(config, width))
        high = 2 ** math.ceil(math.log2(counts.trainable))
        return f"{high // 2 + 1:,}–{high:,} parameters"

    def to_dict(self) -> dict[str, Any]:
        """JSON for the manifest."""
        return {
            "name": self.name,
            "title": self.title,
            "profile": self.profile,
            "base": dict(self.base),
            "cells": [
                {
                    "name": cell.name,
                    "config": {**self.base, **cell.fixed},
                    "search": {name: str(r) for name, r in cell.search.items()},
                    "first": [dict(point) for point in cell.first],
                }
                for cell in self.cells
            ],
            "by_size": self.by_size,
            "trials_per_cell": self.trials,
            "confirm_seeds": self.confirm_seeds,
            "grace_steps": self.grace_steps,
            "reduction_factor": self.reduction_factor,
        }

    def identity(self) -> str:
        """Hash of what may not change between two commands on one run: all but the number of confirm seeds."""
        free = ("confirm_seeds", "title")
        described = {name: value for name, value in self.to_dict().items() if name not in free}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


class SpaceSpec(Protocol):
    """What a space module offers as SPEC."""

    name: str

    def build(self, profile: str) -> Space: ...


@dataclass(frozen=True)
class Spec:
    """`SPEC` of a space module: its name and the function that builds it for a profile."""

    name: str
    build: Callable[[str], Space]


def names() -> list[str]:
    return list(registry.plugins("sweeps.spaces"))


def load(name: str, profile: str) -> Space:
    """The space of that name, or of a file path/to/space.py with a SPEC.

    Raises:
        ValueError: unknown space or profile, or a file that holds no space.
    """
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}; valid: {', '.join(PROFILES)}.{nearest(profile, PROFILES)}")
    if not name.endswith(".py"):
        return registry.find("sweeps.spaces", name, "space").build(profile)
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"space file {name!r} does not exist; valid names: {', '.join(names())}")
    described = importlib.util.spec_from_file_location(f"user_space_{path.stem}", path)
    assert described is not None and described.loader is not None
    module = importlib.util.module_from_spec(described)
    try:
        described.loader.exec_module(module)
        return module.SPEC.build(profile)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"space file {name!r} gives no space: {type(error).__name__}: {error}") from None


def with_settings(space: Space, settings: Mapping[str, str]) -> Space:
    """The space with `--set key=value` applied, in their order.

    A list (`rank=1,2,5`) replaces the values of an axis, or becomes the choice of a searched field; one value fixes
    it; `low:high` is the range of a searched number. Other fields take one value.

    Raises:
        ValueError: an unknown key (naming the nearest), a value of the wrong kind, a list where one value goes.
    """
    for key, text in settings.items():
        space = _with_setting(space, key, text)
    space.check()
    return space


def with_seeds(space: Space, seeds: int | None) -> Space:
    """The space with another number of confirm seeds; None leaves it."""
    return space if seeds is None else dataclasses.replace(space, confirm_seeds=seeds)


def _with_setting(space: Space, key: str, text: str) -> Space:
    options = {name for method in registry.plugins("lopt.methods").values() for name in method.OPTIONS}
    valid = sorted({*FIELDS, *options, *SPACE_FIELDS} - {"options", "seed", "data_revision", "model_revision"})
    if key not in valid:
        raise ValueError(f"unknown key {key!r} in --set; valid: {', '.join(valid)}.{nearest(key, valid)}")
    if key in SPACE_FIELDS:
        return dataclasses.replace(space, **{key: _value(text)})
    if key in ("template", "label_words"):  # text that may hold commas or look like a number
        value: Any = tuple(text.split(",")) if key == "label_words" else text
        return dataclasses.replace(space, base={**space.base, key: value})
    values = tuple(_value(part) for part in text.split(","))
    searched = any(key in cell.search for cell in space.cells)
    if key in space.axes:
        return dataclasses.replace(space, axes={**space.axes, key: values})
    if searched and ":" in text:
        return _with_range(space, key, _range(key, text))
    if any(key in cell.fixed for cell in space.cells):
        raise ValueError(f"{key} is fixed by the cells of space {space.name}; set a field that it leaves open")
    if len(values) == 1:
        fixed = _without_search(space, key) if searched else space
        return dataclasses.replace(fixed, base={**fixed.base, key: values[0]})
    if searched:
        return _with_range(space, key, Choice(values))
    lists = sorted({*space.axes, *(name for cell in space.cells for name in cell.search)})
    raise ValueError(
        f"{key} takes one value in space {space.name}, not {text!r}; lists are valid for {', '.join(lists)}"
    )


def _range(key: str, text: str) -> Range:
    parts = [_value(part) for part in text.split(":")]
    if len(parts) != 2 or not all(isinstance(p, int | float) for p in parts):
        raise ValueError(f"{key} is {text!r}; a range is low:high, as in learning_rate=0.01:0.5")
    low, high = parts
    return Real(low, high, log=True) if key == "learning_rate" else Whole(low, high, log=True)


def _with_range(space: Space, key: str, made: Range) -> Space:
    def change(cell: Cell) -> Cell:
        if key not in cell.search:
            return cell
        first = tuple(point for point in cell.first if _inside(point.get(key), made))
        return dataclasses.replace(cell, search={**cell.search, key: made}, first=first)

    return _map_cells(space, change)


def _inside(value: Any, made: Range) -> bool:
    return value is None or (value in made.values if isinstance(made, Choice) else made.low <= value <= made.high)


def _without_search(space: Space, key: str) -> Space:
    def change(cell: Cell) -> Cell:
        search = {name: r for name, r in cell.search.items() if name != key}
        first = tuple({name: v for name, v in point.items() if name != key} for point in cell.first)
        return dataclasses.replace(cell, search=search, first=tuple(p for p in first if p))

    return _map_cells(space, change)


def _map_cells(space: Space, change: Callable[[Cell], Cell]) -> Space:
    grid = space.grid
    return dataclasses.replace(space, grid=lambda axes: tuple(change(cell) for cell in grid(axes)))


def _value(text: str) -> Any:
    text = text.strip()
    if text.lower() in ("none", ""):
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
