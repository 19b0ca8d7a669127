"""Decides which examples a trial trains on, selects on and reports on, and describes this choice in words.

The result depends only on a trial's data settings, so all trials of a sweep see the same examples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lopt.encoding import Example
from lopt.examples import Split
from lopt.sampling import SampledTargets, draw_subset, few_shot_sample, halve, hold_out
from lopt.tasks import Task

_ENOUGH_ROWS = 8  # a note names each class with fewer training rows than this: one wrong label weighs too much there
_MAX_LISTED = 5  # classes that one sentence lists


@dataclass(frozen=True, kw_only=True)
class PartSettings:
    """The fields of a configuration that decide which of a task's examples are read."""

    train_min_tokens: int | None
    train_max_tokens: int | None
    train_examples: int | None
    selection_examples: int | None
    held_out_examples: int | None
    test_examples: int | None
    shots: int | None
    holdout: str
    data_seed: int


@dataclass(frozen=True)
class Parts:
    """The positions of a trial's examples, and how they were drawn.

    Attributes:
        train: positions in the training split, `[N]`.
        selection: positions in `selection_pool`, `[N]`.
        report: positions in the reported split, `[N]`.
        selection_pool: the examples that the selection examples are drawn from.
        protocol: how the parts were drawn, in words.
        notes: sentences that a plan shows about the parts.
        report_split_size: number of the reported examples before a subset was drawn.
    """

    train: np.ndarray
    selection: np.ndarray
    report: np.ndarray
    selection_pool: Sequence[Example]
    protocol: str
    notes: tuple[str, ...]
    report_split_size: int


def hold_out_part(
    settings: PartSettings, training_split: Split, reported_split: Split
) -> tuple[Sequence[Example], np.ndarray]:
    """Return a split's examples, and the sorted positions `[N]` of the held-out ones that score a complete trial."""
    examples = reported_split.examples if settings.holdout == "validation" else training_split.examples
    targets, seed = SampledTargets.of(examples), settings.data_seed
    positions = halve(targets, seed)[0] if settings.holdout == "validation" else hold_out(targets, seed)[1]
    return examples, draw_subset(targets, positions, settings.held_out_examples, seed, 4)


