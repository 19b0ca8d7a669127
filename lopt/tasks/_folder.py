"""The user's own task: a folder with a `task.toml` and its rows (Parquet, CSV or JSON lines).

title = "Support tickets"                      # optional: the folder's name
columns = ["subject", "body"]                  # text columns
label = "queue"                                # column of the class; optional: "label"
classes = ["billing", "bug", "other"]          # values of that column, or the names of 0, 1, 2
template = "{subject}: {body} This is about"   # the label is read after it, or where {mask} stands
label_words = [" money", " errors", " other"]  # one a class, with its leading space
cut = "body"                                   # loses text when an input is too long; optional: the last column
train = "train.csv"                            # .parquet, .csv or .jsonl, beside task.toml
report = "test.csv"                            # scored once, at the end
bad_rows = "skip"                              # rows without text or class: skip, or refuse; optional: "refuse"

or, in place of train and report, one file that is divided:

data = "all.csv"
report_share = 0.2                             # of each class; optional: 0.2
split_seed = 0                                 # another number divides otherwise; optional: 0
"""

import os
import tomllib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from lopt.registry import nearest
from lopt.rows import rows_of
from lopt.tasks._task import Division, Row, Task

FILE, LABEL = "task.toml", "label"
_REQUIRED = ("columns", "classes", "template", "label_words")
_FILES, _DIVISION = ("train", "report"), ("data", "report_share", "split_seed")
_KEYS = (*_REQUIRED, *_FILES, "title", "label", "cut", "bad_rows", *_DIVISION)
_LISTS = ("columns", "classes", "label_words")
_MOST_SEED = 2**32 - 1
_BAD_ROWS = ("refuse", "skip")
_NEEDED = f"{', '.join((*_REQUIRED, *_FILES))} (or data, one file that is divided, in place of the last two)"


def task_of(folder: Path) -> Task:
    """The task that a folder describes; ValueError when there is no task.toml, it cannot be read, or an entry is
    missing, unknown or invalid."""
    file = folder / FILE
    if not os.path.isfile(file):  # unlike Path's own, it bears a path that cannot be one
        raise ValueError(f"task {str(folder)!r} is no folder with a {FILE}; it names {_NEEDED}")
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
    missing = [key for key in (*_REQUIRED, *(() if "data" in found else _FILES)) if key not in found]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}; it needs {_NEEDED}")
    for key, value in found.items():
        if key in _DIVISION[1:]:
            continue
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
    label, bad_rows = found.get("label", LABEL), found.get("bad_rows", "refuse")
    if label in found["columns"]:
        raise ValueError(f"{file}: label is {label!r}, which columns names as text; give another column")
    cut = found.get("cut", found["columns"][-1])
    if cut not in found["columns"]:
        raise ValueError(f"{file}: cut is {cut!r}; valid: {', '.join(found['columns'])}")
    if bad_rows not in _BAD_ROWS:
        raise ValueError(f"{file}: bad_rows is {bad_rows!r}; valid: {', '.join(_BAD_ROWS)}")
    divided = _division(file, found)
    if divided is None:
        train, report = found["train"], found["report"]
        if (folder / train).resolve() == (folder / report).resolve():
            raise ValueError(
                f"{file}: train and report are both {train!r}; report on text that was not trained on. To divide one "
                f"file, give data = {train!r} in their place"
            )
    else:  # splits are known by their names, so two halves may not have one
        file_name = Path(divided.file).name
        train = f"the other {_percent(1 - divided.share)} of {file_name}"
        report = f"{_percent(divided.share)} of {file_name}"
    task = Task(
        name=str(folder),
        title=found.get("title", folder.name),
        columns=tuple(found["columns"]),
        classes=tuple(found["classes"]),
        template=found["template"],
        label_words=tuple(found["label_words"]),
        cut=cut,
        label=label,
        train=train,
        report=report,
        load=lambda split: _named_rows(folder / split),
        divided=divided,
        bad_rows=bad_rows,
    )
    try:
        task.check_verbalizer(task.template, task.label_words)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return task


def _division(file: Path, found: Mapping[str, Any]) -> Division | None:
    """How the one file is divided; None for a task of two files."""
    other = next((key for key in (_FILES if "data" in found else _DIVISION[1:]) if key in found), None)
    if "data" not in found:
        if other:
            raise ValueError(
                f"{file}: {other} says how the one file data is divided, and there is no data; leave it out"
            )
        return None
    if other:
        raise ValueError(f"{file}: data is the one file that is divided, and {other} names another; leave one out")
    share, seed = found.get("report_share", 0.2), found.get("split_seed", 0)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise ValueError(f"{file}: report_share is {share!r}; give a number above 0 and below 1, such as 0.2")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= _MOST_SEED:
        raise ValueError(f"{file}: split_seed is {seed!r}; give a whole number, 0 to {_MOST_SEED:,}")
    return Division(file=found["data"], share=float(share), seed=seed)


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _named_rows(path: Path) -> Iterable[Row]:
    if not os.path.isfile(path):
        raise ValueError(f"{path} does not exist; {FILE} beside it names it")
    return rows_of(path)
