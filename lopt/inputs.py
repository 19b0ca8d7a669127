"""Reads the inputs of `python -m lopt predict`: texts of the command line, or rows of a file. Each input becomes a
dictionary of the task's columns, with the text of each."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lopt.encoding import check_fields
from lopt.errors import cut_to_length
from lopt.rows import read_rows
from lopt.tasks import Task, is_utf8

_VALID_SUFFIXES = (".txt", ".csv", ".jsonl", ".parquet")


def inputs_from_texts(texts: Iterable[str], task: Task) -> list[dict[str, str]]:
    """Return the task's columns of each `--text`. If a text cannot be used, raise a ValueError that quotes it."""
    return [_columns_of_text(f"--text {cut_to_length(text, 40)!r}", text, task) for text in texts]


def _columns_of_text(input_name: str, text: str, task: Task) -> dict[str, str]:
    """Return the task's columns of a text of the command line. Errors call the input `input_name`."""
    if len(task.columns) == 1:
        return _columns_of_row(input_name, {task.columns[0]: text}, task)
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, Mapping):
        example = json.dumps(dict.fromkeys(task.columns, "…"), ensure_ascii=False)
        raise ValueError(f"{input_name}: task {task.name} reads several columns; give a JSON object: {example}")
    return _columns_of_row(input_name, row, task)


def inputs_from_file(path: Path, task: Task) -> list[dict[str, str]]:
    """Return the task's columns of each row of a file, or of each line of a .txt file. If one cannot be used, raise a
    ValueError with its number, counted from 1."""
    if not path.is_file():
        raise ValueError(f"--file {path} does not exist")
    if path.suffix not in _VALID_SUFFIXES:
        suffix_text = f"ends in {path.suffix}" if path.suffix else "has no suffix"
        raise ValueError(f"--file {path} {suffix_text}; valid: {', '.join(_VALID_SUFFIXES)}")
    if path.suffix != ".txt":
        rows = enumerate(read_rows(path), start=1)
        return [_columns_of_row(f"{path}, row {number}", row, task) for number, row in rows]
    if len(task.columns) > 1:
        raise ValueError(
            f"{path} holds one text per line, but task {task.name} reads {', '.join(task.columns)}: give a .csv, "
            ".jsonl or .parquet file with these columns"
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error})") from None
    return [
        _columns_of_row(f"{path}, line {number}", {task.columns[0]: line}, task)
        for number, line in enumerate(lines, start=1)
    ]


def _columns_of_row(input_name: str, row: Mapping[str, Any], task: Task) -> dict[str, str]:
    """Return the task's columns of one row. ValueErrors for missing columns and bad texts begin with `input_name`."""
    for column in task.columns:
        if column not in row:
            raise ValueError(f"{input_name} has no column {column!r}; it has {', '.join(map(str, row)) or 'none'}")
    try:
        fields = check_fields(task, row)
    except ValueError as error:
        raise ValueError(f"{input_name}: {error}") from None
    if not all(map(is_utf8, fields.values())):
        raise ValueError(f"{input_name} is not text in UTF-8")
    return fields
