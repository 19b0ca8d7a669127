"""Trackers. A tracker follows the trials of a sweep and passes on what happens to them.

Each tracker is one module with the tracker's class as its `SPEC`. `--track NAME` starts it; the option may be
repeated. If a tracker raises an exception, a message names the tracker, it gets no further events, and the sweep
continues.
"""

from __future__ import annotations

import functools
import sys
from abc import ABC
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from lopt import registry
from lopt.errors import to_one_line
from sweeps.listener import EVENTS, Listener

if TYPE_CHECKING:
    from sweeps.results.store import Store
    from sweeps.space import Space


class Tracker(Listener, ABC):
    """Base class of all trackers: a listener with the run's store and space.

    Raises:
        ValueError: The tracker cannot follow this run.
    """

    name: ClassVar[str]

    def __init__(self, store: Store, space: Space) -> None:
        self.store, self.space = store, space


class _GuardedTracker(Listener):
    """A listener that passes every event to a tracker until the tracker raises an exception."""

    def __init__(self, tracker: Tracker) -> None:
        self._has_failed = False
        for event in EVENTS:
            setattr(self, event, functools.partial(self._pass_on, tracker.name, getattr(tracker, event)))

    def _pass_on(self, tracker_name: str, handle_event: Callable[..., None], *arguments: Any) -> None:
        if self._has_failed:
            return
        try:
            handle_event(*arguments)
        except Exception as error:
            self._has_failed = True
            print(
                f"tracker {tracker_name!r} failed; the sweep continues without it: "
                f"{type(error).__name__}: {to_one_line(error)}",
                file=sys.stderr,
            )


def start(names: Iterable[str], store: Store, space: Space) -> list[Listener]:
    """Start the trackers of these names, each once, and return them as listeners.

    Raises:
        ValueError: A name is unknown, or a tracker cannot follow this run.
    """
    return [_GuardedTracker(get(name)(store, space)) for name in dict.fromkeys(names)]


def get(name: object) -> type[Tracker]:
    """Return the tracker of this name.

    Raises:
        ValueError: There is no such tracker; the message lists the valid names.
    """
    return registry.find("sweeps.trackers", name, "tracker")