def draw_parts(
    task: Task,
    settings: PartSettings,
    training_split: Split,
    reported_split: Split,
    measure_lengths: Callable[[np.ndarray], np.ndarray] | None,
) -> Parts:
    """Draw the training, selection and reported examples.

    Args:
        measure_lengths: returns the token counts `[N]` of the training examples at N positions. If it is None, the
            token limits are not applied.

    Raises:
        ValueError: a part has no example, or there is no example of a class to train on.
    """
    # First draw the examples, and write down in words where they come from.
    seed = settings.data_seed
    train_targets, report_targets = (SampledTargets.of(split.examples) for split in (training_split, reported_split))
    train_labels, report_labels = train_targets.labels, report_targets.labels
    if settings.holdout == "validation":
        selection_positions, report_candidates = halve(report_targets, seed)
        train_candidates, selection_pool = np.arange(len(train_labels)), reported_split.examples
        selection_source = f"one half of {task.report} (seed {seed}{', whole groups' if task.groups else ''})"
        report_source = f"the other half of {task.report}"
    else:
        how_drawn = "whole groups" if task.groups else "stratified"
        train_candidates, selection_positions = hold_out(train_targets, seed)
        report_candidates, selection_pool = np.arange(len(report_labels)), training_split.examples
        selection_source = (
            f"{len(selection_positions):,} examples held out of {task.train} ({how_drawn}, seed {seed}; "
            "min(5,000, 10 %))"
        )
        report_source = task.report
    positions_by_purpose = {
        "train on": train_candidates,
        "select on": selection_positions,
        "report on": report_candidates,
    }
    _check_parts(task, train_labels, positions_by_purpose)
    class_counts = _ClassCounts(task, training_split, reported_split)
    class_counts.record("the hold-out", train_labels[train_candidates], "add such rows, or set holdout=validation")
    length_text = ""
    token_limits = {"train_min_tokens": settings.train_min_tokens, "train_max_tokens": settings.train_max_tokens}
    limit_text = " and ".join(f"{name} = {limit}" for name, limit in token_limits.items() if limit is not None)
    if limit_text and measure_lengths is not None:
        within_limits, length_text = _apply_limits(settings, limit_text, measure_lengths(train_candidates))
        train_candidates = train_candidates[within_limits]
        class_counts.record(limit_text, train_labels[train_candidates], "set a wider limit, or remove it")
    pool_targets = report_targets if settings.holdout == "validation" else train_targets
    pool_labels = pool_targets.labels
    if settings.shots is not None:
        generator = np.random.RandomState([seed, 1])
        train_positions = train_candidates[few_shot_sample(train_labels[train_candidates], settings.shots, generator)]
        if settings.selection_examples is None:
            generator = np.random.RandomState([seed, 2])
            selection_positions = selection_positions[
                few_shot_sample(pool_labels[selection_positions], settings.shots, generator)
            ]
        train_text = f"{len(train_positions):,} ({settings.shots} of each class"
    else:
        train_positions = draw_subset(
            train_targets, train_candidates, settings.train_examples, seed, 1, may_tear_groups=True
        )
        class_counts.record(
            f"train_examples = {settings.train_examples}",
            train_labels[train_positions],
            "give a larger number, or set shots",
        )
        train_text = f"{len(train_positions):,} of {len(train_candidates):,}"
    class_counts.check()
    selection_positions = draw_subset(pool_targets, selection_positions, settings.selection_examples, seed, 2)
    report_positions = draw_subset(report_targets, report_candidates, settings.test_examples, seed, 3)

    # Then describe the parts in words.
    notes = []
    enough_rows = _ENOUGH_ROWS if settings.shots is None else settings.shots
    scarce_classes = [(label, count) for label, count in enumerate(class_counts.latest) if count < enough_rows]
    if scarce_classes:
        scarce_text = _list_names([f"{count:,} of {task.classes[label]}" for label, count in scarce_classes])
        notes.append(f"there are few rows of some classes to train on: {scarce_text}")
        train_text += f"; only {scarce_text}" if settings.shots is not None else f" (only {scarce_text})"
    train_text += ")" if settings.shots is not None else ""
    absent_texts = {}
    for purpose, labels in (("select", pool_labels[selection_positions]), ("report", report_labels[report_positions])):
        absent_classes = [name for label, name in enumerate(task.classes) if label not in labels]
        absent_texts[purpose] = f" (none of {_list_names(absent_classes)})" if absent_classes else ""
        if absent_classes:
            pronoun = "it" if len(absent_classes) == 1 else "them"
            notes.append(
                f"there is no row of {_list_names(absent_classes)} to {purpose} on, so that the scores say nothing "
                f"about {pronoun}"
            )
    is_subset = len(report_positions) < len(report_candidates)
    subset_text = "whole groups," if task.groups else "a stratified"
    report_text = f" ({subset_text} {len(report_positions):,} of {len(report_candidates):,})" if is_subset else ""
    training_texts = {tuple(example.text_by_column.values()) for example in training_split.examples}
    repeated_count = sum(
        tuple(reported_split.examples[i].text_by_column.values()) in training_texts for i in report_positions
    )
    report_text += f", {repeated_count:,} of which also stand in {task.train}" if repeated_count else ""
    trained_texts = {tuple(training_split.examples[i].text_by_column.values()) for i in train_positions}
    shared_count = sum(tuple(selection_pool[i].text_by_column.values()) in trained_texts for i in selection_positions)
    selection_source += f", {shared_count:,} of which are also trained on" if shared_count else ""
    # Records store this text, so its wording must not change.
    protocol = (
        f"selected on {len(selection_positions):,}{absent_texts['select']} of {selection_source}, "
        f"trained on {train_text} training examples{length_text}, "
        f"reported on {report_source}{absent_texts['report']}{report_text}"
    )
    preparation = _describe_preparation(task, (training_split, reported_split))
    return Parts(
        train=train_positions,
        selection=selection_positions,
        report=report_positions,
        selection_pool=selection_pool,
        protocol="; ".join([protocol, *preparation]),
        notes=(*notes, *preparation),
        report_split_size=len(report_candidates),
    )


