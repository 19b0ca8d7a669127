"""A trial's record as a file, `trials/<key>.json`: read whole, or said to be damaged."""

import json
import re
from typing import Any

from lopt.config import TrialConfig, key_of
from lopt.errors import one_line
from lopt.locations import Location, read_files
from lopt.migrations import NewerSchemaError
from lopt.records import TrialRecord
from sweeps.results.json_types import as_kind

USE_NEWER = "use the version of this program that wrote the run"


class Damaged(ValueError):
    """Why a file holds no record, in one line."""


def checked_key(key: str) -> str:
    """A trial's key, which cannot lead out of the run's folder."""
    if not re.fullmatch(r"[0-9a-f]{16}", key):
        raise ValueError(f"trial key {key!r}: 16 hexadecimal digits are valid")
    return key


def read_all(folder: Location) -> tuple[list[TrialRecord], list[tuple[Any, Damaged]]]:
    """The records in a folder, oldest first; and the files that are damaged, each with why.

    Raises:
        NewerSchemaError: a newer version of this program wrote one of them.
        OSError: one cannot be read.
    """
    found, damaged = [], []
    names = r"[0-9a-f]{16}\.json"  # others have been set aside
    wanted = sorted((p for p in folder.glob("*.json") if re.fullmatch(names, p.name)), key=lambda p: p.name)
    for path, content in read_files(wanted):
        if isinstance(content, FileNotFoundError):  # set aside, since it was listed, by the command that holds the run
            continue
        if isinstance(content, OSError):
            raise content
        try:
            found.append(parse(path, content))
        except Damaged as error:
            damaged.append((path, error))
    return sorted(found, key=lambda r: (r.started_at, r.key)), damaged


def parse(path: Location, content: bytes) -> TrialRecord:
    """The record in a file. Values of other kinds, and another configuration than the one of which its key was made,
    are damage. Whether that configuration can be run here is not asked: its method, or its task's folder, may be gone.

    Raises:
        NewerSchemaError: a newer version of this program wrote it.
        Damaged: it is damaged.
    """
    try:
        text = content.decode("utf-8-sig")
        values = as_kind("a record", _JSON.decode(text), dict)
        record = TrialRecord.from_dict(values)
        as_kind("options", record.config.get("options", {}), dict)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(record.to_dict(), ensure_ascii=False).encode()  # half characters fit no table and no terminal
        if record.status == "complete" and record.selection_accuracy is None:
            raise ValueError("a complete trial has a selection_accuracy")
        if not path.name == f"{record.key}.json" == f"{key_of(record.config)}.json":
            raise ValueError("its name, its key and its configuration do not belong together")
        return record
    except NewerSchemaError as error:
        raise NewerSchemaError(f"{path}: {error}; {USE_NEWER}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise Damaged(one_line(f"not JSON: {error}")) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged(one_line(error)) from None


def config_of(record: TrialRecord) -> TrialConfig:
    """A record's configuration.

    Raises:
        ValueError: it cannot be run here; names the file.
    """
    try:
        return TrialConfig.from_dict(record.config)
    except ValueError as error:
        raise ValueError(
            f"trials/{record.key}.json cannot be run here ({error}): restore what is missing, "
            "or give --name for a new run"
        ) from None


def _whole(digits: str) -> int:
    if len(digits) > 18:  # neither tables nor Optuna take it
        raise ValueError(f"{digits[:9]}… is no number that a trial can have")
    return int(digits)


def _constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


_JSON = json.JSONDecoder(parse_int=_whole, parse_constant=_constant)
