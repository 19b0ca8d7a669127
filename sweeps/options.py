"""The options of the command that say how a sweep runs."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a sweep runs, as opposed to what it runs: no option changes the result of a trial.

    Attributes:
        local_mode: Train in this process, one trial at a time, without Ray.
        trials_per_gpu: Number of trials that share a GPU, or a node without GPU; None lets the worker find it.
        max_concurrent: Number of trials at once; None fills the machine.
        max_trials, max_wall_time_s, max_gpu_hours: Limits beyond which no trial starts. Beyond the latter two, running
            trials end at their next evaluation, and another command continues them from there.
        max_trial_time_s: A trial that takes longer has failed.
        reuse: Other runs whose finished trials are taken over.
        warm_start: Other runs from whose results the search learns.
        track: Names of trackers.
        audit: Share of the trials to be stopped early that run to the end instead.
        fresh: Whether the command has --fresh, so that repeating it would begin the run anew.
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