class _ClassCounts:
    """How many training rows of each class are left after each filter."""

    def __init__(self, task: Task, training_split: Split, reported_split: Split) -> None:
        self._task = task
        self._filters: list[tuple[str, np.ndarray, str]] = []  # of each filter: name, class counts after it, remedy
        train_labels = [example.class_number for example in training_split.examples]
        report_labels = [example.class_number for example in reported_split.examples]
        is_one_file = task.division is not None  # then it was divided into training rows and reported rows
        file_labels = train_labels + report_labels if is_one_file else train_labels
        skipped_labels = [label for label in training_split.skipped_labels if label is not None]
        remedy = "add such rows, or leave the class out of the task"
        self._append(f"in {training_split.file}", [*file_labels, *skipped_labels], remedy)
        if skipped_labels:
            self._append('bad_rows = "skip"', file_labels, "fix the skipped rows")
        self.record("the division", np.array(train_labels, dtype=int), "add such rows")

    @property
    def latest(self) -> np.ndarray:
        """The number of rows of each class after the last filter, `[C]`."""
        return self._filters[-1][1]

    def record(self, filter_name: str, labels: np.ndarray, remedy: str) -> None:
        """If a filter removed rows, count those that are left, by their labels. `remedy` tells the user what to do."""
        if len(labels) < self.latest.sum():
            self._append(filter_name, labels, remedy)

    def _append(self, filter_name: str, labels: Sequence[int] | np.ndarray, remedy: str) -> None:
        counts = np.bincount(np.asarray(labels, dtype=int), minlength=len(self._task.classes))
        self._filters.append((filter_name, counts, remedy))

    def check(self) -> None:
        """Raise ValueError if a class has no row left. The message names the filter that took its last row."""
        empty_classes = np.flatnonzero(self.latest == 0)
        if not len(empty_classes):
            return
        filter_index = next(i for i, (_, counts, _) in enumerate(self._filters) if counts[empty_classes[0]] == 0)
        filter_name, counts_after, remedy = self._filters[filter_index]
        lost_classes = [label for label in empty_classes if counts_after[label] == 0]
        lost_names = _list_names([self._task.classes[label] for label in lost_classes])
        if filter_index == 0:
            file = filter_name.removeprefix("in ")
            raise ValueError(f"{file} of task {self._task.name} has no row of {lost_names}: {remedy}")
        texts_before = []
        for label in lost_classes[:_MAX_LISTED]:
            (first_filter, first_counts, _), *later_filters = self._filters[:filter_index]
            row_word = "row" if first_counts[label] == 1 else "rows"
            count_texts = [f"{first_counts[label]:,} {row_word} {first_filter}"]
            count_texts += [f"{counts[label]:,} after {later_filter}" for later_filter, counts, _ in later_filters]
            texts_before.append(f"{self._task.classes[label]} had {', '.join(count_texts)}")
        verb = "leave" if " and " in filter_name else "leaves"
        raise ValueError(
            f"{filter_name} {verb} no row of {lost_names} to train on; {'; '.join(texts_before)}: {remedy}"
        )


def _describe_preparation(task: Task, splits: Sequence[Split]) -> tuple[str, ...]:
    """Return sentences that say how many rows were skipped, and how one file was divided."""
    sentences = [
        f"{len(split.skipped_labels):,} of {split.row_count:,} rows of {split.file} skipped, which lack text or a class"
        for split in splits
        if split.skipped_labels
    ]
    if task.division is not None:
        sentences.append(
            f"{splits[0].file} divided by its texts (report_share {task.division.share:g}, split_seed "
            f"{task.division.seed}, stratified, equal texts together)"
        )
    return tuple(dict.fromkeys(sentences))


def _list_names(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    hidden_count = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {hidden_count} more" if hidden_count > 0 else "")


def _check_parts(task: Task, train_labels: np.ndarray, positions_by_purpose: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError if a part has no example, or all training rows are of one class.

    Args:
        train_labels: labels of all training examples.
        positions_by_purpose: the positions of each part, by its purpose in words, such as "train on".
    """
    for purpose, positions in positions_by_purpose.items():
        if not len(positions):
            raise ValueError(
                f"{task.train} and {task.report} of task {task.name} leave no example to {purpose}: give more rows"
            )
    classes = np.unique(train_labels)
    if len(classes) == 1:
        raise ValueError(
            f"all {len(train_labels):,} rows of {task.train} of task {task.name} are of class "
            f"{task.classes[classes[0]]}; give rows of two classes or more"
        )


def _apply_limits(settings: PartSettings, limit_text: str, lengths: np.ndarray) -> tuple[np.ndarray, str]:
    """Return the positions of the training texts within the token limits, and their range of lengths as text."""
    min_tokens, max_tokens = settings.train_min_tokens, settings.train_max_tokens
    within_limits = np.flatnonzero((lengths >= (min_tokens or 0)) & (lengths <= (max_tokens or lengths.max())))
    if not len(within_limits):
        raise ValueError(
            f"no training text is left after {limit_text}: the texts have {lengths.min()} to {lengths.max()} tokens. "
            "Set a wider limit, or remove it"
        )
    return within_limits, f" of {min_tokens or lengths.min()} to {max_tokens or lengths.max()} tokens"
