"""The plan of a sweep: what it will run, known without network or weights."""

from collections import Counter
from dataclasses import dataclass

from lopt import methods
from lopt.config import TrialConfig
from sweeps.planning.points import trial_count
from sweeps.space import Space


@dataclass(frozen=True)
class CellPlan:
    """The plan of one cell.

    Attributes:
        sample_trial: One of its trials.
        counts: Parameter counts of its trials; None if method or shape is searched.
        search: Range of each searched field, in words.
        trials: Number of search trials.
    """

    name: str
    sample_trial: TrialConfig
    counts: methods.Counts | None
    search: dict[str, str]
    trials: int


@dataclass(frozen=True)
class Plan:
    """The plan of all cells, and totals."""

    space: Space
    cells: tuple[CellPlan, ...]

    @property
    def search_trials(self) -> int:
        """Number of search trials."""
        return sum(cell.trials for cell in self.cells)

    @property
    def confirm_trials(self) -> int | None:
        """Number of confirm trials; None in a free search, which confirms a winner of each size that it finds."""
        return None if self.space.by_size else len(self.cells) * self.space.confirm_seeds

    @property
    def most_steps(self) -> int:
        """Number of steps if no trial stops early."""
        return (self.search_trials + (self.confirm_trials or 0)) * self.space.max_steps

    @property
    def expected_steps(self) -> float:
        """Average number of steps if the trials of a cell are equally good."""
        search_steps = sum(
            cells * sum(self.space.expected_steps(position) for position in range(1, trials + 1))
            for trials, cells in Counter(cell.trials for cell in self.cells).items()
        )
        return search_steps + (self.confirm_trials or 0) * self.space.max_steps


def make_plan(space: Space) -> Plan:
    """Return the plan of a space; this validates the configuration of every cell.

    Raises:
        ValueError: No trial could run a cell, or nothing is known offline about a backbone.
    """
    cells = []
    for cell in space.cells:
        sample_trial = space.sample_trial(cell)
        shape_is_searched = {"method", "length", "rank"} & {name.rpartition(".")[2] for name in cell.search}
        cells.append(
            CellPlan(
                name=cell.name,
                sample_trial=sample_trial,
                counts=None if shape_is_searched else methods.counts_of(sample_trial),
                search={name: str(searched) for name, searched in cell.search.items()},
                trials=trial_count(space, cell),
            )
        )
    return Plan(space, tuple(cells))
