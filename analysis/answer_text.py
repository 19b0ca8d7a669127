"""The sentences of the answer: what is recommended and why, or why there is no answer yet."""

from collections.abc import Sequence

from analysis.cells import Cell, Group
from analysis.comparisons import Comparison, cell_name, declared_text, pending_reference
from analysis.recommendation import Recommendation
from analysis.render import bounds, percent, with_minus_signs

MIN_SEEDS = 3  # a result from fewer seeds is exploratory
_MOST_NAMED = 6  # a sentence names at most so many cells; the table of tests has all of them
_MOST_NAMED_IN_ANSWER = 3


def answers(group: Group, recommendation: Recommendation, best_cell: Cell | None) -> tuple[str, str]:
    """Return the answer, which continues "On TASK, ", and the short answer."""
    margin, reference = margin_text(group), recommendation.reference
    if recommendation.outcome == "nothing confirmed":
        return f"no trial is confirmed yet, so there is no result to report.{_search_text(group)}", "no result yet"
    if reference is None:
        best_cell_text = f" {best_text(best_cell)}" if best_cell else ""
        pending_cell = pending_reference(group)
        reason = (
            f"the reference, {cell_name(pending_cell)}, is planned but not confirmed"
            if pending_cell
            else f"no cell is the reference that the space declares ({declared_text(group)})"
        )
        return f"there is no answer yet, because {reason}.{best_cell_text}", f"no answer yet, because {reason}"
    name, accuracy = cell_name(reference), percent(mean_accuracy(reference))
    no_prompt = percent(group.zero_shot_accuracy)
    if recommendation.outcome == "smaller cell" and recommendation.cell:
        cell = recommendation.cell
        ratio_text = _ratio_text(cell, reference)
        if recommendation.better:
            count = len(recommendation.better)
            subject = f"{count} smaller cells are" if count > 1 else "A smaller cell is"
            ratio_text += f" {subject} shown to be better than the reference."
        return (
            f"{label_with_size(cell)} is shown to be as good as the reference, {name}, within {margin}. It reaches "
            f"{accuracy_text(cell)} on the test examples, and the reference reaches {accuracy} %. {ratio_text}",
            f"{label_with_size(cell)} is as good as the reference within {margin}",
        )
    if recommendation.outcome == "no prompt":
        return (
            f"training has not been shown to help. The reference, {name}, reaches {accuracy} % on the test examples, "
            f"and the model without a prompt reaches {no_prompt} %. No confirmed cell is shown to be above that, so no "
            "prompt is recommended.",
            "no prompt, because training has not been shown to help",
        )
    if recommendation.outcome == "weak reference":
        above_text = listed(
            [f"{label_with_size(cell)}, {accuracy_text(cell)}" for cell in recommendation.clearly_above]
        )
        return (
            f"there is no answer, because the reference is no useful standard. The reference, {name}, reaches "
            f"{accuracy} % on the test examples, which is not more than the {no_prompt} % of the model without a "
            f"prompt. Shown to be above that: {above_text}.",
            f"no answer, because the mean {group.score_name} of the reference is not above that without a prompt",
        )
    if recommendation.outcome == "nothing smaller":
        return (
            f"there is no answer, because no confirmed cell has fewer parameters than the reference, {name}. The "
            f"reference reaches {accuracy} % on the test examples.",
            "no answer, because no smaller cell is confirmed",
        )
    if recommendation.outcome == "untested":
        return (
            f"it is not decided whether fewer parameters than those of the reference, {name}, are enough, because no "
            f"test is possible: {recommendation.missing_reason}. The reference reaches {accuracy} % on the test "
            "examples.",
            "not decided, because no test is possible",
        )
    return _reference_answers(group, recommendation, reference)


