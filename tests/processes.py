"""Processes that tests start: they do not depend on how the tests were started."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def usual_signals() -> Iterator[None]:
    """A process that is started meanwhile ends at SIGINT and SIGTERM; in the background of a script it would inherit
    that they are ignored."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
