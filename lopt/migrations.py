"""Makes older records readable: one migration for each older schema, and the settings that older trials lack.

A change of the record's schema adds a function to `MIGRATIONS`. A new setting of a trial goes into `LATER_SETTINGS`,
and a new option of a method into `LATER_OPTIONS`, each with the value that gives the earlier behaviour.
"""

from collections.abc import Callable, Mapping
from typing import Any

# A setting or option with its value here is left out of the hash of a trial. So the trials of older records keep their
# keys.
LATER_SETTINGS = {
    "warmup": 0.0, "shots": None, "holdout": "train", "metric": "accuracy", "dropout": 0.0, "restarts": 0,
    "held_out_examples": None,
}  # fmt: skip
LATER_OPTIONS = {
    "placement": "prefix", "unit": "absolute", "init": "uniform", "activation": "elu", "adam_eps": 1e-8,
    "targets": None,
}  # fmt: skip


class NewerSchemaError(ValueError):
    """The record was written by a newer version of this program."""


def migrate_from_schema_1(record: Mapping[str, Any]) -> dict[str, Any]:
    """Add what schema 2 brought: the hash of an evaluation's predictions."""
    evaluations = [{"predictions": None, **evaluation} for evaluation in record.get("evaluations") or ()]
    return {**record, "evaluations": evaluations}


def migrate_from_schema_2(record: Mapping[str, Any]) -> dict[str, Any]:
    """Add what schema 3 brought: the cost of a trial in seconds of its device and in memory."""
    cost_fields = ("train_time_s", "evaluation_time_s", "test_time_s", "peak_memory_bytes")
    return {**dict.fromkeys(cost_fields), **record}


def migrate_from_schema_3(record: Mapping[str, Any]) -> dict[str, Any]:
    """Add what schema 4 brought: the scores on the whole held-out part, and the abandoned starts."""
    held_out_fields = ("held_out_accuracy", "held_out_macro_f1", "held_out_loss", "held_out_n")
    return {**dict.fromkeys(held_out_fields), "abandoned_starts": 0, "abandoned_steps": 0, **record}


def migrate_from_schema_4(record: Mapping[str, Any]) -> dict[str, Any]:
    """Add what schema 5 brought: the values of metrics other than accuracy and macro-F1."""
    evaluations = [{"selection_scores": {}, **evaluation} for evaluation in record.get("evaluations") or ()]
    return {"held_out_scores": {}, "test_scores": {}, **record, "evaluations": evaluations}


MIGRATIONS: tuple[Callable[[Mapping[str, Any]], dict[str, Any]], ...] = (
    migrate_from_schema_1,
    migrate_from_schema_2,
    migrate_from_schema_3,
    migrate_from_schema_4,
)
SCHEMA_VERSION = len(MIGRATIONS) + 1


def migrate(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a record, read from JSON, with the fields of the current schema. `schema_version` stays as it was written.

    Raises:
        NewerSchemaError: the schema is newer than this program.
        ValueError: the record does not name a valid schema.
    """
    record_schema = record.get("schema_version")
    if not isinstance(record_schema, int) or not 1 <= record_schema <= SCHEMA_VERSION:
        is_newer = isinstance(record_schema, int) and record_schema > SCHEMA_VERSION
        raise (NewerSchemaError if is_newer else ValueError)(
            f"record of schema {record_schema!r}; this program reads 1 to {SCHEMA_VERSION}"
        )
    for migration in MIGRATIONS[record_schema - 1 :]:
        record = migration(record)
    return record


def drop_later_defaults(values: Mapping[str, Any], later_defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings or options without those whose value equals the one in `later_defaults`."""
    return {
        name: value for name, value in values.items() if name not in later_defaults or value != later_defaults[name]
    }
