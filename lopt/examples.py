"""Reads the labelled examples of a task. Checks each row, and divides the file of a task that has only one."""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lopt import targets, tasks
from lopt.encoding import Example
from lopt.errors import cut_after_word, import_optional, short_repr
from lopt.rows import read_rows
from lopt.tasks import Division, Row, Task


@dataclass(frozen=True)
class Split:
    """One split of a task.

    Attributes:
        file: how messages name its file.
        row_count: number of rows in that file.
        skipped_labels: the class number of each bad row that was left out, or None if the row has no valid class.
    """

    examples: list[Example]
    file: str
    row_count: int
    skipped_labels: tuple[int | None, ...]


def load_split(task: Task, split_name: str) -> list[Example]:
    """Return the examples of one split.

    The source is `LOPT_DATA_DIR` if that folder has a folder for the task. Otherwise it is the task's own function
    `load`, or the hub.

    Raises:
        ValueError: a folder, file or column is missing; or a row has no text, or a label that is not one of the
            classes, unless the task skips such rows.
    """
    return read_split(task, split_name).examples


def read_split(task: Task, split_name: str) -> Split:
    """Return one split as `load_split` reads it, with the rows that were skipped."""
    if task.division is None:
        return _make_split(task, split_name, *_read_rows(task, split_name))
    undivided_split = _make_split(task, Path(task.division.file).name, *_read_rows(task, task.division.file))
    reported_ids = _reported_ids(undivided_split.examples, task.division)
    is_reported_split = split_name == task.report
    examples = [example for example in undivided_split.examples if (example.id in reported_ids) == is_reported_split]
    return Split(examples, undivided_split.file, undivided_split.row_count, undivided_split.skipped_labels)


def _read_rows(task: Task, split_name: str) -> tuple[Sequence[Row], str]:
    """Return the rows of a split, and how messages name their source."""
    data_dir = os.environ.get("LOPT_DATA_DIR")
    if data_dir and not Path(data_dir).is_dir():
        raise ValueError(f"LOPT_DATA_DIR is {data_dir!r}, which is not a folder; it should hold <task>/<split>.parquet")
    if data_dir and not Path(task.name).is_absolute() and (Path(data_dir) / task.name).is_dir():
        path = Path(data_dir) / task.name / f"{split_name}.parquet"
        if not path.is_file():
            files = sorted(str(file.relative_to(data_dir)) for file in Path(data_dir).glob("*/*.parquet"))
            raise ValueError(f"{path} does not exist; LOPT_DATA_DIR holds {', '.join(files) or 'no parquet file'}")
        rows, source = read_rows(path), str(path)
    elif task.load is not None:
        rows, source = task.load(split_name), f"{Path(task.name).name}/{split_name}"
    else:
        rows, source = _load_hub_rows(task, split_name)
    return list(rows), source


def _load_hub_rows(task: Task, split_name: str) -> tuple[Iterable[Row], str]:
    datasets = import_optional("datasets", f"loading task {task.name} from the hub needs")
    source = f"hub data set {'/'.join(task.hub)}, split {split_name}"
    try:
        return datasets.load_dataset(*task.hub, split=split_name), source
    except Exception as error:  # the hub's client raises exceptions of many types; the user needs one line
        reason = cut_after_word(" ".join(str(error).split()) or type(error).__name__)
        raise ValueError(
            f"{source} cannot be loaded ({reason}); set LOPT_DATA_DIR to a folder with "
            f"{task.name}/{split_name}.parquet, or use task movie_snippets, which needs no hub"
        ) from None


