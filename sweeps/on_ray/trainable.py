"""The Ray Tune trainable: what a trial's own process does."""

import contextlib
from typing import Any

from ray import tune

from sweeps.on_ray.client import reports_from_worker
from sweeps.on_ray.keeper import current_device
from sweeps.work.execution import Execution, reports
from sweeps.work.job import Job
from sweeps.work.process import ended_when_overdue, release_memory, set_threads


def train(values: dict[str, Any]) -> None:
    """Run a job, given as JSON, here or in the worker of its device. Its reports also name the node and the GPU."""
    job, device = Job.from_dict(values), " ".join(filter(None, current_device()))
    if job.shared:
        with contextlib.closing(reports_from_worker(job)) as worker_reports:
            for report in worker_reports:
                tune.report({**report, "device": device})
        return
    set_threads(job.threads)
    execution = Execution(job)
    try:
        with ended_when_overdue(execution, job.limit_s):
            for report in reports(execution):
                tune.report({**report, "device": device})
    finally:
        release_memory()
