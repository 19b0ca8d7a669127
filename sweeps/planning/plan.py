"""What a sweep will run, without network or weights."""

from collections import Counter
from dataclasses import dataclass

from lopt import methods
from lopt.config import TrialConfig
from sweeps.planning.points import trials_of
from sweeps.space import Space


@dataclass(frozen=True)
class CellPlan:
    """One cell: an example of its trials, and its parameter counts (None where method or shape is searched)."""

    name: str
    example: TrialConfig
    counts: methods.Counts | None
    search: dict[str, str]
    trials: int


@dataclass(frozen=True)
class Plan:
    """All cells, and the totals."""

    space: Space
    cells: tuple[CellPlan, ...]

    @property
    def search_trials(self) -> int:
        return sum(cell.trials for cell in self.cells)

    @property
    def confirm_trials(self) -> int | None:
        """None in a free search: one for each size found and each seed."""
        return None if self.space.by_size else len(self.cells) * self.space.confirm_seeds

    @property
    def most_steps(self) -> int:
        """Steps if no trial stopped early."""
        return (self.search_trials + (self.confirm_trials or 0)) * self.space.max_steps

    @property
    def expected_steps(self) -> float:
        """Steps on average, if the trials of a cell are equally good."""
        searched = sum(
            cells * sum(self.space.expected_steps(n + 1) for n in range(trials))
            for trials, cells in Counter(cell.trials for cell in self.cells).items()
        )
        return searched + (self.confirm_trials or 0) * self.space.max_steps


def make_plan(space: Space) -> Plan:
    """Plans a space; every cell's configuration is validated on the way.

    Raises:
        ValueError: a cell that no trial could run; a backbone of which nothing is known offline.
    """
    cells = []
    for cell in space.cells:
        example = space.example(cell)
        open_shape = {"method", "length", "rank"} & {name.rpartition(".")[2] for name in cell.search}
        cells.append(
            CellPlan(
                name=cell.name,
                example=example,
                counts=None if open_shape else methods.counts_of(example),
                search={name: str(r) for name, r in cell.search.items()},
                trials=trials_of(space, cell),
            )
        )
    return Plan(space, tuple(cells))
