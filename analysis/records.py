"""Check a record of the store, and flatten it into a `Trial`. Accuracies are fractions; missing numbers are None."""

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable
from dataclasses import MISSING, dataclass
from functools import cache
from reprlib import repr as short_repr
from typing import Any, TypeVar

from analysis.json_fields import (
    get_fraction,
    get_integer,
    get_number,
    get_object,
    get_objects,
    get_optional_object,
    get_optional_text,
    get_text,
    json_object,
)
from lopt.field_types import FieldType, field_types
from lopt.migrations import LATER_OPTIONS, LATER_SETTINGS, SCHEMA_VERSION, drop_later_defaults, migrate
from lopt.records import OWN_FIELDS, PHASES, STATUSES, TrialRecord
from lopt.settings import TrialSettings

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)
_READABLE_SCHEMA_VERSIONS = range(1, SCHEMA_VERSION + 1)
_DATA_SETTINGS = ("task", "data_revision")  # settings that decide which examples a split holds
_SUBSET_SETTINGS = ("data_seed", "test_examples")  # settings that decide which part of the split is scored
_FROZEN_SEED_OPTIONS = ("x0_seed", "projection_seed")  # the seeds of the frozen matrices of LoPT-2 and ULPT


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation on the held-out examples, after `step` updates. Accuracy, score and share are fractions.

    `selection_score` is measured by the trial's metric. `predictions` is a hash of the predicted classes.
    """

    step: int
    selection_accuracy: float | None
    selection_score: float | None
    top_class_share: float | None
    predictions: str | None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One record, flattened. Accuracies are fractions. Fields whose names end in `_s` hold seconds.

    Attributes:
        run: the folder or URL of the trial's run.
        stratum: the group of trials with which early stopping compared the trial.
        shots: number of training examples of each class in a few-shot run, else None.
        update_tokens: how many text tokens get an update in DePT (the paper's s); None for other methods.
        frozen_draw: the option that gives all seeds one frozen random matrix, as "name = value".
        configuration: hash of all settings but the seed.
        materialised_parameters: how many numbers the model gets as input from the prompt.
        selection_score: the held-out score by `metric`, by which trials are selected. It is that of the trial's best
            evaluation. A trial that was scored on the whole held-out part has this score instead, and the same holds
            for selection_accuracy, selection_loss and selection_n.
        evaluation_score, evaluation_loss: the score and the loss of the best evaluation.
        has_held_out_score: whether the trial was scored on the whole held-out part.
        test_scores: scores on the reported split by the metrics that have no field of their own, as (name, score).
        scored_on: what decides which examples the trial is scored on. Two trials with equal values have the same ones.
        holdout: where the examples for selection come from: "train" or "validation".
        data_revision, model_revision: fingerprints of a task or model whose content may change under its name.
        train_time_s: time on the trial's device; None in records of schemas 1 and 2.
        peak_memory_bytes: peak memory of a trial that trained alone, else None.
        tokens: number of tokens of prompt and text that the trial was trained on.
        truncated_count: number of texts that were cut to fit. `test_truncated_count` is the number of test texts.
        audited_at: the step at which early stopping would have stopped an audited trial, else None.
        reused_from: the other run that trained the trial; None if it is this run.
        dirty: whether the code had uncommitted changes.
    """

    key: str
    run: str
    phase: str
    status: str
    cell: str
    stratum: str
    method: str
    backbone: str
    task: str
    length: int | None
    rank: int | None
    shots: int | None
    learning_rate: float | None
    batch_size: int | None
    dropout: float
    update_tokens: int | None
    adam_eps: float | None
    seed: int | None
    frozen_draw: str | None
    configuration: str
    trainable_parameters: int | None
    stored_parameters: int | None
    materialised_parameters: int | None
    steps: int | None
    max_steps: int | None
    abandoned_steps: int | None
    metric: str
    selection_score: float | None
    selection_accuracy: float | None
    selection_loss: float | None
    selection_n: int | None
    evaluation_score: float | None
    evaluation_loss: float | None
    has_held_out_score: bool
    test_accuracy: float | None
    test_macro_f1: float | None
    test_scores: tuple[tuple[str, float], ...]
    test_n: int | None
    test_split: str | None
    test_split_size: int | None
    scored_on: tuple[object, ...]
    holdout: str
    data_revision: str | None
    model_revision: str | None
    majority_accuracy: float | None
    wall_time_s: float | None
    train_time_s: float | None
    evaluation_time_s: float | None
    test_time_s: float | None
    peak_memory_bytes: int | None
    tokens: int | None
    protocol: str
    truncated_count: int
    test_truncated_count: int
    audited_at: int | None
    reused_from: str | None
    dirty: bool
    commit: str
    error_type: str | None
    error_message: str | None
    evaluations: tuple[Evaluation, ...]

    @property
    def is_confirmed(self) -> bool:
        """Whether tables may show the accuracy as a result: the trial has a fresh seed, ran to the end, and was scored
        on the reported split."""
        is_finished_confirm_trial = self.phase == "confirm" and self.status == "complete"
        return is_finished_confirm_trial and bool(self.test_n and self.test_accuracy is not None)

    def test_score(self, metric: str) -> float | None:
        """Return the score on the reported split by this metric; None if the record does not have it."""
        if metric in OWN_FIELDS:
            return self.test_accuracy if metric == "accuracy" else self.test_macro_f1
        return dict(self.test_scores).get(metric)

    @property
    def is_finished_search(self) -> bool:
        """Whether this is a search trial that ran to the end and has a score."""
        return self.phase == "search" and self.status == "complete" and self.selection_score is not None

    @property
    def is_stuck(self) -> bool:
        """Whether training had no effect: every evaluation predicted only one class, or there are several evaluations
        and all of them predicted the same."""
        if not self.evaluations:
            return False
        hashes = {evaluation.predictions for evaluation in self.evaluations}
        have_same_predictions = len(self.evaluations) > 1 and len(hashes) == 1 and None not in hashes
        return have_same_predictions or all(evaluation.top_class_share == 1.0 for evaluation in self.evaluations)


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Return the items grouped by their key. Keys and items keep their order."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def trial_from_record(record: dict[str, Any], run: str = "") -> Trial:
    """Flatten one record of a run.

    Raises:
        ValueError: a field is missing, has another type or is out of range. The message names the field.
    """
    check_schema(json_object(record, "a record"))
    get_objects(record, "evaluations")  # checks their type, because `migrate` could not handle another one
    record = {**migrate(record)}
    config = {**LATER_SETTINGS, **get_object(record, "config")}
    provenance, error = get_optional_object(record, "provenance"), get_optional_object(record, "error")
    options, truncated_texts = get_optional_object(config, "options"), get_optional_object(record, "truncated")
    truncated_count_by_part = {part: get_integer(truncated_texts, part) or 0 for part in truncated_texts}
    for name, valid in (("phase", PHASES), ("status", STATUSES)):
        if record.get(name) not in valid:
            raise ValueError(f"`{name}` is {short_repr(record.get(name))}, not {', '.join(valid[:-1])} or {valid[-1]}")
    trial_fields = {**_read_common_fields(config, TrialSettings), **_read_common_fields(record, TrialRecord)}
    metric, accuracy = trial_fields["metric"], trial_fields["selection_accuracy"]
    held_out_scores = _scores_by_metric(record, "held_out")
    evaluations = tuple(_parse_evaluation(source, metric) for source in get_objects(record, "evaluations"))
    best_step = get_integer(record, "selection_step")
    best_scores = (evaluation.selection_score for evaluation in evaluations if evaluation.step == best_step)
    frozen_draws = (f"{name} = {options[name]}" for name in _FROZEN_SEED_OPTIONS if options.get(name) is not None)
    trial_fields |= {
        "run": run,
        "cell": str(record.get("cell") or record.get("stratum") or ""),
        "stratum": str(record.get("stratum") or record.get("cell") or ""),
        "backbone": get_text(config, "backbone"),
        "dropout": trial_fields["dropout"] or 0.0,
        "update_tokens": get_integer(options, "update_tokens"),
        "adam_eps": get_number(options, "adam_eps"),
        "frozen_draw": next(frozen_draws, None),
        "configuration": _configuration_hash(config),
        "trainable_parameters": get_integer(record, "trainable_parameters", minimum=1),
        "selection_score": accuracy if metric == "accuracy" else next(best_scores, None),
        "test_scores": tuple(_other_scores(record, "test").items()),
        "scored_on": _scored_examples(record, config, trial_fields["holdout"]),
        "truncated_count": sum(truncated_count_by_part.values()),
        "test_truncated_count": truncated_count_by_part.get("test", 0),
        "audited_at": None,
        "reused_from": get_optional_text(provenance, "reused_from"),
        "dirty": bool(provenance.get("dirty")),
        "commit": str(provenance.get("commit") or ""),
        "error_type": str(error.get("type") or "unknown") if error else None,
        "error_message": str(error.get("message") or "") if error else None,
        "evaluations": evaluations,
    }
    trial_fields |= {
        "evaluation_score": trial_fields["selection_score"],
        "evaluation_loss": trial_fields["selection_loss"],
        "has_held_out_score": held_out_scores.get(metric) is not None,
    }
    if trial_fields["has_held_out_score"]:
        trial_fields |= {
            "selection_score": held_out_scores[metric],
            "selection_accuracy": held_out_scores["accuracy"],
            "selection_loss": get_number(record, "held_out_loss"),
            "selection_n": get_integer(record, "held_out_n"),
        }
    return Trial(**trial_fields)


