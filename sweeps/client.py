"""A trial's own process, where the trial trains in its device's worker: it asks for each report and passes it on."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Mapping
from typing import Any

from sweeps.trial import HANG_S, TIME, Execution, Job, Report, overdue
from sweeps.workers import KEEPER, place

DEATHS = 3  # of workers, without any step between them: the trial is then the likely cause


class _Overdue(Exception):
    """A trial has had its time. hangs: so does the worker's step."""

    def __init__(self, *, hangs: bool) -> None:
        super().__init__()
        self.hangs = hangs


def follow(job: Job) -> Generator[Report, None, None]:
    """Reports of a job that trains in the worker of this process's device. When the worker dies, another one goes on
    from the trial's checkpoint. A trial that has had its time and comes to no evaluation has failed; if it is a step
    that hangs, the worker is ended, so that the others go on."""
    import ray

    ends_at = time.monotonic() + (job["limit_s"] or math.inf) + HANG_S
    keeper, here = ray.get_actor(KEEPER), place()
    # The second where the node is dying, too: no worker can be placed on it.
    death = ray.exceptions.RayActorError, ray.exceptions.ActorUnschedulableError
    reached, deaths = 0, 0
    while True:
        try:
            worker: Any = ray.get(keeper.worker.remote(*here))
            name = ray.get(worker.admit.remote(job))
            try:
                while (report := _next(worker, name, ends_at)) is not None:
                    if report[TIME] > reached:
                        reached, deaths = report[TIME], 0
                    yield report
                    if report["status"] != "running":
                        return
            finally:
                worker.evict.remote(name)  # not waited for: Ray gives this process two seconds to take the next trial
        except _Overdue as late:
            if late.hangs:
                ray.get(keeper.end.remote(*here))
            yield _overdue(job, reached)
            return
        except death as error:
            deaths += 1
            if deaths == DEATHS:
                yield _given_up(job, reached, error)
                return
            time.sleep(1)  # until the keeper knows of it, too


def _next(worker: Any, name: str, ends_at: float) -> Report | None:
    """The trial's next report; one that is being scored has all the time it needs.

    Raises:
        _Overdue: its time is over.
    """
    import ray

    asked = worker.next.remote(name)
    left = None if math.isinf(ends_at) else max(0.0, ends_at - time.monotonic())
    found: Report | None
    try:
        found = ray.get(asked, timeout=left)
    except ray.exceptions.GetTimeoutError:
        try:
            stepping_s, scored = ray.get(worker.standing.remote(name), timeout=HANG_S)
        except ray.exceptions.GetTimeoutError:
            stepping_s, scored = math.inf, False
        if not scored:
            raise _Overdue(hangs=stepping_s >= HANG_S) from None
        found = ray.get(asked)
    return found


def _overdue(job: Mapping[str, Any], step: int) -> Report:
    """Records a trial that has had its time and came to no evaluation."""
    return Execution(job).fail(TimeoutError(overdue(job["limit_s"], f"came to no evaluation after step {step:,}")))


def _given_up(job: Mapping[str, Any], step: int, error: Exception) -> Report:
    """Records a trial that workers die of."""
    reason = " ".join(str(error).split())[:200]
    run = Execution(job)
    return run.fail(RuntimeError(f"the worker died {DEATHS} times, the last time after step {step:,} ({reason})"))
