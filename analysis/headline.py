"""The answer in plain words: how few parameters are enough. It claims no more than the data show."""

from dataclasses import dataclass

from analysis.answer_text import (
    MIN_SEEDS,
    accuracy_text,
    answers,
    best_text,
    difference_text,
    listed,
    margin_text,
    mean_accuracy,
    reservation_texts,
    unconfirmed_cells,
)
from analysis.cells import Cell, Group
from analysis.comparisons import declared_text
from analysis.frontier import best_within
from analysis.looks_text import ending_sentences
from analysis.low_rank import low_rank_details
from analysis.recommendation import KIND_LEVEL, Recommendation, recommend
from analysis.render import bounds, percent
from lopt.metrics import ACCURACY


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
    answer, short_answer = answers(group, recommendation, best_cell)
    if recommendation.cell:
        answer = " ".join([answer, *reservation_texts(group, recommendation.cell)])
    seed_counts = [cell.accuracy.seeds for cell in _cells_of_answer(recommendation, best_cell) if cell.accuracy]
    fewest_seeds = min(seed_counts, default=0)
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


def _cells_of_answer(recommendation: Recommendation, best_cell: Cell | None) -> list[Cell]:
    """Return the cells whose accuracies the answer rests on."""
    reference, tested_cells = recommendation.reference, [test.cell for test in recommendation.tested]
    if reference is None:
        return [best_cell] if best_cell else []
    if recommendation.outcome == "smaller cell" and recommendation.cell:
        return [recommendation.cell, reference]
    above_cells = recommendation.clearly_above if recommendation.outcome == "weak reference" else ()
    return [reference, *(tested_cells or recommendation.untested), *above_cells]


def _details(group: Group, recommendation: Recommendation, best_cell: Cell | None) -> list[str]:
    """Return what supports or limits the answer."""
    details = []
    cell, reference = recommendation.cell, recommendation.reference
    no_prompt = group.zero_shot_accuracy
    details += ending_sentences(group)
    if recommendation.tested:
        details.append(_tests_text(group, recommendation))
    comparison = next((test for test in recommendation.as_good if test.cell is cell), None)
    if cell and comparison:
        other_cells = [*(test.cell for test in recommendation.tested), *recommendation.untested]
        is_smallest = all(
            (cell.trainable_parameters or 0) <= (other.trainable_parameters or 0) for other in other_cells
        )
        position = "No confirmed cell is smaller." if is_smallest else _position_text(group, recommendation)
        details.append(
            f"{cell.label} minus the reference: {difference_text(comparison)} on the same test examples. {position} "
            f"Because this test chose the cell, its test {group.score_name} may be a little too high."
        )
        if reference and no_prompt is not None and not group.is_above_no_prompt(reference):
            details.append(
                f"The reference is not above the {percent(no_prompt)} % of the model without a prompt, so to be as "
                f"good as the reference is not enough. {cell.label} is shown to be above that, "
                f"{_above_tests_text(group)}."
            )
    details += _verdict_texts(group, recommendation)
    if reference:
        details += _reference_texts(group, recommendation, reference)
    if recommendation.outcome == "weak reference":
        no_prompt_text = f"the {group.score_name} without a prompt"
        details.append(f"A cell is shown to be above {no_prompt_text} {_above_tests_text(group)}.")
    if reference and best_cell and best_cell is not cell and best_cell is not reference:
        details.append(best_text(best_cell))
    if chosen_cell := cell or best_cell:
        details.append(
            f"The learning rate and the step of each cell were chosen on {_selection_data_text(chosen_cell)}, not on "
            "the test examples."
        )
    if baselines_text := _baselines_text(group):
        details.append(baselines_text)
    if not cell and (shown_cell := reference or best_cell):
        details += reservation_texts(group, shown_cell)
    if group.confirmed_cells and unconfirmed_cells(group):
        labels = listed([planned_cell.label for planned_cell in unconfirmed_cells(group)])
        details.append(f"Not known, because planned but not confirmed: {labels}.")
    return details


def _position_text(group: Group, recommendation: Recommendation) -> str:
    """Say why the recommended cell is preferred to those that are smaller."""
    cells = [test.cell for test in recommendation.as_good]
    passed_over = [cell.label for cell in cells[: cells.index(recommendation.cell)]] if recommendation.cell else []
    if not passed_over:
        return "It is the smallest cell for which this is shown."
    is_reference_above = recommendation.reference and group.is_above_no_prompt(recommendation.reference)
    above, not_above = (f"whose mean {group.score_name} is above", "above no prompt")
    if not is_reference_above:
        above, not_above = ("which is shown to be above", "shown to be above no prompt")
    return (
        f"It is the smallest cell for which this is shown and {above} that without a prompt. As good as the reference, "
        f"but not {not_above}: {listed(passed_over)}."
    )


