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
        details: what supports or limits the answer. Each is a sentence or two.
        exploratory_warning: a warning that the answer comes from few seeds; None if there are enough.
        best_cell: the confirmed cell with the best held-out accuracy.
    """

    answer: str
    details: tuple[str, ...]
    exploratory_warning: str | None
    best_cell: Cell | None


def headline(group: Group) -> Headline:
    """Find the smallest cell whose held-out accuracy is within the margin of that of the full prompt. Say what it
    reaches on the test split, and whether a significance test shows it to be as good.

    The cell is chosen by held-out accuracy and reported by test accuracy, so that the choice does not inflate the
    reported accuracy.
    """
    confirmed = group.confirmed_cells
    best_cell = best_within(confirmed, max((cell.trainable_parameters or 0 for cell in confirmed), default=0))
    full = full_prompt(group)
    small_cell = _smallest_sufficient(group, full) if full else None
    if not confirmed:
        answer = f"On {group.title}, no trial is confirmed yet, so there is no result to report.{_search_text(group)}"
    elif full is None or small_cell is None:
        reason = "no full prompt is confirmed" if full is None else "no smaller cell is confirmed"
        answer = (
            f"On {group.title}, {_result_text(best_cell or confirmed[0])} on the test examples. There is nothing to "
            f"compare it with, because {reason}."
        )
    else:
        answer = _answer_text(group, small_cell, full)
    seeds = min((cell.accuracy.seeds for cell in (small_cell, full, best_cell) if cell and cell.accuracy), default=0)
    exploratory_warning = None
    if 0 < seeds < MIN_SEEDS:
        certainty = "unknown" if seeds == 1 else "hardly known"
        exploratory_warning = (
            f"This result is exploratory: with {seeds} seed{'s' * (seeds > 1)}, the variance between seeds is "
            f"{certainty}."
        )
    details = tuple(_details(group, small_cell, full, best_cell))
    return Headline(answer=answer, details=details, exploratory_warning=exploratory_warning, best_cell=best_cell)


def _smallest_sufficient(group: Group, full: Cell) -> Cell | None:
    """Return the smallest cell within the margin of the full prompt, else the best of all cells smaller than it."""
    full_size = full.trainable_parameters or 0
    smaller_cells = [cell for cell in group.confirmed_cells if (cell.trainable_parameters or 0) < full_size]
    sufficient_cells = [cell for cell in smaller_cells if _is_sufficient(group, cell, full)]
    return sufficient_cells[0] if sufficient_cells else best_within(smaller_cells, full_size)


def _is_sufficient(group: Group, cell: Cell, full: Cell) -> bool:
    """Return whether the cell is within the margin of the full prompt on the held-out data."""
    cell_score, full_score = cell.selection_score, full.selection_score
    return cell_score is not None and full_score is not None and cell_score >= full_score - group.margin


def _label_with_size(cell: Cell) -> str:
    return f"{cell.label} ({cell.trainable_parameters:,} parameters)"


def _result_text(cell: Cell) -> str:
    assert cell.accuracy
    return f"{_label_with_size(cell)} reaches {percent(cell.accuracy.mean)} %"


def _answer_text(group: Group, small_cell: Cell, full: Cell) -> str:
    assert small_cell.accuracy and full.accuracy and small_cell.trainable_parameters and full.trainable_parameters
    gap_pp = 100 * (small_cell.accuracy.mean - full.accuracy.mean)
    relation = "level with" if abs(gap_pp) < 0.05 else f"{abs(gap_pp):.1f} pp {'above' if gap_pp > 0 else 'below'}"
    ratio = full.trainable_parameters / small_cell.trainable_parameters
    ratio_text = f", with {ratio:.1f}× fewer parameters" if ratio >= 1.1 else ""
    if _is_sufficient(group, small_cell, full):
        result = _result_text(small_cell)
    else:
        result = (
            f"no smaller prompt comes within {_margin_text(group)} of full prompt tuning on the held-out data. "
            f"The closest is {_label_with_size(small_cell)}. It reaches {percent(small_cell.accuracy.mean)} %"
        )
    return (
        f"On {group.title}, {result} on the test examples, {relation} full prompt tuning "
        f"({full.trainable_parameters:,} parameters, {percent(full.accuracy.mean)} %){ratio_text}. "
        f"{_verdict_text(group, small_cell)}"
    )


def _verdict_text(group: Group, small_cell: Cell) -> str:
    comparison = comparison_with_full_prompt(group, small_cell)
    outcome = comparison.verdict.outcome if comparison else "untested"
    return {
        "non-inferior": f"A significance test shows that it is as good within {_margin_text(group)}.",
        "inferior": f"A significance test shows that it is worse by more than {_margin_text(group)}.",
        "inconclusive": f"The data do not show whether it is as good within {_margin_text(group)}.",
        "untested": "No significance test could be made.",
    }[outcome]


def _margin_text(group: Group) -> str:
    return f"{100 * group.margin:g} pp"


def _details(group: Group, small_cell: Cell | None, full: Cell | None, best_cell: Cell | None) -> list[str]:
    """Return the details on the cell of the answer: `small_cell`, else `best_cell`."""
    details = []
    cell = small_cell or best_cell
    if cell and full and cell is not full:
        if comparison := comparison_with_full_prompt(group, cell):
            details.append(_comparison_text(comparison, group.margin))
        elif cell.accuracy and full.accuracy:
            details.append(_intervals_text(cell, full))
        within_margin = f"comes within {_margin_text(group)} of the full prompt"
        if small_cell is None:
            reason = "it is the best cell"
        elif _is_sufficient(group, small_cell, full):
            reason = f"it is the smallest cell that {within_margin}"
        else:
            reason = f"no smaller cell {within_margin}, and this one comes closest"
        details.append(f"{cell.label} was chosen on {_selection_data(cell)}. There, {reason}.")
    if best_cell and best_cell.accuracy and best_cell is not cell and best_cell is not full:
        details.append(
            f"The best cell on the held-out data is {_label_with_size(best_cell)}. It reaches "
            f"{percent(best_cell.accuracy.mean)} % on the test examples."
        )
    baselines = {"without a prompt": group.zero_shot_accuracy, "for the majority class": group.majority_accuracy}
    known_baselines = {name: accuracy for name, accuracy in baselines.items() if accuracy is not None}
    if known_baselines:
        accuracies = " and ".join(f"{percent(accuracy)} % {name}" for name, accuracy in known_baselines.items())
        text = f"For comparison, the accuracy is {accuracies}."
        if cell and cell.accuracy and cell.accuracy.low <= max(known_baselines.values()):
            text += (
                f" The 95 % interval of {cell.label}, {bounds(cell.accuracy)}, is not wholly above these, so "
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


def _intervals_text(cell: Cell, full: Cell) -> str:
    """Say whether the intervals of two cells overlap. This is for cells that no significance test compares."""
    assert cell.accuracy and full.accuracy
    intervals = f"{bounds(cell.accuracy)} for {cell.label} and {bounds(full.accuracy)} for the full prompt"
    if cell.accuracy.overlaps(full.accuracy):
        return f"The 95 % intervals overlap ({intervals}): these data do not show which of the two is better."
    if min(cell.accuracy.seeds, full.accuracy.seeds) == 1:
        return f"The 95 % intervals do not overlap ({intervals}), but omit the unknown variance between seeds."
    return f"The 95 % intervals do not overlap ({intervals}): the difference is more than noise."


def _selection_data(cell: Cell) -> str:
    """Name the held-out data, and say how much one of their examples counts."""
    sizes = {(trial.selection_n, trial.holdout) for trial in cell.confirmed_trials if trial.selection_n}
    if len(sizes) != 1:
        return "the held-out data"
    ((example_count, holdout),) = sizes
    kind = "held-out training examples" if holdout == "train" else "examples of the reported split that are not scored"
    return f"{example_count:,} {kind}, each of which counts for {100 / example_count:.2g} pp"


def _search_text(group: Group) -> str:
    cells_with_score = [cell for cell in group.cells if cell.selection_score is not None]
    cell = max(cells_with_score, key=lambda cell: cell.selection_score or 0.0, default=None)
    if cell is None:
        return ""
    score = f"{percent(cell.selection_score)} % on the held-out data"
    return f" The best search trial so far belongs to {cell.label}: {score}."
