"""Passes side by side, each with its share of the processor's threads, which wait for one another less than all of them
do in one pass."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Self, TypeVar

import torch

from lopt.backbones import Backbone

MOST_LANES = 4
T = TypeVar("T")


class Lanes:
    """Threads that run passes of a backbone.

    Args:
        count: None takes what suits the backbone: one for each thread of the process, at most four, where passes may
            run side by side on a processor; else one, which is the caller's own thread.
    """

    def __init__(self, backbone: Backbone, count: int | None = None) -> None:
        alone = backbone.device.type != "cpu" or not backbone.side_by_side
        self.count = count or (1 if alone else min(torch.get_num_threads(), MOST_LANES))
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def each(self, act: Callable[[T], None], pieces: Iterable[T]) -> None:
        """`act` on every piece, by whichever lane is free. What one raises is raised here once no lane works any more;
        pieces that have not begun by then are left out."""
        waiting = list(pieces)
        shared = iter(waiting)

        def lane() -> None:
            try:
                for piece in shared:
                    act(piece)
            except BaseException:
                waiting.clear()
                raise

        count = min(self.count, len(waiting))
        if count < 2:
            lane()
            return
        works = [self._threads().submit(lane) for _ in range(count)]
        try:
            wait(works)
        finally:  # also after Ctrl-C
            waiting.clear()
            wait(works)
        for work in works:
            work.result()

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            each = max(1, torch.get_num_threads() // self.count)
            self._pool = ThreadPoolExecutor(
                self.count, thread_name_prefix="lane", initializer=torch.set_num_threads, initargs=(each,)
            )
        return self._pool
