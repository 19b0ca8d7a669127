"""The user's own task: a folder with a `task.toml` and one file a split (Parquet, CSV or JSON lines).

title = "Support tickets"                      # optional: the folder's name
columns = ["subject", "body"]                  # text columns
label = "queue"                                # column of the class; optional: "label"
classes = ["billing", "bug", "other"]          # values of that column, or the names of 0, 1, 2
template = "{subject}: {body} This is about"   # the label is read after it, or where {mask} stands
label_words = [" money", " errors", " other"]  # one a class, with its leading space
cut = "body"                                   # loses text when an input is too long; optional: the last column
train = "train.csv"                            # .parquet, .csv or .jsonl, beside task.toml
report = "test.csv"                            # scored once, at the end
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from lopt.registry import nearest
from lopt.rows import rows_of
from lopt.tasks import Row, Task

FILE, LABEL = "task.toml", "label"
_REQUIRED = ("columns", "classes", "template", "label_words", "train", "report")
_KEYS = (*_REQUIRED, "title", "label", "cut")
_LISTS = ("columns", "classes", "label_words")


def task_of(folder: Path) -> Task:
    """The task that a folder describes.

    Raises:
        ValueError: no task.toml, one that cannot be read, or an entry that is missing, unknown or invalid.
    """
    file = folder / FILE
    if not os.path.isfile(file):  # unlike Path's own, it bears a path that cannot be one
        raise ValueError(f"task {str(folder)!r} is no folder with a {FILE}; it names {', '.join(_REQUIRED)}")
    try:
        return _parsed(folder.resolve(), file.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None


@lru_cache(maxsize=16)
def _parsed(folder: Path, text: str) -> Task:
    file = folder / FILE
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # the second: lists in lists in lists
        raise ValueError(f"{file} cannot be read: {error}") from None
    for key in found:
        if key not in _KEYS:
            raise ValueError(f"{file}: unknown entry {key!r}; valid: {', '.join(_KEYS)}.{nearest(key, _KEYS)}")
    missing = [key for key in _REQUIRED if key not in found]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}; it needs {', '.join(_REQUIRED)}")
    for key, value in found.items():
        if key in _LISTS:
            if not isinstance(value, list) or not value or not all(isinstance(v, str) and v for v in value):
                raise ValueError(f"{file}: {key} is {value!r}; give a list of texts")
            if len(set(value)) < len(value):
                raise ValueError(f"{file}: {key} is {value!r}; each may stand there once")
        elif not isinstance(value, str) or not value.strip() or (key == "title" and len(value.splitlines()) > 1):
            raise ValueError(f"{file}: {key} is {value!r}; give text{' of one line' if key == 'title' else ''}")
    if len(found["classes"]) < 2:
        raise ValueError(f"{file}: classes is {found['classes']!r}; give two or more")
    for name in found["classes"]:
        if name != name.strip():  # as labels are read
            raise ValueError(f"{file}: class {name!r} begins or ends with a blank; leave that out")
    for column in found["columns"]:
        if column == "mask" or column.isdecimal() or set(column) & set("{}[].!:"):
            raise ValueError(
                f"{file}: column {column!r} cannot stand in a template; rename it (no digits alone, no {{}}[].!:)"
            )
    if found.get("label", LABEL) in found["columns"]:
        raise ValueError(
            f"{file}: label is {found.get('label', LABEL)!r}, which columns names as text; give another column"
        )
    cut = found.get("cut", found["columns"][-1])
    if cut not in found["columns"]:
        raise ValueError(f"{file}: cut is {cut!r}; valid: {', '.join(found['columns'])}")
    if (folder / found["train"]).resolve() == (folder / found["report"]).resolve():
        raise ValueError(
            f"{file}: train and report are both {found['train']!r}; report on text that was not trained on"
        )
    task = Task(
        name=str(folder),
        title=found.get("title", folder.name),
        columns=tuple(found["columns"]),
        classes=tuple(found["classes"]),
        template=found["template"],
        label_words=tuple(found["label_words"]),
        cut=cut,
        label=found.get("label", LABEL),
        train=found["train"],
        report=found["report"],
        load=lambda split: _named_rows(folder / split),
    )
    try:
        task.check_verbalizer(task.template, task.label_words)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return task


def _named_rows(path: Path) -> Iterable[Row]:
    if not os.path.isfile(path):
        raise ValueError(f"{path} does not exist; {FILE} beside it names it")
    return rows_of(path)
