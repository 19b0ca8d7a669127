"""Reads the rows of a file in Parquet, CSV or JSON lines. The suffix of the file tells the format."""

import codecs
import csv
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lopt.errors import import_optional
from lopt.files import refuse_lfs_pointer

_SAVE_AS_UTF8 = "save the file as UTF-8"
csv.field_size_limit(sys.maxsize)  # the default limit would refuse texts of more than 131,072 characters


def read_rows(path: Path) -> Iterable[Mapping[str, Any]]:
    """Return the rows of a file.

    Raises:
        ValueError: the file does not exist, has another suffix, cannot be read, or has no rows.
    """
    if not os.path.isfile(path):
        raise ValueError(f"{path} does not exist")
    refuse_lfs_pointer(path)
    readers = {".parquet": _read_parquet, ".csv": _read_csv, ".jsonl": _read_json_lines}
    if path.suffix not in readers:
        suffix = f"the suffix {path.suffix}" if path.suffix else "no suffix"
        raise ValueError(f"{path} has {suffix}; valid: {', '.join(readers)}")
    rows = list(readers[path.suffix](path))
    if not rows:
        raise ValueError(f"{path} holds no rows")
    return rows


def _read_parquet(path: Path) -> Iterable[Mapping[str, Any]]:
    parquet = import_optional("pyarrow.parquet", f"reading {path} needs")
    try:
        table = parquet.read_table(path)
        rows = table.to_pylist()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    except Exception as error:  # for a damaged file, the parts of pyarrow raise exceptions of many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is not a Parquet file ({reason}): copy it again") from None
    _refuse_repeated_columns(table.schema.names, str(path))
    return rows


def _refuse_repeated_columns(columns: Sequence[str], source: str) -> None:
    """Raise ValueError when two columns have the same name, since one would hide the other."""
    if len(set(columns)) < len(columns):
        repeated = next(column for column in columns if columns.count(column) > 1)
        raise ValueError(f"{source} has two columns {repeated!r}; rename or remove one of them")


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object from its pairs of name and value. Raise ValueError if two pairs have the same name."""
    _refuse_repeated_columns([name for name, _ in pairs], "its object")
    return dict(pairs)


def _read_csv(path: Path) -> Iterable[Mapping[str, Any]]:
    row_start_line = 1  # the line on which the row that is being read begins
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            _refuse_repeated_columns(reader.fieldnames or (), str(path))
            if any("\0" in column for column in reader.fieldnames or ()):
                raise ValueError(f"{path} is not a CSV file in UTF-8 (line 1 holds zero bytes: {_SAVE_AS_UTF8})")
            row_start_line = reader.line_num + 1
            for row in reader:
                if None in row or None in row.values():  # DictReader marks extra and missing fields with None
                    raise ValueError(
                        f"{path}, line {reader.line_num} has a different number of fields than the first line; put "
                        "quotes around a text that holds commas"
                    )
                yield row
                row_start_line = reader.line_num + 1
    except csv.Error as error:
        is_unclosed = "unexpected end" in str(error)
        reason = "a quote in the row that begins on this line is not closed" if is_unclosed else error
        raise ValueError(f"{path} is not a CSV file in UTF-8 (line {row_start_line}: {reason})") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a CSV file in UTF-8 ({_describe_encoding_error(path)})") from None


def _describe_encoding_error(path: Path) -> str:
    """Return a text that says where a file is not UTF-8, and what the user can do."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return f"line 1: it begins with byte 0x{content[0]:02x}, as UTF-16 does; {_SAVE_AS_UTF8}"
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line_number = content[: error.start].count(b"\n") + 1
        return f"line {line_number}: byte 0x{content[error.start]:02x}, {error.reason}; {_SAVE_AS_UTF8}"
    return "it changed while it was read; try again"


def _read_json_lines(path: Path) -> Iterable[Mapping[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines would also split at other line ends
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8 ({_describe_encoding_error(path)})") from None
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line, object_pairs_hook=_make_object)
        except json.JSONDecodeError as error:  # str(error) counts lines within this one line
            reason = f"it holds zero bytes: {_SAVE_AS_UTF8}" if "\0" in line else f"{error.msg} at column {error.colno}"
            raise ValueError(f"{path}, line {line_number} is not valid JSON ({reason})") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {line_number} cannot be used ({error})") from None
        if not isinstance(row, Mapping):
            raise ValueError(f"{path}, line {line_number} is not a JSON object")
        yield row
