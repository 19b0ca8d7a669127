"""Trackers. A tracker follows the trials of a sweep and passes on what happens to them.

Each tracker is one module with the tracker's class as its `SPEC`. `--track NAME` starts it; the option may be
repeated. A tracker works in a thread of its own, so it does not delay the sweep. If it raises an exception, a message
names it, it gets no further events, and the sweep continues.
"""

from __future__ import annotations

import importlib.util
from abc import ABC
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lopt import registry
from sweeps.background import BackgroundCalls
from sweeps.listener import EVENTS, Listener

if TYPE_CHECKING:
    from sweeps.results.store import Store
    from sweeps.space import Space


class Tracker(Listener, ABC):
    """Base class of all trackers: a listener with the run's store and space.

    The constructor only checks, and must be fast. All events are passed on in one thread, in their order.

    Attributes:
        packages: The modules that the tracker imports and that the extra `track` installs.

    Raises:
        ValueError: The tracker cannot follow this run.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()

    def __init__(self, store: Store, space: Space) -> None:
        self.store, self.space = store, space

    def local_folder(self, name: str) -> Path:
        """Return the path of a file or folder in the run.

        Raises:
            ValueError: The run is at a URL.
        """
        if isinstance(self.store.folder, Path):
            return self.store.folder / name
        raise ValueError(
            f"tracker {self.name!r} writes to a folder, which is not possible at a URL: give a folder as --out"
        )


class _BackgroundTracker(Listener):
    """A listener that passes every event to a tracker in another thread, until the tracker raises an exception."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker, self._background = tracker, BackgroundCalls(f"tracker {tracker.name!r}")
        for event in EVENTS:
            if event != "close":
                setattr(self, event, partial(self._pass_on, getattr(tracker, event)))

    def __reduce__(self) -> tuple[type[Listener], tuple[()]]:
        """Ray Tune pickles the supervisor with its listeners. A copy in another process listens to nothing."""
        return Listener, ()

    def _pass_on(self, handle_event: Callable[..., None], *arguments: Any) -> None:
        self._background.post(partial(handle_event, *arguments))

    def close(self) -> None:
        self._background.post(self._tracker.close)
        self._background.close()


def start(names: Iterable[str], store: Store, space: Space) -> list[Listener]:
    """Start the trackers of these names, each once, and return them as listeners.

    Raises:
        ValueError: A name is unknown, or a tracker cannot follow this run.
    """
    return [_BackgroundTracker(get(name)(store, space)) for name in dict.fromkeys(names)]


def get(name: object) -> type[Tracker]:
    """Return the tracker of this name.

    Raises:
        ValueError: There is no such tracker (the message lists the valid names), or its package is not installed.
    """
    tracker: type[Tracker] = registry.find("sweeps.trackers", name, "tracker")
    missing_packages = [package for package in tracker.packages if importlib.util.find_spec(package) is None]
    if missing_packages:
        raise ValueError(
            f"tracker {tracker.name!r} needs {', '.join(missing_packages)}: pip install 'lopt-sweep[track]'"
        )
    return tracker
