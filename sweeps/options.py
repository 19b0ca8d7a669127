"""How a sweep is run."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run, as opposed to what: nothing here changes a result.

    trials_per_gpu: that share a GPU, or a node without one; None lets the worker find out. max_concurrent: None fills
    the machine.
    max_trials, max_wall_time_s, max_gpu_hours: start no trial beyond them; beyond the latter two, running trials end at
    their next evaluation, from which another command goes on. max_trial_time_s: a trial that takes longer has failed.
    track: names of trackers. reuse, warm_start: other runs whose finished trials are taken, and from which the search
    learns. audit: share of the trials to be stopped early that run to the end. fresh: the command began the run anew,
    and would again.
    """

    local_mode: bool = False
    trials_per_gpu: int | None = None
    max_concurrent: int | None = None
    max_trials: int | None = None
    max_wall_time_s: float | None = None
    max_gpu_hours: float | None = None
    max_trial_time_s: float | None = None
    reuse: tuple[str, ...] = ()
    warm_start: tuple[str, ...] = ()
    track: tuple[str, ...] = ()
    audit: float = 0.0
    fresh: bool = False
