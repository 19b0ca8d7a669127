"""One trial of a sweep: trains, reports at every evaluation, writes its record when it ends.

Every report carries the record as it would be if the trial stopped there, so that whoever stops it (Ray's scheduler
runs in another process) can write that record at once.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from lopt.config import TrialConfig
from lopt.records import TrialRecord, now

METRIC, TIME = "selection_accuracy", "step"

Job = dict[str, Any]  # JSON; see make_job


def make_job(
    config: TrialConfig, *, phase: str, cell: str, stratum: str, out: str, run: str, threads: int | None = None
) -> Job:
    """What a worker needs to run one trial. `threads` is how many processor threads it may use; None leaves them."""
    return {
        "config": config.to_dict(),
        "phase": phase,
        "cell": cell,
        "stratum": stratum,
        "out": out,
        "run": run,
        "threads": threads,
    }


def execute(job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Runs a job; yields a report at every evaluation, and a last one whose status is no longer "running".

    A report: status, step, selection_accuracy (the best so far), record (JSON).
    """
    from lopt.training import Trial, failed_record
    from sweeps.store import FINAL, Store

    store, started = Store(job["out"], job["run"]), now()
    config, place = TrialConfig.from_dict(job["config"]), {"cell": job["cell"], "stratum": job["stratum"]}
    earlier = store.read(config.key)
    if earlier is not None and earlier.status in FINAL:  # a worker that is restarted after its last write
        yield _report(earlier, earlier.status)
        return
    trial, predictions = None, None
    try:
        trial = Trial(config, phase=job["phase"])
        for _ in trial:
            if trial.step < trial.config.max_steps:
                yield _report(trial.finish(**place), "running")
        record = trial.finish(artifact=store.artifact(trial.config.key), **place)
        predictions = trial.predictions
    except Exception as error:  # an outcome like any other: recorded, and the sweep goes on
        if trial is None:
            record = failed_record(config, error, phase=job["phase"], started_at=started, **place)
        else:
            record = trial.failed(error, **place)
    store.write(record, predictions)
    yield _report(record, record.status)


def _report(record: TrialRecord, status: str) -> dict[str, Any]:
    return {
        "status": status,
        TIME: record.steps,
        METRIC: record.selection_accuracy if record.selection_accuracy is not None else 0.0,
        "record": json.dumps(record.to_dict()),  # Ray flattens nested results; a string stays whole
    }


def tune_function(job: Mapping[str, Any]) -> None:
    """The Ray Tune trainable."""
    from ray import tune

    set_threads(job["threads"])
    try:
        for report in execute(job):
            tune.report(report)
    finally:
        release_memory()


def release_memory() -> None:
    """Gives back what a trial has left free: the next one in this process runs in another thread, for which glibc keeps
    memory apart, so that a worker would grow with every trial."""
    import ctypes
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def set_threads(threads: int | None) -> None:
    """Limits this process to so many processor threads, so that trials side by side do not fight for them."""
    import torch

    if threads:
        torch.set_num_threads(threads)


def prepare(configs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fetches what the trials need, settles precision and revisions where a trial would run, and tries on every
    configuration what would fail in all its trials: weights, label words, data, lengths.

    Returns:
        the resolved configurations, or one `{"error": line}`.
    """
    from lopt import backbones, data, methods
    from lopt.training import resolve

    found = []
    try:
        for values in configs:
            config = resolve(TrialConfig.from_dict(values))
            method = methods.get(config.method)
            method.require()
            backbone = backbones.load(config.backbone, method.weights_precision(config.precision))
            backbone.label_ids(config.label_words or ())
            data.prepare(config, backbone)
            found.append(config.to_dict())
    except (ValueError, OSError) as error:
        return [{"error": " ".join(str(error).split())}]
    return found


def baseline(values: dict[str, Any], threads: int | None = None) -> dict[str, Any]:
    """Zero-shot and majority-class accuracy for a configuration's backbone and task."""
    from lopt.training import zero_shot

    set_threads(threads)

    return zero_shot(TrialConfig.from_dict(values))
