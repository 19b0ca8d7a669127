"""One sweep from start to end: settle, search, confirm, write down."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lopt import methods
from lopt.config import TrialConfig
from lopt.records import TrialRecord, now
from sweeps import summary
from sweeps.plan import Plan
from sweeps.progress import Progress
from sweeps.store import FINAL, Store
from sweeps.trial import METRIC, execute, prepare, tune_function

if TYPE_CHECKING:
    from sweeps.cluster import Placement


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run, as opposed to what: nothing here changes a result.

    trials_per_gpu: that share a GPU, or a node without one; None lets the worker find out. max_concurrent: None fills
    the machine.
    max_trials, max_wall_time_s, max_gpu_hours: start no trial beyond them.
    """

    local_mode: bool = False
    trials_per_gpu: int | None = None
    max_concurrent: int | None = None
    max_trials: int | None = None
    max_wall_time_s: float | None = None
    max_gpu_hours: float | None = None


class Sweep:
    """A plan, its store and the parts that work on them."""

    def __init__(self, plan: Plan, store: Store, options: Options, command: list[str]) -> None:
        self.plan, self.store, self.options, self.command = plan, store, options, command
        self._began = time.monotonic()
        self._started_trials, self._gpu_s = 0, 0.0
        self._placement: Placement | None = None  # None in local mode
        self._keeper: Any = None  # the workers live as long as this handle
        self._spent_before: dict[str, float] = {}  # seconds of a trial that an earlier command has spent
        self._settled: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._running = False  # from the moment on when the run's own state is changed
        self._began_at: dict[str, str] = {}
        self._errors: dict[str, Exception | None] = {}  # that ended a trial's process

    def run(self) -> int:
        """Runs or continues the sweep; returns the exit code.

        Raises:
            ValueError: the run holds other settings, is in use, or data or weights cannot be had.
        """
        with self.store.held():
            self._refuse_other_settings()
            records = self.store.records()
            finished = [r for r in records if r.status in FINAL]
            failed = [r for r in records if r.status == "failed"]
            self._announce(finished, failed)
            if records and not failed and self._nothing_left(finished):
                self.store.write_table()
                self._write_manifest("complete")
                return self._end("complete")
            backend = self._local if self.options.local_mode else self._on_ray
            status = "interrupted"
            try:
                status = backend(finished, failed)
            except KeyboardInterrupt:
                print("\ninterrupted", flush=True)
            finally:
                if self._running:
                    self.store.clear_checkpoints(complete=status == "complete")
                    self.store.write_table()
                    self._write_manifest(status)
            return self._end(status)

    def _end(self, status: str) -> int:
        text, code = summary.of(self.plan, self.store, status, seconds=time.monotonic() - self._began)
        print(text)
        return code

    def _refuse_other_settings(self) -> None:
        manifest = self.store.manifest()
        if manifest is None or manifest.get("identity") == self.plan.space.identity():
            return
        old, new = manifest.get("space", {}), self.plan.space.to_dict()
        changed = _differences(old, new)
        raise ValueError(
            f"run {self.store.run!r} holds space {old.get('name')} with other settings "
            f"({'; '.join(changed) or 'changed'}): give --name for a new run, or the settings it began with"
        )

    def _announce(self, finished: list[TrialRecord], failed: list[TrialRecord]) -> None:
        if finished or failed:
            again = f"; {len(failed)} failed, tried again" if failed else ""
            print(f"continuing run {self.store.run}: {len(finished)} trials are finished{again}", flush=True)

    def _write_manifest(self, status: str) -> None:
        self.store.write_manifest(
            status=status,
            space=self.plan.to_dict(),
            identity=self.plan.space.identity(),
            command=self.command,
            profile=self.plan.space.profile,
        )

    def _start(self) -> None:
        self._running = True
        self._write_manifest("running")

    # --- parts that both backends share ------------------------------------------------------------------------

    def _settle_with(self, run_prepare: Callable[[list[dict[str, Any]], list[int]], dict[str, Any]]) -> dict[str, Any]:
        """Settles precision and revisions of every backbone and task in the sweep, where trials will run; what
        `prepare` found.

        Raises:
            ValueError: something is missing or does not fit, or finished trials used other data or weights.
        """
        examples = self.plan.space.all_examples
        print("preparing data and weights (what is missing is downloaded once)", flush=True)
        prepared = run_prepare([config.to_dict() for config in examples], self._without_baseline(examples))
        if "error" in prepared:
            raise ValueError(prepared["error"])
        found = prepared["configs"]
        for config, values in zip(examples, found, strict=True):
            self._settled[_settled_by(config)] = {name: values[name] for name in _SETTLED}
        for old in (record.config for record in self.store.records()):
            same = [v for v in found if (v["backbone"], v["task"]) == (old["backbone"], old["task"])]
            for name in _SETTLED:
                if same and all(v[name] != old[name] for v in same):
                    raise ValueError(
                        f"run {self.store.run!r} holds trials of {name.replace('_', ' ')} {old[name]}; here it is "
                        f"{same[0][name]}: give --name for a new run, or what it began with"
                    )
        return prepared

    def _settle(self, config: TrialConfig) -> TrialConfig:
        return config.replace(**self._settled[_settled_by(config)])

    def _without_baseline(self, examples: list[TrialConfig]) -> list[int]:
        """One example for each baseline that is not in the store yet."""
        have = {(b["backbone"], b["task"]) for b in self.store.baselines()}
        wanted = {(config.backbone, config.task): place for place, config in reversed(list(enumerate(examples)))}
        return [place for key, place in wanted.items() if key not in have]

    def _add_baselines(self, prepared: Mapping[str, Any]) -> None:
        if prepared["baselines"]:
            self.store.write_baselines([*self.store.baselines(), *prepared["baselines"]])
        for problem in prepared["problems"]:
            print(f"no zero-shot baseline: {problem}", file=sys.stderr)

    def _nothing_left(self, finished: list[TrialRecord]) -> bool:
        """Whether every trial is finished already, known without starting anything."""
        if self._without_baseline(self.plan.space.all_examples):
            return False
        from sweeps.search import SweepSearcher

        place = {"out": str(self.store.folder.parent), "run": self.store.run}
        searcher = SweepSearcher(
            self.plan.space,
            settle=lambda config: config,
            place=place,
            finished=finished,
            failed=[],
            read=self.store.read,
        )
        return searcher.counts() == (0, 0)

    def _parts(self, finished: list[TrialRecord], failed: list[TrialRecord]) -> tuple[Any, Any]:
        """Searcher and scheduler, wired to store and progress."""
        from sweeps.scheduler import StratifiedASHA
        from sweeps.search import SweepSearcher

        space = self.plan.space
        place: dict[str, Any] = {"out": str(self.store.folder.parent), "run": self.store.run}
        if self._placement is not None:
            threads = {"threads": self._placement.threads, "shared_threads": self._placement.shared_threads}
            place |= {"share": True, **threads}
        searcher = SweepSearcher(
            space,
            settle=self._settle,
            place=place,
            finished=finished,
            failed=failed,
            interrupted=self.store.interrupted(),
            read=self.store.read,
            on_start=self._on_start,
            on_report=self._on_report,
            on_end=self._on_end,
            may_start=self._may_start,
        )
        waiting_search, waiting_confirm = searcher.counts()
        self.progress = Progress(
            total=len(finished) + waiting_search + (0 if space.by_size else waiting_confirm),
            done=len(finished),
            steps_left=searcher.steps_left,
        )
        scheduler = StratifiedASHA(
            grace_steps=space.grace_steps,
            reduction_factor=space.reduction_factor,
            max_steps=space.max_steps,
            on_stop=lambda trial_id, report: self.store.write(TrialRecord.from_dict(json.loads(report["record"]))),
            on_error=self._errors.__setitem__,
        )
        scheduler.replay(finished)
        return searcher, scheduler

    def _on_start(self, trial_id: str, job: Mapping[str, Any]) -> None:
        self._started_trials += 1
        self._began_at[trial_id] = now()
        before = self.store.read(TrialConfig.from_dict(job["config"]).key)
        if before is not None and before.status == "failed":
            self.store.set_aside(before)
        if self.plan.space.by_size and job["phase"] == "confirm":
            self.progress.total += 1  # a free search learns only now what it confirms
        self.progress.started(trial_id, job)

    def _on_report(self, trial_id: str, report: Mapping[str, Any]) -> None:
        if trial_id not in self._spent_before:
            spent = json.loads(report["record"])["wall_time_s"] if report["restored"] else 0.0
            self._spent_before[trial_id] = spent
        self.progress.reported(trial_id, report)

    def _on_end(self, trial_id: str, job: Mapping[str, Any], record: TrialRecord | None) -> None:
        if record is None:
            from lopt.training import failed_record

            error = self._errors.pop(trial_id, None)
            reason = f": {type(error).__name__}: {' '.join(str(error).split())[:500]}" if error else ""
            record = failed_record(
                TrialConfig.from_dict(job["config"]),
                RuntimeError(f"the trial's process died (out of memory, or its machine vanished){reason}"),
                phase=job["phase"],
                cell=job["cell"],
                stratum=job["stratum"],
                started_at=self._began_at.get(trial_id, now()),
            )
            self.store.write(record)
        spent = record.wall_time_s - self._spent_before.pop(trial_id, 0.0)
        self._gpu_s += max(0.0, spent) * self._gpus_of(job)
        self.progress.ended(trial_id, job, record)

    def _gpus_of(self, job: Mapping[str, Any]) -> float:
        """GPUs that a job's trial reserves."""
        if self._placement is None:
            return 0.0
        return self._placement.of(methods.get(job["config"]["method"]).shares_backbone).get("gpu", 0.0)

    def _may_start(self) -> bool:
        limits, elapsed = self.options, time.monotonic() - self._began
        return not (
            (limits.max_trials is not None and self._started_trials >= limits.max_trials)
            or (limits.max_wall_time_s is not None and elapsed >= limits.max_wall_time_s)
            or (limits.max_gpu_hours is not None and self._gpu_s >= limits.max_gpu_hours * 3600)
        )

    # --- backends ----------------------------------------------------------------------------------------------

    def _local(self, finished: list[TrialRecord], failed: list[TrialRecord]) -> str:
        """In this process, one trial at a time."""
        from ray.tune.schedulers import TrialScheduler

        prepared = self._settle_with(prepare)
        self._start()
        self._add_baselines(prepared)
        searcher, scheduler = self._parts(finished, failed)
        number = 0
        while isinstance(job := searcher.suggest(trial_id := f"local-{number}"), dict):
            number += 1
            trial = SimpleNamespace(trial_id=trial_id, config=job)
            scheduler.on_trial_add(None, trial)
            report: dict[str, Any] = {}
            for report in execute(job):
                searcher.on_trial_result(trial_id, report)
                if scheduler.on_trial_result(None, trial, report) == TrialScheduler.STOP:
                    break
            scheduler.on_trial_complete(None, trial, report)
            searcher.on_trial_complete(trial_id, report)
        self.progress.close()
        return "stopped" if searcher.held_back else "complete"

    def _on_ray(self, finished: list[TrialRecord], failed: list[TrialRecord]) -> str:
        """On the Ray cluster of RAY_ADDRESS, else on a Ray of this machine's own."""
        from sweeps import cluster, workers
        from sweeps.scheduler import Mercy

        cluster.connect()
        import ray
        from ray import tune

        try:
            options = self.options
            here = cluster.machines(ray.nodes(), max_gpu_hours=options.max_gpu_hours)
            given = {"trials_per_gpu": options.trials_per_gpu, "max_concurrent": options.max_concurrent}
            alone = cluster.placement(here, 1, **given)
            self._keeper = workers.start_keeper()

            def prepare_there(configs: list[dict[str, Any]], wanted: list[int]) -> dict[str, Any]:
                asked = configs, wanted, alone.shared_threads
                if all(methods.get(config["method"]).shares_backbone for config in configs):
                    return workers.prepare_there(self._keeper, alone.shared, *asked)
                # A trial that trains alone wants the whole device: nothing stays there.
                return ray.get(cluster.once(prepare, alone.solo).remote(*asked))

            prepared = self._settle_with(prepare_there)
            packed = options.trials_per_gpu or prepared["packed"]
            self._placement = placed = cluster.placement(here, packed, **given)
            print(
                f"trials that share a backbone: {placed.packed} on each {'GPU' if here.has_gpus else 'node'}",
                flush=True,
            )
            self._start()
            self._add_baselines(prepared)
            searcher, scheduler = self._parts(finished, failed)
            # Else Ray keeps one trial pending at a time, and an autoscaled cluster grows one machine at a time.
            os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(placed.concurrent))
            tuner = tune.Tuner(
                tune.with_resources(tune_function, placed.group),
                tune_config=tune.TuneConfig(
                    metric=METRIC,
                    mode="max",
                    search_alg=searcher,
                    scheduler=scheduler,
                    num_samples=-1,
                    max_concurrent_trials=placed.concurrent,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name="ray",
                    storage_path=str(self.store.folder),
                    verbose=0,
                    failure_config=tune.FailureConfig(max_failures=workers.DEATHS - 1),
                    callbacks=[Mercy()],
                ),
            )
            try:
                tuner.fit()
            except KeyboardInterrupt:
                print("\nsaving the trials that run; Ctrl-C again ends at once", flush=True)
                workers.save(self._keeper)
                raise
            self.progress.close()
            return "stopped" if searcher.held_back else "complete"
        finally:
            ray.shutdown()
            shutil.rmtree(self.store.folder / "ray", ignore_errors=True)


_SETTLED = ("precision", "data_revision", "model_revision")


def _settled_by(config: TrialConfig) -> tuple[str, str, str]:
    """What precision and revisions depend on."""
    return config.backbone, config.task, config.precision


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two spaces, in words; at most four."""
    found = []
    before, after = {**old, **old.get("base", {})}, {**new, **new.get("base", {})}
    for name in after:
        if name not in ("base", "cells", "confirm_seeds", "title") and before.get(name) != after[name]:
            found.append(f"{name} {before.get(name)} → {after[name]}")
    cells = [[c.get("name") for c in space.get("cells", [])] for space in (old, new)]
    if cells[0] != cells[1]:
        found.append(f"{len(cells[0])} cells → {len(cells[1])} cells, or others")
    return found[:4]