def check_schema(source: dict[str, Any]) -> None:
    """Raise ValueError if the file was written by a newer version of this program, or does not name its schema."""
    if (version := source.get("schema_version")) not in _READABLE_SCHEMA_VERSIONS:
        raise ValueError(f"`schema_version` is {version!r}; this report reads 1 to {SCHEMA_VERSION}")


def _read_common_fields(source: dict[str, Any], schema: type) -> dict[str, Any]:
    """Read the texts and numbers of the fields that both the schema and `Trial` have. Return them by field."""
    return {name: read(source, name) for name, read in _readers_by_field(schema).items()}


@cache
def _readers_by_field(schema: type) -> dict[str, Callable[[dict[str, Any], str], Any]]:
    """Return, for each field that both the schema and `Trial` have, the function that reads it from a JSON object."""
    trial_fields = Trial.__dataclass_fields__
    common_types = {name: field_type for name, field_type in field_types(schema).items() if name in trial_fields}
    return {name: _reader(field_type) for name, field_type in common_types.items() if field_type.is_plain}


def _reader(field_type: FieldType) -> Callable[[dict[str, Any], str], Any]:
    """Return the function that reads an entry of this type from a JSON object.

    If a text is missing, the function returns the default of the field; if a number is missing, it returns None.
    """
    if field_type.is_fraction:
        return get_fraction
    if str not in field_type.types:
        return get_number if float in field_type.types else get_integer
    if field_type.default is MISSING:
        return get_text
    return lambda source, name: get_text(source, name) if source.get(name) not in (None, "") else field_type.default


