"""One sweep from start to end: resolve settings, search, confirm, write results."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lopt import exit_codes, tasks
from lopt.config import TrialConfig, name_without_path
from lopt.device import has_gpu
from sweeps import trackers
from sweeps.budget import Budget, OutOfTime
from sweeps.listener import Listener, Listeners
from sweeps.options import Options
from sweeps.planning.plan import Plan
from sweeps.planning.plan_text import plan_to_dict
from sweeps.progress import Progress
from sweeps.results.resolved_settings import ResolvedSettings
from sweeps.results.run_folder import StoreError
from sweeps.results.store import Store
from sweeps.running_trials import RunningTrials
from sweeps.search.earlier_work import EarlierWork, read_earlier_work
from sweeps.search.other_runs import OtherRuns, announce_warm_start, warm_start_records
from sweeps.search.seed_rounds import SeedRounds
from sweeps.summary import summarise
from sweeps.work.execution import execute
from sweeps.work.job import Job, Report
from sweeps.work.prepare import prepare

if TYPE_CHECKING:
    from lopt.records import TrialRecord
    from sweeps.forecast.probe import Resources
    from sweeps.on_ray.cluster import Allocation
    from sweeps.on_ray.tune import PrepareFunction, ReadyCluster
    from sweeps.search.queue import QueuedTrial
    from sweeps.supervisor import Supervisor

_MANIFEST_INTERVAL_S = 60  # how often the time that the run has taken is written to the manifest


class Sweep(Listener):
    """Runs a plan and keeps its results in a store."""

    def __init__(self, plan: Plan, store: Store, options: Options, command: list[str]) -> None:
        self.plan, self.store, self.options, self.command = plan, store, options, command
        task_names = {config.task for config in plan.space.all_sample_configs}
        self._task_titles = {name: tasks.get(name).title for name in task_names}
        self._began_at = time.monotonic()
        self._seconds_in_manifest = 0.0  # the part of `_elapsed_s()` that the manifest counts
        self._allocation: Allocation | None = None  # None in local mode
        self._budget = Budget(options, self._elapsed_s, self._gpus_of)
        self._resolved_settings = ResolvedSettings(store)
        self._has_changed_run = False  # whether this command has changed the run
        self._followers: list[Listener] = []  # the progress line, the files of running trials, trackers
        self._left_out_keys: list[str] = []  # trials that the changed space no longer has
        self._seeds_needed = SeedRounds(store).seeds_needed if plan.design else dict

    def run(self) -> int:
        """Run or continue the sweep, and return the exit code.

        Raises:
            ValueError: The run has other settings or is in use, or data or weights are missing.
            StoreError: Results cannot be written, and this command has not changed the run yet.
        """
        try:
            return self._run()
        except StoreError as error:
            if not self._has_changed_run:
                raise
            print(f"error: {error}", file=sys.stderr)
            return exit_codes.FAILED

    def _run(self) -> int:
        with self.store.hold(self.command):
            earlier_work = self._read_earlier_work()
            other_runs = OtherRuns(self.store, self.options.reuse)
            records_for_warm_start = warm_start_records(self.store, self.options.warm_start)
            earlier_work.announce(self.store.run)
            if earlier_work.finished and not earlier_work.failed and self._is_complete(earlier_work.finished):
                self.store.write_moved(earlier_work.moved_records)
                self.store.write_table()
                self._seconds_in_manifest = self._elapsed_s()  # the search for work is not time of the run
                self._write_manifest("complete")
                return self._print_summary("complete")

            def start_supervisor(prepared: Mapping[str, Any]) -> Supervisor:
                self._has_changed_run = True
                self.store.write_moved(earlier_work.moved_records)
                self._write_manifest("running")
                self._add_baselines(prepared)
                return self._make_supervisor(earlier_work, other_runs, records_for_warm_start)

            self._followers = trackers.start(self.options.track, self.store, self.plan.space)
            run_trials = self._run_here if self.options.local_mode else self._run_on_ray
            status = "interrupted"
            try:
                with contextlib.closing(Listeners(self._followers)):
                    status = "stopped" if run_trials(start_supervisor).is_held_back_by_budget else "complete"
            except KeyboardInterrupt:
                print("\ninterrupted", flush=True)
            except OutOfTime as error:
                print(error, flush=True)
                status = "stopped"
            finally:
                if self._has_changed_run:
                    self.store.check()
                    self.store.clear_checkpoints(complete=status == "complete")
                    self.store.write_table()
                    self._write_manifest(status)
            return self._print_summary(status)

    def probe(self, price_per_hour: float | None = None) -> dict[str, Any]:
        """Measure how fast trials train on the machines of the sweep, and predict the rest of the sweep.

        Return the prediction, and also write it to the run.

        Raises:
            ValueError: As for `run`.
            OutOfTime: No machine came within the time limit of the options.
        """
        from sweeps.forecast import probe

        with self.store.hold(), contextlib.ExitStack() as stack:
            finished_records = self._read_earlier_work().finished
            sample_configs = self.plan.space.all_sample_configs
            baselines = [sample_configs[index] for index in self._indices_without_baseline(sample_configs)]
            prediction = probe.predict(
                self.plan.space,
                self._hold_resources(stack),
                resolve=self._resolved_settings,
                baselines=baselines,
                finished=finished_records,
                audit_share=self.options.audit,
                audited_steps=self._audited_steps(),
                price_per_hour=price_per_hour,
                most_seeds=self.plan.design.most_seeds if self.plan.design else None,
            )
            self.store.write_prediction(prediction)
            return prediction

    def _hold_resources(self, stack: contextlib.ExitStack) -> Resources:
        """Return the machines on which trials would train. They are held until the stack is closed."""
        if self.options.local_mode:
            from sweeps.forecast.probe import resources_of_this_process

            self._resolve_settings(lambda configs, baselines: prepare(configs))
            return resources_of_this_process(self._elapsed_s())
        from sweeps.on_ray.resources import ray_resources

        return ray_resources(stack.enter_context(self._prepare_cluster(score_baselines=False)), self._elapsed_s())

    def _read_earlier_work(self) -> EarlierWork:
        """Read what earlier commands have left. Where the default of an option has changed, trials keep the old one."""
        earlier_work = read_earlier_work(self.store, self.plan.space)
        self._left_out_keys = earlier_work.left_out_keys
        self._resolved_settings.keep_former_defaults(earlier_work.former_default_by_option)
        return earlier_work

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began_at

    def _print_summary(self, status: str) -> int:
        """Print the summary, and return the exit code."""
        summary_text, exit_code = summarise(
            self.plan,
            self.store,
            status,
            elapsed_s=self._elapsed_s(),
            left_out_keys=self._left_out_keys,
            fresh=self.options.fresh,
        )
        print(summary_text)
        return exit_code

    def _write_manifest(self, status: str) -> None:
        elapsed_s = self._elapsed_s()
        self.store.write_manifest(
            status=status,
            elapsed_s=elapsed_s - self._seconds_in_manifest,
            space=plan_to_dict(self.plan),
            identity=self.plan.space.identity(),
            command=self.command,
            profile=self.plan.space.profile,
            left_out_keys=self._left_out_keys,
            titles=self._task_titles,
        )
        self._seconds_in_manifest = elapsed_s

    def on_reported(self, job: Job, report: Report) -> None:
        # The manifest is also written during the run, because a command that is killed cannot write it at its end.
        if self._elapsed_s() - self._seconds_in_manifest >= _MANIFEST_INTERVAL_S:
            self._write_manifest("running")

    # --- before the first trial ----------------------------------------------------------------------------------

    def _resolve_settings(self, run_prepare: PrepareFunction) -> dict[str, Any]:
        """Resolve the precision and revisions of every backbone and task of the sweep, on a machine that runs trials.

        Args:
            run_prepare: Runs `sweeps.work.prepare.prepare` on that machine. It is given configurations, and the indices
                of those whose baseline is missing.

        Returns:
            What `prepare` returned.

        Raises:
            ValueError: Data or weights are missing or do not fit, or are not those that finished trials used.
        """
        sample_configs = self.plan.space.all_sample_configs
        print("preparing data and weights (missing files are downloaded once)", flush=True)
        configs = [config.to_dict() for config in self._resolved_settings.with_run_precision(sample_configs)]
        prepared = run_prepare(configs, self._indices_without_baseline(sample_configs))
        if "error" in prepared:
            raise ValueError(prepared["error"])
        self._resolved_settings.add(sample_configs, prepared["configs"])
        return prepared

    def _indices_without_baseline(self, configs: list[TrialConfig]) -> list[int]:
        """Return the index of one configuration for each pair of backbone and task that has no baseline yet."""
        stored_pairs = {
            (name_without_path(baseline["backbone"]), name_without_path(baseline["task"]))
            for baseline in self.store.baselines()
        }
        first_index_by_pair = {
            (name_without_path(config.backbone), name_without_path(config.task)): index
            for index, config in reversed(list(enumerate(configs)))
        }
        return [index for pair, index in first_index_by_pair.items() if pair not in stored_pairs]

    def _add_baselines(self, prepared: Mapping[str, Any]) -> None:
        if prepared["baselines"]:
            self.store.write_baselines([*self.store.baselines(), *prepared["baselines"]])
        for problem in prepared["problems"]:
            print(f"no zero-shot baseline: {problem}", file=sys.stderr)

    def _is_complete(self, finished_records: list[TrialRecord]) -> bool:
        """Return whether no trial and no baseline is left. Nothing is started to find this out."""
        if self._indices_without_baseline(self.plan.space.all_sample_configs):
            return False
        from sweeps.search.queue import TrialQueue

        space, seeds_needed = self.plan.space, self._seeds_needed
        queue = TrialQueue(
            space, resolve=lambda config: config, finished=finished_records, failed=[], seeds_needed=seeds_needed
        )
        return queue.count_unfinished_trials() == (0, 0)  # of search trials and confirm trials that are left

    # --- the trials ----------------------------------------------------------------------------------------------

    def _make_supervisor(
        self, earlier_work: EarlierWork, other_runs: OtherRuns, records_for_warm_start: list[TrialRecord]
    ) -> Supervisor:
        """Return the supervisor, with the queue, early stopping and all listeners."""
        from sweeps.search.early_stopping import EarlyStopping
        from sweeps.search.queue import SEARCH_SEED, TrialQueue
        from sweeps.supervisor import Supervisor

        space, options = self.plan.space, self.options
        finished_records = [
            *earlier_work.finished,
            *other_runs.reuse_search_trials(space, self._resolved_settings, earlier_work.finished, SEARCH_SEED),
        ]
        queue = TrialQueue(
            space,
            resolve=self._resolved_settings,
            finished=finished_records,
            failed=earlier_work.failed,
            interrupted=self.store.interrupted_trials(),
            reuse_trial=other_runs.reuse_nothing if self.plan.design else other_runs.reuse_trial,
            warm_start_records=records_for_warm_start,
            seeds_needed=self._seeds_needed,
        )
        if options.reuse:
            other_runs.announce(self.plan.search_trial_count + (self.plan.confirm_trial_count or 0))
        if options.warm_start:
            announce_warm_start(space, records_for_warm_start)
        progress = Progress.of_queue(queue, len(finished_records), adds_seeds=self.plan.design is not None)
        self._followers[:0] = [progress, RunningTrials(self.store, progress, self._budget)]
        early_stopping = EarlyStopping(
            space.stopping_rule, audit_share=options.audit, audited_steps=self._audited_steps()
        )
        early_stopping.replay(finished_records)
        listeners = [self._budget, self, *self._followers]
        return Supervisor(queue, early_stopping, self.store, self._budget, job_of=self._job_of, listeners=listeners)

    def _audited_steps(self) -> dict[str, int]:
        """Return the step at which each audited trial of earlier commands would have been stopped, by trial key."""
        return {key: int(audit["step"]) for key, audit in self.store.audits().items()}

    def _job_of(self, trial: QueuedTrial) -> Job:
        return Job(
            config=trial.config,
            phase=trial.phase,
            cell=trial.cell.name,
            stratum=trial.stratum,
            out=self.store.out,
            run=self.store.run,
            limit_s=self.options.max_trial_time_s,
            **(self._allocation.job_fields(trial.config) if self._allocation else {}),
        )

    def _gpus_of(self, job: Job) -> float:
        """Return the number of GPUs that the trial of a job reserves."""
        if self._allocation is None:
            return float(has_gpu())
        return self._allocation.resources_for(job.shares_backbone).get("gpu", 0.0)

    def _run_here(self, start_supervisor: Callable[[Mapping[str, Any]], Supervisor]) -> Supervisor:
        """Run all trials in this process, one at a time."""
        supervisor, started_count = start_supervisor(self._resolve_settings(prepare)), 0
        while job := supervisor.begin_next_trial(name := f"local-{started_count}"):
            started_count += 1
            supervisor.note_placed(name)
            report: Report = {}
            for report in execute(job):
                if not supervisor.report(name, report):
                    break
            supervisor.end(name, report)
        return supervisor

    def _run_on_ray(self, start_supervisor: Callable[[Mapping[str, Any]], Supervisor]) -> Supervisor:
        """Run all trials on the Ray cluster at RAY_ADDRESS, or on one that is started on this machine."""
        from sweeps.on_ray.tune import run_trials

        # Ray writes its snapshots next to the results, or on this machine if these are remote. Nothing reads them.
        folder = self.store.folder
        snapshot_folder = folder / "ray" if isinstance(folder, Path) else Path(tempfile.mkdtemp(prefix="lopt-")) / "ray"
        try:
            with self._prepare_cluster() as cluster:
                self._allocation = cluster.allocation
                supervisor = start_supervisor(cluster.prepared)
                run_trials(cluster, supervisor, snapshot_folder, self.options.max_wait_s)
                return supervisor
        finally:
            shutil.rmtree(snapshot_folder if isinstance(folder, Path) else snapshot_folder.parent, ignore_errors=True)

    def _prepare_cluster(self, *, score_baselines: bool = True) -> contextlib.AbstractContextManager[ReadyCluster]:
        from sweeps.on_ray.tune import prepare_cluster

        arguments = self.options, self._resolve_settings, self.plan.first_trial_count, self._budget.left_s
        return prepare_cluster(self.store, *arguments, score_baselines=score_baselines)
