"""Jobs, and clients that call the methods of a worker in threads of this process."""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor

from lopt.records import MEASURED_FIELDS
from lopt.resolve import resolve
from sweeps.work.job import Job


def job_of(config, tmp_path, run="r", phase="search", **options):
    values = {"phase": phase, "cell": "c", "stratum": "s", "out": str(tmp_path), "run": run, **options}
    return Job(config=resolve(config), shares_backbone=config.shares_backbone, **values)


def run_client(worker, job, max_count=math.inf):
    """Act as the client of a job: collect its reports, or only the first `max_count` of them, and evict the trial."""
    name, reports = worker.admit(job), []
    try:
        while len(reports) < max_count:
            reports.append(worker.next(name))
            if reports[-1]["status"] != "running":
                break
    finally:
        worker.evict(name)
    return reports


def run_clients(worker, jobs):
    """Run a client for each job, side by side. Return the reports of each."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(lambda job: run_client(worker, job), jobs))


def without_durations(report):
    """Return a report without durations. Its losses are rounded, because packing adds numbers in another order."""
    record = json.loads(report["record"])
    for name in MEASURED_FIELDS:
        record.pop(name)
    last_evaluation = json.loads(report["evaluation"]) if report["evaluation"] else None
    for evaluation in [*record["evaluations"], *filter(None, [last_evaluation])]:
        evaluation.pop("wall_time_s")
        evaluation.update({name: round(evaluation[name], 9) for name in ("selection_loss", "train_loss")})
    record["selection_loss"] = round(record["selection_loss"], 9)
    return {**report, "record": record, "evaluation": last_evaluation}


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
