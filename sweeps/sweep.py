"""One sweep from start to end: settle, search, confirm, write down."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lopt import tasks
from lopt.config import TrialConfig, known_as
from lopt.errors import cut_short
from lopt.records import TrialRecord, now
from sweeps import summary
from sweeps.budget import Budget, OutOfTime
from sweeps.earlier import OtherRuns, announce, changes, check_moved, fitting, former_defaults, lessons
from sweeps.options import Options
from sweeps.plan import Plan
from sweeps.progress import Progress
from sweeps.settled import Settled
from sweeps.store import FINAL, Store, StoreError
from sweeps.trial import execute, prepare

if TYPE_CHECKING:
    from sweeps.cluster import Placement

_NOTE_S = 60  # how often the manifest learns how long the run has taken


class Sweep:
    """A plan, its store and the parts that work on them."""

    def __init__(self, plan: Plan, store: Store, options: Options, command: list[str]) -> None:
        self.plan, self.store, self.options, self.command = plan, store, options, command
        self._titles = {name: tasks.get(name).title for name in {config.task for config in plan.space.all_examples}}
        self._began, self._noted_s = time.monotonic(), 0.0  # of the time since then, what the manifest knows
        self._placement: Placement | None = None  # None in local mode
        self._budget = Budget(options, lambda: self._elapsed_s())
        self._settle = Settled(store)
        self._running = False  # from the moment on when the run's own state is changed
        self._began_at: dict[str, str] = {}
        self._others = OtherRuns(store, ())
        self._lessons: list[TrialRecord] = []
        self._moved: list[TrialRecord] = []  # finished trials that the space, which has changed, has in other cells
        self._left_out: list[str] = []  # keys of trials that the space, which has changed, no longer has
        self.progress = Progress(total=0, done=0, steps_left=lambda made: 0.0)  # until there are trials to show
        self._broken: StoreError | None = None  # why results could no longer be kept
        self._deaths: dict[str, tuple[Exception | None, bool]] = {}  # what ended a process, had the trial begun in it?

    def run(self) -> int:
        """Runs or continues the sweep; returns the exit code.

        Raises:
            ValueError: the run holds other settings, is in use, or data or weights cannot be had.
            StoreError: results cannot be kept, and nothing has begun.
        """
        try:
            return self._run()
        except StoreError as error:
            if not self._running:
                raise
            print(f"error: {error}", file=sys.stderr)
            return summary.FAILED

    def _run(self) -> int:
        with self.store.held(self.command):
            self.store.know(self.plan.space.all_examples)
            changed = changes(self.store, self.plan.space)
            records = self.store.records()
            check_moved(self.store, records)
            self._others = OtherRuns(self.store, self.options.reuse)
            self._lessons = lessons(self.store, self.options.warm_start)
            finished = [r for r in records if r.status in FINAL]
            failed = [r for r in records if r.status == "failed"]
            misfits, moved = Counter[str](), Counter[str]()
            if changed or self.store.left_out():
                finished, misfits = fitting(self.plan.space, finished)
                failed, _ = fitting(self.plan.space, failed)
                fit = {record.key for record in (*finished, *failed)}
                self._left_out = sorted(record.key for record in records if record.key not in fit)
                before = {record.key: record.cell for record in records}
                self._moved = [record for record in (*finished, *failed) if record.cell != before[record.key]]
                moved.update(f"{before[record.key]} → {record.cell}" for record in self._moved)
            former = self._keep_former([*finished, *failed])
            announce(self.store.run, finished, failed, changed, misfits, moved, former)
            if finished and not failed and self._nothing_left(finished):
                self.store.move(self._moved)
                self.store.write_table()
                self._noted_s = self._elapsed_s()  # looking took no part of the run
                self._write_manifest("complete")
                return self._end("complete")
            backend = self._local if self.options.local_mode else self._on_ray
            status = "interrupted"
            try:
                status = backend(finished, failed)
            except KeyboardInterrupt:
                if self._broken:
                    raise self._broken from None
                print("\ninterrupted", flush=True)
            except OutOfTime as error:
                print(error, flush=True)
                status = "stopped"
            finally:
                if self._running:
                    self.store.check()
                    self.store.clear_checkpoints(complete=status == "complete")
                    self.store.write_table()
                    self._write_manifest(status)
            return self._end(status)

    def probe(self, price_per_hour: float | None = None) -> dict[str, Any]:
        """Measures, where trials would train, what they cost, and predicts what is left of the sweep; the prediction,
        which is also written to the run.

        Raises:
            ValueError: as `run`.
            OutOfTime: no machine came in the time of the options.
        """
        from sweeps import on_ray, probe

        with self.store.held():
            self.store.know(self.plan.space.all_examples)
            changed = changes(self.store, self.plan.space)
            records = self.store.records()
            check_moved(self.store, records)
            finished = [record for record in records if record.status in FINAL]
            if changed or self.store.left_out():
                finished, _ = fitting(self.plan.space, finished)
            self._keep_former(finished)
            examples = self.plan.space.all_examples
            baselines = [examples[place] for place in self._without_baseline(examples)]
            with contextlib.ExitStack() as stack:
                if self.options.local_mode:
                    self._settle_with(lambda configs, wanted: prepare(configs))
                    ground = probe.in_this_process(self._elapsed_s())
                else:
                    given: dict[str, Any] = {**self._for_ray(), "baselines": False}
                    there = stack.enter_context(on_ray.prepared(self.options, self._settle_with, **given))
                    ground = probe.on_ray(there.keeper, there.here, there.placed, self._elapsed_s())
                found = probe.predict(
                    self.plan.space,
                    ground,
                    settle=self._settle,
                    baselines=baselines,
                    finished=finished,
                    audit=self.options.audit,
                    price_per_hour=price_per_hour,
                )
            self.store.write_prediction(found)
            return found

    def _keep_former(self, records: list[TrialRecord]) -> dict[str, Any]:
        """Options whose default has changed since the run began; its new trials have the value of its old ones."""
        begun = (config.to_dict() for config, _ in self.store.interrupted())
        former = former_defaults(self.plan.space, [*(record.config for record in records), *begun])
        self._settle.keep(former)
        return former

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def _end(self, status: str) -> int:
        text, code = summary.of(
            self.plan, self.store, status, seconds=self._elapsed_s(), left_out=self._left_out, fresh=self.options.fresh
        )
        print(text)
        return code

    def _write_manifest(self, status: str) -> None:
        elapsed_s = self._elapsed_s()
        self.store.write_manifest(
            status=status,
            elapsed_s=elapsed_s - self._noted_s,
            space=self.plan.to_dict(),
            identity=self.plan.space.identity(),
            command=self.command,
            profile=self.plan.space.profile,
            left_out=self._left_out,
            titles=self._titles,
        )
        self._noted_s = elapsed_s

    def _start(self) -> None:
        self._running = True
        self.store.move(self._moved)
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
        wanted = [config.to_dict() for config in self._settle.as_begun(examples)]
        prepared = run_prepare(wanted, self._without_baseline(examples))
        if "error" in prepared:
            raise ValueError(prepared["error"])
        self._settle.learn(examples, prepared["configs"])
        return prepared

    def _for_ray(self) -> dict[str, Any]:
        return {"trials": self.plan.search_trials, "left_s": self._budget.left_s}

    def _without_baseline(self, examples: list[TrialConfig]) -> list[int]:
        """One example for each baseline that is not in the store yet."""
        have = {(known_as(b["backbone"]), known_as(b["task"])) for b in self.store.baselines()}
        wanted = {
            (known_as(config.backbone), known_as(config.task)): place
            for place, config in reversed(list(enumerate(examples)))
        }
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

        place = {"out": self.store.out, "run": self.store.run}
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
        from sweeps.search import SEARCH_SEED, SweepSearcher

        space = self.plan.space
        place: dict[str, Any] = {"out": self.store.out, "run": self.store.run}
        place |= {"limit_s": self.options.max_trial_time_s}
        if self._placement is not None:
            threads = {"threads": self._placement.threads, "shared_threads": self._placement.shared_threads}
            place |= {"share": True, "packed": self._placement.packed, **threads}
        finished = [*finished, *self._others.search_records(space, self._settle, finished, SEARCH_SEED)]
        searcher = SweepSearcher(
            space,
            settle=self._settle,
            place=place,
            finished=finished,
            failed=failed,
            interrupted=self.store.interrupted(),
            read=self._or_end(self.store.read),
            on_start=self._or_end(self._on_start),
            on_report=self._or_end(self._on_report),
            on_end=self._or_end(self._on_end),
            on_let_go=self._on_let_go,
            again=self._try_again,
            may_start=self._budget.may_start,
            take=self._or_end(self._others.take),
            lessons=self._lessons,
        )
        if self.options.reuse:
            runs = ", ".join(self._others.taken) or f"none of the {len(self._others)} found there fits"
            total = self.plan.search_trials + (self.plan.confirm_trials or 0)
            print(f"reused {self._others.taken.total()} of {total} trials ({runs})", flush=True)
        if self.options.warm_start:
            metrics = {config.metric for config in space.all_examples}
            fit = [record for record in self._lessons if record.metric in metrics]
            other = len(self._lessons) - len(fit)
            left_out = f"; {other} more are left out, for another metric selected them" if other else ""
            print(f"the search begins with what {len(fit)} trials of other runs have shown{left_out}", flush=True)
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
            on_stop=self._or_end(self._on_stop),
            on_error=lambda trial_id, *death: self._deaths.update({trial_id: death}),
            audit=self.options.audit,
            audited={key: int(audit["step"]) for key, audit in self.store.audits().items()},
            on_audit=self._or_end(self.store.add_audit),
            over_budget=self._budget.over,
        )
        scheduler.replay(finished)
        return searcher, scheduler

    def _or_end(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, which ends the sweep where results cannot be kept. As an interrupt: Tune takes any exception for
        a trial's."""

        def called(*arguments: Any) -> Any:
            try:
                return call(*arguments)
            except StoreError as error:
                self._broken = error
                self.progress.close()
                raise KeyboardInterrupt from error

        return called

    def _on_start(self, trial_id: str, job: Mapping[str, Any]) -> None:
        self._budget.started += 1
        self._began_at[trial_id] = now()
        self._budget.gpu_time.reserves(trial_id, self._gpus_of(job))
        if self._placement is None:  # else it may have to wait for a place
            self._budget.gpu_time.began(trial_id)
        before = self.store.read(TrialConfig.from_dict(job["config"]).key)
        if before is not None and before.status == "failed":
            self.store.set_aside(before)
        if self.plan.space.by_size and job["phase"] == "confirm":
            self.progress.total += 1  # a free search learns only now what it confirms
        self.progress.started(trial_id, job)

    def _on_stop(self, trial_id: str, report: Mapping[str, Any]) -> None:
        self.store.write(TrialRecord.from_dict(json.loads(report["record"])))

    def _on_report(self, trial_id: str, report: Mapping[str, Any]) -> None:
        if report.get("store_error"):
            raise StoreError(report["store_error"])
        self.store.check()
        if self._elapsed_s() - self._noted_s >= _NOTE_S:  # a command that is killed has no last words
            self._write_manifest("running")
        self._budget.gpu_time.is_on(trial_id, report.get("device", ""))
        self.progress.reported(trial_id, report)

    def _on_let_go(self, trial_id: str, report: Mapping[str, Any]) -> None:
        self._budget.gpu_time.ended(trial_id)
        self.progress.let_go(trial_id, report)

    def _try_again(self, trial_id: str) -> bool:
        """Whether a trial's process was dead before the trial began in it; it is then as if never started."""
        if self._deaths.get(trial_id, (None, True))[1]:
            return False
        self._budget.started -= 1
        self.progress.taken_back(trial_id, counted=not self.plan.space.by_size)
        return True

    def _on_end(self, trial_id: str, job: Mapping[str, Any], record: TrialRecord | None) -> None:
        if record is None:
            from lopt.failure import failed_record

            error, _ = self._deaths.pop(trial_id, (None, True))
            reason = f": {type(error).__name__}: {cut_short(' '.join(str(error).split()), 500)}" if error else ""
            record = failed_record(
                TrialConfig.from_dict(job["config"]),
                RuntimeError(f"the trial's process died (out of memory, or its machine vanished){reason}"),
                phase=job["phase"],
                cell=job["cell"],
                stratum=job["stratum"],
                started_at=self._began_at.get(trial_id, now()),
            )
            self.store.write(record)
        self._budget.gpu_time.ended(trial_id)
        self.progress.ended(trial_id, job, record)

    def _gpus_of(self, job: Mapping[str, Any]) -> float:
        """GPUs that a job's trial reserves."""
        if self._placement is None:
            import torch

            return float(torch.cuda.is_available())
        return self._placement.of(job["shared"]).get("gpu", 0.0)

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
        from sweeps import on_ray

        folder = self.store.folder  # beside the results, or here, are Ray's snapshots, of which nothing is read again
        snapshots = folder / "ray" if isinstance(folder, Path) else Path(tempfile.mkdtemp(prefix="lopt-")) / "ray"
        try:
            with on_ray.prepared(self.options, self._settle_with, **self._for_ray()) as ground:
                self._placement = ground.placed
                self._start()
                self._add_baselines(ground.found)
                searcher, scheduler = self._parts(finished, failed)
                kept: dict[str, Any] = {"gpu_time": self._budget.gpu_time, "save": lambda: self._broken is None}
                on_ray.tune(ground, searcher, scheduler, snapshots, **kept)
                self.progress.close()
                return "stopped" if searcher.held_back else "complete"
        finally:
            shutil.rmtree(snapshots if isinstance(folder, Path) else snapshots.parent, ignore_errors=True)
