"""Which examples a trial reads: load a task, hold out what selects, draw subsets, tokenise once.

Nothing here depends on a trial but through its seed, so all trials of a sweep see the same examples.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from reprlib import repr as shortened
from typing import TYPE_CHECKING, Any

import numpy as np

from lopt import methods, tasks
from lopt.encoding import Encoded, Example, cut_to, encode_all
from lopt.errors import cut_short
from lopt.rows import rows_of
from lopt.tasks import Row, Task
from lopt.tokens import TokenIds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lopt.backbones import Backbone
    from lopt.config import TrialConfig

HELD_OUT_SHARE, HELD_OUT_MOST = 0.1, 5000


@dataclass(frozen=True)
class TaskData:
    """What one trial reads: train, held-out selection and reported split, all tokenised.

    protocol: how the parts were drawn, in words; report_size: the reported split's size before any subset.
    """

    train: Encoded
    selection: Encoded
    test: Encoded
    protocol: str
    report_split: str
    report_size: int
    revision: str


# --- loading ---------------------------------------------------------------------------------------------------


def load_split(task: Task, split: str) -> list[Example]:
    """Examples of one split: from `LOPT_DATA_DIR` if that has a folder of the task, else its own source or the hub.

    Raises:
        ValueError: a missing folder or file, a missing column, a label outside the classes, an empty text.
    """
    named = os.environ.get("LOPT_DATA_DIR")
    if named and not Path(named).is_dir():
        raise ValueError(f"LOPT_DATA_DIR is {named!r}, which is no folder; it holds <task>/<split>.parquet")
    if named and not Path(task.name).is_absolute() and (Path(named) / task.name).is_dir():
        path = Path(named) / task.name / f"{split}.parquet"
        if not path.is_file():
            have = sorted(str(p.relative_to(named)) for p in Path(named).glob("*/*.parquet"))
            raise ValueError(f"{path} does not exist; LOPT_DATA_DIR holds {', '.join(have) or 'no parquet file'}")
        rows, source = rows_of(path), str(path)
    elif task.load is not None:
        rows, source = task.load(split), f"{Path(task.name).name}/{split}"
    else:
        rows, source = _hub_rows(task, split)
    return [_example(task, row, number, source) for number, row in enumerate(rows)]


def _hub_rows(task: Task, split: str) -> tuple[Iterable[Row], str]:
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"task {task.name} comes from the hub with the package datasets: pip install datasets"
        ) from None
    source = f"hub data set {'/'.join(task.hub)}, split {split}"
    try:
        return datasets.load_dataset(*task.hub, split=split), source
    except Exception as error:  # the hub's client raises many kinds; the user needs one line
        reason = cut_short(" ".join(str(error).split()) or type(error).__name__)
        raise ValueError(
            f"{source} cannot be loaded ({reason}); set LOPT_DATA_DIR to a folder with "
            f"{task.name}/{split}.parquet, or use task movie_snippets, which needs no hub"
        ) from None


def _example(task: Task, row: Row, number: int, source: str) -> Example:
    for column in (*task.columns, task.label):
        if column not in row:
            where = f"{source}, row {number}" if number else source
            raise ValueError(f"{where} has no column {column!r}; it has {', '.join(map(str, row))}")
    fields = {}
    for column in task.columns:
        text = row[column]
        if not isinstance(text, str) or not text.strip() or not tasks.in_utf8(text):
            raise ValueError(f"{source}, row {number}: {column} is {shortened(text)}; give text, or take the row out")
        fields[column] = text.strip()
    label = _class_number(task, row[task.label])
    if label is None:
        valid = ", ".join(task.classes)
        if not _named_by_digits(task.classes):
            valid = f"0 to {len(task.classes) - 1} ({valid})"
        raise ValueError(f"{source}, row {number}: {task.label} is {shortened(row[task.label])}; valid: {valid}")
    return Example(id=number, fields=fields, label=label)


def _class_number(task: Task, value: Any) -> int | None:
    """The number of a class given by name, else by number; None for neither."""
    by_digits = _named_by_digits(task.classes)
    if type(value) is int and 0 <= value < len(task.classes) and not by_digits:  # almost every row: at once
        return value
    if not isinstance(value, str | int):  # a null is not the class "None"
        return None
    name = str(value).strip()
    if isinstance(value, bool) and name not in task.classes:
        name = name.lower()  # as JSON writes it
    if name in task.classes:
        return task.classes.index(name)
    if by_digits:  # of classes 1 to 5, 0 is not the first
        return None
    if isinstance(value, str) and name.isdecimal() and len(name) < 10:  # CSV holds text only
        value = int(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < len(task.classes) else None


@lru_cache(maxsize=32)
def _named_by_digits(classes: tuple[str, ...]) -> bool:
    return any(name.isdecimal() for name in classes)


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


@lru_cache(maxsize=8)
def _load(task: Task, source: str | None) -> tuple[list[Example], list[Example], str]:
    """Train and reported split, and a fingerprint of their content. `source` (LOPT_DATA_DIR) is part of the key."""
    splits = load_split(task, task.train), load_split(task, task.report)
    digest = hashlib.sha256()
    if len(task.columns) > 1:  # which of them is cut decides what of a long input is read
        digest.update(task.cut.encode())
    to_json = json.JSONEncoder(sort_keys=True).encode  # json.dumps would make one for each example
    for examples in splits:
        for example in examples:
            digest.update(to_json([example.fields, example.label]).encode())
    return *splits, digest.hexdigest()[:16]


def data_revision(task: str) -> str:
    """16 digits that change when any text or label of the task's splits does, or the column that is cut."""
    return _load(tasks.get(task), os.environ.get("LOPT_DATA_DIR"))[2]