def _reference_answers(group: Group, recommendation: Recommendation, reference: Cell) -> tuple[str, str]:
    """Return the answer and the short answer if no smaller cell can be recommended."""
    margin, name = margin_text(group), cell_name(reference)
    reference_text = (
        f"The recommendation is the reference, which reaches {accuracy_text(reference)} on the test examples."
    )
    no_prompt_text = f"the {percent(group.zero_shot_accuracy)} % of the model without a prompt"
    below_labels = listed([comparison.cell.label for comparison in recommendation.as_good])
    undecided_cells = [*(comparison.cell for comparison in recommendation.undecided), *recommendation.untested]
    if undecided_cells:
        labels = listed([cell.label for cell in undecided_cells], _MOST_NAMED_IN_ANSWER)
        kind = f"smaller cell that is above {no_prompt_text}" if below_labels else "smaller cell"
        return (
            f"it is not decided whether fewer parameters than those of the reference, {name}, are enough: no {kind} is "
            f"shown to be as good within {margin}. {reference_text} Undecided: {labels}.",
            "not decided, so the reference is recommended",
        )
    pending_labels = listed([cell.label for cell in _pending_smaller_cells(group, reference)], _MOST_NAMED_IN_ANSWER)
    pending_text = f" Smaller, but not confirmed yet: {pending_labels}." if pending_labels else ""
    short_pending_text = f" (not confirmed yet: {pending_labels})" if pending_labels else ""
    if not below_labels:
        count = len(recommendation.worse)
        confirmed = "confirmed " if pending_labels else ""
        subject = f"{'both' if count == 2 else f'all {count}'} {confirmed}smaller cells are"
        if count == 1:
            subject = f"the only {confirmed}smaller cell is"
        return (
            f"{subject} shown to be worse than the reference, {name}, by more than {margin}. {reference_text}"
            f"{pending_text}",
            f"the reference, because every {confirmed}smaller cell is shown to be worse by more than {margin}"
            f"{short_pending_text}",
        )
    return (
        f"no confirmed smaller cell is both shown to be as good as the reference, {name}, within {margin}, and above "
        f"{no_prompt_text}. As good but not above it: {below_labels}. {reference_text}{pending_text}",
        f"the reference, because no confirmed smaller cell is both as good and above no prompt{short_pending_text}",
    )


def _pending_smaller_cells(group: Group, reference: Cell) -> list[Cell]:
    """Return the cells that are planned but not confirmed, and not known to be as large as the reference."""
    most_parameters = reference.trainable_parameters or 0
    return [cell for cell in unconfirmed_cells(group) if (cell.trainable_parameters or 0) < most_parameters]


def unconfirmed_cells(group: Group) -> list[Cell]:
    """Return the cells that are planned but not confirmed, without the reference."""
    return [
        cell for cell in group.cells if cell.is_planned and not cell.accuracy and cell is not pending_reference(group)
    ]


def reservation_texts(group: Group, cell: Cell) -> list[str]:
    """Return a sentence for each accuracy without training that the cell's interval is not wholly above."""
    if cell.accuracy is None:
        return []
    baselines = (
        (group.zero_shot_accuracy, "without a prompt, so it is not shown that training helps"),
        (group.majority_accuracy, "for the majority class, so it is not shown to do better than that class"),
    )
    return [
        f"The 95 % interval of {cell.label}, {bounds(cell.accuracy)}, is not wholly above the {percent(baseline)} % "
        f"{text}."
        for baseline, text in baselines
        if baseline is not None and cell.accuracy.low <= baseline
    ]


def mean_accuracy(cell: Cell) -> float:
    assert cell.accuracy
    return cell.accuracy.mean


def accuracy_text(cell: Cell) -> str:
    return f"{percent(mean_accuracy(cell))} %"


def label_with_size(cell: Cell) -> str:
    return f"{cell.label} ({cell.trainable_parameters:,} parameters)"


def best_text(cell: Cell) -> str:
    seeds = cell.accuracy.seeds if cell.accuracy else 0
    seeds_text = f", with only {seeds} seed{'s' * (seeds > 1)}" if seeds < MIN_SEEDS else ""
    return (
        f"The best cell on the held-out data is {label_with_size(cell)}. It reaches {accuracy_text(cell)} on the "
        f"test examples{seeds_text}."
    )


def _ratio_text(cell: Cell, reference: Cell) -> str:
    ratio = (reference.trainable_parameters or 1) / (cell.trainable_parameters or 1)
    number = f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.1f}" if ratio >= 1.1 else f"{ratio:.2f}"
    return f"It trains {number} times fewer parameters."


def margin_text(group: Group) -> str:
    return f"{100 * group.margin:g} pp"


def difference_text(comparison: Comparison) -> str:
    difference = comparison.verdict.difference
    return with_minus_signs(
        f"{100 * difference.mean:+z.1f} pp, 95 % interval [{100 * difference.low:+z.1f}, {100 * difference.high:+z.1f}]"
    )


def listed(texts: Sequence[str], most: int = _MOST_NAMED) -> str:
    """Join texts. If they are many, only the first are named, with the number of the others."""
    separator = "; " if any("," in text for text in texts) else ", "
    others = [f"and {len(texts) - most} more"] if len(texts) > most else []
    return separator.join([*texts[:most], *others])


def _search_text(group: Group) -> str:
    scored_cells = [cell for cell in group.cells if cell.selection_score is not None]
    best_cell = max(scored_cells, key=lambda cell: cell.selection_score or 0.0, default=None)
    if best_cell is None:
        return ""
    score_text = f"{percent(best_cell.selection_score)} % on the held-out data"
    return f" The best search trial so far belongs to {best_cell.label}: {score_text}."
