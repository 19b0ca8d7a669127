"""The function that Ray Tune runs in a trial's own process."""

import contextlib
from typing import Any

from ray import tune

from sweeps.on_ray.client import reports_from_worker
from sweeps.on_ray.keeper import current_device
from sweeps.work.execution import Execution, train_and_report
from sweeps.work.job import Job
from sweeps.work.process import end_process_when_overdue, release_memory, set_threads


def train(job_values: dict[str, Any]) -> None:
    """Run the job in `job_values` (JSON), here or in its device's worker. Add the node and the GPU to its reports."""
    job, device = Job.from_dict(job_values), " ".join(filter(None, current_device()))
    if job.shares_backbone:
        with contextlib.closing(reports_from_worker(job)) as worker_reports:
            for report in worker_reports:
                tune.report({**report, "device": device})
        return
    set_threads(job.threads)
    execution = Execution(job)
    try:
        with end_process_when_overdue(execution, job.limit_s):
            for report in train_and_report(execution):
                tune.report({**report, "device": device})
    finally:
        release_memory()
