"""The function that Ray Tune runs in a trial's own process."""

import contextlib
import functools
from typing import Any

import ray
from ray import tune

from sweeps.on_ray import shared_store
from sweeps.on_ray.client import reports_from_worker
from sweeps.on_ray.keeper import KEEPER, current_device
from sweeps.work.execution import Execution, train_and_report
from sweeps.work.job import Job
from sweeps.work.process import end_process_when_overdue, release_memory, set_threads, unusable_gpu_error


def train(job_values: dict[str, Any]) -> None:
    """Run the job in `job_values` (JSON), here or in its device's worker. Add the node and the GPU to its reports."""
    job, (node_id, gpu) = Job.from_dict(job_values), current_device()
    device = " ".join(filter(None, (node_id, gpu)))
    if error := _store_error(job.out, job.run):
        tune.report({**Execution(job).refuse(error, keeps_results=False), "device": device})
        return
    if job.shares_backbone:
        with contextlib.closing(reports_from_worker(job)) as worker_reports:
            for report in worker_reports:
                tune.report({**report, "device": device})
        return
    execution = Execution(job)
    if error := unusable_gpu_error(gpu):
        tune.report({**execution.refuse(error), "device": device})
        return
    set_threads(job.threads)
    try:
        with end_process_when_overdue(execution, job.limit_s):
            for report in train_and_report(execution):
                tune.report({**report, "device": device})
    finally:
        release_memory()


@functools.cache
def _store_error(out: str, run: str) -> str:
    """Return why results of this machine would not come to the driver, or ""."""
    mark_name: Any = ray.get(ray.get_actor(KEEPER).mark_name.remote())
    return shared_store.error_here(out, run, mark_name)
