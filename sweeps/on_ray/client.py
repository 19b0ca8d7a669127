"""A trial's own process, where the trial trains in its device's worker: it asks for each report and passes it on."""

import math
import time
from collections.abc import Generator
from typing import Any

from lopt.errors import cut_short
from sweeps.on_ray.keeper import KEEPER, place
from sweeps.work.execution import Execution
from sweeps.work.job import HANG_S, STEP, Job, Report, overdue

DEATHS = 3  # of workers by themselves, without any step between them: the trial is then the likely cause


class _Overdue(Exception):
    """A trial has had its time. hangs: so does the step that it is in, or what makes it. at_fault: no other trial can
    be the cause. where: it stands, in words, if that is known."""

    def __init__(self, *, hangs: bool, at_fault: bool, where: str = "") -> None:
        super().__init__()
        self.hangs, self.at_fault, self.where = hangs, at_fault, where


def follow(job: Job) -> Generator[Report, None, None]:
    """Reports of a job that trains in the worker of this process's device. When the worker dies, another one goes on
    from the trial's checkpoint. A trial that has had its time and comes to no evaluation has failed; if what hangs is
    the making of the trial, the worker is ended, and if it is a step of several trials, each of them then goes on
    apart: the one at fault is alone."""
    import ray

    keeper, here, key = ray.get_actor(KEEPER), place(), job.key
    # The second where the node is dying, too: no worker can be placed on it.
    death = ray.exceptions.RayActorError, ray.exceptions.ActorUnschedulableError
    reached, deaths = 0, 0
    hangs: Any = 0  # of workers, when this one was had
    while True:
        ends_at = time.monotonic() + (job.limit_s or math.inf) + HANG_S
        try:
            hangs = ray.get(keeper.hangs.remote(*here))
            apart = hangs > 0 or deaths == DEATHS - 1
            worker: Any = ray.get(keeper.worker.remote(*here, key))
            name = _answer(worker, worker.admit.remote(job, apart), key, ends_at, apart)
            try:
                while (report := _answer(worker, worker.next.remote(name), name, ends_at, apart)) is not None:
                    if report[STEP] > reached:
                        reached, deaths = report[STEP], 0
                    yield report
                    if report["status"] != "running":
                        return
            finally:
                worker.evict.remote(name)  # not waited for: Ray gives this process two seconds to take the next trial
        except _Overdue as late:
            if late.hangs:
                ray.get(keeper.end.remote(*here, hangs))
            if late.at_fault:
                assert job.limit_s is not None
                where = late.where or f"came to no evaluation after step {reached:,}"
                yield Execution(job).fail(TimeoutError(overdue(job.limit_s, where)))
                return
        except death as error:
            deaths += ray.get(keeper.hangs.remote(*here)) == hangs  # else it was ended because another trial hung
            if deaths == DEATHS:
                reason = cut_short(" ".join(str(error).split()))
                words = f"the worker died {DEATHS} times, the last time after step {reached:,} ({reason})"
                yield Execution(job).fail(RuntimeError(words))
                return
            time.sleep(1)  # until the keeper knows of it, too


def _answer(worker: Any, asked: Any, name: str, ends_at: float, apart: bool) -> Any:
    """What a worker answers to `asked`: the name of a trial that is to be made, known by its key before that, or a
    trial's next report. One that is being scored, or waits for others to be made or to make steps, may take longer.

    Raises:
        _Overdue: its time is over.
    """
    import ray

    left = None if math.isinf(ends_at) else max(0.0, ends_at - time.monotonic())
    while True:
        try:
            return ray.get(asked, timeout=left)
        except ray.exceptions.GetTimeoutError:
            left = HANG_S
        try:
            seen = ray.get(worker.standing.remote(name), timeout=HANG_S)
        except ray.exceptions.GetTimeoutError:  # not even that can be answered
            raise _Overdue(hangs=True, at_fault=apart) from None
        if seen["making_s"] >= HANG_S > seen["step_s"]:
            raise _Overdue(hangs=True, at_fault=True, where="was still reading weights and data")
        if seen["inside"] and not seen["scored"]:
            hangs = seen["step_s"] >= HANG_S
            raise _Overdue(hangs=hangs, at_fault=seen["alone"] or not hangs)
