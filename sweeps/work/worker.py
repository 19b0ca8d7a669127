"""A worker: one process for each GPU (for each node without one) that trains all trials there over one backbone.

A trial's own process only passes reports on. A trial that has reported is held until its client asks for the next
report, which means that the scheduler lets it go on; meanwhile the others train.
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

SILENCE_S = 600.0  # a trial whose client has not been heard of for so long is let go
IDLE_S = 300.0  # a worker without a trial ends after so long
_PATIENCE, _LEAST_PATIENCE_S = 0.25, 0.05  # how long trials that were held are waited for, as a share of a step
_COMPANY_S = 2.0  # a worker's first step waits so long for one more trial: their processes start side by side
_RELEASE_S = 10.0  # while others train, memory of trials that went is given back so often: it takes a quarter second


@dataclass(eq=False)
class _Seat:
    """A trial in a worker. training: its client waits for its next report, so it takes part in steps. apart: in steps
    of its own, up to its next report."""

    run: Execution
    reports: list[Report]  # to be had without training
    apart: bool = False
    quiet_since: float = math.inf  # its client has not been heard of
    held_until: float = 0.0  # the others wait for it so long
    training: bool = False
    outcomes: list[Outcome] = field(default_factory=list)  # none or one
    gone: bool = False


class Worker:
    """Trains all trials admitted to it, over as many backbones as they have.

    One thread does everything that touches a model: PyTorch's default type and its choice of attention kernels are
    the whole process's. Trials are made, reported and written down in the threads of their clients' calls.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards all of the following
        self._seats: dict[str, _Seat] = {}
        self._tasks: list[Callable[[], None]] = []  # for the training thread, between steps
        self._stepping_since = math.inf
        self._stepped: tuple[float, float] | None = None  # when the last step began and ended
        self._stepping: list[_Seat] = []
        self._arriving, self._arrived_at = 0, -math.inf  # trials that are being made, and since when there are some
        self._came, self._places = 0, 1  # trials so far; how many may be here at a time
        self._released_at, self._to_release = -math.inf, False  # memory of trials that have gone
        self._building = threading.Lock()  # one trial at a time is made
        self._making: tuple[str, float] | None = None  # its key, and since when; not while it waits for a step
        self._numbers = itertools.count()
        self._engines: dict[int, Engine] = {}  # by id of their backbone; of the training thread alone
        threading.Thread(target=self._train, daemon=True, name="training").start()

    # --- what clients call -------------------------------------------------------------------------------------

    def admit(self, job: Job, apart: bool = False) -> str:
        """Makes a trial, at its newest checkpoint if it has one; it trains from the first `next` on, `apart` of all
        others if it may be the one that workers hang or die of. Returns what `next` and `evict` know it by."""
        run = Execution(job)
        with self._arrival(job.packed):
            with self._building:
                self.evict_by_key(run.config.key)  # its client has died, or it would not come again
                try:
                    self._in_turn(lambda: self._load(job, run.config.key))
                    report = run.begin()
                finally:
                    self._making = None
            name = f"{run.key}-{next(self._numbers)}"
            with self._changed:
                self._seats[name] = seat = _Seat(run, [] if report is None else [report], apart)
                self._hold(seat)
        return name

    def next(self, name: str) -> Report | None:
        """Lets a trial train up to its next report; None where it has been let go."""
        with self._changed:
            seat = self._seats.get(name)
            if seat is None:
                return None
            seat.quiet_since = math.inf
            if not seat.reports:
                seat.training = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: seat.outcomes or seat.gone)
                if seat.gone:
                    return None
        try:
            return seat.reports.pop() if seat.reports else self._report(seat.run, seat.outcomes.pop())
        finally:
            with self._changed:
                self._hold(seat)

    def evict(self, name: str) -> None:
        """Lets a trial go, and its memory."""
        with self._changed:
            seat = self._seats.pop(name, None)
            if seat is not None:
                seat.gone = True
                if self._release not in self._tasks:
                    self._tasks.append(self._release)
                self._changed.notify_all()

    def evict_by_key(self, key: str) -> None:
        """Evicts a trial by its key: its client has died, and another one trains it."""
        with self._changed:
            for name in [name for name, seat in self._seats.items() if seat.run.config.key == key]:
                self.evict(name)

    def standing(self, name: str) -> dict[str, Any]:
        """Of a trial by the name that `admit` gave it, before that by its key. making_s: how long it has been made, 0
        where it is not; step_s: how long the step that is being made has taken, 0 between two; inside, alone: whether
        the trial is in it, and no other; scored: whether it is trained, and now scored."""
        seat, stepping = self._seats.get(name), self._stepping
        making, since = self._making or ("", 0.0)
        return {
            "making_s": time.monotonic() - since if making == name else 0.0,
            "step_s": max(0.0, time.monotonic() - self._stepping_since),
            "inside": seat in stepping,
            "alone": stepping == [seat],
            "scored": seat is not None and seat.run.trial is not None and seat.run.trial.over,
        }

    def save(self) -> None:
        """Checkpoints of all trials, between two steps."""

        def save_all() -> None:
            with self._changed:
                runs = [seat.run for seat in self._seats.values()]
            for run in runs:
                with contextlib.suppress(Exception):  # its last one stays
                    run.save()

        self._in_turn(save_all)

    def call(self, function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
        """What a function (`sweeps.work.prepare.prepare`) finds here; what it loads stays for the trials."""
        with self._building:
            return self._in_turn(lambda: function(*arguments))

    def until_death(self) -> None:
        """Never returns: its end is the worker's, which goes when it has had no trial for long, for a cluster takes no
        machine back on which an actor lives."""
        idle_since = time.monotonic()
        while time.monotonic() - idle_since < IDLE_S:
            time.sleep(IDLE_S / 100)
            if self._seats or self._building.locked():
                idle_since = time.monotonic()
        os._exit(0)

    # --- in the threads of calls -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _arrival(self, places: int) -> Iterator[None]:
        """A trial is being made, for which the next step waits a little (`_coming_until`)."""
        with self._changed:
            if not self._arriving or not self._stepped:
                self._arrived_at = time.monotonic()
            self._arriving, self._came, self._places = self._arriving + 1, self._came + 1, places
        try:
            yield
        finally:
            with self._changed:
                self._arriving -= 1
                self._changed.notify_all()

    def _report(self, run: Execution, outcome: Outcome) -> Report:
        assert run.trial is not None
        if run.trial.over and not isinstance(outcome, Exception):  # the saved prompt is scored: by the model
            return self._in_turn(lambda: run.report(outcome))
        return run.report(outcome)

    def _hold(self, seat: _Seat) -> None:
        """The client has what it asked for; the next step waits a little for it to ask again."""
        seat.quiet_since = time.monotonic()
        seat.held_until = 0.0 if seat.run.over else seat.quiet_since + self._patience_s()
        self._changed.notify_all()

    def _patience_s(self) -> float:
        """How long a step waits for a trial that could take part."""
        if self._stepped is None:
            return _COMPANY_S
        began, ended = self._stepped
        return max(_LEAST_PATIENCE_S, _PATIENCE * (ended - began))

    def _in_turn(self, work: Callable[[], Any]) -> Any:
        """What `work` returns, in the training thread."""
        future: Future[Any] = Future()

        def task() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        with self._changed:
            self._tasks.append(task)
            self._changed.notify_all()
        return future.result()

    # --- in the training thread --------------------------------------------------------------------------------

    def _train(self) -> None:
        while True:
            tasks, seats = self._turn()
            for task in tasks:
                with contextlib.suppress(Exception):  # this thread must not end: clients wait for it
                    task()
            if seats:
                self._step(seats)
            if self._to_release:
                self._give_back()

    def _turn(self) -> tuple[list[Callable[[], None]], list[_Seat]]:
        """Waits until there is something to do: tasks, or the seats of the trials that take part in a step."""
        with self._changed:
            while True:
                at = time.monotonic()
                for name in [name for name, seat in self._seats.items() if at - seat.quiet_since > SILENCE_S]:
                    self.evict(name)
                training = self._together([seat for seat in self._seats.values() if seat.training])
                held = [s.held_until for s in self._seats.values() if not s.training and s.held_until > at]
                held += [until] if (until := self._coming_until()) > at else []
                if self._tasks or (training and not held):
                    tasks, self._tasks = self._tasks, []
                    return tasks, [] if held else training
                self._changed.wait(min([*held, at + SILENCE_S / 10]) - at)

    def _coming_until(self) -> float:
        """How long trials that come are waited for, so that they make their steps, and report, with the others: in a
        new worker, to which they come one by one, until there have been as many as it has places for; later, when they
        come together, until they are made, and before one step only."""
        if self._stepped is None:
            waits, since = self._arriving or self._came < self._places, self._arrived_at
        else:
            began, ended = self._stepped
            waits, since = self._arriving and self._arrived_at >= began, max(self._arrived_at, ended)
        return since + self._patience_s() if waits else 0.0

    def _together(self, training: list[_Seat]) -> list[_Seat]:
        """Those that make the next step: one that is to be apart, in turn with the others."""
        apart, others = [s for s in training if s.apart], [s for s in training if not s.apart]
        if not apart or (others and any(seat.apart for seat in self._stepping)):
            return others
        return apart[:1]

    def _step(self, seats: list[_Seat]) -> None:
        """One step of the seats' trials, and what has become of them."""
        by_trial = {seat.run.trial: seat for seat in seats if seat.run.trial is not None}
        self._stepping, self._stepping_since = seats, time.monotonic()
        try:
            outcomes = [found for engine in self._seated(list(by_trial)) for found in engine.advance()]
        except Exception as error:  # a fault of the engine: what a trial raises is an outcome already
            outcomes = [(trial, error) for trial in by_trial]
        with self._changed:
            self._stepped, self._stepping_since = (self._stepping_since, time.monotonic()), math.inf
            for trial, outcome in outcomes:
                seat = by_trial[trial]
                seat.training, seat.apart, seat.held_until = False, False, 0.0 if trial.over else math.inf
                seat.outcomes.append(outcome)
            self._changed.notify_all()

    def _seated(self, trials: list[Trial]) -> list[Engine]:
        """The engines, one a backbone, with exactly these trials in them."""
        from lopt.engine import Engine

        for engine in self._engines.values():
            for trial in set(engine.trials).difference(trials):
                engine.evict(trial)
        for trial in trials:
            engine = self._engines.setdefault(id(trial.backbone), Engine())
            if trial not in engine.trials:
                engine.admit(trial)
        return [engine for engine in self._engines.values() if engine.trials]

    def _load(self, job: Job, key: str) -> None:
        """Begins to make a trial: loads what it needs of torch's global state; what cannot be had is its failure,
        later."""
        from lopt import backbones

        self._making = key, time.monotonic()
        set_threads(job.threads)
        config = job.config
        with contextlib.suppress(Exception):
            backbones.load(config.backbone, methods.get(config.method).weights_precision(config.precision))

    def _release(self) -> None:
        """Gives back the memory of trials that have gone; the engine of a backbone that nobody uses, too."""
        with self._changed:
            staying = {seat.run.trial for seat in self._seats.values()}
        for engine in self._engines.values():
            for trial in set(engine.trials) - staying:
                engine.evict(trial)
        used = {id(trial.backbone) for trial in staying if trial is not None}
        self._engines = {name: engine for name, engine in self._engines.items() if name in used}
        self._to_release = True
        self._give_back(at_once=not any(staying))

    def _give_back(self, at_once: bool = False) -> None:
        """The memory that is to be released, unless some has just been."""
        if at_once or time.monotonic() - self._released_at >= _RELEASE_S:
            release_memory()
            self._released_at, self._to_release = time.monotonic(), False
