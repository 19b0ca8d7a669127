"""One record of the store, checked and flattened: accuracies are fractions, missing numbers are None."""

import hashlib
import json
import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import MISSING, dataclass
from functools import cache
from reprlib import repr as shortened
from typing import Any, TypeVar

from lopt.field_types import FieldType, field_types
from lopt.migrations import OPTIONS, SCHEMA_VERSION, SETTINGS, migrated, without_later
from lopt.records import PHASES, STATUSES, TrialRecord
from lopt.settings import TrialSettings

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)
_SCHEMAS = range(1, SCHEMA_VERSION + 1)
_OF_EXAMPLES = ("task", "data_revision")
_OF_SUBSET = ("data_seed", "test_examples")
_DRAWS = ("x0_seed", "projection_seed")  # of LoPT-2 and ULPT


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One look at the held-out examples, after `step` updates. Accuracy, score (by the trial's metric) and share are
    fractions."""

    step: int
    selection_accuracy: float | None
    selection_score: float | None
    top_class_share: float | None
    predictions: str | None  # hash of the predicted classes


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One record, flattened. Accuracies are fractions, names ending in `_s` seconds, in `_bytes` bytes; `run` is the
    folder of the run it lies in, `configuration` a hash of everything but the seed, `truncated` the number of texts
    that were cut to fit, and `tokens` those of prompt and text that were trained on. `selection_score` is the best
    evaluation by `metric`, which selected it among others."""

    key: str
    run: str
    phase: str
    status: str
    cell: str
    stratum: str  # within which early stopping compared it
    method: str
    backbone: str
    task: str
    length: int | None
    rank: int | None
    shots: int | None  # of a few-shot run
    learning_rate: float | None
    batch_size: int | None
    dropout: float
    update_tokens: int | None  # of DePT, s
    adam_eps: float | None
    seed: int | None
    frozen_draw: str | None  # the option that gives all seeds one frozen random matrix, with its value
    configuration: str
    trainable_parameters: int | None
    stored_parameters: int | None
    materialised_parameters: int | None
    steps: int | None
    max_steps: int | None
    metric: str
    selection_score: float | None
    selection_accuracy: float | None
    selection_loss: float | None
    selection_n: int | None
    test_accuracy: float | None
    test_macro_f1: float | None
    test_n: int | None
    test_split: str | None
    test_split_size: int | None
    scored_on: tuple[object, ...]  # what decides which examples it is scored on; equal ones are scored on the same
    holdout: str  # where the examples for selection come from: "train" or "validation"
    data_revision: str | None  # fingerprints of what was in a task or a model that may change under its name
    model_revision: str | None
    majority_accuracy: float | None
    wall_time_s: float | None
    train_time_s: float | None  # of its device; None in records of schemas 1 and 2
    evaluation_time_s: float | None
    test_time_s: float | None
    peak_memory_bytes: int | None  # of a trial that trained alone
    tokens: int | None
    protocol: str
    truncated: int  # texts of all parts
    test_truncated: int
    audited_at: int | None  # the step at which it would have been stopped, had it not run on to be audited
    reused_from: str | None  # the run that trained it, where that is another one
    dirty: bool
    commit: str
    error_type: str | None
    error_message: str | None
    evaluations: tuple[Evaluation, ...]

    @property
    def confirmed(self) -> bool:
        """Whether tables may show it as ours: a fresh-seed run to the end, scored on the reported split."""
        whole = self.phase == "confirm" and self.status == "complete"
        return whole and bool(self.test_n and self.test_accuracy is not None)

    @property
    def searched(self) -> bool:
        """Whether it is a search trial that ran to the end, with a score."""
        return self.phase == "search" and self.status == "complete" and self.selection_score is not None

    @property
    def frozen(self) -> bool:
        """Whether training changed nothing: every evaluation predicted one class only, or they are several and all
        predicted the same."""
        if not self.evaluations:
            return False
        said = {e.predictions for e in self.evaluations}
        same = len(self.evaluations) > 1 and len(said) == 1 and None not in said
        return same or all(e.top_class_share == 1.0 for e in self.evaluations)


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """The items by their keys, both in the order in which they come."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def row(record: dict[str, Any], run: str = "") -> Trial:
    """Flatten one record. Raises ValueError naming the field that is missing, of another kind or out of range."""
    check_schema(json_object(record, "a record"))
    mappings(record, "evaluations")  # else they cannot be migrated
    record = {**migrated(record)}
    config = {**SETTINGS, **mapping(record, "config")}
    provenance, error = optional_mapping(record, "provenance"), optional_mapping(record, "error")
    options, truncated = optional_mapping(config, "options"), optional_mapping(record, "truncated")
    cut = {part: integer(truncated, part) or 0 for part in truncated}
    for name, valid in (("phase", PHASES), ("status", STATUSES)):
        if record.get(name) not in valid:
            raise ValueError(f"{name} is {shortened(record.get(name))}, not one of {', '.join(valid)}")
    values = {**_shared(config, TrialSettings), **_shared(record, TrialRecord)}
    metric, accuracy = values["metric"], values["selection_accuracy"]
    evaluations = tuple(_evaluation(source, metric) for source in mappings(record, "evaluations"))
    best = (e.selection_score for e in evaluations if e.step == integer(record, "selection_step"))
    values |= {
        "run": run,
        "cell": str(record.get("cell") or record.get("stratum") or ""),
        "stratum": str(record.get("stratum") or record.get("cell") or ""),
        "backbone": text(config, "backbone"),
        "dropout": values["dropout"] or 0.0,
        "update_tokens": integer(options, "update_tokens"),
        "adam_eps": number(options, "adam_eps"),
        "frozen_draw": next((f"{name} = {options[name]}" for name in _DRAWS if options.get(name) is not None), None),
        "configuration": _configuration(config),
        "trainable_parameters": integer(record, "trainable_parameters", least=1),
        "selection_score": accuracy if metric == "accuracy" else next(best, None),
        "scored_on": _scored_on(record, config, values["holdout"]),
        "truncated": sum(cut.values()),
        "test_truncated": cut.get("test", 0),
        "audited_at": None,
        "reused_from": optional_text(provenance, "reused_from"),
        "dirty": bool(provenance.get("dirty")),
        "commit": str(provenance.get("commit") or ""),
        "error_type": str(error.get("type") or "unknown") if error else None,
        "error_message": str(error.get("message") or "") if error else None,
        "evaluations": evaluations,
    }
    return Trial(**values)


def check_schema(source: dict[str, Any]) -> None:
    """Raises ValueError when a newer version of this program wrote a file, or one that names no schema."""
    if (version := source.get("schema_version")) not in _SCHEMAS:
        raise ValueError(f"schema_version {version!r}, this report reads 1 to {SCHEMA_VERSION}")


def _shared(source: dict[str, Any], schema: type) -> dict[str, Any]:
    """The texts and numbers that a trial here has in common with a schema, by their names."""
    return {name: read(source, name) for name, read in _readers(schema).items()}


@cache
def _readers(schema: type) -> dict[str, Callable[[dict[str, Any], str], Any]]:
    fields = Trial.__dataclass_fields__
    return {name: _reader(kind) for name, kind in field_types(schema).items() if kind.plain and name in fields}


def _reader(kind: FieldType) -> Callable[[dict[str, Any], str], Any]:
    """What takes an entry of a kind out of an object; a text that is missing has its default, a number is None."""
    if kind.fraction:
        return fraction
    if str not in kind.types:
        return number if float in kind.types else integer
    if kind.default is MISSING:
        return text
    return lambda source, name: text(source, name) if source.get(name) not in (None, "") else kind.default


def _configuration(config: dict[str, Any]) -> str:
    """Hash of everything but the seed. Settings and options that came after the first records do not matter at the
    values that stand for what was done before, as in a trial's key."""
    settings = {name: value for name, value in config.items() if name not in ("seed", "options")}
    parts = without_later(settings, SETTINGS), without_later(optional_mapping(config, "options"), OPTIONS)
    said = [{name: value for name, value in part.items() if value is not None} for part in parts]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def _evaluation(source: dict[str, Any], metric: str) -> Evaluation:
    return Evaluation(
        step=integer(source, "step") or 0,
        selection_accuracy=fraction(source, "selection_accuracy"),
        selection_score=fraction(source, f"selection_{metric}"),
        top_class_share=fraction(source, "top_class_share"),
        predictions=optional_text(source, "predictions"),
    )


def _scored_on(record: dict[str, Any], config: dict[str, Any], holdout: str) -> tuple[object, ...]:
    reported = (record.get("test_split"), record.get("test_n"), holdout)
    whole = record.get("test_n") is not None and record.get("test_n") == record.get("test_split_size")
    drawn = () if whole else _OF_SUBSET  # of a whole split nothing is drawn
    return *map(str, reported), *(str(config.get(name)) for name in (*_OF_EXAMPLES, *drawn))


_KINDS = {list: "a list", str: "a text", bool: "a truth value", int: "a number", float: "a number", type(None): "null"}


def json_object(value: Any, what: str) -> dict[str, Any]:
    """A whole file's JSON, which must be an object; `what` names it, such as "a record". Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"not {what}: a JSON object is wanted, this is {_KINDS.get(type(value), 'something else')}")
    return value


# Each of these takes an entry out of a JSON object and raises ValueError, naming it, where it is of another kind.


def mapping(source: dict[str, Any], name: str) -> dict[str, Any]:
    """The object under a name, which must be there."""
    if not isinstance(value := source.get(name), dict):
        raise ValueError(f"{name} is {shortened(value)}, not an object")
    return value


def optional_mapping(source: dict[str, Any], name: str) -> dict[str, Any]:
    """The same, or an empty one where there is none."""
    return {} if source.get(name) is None else mapping(source, name)


def mappings(source: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The list of objects under a name, or an empty one where there is none."""
    return _list(source, name, dict, "objects")


def texts(source: dict[str, Any], name: str) -> list[str]:
    """The list of texts under a name, or an empty one where there is none."""
    return _list(source, name, str, "texts")


def _list(source: dict[str, Any], name: str, of: type, called: str) -> list[Any]:
    value = [] if source.get(name) is None else source[name]
    if not isinstance(value, list) or not all(isinstance(item, of) for item in value):
        raise ValueError(f"{name} is {shortened(value)}, not a list of {called}")
    return value


def text(source: dict[str, Any], name: str) -> str:
    """The text under a name, which must be there and not empty."""
    if not isinstance(value := source.get(name), str) or not value:
        raise ValueError(f"{name} is {shortened(value)}, not a text")
    return value


def optional_text(source: dict[str, Any], name: str) -> str | None:
    """The same, or None where there is none."""
    return None if source.get(name) is None else text(source, name)


def number(source: dict[str, Any], name: str) -> float | None:
    """The number under a name; None where there is none, or one that is infinite or no number."""
    value = source.get(name)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {shortened(value)}, not a number")
    return float(value)


def integer(source: dict[str, Any], name: str, least: int = 0) -> int | None:
    """The same of whole numbers, `least` or more."""
    if (value := number(source, name)) is None:
        return None
    if value < least or value != int(value):
        raise ValueError(f"{name} is {shortened(source[name])}, not a whole number of {least} or more")
    return int(value)


def fraction(source: dict[str, Any], name: str) -> float | None:
    """The same of numbers in [0, 1]."""
    if (value := number(source, name)) is not None and not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}, not a fraction in [0, 1]")
    return value
