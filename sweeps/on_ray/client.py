"""The client: runs in a trial's own process and passes on the reports of the worker that trains the trial."""

import math
import time
from collections.abc import Generator
from typing import Any

from lopt.errors import cut_short
from sweeps.on_ray.keeper import KEEPER, current_device
from sweeps.work.execution import Execution
from sweeps.work.job import HANG_S, STEP, Job, Report, overdue_message

# When this many workers have died without an evaluation of the trial between the deaths, the trial is the likely cause.
DEATHS = 3


class _Overdue(Exception):
    """A trial has used up its time limit.

    Attributes:
        hangs: Whether its worker hangs: setting up the trial, or the current step, does not end.
        at_fault: Whether no other trial can be the cause.
        where: How far the trial had come, in words; "" if that is not known.
    """

    def __init__(self, *, hangs: bool, at_fault: bool, where: str = "") -> None:
        super().__init__()
        self.hangs, self.at_fault, self.where = hangs, at_fault, where


def reports_from_worker(job: Job) -> Generator[Report, None, None]:
    """Yield the reports of a job whose trial trains in the worker of this process's device.

    When the worker dies, another one goes on from the trial's checkpoint. A trial that has used up its time limit and
    comes to no evaluation has failed. Its worker is ended if setting up the trial or a step hangs. If several
    trials took part in that step, each of them then goes on apart from the others, so that only the trial at fault
    hangs again.
    """
    import ray

    keeper, device, key = ray.get_actor(KEEPER), current_device(), job.key
    # The second error is also raised when the node is dying: no worker can be placed on it.
    death_errors = ray.exceptions.RayActorError, ray.exceptions.ActorUnschedulableError
    reached_step, deaths = 0, 0
    hangs: Any = 0  # the keeper's count when this worker was asked for
    while True:
        ends_at = time.monotonic() + (job.limit_s or math.inf) + HANG_S
        try:
            hangs = ray.get(keeper.hangs.remote(*device))
            apart = hangs > 0 or deaths == DEATHS - 1
            worker: Any = ray.get(keeper.worker.remote(*device, key))
            name = _wait_for_worker(worker, worker.admit.remote(job, apart), key, ends_at, apart)
            try:
                while (report := _wait_for_worker(worker, worker.next.remote(name), name, ends_at, apart)) is not None:
                    if report[STEP] > reached_step:
                        reached_step, deaths = report[STEP], 0
                    yield report
                    if report["status"] != "running":
                        return
            finally:
                # Nothing waits for this call: Ray gives this process two seconds to take the next trial.
                worker.evict.remote(name)
        except _Overdue as overdue:
            if overdue.hangs:
                ray.get(keeper.end.remote(*device, hangs))
            if overdue.at_fault:
                assert job.limit_s is not None
                where = overdue.where or f"came to no evaluation after step {reached_step:,}"
                yield Execution(job).fail(TimeoutError(overdue_message(job.limit_s, where)))
                return
        except death_errors as error:
            # If the count has grown, the worker was ended because another trial hung. That is no death.
            deaths += ray.get(keeper.hangs.remote(*device)) == hangs
            if deaths == DEATHS:
                reason = cut_short(" ".join(str(error).split()))
                message = f"the worker died {DEATHS} times, the last time after step {reached_step:,} ({reason})"
                yield Execution(job).fail(RuntimeError(message))
                return
            time.sleep(1)  # until the keeper, too, knows of the death


def _wait_for_worker(worker: Any, reference: Any, name: str, ends_at: float, apart: bool) -> Any:
    """Return the result of `reference`, a call of a worker's `admit` or `next`.

    The trial has time until `ends_at`. A trial that is scored, or waits for others, may take longer. `name` is
    the name of the trial in the worker, or its key during `admit`.

    Raises:
        _Overdue: The trial's time is over.
    """
    import ray

    timeout_s = None if math.isinf(ends_at) else max(0.0, ends_at - time.monotonic())
    while True:
        try:
            return ray.get(reference, timeout=timeout_s)
        except ray.exceptions.GetTimeoutError:
            timeout_s = HANG_S
        try:
            activity = ray.get(worker.activity.remote(name), timeout=HANG_S)
        except ray.exceptions.GetTimeoutError:  # the worker cannot even answer this
            raise _Overdue(hangs=True, at_fault=apart) from None
        if activity["making_s"] >= HANG_S > activity["step_s"]:
            raise _Overdue(hangs=True, at_fault=True, where="was still reading weights and data")
        if activity["in_step"] and not activity["trained"]:
            hangs = activity["step_s"] >= HANG_S
            raise _Overdue(hangs=hangs, at_fault=activity["alone"] or not hangs)
