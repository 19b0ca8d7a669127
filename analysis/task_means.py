"""How methods compare over several tasks: trimmed mean, mean rank, and probability of improvement, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.frontier import Interval

if TYPE_CHECKING:
    import numpy as np

_TRIMMED_SHARE = 0.25  # of the tasks, at each end


def trimmed_mean(values_T: Sequence[float], draws_DT: np.ndarray | None) -> Interval | float:
    """Return the mean over tasks without the lowest and the highest quarter of them, rounded down.

    With five tasks, one is left out at each end, so that neither a hopeless task nor an easy one decides it. This is
    not rliable's interquartile mean (Agarwal et al. 2021, arXiv 2108.13264), which trims single runs of all tasks.

    Args:
        values_T: the value of each task.
        draws_DT: drawn values, `[draws, tasks]`, if the variation between seeds is known.

    Returns:
        The mean with its 95 % interval, from the quantiles of the draws. The tasks themselves are not drawn. Without
        draws, the mean alone.
    """
    import numpy as np
    from scipy.stats import trim_mean

    mean = float(trim_mean(values_T, _TRIMMED_SHARE))
    if draws_DT is None:
        return mean
    low, high = np.quantile(trim_mean(draws_DT, _TRIMMED_SHARE, axis=1), [0.025, 0.975])
    return Interval(value=mean, low=float(low), high=float(high))


def mean_ranks(values_TM: np.ndarray, draws_by_task: Sequence[np.ndarray] | None) -> list[Interval | float]:
    """Return the mean rank of each method over the tasks. 1 is the best; methods with equal values share their ranks.

    A rank jumps where two methods are nearly equal, so quantiles of drawn ranks do not give an interval that holds.
    Instead, for each method, all its differences from other methods on all tasks get intervals that hold together with
    95 % (the largest standardised deviation of the draws decides their width). On a task, the method is certainly below
    the methods whose interval excludes 0 on one side, and certainly above those that exclude it on the other. This
    gives its best and worst possible rank there, and the ends of the interval are the means of these over the tasks.

    Args:
        values_TM: the value of each method on each task, `[tasks, methods]`. Higher is better.
        draws_by_task: for each task, drawn values `[draws, methods]`; None if the variation between seeds is not known.

    Returns:
        For each method, the mean rank with its 95 % interval, or the mean rank alone if there are no draws.
    """
    from scipy.stats import rankdata

    ranks_M = rankdata(-values_TM, axis=1).mean(axis=0)
    if draws_by_task is None:
        return [float(rank) for rank in ranks_M]
    method_count = values_TM.shape[1]
    return [
        Interval(value=float(ranks_M[method]), low=low, high=high)
        for method in range(method_count)
        for low, high in [_rank_bounds(method, values_TM, draws_by_task)]
    ]


def _rank_bounds(method: int, values_TM: np.ndarray, draws_by_task: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the means over tasks of the best and of the worst possible rank of a method."""
    import numpy as np

    others = [other for other in range(values_TM.shape[1]) if other != method]
    if not others:
        return 1.0, 1.0
    leads_TO = values_TM[:, [method]] - values_TM[:, others]
    lead_draws_TDO = np.stack([draws_DM[:, [method]] - draws_DM[:, others] for draws_DM in draws_by_task])
    low_TO, high_TO = np.quantile(lead_draws_TDO, [0.16, 0.84], axis=1)  # a scale that heavy tails do not inflate
    scales_TO = np.maximum((high_TO - low_TO) / 2, 1e-12)
    deviations_TDO = np.abs(lead_draws_TDO - leads_TO[:, None]) / scales_TO[:, None]
    width = np.quantile(deviations_TDO.max(axis=(0, 2)), 0.95)
    worse_than_T = (leads_TO < -width * scales_TO).sum(axis=1)
    better_than_T = (leads_TO > width * scales_TO).sum(axis=1)
    return float((1 + worse_than_T).mean()), float((len(others) + 1 - better_than_T).mean())


def probability_of_improvement(runs_by_task: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Interval:
    """Return the probability that a run of method X does better than a run of method Y, as the mean over tasks.

    On a task, it is the share of all pairs of a run of X and a run of Y in which X is higher; ties count one half. This
    is rliable's definition (Agarwal et al. 2021, arXiv 2108.13264) and the statistic of Mann and Whitney divided by the
    number of pairs.

    Bootstrap intervals over a few runs can have no width. So the interval consists of the probabilities θ that the
    observed mean θ̂ does not contradict: |θ - θ̂| ≤ t · √(ΣV(θ)) / T over T tasks. V is the variance of the share of one
    task if its expectation is θ (Newcombe 2006, Statistics in Medicine 25:559, method 5). It is a concave function, so
    tasks that differ make the interval too wide rather than too narrow. t is the 97.5 % quantile of Student's t
    distribution with as many degrees of freedom as there are runs, minus two for each task. The interval holds over
    runs on the same test examples.

    Args:
        runs_by_task: for each task, the accuracies of the runs of X and of Y, at least one of each.
    """
    from scipy.special import stdtrit

    shares, counts = [], []
    for x_runs, y_runs in runs_by_task:
        wins = sum((x > y) + 0.5 * (x == y) for x in x_runs for y in y_runs)
        shares.append(wins / (len(x_runs) * len(y_runs)))
        counts.append((len(x_runs), len(y_runs)))
    mean = math.fsum(shares) / len(shares)
    quantile = float(stdtrit(max(1, sum(x + y - 2 for x, y in counts)), 0.975))

    def is_possible(theta: float) -> bool:
        variance = math.fsum(_variance_of_share(theta, x, y) for x, y in counts) / len(counts) ** 2
        return abs(mean - theta) <= quantile * math.sqrt(variance)

    ends = []
    for outermost in (0.0, 1.0):
        outside, inside = outermost, mean
        for _ in range(40):
            middle = (outside + inside) / 2
            outside, inside = (outside, middle) if is_possible(middle) else (middle, inside)
        ends.append(inside)
    return Interval(value=mean, low=ends[0], high=ends[1])


def _variance_of_share(theta: float, x_count: int, y_count: int) -> float:
    """Return the variance of the share of pairs in which X wins, if its expectation is `theta`."""
    weight = (x_count + y_count) / 2 - 1
    spread = 1 + weight * ((1 - theta) / (2 - theta) + theta / (1 + theta))
    return theta * (1 - theta) * spread / (x_count * y_count)
