"""The answer in plain words: how few parameters are enough. It claims no more than the data show."""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.cells import Cell, Group
from analysis.comparisons import Comparison, cell_name, declared_text, pending_reference
from analysis.frontier import best_within
from analysis.low_rank import low_rank_details
from analysis.recommendation import KIND_LEVEL, Recommendation, recommend
from analysis.render import bounds, percent, with_minus_signs

MIN_SEEDS = 3  # a result from fewer seeds is exploratory
_MOST_NAMED = 6  # a sentence names at most so many cells; the table of tests has all of them


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The answer for one backbone and task.

    Attributes:
        answer: the answer in a few sentences.
        short_answer: the answer in a few words, to stand behind the name of the task.
        details: what supports or limits the answer. Each is a few sentences.
        exploratory_warning: a warning that the answer comes from few seeds; None if there are enough.
        best_cell: the confirmed cell with the best held-out accuracy.
        recommendation: the recommended cell, and what the tests showed.
    """

    answer: str
    short_answer: str
    details: tuple[str, ...]
    exploratory_warning: str | None
    best_cell: Cell | None
    recommendation: Recommendation


def headline(group: Group) -> Headline:
    """Say which cell is recommended and why, or why there is no answer yet."""
    recommendation = recommend(group)
    cells = group.confirmed_cells
    best_cell = best_within(cells, max((cell.trainable_parameters or 0 for cell in cells), default=0))
    answer, short_answer = _answers(group, recommendation, best_cell)
    cells_of_answer = (recommendation.cell, recommendation.reference, best_cell)
    fewest_seeds = min((cell.accuracy.seeds for cell in cells_of_answer if cell and cell.accuracy), default=0)
    exploratory_warning = None
    if 0 < fewest_seeds < MIN_SEEDS:
        certainty = "unknown" if fewest_seeds == 1 else "hardly known"
        exploratory_warning = (
            f"This result is exploratory: with {fewest_seeds} seed{'s' * (fewest_seeds > 1)}, the variance between "
            f"seeds is {certainty}."
        )
    return Headline(
        answer=f"On {group.title}, {answer}",
        short_answer=short_answer,
        details=(*_details(group, recommendation, best_cell), *low_rank_details(group)),
        exploratory_warning=exploratory_warning,
        best_cell=best_cell,
        recommendation=recommendation,
    )


def _answers(group: Group, recommendation: Recommendation, best_cell: Cell | None) -> tuple[str, str]:
    """Return the answer, which continues "On TASK, ", and the short answer."""
    margin, reference = _margin_text(group), recommendation.reference
    if recommendation.outcome == "nothing confirmed":
        return f"no trial is confirmed yet, so there is no result to report.{_search_text(group)}", "no result yet"
    if reference is None:
        best_text = f" {_best_text(best_cell)}" if best_cell else ""
        pending_cell = pending_reference(group)
        reason = (
            f"the reference, {cell_name(pending_cell)}, is planned but not confirmed"
            if pending_cell
            else f"no cell is the reference that the space declares ({declared_text(group)})"
        )
        return f"there is no answer yet, because {reason}.{best_text}", f"no answer yet, because {reason}"
    name, accuracy = cell_name(reference), percent(_mean(reference))
    no_prompt = percent(group.zero_shot_accuracy)
    if recommendation.outcome == "smaller cell" and recommendation.cell:
        cell = recommendation.cell
        ratio_text = _ratio_text(cell, reference)
        if recommendation.better:
            count = len(recommendation.better)
            subject = f"{count} smaller cells are" if count > 1 else "A smaller cell is"
            ratio_text += f" {subject} shown to be better than the reference."
        return (
            f"{_label_with_size(cell)} is shown to be as good as the reference, {name}, within {margin}. It reaches "
            f"{percent(_mean(cell))} % on the test examples, and the reference reaches {accuracy} %. {ratio_text}",
            f"{_label_with_size(cell)} is as good as the reference within {margin}",
        )
    if recommendation.outcome == "no prompt":
        return (
            f"training has not been shown to help. The reference, {name}, reaches {accuracy} % on the test examples, "
            f"and the model without a prompt reaches {no_prompt} %. No confirmed cell is above that with its whole "
            "95 % interval, so no prompt is recommended.",
            "no prompt, because training has not been shown to help",
        )
    if recommendation.outcome == "weak reference":
        above_text = _listed(
            [f"{_label_with_size(cell)}, {_accuracy_text(cell)}" for cell in recommendation.clearly_above]
        )
        return (
            f"there is no answer, because the reference is no useful standard. The reference, {name}, reaches "
            f"{accuracy} % on the test examples, which is not more than the {no_prompt} % of the model without a "
            f"prompt. Cells whose whole 95 % interval is above that: {above_text}.",
            "no answer, because the reference is not better than no prompt",
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
    margin, name = _margin_text(group), cell_name(reference)
    reference_text = (
        f"The recommendation is the reference, which reaches {_accuracy_text(reference)} on the test examples."
    )
    no_prompt_text = f"the {percent(group.zero_shot_accuracy)} % of the model without a prompt"
    below_labels = _listed([comparison.cell.label for comparison in recommendation.as_good])
    undecided_cells = [*(comparison.cell for comparison in recommendation.undecided), *recommendation.untested]
    if undecided_cells:
        labels = _listed([cell.label for cell in undecided_cells])
        kind = f"smaller cell that is above {no_prompt_text}" if below_labels else "smaller cell"
        return (
            f"it is not decided whether fewer parameters than those of the reference, {name}, are enough: no {kind} is "
            f"shown to be as good within {margin}. {reference_text} Undecided: {labels}.",
            "not decided, so the reference is recommended",
        )
    if not below_labels:
        count = len(recommendation.worse)
        subject = f"all {count} smaller cells are" if count > 1 else "the only smaller cell is"
        return (
            f"{subject} shown to be worse than the reference, {name}, by more than {margin}. {reference_text}",
            f"the reference, because every smaller cell is shown to be worse by more than {margin}",
        )
    return (
        f"no smaller cell is both shown to be as good as the reference, {name}, within {margin}, and above "
        f"{no_prompt_text}. As good but not above it: {below_labels}. {reference_text}",
        "the reference, because no smaller cell is both as good and above no prompt",
    )


def _details(group: Group, recommendation: Recommendation, best_cell: Cell | None) -> list[str]:
    """Return what supports or limits the answer."""
    details = []
    cell, reference = recommendation.cell, recommendation.reference
    no_prompt = group.zero_shot_accuracy
    if recommendation.tested:
        details.append(_tests_text(group, recommendation))
    comparison = next((test for test in recommendation.as_good if test.cell is cell), None)
    if cell and comparison:
        other_cells = [*(test.cell for test in recommendation.tested), *recommendation.untested]
        is_smallest = all(
            (cell.trainable_parameters or 0) <= (other.trainable_parameters or 0) for other in other_cells
        )
        position = (
            "No confirmed cell is smaller."
            if is_smallest
            else "It is the smallest cell for which this is shown and whose accuracy is above that without a prompt."
        )
        details.append(
            f"{cell.label} minus the reference: {_difference_text(comparison)} on the same test examples. {position} "
            "Because this test chose the cell, its test accuracy may be a little too high."
        )
        if reference and no_prompt is not None and not group.is_above_no_prompt(reference):
            details.append(
                f"The reference is not above the {percent(no_prompt)} % of the model without a prompt, so to be as "
                f"good as the reference is not enough. {cell.label} is above that with its whole 95 % interval."
            )
    details += _verdict_texts(group, recommendation)
    if reference:
        details += _reference_texts(group, recommendation, reference)
    if best_cell and best_cell is not cell and best_cell is not reference:
        details.append(_best_text(best_cell))
    if chosen_cell := cell or best_cell:
        details.append(
            f"The learning rate and the step of each cell were chosen on {_selection_data_text(chosen_cell)}, not on "
            "the test examples."
        )
    details += _baseline_texts(group, cell or reference or best_cell)
    unconfirmed_cells = [
        planned_cell
        for planned_cell in group.cells
        if planned_cell.is_planned and not planned_cell.accuracy and planned_cell is not pending_reference(group)
    ]
    if group.confirmed_cells and unconfirmed_cells:
        labels = _listed([planned_cell.label for planned_cell in unconfirmed_cells])
        details.append(f"Not known, because planned but not confirmed: {labels}.")
    return details


def _tests_text(group: Group, recommendation: Recommendation) -> str:
    """Say by which tests cells are judged, and how often the tests err."""
    count, margin, level = len(recommendation.tested), _margin_text(group), f"{100 * KIND_LEVEL:g} %"
    if count == 1:
        beginning = "The smaller cell was compared with the reference on the same test examples, by two one-sided t "
        correction, result = "", "this verdict"
    else:
        cells_text = "Both" if count == 2 else f"All {count}"
        if recommendation.untested:
            cells_text = f"{count} of the {count + len(recommendation.untested)}"
        beginning = f"{cells_text} smaller cells were compared with the reference on the same test examples, by two "
        beginning += "one-sided t "
        correction, result = f" Holm's method corrects both for the {count} cells.", "any of these verdicts"
    return (
        f"{beginning}tests over seeds and examples. One test is for being worse by less than {margin}, which is called "
        f'"as good". The other is for being worse by more than {margin}. Each has a level of {level}.{correction} So '
        f"the chance that {result} is wrong is at most {200 * KIND_LEVEL:g} %. Accuracy does not choose the reference: "
        f"the space declares it ({declared_text(group)})."
    )


def _verdict_texts(group: Group, recommendation: Recommendation) -> list[str]:
    """Name the cells by what the tests showed of them, with their differences from the reference."""
    margin = _margin_text(group)
    shown_elsewhere = (recommendation.cell, *(test.cell for test in recommendation.better))
    other_cells = [test for test in recommendation.as_good if test.cell not in shown_elsewhere]
    count = len(recommendation.tested)
    correction = f" after the correction for {count} cells" if count > 1 else ""
    texts_and_tests = (
        (f"Undecided, because neither test reaches its level{correction}", recommendation.undecided),
        (f"Shown to be worse than the reference by more than {margin}", recommendation.worse),
        (f"Also shown to be as good as the reference within {margin}", other_cells)
        if recommendation.outcome == "smaller cell"
        else (f"Shown to be as good as the reference within {margin}", other_cells),
    )
    texts = [
        f"{text}: {_listed([f'{test.cell.label} ({_difference_text(test)})' for test in tests])}."
        for text, tests in texts_and_tests
        if tests
    ]
    if recommendation.outcome == "untested":
        cells = (*filter(None, (recommendation.reference,)), *recommendation.untested)
        accuracies = [f"{cell.label} {_accuracy_text(cell)} {bounds(cell.accuracy)}" for cell in cells if cell.accuracy]
        texts.append(f"Test accuracies with 95 % intervals, which no test compares: {_listed(accuracies)}.")
    if recommendation.tested and recommendation.untested:
        labels = _listed([cell.label for cell in recommendation.untested])
        texts.append(f"Not tested, for lack of two seeds or of predictions on the same test examples: {labels}.")
    return texts


def _reference_texts(group: Group, recommendation: Recommendation, reference: Cell) -> list[str]:
    """Say if the reference is a weak standard."""
    texts = []
    if recommendation.better:
        better = _listed([f"{test.cell.label} ({_difference_text(test)})" for test in recommendation.better])
        texts.append(
            f"Shown to be better than the reference, by one-sided tests at {100 * KIND_LEVEL:g} % of their own that "
            f"Holm's method corrects: {better}. So the reference is not the best that can be reached here."
        )
    other_cells = [cell for cell in group.confirmed_cells if cell is not reference]
    if len(other_cells) > 1 and all(_mean(cell) > _mean(reference) for cell in other_cells):
        texts.append(f"The reference has the lowest test accuracy of all {len(other_cells) + 1} confirmed cells.")
    return texts


def _baseline_texts(group: Group, cell: Cell | None) -> list[str]:
    """Return the accuracies that need no training, and whether the cell's interval is above them."""
    baselines = {"without a prompt": group.zero_shot_accuracy, "for the majority class": group.majority_accuracy}
    known_baselines = {name: accuracy for name, accuracy in baselines.items() if accuracy is not None}
    if not known_baselines:
        return []
    accuracies = " and ".join(f"{percent(accuracy)} % {name}" for name, accuracy in known_baselines.items())
    text = f"For comparison, the accuracy is {accuracies}."
    if cell and cell.accuracy and cell.accuracy.low <= max(known_baselines.values()):
        text += (
            f" The 95 % interval of {cell.label}, {bounds(cell.accuracy)}, is not wholly above these, so training it "
            "has not been shown to help."
        )
    return [text]


