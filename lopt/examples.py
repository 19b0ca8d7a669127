"""The labelled examples of a task: rows read and checked one by one, and one file divided in two by its content."""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from lopt import tasks
from lopt.encoding import Example
from lopt.errors import cut_short, imported, short_repr
from lopt.rows import rows_of
from lopt.tasks import Division, Row, Task


@dataclass(frozen=True)
class Split:
    """One split of a task.

    file: where it is from, as messages name it. rows: how many that has. skipped: of each bad row that was left out the
    number of its class, or None where that was bad.
    """

    examples: list[Example]
    file: str
    rows: int
    skipped: tuple[int | None, ...]


def load_split(task: Task, split: str) -> list[Example]:
    """Examples of one split: from `LOPT_DATA_DIR` if that has a folder of the task, else its own source or the hub.
    ValueError for a missing folder or file, a missing column, or a row without text or with a label outside the
    classes, unless the task skips such rows."""
    return read_split(task, split).examples


def read_split(task: Task, split: str) -> Split:
    """Like `load_split`, with what was skipped."""
    if task.divided is None:
        return _checked(task, split, *_rows(task, split))
    whole = _checked(task, Path(task.divided.file).name, *_rows(task, task.divided.file))
    to_report = _reported(whole.examples, task.divided)
    part = [example for example in whole.examples if (example.id in to_report) == (split == task.report)]
    return Split(part, whole.file, whole.rows, whole.skipped)


def _rows(task: Task, split: str) -> tuple[Sequence[Row], str]:
    """Rows, and where they are from."""
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
    return list(rows), source


def _hub_rows(task: Task, split: str) -> tuple[Iterable[Row], str]:
    datasets = imported("datasets", f"task {task.name} comes from the hub with")
    source = f"hub data set {'/'.join(task.hub)}, split {split}"
    try:
        return datasets.load_dataset(*task.hub, split=split), source
    except Exception as error:  # the hub's client raises many kinds; the user needs one line
        reason = cut_short(" ".join(str(error).split()) or type(error).__name__)
        raise ValueError(
            f"{source} cannot be loaded ({reason}); set LOPT_DATA_DIR to a folder with "
            f"{task.name}/{split}.parquet, or use task movie_snippets, which needs no hub"
        ) from None


def _checked(task: Task, file: str, rows: Sequence[Row], source: str) -> Split:
    for column in (*task.columns, task.label):
        if rows and not any(column in row for row in rows):
            raise ValueError(f"{source} has no column {column!r}; it has {_columns(rows[0])}")
    examples, skipped, first = [], [], ""
    for number, row in enumerate(rows):
        label = _class_number(task, row.get(task.label))
        if fault := _fault(task, row, label):
            skipped.append(label)
            first = first or f"{source}, row {number}{fault}"
        else:
            fields = {column: row[column].strip() for column in task.columns}
            assert label is not None, "its absence is a fault"
            examples.append(Example(id=number, fields=fields, label=label))
    if skipped and (task.bad_rows == "refuse" or not examples):
        way_out = ' (bad_rows = "skip" in task.toml leaves them out)' if examples and tasks.is_folder(task) else ""
        raise ValueError(f"{len(skipped):,} of {len(rows):,} rows cannot be used{way_out}; the first is {first}")
    return Split(examples, file, len(rows), tuple(skipped))


def _columns(row: Row) -> str:
    """The names of a row's columns; where one name holds them all, what separates them."""
    names = ", ".join(map(str, row))
    for sign, word in ((";", "semicolons"), ("\t", "tabs")):
        if len(row) == 1 and sign in names:
            return f"{names}, separated by {word}: save the file with commas"
    return names


def _fault(task: Task, row: Row, label: int | None) -> str:
    """Why a row is no example; nothing for one that is."""
    for column in (*task.columns, task.label):
        if column not in row:
            return f" has no column {column!r}; it has {', '.join(map(str, row))}"
    for column in task.columns:
        text = row[column]
        if not isinstance(text, str) or not text.strip() or not tasks.in_utf8(text):
            return f": {column} is {short_repr(text)}; give text, or take the row out"
    if label is None:
        valid = ", ".join(task.classes)
        if not _named_by_numbers(task.classes):
            valid = f"0 to {len(task.classes) - 1} ({valid})"
        return f": {task.label} is {short_repr(row[task.label])}; valid: {valid}"
    return ""


def _class_number(task: Task, value: Any) -> int | None:
    """The number of a class given by name, else by number; None for neither."""
    by_numbers = _named_by_numbers(task.classes)
    if type(value) is int and 0 <= value < len(task.classes) and not by_numbers:  # almost every row: at once
        return value
    if not isinstance(value, str | int | float) or value != value:  # a null is not the class "None", nor one "nan"
        return None
    name = str(value).strip()
    if isinstance(value, bool) and name not in task.classes:
        name = name.lower()  # as JSON writes it
    if name in task.classes:
        return task.classes.index(name)
    number = None if isinstance(value, bool) else _number(name)
    if number is None:
        return None
    if by_numbers:  # of classes 1 to 5, 0 is not the first; 1.0 is the class 1, as pandas writes it beside a gap
        named = [i for i, other in enumerate(task.classes) if _number(other) == number]
        return named[0] if len(named) == 1 else None
    return int(number) if 0 <= number < len(task.classes) and number == int(number) else None


@lru_cache(maxsize=256)
def _number(name: str) -> Decimal | None:
    """The number that a text spells in digits, perhaps with a sign and a point; None for any other text."""
    return Decimal(name) if re.fullmatch(r"-?\d+(\.\d+)?", name) else None


@lru_cache(maxsize=32)
def _named_by_numbers(classes: tuple[str, ...]) -> bool:
    return any(_number(name) is not None for name in classes)


def _reported(examples: Sequence[Example], division: Division) -> set[int]:
    """Ids of the examples of one file that are reported on: of each class about `division.share`, chosen by a hash of
    their texts. Rows of equal texts stay together, so that none is trained on and reported on, and the order of the
    rows does not matter. A class of two different texts or more is on both sides."""
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(normalised(" ".join(example.fields.values())), []).append(example)
    by_class: dict[int, list[tuple[str, list[Example]]]] = {}
    for text, group in groups.items():
        order = hashlib.sha256(f"{division.seed} {text}".encode()).hexdigest()
        by_class.setdefault(min(example.label for example in group), []).append((order, group))
    chosen: set[int] = set()
    for ordered in by_class.values():
        size = sum(len(group) for _, group in ordered)
        wanted, taken, left = max(1, round(division.share * size)), 0, len(ordered)
        for _, group in sorted(ordered, key=lambda item: item[0]):
            if left > 1 and taken + len(group) / 2 <= wanted:  # it comes closer with the group than without
                chosen.update(example.id for example in group)
                taken += len(group)
                left -= 1
    return chosen


def normalised(text: str) -> str:
    """A text without case, punctuation and white space, by which duplicates are known; of signs alone, the text."""
    return re.sub(r"\W+", " ", text.lower()).strip() or text
