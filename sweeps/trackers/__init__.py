"""Trackers: what follows a sweep from outside, chosen with `--track NAME`, several if wanted.

One module a tracker, with the class as its `SPEC`. A tracker that raises is named once and hears no more; the sweep
goes on without it.
"""

from __future__ import annotations

import functools
import sys
from abc import ABC
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from lopt import registry
from lopt.errors import one_line
from sweeps.listener import EVENTS, Listener

if TYPE_CHECKING:
    from sweeps.results.store import Store
    from sweeps.space import Space


class Tracker(Listener, ABC):
    """Base of all trackers: a listener that is made with the run's store and its space.

    Raises:
        ValueError: it cannot follow this run.
    """

    name: ClassVar[str]

    def __init__(self, store: Store, space: Space) -> None:
        self.store, self.space = store, space


class _Harmless(Listener):
    """Passes everything on to a tracker until that raises."""

    def __init__(self, tracker: Tracker) -> None:
        self._failed = False
        for event in EVENTS:
            setattr(self, event, functools.partial(self._tell, tracker.name, getattr(tracker, event)))

    def _tell(self, name: str, event: Callable[..., None], *arguments: Any) -> None:
        if self._failed:
            return
        try:
            event(*arguments)
        except Exception as error:
            self._failed = True
            print(f"tracker {name} failed and is left: {type(error).__name__}: {one_line(error)}", file=sys.stderr)


def start(names: Iterable[str], store: Store, space: Space) -> list[Listener]:
    """The trackers of these names, each once.

    Raises:
        ValueError: an unknown name, or a tracker that cannot follow this run.
    """
    return [_Harmless(get(name)(store, space)) for name in dict.fromkeys(names)]


def get(name: object) -> type[Tracker]:
    """The tracker of that name; ValueError lists the valid ones."""
    return registry.find("sweeps.trackers", name, "tracker")
