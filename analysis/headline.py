"""The answer in plain words: how few parameters are enough. It claims no more than the data show."""

from dataclasses import dataclass

from analysis.cells import Cell, Group
from analysis.comparisons import Comparison, comparison_with_full_prompt, full_prompt
from analysis.frontier import best_within
from analysis.low_rank import low_rank_details
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
    """Find the smallest cell whose held-out accuracy is at most the margin below that of the full prompt.

    The answer says what this cell reaches on the test split, and whether a significance test shows that it is as good.
    The cell is chosen by held-out accuracy, so that the choice does not inflate the test accuracy that is reported.
    """
    confirmed_cells = group.confirmed_cells
    best_cell = best_within(
        confirmed_cells, max((cell.trainable_parameters or 0 for cell in confirmed_cells), default=0)
    )
    full_cell = full_prompt(group)
    small_cell = _smallest_sufficient(group, full_cell) if full_cell else None
    if not confirmed_cells:
        answer = f"On {group.title}, no trial is confirmed yet, so there is no result to report.{_search_text(group)}"
    elif full_cell is None or small_cell is None:
        reason = "no full prompt is confirmed" if full_cell is None else "no smaller cell is confirmed"
        answer = (
            f"On {group.title}, {_result_text(best_cell or confirmed_cells[0])} on the test examples. There is nothing "
            f"to compare it with, because {reason}."
        )
    else:
        answer = _answer_text(group, small_cell, full_cell)
    fewest_seeds = min(
        (cell.accuracy.seeds for cell in (small_cell, full_cell, best_cell) if cell and cell.accuracy), default=0
    )
    exploratory_warning = None
    if 0 < fewest_seeds < MIN_SEEDS:
        certainty = "unknown" if fewest_seeds == 1 else "hardly known"
        exploratory_warning = (
            f"This result is exploratory: with {fewest_seeds} seed{'s' * (fewest_seeds > 1)}, the variance between "
            f"seeds is {certainty}."
        )
    details = (*_details(group, small_cell, full_cell, best_cell), *low_rank_details(group))
    return Headline(answer=answer, details=details, exploratory_warning=exploratory_warning, best_cell=best_cell)


def _smallest_sufficient(group: Group, full_cell: Cell) -> Cell | None:
    """Return the smallest sufficient cell (see `_is_sufficient`), else the best of the smaller cells."""
    full_size = full_cell.trainable_parameters or 0
    smaller_cells = [cell for cell in group.confirmed_cells if (cell.trainable_parameters or 0) < full_size]
    sufficient_cells = [cell for cell in smaller_cells if _is_sufficient(group, cell, full_cell)]
    return sufficient_cells[0] if sufficient_cells else best_within(smaller_cells, full_size)


def _is_sufficient(group: Group, cell: Cell, full_cell: Cell) -> bool:
    """Return whether the cell's held-out score is at most the margin below that of the full prompt."""
    cell_score, full_score = cell.selection_score, full_cell.selection_score
    return cell_score is not None and full_score is not None and cell_score >= full_score - group.margin


def _label_with_size(cell: Cell) -> str:
    return f"{cell.label} ({cell.trainable_parameters:,} parameters)"


def _result_text(cell: Cell) -> str:
    assert cell.accuracy
    return f"{_label_with_size(cell)} reaches {percent(cell.accuracy.mean)} %"


