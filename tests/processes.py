"""A help for tests that start processes: these must not depend on how the tests were started."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def usual_signals() -> Iterator[None]:
    """Make processes that are started in this context react to SIGINT, SIGTERM and SIGHUP.

    Tests that run in the background of a script ignore these signals, and their processes would inherit that.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
