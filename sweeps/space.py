"""What a sweep covers: cells, what is searched inside each, and the rules that all cells share."""

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from lopt import methods
from lopt.config import FIELDS, TrialConfig, known_as
from lopt.ranges import Choice, Range, Real, Whole  # noqa: F401  # for space files
from sweeps import stopping
from sweeps.stopping import StoppingRule

_PLACED = ("task", "backbone")  # what may be a folder
RESOLVED_FIELDS = ("data_revision", "model_revision", "precision")  # where trials run; precision only if it is "auto"
SPACE_FIELDS = ("trials", "confirm_seeds", "grace_steps", "reduction_factor", "sampler", "stopping")
WORDS = {"sampler": "tpe", "stopping": "asha"}  # space fields that are names, with their defaults
_MOST, _MOST_CELLS = 1_000_000, 10_000


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a table, or the whole of a free search.

    fixed: fields of TrialConfig. search: the range of each searched field; `lora.rank` is the rank of trials of method
    lora only. first: points that are tried before the searcher proposes its own (the papers' settings).
    """

    name: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Range]
    first: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        _line("name of a cell", self.name)
        where = f"cell {self.name}"
        if not isinstance(self.first, list | tuple):
            raise ValueError(f"{where}: first is {self.first!r}; give a tuple of mappings")
        for what, found in (("fixed", self.fixed), ("search", self.search), *(("first", p) for p in self.first)):
            _names(f"{where}: {what}", found)
        for name, made in self.search.items():
            if not isinstance(made, Range):
                raise ValueError(f"{where}: {name} is searched in {made!r}; valid: Real, Whole, Choice of lopt.ranges")


@dataclass(frozen=True, kw_only=True)
class Space:
    """A sweep's whole description.

    base: fields of TrialConfig that all trials share. axes: lists of values that `grid` makes cells of.
    trials: search trials of each cell, the same for all. confirm_seeds: fresh seeds that repeat each winner.
    grace_steps, reduction_factor: no trial stops before grace_steps; of those that reach a rung, the best
    1/reduction_factor go on; rungs lie at grace_steps · reduction_factor^k. by_size: trials compete within a factor
    of two of parameter count; otherwise each inside its cell. sampler, stopping: names of a module of `sweeps.samplers`
    and of `sweeps.stopping`.
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
    sampler: str = "tpe"
    stopping: str = "asha"

    def __post_init__(self) -> None:
        for name in ("name", "title", "profile"):
            _line(f"{name} of a space", getattr(self, name))
        for name in SPACE_FIELDS[:4]:
            least = 2 if name == "reduction_factor" else 1
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST:
                raise ValueError(f"{name} is {value!r}; give a whole number, {least} or more (at most {_MOST:,})")
        _names(f"space {self.name}: base", self.base)
        _names(f"space {self.name}: axes", self.axes)
        for name, values in self.axes.items():
            if not isinstance(values, list | tuple) or not values:
                raise ValueError(f"space {self.name}: axis {name} is {values!r}; give a tuple of values")

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Cells of the grid, in the order of the table; made anew each time.

        Raises:
            ValueError: the grid gives none, something else, two of one name or too many, or fails on these axes.
        """
        try:
            cells = tuple(islice(self.grid(self.axes), _MOST_CELLS + 1))
        except ValueError:
            raise
        except Exception as error:  # the grid is the space's own code, its axes may be the user's values
            axes = "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in self.axes.items()) or "none"
            raise ValueError(
                f"space {self.name} has no cells for these axes: {axes} ({type(error).__name__}: {error})"
            ) from None
        for cell in cells:
            if not isinstance(cell, Cell):
                raise ValueError(f"space {self.name}: its grid gives {cell!r}; Cells are valid")
        twice = [name for name, count in Counter(cell.name for cell in cells).items() if count > 1]
        if not cells or twice:
            raise ValueError(f"space {self.name} has {'no cells' if not cells else f'two cells named {twice[0]!r}'}")
        if len(cells) > _MOST_CELLS:
            raise ValueError(f"space {self.name} has more than {_MOST_CELLS:,} cells")
        return tuple(_of_its_methods(cell) for cell in cells)

    @property
    def max_steps(self) -> int:
        return int(self.base.get("max_steps", 5000))

    def stopping_rule(self) -> StoppingRule:
        """A new rule of early stopping, for the trials of one stratum."""
        rules = {name: getattr(self, name) for name in ("grace_steps", "reduction_factor", "max_steps")}
        return stopping.get(self.stopping)(**rules)

    def decision_steps(self, eval_every: int | None = None) -> list[int]:
        """Steps at which a trial, evaluated every so many steps, may be stopped."""
        return self.stopping_rule().decision_steps(eval_every or int(self.base.get("eval_every", 100)))

    def expected_steps(self, position: int) -> float:
        """Steps that the search trial number `position` of a stratum (1 is the first) takes on average, if trials are
        equally good."""
        return self.stopping_rule().expected_steps(position, int(self.base.get("eval_every", 100)))

    def config(self, cell: Cell, point: Mapping[str, Any], *, seed: int) -> TrialConfig:
        """The trial of a cell at one point of its ranges.

        A method's own values (`lora.rank`) go before those for all. What a method does not have (length, rank, an
        option of the base) is left out of its trials. A searched rank above what the length allows is cut to it.
        """
        values = {**self.base, **cell.fixed, **point, "seed": seed}
        method = methods.get(values.get("method"))
        own = {name.partition(".")[2]: v for name, v in values.items() if name.startswith(f"{method.name}.")}
        values = {name: v for name, v in values.items() if "." not in name} | own
        known = {name: value for name, value in values.items() if name in FIELDS}
        asked = {*cell.fixed, *point}
        options = {n: v for n, v in values.items() if n not in FIELDS and (n in method.OPTIONS or n in asked)}
        if not method.uses_length:
            known.pop("length", None)
        if not method.uses_rank:
            known.pop("rank", None)
        elif searched(cell, "rank") and isinstance(known.get("rank"), int):
            most = method.most_rank(known.get("length"))
            known["rank"] = min(known["rank"], most) if isinstance(most, int) else known["rank"]
        given = known.pop("options", {})
        given = {**given, **options} if isinstance(given, Mapping) else given
        return TrialConfig.from_dict({**known, "options": given})

    def example(self, cell: Cell) -> TrialConfig:
        """A valid trial of the cell, for planning: its first point, else the low ends."""
        return self.config(cell, {**self.low_ends(cell), **(cell.first[0] if cell.first else {})}, seed=0)

    @staticmethod
    def low_ends(cell: Cell) -> dict[str, Any]:
        """The point at the low ends of a cell's ranges."""
        return {name: r.values[0] if isinstance(r, Choice) else r.low for name, r in cell.search.items()}

    def largest(self, cell: Cell) -> list[TrialConfig]:
        """The cell's trial at the high ends of its ranges, one of each method that it chooses among."""
        point = {name: made.values[0] if isinstance(made, Choice) else made.high for name, made in cell.search.items()}
        for name, made in cell.search.items():
            if isinstance(made, Choice) and all(isinstance(value, int) for value in made.values):
                point[name] = max(made.values)
        chosen = cell.search.get("method")
        names = chosen.values if isinstance(chosen, Choice) else [{**self.base, **cell.fixed}.get("method")]
        return [self.config(cell, {**point, "method": name}, seed=0) for name in names]

    def examples(self, cell: Cell) -> list[TrialConfig]:
        """The cell's example with each backbone, task and precision that its trials can have."""
        example = self.example(cell)
        made = [example]
        for name in ("backbone", "task", "precision"):
            values = getattr(cell.search.get(name), "values", None)
            made = [config.replace(**{name: v}) for config in made for v in values] if values else made
        return made

    @property
    def all_examples(self) -> list[TrialConfig]:
        """`examples` of every cell, in their order."""
        return [config for cell in self.cells for config in self.examples(cell)]

    def misfit(self, cell: Cell, config: TrialConfig) -> str:
        """Why a trial is none of the cell's, in words; empty when it is one."""
        point = point_of(cell, config)
        outside = [
            f"{name} {value!r} is outside {cell.search[name]}"
            for name, value in point.items()
            if value not in cell.search[name]
        ]
        if outside:
            return outside[0]
        try:
            of_cell = self.config(cell, point, seed=config.seed)
        except ValueError as error:
            return str(error)
        have, want = config.to_dict(), of_cell.to_dict()
        for name, former in methods.get(config.method).FORMER_DEFAULTS.items():  # of a run of an earlier version
            if (want["options"].get(name), have["options"].get(name)) == (None, former):
                want["options"][name] = former
        for name in RESOLVED_FIELDS if want["precision"] == "auto" else RESOLVED_FIELDS[:2]:
            have[name] = want[name]
        for name in ("task", "backbone"):  # a folder by its name, as in a trial's key
            have[name], want[name] = Path(have[name]).name, Path(want[name]).name
        return next((f"{name} {have[name]!r}, not {want[name]!r}" for name in want if have[name] != want[name]), "")

    def stratum(self, cell: Cell, config: TrialConfig) -> str:
        """Which trials this one competes with."""
        if not self.by_size:
            return cell.name
        counts = methods.counts_of(config)
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
            **{name: getattr(self, name) for name, default in WORDS.items() if getattr(self, name) != default},
        }

    def identity(self) -> str:
        """Hash of what may not change between two commands on one run: all but the number of confirm seeds, and what
        proposes the points."""
        free = ("confirm_seeds", "title", "sampler")
        described = {name: value for name, value in placeless(self.to_dict()).items() if name not in free}
        # What a folder says of its task can change under the same name.
        examples = [self.example(cell) for cell in self.cells]
        folders = {known_as(e.task): [e.template, e.label_words] for e in examples if Path(e.task).is_absolute()}
        described |= {"folders": folders} if folders else {}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def placeless(described: Mapping[str, Any]) -> dict[str, Any]:
    """What `Space.to_dict` gives, or a part of it, with folders of tasks and backbones by their names."""
    settings: dict[str, Any] = {}
    for name, value in described.items():
        if name == "search" and isinstance(value, Mapping):
            settings[name] = {
                n: ", ".join(map(known_as, str(v).split(", "))) if n in _PLACED else v for n, v in value.items()
            }
        elif isinstance(value, Mapping):
            settings[name] = placeless(value)
        elif isinstance(value, list):
            settings[name] = [placeless(each) if isinstance(each, Mapping) else each for each in value]
        else:
            settings[name] = known_as(value) if name in _PLACED and isinstance(value, str) else value
    return settings


