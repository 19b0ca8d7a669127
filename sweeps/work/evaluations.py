"""The evaluations that a report carries, as JSON for those who watch a trial while it runs.

An evaluation has the fields of `lopt.records.Evaluation`, and as `score` its value of the trial's metric.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from lopt.records import Evaluation, TrialRecord
from sweeps.work.job import Report


def evaluation_to_dict(evaluation: Evaluation, metric: str) -> dict[str, Any]:
    return {**dataclasses.asdict(evaluation), "score": evaluation.score(metric)}


def last_evaluation_as_json(record: TrialRecord) -> str:
    """Return the last evaluation of a record as JSON text, or "" if there is none."""
    return json.dumps(evaluation_to_dict(record.evaluations[-1], record.metric)) if record.evaluations else ""


def evaluations_in(report: Report) -> list[dict[str, Any]]:
    """Return the evaluations that are new with this report.

    That is the last one, or all of them if the trial has just been restored from a checkpoint.
    """
    if report.get("restored"):
        record = TrialRecord.from_dict(json.loads(report["record"]))
        return [evaluation_to_dict(evaluation, record.metric) for evaluation in record.evaluations]
    return [json.loads(report["evaluation"])] if report.get("evaluation") else []
