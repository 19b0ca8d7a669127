"""Ctrl-C, and SIGTERM, which batch systems and spot machines send: the first ends a command in order, the next at
once."""

import os
import signal
from collections.abc import Callable
from types import FrameType

from lopt.exit_codes import INTERRUPTED

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def listen() -> None:
    """From now on the first signal raises KeyboardInterrupt; one that the parent wants ignored (nohup) stays so."""
    _handle_with(_first)


def _handle_with(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _first(number: int, frame: FrameType | None) -> None:
    _handle_with(_second)
    raise KeyboardInterrupt


def _second(number: int, frame: FrameType | None) -> None:
    # Nothing is tidied up, as after a crash, which costs nothing that is finished.
    os.write(2, b"\nended at once; the same command, without --fresh, continues\n")
    os._exit(INTERRUPTED)