def _of_its_methods(cell: Cell) -> Cell:
    """The cell without ranges and points of methods that it does not choose among."""
    chosen = cell.search.get("method")
    if not isinstance(chosen, Choice):
        return cell
    search = {n: made for n, made in cell.search.items() if "." not in n or n.partition(".")[0] in chosen.values}
    first = tuple(point for point in cell.first if point.get("method", chosen.values[0]) in chosen.values)
    return dataclasses.replace(cell, search=search, first=first)


def point_of(cell: Cell, config: TrialConfig) -> dict[str, Any]:
    """What a trial has for each searched name of a cell; without names that belong to another method."""
    point = {}
    for name in cell.search:
        method, dot, field_name = name.rpartition(".")
        if not dot or config.method == method:
            value = getattr(config, field_name, None) if field_name in FIELDS else config.options.get(field_name)
            if value is not None:
                point[name] = value
    return point


def _names(what: str, found: object) -> None:
    """Raises ValueError when `found` is no mapping from names."""
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"{what} is {found!r}; give a mapping from names")


def _line(what: str, text: object) -> None:
    if not isinstance(text, str) or not text.strip() or len(text.splitlines()) > 1:
        raise ValueError(f"{what} is {text!r}; give text of one line")


def searched(cell: Cell, name: str) -> list[str]:
    """Names under which a cell searches a field: its own, and one of each method that has another range."""
    return [each for each in cell.search if each.rpartition(".")[2] == name]


def learning_rates(method: str) -> tuple[dict[str, Range], dict[str, Any]]:
    """What a cell of that method searches when its shape is fixed, its learning rates, and the recipe's point, which is
    tried first."""
    found = methods.get(method)
    search = {name: made for name, made in found.ranges.items() if name.endswith("learning_rate")}
    return search, {"learning_rate": found.recipe.learning_rate} | {
        name: found.OPTIONS[name] for name in search if name in found.OPTIONS
    }


@dataclass(frozen=True)
class Spec:
    """`SPEC` of a space module: its name and the function that builds it for a profile."""

    name: str
    build: Callable[[str], Space]
