"""Whose turn it is: first winners to confirm, then trials to try again, then the cells one after another, so that every
cell gets its equal number of trials. Sweeps and forecasts of sweeps go by it.
"""

from collections import deque
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

Waiting = TypeVar("Waiting")  # what is known of a trial that waits
AnyCell = TypeVar("AnyCell", bound="CellTurns")


@dataclass(eq=False)
class CellTurns:
    """A cell's trials, counted.

    trials: planned search trials. started: how many of them have begun. running: trials of any phase. to_repeat: search
    trials that wait to be tried again, or to go on. confirming: whether its winners have been queued.
    """

    trials: int
    started: int = 0
    running: int = 0
    to_repeat: int = 0
    confirming: bool = False

    @property
    def searched(self) -> bool:
        """Whether no trial of its search is left or running."""
        return self.started >= self.trials and not self.running and not self.to_repeat


class Turn(NamedTuple, Generic[AnyCell, Waiting]):
    """One trial. waiting: what waited for it; None for a new search trial."""

    cell: AnyCell
    phase: str
    waiting: Waiting | None


class Turns(Generic[AnyCell, Waiting]):
    """The trials of all cells that wait for their turn."""

    def __init__(self, cells: list[AnyCell]) -> None:
        self.cells = cells
        self.confirm: deque[tuple[AnyCell, Waiting]] = deque()
        self.repeat: deque[tuple[AnyCell, Waiting]] = deque()

    def __bool__(self) -> bool:
        return bool(self.confirm or self.repeat or any(cell.started < cell.trials for cell in self.cells))

    def put_back(self, cell: AnyCell, phase: str, waiting: Waiting) -> None:
        """Queues a trial that has been begun before, a confirm trial in front of the others."""
        if phase == "confirm":
            self.confirm.appendleft((cell, waiting))
        else:
            cell.to_repeat += 1
            self.repeat.append((cell, waiting))

    def next(self) -> Turn[AnyCell, Waiting] | None:
        """The trial that begins now; None when none waits."""
        if self.confirm:
            cell, waiting = self.confirm.popleft()
            return Turn(cell, "confirm", waiting)
        if self.repeat:
            cell, waiting = self.repeat.popleft()
            cell.to_repeat -= 1
            return Turn(cell, "search", waiting)
        open_cells = [cell for cell in self.cells if cell.started < cell.trials]
        if not open_cells:
            return None
        cell = min(open_cells, key=lambda cell: cell.started)  # `min` keeps the cells' order among equals
        cell.started += 1
        return Turn(cell, "search", None)
