"""The order in which trials begin, in a sweep and in the forecast of a sweep.

Confirm trials come first, then search trials that have begun before, then new search trials of the cells in turn, so
that all cells progress equally.
"""

from collections import deque
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

Waiting = TypeVar("Waiting")  # represents a trial that waits: the sweep and the forecast have types of their own
AnyCell = TypeVar("AnyCell", bound="CellTurns")


@dataclass(eq=False)
class CellTurns:
    """The numbers of a cell's trials.

    Attributes:
        trials: number of planned search trials.
        started: number of search trials that have begun.
        running: number of trials that run, search and confirm trials together.
        to_repeat: number of search trials that have begun before and wait for their turn, to be tried again or to
            continue.
        confirming: whether the cell's confirm trials have been queued.
    """

    trials: int
    started: int = 0
    running: int = 0
    to_repeat: int = 0
    confirming: bool = False

    @property
    def searched(self) -> bool:
        """Whether the search is over: no search trial is left and no trial runs."""
        return self.started >= self.trials and not self.running and not self.to_repeat


class Turn(NamedTuple, Generic[AnyCell, Waiting]):
    """The trial whose turn it is. `waiting` is the queued trial, or None for a new search trial."""

    cell: AnyCell
    phase: str
    waiting: Waiting | None


class Turns(Generic[AnyCell, Waiting]):
    """The trials of all cells that wait for their turn; true if there is one."""

    def __init__(self, cells: list[AnyCell]) -> None:
        self.cells = cells
        self.confirm: deque[tuple[AnyCell, Waiting]] = deque()
        self.repeat: deque[tuple[AnyCell, Waiting]] = deque()

    def __bool__(self) -> bool:
        return bool(self.confirm or self.repeat or any(cell.started < cell.trials for cell in self.cells))

    def put_back(self, cell: AnyCell, phase: str, waiting: Waiting) -> None:
        """Queue a trial that has begun before; a confirm trial goes to the front of the confirm trials."""
        if phase == "confirm":
            self.confirm.appendleft((cell, waiting))
        else:
            cell.to_repeat += 1
            self.repeat.append((cell, waiting))

    def next(self) -> Turn[AnyCell, Waiting] | None:
        """Remove the trial whose turn it is from the queue and return it; None if no trial waits."""
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
        cell = min(open_cells, key=lambda cell: cell.started)  # `min` takes the first cell among equals
        cell.started += 1
        return Turn(cell, "search", None)
