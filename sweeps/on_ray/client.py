"""The client of a worker. It runs in a trial's own process, and passes on the reports of the worker that trains it."""

import math
import time
from collections.abc import Generator
from typing import Any

from lopt.errors import cut_after_word
from sweeps.on_ray.keeper import KEEPER, current_device
from sweeps.work.execution import Execution
from sweeps.work.job import HANG_S, STEP, Job, Report, overdue_message
from sweeps.work.process import unusable_gpu_error

# If this many workers die without an evaluation of the trial in between, the trial is probably the cause, and fails.
MAX_DEATHS = 3


class _Overdue(Exception):
    """The trial has used up its time limit.

    Attributes:
        worker_hangs: Whether the worker hangs, because the set-up of the trial or the current step does not end.
        is_at_fault: Whether no other trial can be the cause.
        how_far: How far the trial had come, in words; "" if that is not known.
    """

    def __init__(self, *, worker_hangs: bool, is_at_fault: bool, how_far: str = "") -> None:
        super().__init__()
        self.worker_hangs, self.is_at_fault, self.how_far = worker_hangs, is_at_fault, how_far


def reports_from_worker(job: Job) -> Generator[Report, None, None]:
    """Yield the reports of a job whose trial trains in the worker of this process's device.

    When the worker dies, another one goes on from the trial's checkpoint. A trial that has used up its time limit
    without reaching an evaluation has failed. If its set-up or a step hangs, its worker is ended. If several trials
    took part in that step, each of them then makes its steps alone, so that only the trial at fault hangs again.
    """
    import ray

    keeper, device, key = ray.get_actor(KEEPER), current_device(), job.key
    # The second error is raised when the node itself is dying, so that no worker can be placed on it.
    death_errors = ray.exceptions.RayActorError, ray.exceptions.ActorUnschedulableError
    evaluated_step, death_count = 0, 0
    hang_count: Any = 0  # how many workers of the device had hung when this worker was asked for
    while True:
        deadline = time.monotonic() + (job.limit_s or math.inf) + HANG_S
        try:
            hang_count = ray.get(keeper.hang_count.remote(*device))
            steps_alone = hang_count > 0 or death_count == MAX_DEATHS - 1
            worker: Any = ray.get(keeper.worker.remote(*device, key))
            if error := _gpu_error(worker, device[1]):
                yield Execution(job).refuse(error)
                return
            name = _wait_for(worker, worker.admit.remote(job, steps_alone), key, deadline, steps_alone)
            try:
                while (report := _wait_for(worker, worker.next.remote(name), name, deadline, steps_alone)) is not None:
                    if report[STEP] > evaluated_step:
                        evaluated_step, death_count = report[STEP], 0
                    yield report
                    if report["status"] != "running":
                        return
            finally:
                # The result is not waited for, because Ray gives this process only two seconds to take the next trial.
                worker.evict.remote(name)
        except _Overdue as overdue:
            if overdue.worker_hangs:
                ray.get(keeper.end_worker.remote(*device, hang_count))
            if overdue.is_at_fault:
                assert job.limit_s is not None
                how_far = overdue.how_far or f"reached no evaluation after step {evaluated_step:,}"
                yield Execution(job).fail(TimeoutError(overdue_message(job.limit_s, how_far)))
                return
        except death_errors as error:
            # If the count has risen, this worker was ended because another trial hung. That does not count as a death.
            death_count += ray.get(keeper.hang_count.remote(*device)) == hang_count
            if death_count == MAX_DEATHS:
                reason = cut_after_word(" ".join(str(error).split()))
                message = f"the worker died {MAX_DEATHS} times, the last time after step {evaluated_step:,} ({reason})"
                yield Execution(job).fail(RuntimeError(message))
                return
            time.sleep(1)  # until the keeper has noticed the death, too


_usable_gpus: set[str | None] = {None}  # the GPUs of this node that PyTorch can use, as far as this process knows


def _gpu_error(worker: Any, gpu: str | None) -> str:
    """Return why PyTorch cannot use the GPU of a worker, or ""."""
    import ray

    error = "" if gpu in _usable_gpus else str(ray.get(worker.call.remote(unusable_gpu_error, gpu)))
    if not error:
        _usable_gpus.add(gpu)
    return error


def _wait_for(worker: Any, reference: Any, name: str, deadline: float, steps_alone: bool) -> Any:
    """Return the result of a call of a worker's `admit` or `next`.

    Args:
        reference: Ray's reference of the call.
        name: The trial's name in the worker; during `admit`, the trial's key.
        deadline: When the trial's time is over. A trial that is being scored or waits for others may take longer.
        steps_alone: Whether the trial makes its steps without the others.

    Raises:
        _Overdue: The trial's time is over.
    """
    import ray

    timeout_s = None if math.isinf(deadline) else max(0.0, deadline - time.monotonic())
    while True:
        try:
            return ray.get(reference, timeout=timeout_s)
        except ray.exceptions.GetTimeoutError:
            timeout_s = HANG_S
        try:
            activity = ray.get(worker.activity.remote(name), timeout=HANG_S)
        except ray.exceptions.GetTimeoutError:  # the worker cannot even answer this call
            raise _Overdue(worker_hangs=True, is_at_fault=steps_alone) from None
        if activity["setup_s"] >= HANG_S > activity["step_s"]:
            raise _Overdue(worker_hangs=True, is_at_fault=True, how_far="was still reading weights and data")
        if activity["in_step"] and not activity["trained"]:
            worker_hangs = activity["step_s"] >= HANG_S
            raise _Overdue(worker_hangs=worker_hangs, is_at_fault=activity["alone"] or not worker_hangs)
