"""Inputs of `python -m lopt predict`: texts of the command line, or the rows of a file, as columns of a task."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lopt.encoding import as_fields
from lopt.errors import shortened
from lopt.rows import rows_of
from lopt.tasks import Task, in_utf8

FILES = (".txt", ".csv", ".jsonl", ".parquet")


def of_texts(texts: Iterable[str], task: Task) -> list[dict[str, str]]:
    """The task's columns of each `--text`; ValueError names one that cannot be read."""
    return [_columns(f"--text {shortened(text, 40)!r}", text, task) for text in texts]


def _columns(where: str, text: str, task: Task) -> dict[str, str]:
    if len(task.columns) == 1:
        return _fields(where, {task.columns[0]: text}, task)
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, Mapping):
        form = json.dumps(dict.fromkeys(task.columns, "…"), ensure_ascii=False)
        raise ValueError(f"{where}: task {task.name} reads several columns; give a JSON object: {form}")
    return _fields(where, row, task)


def of_file(path: Path, task: Task) -> list[dict[str, str]]:
    """The task's columns of each row of a file; ValueError names a row that cannot be read, or a line of text. Both
    count from 1."""
    if not path.is_file():
        raise ValueError(f"--file {path} does not exist")
    if path.suffix not in FILES:
        raise ValueError(f"--file {path} ends in {path.suffix or 'nothing'}; valid: {', '.join(FILES)}")
    if path.suffix != ".txt":
        return [_fields(f"{path}, row {n}", row, task) for n, row in enumerate(rows_of(path), start=1)]
    if len(task.columns) > 1:
        raise ValueError(
            f"{path} holds one text a line, but task {task.name} reads {', '.join(task.columns)}: give .csv, .jsonl "
            "or .parquet with these columns"
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error})") from None
    return [_fields(f"{path}, line {n}", {task.columns[0]: line}, task) for n, line in enumerate(lines, start=1)]


def _fields(where: str, row: Mapping[str, Any], task: Task) -> dict[str, str]:
    """The task's columns of one row. ValueError names the row that lacks one, or whose text is none."""
    for column in task.columns:
        if column not in row:
            raise ValueError(f"{where} has no column {column!r}; it has {', '.join(map(str, row)) or 'none'}")
    try:
        fields = as_fields(task, row)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if not all(map(in_utf8, fields.values())):
        raise ValueError(f"{where} is no text in UTF-8")
    return fields
