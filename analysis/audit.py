"""What early stopping cost: how its audited trials ended, and how well an early accuracy predicts the final one."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from analysis.records import Trial, grouped
from analysis.stats import wilson

_MIN_TRIALS = 10  # a rank correlation of fewer whole trials is mostly chance


@dataclass(frozen=True, kw_only=True)
class Audit:
    """How the trials that early stopping wanted to stop would have ended.

    Attributes:
        stopped: number of search trials that early stopping stopped, or would have stopped.
        audited: number of these that ran to the end.
        false_kills: number of audited trials that then beat every other trial of their stratum. Stopping them would
            have lost the winner.
        stratum_kind: what a stratum of this sweep is, "cell" or "size".
        first_rung: the first step at which a trial may be stopped.
        correlation: Spearman's rank correlation between the best held-out accuracy until `first_rung` and the final
            one: its mean over the strata that have at least three whole trials. None where these strata have fewer than
            ten such trials together, too few to tell anything.
        correlated_strata: number of strata in that mean.
    """

    stopped: int
    audited: int
    false_kills: int
    stratum_kind: str
    first_rung: int | None
    correlation: float | None
    correlated_strata: int

    @property
    def false_kill_interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the rate of false kills."""
        return wilson(self.false_kills / self.audited, self.audited)


def audit_early_stopping(trials: Sequence[Trial], first_rung: int | None) -> Audit:
    """Return the audit of a sweep's search trials. `first_rung` is the first step at which a trial may be stopped."""
    search = [trial for trial in trials if trial.phase == "search"]
    strata = finished_trials_by_stratum(search)
    audited = [(trial, stratum) for stratum in strata for trial in stratum if trial.audited_at is not None]
    large_strata = [stratum for stratum in strata if first_rung is not None and len(stratum) > 2]
    is_enough = first_rung is not None and sum(map(len, large_strata)) >= _MIN_TRIALS
    correlations = [
        correlation
        for stratum in large_strata
        if is_enough and (correlation := _correlation(stratum, first_rung)) is not None
    ]
    return Audit(
        stopped=sum(trial.status == "stopped" for trial in search) + len(audited),
        audited=len(audited),
        false_kills=sum(beats_stratum(trial, stratum) for trial, stratum in audited),
        stratum_kind=stratum_kind(search),
        first_rung=first_rung,
        correlation=fmean(correlations) if correlations else None,
        correlated_strata=len(correlations),
    )


def audit_text(audit: Audit) -> str | None:
    """Return the audit in a few sentences; None where nothing was stopped."""
    if not audit.stopped:
        return None
    stopped = f"{audit.stopped:,} search trial{'s' * (audit.stopped != 1)}"
    if not audit.audited:
        text = (
            f"Early stopping ended {stopped}. No stopped trial was run on to the end, so what that cost is "
            "unknown (--audit 0.1 measures it)."
        )
    else:
        low, high = audit.false_kill_interval
        rate = f"{100 * audit.false_kills / audit.audited:.0f} % (95 % interval {100 * low:.0f} to {100 * high:.0f} %)"
        text = (
            f"Early stopping chose {stopped} to stop. To audit it, {audit.audited} of them ran to the end all the "
            f"same, and {audit.false_kills} of these won {'its' if audit.false_kills == 1 else 'their'} "
            f"{audit.stratum_kind}: a false-kill rate of {rate}."
        )
    if audit.correlation is not None:
        strata = f"{audit.correlated_strata} {audit.stratum_kind}{'s' * (audit.correlated_strata != 1)}"
        text += (
            f" Among the trials that ran to the end, the accuracy at step {audit.first_rung:,} and the final accuracy "
            f"have a rank correlation of {audit.correlation:.2f} (mean over {strata})."
        )
    return text


def stratum_kind(trials: Sequence[Trial]) -> str:
    """Return what a stratum of these trials is: a "cell", or a "size" in a free search, whose one cell has many strata.

    One trial wins in each stratum.
    """
    return "cell" if all(trial.stratum == trial.cell for trial in trials) else "size"


def finished_trials_by_stratum(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Return the search trials that ran to the end, grouped by stratum."""
    searched = (trial for trial in trials if trial.searched)
    return [*grouped(searched, lambda trial: (trial.cell, trial.stratum)).values()]


def best_until(trial: Trial, step: int) -> float | None:
    """Return the trial's best held-out accuracy until `step`; None if it was not evaluated by then."""
    scores = [evaluation.selection_score for evaluation in trial.evaluations if evaluation.step <= step]
    return max((score for score in scores if score is not None), default=None)


def beats_stratum(trial: Trial, stratum: Sequence[Trial]) -> bool:
    """Return whether the trial beats all others of its stratum. A trial alone in its stratum wins nothing."""
    rival_scores = [rival.selection_score or 0.0 for rival in stratum if rival is not trial]
    return bool(rival_scores) and (trial.selection_score or 0.0) > max(rival_scores)


def _correlation(trials: Sequence[Trial], step: int | None) -> float | None:
    """Return the rank correlation of the scores at `step` with the final ones; None where either are all equal."""
    from scipy.stats import spearmanr  # slow to import: --help does without it

    pairs = [(early, trial.selection_score) for trial in trials if (early := best_until(trial, step or 0)) is not None]
    early_scores, final_scores = ([pair[side] for pair in pairs] for side in (0, 1))
    if len(pairs) < 3 or len(set(early_scores)) == 1 or len(set(final_scores)) == 1:
        return None
    return float(spearmanr(early_scores, final_scores).statistic)
