"""Which examples a trial trains on, selects on and is reported on: held out, halved, few of each class; and in words.

Nothing here depends on a trial but through its seed for data, so all trials of a sweep see the same examples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lopt.encoding import Example
from lopt.examples import Split
from lopt.tasks import Task

HELD_OUT_SHARE, HELD_OUT_MOST = 0.1, 5000
FEW = 8  # rows of a class; of fewer, one wrong label is more than a tenth of what the class is learnt from
_NAMED = 5  # classes, at most, in a sentence


@dataclass(frozen=True, kw_only=True)
class Parts:
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
class Drawn:
    """Positions of the examples that are trained on (in the training split), selected on (in `pool`) and reported on
    (in the reported split).

    protocol: how they were drawn, in words. notes: what of it a reader of a plan should know. report_size: of the
    reported part before a subset was taken.
    """

    train: np.ndarray
    selection: np.ndarray
    report: np.ndarray
    pool: Sequence[Example]
    protocol: str
    notes: tuple[str, ...]
    report_size: int


def stratified(labels: np.ndarray, size: int, generator: np.random.RandomState) -> np.ndarray:
    """Sorted positions of a sample of `size` whose class shares are those of `labels` to within one example."""
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * (size / len(labels))
    quota = np.floor(exact).astype(int)
    short = size - quota.sum()
    quota[np.argsort(quota - exact, kind="stable")[:short]] += 1
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[:count]
        for label, count in zip(classes, quota, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def hold_out(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (train, selection): min(5,000, 10 %) held out for selection, stratified, by a fixed seed."""
    size = max(1, min(HELD_OUT_MOST, int(len(labels) * HELD_OUT_SHARE)))
    selection = stratified(labels, size, np.random.RandomState([seed, 0]))
    return np.setdiff1d(np.arange(len(labels)), selection), selection


