"""Rows of a file: Parquet, CSV or JSON lines, by its suffix."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def rows_of(path: Path) -> Iterable[Mapping[str, Any]]:
    """Rows of a file, by its suffix.

    Raises:
        ValueError: no such file, another kind of file, or one that cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
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
        return parquet.read_table(path).to_pylist()
    except OSError as error:  # pyarrow's ArrowInvalid for a damaged file is a ValueError already
        raise ValueError(f"{path} cannot be read: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path} is no Parquet file ({str(error).splitlines()[0]}): copy it again") from None


def _csv(path: Path) -> Iterable[Mapping[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
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
            row: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is no JSON ({error})") from None
        if not isinstance(row, Mapping):
            raise ValueError(f"{path}, line {number} is no JSON object")
        yield row