def most_tokens(config: TrialConfig, backbone: Backbone) -> int:
    """The most tokens of template and text in one input of a trial.

    Raises:
        ValueError: a prompt that fills the backbone's window.
    """
    room = backbone.window - (config.length or 0)
    if room < 1:
        raise ValueError(f"length is {config.length}, but the window of {config.backbone} is {backbone.window} tokens")
    limits = (config.max_tokens, methods.get(config.method).text_limit(config.options))
    return min([room, *(limit for limit in limits if limit is not None)])


def prepare(config: TrialConfig, backbone: Backbone) -> TaskData:
    """Everything one trial reads. Trials that differ only in method, seed or learning rate share one copy.

    Raises:
        ValueError: see `load_split`, `encode` and `most_tokens`.
    """
    return _prepare(
        most_tokens(config, backbone),
        tasks.get(config.task),
        _Parts(**{f.name: getattr(config, f.name) for f in dataclasses.fields(_Parts)}),
        _Reader(f"{backbone.name} {backbone.revision}", backbone.tokenizer),
        backbone.complete(config.template or ""),
        os.environ.get("LOPT_DATA_DIR"),
    )


@dataclass(frozen=True, kw_only=True)
class _Parts:
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
class _Reader:
    """A tokenizer, known by its model: one model in two precisions reads alike."""

    model: str
    tokenizer: PreTrainedTokenizerBase = field(compare=False)


@lru_cache(maxsize=12)
def _prepare(most: int, task: Task, parts: _Parts, reader: _Reader, template: str, source: str | None) -> TaskData:
    """`_draw`, cut to `most` tokens."""
    drawn, protocol, revision, report_size = _draw(task, parts, reader, template, source)
    train, selection, test = (
        cut_to(encoded, reader.tokenizer, task, template, examples, most) for encoded, examples in drawn
    )
    return TaskData(train, selection, test, protocol, task.report, report_size, revision)


_Drawn = tuple[Encoded, list[Example]]


