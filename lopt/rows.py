"""Rows of a file: Parquet, CSV or JSON lines, by its suffix."""

import codecs
import csv
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lopt.errors import imported
from lopt.files import refuse_pointer

_RESAVE = "save the file as UTF-8"
csv.field_size_limit(sys.maxsize)  # a text of more than 131,072 characters is a text


def rows_of(path: Path) -> Iterable[Mapping[str, Any]]:
    """Rows of a file, by its suffix; ValueError for no file, one of another kind, or one that cannot be read."""
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
    parquet = imported("pyarrow.parquet", f"reading {path} needs")
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
    begins = 1  # the line on which the row begins that is read
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            _refuse_repeated(reader.fieldnames or (), str(path))
            if any("\0" in name for name in reader.fieldnames or ()):
                raise ValueError(f"{path} is no CSV file in UTF-8 (line 1 holds zero bytes: {_RESAVE})")
            begins = reader.line_num + 1
            for row in reader:
                if None in row or None in row.values():
                    raise ValueError(
                        f"{path}, line {reader.line_num}: it has another number of fields than the first line"
                    )
                yield row
                begins = reader.line_num + 1
    except csv.Error as error:
        unclosed = "unexpected end" in str(error)
        reason = "a quote in the row that begins there is not closed" if unclosed else error
        raise ValueError(f"{path} is no CSV file in UTF-8 (line {begins}: {reason})") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no CSV file in UTF-8 ({_undecodable(path)})") from None


def _undecodable(path: Path) -> str:
    """Where a file is not in UTF-8, and what to do."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return f"line 1: it begins with byte 0x{content[0]:02x}, as UTF-16 does; {_RESAVE}"
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        return f"line {line}: byte 0x{content[error.start]:02x}, {error.reason}; {_RESAVE}"
    return "it has changed while it was read"


def _json_lines(path: Path) -> Iterable[Mapping[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: a text may hold other line ends
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8 ({_undecodable(path)})") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line, object_pairs_hook=_object)
        except json.JSONDecodeError as error:  # its own text counts lines within the line
            reason = f"it holds zero bytes: {_RESAVE}" if "\0" in line else f"{error.msg} at column {error.colno}"
            raise ValueError(f"{path}, line {number} is no JSON ({reason})") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} is no JSON ({error})") from None
        if not isinstance(row, Mapping):
            raise ValueError(f"{path}, line {number} is no JSON object")
        yield row
