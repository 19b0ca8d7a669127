"""Rows of a file: Parquet, CSV or JSON lines, by its suffix."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lopt.files import refuse_pointer

csv.field_size_limit(sys.maxsize)  # a text of more than 131,072 characters is a text


def rows_of(path: Path) -> Iterable[Mapping[str, Any]]:
    """Rows of a file, by its suffix.

    Raises:
        ValueError: no such file, another kind of file, or one that cannot be read.
    """
    if not os.path.isfile(path):
        raise ValueError(f"{path} does not exist")
    refuse_pointer(path)
    readers = {".parquet": _parquet, ".csv": _csv, ".jsonl": _json_lines}
    if path.suffix not in readers:
        raise ValueError(f"{path} ends in {path.suffix or 'nothing'}; valid: {', '.join(readers)}")
    rows = list(readers[path.suffix](path))
    if not rows:
        raise ValueError(f"{path} holds no rows")
    return rows


def _parquet(path: Path) -> Iterable[Mapping[str, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ValueError(f"reading {path} needs the package pyarrow: pip install pyarrow") from None
    try:
        table = parquet.read_table(path)
        rows = table.to_pylist()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    except Exception as error:  # a damaged file raises whatever the part of pyarrow that meets the damage raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is no Parquet file ({reason}): copy it again") from None
    _refuse_repeated(table.schema.names, str(path))
    return rows


def _refuse_repeated(names: Sequence[str], where: str) -> None:
    """Of two columns of one name, one would hide the other."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{where} has two columns {twice!r}; rename or remove one of them")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _refuse_repeated([name for name, _ in pairs], "its object")
    return dict(pairs)


def _csv(path: Path) -> Iterable[Mapping[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            _refuse_repeated(reader.fieldnames or (), str(path))
            for row in reader:
                if None in row or None in row.values():
                    raise ValueError(
                        f"{path}, line {reader.line_num}: it has another number of fields than the first line"
                    )
                yield row
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8 ({error})") from None


def _json_lines(path: Path) -> Iterable[Mapping[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: a text may hold other line ends
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error})") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} is no JSON ({error})") from None
        if not isinstance(row, Mapping):
            raise ValueError(f"{path}, line {number} is no JSON object")
        yield row
