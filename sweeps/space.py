"""What a sweep covers: its cells, the fields searched inside each cell, and the rules that all cells share."""

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

from analysis.noninferiority import DEFAULT_MARGIN
from lopt import methods
from lopt.config import CONFIG_FIELDS, TrialConfig, name_without_path
from lopt.ranges import Choice, Range, Real, Whole  # noqa: F401  # space files import Real from here
from lopt.restarts import first_evaluation
from sweeps import stopping
from sweeps.space_checks import check_count, check_mapping, check_margin, check_one_line, check_reference
from sweeps.stopping import StoppingRule

_FOLDER_FIELDS = ("task", "backbone")  # fields whose value may be a folder
# Fields that are filled in where trials run. `precision` is filled in only if it is "auto".
RESOLVED_FIELDS = ("data_revision", "model_revision", "precision")
_COUNT_FIELDS = ("trials", "confirm_seeds", "grace_steps", "reduction_factor")
PLUGIN_DEFAULTS = {"sampler": "tpe", "stopping": "asha"}  # the default of each field that names a plugin
SPACE_FIELDS = (*_COUNT_FIELDS, "margin", *PLUGIN_DEFAULTS)  # fields of a space that --set changes
_MAX_CELLS = 10_000


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a table, or the whole of a free search.

    Attributes:
        fixed: Values of the fields of TrialConfig that all trials of the cell share.
        search: Range (or list of values) of each searched field, by its name. `lora.rank` is the rank of method lora.
        first: Points that are tried first, such as the settings of the papers. A point has values of searched fields.
    """

    name: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Range]
    first: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        check_one_line("name of a cell", self.name)
        label = f"cell {self.name}"
        if not isinstance(self.first, list | tuple):
            raise ValueError(f"{label}: `first` is {self.first!r}; give a tuple of mappings")
        check_mapping(f"{label}: `fixed`", self.fixed)
        check_mapping(f"{label}: `search`", self.search)
        for point in self.first:
            check_mapping(f"{label}: a point of `first`", point)
        for name, searched_range in self.search.items():
            if not isinstance(searched_range, Range):
                raise ValueError(
                    f"{label}: range of {name} is {searched_range!r}; give a Real, Whole or Choice of lopt.ranges"
                )


@dataclass(frozen=True, kw_only=True)
class Space:
    """The whole description of a sweep.

    Attributes:
        base: Values of the fields of TrialConfig that all trials share.
        axes: Lists of values by their names. `grid` makes the cells from them.
        trials: Number of search trials of each cell, the same for all cells.
        confirm_seeds: Number of fresh seeds with which each winner is trained again.
        grace_steps: No trial stops before this step.
        reduction_factor: Early stopping lets the best 1/reduction_factor of the trials at a rung continue. The rungs
            are the steps grace_steps · reduction_factor^k.
        margin: A smaller prompt is as good as the reference if its accuracy is worse by less than this (a fraction).
        by_size: Whether a trial competes with trials of similar size (within a factor of two) instead of its cell.
        sampler, stopping: Names of modules in `sweeps.samplers` and `sweeps.stopping`.
        reference: What the report compares smaller cells with, as values of fields of TrialConfig. If several cells of
            a task have these values, the one with the most trainable parameters is the reference.
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
    margin: float = DEFAULT_MARGIN
    by_size: bool = False
    sampler: str = "tpe"
    stopping: str = "asha"
    reference: Mapping[str, Any] = field(default_factory=lambda: {"method": "prompt_tuning"})

    def __post_init__(self) -> None:
        for name in ("name", "title", "profile"):
            check_one_line(f"{name} of a space", getattr(self, name))
        for name in _COUNT_FIELDS:
            check_count(name, getattr(self, name), minimum={"reduction_factor": 2, "trials": 0}.get(name, 1))
        check_margin(self.margin)
        check_mapping(f"space {self.name}: `base`", self.base)
        check_mapping(f"space {self.name}: `axes`", self.axes)
        check_reference(f"space {self.name}: `reference`", self.reference)
        for name, values in self.axes.items():
            if not isinstance(values, list | tuple) or not values:
                raise ValueError(f"space {self.name}: axis {name} is {values!r}; give a tuple of one value or more")

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Cells of the grid, in the order of the table. Each access makes them again.

        Raises:
            ValueError: The grid fails on these axes, or returns no cells, too many, or two of the same name.
        """
        try:
            cells = tuple(islice(self.grid(self.axes), _MAX_CELLS + 1))
        except ValueError:
            raise
        except Exception as error:  # the grid is the space's own code, and may fail at values that the user gave
            axes = "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in self.axes.items()) or "none"
            raise ValueError(
                f"space {self.name} cannot make its cells from these axes: {axes} ({type(error).__name__}: {error})"
            ) from None
        for cell in cells:
            if not isinstance(cell, Cell):
                raise ValueError(f"space {self.name}: its grid returns {cell!r}; it must return Cell objects")
        duplicates = [name for name, count in Counter(cell.name for cell in cells).items() if count > 1]
        if not cells:
            raise ValueError(f"space {self.name} has no cells: its grid must return one or more")
        if duplicates:
            raise ValueError(f"space {self.name} has two cells named {duplicates[0]!r}; give each cell its own name")
        if len(cells) > _MAX_CELLS:
            raise ValueError(f"space {self.name} has more than {_MAX_CELLS:,} cells; give fewer values for its axes")
        return tuple(_without_unsearched_methods(cell) for cell in cells)

    @property
    def max_steps(self) -> int:
        return int(self.base.get("max_steps", 5000))

    def stopping_rule(self) -> StoppingRule:
        """Return a new instance of the stopping rule, for the trials of one stratum."""
        rule_settings = {name: getattr(self, name) for name in ("grace_steps", "reduction_factor", "max_steps")}
        return stopping.get(self.stopping)(**rule_settings)

    def decision_steps(self, eval_every: int | None = None) -> list[int]:
        """Return the steps at which a trial that is evaluated every `eval_every` steps may be stopped."""
        every = eval_every or int(self.base.get("eval_every", 100))
        first_step = first_evaluation(self.max_steps, every, self.base.get("restarts"))
        return sorted({max(step, first_step) for step in self.stopping_rule().decision_steps(every)})

    def expected_steps(self, position: int) -> float:
        """Return the expected steps of the search trial at a position (from 1), if all trials are equally good."""
        every = int(self.base.get("eval_every", 100))
        first_step = first_evaluation(self.max_steps, every, self.base.get("restarts"))
        return max(float(first_step), self.stopping_rule().expected_steps(position, every))

    def config(self, cell: Cell, point: Mapping[str, Any], *, seed: int) -> TrialConfig:
        """Return the configuration of a cell's trial at one point of its ranges.

        A value for one method (`lora.rank`) takes precedence over a value for all methods. A length, a rank or an
        option of the base is left out if the method does not have it. A searched rank above the maximum for the length
        is lowered to that maximum.
        """
        values = {**self.base, **cell.fixed, **point, "seed": seed}
        method = methods.get(values.get("method"))
        prefix = f"{method.name}."
        method_values = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
        values = {name: value for name, value in values.items() if "." not in name} | method_values
        fields = {name: value for name, value in values.items() if name in CONFIG_FIELDS}
        # Only options of the base are dropped. A wrong option of a cell or point stays, so that TrialConfig refuses it.
        option_names = {*method.OPTIONS, *cell.fixed, *point} - {*CONFIG_FIELDS}
        options = {name: value for name, value in values.items() if name in option_names}
        if not method.uses_length:
            fields.pop("length", None)
        if not method.uses_rank:
            fields.pop("rank", None)
        elif searched_names(cell, "rank") and isinstance(fields.get("rank"), int):
            max_rank = method.largest_rank(fields.get("length"))
            fields["rank"] = min(fields["rank"], max_rank) if isinstance(max_rank, int) else fields["rank"]
        given_options = fields.pop("options", {})
        all_options = {**given_options, **options} if isinstance(given_options, Mapping) else given_options
        return TrialConfig.from_dict({**fields, "options": all_options})

    def sample_config(self, cell: Cell) -> TrialConfig:
        """Return a valid trial of the cell, for planning: at the first point if there is one, else at the low ends."""
        return self.config(cell, {**self.low_ends(cell), **(cell.first[0] if cell.first else {})}, seed=0)

    @staticmethod
    def low_ends(cell: Cell) -> dict[str, Any]:
        """Return the point at the low ends of a cell's ranges; for a list, its first value."""
        return {
            name: searched_range.values[0] if isinstance(searched_range, Choice) else searched_range.low
            for name, searched_range in cell.search.items()
        }

    def largest_configs(self, cell: Cell) -> list[TrialConfig]:
        """Return one trial for each method that the cell searches, at the high ends of the ranges."""
        point = self.low_ends(cell)  # a list of names keeps its first value
        for name, searched_range in cell.search.items():
            if not isinstance(searched_range, Choice):
                point[name] = searched_range.high
            elif all(isinstance(value, int) for value in searched_range.values):
                point[name] = max(searched_range.values)
        choice = cell.search.get("method")
        method_names = choice.values if isinstance(choice, Choice) else [{**self.base, **cell.fixed}.get("method")]
        return [self.config(cell, {**point, "method": name}, seed=0) for name in method_names]

    def sample_configs(self, cell: Cell) -> list[TrialConfig]:
        """Return the sample trial of a cell with each backbone, task and precision that the cell searches."""
        configs = [self.sample_config(cell)]
        for name in ("backbone", "task", "precision"):
            values = getattr(cell.search.get(name), "values", None)
            if values:
                configs = [config.replace(**{name: value}) for config in configs for value in values]
        return configs

    @property
    def all_sample_configs(self) -> list[TrialConfig]:
        """The result of `sample_configs` for all cells, in their order."""
        return [config for cell in self.cells for config in self.sample_configs(cell)]

    def mismatch_reason(self, cell: Cell, config: TrialConfig) -> str:
        """Return the reason why a trial does not belong to the cell; an empty text if it does belong."""
        point = point_of(cell, config)
        for name, value in point.items():
            if value not in cell.search[name]:
                return f"{name} {value!r} is outside {cell.search[name]}"
        try:
            expected_config = self.config(cell, point, seed=config.seed)
        except ValueError as error:
            return str(error)
        actual, expected = config.to_dict(), expected_config.to_dict()
        # In a run of an earlier version, an option may have its former default.
        for name, former_default in methods.get(config.method).FORMER_DEFAULTS.items():
            if (expected["options"].get(name), actual["options"].get(name)) == (None, former_default):
                expected["options"][name] = former_default
        for name in RESOLVED_FIELDS if expected["precision"] == "auto" else RESOLVED_FIELDS[:2]:
            actual[name] = expected[name]
        for name in _FOLDER_FIELDS:  # folders compare by their names, as in a trial's key
            actual[name], expected[name] = Path(actual[name]).name, Path(expected[name]).name
        names = (name for name in expected if actual[name] != expected[name])
        return next((f"{name} {actual[name]!r}, not {expected[name]!r}" for name in names), "")

    def stratum(self, cell: Cell, config: TrialConfig) -> str:
        """Return the name of a trial's stratum, the group of trials with which it competes."""
        if not self.by_size:
            return cell.name
        max_count = 2 ** math.ceil(math.log2(methods.counts_of(config).trainable))
        return f"{max_count // 2 + 1:,}–{max_count:,} parameters"

    def to_dict(self) -> dict[str, Any]:
        """Return the space as a JSON object, for the manifest."""
        return {
            "name": self.name,
            "title": self.title,
            "profile": self.profile,
            "base": dict(self.base),
            "reference": dict(self.reference),
            "cells": [
                {
                    "name": cell.name,
                    "config": {**self.base, **cell.fixed},
                    "search": {name: str(searched_range) for name, searched_range in cell.search.items()},
                    "first": [dict(point) for point in cell.first],
                }
                for cell in self.cells
            ],
            "margin": self.margin,
            "by_size": self.by_size,
            "trials_per_cell": self.trials,
            "confirm_seeds": self.confirm_seeds,
            "grace_steps": self.grace_steps,
            "reduction_factor": self.reduction_factor,
            **{name: getattr(self, name) for name in PLUGIN_DEFAULTS if getattr(self, name) != PLUGIN_DEFAULTS[name]},
        }

    def identity(self) -> str:
        """Return a hash of the space. If the run's manifest has the same hash, no setting needs to be compared."""
        not_hashed = ("confirm_seeds", "title", "sampler", "reference", "margin")
        settings = {name: value for name, value in without_paths(self.to_dict()).items() if name not in not_hashed}
        # The content of a task's folder can change while its name stays the same.
        configs = [config for config in map(self.sample_config, self.cells) if Path(config.task).is_absolute()]
        folder_contents = {name_without_path(config.task): [config.template, config.label_words] for config in configs}
        settings |= {"folders": folder_contents} if folder_contents else {}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def without_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of `Space.to_dict`, or a part of it, with task and backbone folders cut to their names."""
    result: dict[str, Any] = {}
    for name, value in settings.items():
        if name == "search" and isinstance(value, Mapping):
            result[name] = {
                key: ", ".join(map(name_without_path, str(text).split(", "))) if key in _FOLDER_FIELDS else text
                for key, text in value.items()
            }
        elif isinstance(value, Mapping):
            result[name] = without_paths(value)
        elif isinstance(value, list):
            result[name] = [without_paths(item) if isinstance(item, Mapping) else item for item in value]
        else:
            result[name] = name_without_path(value) if name in _FOLDER_FIELDS and isinstance(value, str) else value
    return result


def _without_unsearched_methods(cell: Cell) -> Cell:
    """Return the cell without the ranges and first points of methods that are not in its list of methods."""
    choice = cell.search.get("method")
    if not isinstance(choice, Choice):
        return cell
    names = choice.values
    search = {name: item for name, item in cell.search.items() if "." not in name or name.partition(".")[0] in names}
    first = tuple(point for point in cell.first if point.get("method", names[0]) in names)
    return dataclasses.replace(cell, search=search, first=first)


def point_of(cell: Cell, config: TrialConfig) -> dict[str, Any]:
    """Return a trial's values of the searched fields of a cell, without those that belong to another method."""
    point = {}
    for name in cell.search:
        method_name, dot, field_name = name.rpartition(".")
        if not dot or config.method == method_name:
            value = getattr(config, field_name, None) if field_name in CONFIG_FIELDS else config.options.get(field_name)
            if value is not None:
                point[name] = value
    return point


def searched_names(cell: Cell, field_name: str) -> list[str]:
    """Return the names under which a cell searches a field, such as `rank`, or `lora.rank` and `dept.rank`."""
    return [name for name in cell.search if name.rpartition(".")[2] == field_name]


def learning_rates(method_name: str) -> tuple[dict[str, Range], dict[str, Any]]:
    """Return the ranges of a method's learning rates, and the point of its recipe, which is to be tried first."""
    method = methods.get(method_name)
    ranges = {name: rate_range for name, rate_range in method.ranges.items() if name.endswith("learning_rate")}
    options = {name: method.OPTIONS[name] for name in ranges if name in method.OPTIONS}
    return ranges, {"learning_rate": method.recipe.learning_rate} | options


@dataclass(frozen=True)
class Spec:
    """`SPEC` of a space module: the space's name, and the function that builds it for a profile."""

    name: str
    build: Callable[[str], Space]
