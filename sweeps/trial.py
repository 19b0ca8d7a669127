"""One trial of a sweep: trains, reports at every evaluation, writes its record when it ends.

A trial that shares its backbone trains in its device's worker (`sweeps.workers`); its own process only passes reports
on, and imports no torch. Any other trains in its own process.

Every report carries the record as it would be if the trial stopped there, so that whoever stops it (Ray's scheduler
runs in another process) can write that record at once.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lopt import methods
from lopt.config import TrialConfig
from lopt.errors import one_line
from lopt.records import TrialRecord, now

if TYPE_CHECKING:
    from lopt.engine import Outcome
    from lopt.training import Trial

HANG_S = 60.0  # beyond its time a trial has so long to come to an evaluation; a step that takes longer hangs
METRIC, TIME = "selection_score", "step"

Job = dict[str, Any]  # JSON; see make_job
Report = dict[str, Any]  # JSON; see Execution


def make_job(
    config: TrialConfig,
    *,
    phase: str,
    cell: str,
    stratum: str,
    out: str,
    run: str,
    share: bool = False,
    threads: int | None = None,
    shared_threads: int | None = None,
    packed: int = 1,
    limit_s: float | None = None,
) -> Job:
    """What is needed to run one trial.

    Args:
        limit_s: a trial that takes longer has failed, at its next evaluation.
        share: whether a trial that can share its backbone does.
        threads, shared_threads: how many processor threads a trial alone, and all that share a backbone, may use; None
            leaves them.
        packed: how many share a backbone.
    """
    shared = share and config.shares_backbone
    return {
        "config": config.to_dict(),
        "phase": phase,
        "cell": cell,
        "stratum": stratum,
        "out": out,
        "run": run,
        "shared": shared,
        "threads": shared_threads if shared else threads,
        "packed": packed,
        "limit_s": limit_s,
    }


class Execution:
    """A job as it goes: its trial, and what is written and reported of it, whoever trains it.

    A report: status, step, selection_score (the best so far, by the configuration's metric), record (JSON), restored
    (whether the trial has just come from a checkpoint), note (what a user should know, or ""), store_error (why results
    cannot be kept, or "": an end of the sweep and no failure of the trial); on Ray also device (where it trains: a
    node, and its GPU).

    Attributes:
        key: of the trial. trial: None before `begin`, and where it could not be made. over: nothing is left to train.
    """

    def __init__(self, job: Mapping[str, Any]) -> None:
        from sweeps.store import Store

        self.config = TrialConfig.from_dict(job["config"])
        self.trial: Trial | None = None
        self.over = False
        self._phase, self._place = job["phase"], {"cell": job["cell"], "stratum": job["stratum"]}
        self._limit_s = job["limit_s"] or math.inf
        self._store, self._started, self._note = Store(job["out"], job["run"]), now(), ""

    @property
    def key(self) -> str:
        return self.trial.config.key if self.trial else self.config.key

    def begin(self) -> Report | None:
        """Makes the trial, at its newest checkpoint if it has one. A report if there is something to say at once: it
        goes on, it cannot be made, or it was over already (a worker that is restarted after its last write)."""
        from lopt import memory
        from lopt.training import Trial
        from sweeps.store import FINAL, StoreError

        try:
            earlier = self._store.read(self.config.key)
        except StoreError as error:
            return self._unkept(error)
        # A failure of an earlier command is set aside before the trial starts: this one is its own.
        if earlier is not None and earlier.status in (*FINAL, "failed"):
            return self._said(earlier, earlier.status)
        try:
            self.trial = Trial(self.config, phase=self._phase)
            checkpoint = self._store.read_checkpoint(self.key)
            if checkpoint is None:
                return None
            try:
                self.trial.restore(checkpoint)
            except Exception as error:
                if memory.ran_out(error):  # the checkpoint is as good as before
                    raise
                self._note = f"begins anew: {' '.join(str(error).split())}"
                self._store.drop_checkpoints(self.key)
                self.trial = Trial(self.config, phase=self._phase)
                return None
        except StoreError as error:
            self.trial = None  # nothing may train, and write over a checkpoint that could not be read
            return self._unkept(error)
        except Exception as error:  # an outcome like any other: recorded, and the sweep goes on
            return self.fail(error)
        self._note = f"continues at step {self.trial.step:,}"
        return self._said(self.trial.finish(**self._place), "running", restored=True)

    def report(self, outcome: Outcome) -> Report:
        """What is to be reported of what has become of the trial, after the files that belong to it: a checkpoint at
        an evaluation that is not the last, else artifact and record."""
        from sweeps.store import StoreError

        trial = self.trial
        assert trial is not None
        try:
            if isinstance(outcome, Exception):
                raise outcome
            if not trial.over:
                if trial.elapsed_s > self._limit_s:
                    raise TimeoutError(overdue(self._limit_s, f"was at step {trial.step:,}"))
                self._save(trial)
                return self._said(trial.finish(**self._place), "running")
            with tempfile.TemporaryDirectory(prefix="lopt-") as made:
                record = trial.finish(artifact=made, **self._place)
                self._store.write_artifact(self.key, Path(made))
        except StoreError as error:
            return self._unkept(error)
        except Exception as error:
            return self.fail(error)
        return self._ended(record)

    def save(self) -> None:
        """A checkpoint wherever the trial stands, for one that is about to be cut off."""
        if self.trial is not None and not self.over and not self.trial.over:
            self._save(self.trial)

    def _save(self, trial: Trial) -> None:
        self._store.write_checkpoint(self.key, trial.step, trial.saved(cell=self._place["cell"]))

    def fail(self, error: BaseException) -> Report:
        """The report of a trial that raised `error`, or that others died of, after its record."""
        from lopt.failure import failed_record

        if self.trial is not None:
            return self._ended(self.trial.failed(error, **self._place))
        started = {"phase": self._phase, "started_at": self._started}
        return self._ended(failed_record(self.config, error, **started, **self._place))

    def _ended(self, record: TrialRecord) -> Report:
        from sweeps.store import StoreError

        predictions = self.trial.predictions if self.trial and record.status == "complete" else None
        try:
            self._store.write(record, predictions)
        except StoreError as error:
            return self._unkept(error)
        return self._said(record, record.status)

    def _unkept(self, error: OSError) -> Report:
        """The report of a trial of which nothing can be written; whoever reads it ends the sweep."""
        from lopt.failure import failed_record

        started = {"phase": self._phase, "started_at": self._started}
        record = failed_record(self.config, error, **started, **self._place)
        return self._said(record, "running", store_error=str(error))

    def _said(self, record: TrialRecord, status: str, *, restored: bool = False, store_error: str = "") -> Report:
        self.over = status != "running"
        note, self._note = self._note, ""
        # A trial that was cut off between two evaluations comes back with what the earlier one found.
        evaluated = record.evaluations[-1].step if record.evaluations else 0
        return {
            "status": status,
            TIME: record.steps if self.over else evaluated,
            METRIC: record.selection_score or 0.0,
            "record": json.dumps(record.to_dict()),  # Ray flattens nested results; a string stays whole
            "restored": restored,
            "note": note,
            "store_error": store_error,
        }


def overdue(limit_s: float, where: str) -> str:
    """What is said of a trial that has had its time."""
    return f"it took longer than {limit_s:,.0f} s (--max-trial-time), and {where}"


def _end_when_overdue(run: Execution, limit_s: float | None) -> threading.Timer | None:
    """Ends this process, after a record, when its one trial has had its time and comes to no evaluation."""
    if limit_s is None:
        return None

    def end() -> None:
        if run.trial is not None and run.trial.over:  # trained; scoring has all the time it needs
            return
        step = run.trial.step if run.trial else 0
        run.fail(TimeoutError(overdue(limit_s, f"hung at step {step:,}")))
        os._exit(1)

    timer = threading.Timer(limit_s + HANG_S, end)
    timer.daemon = True
    timer.start()
    return timer


def execute(job: Mapping[str, Any]) -> Iterator[Report]:
    """Runs a job alone; yields a report at every evaluation, and a last one whose status is no longer "running"."""
    return _reports(Execution(job))


def _reports(run: Execution) -> Iterator[Report]:
    report = run.begin()
    if report is not None:
        yield report
    if run.over or run.trial is None:
        return
    outcome: Outcome = None
    try:
        for evaluation in run.trial:
            if not run.trial.over:
                yield run.report(evaluation)
                if run.over:
                    return
    except Exception as error:
        outcome = error
    yield run.report(outcome)


def tune_function(job: Job) -> None:
    """The Ray Tune trainable."""
    from ray import tune

    from sweeps.keeper import place

    device = " ".join(filter(None, place()))
    if job["shared"]:
        from sweeps.client import follow

        with contextlib.closing(follow(job)) as reports:
            for report in reports:
                tune.report({**report, "device": device})
        return
    set_threads(job["threads"])
    run = Execution(job)
    timer = _end_when_overdue(run, job["limit_s"])
    try:
        for report in _reports(run):
            tune.report({**report, "device": device})
    finally:
        if timer is not None:
            timer.cancel()
        release_memory()


def release_memory() -> None:
    """Gives back what a trial has left free: the next one in this process runs in another thread, for which glibc keeps
    memory apart, so that a worker would grow with every trial."""
    import ctypes

    from lopt import memory

    memory.free()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def set_threads(threads: int | None) -> None:
    """Limits this process to so many processor threads, so that trials side by side do not fight for them."""
    import torch

    if threads:
        torch.set_num_threads(threads)


def prepare(
    configs: list[dict[str, Any]], wanted: Sequence[int] = (), threads: int | None = None, trials: float = math.inf
) -> dict[str, Any]:
    """Fetches what the trials need, settles precision and revisions where a trial would run, and tries on every
    configuration what would fail in all its trials: weights, label words, data, lengths.

    Args:
        wanted: which of the configurations give a zero-shot baseline.
        trials: that there are for a device.

    Returns:
        configs, resolved; packed, how many trials should share a backbone here; baselines, and what was raised instead
        of one. Or error, a line.
    """
    from lopt import backbones, data
    from lopt.engine import MOST_TOKENS
    from lopt.evaluation import zero_shot
    from lopt.resolve import resolve
    from sweeps import packing

    set_threads(threads)
    found: list[dict[str, Any]] = []
    baselines: list[dict[str, Any]] = []
    problems: list[str] = []
    tokens: list[float] = []
    good, room = 0, math.inf
    try:
        for values in configs:
            config = resolve(TrialConfig.from_dict(values))
            method = methods.get(config.method)
            method.require()
            backbone = backbones.load(config.backbone, method.weights_precision(config.precision))
            backbone.label_ids(config.label_words or ())
            if config.dropout:
                backbone.with_dropout(config.dropout)
            read = data.prepare(config, backbone)
            found.append(config.to_dict())
            if config.shares_backbone:
                tokens.append(packing.tokens_a_step(backbone, config, read))
                good = MOST_TOKENS[backbone.device.type]
                room = min(room, packing.room(backbone, read, config.length or 0))
    except (ValueError, OSError) as error:
        return {"error": one_line(error)}
    for place in wanted:
        try:
            baselines.append(zero_shot(TrialConfig.from_dict(found[place])))
        except Exception as error:  # the report does without; trials are not affected
            problems.append(f"{type(error).__name__}: {error}")
    packed = packing.packed(sum(tokens) / len(tokens), good, room, trials) if tokens else 1
    return {"configs": found, "packed": packed, "baselines": baselines, "problems": problems}
