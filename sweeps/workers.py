"""Workers: one process for each GPU (for each node without one) that trains all trials there over one backbone.

    driver ──owns──> Keeper ──owns──> Worker, one a device <──admit, next, evict── a client in each trial's process

A trial's own process only passes reports on. A trial that has reported is held until its client asks for the next
report, which means that the scheduler lets it go on; meanwhile the others train. Whoever is owned goes with its owner,
so nothing is left of a sweep whose driver dies, also on a cluster that stays.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lopt import methods
from sweeps.trial import Execution, Job, Report, release_memory, set_threads

if TYPE_CHECKING:
    from lopt.engine import Engine, Outcome
    from lopt.training import Trial

KEEPER = "keeper"  # its name in the sweep's namespace
SILENCE_S = 600.0  # a trial whose client has not been heard of for so long is let go
IDLE_S = 300.0  # a worker without a trial ends after so long
SAVE_S = 10.0  # an interrupted command waits so long for its trials' checkpoints
_PATIENCE, _LEAST_PATIENCE_S = 0.25, 0.05  # how long trials that were held are waited for, as a share of a step
_CALLS = 256  # that a worker answers at a time: one waits for each trial


# --- the worker ------------------------------------------------------------------------------------------------------


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
        self._step_s, self._stepping_since = 0.0, math.inf
        self._stepping: list[_Seat] = []
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
        with self._building:
            self.let_go(run.config.key)  # its client has died, or it would not come again
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

    def let_go(self, key: str) -> None:
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
        """What a function (`sweeps.trial.prepare`) finds here; what it loads stays for the trials."""
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

    def _report(self, run: Execution, outcome: Outcome) -> Report:
        assert run.trial is not None
        if run.trial.over and not isinstance(outcome, Exception):  # the saved prompt is scored: by the model
            return self._in_turn(lambda: run.report(outcome))
        return run.report(outcome)

    def _hold(self, seat: _Seat) -> None:
        """The client has what it asked for; the next step waits a little for it to ask again."""
        seat.quiet_since = time.monotonic()
        patience = max(_LEAST_PATIENCE_S, _PATIENCE * self._step_s)
        seat.held_until = 0.0 if seat.run.over else seat.quiet_since + patience
        self._changed.notify_all()

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

    def _turn(self) -> tuple[list[Callable[[], None]], list[_Seat]]:
        """Waits until there is something to do: tasks, or the seats of the trials that take part in a step."""
        with self._changed:
            while True:
                at = time.monotonic()
                for name in [name for name, seat in self._seats.items() if at - seat.quiet_since > SILENCE_S]:
                    self.evict(name)
                training = self._together([seat for seat in self._seats.values() if seat.training])
                held = [s.held_until for s in self._seats.values() if not s.training and s.held_until > at]
                if self._tasks or (training and not held):
                    tasks, self._tasks = self._tasks, []
                    return tasks, [] if held else training
                self._changed.wait(min([*held, at + SILENCE_S / 10]) - at)

    def _together(self, training: list[_Seat]) -> list[_Seat]:
        """Those that make the next step: one that is to be apart, in turn with the others."""
        apart, others = [s for s in training if s.apart], [s for s in training if not s.apart]
        if not apart or (others and any(seat.apart for seat in self._stepping)):
            return others
        return apart[:1]

    def _step(self, seats: list[_Seat]) -> None:
        """One step of the seats' trials, and what has become of them."""
        by_trial = {seat.run.trial: seat for seat in seats if seat.run.trial is not None}
        self._stepping, began = seats, time.monotonic()
        self._stepping_since = began
        try:
            outcomes = [found for engine in self._seated(list(by_trial)) for found in engine.advance()]
        except Exception as error:  # a fault of the engine: what a trial raises is an outcome already
            outcomes = [(trial, error) for trial in by_trial]
        with self._changed:
            self._step_s, self._stepping_since = time.monotonic() - began, math.inf
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
            backbone = trial.backbone
            if id(backbone) not in self._engines:
                self._engines[id(backbone)] = Engine()
            if trial not in self._engines[id(backbone)].trials:
                self._engines[id(backbone)].admit(trial)
        return [engine for engine in self._engines.values() if engine.trials]

    def _load(self, job: Job, key: str) -> None:
        """Begins to make a trial: loads what it needs of torch's global state; what cannot be had is its failure,
        later."""
        from lopt import backbones

        self._making = key, time.monotonic()
        set_threads(job["threads"])
        config = job["config"]
        with contextlib.suppress(Exception):
            precision = methods.get(config["method"]).weights_precision(config["precision"])
            backbones.load(config["backbone"], precision)

    def _release(self) -> None:
        """Gives back the memory of trials that have gone; the engine of a backbone that nobody uses, too."""
        with self._changed:
            staying = {seat.run.trial for seat in self._seats.values()}
        for engine in self._engines.values():
            for trial in set(engine.trials) - staying:
                engine.evict(trial)
        used = {id(trial.backbone) for trial in staying if trial is not None}
        self._engines = {name: engine for name, engine in self._engines.items() if name in used}
        release_memory()


