"""The Ray Tune trainable: what a trial's own process does."""

import contextlib
from typing import Any

from ray import tune

from sweeps.on_ray.client import follow
from sweeps.on_ray.keeper import place
from sweeps.work.execution import Execution, reports
from sweeps.work.job import Job
from sweeps.work.process import ended_when_overdue, release_memory, set_threads


def train(values: dict[str, Any]) -> None:
    """Runs the job of these values, here or in its device's worker; reports also say on which node and GPU."""
    job, device = Job.from_dict(values), " ".join(filter(None, place()))
    if job.shared:
        with contextlib.closing(follow(job)) as passed_on:
            for report in passed_on:
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