def halve(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (selection, reported): the first half of a permutation, and the rest; not stratified. With seed 42 it
    is the split of Compacter, ATTEMPT and DePT (`torch.randperm`), whose rows Table 2 quotes."""
    import torch

    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def few(labels: np.ndarray, shots: int, generator: np.random.RandomState) -> np.ndarray:
    """Sorted positions of `shots` examples of each class; of a class with fewer, all."""
    drawn = [generator.permutation(np.flatnonzero(labels == label))[:shots] for label in np.unique(labels)]
    return np.sort(np.concatenate(drawn))


def draw(
    task: Task,
    parts: Parts,
    training: Split,
    reported: Split,
    lengths: Callable[[np.ndarray], np.ndarray] | None,
) -> Drawn:
    """Draws the three parts.

    Args:
        lengths: tokens of training examples by their positions, `[N]`; None where they are not known, and limits of
            tokens are not applied.

    Raises:
        ValueError: a part without an example, or a class without one to train on.
    """
    seed = parts.data_seed
    labels, to_report = (np.array([e.label for e in split.examples]) for split in (training, reported))
    if parts.holdout == "validation":
        held_out, report = halve(len(to_report), seed)
        kept, pool = np.arange(len(labels)), reported.examples
        held = f"one half of {task.report} (seed {seed})"
        whole = f"the other half of {task.report}"
    else:
        kept, held_out = hold_out(labels, seed)
        report, pool = np.arange(len(to_report)), training.examples
        held = f"{len(held_out):,} examples held out of {task.train} (stratified, seed {seed}; min(5,000, 10 %))"
        whole = task.report
    _check_parts(task, labels, {"train on": kept, "select on": held_out, "report": report})
    counts = _Counts(task, training, reported)
    counts.after("the hold-out", labels[kept], "give more rows of it, or set holdout=validation")
    left_out = ""
    bounds = {"train_min_tokens": parts.train_min_tokens, "train_max_tokens": parts.train_max_tokens}
    limits = [f"{name} = {limit}" for name, limit in bounds.items() if limit is not None]
    if limits and lengths is not None:
        inside, left_out = _of_length(parts, lengths(kept))
        kept = kept[inside]
        counts.after(" and ".join(limits), labels[kept], "give another limit, or none")
    pooled = np.array([e.label for e in pool])
    if parts.shots is not None:
        chosen = kept[few(labels[kept], parts.shots, np.random.RandomState([seed, 1]))]
        if parts.selection_examples is None:
            held_out = held_out[few(pooled[held_out], parts.shots, np.random.RandomState([seed, 2]))]
        trained = f"{len(chosen):,} ({parts.shots} of each class"
    else:
        chosen = _subset(labels, kept, parts.train_examples, seed, 1)
        counts.after(f"train_examples = {parts.train_examples}", labels[chosen], "give more, or shots")
        trained = f"{len(chosen):,} of {len(kept):,}"
    counts.check()
    held_out = _subset(pooled, held_out, parts.selection_examples, seed, 2)
    scored = _subset(to_report, report, parts.test_examples, seed, 3)

    notes = []
    enough = FEW if parts.shots is None else parts.shots
    short = [(c, n) for c, n in enumerate(counts.now) if n < enough]
    if short:
        rows = _listed([f"{n:,} of {task.classes[c]}" for c, n in short])
        notes.append(f"only {rows} to train on")
        trained += f"; only {rows}" if parts.shots is not None else f" (only {rows})"
    trained += ")" if parts.shots is not None else ""
    absent = {}
    for purpose, present in (("select", pooled[held_out]), ("report", to_report[scored])):
        missing = [name for c, name in enumerate(task.classes) if c not in present]
        absent[purpose] = f" (none of {_listed(missing)})" if missing else ""
        if missing:
            notes.append(f"none of {_listed(missing)} to {purpose} on: the accuracy there says nothing of it")
    subset = "" if len(scored) == len(report) else f" (a stratified {len(scored):,} of {len(report):,})"
    texts = {tuple(example.fields.values()) for example in training.examples}
    repeated = sum(tuple(reported.examples[i].fields.values()) in texts for i in scored)
    subset += f", {repeated:,} of which also stand in {task.train}" if repeated else ""
    trained_on = {tuple(training.examples[i].fields.values()) for i in chosen}
    also = sum(tuple(pool[i].fields.values()) in trained_on for i in held_out)
    held += f", {also:,} of which are also trained on" if also else ""
    protocol = (
        f"selected on {len(held_out):,}{absent['select']} of {held}, trained on {trained} training examples{left_out}, "
        f"reported on {whole}{absent['report']}{subset}"
    )
    handling = _handling(task, (training, reported))
    return Drawn(chosen, held_out, scored, pool, "; ".join([protocol, *handling]), (*notes, *handling), len(report))


class _Counts:
    """Rows of each class that are left to train on, filter by filter."""

    def __init__(self, task: Task, training: Split, reported: Split) -> None:
        self._task, self._steps = task, list[tuple[str, np.ndarray, str]]()
        labels = [example.label for example in training.examples]
        whole = labels if task.divided is None else labels + [example.label for example in reported.examples]
        bad = [label for label in training.skipped if label is not None]
        self._take(f"in {training.file}", [*whole, *bad], "give rows of it, or leave the class out of the task")
        if bad:
            self._take('bad_rows = "skip"', whole, "mend its rows")
        self.after("the division", np.array(labels, dtype=int), "give more rows of it")

    @property
    def now(self) -> np.ndarray:
        return self._steps[-1][1]

    def after(self, filtered: str, labels: np.ndarray, mend: str) -> None:
        """Takes down the labels of what a filter has left, and how to mend it."""
        if len(labels) < self.now.sum():
            self._take(filtered, labels, mend)

    def _take(self, filtered: str, labels: Sequence[int] | np.ndarray, mend: str) -> None:
        counts = np.bincount(np.asarray(labels, dtype=int), minlength=len(self._task.classes))
        self._steps.append((filtered, counts, mend))

    def check(self) -> None:
        """Raises ValueError for classes of which no row is left, with the filter that took the last one."""
        missing = np.flatnonzero(self.now == 0)
        if not len(missing):
            return
        step = next(i for i, (_, counts, _) in enumerate(self._steps) if counts[missing[0]] == 0)
        where, _, mend = self._steps[step]
        gone = [c for c in missing if self._steps[step][1][c] == 0]
        names = _listed([self._task.classes[c] for c in gone])
        if step == 0:
            raise ValueError(f"{where.removeprefix('in ')} of task {self._task.name} has no row of {names}: {mend}")
        before = []
        for number, (filtered, counts, _) in enumerate(self._steps[:step]):
            rows = " and ".join(f"{counts[c]:,}" for c in gone[:_NAMED])
            before.append(f"{rows} rows {filtered}" if number == 0 else f"{rows} after {filtered}")
        raise ValueError(f"{where} leaves no row of {names} to train on; there were {', '.join(before)}: {mend}")


def _handling(task: Task, splits: Sequence[Split]) -> tuple[str, ...]:
    """How the splits came to be: rows that were skipped, one file that was divided."""
    said = [
        f"{len(split.skipped):,} of {split.rows:,} rows of {split.file} skipped, which lack text or a class"
        for split in splits
        if split.skipped
    ]
    if task.divided is not None:
        said.append(
            f"{splits[0].file} divided by its texts (report_share {task.divided.share:g}, split_seed "
            f"{task.divided.seed}, stratified, equal texts together)"
        )
    return tuple(dict.fromkeys(said))


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _check_parts(task: Task, labels: np.ndarray, parts: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError when a part has no example, or there is only one class to train on.

    labels: of all training examples. parts: positions of the examples by what they are for; the first is trained on.
    """
    for purpose, positions in parts.items():
        if not len(positions):
            raise ValueError(
                f"{task.train} and {task.report} of task {task.name} leave no example to {purpose}: give more rows"
            )
    kinds = np.unique(labels)
    if len(kinds) == 1:
        raise ValueError(
            f"all {len(labels):,} rows of {task.train} of task {task.name} are of class {task.classes[kinds[0]]}; give "
            "rows of two classes or more"
        )


def _subset(labels: np.ndarray, positions: np.ndarray, size: int | None, seed: int, stream: int) -> np.ndarray:
    """A stratified subset of `size` of the positions; all when size is None or not smaller."""
    if size is None or size >= len(positions):
        return positions
    return positions[stratified(labels[positions], size, np.random.RandomState([seed, stream]))]


def _of_length(parts: Parts, lengths: np.ndarray) -> tuple[np.ndarray, str]:
    """The positions of training texts that have a length that is asked for, and that in words."""
    least, longest = parts.train_min_tokens, parts.train_max_tokens
    inside = np.flatnonzero((lengths >= (least or 0)) & (lengths <= (longest or lengths.max())))
    if not len(inside):
        raise ValueError(
            f"train_min_tokens is {least} and train_max_tokens {longest}, but the training texts have "
            f"{lengths.min()} to {lengths.max()} tokens: give other limits, or none"
        )
    return inside, f" of {least or lengths.min()} to {longest or lengths.max()} tokens"
