"""Early stopping audited: what became of the trials that it would have stopped, and how well rungs foretell the end."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from analysis.records import Trial, grouped
from analysis.stats import wilson

_FEW = 10  # whole trials: a rank correlation of fewer is mostly chance


@dataclass(frozen=True, kw_only=True)
class Audit:
    """stopped: search trials that early stopping stopped, or would have. audited: of these, how many ran to the end.
    false_kills: of these, how many then beat every other trial of their stratum: stopping would have lost the winner.
    stratum: what one is here, "cell" or "size". correlation: Spearman's, of the best held-out accuracy until `rung`
    steps with that at the end, in the mean over `strata` strata of at least three whole trials; None where these are
    fewer than ten, which would tell nothing.
    """

    stopped: int
    audited: int
    false_kills: int
    stratum: str
    rung: int | None
    correlation: float | None
    strata: int

    @property
    def false_kill_interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the rate of false kills."""
        return wilson(self.false_kills / self.audited, self.audited)


def audit(trials: Sequence[Trial], rung: int | None) -> Audit:
    """The audit of a sweep's search trials.

    Args:
        rung: the first step at which a trial may be stopped.
    """
    search = [trial for trial in trials if trial.phase == "search"]
    strata = rivals(search)
    audited = [(trial, some) for some in strata for trial in some if trial.audited_at is not None]
    telling = [some for some in strata if rung is not None and len(some) > 2]
    enough = rung is not None and sum(map(len, telling)) >= _FEW
    known = [r for some in telling if enough and (r := _correlation(some, rung)) is not None]
    return Audit(
        stopped=sum(trial.status == "stopped" for trial in search) + len(audited),
        audited=len(audited),
        false_kills=sum(wins(trial, some) for trial, some in audited),
        stratum=kind(search),
        rung=rung,
        correlation=fmean(known) if known else None,
        strata=len(known),
    )


def text(found: Audit) -> str | None:
    """The audit in a sentence; None where nothing was stopped."""
    if not found.stopped:
        return None
    stopped = f"{found.stopped:,} search trial{'s' * (found.stopped != 1)}"
    if not found.audited:
        said = f"Early stopping cut {stopped}; none was run to the end to see what that cost (--audit 0.1 does)."
    else:
        low, high = found.false_kill_interval
        rate = f"{100 * found.false_kills / found.audited:.0f} % (95 % interval {100 * low:.0f} to {100 * high:.0f} %)"
        said = (
            f"Early stopping picked {stopped}; {found.audited} of them ran to the end all the same, and "
            f"{found.false_kills} would have won {'its' if found.false_kills == 1 else 'their'} {found.stratum}: "
            f"a false-kill rate of {rate}."
        )
    if found.correlation is not None:
        strata = f"{found.strata} {found.stratum}{'s' * (found.strata != 1)}"
        said += (
            f" Of the trials that ran to the end, accuracy at step {found.rung:,} and at the end have a rank "
            f"correlation of {found.correlation:.2f} (mean over {strata})."
        )
    return said


def kind(trials: Sequence[Trial]) -> str:
    """What a stratum of theirs is, of which one trial wins: a "cell"; in a free search, whose one cell has many, a
    "size"."""
    return "cell" if all(trial.stratum == trial.cell for trial in trials) else "size"


def rivals(trials: Sequence[Trial]) -> list[list[Trial]]:
    """The search trials that ran to the end, by stratum."""
    searched = (trial for trial in trials if trial.searched)
    return [*grouped(searched, lambda trial: (trial.cell, trial.stratum)).values()]


def until(trial: Trial, step: int) -> float | None:
    """The best held-out accuracy of a trial until a step; None before its first evaluation."""
    known = [e.selection_score for e in trial.evaluations if e.step <= step and e.selection_score is not None]
    return max(known, default=None)


def wins(trial: Trial, some: Sequence[Trial]) -> bool:
    """Whether a trial beats all others of its stratum, of which there are some."""
    others = [other.selection_score or 0.0 for other in some if other is not trial]
    return bool(others) and (trial.selection_score or 0.0) > max(others)


def _correlation(trials: Sequence[Trial], rung: int | None) -> float | None:
    """None where all are equal."""
    from scipy.stats import spearmanr  # takes longer than --help

    pairs = [(reached, trial.selection_score) for trial in trials if (reached := until(trial, rung or 0)) is not None]
    early, late = ([pair[side] for pair in pairs] for side in (0, 1))
    if len(pairs) < 3 or len(set(early)) == 1 or len(set(late)) == 1:
        return None
    return float(spearmanr(early, late).statistic)
