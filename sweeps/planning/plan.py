"""The plan of a sweep, which says what will run. Making it needs neither a network nor weights."""

from dataclasses import dataclass
from functools import cached_property

from analysis.group_sequential import SequentialDesign
from lopt import methods
from lopt.config import TrialConfig
from lopt.restarts import check_step
from sweeps.planning.points import search_trial_count
from sweeps.space import Space


@dataclass(frozen=True)
class CellPlan:
    """The plan of one cell.

    Attributes:
        sample_config: Configuration of one of its trials.
        parameter_counts: Parameter counts of its trials; None if the method or the shape is searched.
        search: Range of each searched field, as text, by the field's name.
        trial_count: Number of search trials.
    """

    name: str
    sample_config: TrialConfig
    parameter_counts: methods.Counts | None
    search: dict[str, str]
    trial_count: int


@dataclass(frozen=True)
class Plan:
    """The plans of all cells, and their totals.

    Attributes:
        design: the looks of a sweep that adds seeds until it is decided, else None. The first look is at the confirm
            seeds of the space.
    """

    space: Space
    cells: tuple[CellPlan, ...]
    design: SequentialDesign | None = None

    @property
    def search_trial_count(self) -> int:
        """Number of search trials."""
        return sum(cell.trial_count for cell in self.cells)

    @property
    def first_trial_count(self) -> int:
        """Number of trials that can run at the beginning: the search trials, or, without any, the confirm trials."""
        return self.search_trial_count or self.confirm_trial_count or 0

    @property
    def confirm_trial_count(self) -> int | None:
        """Number of confirm trials, without those that may be added until it is decided.

        None in a free search, which confirms the winner of each size that occurs.
        """
        return None if self.space.by_size else len(self.cells) * self.space.confirm_seeds

    @property
    def most_seeds(self) -> int:
        """The largest number of confirm seeds of a cell."""
        return self.design.most_seeds if self.design else self.space.confirm_seeds

    @property
    def most_steps(self) -> int:
        """Number of steps if no trial stops early, every trial begins anew as often as it may, and every seed is
        needed."""
        confirm_count = 0 if self.space.by_size else self.most_seeds
        return sum((cell.trial_count + confirm_count) * _most_steps_of(cell.sample_config) for cell in self.cells)

    @property
    def expected_steps(self) -> float:
        """Average number of steps if the trials of a cell are equally good."""
        search_steps = sum(self.search_steps_by_trial_count[cell.trial_count] for cell in self.cells)
        return search_steps + (self.confirm_trial_count or 0) * self.space.max_steps

    @cached_property
    def search_steps_by_trial_count(self) -> dict[int, float]:
        """The average number of steps of all search trials of a cell, by their number."""
        return {
            trial_count: sum(self.space.expected_steps(position) for position in range(1, trial_count + 1))
            for trial_count in {cell.trial_count for cell in self.cells}
        }


def _most_steps_of(config: TrialConfig) -> int:
    return config.max_steps + config.restarts * check_step(config.max_steps)


def make_plan(space: Space) -> Plan:
    """Return the plan of a space, after validating the configuration of every cell.

    Raises:
        ValueError: A cell has settings with which no trial could run, or nothing is known offline about a backbone.
    """
    cell_plans = []
    for cell in space.cells:
        sample_config = space.sample_config(cell)
        searched_shape_fields = {"method", "length", "rank"} & {name.rpartition(".")[2] for name in cell.search}
        cell_plans.append(
            CellPlan(
                name=cell.name,
                sample_config=sample_config,
                parameter_counts=None if searched_shape_fields else methods.counts_of(sample_config),
                search={name: str(searched) for name, searched in cell.search.items()},
                trial_count=search_trial_count(space, cell),
            )
        )
    return Plan(space, tuple(cell_plans))
