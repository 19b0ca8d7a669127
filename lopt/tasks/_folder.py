"""A user's own task: a folder with a `task.toml` and files of rows (Parquet, CSV or JSON lines). An example:

title = "Support tickets"                      # optional; default: the folder's name
columns = ["subject", "body"]                  # names of the text columns
label = "queue"                                # name of the column with the class; optional; default: "label"
classes = ["billing", "bug", "other"]          # values of that column, or names for its values 0, 1, 2
template = "{subject}: {body} This is about"   # the label is read after it, or at {mask}
label_words = [" money", " errors", " other"]  # one for each class, with a leading space
cut = "body"                                   # column that loses text in a long input; optional; default: the last
train = "train.csv"                            # .parquet, .csv or .jsonl, beside task.toml
report = "test.csv"                            # scored once, at the end
metric = "f1:bug"                              # selects and compares trials; optional; default: "accuracy"
reports = ["macro_f1"]                         # further metrics that records give; optional
groups = ["customer"]                          # columns whose values say which rows belong together; optional
bad_rows = "skip"                              # leaves out rows without text or class; optional; default: "refuse"

Instead of train and report, a task may name one file. This file is then divided:

data = "all.csv"
report_share = 0.2                             # share of each class that is reported on; optional; default: 0.2
split_seed = 0                                 # another seed gives another division; optional; default: 0
"""

import os
import tomllib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from lopt.registry import did_you_mean
from lopt.rows import read_rows
from lopt.tasks._task import Division, Row, Task

_TASK_FILE, _DEFAULT_LABEL = "task.toml", "label"
_REQUIRED_KEYS = ("columns", "classes", "template", "label_words")
_OPTIONAL_LISTS = ("reports", "groups")
_SPLIT_KEYS, _DIVISION_KEYS = ("train", "report"), ("report_share", "split_seed")
_VALID_KEYS = (*_REQUIRED_KEYS, *_SPLIT_KEYS, "title", "label", "cut", "bad_rows", "metric", *_OPTIONAL_LISTS, "data",
               *_DIVISION_KEYS)  # fmt: skip
_LIST_KEYS = ("columns", "classes", "label_words", *_OPTIONAL_LISTS)
_LARGEST_SEED = 2**32 - 1
_VALID_BAD_ROWS = ("refuse", "skip")
_NEEDED_ENTRIES = (
    f"{', '.join((*_REQUIRED_KEYS, *_SPLIT_KEYS))} (or, instead of the last two, `data`: one file to divide)"
)