@lru_cache(maxsize=12)
def _draw(
    task: Task, parts: _Parts, reader: _Reader, template: str, source: str | None
) -> tuple[tuple[_Drawn, ...], str, str, int]:
    """Train, selection and reported examples, tokenised whole; the protocol in words, the data's revision, and the size
    of the reported part before a subset is taken."""
    seed, tokenizer = parts.data_seed, reader.tokenizer
    training, reported, revision = _load(task, source)
    labels = np.array([e.label for e in training])
    if parts.holdout == "validation":
        held_out, report = halve(len(reported), seed)
        kept, pool = np.arange(len(training)), reported
        held = f"one half of {task.report} (seed {seed})"
        whole = f"the other half of {task.report}"
    else:
        kept, held_out = hold_out(labels, seed)
        report, pool = np.arange(len(reported)), training
        held = f"{len(held_out):,} examples held out of {task.train} (stratified, seed {seed}; min(5,000, 10 %))"
        whole = task.report
    _check_parts(task, labels, {"train on": kept, "select on": held_out, "report": report})
    trainable, left_out = None, ""
    if parts.train_min_tokens is not None or parts.train_max_tokens is not None:
        trainable = encode_all(tokenizer, task, template, [training[i] for i in kept])
        inside, left_out = _of_length(parts, trainable.lengths)
        trainable, kept = _part(trainable, inside), kept[inside]
    pooled = np.array([e.label for e in pool])[held_out]
    if parts.shots is not None:
        chosen = kept[few(labels[kept], parts.shots, np.random.RandomState([seed, 1]))]
        if parts.selection_examples is None:
            held_out = held_out[few(pooled, parts.shots, np.random.RandomState([seed, 2]))]
        counts = np.bincount(labels[chosen], minlength=len(task.classes))
        trained = f"{len(chosen):,} ({parts.shots} of each class"
        short = [f"{count} of {task.classes[i]}" for i, count in enumerate(counts) if count < parts.shots]
        trained += f"; only {', '.join(short)})" if short else ")"
    else:
        chosen = _subset(labels, kept, parts.train_examples, seed, 1)
        trained = f"{len(chosen):,} of {len(kept):,}"
    held_out = _subset(np.array([e.label for e in pool]), held_out, parts.selection_examples, seed, 2)
    scored = _subset(np.array([e.label for e in reported]), report, parts.test_examples, seed, 3)
    subset = "" if len(scored) == len(report) else f" (a stratified {len(scored):,} of {len(report):,})"
    texts = {tuple(example.fields.values()) for example in training}
    repeated = sum(tuple(reported[i].fields.values()) in texts for i in scored)
    subset += f", {repeated:,} of which also stand in {task.train}" if repeated else ""
    protocol = (
        f"selected on {len(held_out):,} of {held}, trained on {trained} training examples{left_out}, "
        f"reported on {whole}{subset}"
    )
    drawn = []
    for examples, positions in ((training, chosen), (pool, held_out), (reported, scored)):
        some = [examples[i] for i in positions]
        if positions is chosen and trainable is not None:
            encoded = _part(trainable, np.searchsorted(kept, chosen))
        else:
            encoded = encode_all(tokenizer, task, template, some)
        drawn.append((encoded, some))
    return tuple(drawn), protocol, revision, len(report)


def _check_parts(task: Task, labels: np.ndarray, parts: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError when a part has no example, or there is only one class to train on.

    labels: of all training examples. parts: positions of the examples by what they are for; the first is trained on.
    """
    for purpose, positions in parts.items():
        if not len(positions):
            raise ValueError(
                f"{task.train} and {task.report} of task {task.name} leave no example to {purpose}: give more rows"
            )
    found = np.unique(labels)
    if len(found) == 1:
        raise ValueError(
            f"all {len(labels):,} rows of {task.train} of task {task.name} are of class {task.classes[found[0]]}; give "
            "rows of two classes or more"
        )


def _subset(labels: np.ndarray, positions: np.ndarray, size: int | None, seed: int, stream: int) -> np.ndarray:
    """A stratified subset of `size` of the positions; all when size is None or not smaller."""
    if size is None or size >= len(positions):
        return positions
    return positions[stratified(labels[positions], size, np.random.RandomState([seed, stream]))]


def _of_length(parts: _Parts, lengths: np.ndarray) -> tuple[np.ndarray, str]:
    """The positions of training texts that have a length that is asked for, and that in words."""
    least, longest = parts.train_min_tokens, parts.train_max_tokens
    inside = np.flatnonzero((lengths >= (least or 0)) & (lengths <= (longest or lengths.max())))
    if not len(inside):
        raise ValueError(
            f"train_min_tokens is {least} and train_max_tokens {longest}, but the training texts have "
            f"{lengths.min()} to {lengths.max()} tokens: give other limits, or none"
        )
    return inside, f" of {least or lengths.min()} to {longest or lengths.max()} tokens"


def _part(whole: Encoded, positions: np.ndarray) -> Encoded:
    """Some of the examples of a split that is not cut."""
    token_ids = TokenIds.of([whole.token_ids[i] for i in positions])
    return Encoded(token_ids, whole.labels[positions], whole.example_ids[positions], truncated=0)
