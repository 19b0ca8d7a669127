"""Decides which examples a trial trains on, selects on and reports on, and describes that in words.

Nothing here depends on a trial except its settings for data, so all trials of a sweep see the same examples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lopt.encoding import Example
from lopt.examples import Split
from lopt.tasks import Task

_HELD_OUT_SHARE, _MOST_HELD_OUT = 0.1, 5000
_FEW_ROWS = 8  # with fewer training rows of a class, one wrong label is over a tenth of them
_MOST_LISTED = 5  # classes in one sentence


@dataclass(frozen=True, kw_only=True)
class SubsetSettings:
    """The fields of a configuration that decide which of a task's examples are read."""

    train_min_tokens: int | None
    train_max_tokens: int | None
    train_examples: int | None
    selection_examples: int | None
    test_examples: int | None
    shots: int | None
    holdout: str
    data_seed: int


@dataclass(frozen=True)
class Subsets:
    """The positions of a trial's examples, and how they were drawn.

    Attributes:
        train: positions in the training split.
        selection: positions in `pool`.
        report: positions in the reported split.
        pool: the examples that the selection examples are drawn from.
        protocol: how the parts were drawn, in words.
        notes: what a reader of a plan should know about the parts.
        report_size: size of the reported part before a subset was drawn.
    """

    train: np.ndarray
    selection: np.ndarray
    report: np.ndarray
    pool: Sequence[Example]
    protocol: str
    notes: tuple[str, ...]
    report_size: int


def stratified_sample(labels: np.ndarray, size: int, generator: np.random.RandomState) -> np.ndarray:
    """Return the sorted positions of a sample in which each class has its share of `labels`, to within one example."""
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * (size / len(labels))
    quotas = np.floor(exact).astype(int)
    missing = size - quotas.sum()
    quotas[np.argsort(quotas - exact, kind="stable")[:missing]] += 1
    positions = [
        generator.permutation(np.flatnonzero(labels == label))[:quota]
        for label, quota in zip(classes, quotas, strict=True)
    ]
    return np.sort(np.concatenate(positions))