def _mean(cell: Cell) -> float:
    assert cell.accuracy
    return cell.accuracy.mean


def _accuracy_text(cell: Cell) -> str:
    return f"{percent(_mean(cell))} %"


def _label_with_size(cell: Cell) -> str:
    return f"{cell.label} ({cell.trainable_parameters:,} parameters)"


def _best_text(cell: Cell) -> str:
    return (
        f"The best cell on the held-out data is {_label_with_size(cell)}. It reaches {_accuracy_text(cell)} on the "
        "test examples."
    )


def _ratio_text(cell: Cell, reference: Cell) -> str:
    ratio = (reference.trainable_parameters or 1) / (cell.trainable_parameters or 1)
    number = f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.1f}" if ratio >= 1.1 else f"{ratio:.2f}"
    return f"It trains {number} times fewer parameters."


def _margin_text(group: Group) -> str:
    return f"{100 * group.margin:g} pp"


def _difference_text(comparison: Comparison) -> str:
    difference = comparison.verdict.difference
    return with_minus_signs(
        f"{100 * difference.mean:+.1f} pp, 95 % interval [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"
    )


def _listed(texts: Sequence[str]) -> str:
    """Join texts. If they are many, only the first are named, with the number of the others."""
    separator = "; " if any("," in text for text in texts) else ", "
    others = [f"and {len(texts) - _MOST_NAMED} more"] if len(texts) > _MOST_NAMED else []
    return separator.join([*texts[:_MOST_NAMED], *others])


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
