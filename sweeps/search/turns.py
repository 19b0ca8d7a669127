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
        planned_count: planned search trials.
        started_count: search trials that have begun.
        running_count: trials that run, search and confirm trials together.
        repeat_count: search trials that have begun before and wait for their turn, to be tried again or to continue.
        confirming: whether the cell's confirm trials have been queued.
    """

    planned_count: int
    started_count: int = 0
    running_count: int = 0
    repeat_count: int = 0
    confirming: bool = False

    @property
    def searched(self) -> bool:
        """Whether the search is over: no search trial is left and no trial runs."""
        return self.started_count >= self.planned_count and not self.running_count and not self.repeat_count


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
        return bool(self.confirm or self.repeat or any(cell.started_count < cell.planned_count for cell in self.cells))

    def put_back(self, cell: AnyCell, phase: str, waiting: Waiting) -> None:
        """Queue a trial that has begun before; a confirm trial goes to the front of the confirm trials."""
        if phase == "confirm":
            self.confirm.appendleft((cell, waiting))
        else:
            cell.repeat_count += 1
            self.repeat.append((cell, waiting))

    def next(self) -> Turn[AnyCell, Waiting] | None:
        """Remove the trial whose turn it is from the queue and return it; None if no trial waits."""
        if self.confirm:
            cell, waiting = self.confirm.popleft()
            return Turn(cell, "confirm", waiting)
        if self.repeat:
            cell, waiting = self.repeat.popleft()
            cell.repeat_count -= 1
            return Turn(cell, "search", waiting)
        open_cells = [cell for cell in self.cells if cell.started_count < cell.planned_count]
        if not open_cells:
            return None
        cell = min(open_cells, key=lambda cell: cell.started_count)  # `min` takes the first cell among equals
        cell.started_count += 1
        return Turn(cell, "search", None)
