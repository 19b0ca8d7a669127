"""Lanes run passes side by side. A lane is a Python thread with a share of torch's threads. Torch's threads often wait
for one another if all of them work on one small pass, and less if they work on several passes at once.

Results do not depend on which lane is first, because `lopt.engine` always adds the gradients of passes in one order.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Self, TypeVar

import torch

from lopt.backbones import Backbone

MAX_LANES = 4
Item = TypeVar("Item")


class Lanes:
    """Threads that run passes of a backbone.

    Args:
        count: number of lanes. None means one lane for each of torch's threads, but at most four. If the device is not
            a CPU, or the backbone does not allow passes side by side, None means one lane: the caller's own thread.
    """

    def __init__(self, backbone: Backbone, count: int | None = None) -> None:
        needs_one_lane = backbone.device.type != "cpu" or not backbone.allows_parallel_passes
        self.count = count or (1 if needs_one_lane else min(torch.get_num_threads(), MAX_LANES))
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, function: Callable[[Item], None], items: Iterable[Item]) -> None:
        """Call `function` on every item, each in whichever lane is free.

        If a call raises, items that have not begun are skipped, and the exception is raised here once all lanes have
        stopped.
        """
        waiting_items = list(items)
        item_iterator = iter(waiting_items)  # shared by all lanes; it ends when the list is cleared

        def run_lane() -> None:
            try:
                for item in item_iterator:
                    function(item)
            except BaseException:
                waiting_items.clear()
                raise

        lane_count = min(self.count, len(waiting_items))
        if lane_count < 2:
            run_lane()
            return
        futures = [self._thread_pool().submit(run_lane) for _ in range(lane_count)]
        try:
            wait(futures)
        finally:  # also after Ctrl-C
            waiting_items.clear()
            wait(futures)
        for future in futures:
            future.result()

    def _thread_pool(self) -> ThreadPoolExecutor:
        if self._pool is None:
            threads_per_lane = max(1, torch.get_num_threads() // self.count)
            self._pool = ThreadPoolExecutor(
                self.count,
                thread_name_prefix="lane",
                initializer=torch.set_num_threads,
                initargs=(threads_per_lane,),
            )
        return self._pool
