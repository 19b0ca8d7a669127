"""What came after the first records: one migration a schema, and the settings that older trials did not have.

A change of the record's schema adds a function to `MIGRATIONS`. A new setting of a trial, or a new option of a method,
goes into `SETTINGS` or `OPTIONS`, at the value that stands for what was done before.
"""

from collections.abc import Callable, Mapping
from typing import Any

# At these values, settings and options are left out of a trial's hash, so that older records keep their keys.
SETTINGS = {"warmup": 0.0, "shots": None, "holdout": "train", "metric": "accuracy", "dropout": 0.0}
OPTIONS = {"placement": "prefix", "init": "uniform", "activation": "elu", "adam_eps": 1e-8, "targets": None}


class NewerSchemaError(ValueError):
    """The record was written by a newer version of this program."""


def from_schema_1(record: Mapping[str, Any]) -> dict[str, Any]:
    """Schema 2 brought the hash of an evaluation's predictions."""
    evaluations = [{"predictions": None, **evaluation} for evaluation in record.get("evaluations") or ()]
    return {**record, "evaluations": evaluations}


def from_schema_2(record: Mapping[str, Any]) -> dict[str, Any]:
    """Schema 3 brought what a trial has cost: seconds of its device, and memory."""
    costs = ("train_time_s", "evaluation_time_s", "test_time_s", "peak_memory_bytes")
    return {**dict.fromkeys(costs), **record}


MIGRATIONS: tuple[Callable[[Mapping[str, Any]], dict[str, Any]], ...] = (from_schema_1, from_schema_2)
SCHEMA_VERSION = len(MIGRATIONS) + 1


def migrated(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record, as JSON has it, with the fields of today's schema. `schema_version` stays as it was written.
    NewerSchemaError when the schema is newer than this program, ValueError when it names none."""
    version = record.get("schema_version")
    if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        raise (NewerSchemaError if newer else ValueError)(
            f"record of schema {version!r}; this program reads 1 to {SCHEMA_VERSION}"
        )
    for migrate in MIGRATIONS[version - 1 :]:
        record = migrate(record)
    return record


def without_later(values: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Settings or options without those that came later and stand at the value of before."""
    return {name: value for name, value in values.items() if name not in later or value != later[name]}
