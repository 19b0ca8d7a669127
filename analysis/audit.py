"""The cost of early stopping: how audited trials ended, and how well early accuracies predict the final ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from analysis.records import Trial, grouped
from analysis.stats import wilson_interval

_MIN_TRIALS = 10  # with fewer trials that ran to the end, a rank correlation is mostly chance


@dataclass(frozen=True, kw_only=True)
class Audit:
    """How often early stopping would have lost a winner.

    Attributes:
        stopped_count: number of search trials that early stopping chose to stop.
        audited_count: number of these that ran to the end all the same, to be audited.
        false_kill_count: number of audited trials that beat every other trial of their stratum. Stopping them would
            have lost the winner.
        stratum_kind: what a stratum of this sweep is, "cell" or "size".
        first_rung: the first step at which a trial may be stopped.
        correlation: Spearman's rank correlation of two accuracies of a trial: its best held-out accuracy up to
            `first_rung`, and its final one. Only trials that ran to the end count. The correlation is a mean over all
            strata with at least three such trials. It is None if these strata have fewer than ten of them together.
        correlated_strata_count: number of strata in that mean.
    """

    stopped_count: int
    audited_count: int
    false_kill_count: int
    stratum_kind: str
    first_rung: int | None
    correlation: float | None
    correlated_strata_count: int

    @property
    def false_kill_interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the rate of false kills."""
        return wilson_interval(self.false_kill_count / self.audited_count, self.audited_count)


def audit_early_stopping(trials: Sequence[Trial], first_rung: int | None) -> Audit:
    """Return the audit of a sweep's search trials. `first_rung` is the first step at which a trial may be stopped."""
    search_trials = [trial for trial in trials if trial.phase == "search"]
    strata = finished_trials_by_stratum(search_trials)
    audited_with_stratum = [(trial, stratum) for stratum in strata for trial in stratum if trial.audited_at is not None]
    large_strata = [stratum for stratum in strata if first_rung is not None and len(stratum) > 2]
    has_enough_trials = first_rung is not None and sum(map(len, large_strata)) >= _MIN_TRIALS
    correlations = [
        correlation
        for stratum in large_strata
        if has_enough_trials and (correlation := _correlation(stratum, first_rung)) is not None
    ]
    return Audit(
        stopped_count=sum(trial.status == "stopped" for trial in search_trials) + len(audited_with_stratum),
        audited_count=len(audited_with_stratum),
        false_kill_count=sum(beats_stratum(trial, stratum) for trial, stratum in audited_with_stratum),
        stratum_kind=stratum_kind(search_trials),
        first_rung=first_rung,
        correlation=fmean(correlations) if correlations else None,
        correlated_strata_count=len(correlations),
    )


def audit_text(audit: Audit) -> str | None:
    """Return the audit in a few sentences, or None if no trial was stopped."""
    if not audit.stopped_count:
        return None
    stopped_trials = f"{audit.stopped_count:,} search trial{'s' * (audit.stopped_count != 1)}"
    if not audit.audited_count:
        text = (
            f"Early stopping ended {stopped_trials}. The cost of that is unknown, because no stopped trial was run to "
            "the end (--audit 0.1 measures the cost)."
        )
    else:
        low, high = audit.false_kill_interval
        rate_text = f"{100 * audit.false_kill_count / audit.audited_count:.0f} %"
        text = (
            f"Early stopping chose {stopped_trials} to stop. To audit it, {audit.audited_count} of them ran to the end "
            f"all the same, and {audit.false_kill_count} of these won "
            f"{'its' if audit.false_kill_count == 1 else 'their'} {audit.stratum_kind}: a false-kill rate of "
            f"{rate_text} (95 % interval {100 * low:.0f} to {100 * high:.0f} %)."
        )
    if audit.correlation is not None:
        strata_text = (
            f"{audit.correlated_strata_count} {audit.stratum_kind}{'s' * (audit.correlated_strata_count != 1)}"
        )
        text += (
            f" Among the trials that ran to the end, the score at step {audit.first_rung:,} and the final score "
            f"have a rank correlation of {audit.correlation:.2f} (mean over {strata_text})."
        )
    return text


def stratum_kind(trials: Sequence[Trial]) -> str:
    """Return the word for a stratum of these trials: "cell", or "size" in a free search.

    A free search has a single cell. Each of its strata holds trials of about the same size.
    """
    return "cell" if all(trial.stratum == trial.cell for trial in trials) else "size"


def finished_trials_by_stratum(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Return the search trials that ran to the end, grouped by stratum."""
    finished_trials = (trial for trial in trials if trial.is_finished_search)
    return [*grouped(finished_trials, lambda trial: (trial.cell, trial.stratum)).values()]


def best_score_until(trial: Trial, step: int) -> float | None:
    """Return the trial's best held-out score up to `step`; None if the trial was not evaluated by then."""
    scores = [evaluation.selection_score for evaluation in trial.evaluations if evaluation.step <= step]
    return max((score for score in scores if score is not None), default=None)


def beats_stratum(trial: Trial, stratum: Sequence[Trial]) -> bool:
    """Return whether the trial beats all others of its stratum. A trial that is alone in its stratum beats nothing."""
    rival_scores = [rival.selection_score or 0.0 for rival in stratum if rival is not trial]
    return bool(rival_scores) and (trial.selection_score or 0.0) > max(rival_scores)


def _correlation(trials: Sequence[Trial], step: int | None) -> float | None:
    """Return the rank correlation of the best scores up to `step` with the final scores.

    It is None if there are fewer than three trials, or if all early or all final scores are equal.
    """
    from scipy.stats import spearmanr  # imported here, because it is slow and --help does not need it

    score_pairs = [
        (early_score, trial.selection_score)
        for trial in trials
        if (early_score := best_score_until(trial, step or 0)) is not None
    ]
    early_scores, final_scores = ([pair[side] for pair in score_pairs] for side in (0, 1))
    if len(score_pairs) < 3 or len(set(early_scores)) == 1 or len(set(final_scores)) == 1:
        return None
    return float(spearmanr(early_scores, final_scores).statistic)
