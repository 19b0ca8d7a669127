"""The order in which trials begin, in a sweep and in the forecast of a sweep.

Confirm trials come first, then search trials that have begun before, then new search trials of the cells in turn, so
that all cells progress equally.
"""

from collections import deque
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")  # what waits for its turn: in the sweep a `QueuedTrial`; in the forecast the `Cost` of a trial
AnySearch = TypeVar("AnySearch", bound="CellCounts")


@dataclass(eq=False)
class CellCounts:
    """How many of a cell's trials are planned, have begun, run, or wait.

    Attributes:
        planned_count: planned search trials.
        started_count: search trials that have begun.
        running_count: search and confirm trials that run.
        requeued_count: search trials that have begun before and wait to be tried again or to continue.
        has_queued_confirm_trials: whether the cell's confirm trials have been queued.
    """

    planned_count: int
    started_count: int = 0
    running_count: int = 0
    requeued_count: int = 0
    has_queued_confirm_trials: bool = False

    @property
    def is_search_over(self) -> bool:
        """Whether the search is over: no search trial is left and no trial runs."""
        return self.started_count >= self.planned_count and not self.running_count and not self.requeued_count


class Turn(NamedTuple, Generic[AnySearch, Item]):
    """The trial whose turn it is. `waiting_item` is None if a new search trial is to be made."""

    cell_search: AnySearch
    phase: str
    waiting_item: Item | None


class Turns(Generic[AnySearch, Item]):
    """The trials of all cells that wait for their turn. As a boolean, it is true if a trial waits."""

    def __init__(self, cell_searches: list[AnySearch]) -> None:
        self.cell_searches = cell_searches
        self.confirm_items: deque[tuple[AnySearch, Item]] = deque()
        self.requeued_items: deque[tuple[AnySearch, Item]] = deque()

    def __bool__(self) -> bool:
        has_new_trial = any(search.started_count < search.planned_count for search in self.cell_searches)
        return bool(self.confirm_items or self.requeued_items or has_new_trial)

    def put_back(self, cell_search: AnySearch, phase: str, waiting_item: Item) -> None:
        """Queue a trial that has begun before; a confirm trial goes to the front of the confirm trials."""
        if phase == "confirm":
            self.confirm_items.appendleft((cell_search, waiting_item))
        else:
            cell_search.requeued_count += 1
            self.requeued_items.append((cell_search, waiting_item))

    def take_next(self) -> Turn[AnySearch, Item] | None:
        """Remove the trial whose turn it is from those that wait, and return it; None if no trial waits."""
        if self.confirm_items:
            cell_search, waiting_item = self.confirm_items.popleft()
            return Turn(cell_search, "confirm", waiting_item)
        if self.requeued_items:
            cell_search, waiting_item = self.requeued_items.popleft()
            cell_search.requeued_count -= 1
            return Turn(cell_search, "search", waiting_item)
        searches_with_new_trials = [
            search for search in self.cell_searches if search.started_count < search.planned_count
        ]
        if not searches_with_new_trials:
            return None
        # Among equals, `min` takes the first one.
        cell_search = min(searches_with_new_trials, key=lambda search: search.started_count)
        cell_search.started_count += 1
        return Turn(cell_search, "search", None)
