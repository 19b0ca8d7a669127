"""Handle Ctrl-C, SIGTERM and SIGHUP. Batch systems and spot machines send SIGTERM, a terminal that is lost SIGHUP.

The first signal lets the command save its trials before it ends. The second ends it at once.
"""

import contextlib
import os
import signal
import stat
from collections.abc import Callable
from types import FrameType

from lopt.exit_codes import INTERRUPTED

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def install_handlers() -> None:
    """From now on, raise KeyboardInterrupt at the first signal and end the process at the second.

    A signal that this process was told to ignore when it was started (by nohup, for example) stays ignored.
    """
    _set_handler(_on_first_signal)


def _set_handler(handler: Callable[[int, FrameType | None], None]) -> None:
    for signal_number in _SIGNALS:
        if signal.getsignal(signal_number) is not signal.SIG_IGN:
            signal.signal(signal_number, handler)


def _on_first_signal(signal_number: int, frame: FrameType | None) -> None:
    _set_handler(_on_second_signal)
    if signal_number == signal.SIGHUP:
        _discard_output_to_terminal()
    raise KeyboardInterrupt


def _discard_output_to_terminal() -> None:
    """Discard further output to the terminal, because it is gone, and each print would fail."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):  # `os.isatty` says no for a terminal that is gone
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _on_second_signal(signal_number: int, frame: FrameType | None) -> None:
    # As after a crash, nothing is tidied up, but no finished trial is lost.
    os.write(2, b"\nended at once; the same command without --fresh continues the run\n")
    os._exit(INTERRUPTED)