def _above_tests_text(group: Group) -> str:
    """Say by which tests cells are shown to be above "no prompt"."""
    count = len(group.confirmed_cells)
    cells_text = [f"the {count} confirmed cells"] if count > 1 else []
    looks_text = [f"the {len(group.design.looks)} looks"] if group.design else []
    shared_text = " and ".join([*cells_text, *looks_text])
    correction = f", which Bonferroni's method shares among {shared_text}" if shared_text else ""
    return (
        f"by a one-sided test over seeds and examples. These tests have a level of {100 * KIND_LEVEL:g} % of their "
        f"own{correction}. So the chance that anything that is said to be shown is wrong is at most "
        f"{400 * KIND_LEVEL:g} % in all"
    )


def _tests_text(group: Group, recommendation: Recommendation) -> str:
    """Say by which tests cells are judged, and how often the tests err."""
    count, margin, level = len(recommendation.tested), margin_text(group), f"{100 * KIND_LEVEL:g} %"
    if count == 1:
        subject = (
            f"One of {1 + len(recommendation.untested)} smaller cells"
            if recommendation.untested
            else "The smaller cell"
        )
        beginning = f"{subject} was compared with the reference on the same test examples, by two one-sided t "
        correction, result = "", "this verdict"
    else:
        cells_text = "Both" if count == 2 else f"All {count}"
        if recommendation.untested:
            cells_text = f"{count} of the {count + len(recommendation.untested)}"
        beginning = f"{cells_text} smaller cells were compared with the reference on the same test examples, by two "
        beginning += "one-sided t "
        correction, result = f" Holm's method corrects both for the {count} cells.", "any of these verdicts"
    if group.design:
        correction += " These levels hold for all looks at growing numbers of seeds together."
    return (
        f"{beginning}tests over seeds and examples. One test is for being worse by less than {margin}, which is called "
        f'"as good". The other is for being worse by more than {margin}. Each has a level of {level}.{correction} So '
        f"the chance that {result} is wrong is at most {200 * KIND_LEVEL:g} %. Its score does not choose the "
        "reference: "
        f"the space declares it ({declared_text(group)}). In tables and figures it is called "
        f"{recommendation.tested[0].reference.label}."
    )


def _verdict_texts(group: Group, recommendation: Recommendation) -> list[str]:
    """Name the cells by what the tests showed of them, with their differences from the reference."""
    margin = margin_text(group)
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
        f"{text}: {listed([f'{test.cell.label} ({difference_text(test)})' for test in tests])}."
        for text, tests in texts_and_tests
        if tests
    ]
    if recommendation.outcome == "untested":
        cells = (*filter(None, (recommendation.reference,)), *recommendation.untested)
        accuracies = [f"{cell.label} {accuracy_text(cell)} {bounds(cell.accuracy)}" for cell in cells if cell.accuracy]
        name = "Test accuracies" if group.metric == ACCURACY else f"Test scores ({group.score_name})"
        texts.append(f"{name} with 95 % intervals, which no test compares: {listed(accuracies)}.")
    if recommendation.tested and recommendation.untested:
        labels = listed([cell.label for cell in recommendation.untested])
        texts.append(f"Not tested, for lack of two seeds or of predictions on the same test examples: {labels}.")
    return texts


def _reference_texts(group: Group, recommendation: Recommendation, reference: Cell) -> list[str]:
    """Say if the reference is a weak standard."""
    texts = []
    if recommendation.better:
        better = listed([f"{test.cell.label} ({difference_text(test)})" for test in recommendation.better])
        texts.append(
            f"Shown to be better than the reference, by one-sided tests at {100 * KIND_LEVEL:g} % of their own that "
            f"Holm's method corrects: {better}. So the reference is not the best that can be reached here. The chance "
            f"that anything that is said to be shown against the reference is wrong is at most "
            f"{300 * KIND_LEVEL:g} % in all."
        )
    other_cells = [cell for cell in group.confirmed_cells if cell is not reference]
    if len(other_cells) > 1 and all(mean_accuracy(cell) > mean_accuracy(reference) for cell in other_cells):
        cells_text = f"all {len(other_cells) + 1} confirmed cells"
        texts.append(f"The reference has the lowest test {group.score_name} of {cells_text}.")
    return texts


def _baselines_text(group: Group) -> str:
    """Return the accuracies that need no training, as far as they are known."""
    baselines = {"without a prompt": group.zero_shot_accuracy, "for the majority class": group.majority_accuracy}
    accuracies = [f"{percent(accuracy)} % {name}" for name, accuracy in baselines.items() if accuracy is not None]
    return f"For comparison, the {group.score_name} is {' and '.join(accuracies)}." if accuracies else ""


def _selection_data_text(cell: Cell) -> str:
    """Name the held-out data, and say how much one of their examples counts."""
    sizes_and_holdouts = {(trial.selection_n, trial.holdout) for trial in cell.confirmed_trials if trial.selection_n}
    if len(sizes_and_holdouts) != 1:
        return "the held-out data"
    ((example_count, holdout),) = sizes_and_holdouts
    kind = "held-out training examples" if holdout == "train" else "examples of the reported split that are not scored"
    return f"{example_count:,} {kind}, each of which counts for {100 / example_count:.2g} pp"
