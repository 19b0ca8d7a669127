"""The answer in plain words: how few parameters are enough. It claims no more than the data show."""

from dataclasses import dataclass

from analysis.cells import Cell, Group
from analysis.comparisons import Comparison, comparison_with_full_prompt, full_prompt
from analysis.frontier import best_within
from analysis.render import bounds, percent, with_minus_signs

MIN_SEEDS = 3  # a result from fewer seeds is exploratory


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The answer for one backbone and task.

    Attributes:
        answer: the answer in one or two sentences.
        details: what supports or limits it, a sentence or two each.
        exploratory: why nothing should be built on the answer yet; None if there are enough seeds.
        best: the confirmed cell with the best held-out accuracy.
    """

    answer: str
    details: tuple[str, ...]
    exploratory: str | None
    best: Cell | None


def headline(group: Group) -> Headline:
    """Say which is the smallest cell whose held-out accuracy is within the margin of the full prompt's, what it
    reaches on the test split, and whether a test shows it to be as good.

    The cell is chosen by held-out accuracy and reported by test accuracy, so that the choice does not inflate what is
    reported.
    """
    confirmed = group.confirmed
    best = best_within(confirmed, max((cell.trainable_parameters or 0 for cell in confirmed), default=0))
    full = full_prompt(group)
    small = _smallest_sufficient(group, full) if full else None
    if not confirmed:
        answer = f"On {group.title}, no trial is confirmed yet, so there is no result to report.{_best_search(group)}"
    elif full is None or small is None:
        reason = "no full prompt is confirmed" if full is None else "no smaller cell is confirmed"
        answer = (
            f"On {group.title}, {_reaches(best or confirmed[0])} on the test examples. There is nothing to compare it "
            f"with, because {reason}."
        )
    else:
        answer = _answer(group, small, full)
    seeds = min((cell.accuracy.seeds for cell in (small, full, best) if cell and cell.accuracy), default=0)
    exploratory = None
    if 0 < seeds < MIN_SEEDS:
        known = "unknown" if seeds == 1 else "hardly known"
        exploratory = (
            f"This result is exploratory: with {seeds} seed{'s' * (seeds > 1)}, the variance between seeds is {known}."
        )
    details = tuple(_details(group, small or best, full, best))
    return Headline(answer=answer, details=details, exploratory=exploratory, best=best)


def _smallest_sufficient(group: Group, full: Cell) -> Cell | None:
    """Return the smallest cell within the margin of the full prompt, else the best of the smaller cells."""
    smaller = [cell for cell in group.confirmed if (cell.trainable_parameters or 0) < (full.trainable_parameters or 0)]
    sufficient = [cell for cell in smaller if _is_sufficient(group, cell, full)]
    return sufficient[0] if sufficient else best_within(smaller, full.trainable_parameters or 0)


def _is_sufficient(group: Group, cell: Cell, full: Cell) -> bool:
    """Return whether the cell is within the margin of the full prompt on the held-out data."""
    cell_score, full_score = cell.selection_score, full.selection_score
    return cell_score is not None and full_score is not None and cell_score >= full_score - group.margin


def _sized_label(cell: Cell) -> str:
    return f"{cell.label} ({cell.trainable_parameters:,} parameters)"


def _reaches(cell: Cell) -> str:
    assert cell.accuracy
    return f"{_sized_label(cell)} reaches {percent(cell.accuracy.mean)} %"


def _answer(group: Group, small: Cell, full: Cell) -> str:
    assert small.accuracy and full.accuracy and small.trainable_parameters and full.trainable_parameters
    gap_pp = 100 * (small.accuracy.mean - full.accuracy.mean)
    relation = "level with" if abs(gap_pp) < 0.05 else f"{abs(gap_pp):.1f} pp {'above' if gap_pp > 0 else 'below'}"
    ratio = full.trainable_parameters / small.trainable_parameters
    fewer = f", with {ratio:.1f}× fewer parameters" if ratio >= 1.1 else ""
    if _is_sufficient(group, small, full):
        subject = _reaches(small)
    else:
        subject = (
            f"no smaller prompt comes within {_margin_text(group)} of full prompt tuning on the held-out data. "
            f"The closest is {_sized_label(small)}. It reaches {percent(small.accuracy.mean)} %"
        )
    return (
        f"On {group.title}, {subject} on the test examples, {relation} full prompt tuning "
        f"({full.trainable_parameters:,} parameters, {percent(full.accuracy.mean)} %){fewer}. "
        f"{_verdict_text(group, small)}"
    )


def _verdict_text(group: Group, small: Cell) -> str:
    comparison = comparison_with_full_prompt(group, small)
    outcome = comparison.verdict.outcome if comparison else "untested"
    return {
        "non-inferior": f"A significance test shows that it is as good within {_margin_text(group)}.",
        "inferior": f"A significance test shows that it is worse by more than {_margin_text(group)}.",
        "inconclusive": f"The data do not show whether it is as good within {_margin_text(group)}.",
        "untested": "No significance test could be made.",
    }[outcome]


def _margin_text(group: Group) -> str:
    return f"{100 * group.margin:g} pp"


def _details(group: Group, small: Cell | None, full: Cell | None, best: Cell | None) -> list[str]:
    details = []
    if small and full and small is not full:
        if comparison := comparison_with_full_prompt(group, small):
            details.append(_comparison_text(comparison, group.margin))
        elif small.accuracy and full.accuracy:
            details.append(_intervals_text(small, full))
        within = f"comes within {_margin_text(group)} of the full prompt"
        reason = f"no smaller cell {within}, and this one comes closest"
        if _is_sufficient(group, small, full):
            reason = f"it is the smallest cell that {within}"
        details.append(f"{small.label} was chosen on {_selection_data(small)}. There, {reason}.")
    if best and best.accuracy and best is not small and best is not full:
        details.append(
            f"The best cell on the held-out data is {_sized_label(best)}. It reaches {percent(best.accuracy.mean)} % "
            "on the test examples."
        )
    baselines = {"without a prompt": group.zero_shot_accuracy, "for the majority class": group.majority_accuracy}
    known_baselines = {name: accuracy for name, accuracy in baselines.items() if accuracy is not None}
    if known_baselines:
        listed = " and ".join(f"{percent(accuracy)} % {name}" for name, accuracy in known_baselines.items())
        text = f"For comparison, the accuracy is {listed}."
        if small and small.accuracy and small.accuracy.low <= max(known_baselines.values()):
            text += (
                f" The 95 % interval of {small.label}, {bounds(small.accuracy)}, is not wholly above these, so "
                "training has not been shown to help."
            )
        details.append(text)
    return details


def _comparison_text(comparison: Comparison, margin: float) -> str:
    gap = comparison.verdict.difference
    gap_text = with_minus_signs(
        f"{100 * gap.mean:+.1f} pp, 95 % interval [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
    )
    return (
        f"Is {comparison.cell.label} as good as the full prompt within {100 * margin:g} pp? "
        f"{str(comparison.verdict).capitalize()}. On the same test examples the difference is {gap_text}."
    )


def _intervals_text(small: Cell, full: Cell) -> str:
    """Say whether the two cells' intervals overlap; for cells that no test compares."""
    assert small.accuracy and full.accuracy
    intervals = f"({bounds(small.accuracy)} and {bounds(full.accuracy)})"
    if small.accuracy.overlaps(full.accuracy):
        return f"The 95 % intervals overlap {intervals}: these data do not tell the two apart."
    if min(small.accuracy.seeds, full.accuracy.seeds) == 1:
        return f"The 95 % intervals do not overlap {intervals}, but they leave out the unknown variance between seeds."
    return f"The 95 % intervals do not overlap {intervals}: the difference is more than noise."


def _selection_data(cell: Cell) -> str:
    """Name the held-out data, and say how much one example of them counts."""
    sizes = {(trial.selection_n, trial.holdout) for trial in cell.confirmed if trial.selection_n}
    if len(sizes) != 1:
        return "the held-out data"
    ((examples, holdout),) = sizes
    kind = "held-out training examples" if holdout == "train" else "examples of the reported split that are not scored"
    return f"{examples:,} {kind}, each of which counts for {100 / examples:.2g} pp"


def _best_search(group: Group) -> str:
    searched = [cell for cell in group.cells if cell.selection_score is not None]
    best = max(searched, key=lambda cell: cell.selection_score or 0.0, default=None)
    if best is None:
        return ""
    score = f"{percent(best.selection_score)} % on the held-out data"
    return f" The best search trial so far belongs to {best.label}: {score}."