def _make_split(task: Task, file_name: str, rows: Sequence[Row], source: str) -> Split:
    """Return a split with its good rows as examples.

    Bad rows are skipped, or raise a ValueError that names the first one.
    """
    for column in (*task.columns, task.label):
        if rows and not any(column in row for row in rows):
            raise ValueError(f"{source} has no column {column!r}; it has {_describe_columns(rows[0])}")
    examples, skipped_labels, first_fault = [], [], ""
    numbers_of_groups: dict[Any, int] = {}
    for row_number, row in enumerate(rows):
        class_number = targets.class_number(task, row.get(task.label))
        if fault := _find_fault(task, row, class_number) or targets.find_group_fault(task, row):
            skipped_labels.append(class_number)
            first_fault = first_fault or f"{source}, row {row_number}{fault}"
        else:
            text_by_column = {column: row[column].strip() for column in task.columns}
            assert class_number is not None, "a row without a class has a fault"
            groups = targets.group_numbers(task, row, numbers_of_groups) if task.groups else None
            number = float(row[task.label]) if task.class_numbers else None
            examples.append(Example(row_number, text_by_column, class_number, groups, number))
    if skipped_labels and (task.bad_rows == "refuse" or not examples):
        can_skip = examples and tasks.is_from_folder(task)
        skip_hint = ' (bad_rows = "skip" in task.toml leaves them out)' if can_skip else ""
        raise ValueError(
            f"{len(skipped_labels):,} of {len(rows):,} rows cannot be used{skip_hint}; the first is {first_fault}"
        )
    return Split(examples, file_name, len(rows), tuple(skipped_labels))


def _describe_columns(row: Row) -> str:
    """Return the names of a row's columns, with advice if the file does not separate its columns by commas."""
    column_names = ", ".join(map(str, row))
    for separator, separator_name in ((";", "semicolons"), ("\t", "tabs")):
        if len(row) == 1 and separator in column_names:
            return f"{column_names}, separated by {separator_name}: save the file with commas"
    return column_names


def _find_fault(task: Task, row: Row, class_number: int | None) -> str:
    """Return why a row cannot be used, as a text that follows the row's number. It is empty for a good row."""
    for column in (*task.columns, task.label):
        if column not in row:
            return f" has no column {column!r}; it has {', '.join(map(str, row))}"
    for column in task.columns:
        text = row[column]
        if not isinstance(text, str) or not text.strip() or not tasks.is_utf8(text):
            return f": `{column}` is {short_repr(text)}; give text, or remove the row"
    if class_number is None:
        return f": `{task.label}` is {short_repr(row[task.label])}; valid: {targets.valid_labels(task)}"
    return ""


def _reported_ids(examples: Sequence[Example], division: Division) -> set[int]:
    """Return the ids of those examples of a task's one file that belong to the reported split.

    These are about `division.share` of each class. A hash of the texts chooses them, so the order of the rows does not
    matter. Examples with equal texts stay together, so no text is in both splits. A class with two or more different
    texts has examples in both.
    """
    examples_by_text: dict[str, list[Example]] = {}
    for example in examples:
        examples_by_text.setdefault(_unit_of_division(example), []).append(example)
    groups_by_class: dict[int, list[tuple[str, list[Example]]]] = {}
    for text, group_examples in examples_by_text.items():
        digest = hashlib.sha256(f"{division.seed} {text}".encode()).hexdigest()
        groups_by_class.setdefault(min(example.class_number for example in group_examples), []).append(
            (digest, group_examples)
        )
    reported_ids: set[int] = set()
    for class_groups in groups_by_class.values():
        class_size = sum(len(group_examples) for _, group_examples in class_groups)
        wanted_count, taken_count, remaining_group_count = (
            max(1, round(division.share * class_size)),
            0,
            len(class_groups),
        )
        for _, group_examples in sorted(class_groups, key=lambda item: item[0]):
            # Take the group if that brings the count closer to the wanted one.
            if remaining_group_count > 1 and taken_count + len(group_examples) / 2 <= wanted_count:
                reported_ids.update(example.id for example in group_examples)
                taken_count += len(group_examples)
                remaining_group_count -= 1
    return reported_ids


def _unit_of_division(example: Example) -> str:
    """Return a text that examples share if they must stay together: their cluster, else what they read."""
    if example.groups is not None:
        return str(example.groups[0])
    return _normalise(" ".join(example.text_by_column.values()))


def _normalise(text: str) -> str:
    """Return a text in lower case without punctuation and repeated blanks, so that duplicates are equal.

    A text of punctuation alone is returned as it is.
    """
    return re.sub(r"\W+", " ", text.lower()).strip() or text