def _configuration_hash(config: dict[str, Any]) -> str:
    """Return the hash of all settings but the seed.

    A setting or option that was added after the first records does not change the hash if its value means the earlier
    behaviour. The same is true of a trial's key.
    """
    settings = {name: value for name, value in config.items() if name not in ("seed", "options")}
    settings_and_options = (
        drop_later_defaults(settings, LATER_SETTINGS),
        drop_later_defaults(get_optional_object(config, "options"), LATER_OPTIONS),
    )
    set_values = [{name: value for name, value in part.items() if value is not None} for part in settings_and_options]
    return hashlib.sha256(json.dumps(set_values, sort_keys=True).encode()).hexdigest()[:16]


def _parse_evaluation(source: dict[str, Any], metric: str) -> Evaluation:
    return Evaluation(
        step=get_integer(source, "step") or 0,
        selection_accuracy=get_fraction(source, "selection_accuracy"),
        selection_score=_scores_by_metric(source, "selection").get(metric),
        top_class_share=get_fraction(source, "top_class_share"),
        predictions=get_optional_text(source, "predictions"),
    )


def _scores_by_metric(source: dict[str, Any], part: str) -> dict[str, float | None]:
    """Return the scores on a part of the data ("selection", "held_out" or "test") by the metric's name."""
    return {**{name: get_fraction(source, f"{part}_{name}") for name in OWN_FIELDS}, **_other_scores(source, part)}


def _other_scores(source: dict[str, Any], part: str) -> dict[str, float]:
    """Return the scores by those metrics that have no field of their own."""
    scores = get_optional_object(source, f"{part}_scores")
    return {name: value for name in scores if (value := get_number(scores, name)) is not None}


def _scored_examples(record: dict[str, Any], config: dict[str, Any], holdout: str) -> tuple[object, ...]:
    """Return the value of `Trial.scored_on`."""
    split_size_and_holdout = (record.get("test_split"), record.get("test_n"), holdout)
    is_whole_split = record.get("test_n") is not None and record.get("test_n") == record.get("test_split_size")
    subset_settings = () if is_whole_split else _SUBSET_SETTINGS  # these do not matter for a whole split
    return *map(str, split_size_and_holdout), *(str(config.get(name)) for name in (*_DATA_SETTINGS, *subset_settings))
