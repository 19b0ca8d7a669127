"""The order in which trials begin, in a sweep and in the forecast of a sweep.

Confirm trials come first, then search trials that have begun before, then new search trials of the cells in turn, so
that all cells progress equally.
"""

from collections import deque
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

WaitingTrial = TypeVar("WaitingTrial")  # in the sweep a `QueuedTrial`; in the forecast a `Cost`
AnyCell = TypeVar("AnyCell", bound="CellCounts")


@dataclass(eq=False)
class CellCounts:
    """How many of a cell's trials are planned, have begun, run, or wait.

    Attributes:
        planned_count: planned search trials.
        started_count: search trials that have begun.
        running_count: search and confirm trials that run.
        repeat_count: search trials that have begun before and wait to be tried again or to continue.
        has_queued_confirm_trials: whether the cell's confirm trials have been queued.
    """

    planned_count: int
    started_count: int = 0
    running_count: int = 0
    repeat_count: int = 0
    has_queued_confirm_trials: bool = False

    @property
    def is_search_over(self) -> bool:
        """Whether the search is over: no search trial is left and no trial runs."""
        return self.started_count >= self.planned_count and not self.running_count and not self.repeat_count


class Turn(NamedTuple, Generic[AnyCell, WaitingTrial]):
    """The trial whose turn it is. `waiting_trial` is a queued trial, or None if a new search trial is to be made."""

    cell: AnyCell
    phase: str
    waiting_trial: WaitingTrial | None


class Turns(Generic[AnyCell, WaitingTrial]):
    """The trials of all cells that wait for their turn. As a boolean, it is true if a trial waits."""

    def __init__(self, cells: list[AnyCell]) -> None:
        self.cells = cells
        self.confirm_trials: deque[tuple[AnyCell, WaitingTrial]] = deque()
        self.repeat_trials: deque[tuple[AnyCell, WaitingTrial]] = deque()

    def __bool__(self) -> bool:
        has_new_trial = any(cell.started_count < cell.planned_count for cell in self.cells)
        return bool(self.confirm_trials or self.repeat_trials or has_new_trial)

    def put_back(self, cell: AnyCell, phase: str, waiting_trial: WaitingTrial) -> None:
        """Queue a trial that has begun before; a confirm trial goes to the front of the confirm trials."""
        if phase == "confirm":
            self.confirm_trials.appendleft((cell, waiting_trial))
        else:
            cell.repeat_count += 1
            self.repeat_trials.append((cell, waiting_trial))

    def take_next(self) -> Turn[AnyCell, WaitingTrial] | None:
        """Remove the trial whose turn it is from those that wait, and return it; None if no trial waits."""
        if self.confirm_trials:
            cell, waiting_trial = self.confirm_trials.popleft()
            return Turn(cell, "confirm", waiting_trial)
        if self.repeat_trials:
            cell, waiting_trial = self.repeat_trials.popleft()
            cell.repeat_count -= 1
            return Turn(cell, "search", waiting_trial)
        cells_with_new_trials = [cell for cell in self.cells if cell.started_count < cell.planned_count]
        if not cells_with_new_trials:
            return None
        # Among equals, `min` takes the first cell.
        cell = min(cells_with_new_trials, key=lambda cell: cell.started_count)
        cell.started_count += 1
        return Turn(cell, "search", None)