def _answer_text(group: Group, small_cell: Cell, full_cell: Cell) -> str:
    assert (
        small_cell.accuracy
        and full_cell.accuracy
        and small_cell.trainable_parameters
        and full_cell.trainable_parameters
    )
    gap_pp = 100 * (small_cell.accuracy.mean - full_cell.accuracy.mean)
    relation = "level with" if abs(gap_pp) < 0.05 else f"{abs(gap_pp):.1f} pp {'above' if gap_pp > 0 else 'below'}"
    ratio = full_cell.trainable_parameters / small_cell.trainable_parameters
    ratio_text = f", with {ratio:.1f}× fewer parameters" if ratio >= 1.1 else ""
    if _is_sufficient(group, small_cell, full_cell):
        result = _result_text(small_cell)
    else:
        result = (
            f"no smaller prompt comes within {_margin_text(group)} of full prompt tuning on the held-out data. "
            f"The closest is {_label_with_size(small_cell)}. It reaches {percent(small_cell.accuracy.mean)} %"
        )
    return (
        f"On {group.title}, {result} on the test examples, {relation} full prompt tuning "
        f"({full_cell.trainable_parameters:,} parameters, {percent(full_cell.accuracy.mean)} %){ratio_text}. "
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


def _details(group: Group, small_cell: Cell | None, full_cell: Cell | None, best_cell: Cell | None) -> list[str]:
    """Return the details on the cell of the answer: `small_cell`, else `best_cell`."""
    details = []
    cell = small_cell or best_cell
    if cell and full_cell and cell is not full_cell:
        if comparison := comparison_with_full_prompt(group, cell):
            details.append(_comparison_text(comparison, group.margin))
        elif cell.accuracy and full_cell.accuracy:
            details.append(_intervals_text(cell, full_cell))
        within_margin = f"comes within {_margin_text(group)} of the full prompt"
        if small_cell is None:
            reason = "it is the best cell"
        elif _is_sufficient(group, small_cell, full_cell):
            reason = f"it is the smallest cell that {within_margin}"
        else:
            reason = f"no smaller cell {within_margin}, and this one comes closest"
        details.append(f"{cell.label} was chosen on {_selection_data_text(cell)}. There, {reason}.")
    if best_cell and best_cell.accuracy and best_cell is not cell and best_cell is not full_cell:
        details.append(
            f"The best cell on the held-out data is {_label_with_size(best_cell)}. It reaches "
            f"{percent(best_cell.accuracy.mean)} % on the test examples."
        )
    baselines = {"without a prompt": group.zero_shot_accuracy, "for the majority class": group.majority_accuracy}
    known_baselines = {name: accuracy for name, accuracy in baselines.items() if accuracy is not None}
    if known_baselines:
        accuracies = " and ".join(f"{percent(accuracy)} % {name}" for name, accuracy in known_baselines.items())
        baselines_text = f"For comparison, the accuracy is {accuracies}."
        if cell and cell.accuracy and cell.accuracy.low <= max(known_baselines.values()):
            baselines_text += (
                f" The 95 % interval of {cell.label}, {bounds(cell.accuracy)}, is not wholly above these, so "
                "training has not been shown to help."
            )
        details.append(baselines_text)
    return details


def _comparison_text(comparison: Comparison, margin: float) -> str:
    difference = comparison.verdict.difference
    difference_text = with_minus_signs(
        f"{100 * difference.mean:+.1f} pp, 95 % interval [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"
    )
    return (
        f"Is {comparison.cell.label} as good as the full prompt within {100 * margin:g} pp? "
        f"{str(comparison.verdict).capitalize()}. On the same test examples the difference is {difference_text}."
    )


def _intervals_text(cell: Cell, full_cell: Cell) -> str:
    """Say whether the intervals of two cells overlap, if no significance test can compare the cells."""
    assert cell.accuracy and full_cell.accuracy
    intervals = f"{bounds(cell.accuracy)} for {cell.label} and {bounds(full_cell.accuracy)} for the full prompt"
    if cell.accuracy.overlaps(full_cell.accuracy):
        return f"The 95 % intervals overlap ({intervals}): these data do not show which of the two is better."
    if min(cell.accuracy.seeds, full_cell.accuracy.seeds) == 1:
        return f"The 95 % intervals do not overlap ({intervals}), but omit the unknown variance between seeds."
    return f"The 95 % intervals do not overlap ({intervals}): the difference is more than noise."


def _selection_data_text(cell: Cell) -> str:
    """Name the held-out data, and say how much one of their examples counts."""
    sizes_and_holdouts = {(trial.selection_n, trial.holdout) for trial in cell.confirmed_trials if trial.selection_n}
    if len(sizes_and_holdouts) != 1:
        return "the held-out data"
    ((example_count, holdout),) = sizes_and_holdouts
    kind = "held-out training examples" if holdout == "train" else "examples of the reported split that are not scored"
    return f"{example_count:,} {kind}, each of which counts for {100 / example_count:.2g} pp"


def _search_text(group: Group) -> str:
    scored_cells = [cell for cell in group.cells if cell.selection_score is not None]
    best_cell = max(scored_cells, key=lambda cell: cell.selection_score or 0.0, default=None)
    if best_cell is None:
        return ""
    score_text = f"{percent(best_cell.selection_score)} % on the held-out data"
    return f" The best search trial so far belongs to {best_cell.label}: {score_text}."