def read_task_folder(folder: Path) -> Task:
    """Return the task that a folder describes.

    Raises:
        ValueError: there is no task.toml, it cannot be read, or an entry is missing, unknown or invalid.
    """
    task_file = folder / _TASK_FILE
    if not os.path.isfile(task_file):  # Path.is_file would raise for a name that cannot be a path
        raise ValueError(
            f"task {str(folder)!r} is not a folder with a {_TASK_FILE}; that file must have {_NEEDED_ENTRIES}"
        )
    try:
        return _parse_task(folder.resolve(), task_file.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{task_file} cannot be read: {error}") from None


@lru_cache(maxsize=16)
def _parse_task(folder: Path, toml_text: str) -> Task:
    task_file = folder / _TASK_FILE
    try:
        entries = tomllib.loads(toml_text)
    except (ValueError, RecursionError) as error:  # lists nested too deeply raise RecursionError
        raise ValueError(f"{task_file} cannot be read: {error}") from None
    for key in entries:
        if key not in _VALID_KEYS:
            raise ValueError(
                f"{task_file}: unknown entry {key!r}; valid: {', '.join(_VALID_KEYS)}.{did_you_mean(key, _VALID_KEYS)}"
            )
    missing_keys = [key for key in (*_REQUIRED_KEYS, *(() if "data" in entries else _SPLIT_KEYS)) if key not in entries]
    if missing_keys:
        raise ValueError(f"{task_file} lacks {', '.join(missing_keys)}; it needs {_NEEDED_ENTRIES}")
    for key, value in entries.items():
        if key in _DIVISION_KEYS:
            continue
        if key in _LIST_KEYS:
            if not isinstance(value, list) or not value or not all(isinstance(text, str) and text for text in value):
                raise ValueError(f"{task_file}: `{key}` is {value!r}; give a list of texts")
            if len(set(value)) < len(value):
                raise ValueError(f"{task_file}: `{key}` is {value!r}; give each text only once")
        elif not isinstance(value, str) or not value.strip() or (key == "title" and len(value.splitlines()) > 1):
            raise ValueError(f"{task_file}: `{key}` is {value!r}; give {'one line of ' if key == 'title' else ''}text")
    if len(entries["classes"]) < 2:
        raise ValueError(f"{task_file}: `classes` is {entries['classes']!r}; give two or more")
    for class_name in entries["classes"]:
        if class_name != class_name.strip():  # labels are read without surrounding blanks, so none would match
            raise ValueError(f"{task_file}: class {class_name!r} begins or ends with white space; remove it")
    for column in entries["columns"]:
        if column == "mask" or column.isdecimal() or set(column) & set("{}[].!:"):
            raise ValueError(
                f"{task_file}: column {column!r} cannot be a field of a template; rename it (a name may not be 'mask' "
                "or digits only, and may have none of {}[].!:)"
            )
    label, bad_rows = entries.get("label", _DEFAULT_LABEL), entries.get("bad_rows", "refuse")
    if label in entries["columns"]:
        raise ValueError(
            f"{task_file}: `label` is {label!r}, but `columns` lists it as a text column; give another column"
        )
    cut_column = entries.get("cut", entries["columns"][-1])
    if cut_column not in entries["columns"]:
        raise ValueError(f"{task_file}: `cut` is {cut_column!r}; valid: {', '.join(entries['columns'])}")
    if bad_rows not in _VALID_BAD_ROWS:
        raise ValueError(f"{task_file}: `bad_rows` is {bad_rows!r}; valid: {', '.join(_VALID_BAD_ROWS)}")
    division = _parse_division(task_file, entries)
    if division is None:
        train, report = entries["train"], entries["report"]
        if (folder / train).resolve() == (folder / report).resolve():
            raise ValueError(
                f"{task_file}: `train` and `report` are both {train!r}; report on text that was not trained on. To "
                f"divide one file, give data = {train!r} instead of both"
            )
    else:  # the two splits need different names; "the other" makes them differ when each is one half
        file_name = Path(division.file).name
        train = f"the other {_format_percent(1 - division.share)} of {file_name}"
        report = f"{_format_percent(division.share)} of {file_name}"
    from lopt import metrics  # imported here, because it brings numpy, which --help does not need

    task = Task(
        name=str(folder),
        title=entries.get("title", folder.name),
        columns=tuple(entries["columns"]),
        classes=tuple(entries["classes"]),
        template=entries["template"],
        label_words=tuple(entries["label_words"]),
        cut_column=cut_column,
        label=label,
        train=train,
        report=report,
        load=lambda split: _read_named_file(folder / split),
        division=division,
        bad_rows=bad_rows,
        metric=entries.get("metric", metrics.ACCURACY),
        reports=tuple(entries.get("reports", ())),
        groups=tuple(entries.get("groups", ())),
    )
    try:
        for name in (task.metric, *task.reports):
            metrics.get_for_task(name, task.classes, has_groups=bool(task.groups), has_numbers=False)
        task.check_verbalizer(task.template, task.label_words)
    except ValueError as error:
        raise ValueError(f"{task_file}: {error}") from None
    return task


def _parse_division(task_file: Path, entries: Mapping[str, Any]) -> Division | None:
    """Return how the one file of a task is divided, or None for a task of two files."""
    other_keys = _SPLIT_KEYS if "data" in entries else _DIVISION_KEYS
    conflicting_key = next((key for key in other_keys if key in entries), None)
    if "data" not in entries:
        if conflicting_key:
            raise ValueError(
                f"{task_file}: `{conflicting_key}` says how to divide the file that the entry `data` names, but there "
                f"is no entry `data`; add it, or remove `{conflicting_key}`"
            )
        return None
    if conflicting_key:
        raise ValueError(
            f"{task_file}: the entry `data` names one file to divide, and `{conflicting_key}` names another file; "
            "remove one of the two entries"
        )
    share, seed = entries.get("report_share", 0.2), entries.get("split_seed", 0)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise ValueError(f"{task_file}: `report_share` is {share!r}; give a number above 0 and below 1, such as 0.2")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= _LARGEST_SEED:
        raise ValueError(f"{task_file}: `split_seed` is {seed!r}; give a whole number, 0 to {_LARGEST_SEED:,}")
    return Division(file=entries["data"], share=float(share), seed=seed)


def _format_percent(share: float) -> str:
    return f"{100 * share:g} %"


def _read_named_file(path: Path) -> Iterable[Row]:
    if not os.path.isfile(path):
        raise ValueError(f"{path} does not exist, but the {_TASK_FILE} of its task names it")
    return read_rows(path)