def hold_out(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions (train, selection). A stratified min(5,000, 10 %) is held out for selection."""
    size = max(1, min(_MOST_HELD_OUT, int(len(labels) * _HELD_OUT_SHARE)))
    selection = stratified_sample(labels, size, np.random.RandomState([seed, 0]))
    return np.setdiff1d(np.arange(len(labels)), selection), selection


def halve(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions (selection, reported): the first half of a permutation, and the rest.

    The halves are not stratified. With seed 42 this is the split of Compacter, ATTEMPT and DePT (`torch.randperm`),
    whose rows Table 2 quotes.
    """
    import torch

    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def few_shot_sample(labels: np.ndarray, shots: int, generator: np.random.RandomState) -> np.ndarray:
    """Return the sorted positions of `shots` examples of each class, or of all examples of a class with fewer."""
    positions = [generator.permutation(np.flatnonzero(labels == label))[:shots] for label in np.unique(labels)]
    return np.sort(np.concatenate(positions))


def draw_parts(
    task: Task,
    parts: SubsetSettings,
    training: Split,
    reported: Split,
    lengths: Callable[[np.ndarray], np.ndarray] | None,
) -> Subsets:
    """Draw the training, selection and reported examples.

    Args:
        lengths: returns the token counts `[N]` of the training examples at N positions. If it is None, the token
            limits are not applied.

    Raises:
        ValueError: a part has no example, or there is no example of a class to train on.
    """
    # First draw the examples, with the words for where they come from.
    seed = parts.data_seed
    train_labels, report_labels = (
        np.array([example.label for example in split.examples]) for split in (training, reported)
    )
    if parts.holdout == "validation":
        selection, report = halve(len(report_labels), seed)
        candidates, pool = np.arange(len(train_labels)), reported.examples
        selection_source = f"one half of {task.report} (seed {seed})"
        report_source = f"the other half of {task.report}"
    else:
        candidates, selection = hold_out(train_labels, seed)
        report, pool = np.arange(len(report_labels)), training.examples
        selection_source = (
            f"{len(selection):,} examples held out of {task.train} (stratified, seed {seed}; min(5,000, 10 %))"
        )
        report_source = task.report
    _check_parts(task, train_labels, {"train on": candidates, "select on": selection, "report": report})
    counts = _ClassCounts(task, training, reported)
    counts.record("the hold-out", train_labels[candidates], "give more rows of it, or set holdout=validation")
    length_range = ""
    bounds = {"train_min_tokens": parts.train_min_tokens, "train_max_tokens": parts.train_max_tokens}
    limits = " and ".join(f"{name} = {bound}" for name, bound in bounds.items() if bound is not None)
    if limits and lengths is not None:
        within_limits, length_range = _apply_limits(parts, limits, lengths(candidates))
        candidates = candidates[within_limits]
        counts.record(limits, train_labels[candidates], "give another limit, or none")
    pool_labels = np.array([example.label for example in pool])
    if parts.shots is not None:
        generator = np.random.RandomState([seed, 1])
        train = candidates[few_shot_sample(train_labels[candidates], parts.shots, generator)]
        if parts.selection_examples is None:
            generator = np.random.RandomState([seed, 2])
            selection = selection[few_shot_sample(pool_labels[selection], parts.shots, generator)]
        train_words = f"{len(train):,} ({parts.shots} of each class"
    else:
        train = _draw_subset(train_labels, candidates, parts.train_examples, seed, 1)
        counts.record(f"train_examples = {parts.train_examples}", train_labels[train], "give more, or shots")
        train_words = f"{len(train):,} of {len(candidates):,}"
    counts.check()
    selection = _draw_subset(pool_labels, selection, parts.selection_examples, seed, 2)
    scored = _draw_subset(report_labels, report, parts.test_examples, seed, 3)

    # Then describe them.
    notes = []
    enough = _FEW_ROWS if parts.shots is None else parts.shots
    scarce = [(label, count) for label, count in enumerate(counts.latest) if count < enough]
    if scarce:
        scarce_words = _list_names([f"{count:,} of {task.classes[label]}" for label, count in scarce])
        notes.append(f"there are few rows of some classes to train on: {scarce_words}")
        train_words += f"; only {scarce_words}" if parts.shots is not None else f" (only {scarce_words})"
    train_words += ")" if parts.shots is not None else ""
    absent_words = {}
    for purpose, labels in (("select", pool_labels[selection]), ("report", report_labels[scored])):
        absent = [name for label, name in enumerate(task.classes) if label not in labels]
        absent_words[purpose] = f" (none of {_list_names(absent)})" if absent else ""
        if absent:
            pronoun = "it" if len(absent) == 1 else "them"
            notes.append(
                f"there is no row of {_list_names(absent)} to {purpose} on, so the accuracy there says nothing about "
                f"{pronoun}"
            )
    report_words = "" if len(scored) == len(report) else f" (a stratified {len(scored):,} of {len(report):,})"
    training_texts = {tuple(example.fields.values()) for example in training.examples}
    repeated = sum(tuple(reported.examples[i].fields.values()) in training_texts for i in scored)
    report_words += f", {repeated:,} of which also stand in {task.train}" if repeated else ""
    trained_texts = {tuple(training.examples[i].fields.values()) for i in train}
    shared = sum(tuple(pool[i].fields.values()) in trained_texts for i in selection)
    selection_source += f", {shared:,} of which are also trained on" if shared else ""
    # Records store this text, so its words stay as they are.
    protocol = (
        f"selected on {len(selection):,}{absent_words['select']} of {selection_source}, "
        f"trained on {train_words} training examples{length_range}, "
        f"reported on {report_source}{absent_words['report']}{report_words}"
    )
    preparation = _describe_preparation(task, (training, reported))
    return Subsets(
        train=train,
        selection=selection,
        report=scored,
        pool=pool,
        protocol="; ".join([protocol, *preparation]),
        notes=(*notes, *preparation),
        report_size=len(report),
    )


class _ClassCounts:
    """How many training rows of each class are left after each filter."""

    def __init__(self, task: Task, training: Split, reported: Split) -> None:
        self._task, self._steps = task, list[tuple[str, np.ndarray, str]]()  # filter, counts after it, remedy
        train_labels = [example.label for example in training.examples]
        report_labels = [example.label for example in reported.examples]
        file_labels = train_labels if task.divided is None else train_labels + report_labels
        skipped = [label for label in training.skipped if label is not None]
        remedy = "give rows of it, or leave the class out of the task"
        self._append(f"in {training.file}", [*file_labels, *skipped], remedy)
        if skipped:
            self._append('bad_rows = "skip"', file_labels, "mend its rows")
        self.record("the division", np.array(train_labels, dtype=int), "give more rows of it")

    @property
    def latest(self) -> np.ndarray:
        """The counts after the last filter."""
        return self._steps[-1][1]

    def record(self, filter_name: str, labels: np.ndarray, remedy: str) -> None:
        """If a filter removed rows, record the labels that are left, and a remedy for the user."""
        if len(labels) < self.latest.sum():
            self._append(filter_name, labels, remedy)

    def _append(self, filter_name: str, labels: Sequence[int] | np.ndarray, remedy: str) -> None:
        counts = np.bincount(np.asarray(labels, dtype=int), minlength=len(self._task.classes))
        self._steps.append((filter_name, counts, remedy))

    def check(self) -> None:
        """Raise ValueError if a class has no row left. The message names the filter that took its last row."""
        missing = np.flatnonzero(self.latest == 0)
        if not len(missing):
            return
        step = next(i for i, (_, counts, _) in enumerate(self._steps) if counts[missing[0]] == 0)
        filter_name, counts_after, remedy = self._steps[step]
        lost = [label for label in missing if counts_after[label] == 0]
        names = _list_names([self._task.classes[label] for label in lost])
        if step == 0:
            file = filter_name.removeprefix("in ")
            raise ValueError(f"{file} of task {self._task.name} has no row of {names}: {remedy}")
        counts_before = []
        for number, (earlier_filter, counts, _) in enumerate(self._steps[:step]):
            rows = " and ".join(f"{counts[label]:,}" for label in lost[:_MOST_LISTED])
            counts_before.append(f"{rows} rows {earlier_filter}" if number == 0 else f"{rows} after {earlier_filter}")
        verb = "leave" if " and " in filter_name else "leaves"
        raise ValueError(
            f"{filter_name} {verb} no row of {names} to train on; there were {', '.join(counts_before)}: {remedy}"
        )


def _describe_preparation(task: Task, splits: Sequence[Split]) -> tuple[str, ...]:
    """Return sentences about rows that were skipped, and about one file that was divided."""
    sentences = [
        f"{len(split.skipped):,} of {split.rows:,} rows of {split.file} skipped, which lack text or a class"
        for split in splits
        if split.skipped
    ]
    if task.divided is not None:
        sentences.append(
            f"{splits[0].file} divided by its texts (report_share {task.divided.share:g}, split_seed "
            f"{task.divided.seed}, stratified, equal texts together)"
        )
    return tuple(dict.fromkeys(sentences))


def _list_names(names: Sequence[str]) -> str:
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def _check_parts(task: Task, train_labels: np.ndarray, parts: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError when a part has no example, or all training rows are of one class.

    Args:
        train_labels: labels of all training examples.
        parts: the positions of each part, by its purpose in words.
    """
    for purpose, positions in parts.items():
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


def _draw_subset(labels: np.ndarray, positions: np.ndarray, size: int | None, seed: int, stream: int) -> np.ndarray:
    """Return a stratified subset of `size` positions, or all if `size` is None or not smaller."""
    if size is None or size >= len(positions):
        return positions
    return positions[stratified_sample(labels[positions], size, np.random.RandomState([seed, stream]))]


def _apply_limits(parts: SubsetSettings, limits: str, lengths: np.ndarray) -> tuple[np.ndarray, str]:
    """Return the positions of the training texts within the token limits, and the range of lengths in words."""
    least, most = parts.train_min_tokens, parts.train_max_tokens
    within_limits = np.flatnonzero((lengths >= (least or 0)) & (lengths <= (most or lengths.max())))
    if not len(within_limits):
        raise ValueError(
            f"no training text is left after {limits}: the texts have {lengths.min()} to {lengths.max()} tokens. "
            "Give other limits, or none"
        )
    return within_limits, f" of {least or lengths.min()} to {most or lengths.max()} tokens"
