"""Calls that are made in a thread of their own, so that a slow disk or server does not delay the sweep."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

from lopt.errors import to_one_line
from lopt.locations import redact_secrets

_MAX_WAITING_CALLS = 20_000
_CLOSE_TIMEOUT_S = 60.0


class BackgroundCalls:
    """Makes calls in their order in another thread. After a call that raises an exception, no further call is made.

    Args:
        name: What makes the calls, for the message about a failure, such as "tracker 'events'".
        after_calls: Is called when no call is waiting any more.
        interval_s: `after_calls` is also called when there was no call for this long. None means that it is not.
        close_timeout_s: How long `close` waits for the calls that have not been made yet.
        is_note: Whether the message about a failure goes to standard output, because it is no error of the command.
    """

    def __init__(
        self,
        name: str,
        *,
        after_calls: Callable[[], None] = lambda: None,
        interval_s: float | None = None,
        close_timeout_s: float = _CLOSE_TIMEOUT_S,
        is_note: bool = False,
    ) -> None:
        self._name, self._after_calls, self._is_note = name, after_calls, is_note
        self._interval_s, self._close_timeout_s = interval_s, close_timeout_s
        self._calls: queue.Queue[Callable[[], Any] | None] = queue.Queue(_MAX_WAITING_CALLS)
        self._has_failed, self._lock = False, threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True, name=name)
        self._thread.start()

    def post(self, call: Callable[[], Any]) -> None:
        """Have the thread make this call after those that were posted before."""
        if self._has_failed:
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._fail(TimeoutError(f"it is {_MAX_WAITING_CALLS:,} events behind"))

    def close(self) -> None:
        """Wait until all posted calls are made, but only for a limited time. Post no call afterwards."""
        if self._has_failed:
            return
        with contextlib.suppress(queue.Full):
            self._calls.put(None, timeout=self._close_timeout_s)
            self._thread.join(self._close_timeout_s)
        if self._thread.is_alive():
            self._fail(TimeoutError(f"it did not finish within {self._close_timeout_s:g} s after the sweep"))

    def _run(self) -> None:
        try:
            while self._make_waiting_calls():
                self._after_calls()
            self._after_calls()
        except Exception as error:
            self._fail(error)

    def _make_waiting_calls(self) -> bool:
        """Wait for a call, make all calls that are waiting, and return whether more may follow."""
        try:
            call = self._calls.get(timeout=self._interval_s)
            while call is not None and not self._has_failed:
                call()
                call = self._calls.get_nowait()
        except queue.Empty:
            return True
        return False

    def _fail(self, error: Exception) -> None:
        with self._lock:
            if self._has_failed:
                return
            self._has_failed = True
        reason = redact_secrets(to_one_line(error))
        message = f"{self._name} failed; the sweep continues without it: {type(error).__name__}: {reason}"
        print(message, file=sys.stdout if self._is_note else sys.stderr, flush=True)
