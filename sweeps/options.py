"""The options of the command that say how a sweep runs."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a sweep runs, as opposed to what it runs: no option changes the result of a trial.

    Attributes:
        local_mode: Whether trials train in this process, one at a time and without Ray.
        trials_per_gpu: Number of trials that share a GPU, or a machine without one. If None, the worker measures how
            many keep the device busy.
        max_concurrent: Largest number of trials at once. If None, as many as the machines have room for.
        max_trials: Number of trials that the command may start.
        max_wall_time_s, max_gpu_hours: Once one of them is used up, no trial starts, and running trials end at their
            next evaluation. A later command continues them from there.
        max_wait_s: The command gives up when the cluster has had no room for a trial for this long.
        max_trial_time_s: A trial that takes longer counts as failed.
        reuse: Names of other runs whose finished trials are copied; "all" stands for every run.
        warm_start: Names of other runs whose results the search starts with.
        track: Names of trackers.
        audit: The share of the trials to be stopped early that run to the last step instead.
        fresh: Whether the command has --fresh, in which case the same command would start the run over.
    """

    local_mode: bool = False
    trials_per_gpu: int | None = None
    max_concurrent: int | None = None
    max_trials: int | None = None
    max_wall_time_s: float | None = None
    max_gpu_hours: float | None = None
    max_wait_s: float = 1800.0
    max_trial_time_s: float | None = None
    reuse: tuple[str, ...] = ()
    warm_start: tuple[str, ...] = ()
    track: tuple[str, ...] = ()
    audit: float = 0.0
    fresh: bool = False
