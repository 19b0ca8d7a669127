"""A worker: one process for each GPU (or each node without GPUs). It trains the trials that share this device.

Each trial has a process of its own, the client, which only passes reports on. A trial that has reported is held until
its client asks for the next report, because the scheduler may stop the trial. Meanwhile the other trials train. A step
waits a little for held trials and for trials that are being set up, because full passes are the fastest.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lopt import methods
from sweeps.work.execution import Execution
from sweeps.work.job import Job, Report
from sweeps.work.process import release_memory, set_threads

if TYPE_CHECKING:
    from lopt.engine import Engine, Outcome
    from lopt.training import Trial

SILENCE_S = 600.0  # a trial is evicted when its client has been silent for this long
IDLE_S = 300.0  # a worker ends when it has had no trial for this long
# How long a step waits for trials that are held: this share of the last step's duration, but at least these seconds.
_WAIT_SHARE, _MIN_WAIT_S = 0.25, 0.05
_FIRST_WAIT_S = 2.0  # how long a worker's first step waits for one more trial: trials start at about the same time
_RELEASE_INTERVAL_S = 10.0  # shortest time between two releases of memory during training: each takes 0.25 seconds


@dataclass(eq=False)
class _HostedTrial:
    """A trial in a worker. `execution` turns an outcome, which the engine yields, into a report for the client."""

    execution: Execution
    waiting_reports: list[Report]  # reports that the client can have without any training
    steps_alone: bool = False  # whether the trial makes its steps without the others, up to its next report
    silent_since: float = math.inf  # when the client's last call ended; infinity during a call of `next`
    awaited_until: float = 0.0  # the time until which the next step of the others waits for this trial
    is_training: bool = False  # whether the client waits for the next report, so that the trial takes part in steps
    outcomes: list[Outcome] = field(default_factory=list)  # at most one
    is_evicted: bool = False


class Worker:
    """Trains all trials admitted to it. Trials over the same backbone share an engine.

    One thread, the training thread, does everything that touches a model, because PyTorch's default dtype and its
    choice of attention kernels hold for the whole process. Everything else, such as setting up a trial and writing its
    files, is done in the threads of the clients' calls.
    """

    def __init__(self) -> None:
        self._state_changed = threading.Condition()  # guards all of the following
        self._hosted: dict[str, _HostedTrial] = {}  # by the name that `admit` returned
        self._queued_calls: list[Callable[[], None]] = []  # functions that the training thread calls between steps
        self._step_began_at = math.inf  # infinity between two steps
        self._last_step: tuple[float, float] | None = None  # when the last step began and ended
        self._trials_in_step: list[_HostedTrial] = []  # trials of the current step; between two steps, of the last one
        self._arriving_count, self._arriving_since = 0, -math.inf  # how many trials are being set up, and since when
        self._arrivals_so_far, self._pack_size = 0, 1  # how many have come so far; how many make a full pass
        self._released_at, self._must_release = -math.inf, False  # when memory was released; whether it must be again
        self._setup_lock = threading.Lock()  # only one trial at a time is set up
        # The key of the trial that is being set up, and since when; None while it waits for the current step to end.
        self._current_setup: tuple[str, float] | None = None
        self._name_numbers = itertools.count()  # numbers that make the names of trials unique
        self._engines: dict[int, Engine] = {}  # by the id of their backbone; only the training thread uses them
        threading.Thread(target=self._train, daemon=True, name="training").start()

    # --- methods that clients call -------------------------------------------------------------------------------

    def admit(self, job: Job, steps_alone: bool = False) -> str:
        """Set up a trial, and restore it from its newest checkpoint if it has one. It trains from the first `next` on.

        Args:
            steps_alone: Whether the trial makes its steps without the others up to its next report, because it may be
                the one that makes workers hang or die.

        Returns:
            The name by which `next`, `evict` and `activity` know the trial.
        """
        execution = Execution(job)
        with self._count_arrival(job.pack_size):
            with self._setup_lock:
                self.evict_by_key(job.key)  # if the trial is here already, its client has died
                try:
                    self._in_training_thread(lambda: self._load_backbone(job))
                    report = execution.begin()
                finally:
                    self._current_setup = None
            name = f"{job.key}-{next(self._name_numbers)}"
            with self._state_changed:
                self._hosted[name] = hosted = _HostedTrial(execution, [] if report is None else [report], steps_alone)
                self._hold_trial(hosted)
        return name

    def next(self, name: str) -> Report | None:
        """Let a trial train up to its next report, and return the report, or None if the trial has been evicted."""
        with self._state_changed:
            hosted = self._hosted.get(name)
            if hosted is None:
                return None
            hosted.silent_since = math.inf
            if not hosted.waiting_reports:
                hosted.is_training = True
                self._state_changed.notify_all()
                self._state_changed.wait_for(lambda: hosted.outcomes or hosted.is_evicted)
                if hosted.is_evicted:
                    return None
        try:
            if hosted.waiting_reports:
                return hosted.waiting_reports.pop()
            return self._report(hosted.execution, hosted.outcomes.pop())
        finally:
            with self._state_changed:
                self._hold_trial(hosted)

    def evict(self, name: str) -> None:
        """Remove a trial from the worker, and release its memory."""
        with self._state_changed:
            hosted = self._hosted.pop(name, None)
            if hosted is not None:
                hosted.is_evicted = True
                if self._release_evicted not in self._queued_calls:
                    self._queued_calls.append(self._release_evicted)
                self._state_changed.notify_all()

    def evict_by_key(self, key: str) -> None:
        """Evict the trial of this key, because its client has died. A new client will start the trial again."""
        with self._state_changed:
            for name in [name for name, hosted in self._hosted.items() if hosted.execution.config.key == key]:
                self.evict(name)

    def activity(self, name: str) -> dict[str, Any]:
        """Return what the worker is doing with a trial. Until `admit` has returned, `name` is the trial's key.

        Returns:
            "setup_s": how long setting up the trial has taken so far; 0 if it is not being set up.
            "step_s": how long the current step has taken so far; 0 between two steps.
            "in_step": whether the trial is in the current step or, between two steps, was in the last one.
            "alone": whether no other trial is, or was, in that step.
            "trained": whether its training is over, so that it is being scored.
        """
        hosted, trials_in_step = self._hosted.get(name), self._trials_in_step
        setup_key, setup_since = self._current_setup or ("", 0.0)
        trial = hosted.execution.trial if hosted is not None else None
        return {
            "setup_s": time.monotonic() - setup_since if setup_key == name else 0.0,
            "step_s": max(0.0, time.monotonic() - self._step_began_at),
            "in_step": hosted in trials_in_step,
            "alone": trials_in_step == [hosted],
            "trained": trial is not None and trial.is_over,
        }

    def save(self) -> None:
        """Write checkpoints of all trials, between two steps."""

        def save_all() -> None:
            with self._state_changed:
                executions = [hosted.execution for hosted in self._hosted.values()]
            for execution in executions:
                with contextlib.suppress(Exception):  # if this fails, the trial still has its last checkpoint
                    execution.save()

        self._in_training_thread(save_all)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function, for example `sweeps.work.prepare.prepare`. What it loads stays in memory for the trials."""
        with self._setup_lock:
            return self._in_training_thread(lambda: function(*arguments))

    def wait_until_death(self) -> None:
        """Block as long as the worker lives, so that the end of this call shows the caller that the worker has died.

        When the worker has had no trial for `IDLE_S`, it ends itself, because a cluster never removes a machine that
        has a live actor.
        """
        idle_since = time.monotonic()
        while time.monotonic() - idle_since < IDLE_S:
            time.sleep(IDLE_S / 100)
            if self._hosted or self._setup_lock.locked():
                idle_since = time.monotonic()
        os._exit(0)

    # --- in the threads of calls ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _count_arrival(self, pack_size: int) -> Iterator[None]:
        """Count a trial as arriving while it is set up: the next step waits for it (`_arrival_deadline`)."""
        with self._state_changed:
            if not self._arriving_count or not self._last_step:
                self._arriving_since = time.monotonic()
            self._arriving_count, self._arrivals_so_far = self._arriving_count + 1, self._arrivals_so_far + 1
            self._pack_size = pack_size
        try:
            yield
        finally:
            with self._state_changed:
                self._arriving_count -= 1
                self._state_changed.notify_all()

    def _report(self, execution: Execution, outcome: Outcome) -> Report:
        assert execution.trial is not None
        if execution.trial.is_over and not isinstance(outcome, Exception):  # scoring touches the model
            return self._in_training_thread(lambda: execution.report(outcome))
        return execution.report(outcome)

    def _hold_trial(self, hosted: _HostedTrial) -> None:
        """Hold a trial whose client has its report. The next step waits a little until the client asks again."""
        hosted.silent_since = time.monotonic()
        hosted.awaited_until = 0.0 if hosted.execution.has_ended else hosted.silent_since + self._max_wait_s()
        self._state_changed.notify_all()

    def _max_wait_s(self) -> float:
        """Return how long a step waits at most for a trial that could take part."""
        if self._last_step is None:
            return _FIRST_WAIT_S
        began_at, ended_at = self._last_step
        return max(_MIN_WAIT_S, _WAIT_SHARE * (ended_at - began_at))

    def _in_training_thread(self, function: Callable[[], Any]) -> Any:
        """Call a function in the training thread, and return what it returns."""
        future: Future[Any] = Future()

        def queued_call() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        with self._state_changed:
            self._queued_calls.append(queued_call)
            self._state_changed.notify_all()
        return future.result()

    # --- in the training thread ----------------------------------------------------------------------------------

    def _train(self) -> None:
        while True:
            queued_calls, chosen_trials = self._wait_for_work()
            for queued_call in queued_calls:
                with contextlib.suppress(Exception):  # this thread must not end, because clients wait for it
                    queued_call()
            if chosen_trials:
                self._step(chosen_trials)
            if self._must_release:
                self._release_if_due()

    def _wait_for_work(self) -> tuple[list[Callable[[], None]], list[_HostedTrial]]:
        """Wait for something to do. Return the functions to call, and the trials that make a step after these calls."""
        with self._state_changed:
            while True:
                now = time.monotonic()
                for name in [name for name, hosted in self._hosted.items() if now - hosted.silent_since > SILENCE_S]:
                    self.evict(name)
                chosen_trials = self._choose_trials([hosted for hosted in self._hosted.values() if hosted.is_training])
                held_trials = [hosted for hosted in self._hosted.values() if not hosted.is_training]
                deadlines = [hosted.awaited_until for hosted in held_trials] + [self._arrival_deadline()]
                deadlines = [deadline for deadline in deadlines if deadline > now]
                if self._queued_calls or (chosen_trials and not deadlines):
                    queued_calls, self._queued_calls = self._queued_calls, []
                    return queued_calls, [] if deadlines else chosen_trials
                self._state_changed.wait(min([*deadlines, now + SILENCE_S / 10]) - now)

    def _arrival_deadline(self) -> float:
        """Return the time until which the next step waits for arriving trials, so that they step and report together.

        Trials come to a new worker one by one. So its first step waits until the worker has as many trials as fit into
        a pass. Later, if several trials come together, only one step waits for them.
        """
        if self._last_step is None:
            is_waiting, since = self._arriving_count or self._arrivals_so_far < self._pack_size, self._arriving_since
        else:
            began_at, ended_at = self._last_step
            is_waiting = self._arriving_count and self._arriving_since >= began_at
            since = max(self._arriving_since, ended_at)
        return since + self._max_wait_s() if is_waiting else 0.0

    def _choose_trials(self, training_trials: list[_HostedTrial]) -> list[_HostedTrial]:
        """Choose the trials of the next step. A trial that steps alone takes turns with all the others."""
        solo_trials = [hosted for hosted in training_trials if hosted.steps_alone]
        packed_trials = [hosted for hosted in training_trials if not hosted.steps_alone]
        if not solo_trials or (packed_trials and any(hosted.steps_alone for hosted in self._trials_in_step)):
            return packed_trials
        return solo_trials[:1]

    def _step(self, chosen: list[_HostedTrial]) -> None:
        """Make one step with these trials, and store the outcome of each trial that has one."""
        hosted_by_trial = {hosted.execution.trial: hosted for hosted in chosen if hosted.execution.trial is not None}
        self._trials_in_step, self._step_began_at = chosen, time.monotonic()
        try:
            outcomes = [item for engine in self._engines_with(list(hosted_by_trial)) for item in engine.advance()]
        except Exception as error:  # the engine's own error; an error of one trial is an outcome
            outcomes = [(trial, error) for trial in hosted_by_trial]
        with self._state_changed:
            self._last_step, self._step_began_at = (self._step_began_at, time.monotonic()), math.inf
            for trial, outcome in outcomes:
                hosted = hosted_by_trial[trial]
                hosted.is_training = hosted.steps_alone = False
                hosted.awaited_until = 0.0 if trial.is_over else math.inf
                hosted.outcomes.append(outcome)
            self._state_changed.notify_all()

    def _engines_with(self, trials: list[Trial]) -> list[Engine]:
        """Return the engines, one for each backbone, with exactly these trials in them."""
        from lopt.engine import Engine

        for engine in self._engines.values():
            for trial in set(engine.trials).difference(trials):
                engine.evict(trial)
        for trial in trials:
            engine = self._engines.setdefault(id(trial.backbone), Engine())
            if trial not in engine.trials:
                engine.admit(trial)
        return [engine for engine in self._engines.values() if engine.trials]

    def _load_backbone(self, job: Job) -> None:
        """Load the backbone of a trial. An error is ignored here, because `Execution.begin` will raise it again."""
        from lopt import backbones

        self._current_setup = job.key, time.monotonic()
        set_threads(job.threads)
        with contextlib.suppress(Exception):
            precision = methods.get(job.config.method).weights_precision(job.config.precision)
            backbones.load(job.config.backbone, precision)

    def _release_evicted(self) -> None:
        """Remove evicted trials from their engines, remove engines that have no trial left, and release memory."""
        with self._state_changed:
            remaining_trials = {hosted.execution.trial for hosted in self._hosted.values()}
        for engine in self._engines.values():
            for trial in set(engine.trials) - remaining_trials:
                engine.evict(trial)
        used_ids = {id(trial.backbone) for trial in remaining_trials if trial is not None}
        self._engines = {key: engine for key, engine in self._engines.items() if key in used_ids}
        self._must_release = True
        self._release_if_due(at_once=not any(remaining_trials))

    def _release_if_due(self, at_once: bool = False) -> None:
        """Release memory if the last release was long enough ago, or `at_once`."""
        if at_once or time.monotonic() - self._released_at >= _RELEASE_INTERVAL_S:
            release_memory()
            self._released_at, self._must_release = time.monotonic(), False