# --- on Ray ----------------------------------------------------------------------------------------------------------


class Keeper:
    """Owns the workers of a sweep; a Ray actor that the driver owns."""

    def __init__(self) -> None:
        self._workers: dict[tuple[str, str | None], tuple[Any, Any]] = {}
        self._hangs: Counter[tuple[str, str | None]] = Counter()  # workers that were ended for that
        self._trained: dict[str, tuple[str, str | None]] = {}  # where each trial was last, by key

    def worker(self, node: str, device: str | None, key: str | None = None) -> Any:
        """The live worker of a GPU, or of a node without one; started when there is none.

        Args:
            key: of the trial that is to train there. Where it has trained before, its client has died, of which that
                worker knows nothing: it is told to let the trial go.
        """
        import ray

        if key is not None:
            before = self._trained.get(key)
            if before in self._workers and before != (node, device):
                self._workers[before][0].let_go.remote(key)
            self._trained[key] = node, device
        handle, death = self._workers.get((node, device), (None, None))
        if handle is None or ray.wait([death], timeout=0)[0]:
            handle = _start(node, device)
            self._workers[node, device] = handle, handle.until_death.remote()
        return handle

    def hangs(self, node: str, device: str | None) -> int:
        """How many workers of this device have been ended because they hung."""
        return self._hangs[node, device]

    def end(self, node: str, device: str | None, hangs: int) -> None:
        """Ends a worker that hangs, unless another client has had it ended since there were so many."""
        import ray

        if (node, device) in self._workers and self._hangs[node, device] == hangs:
            self._hangs[node, device] += 1
            ray.kill(self._workers[node, device][0])

    def save(self) -> list[Any]:
        """Asks every worker for checkpoints of its trials; what tells when they are there."""
        return [handle.save.remote() for handle, _ in self._workers.values()]


def _start(node: str, device: str | None) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    actor: Any = ray.remote(Worker)
    # It reserves nothing: its trials do.
    return actor.options(
        num_cpus=0,
        num_gpus=0,
        max_concurrency=_CALLS,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        runtime_env=None if device is None else {"env_vars": {"CUDA_VISIBLE_DEVICES": device}},
    ).remote()


def start_keeper() -> Any:
    """The sweep's keeper, on this node; it lives as long as the handle returned."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    actor: Any = ray.remote(Keeper)
    return actor.options(
        name=KEEPER,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
    ).remote()


def place() -> tuple[str, str | None]:
    """This process's node, and the GPU that Ray has given it a share of; None without one."""
    import ray

    return ray.get_runtime_context().get_node_id(), next((str(number) for number in ray.get_gpu_ids()), None)


def call_there(
    keeper: Any,
    resources: Mapping[str, float],
    function: Callable[..., dict[str, Any]],
    *arguments: Any,
    left_s: Callable[[], float] = lambda: math.inf,
) -> dict[str, Any]:
    """What a function finds on a device that has these resources; its worker stays, with what it has loaded.

    Args:
        left_s: time that there is for it.

    Raises:
        OutOfTime: that was not enough.
    """
    from sweeps.cluster import answer, once

    where = answer(once(place, resources).remote(), left_s(), wants=resources)
    worker: Any = answer(keeper.worker.remote(*where), left_s())
    return answer(worker.call.remote(function, *arguments), left_s())


def save(keeper: Any) -> None:
    """Checkpoints of all trials in workers, as far as a worker is between two steps within `SAVE_S` seconds."""
    import ray

    with contextlib.suppress(ray.exceptions.RayError):
        if saved := ray.get(keeper.save.remote(), timeout=SAVE_S):
            ray.wait(saved, num_returns=len(saved), timeout=SAVE_S)
