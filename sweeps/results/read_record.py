"""Read a trial's record, `trials/<key>.json`. A file that is not a valid record is reported as damaged."""

import json
import re
from typing import Any

from lopt.config import TrialConfig, key_of_values
from lopt.errors import to_one_line
from lopt.locations import Location, read_files
from lopt.migrations import NewerSchemaError
from lopt.records import TrialRecord
from sweeps.results.json_types import check_type

NEWER_VERSION_ADVICE = "use the version of this program that wrote the run"


class DamagedRecordError(ValueError):
    """A file does not contain a valid record. The message says why, in one line."""


def check_key(key: str) -> str:
    """Check that a text is the key of a trial, so that it cannot lead out of the run's folder, and return it.

    Raises:
        ValueError: It is not a key.
    """
    if not re.fullmatch(r"[0-9a-f]{16}", key):
        raise ValueError(f"trial key {key!r} is not valid: give 16 hexadecimal digits (0-9, a-f)")
    return key


def read_records(folder: Location) -> tuple[list[TrialRecord], list[tuple[Any, DamagedRecordError]]]:
    """Return the records in a folder, oldest first, and the damaged files with their errors.

    Raises:
        NewerSchemaError: A newer version of this program wrote one of the records.
        OSError: A file cannot be read.
    """
    records, damaged_files = [], []
    name_pattern = r"[0-9a-f]{16}\.json"  # files with other names have been set aside
    paths = [path for path in folder.glob("*.json") if re.fullmatch(name_pattern, path.name)]
    paths.sort(key=lambda path: path.name)
    for path, content in read_files(paths):
        if isinstance(content, FileNotFoundError):  # the command that holds the run has just set the file aside
            continue
        if isinstance(content, OSError):
            raise content
        try:
            records.append(parse_record(path, content))
        except DamagedRecordError as error:
            damaged_files.append((path, error))
    return sorted(records, key=lambda record: (record.started_at, record.key)), damaged_files


def parse_record(path: Location, content: bytes) -> TrialRecord:
    """Return the record in the content of a file.

    A record is damaged if, for example, values have wrong types, a complete trial has no accuracy, or the file's name,
    the key and the configuration do not match. Whether the trial can be run here is not checked: its method or
    the folder of its task may be missing.

    Raises:
        NewerSchemaError: A newer version of this program wrote the record.
        DamagedRecordError: The record is damaged.
    """
    try:
        text = content.decode("utf-8-sig")
        values = check_type("a record", _DECODER.decode(text), dict)
        record = TrialRecord.from_dict(values)
        check_type("`options`", record.config.get("options", {}), dict)
        if "\\ud" in text or "\\uD" in text:
            # A lone half of a surrogate pair fits into no table and cannot be printed.
            json.dumps(record.to_dict(), ensure_ascii=False).encode()
        if record.status == "complete" and record.selection_accuracy is None:
            raise ValueError("the trial is complete, but its `selection_accuracy` is missing")
        if not path.name == f"{record.key}.json" == f"{key_of_values(record.config)}.json":
            raise ValueError("its name, its key and its configuration do not match")
        return record
    except NewerSchemaError as error:
        raise NewerSchemaError(f"{path}: {error}; {NEWER_VERSION_ADVICE}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DamagedRecordError(to_one_line(f"not JSON: {error}")) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedRecordError(to_one_line(error)) from None


def config_of(record: TrialRecord) -> TrialConfig:
    """Return the configuration of a record.

    Raises:
        ValueError: The trial cannot be run here. The message names the file.
    """
    try:
        return TrialConfig.from_dict(record.config)
    except ValueError as error:
        raise ValueError(
            f"trials/{record.key}.json cannot be run here ({error}): restore what is missing, "
            "or give --name for a new run"
        ) from None


def _parse_integer(digits: str) -> int:
    if len(digits) > 18:  # too large for tables and for Optuna
        raise ValueError(f"the number {digits[:9]}… is too large")
    return int(digits)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


_DECODER = json.JSONDecoder(parse_int=_parse_integer, parse_constant=_refuse_constant)
