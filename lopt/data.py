"""Prepares the data of a trial: loads the splits of its task, draws the parts (`lopt.parts`) and tokenises them once.

The parts are the training, selection and reported examples. They depend only on a trial's data settings, so all trials
of a sweep see the same examples.
"""

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from lopt import label_words, methods, tasks
from lopt.backbones import Backbone
from lopt.config import TrialConfig
from lopt.encoding import EncodedExamples, Example, cut_long_texts, encode_whole
from lopt.examples import Split, read_split
from lopt.parts import PartSettings, draw_parts, hold_out_part
from lopt.tasks import Task
from lopt.tokens import TokenIds
from lopt.types import Tokenizer


@dataclass(frozen=True)
class TaskData:
    """The training, selection and reported (test) examples of one trial, tokenised.

    Attributes:
        protocol: how the parts were drawn, in words.
        report_split: name of the reported split.
        report_split_size: number of the reported examples before a subset was drawn.
        revision: fingerprint of the task's splits (`data_revision`).
    """

    train: EncodedExamples
    selection: EncodedExamples
    test: EncodedExamples
    protocol: str
    report_split: str
    report_split_size: int
    revision: str


@dataclass(frozen=True)
class _LoadedSplits:
    """The training split and the reported split of a task. `revision` is a fingerprint of their content."""

    training: Split
    reported: Split
    revision: str


@lru_cache(maxsize=8)
def _load_splits(task: Task, data_dir: str | None) -> _LoadedSplits:
    """Load both splits of a task. `data_dir` is LOPT_DATA_DIR, an argument only because the cache's key needs it."""
    splits = read_split(task, task.train), read_split(task, task.report)
    digest = hashlib.sha256()
    if len(task.columns) > 1:  # the column that is cut decides which words of a long input are read
        digest.update(task.cut_column.encode())
    if task.division is not None:
        digest.update(f"{task.division.share} {task.division.seed}".encode())
    to_json = json.JSONEncoder(sort_keys=True).encode  # json.dumps would make an encoder for each example
    for split in splits:
        for example in split.examples:
            targets = [value for value in (example.groups, example.number) if value is not None]
            digest.update(to_json([example.text_by_column, example.class_number, *targets]).encode())
    return _LoadedSplits(*splits, digest.hexdigest()[:16])


def data_revision(task: str) -> str:
    """Return 16 hex digits that change when a text or label of the task's splits changes, or another column is cut."""
    return _load_splits(tasks.get(task), os.environ.get("LOPT_DATA_DIR")).revision


def max_input_tokens(config: TrialConfig, backbone: Backbone) -> int:
    """Return how many tokens template and text together may have in one input of a trial.

    Raises:
        ValueError: the prompt fills the window.
    """
    tokens_beside_prompt = backbone.window - (config.length or 0)
    if tokens_beside_prompt < 1:
        raise ValueError(
            f"length is {config.length}, but the window of {config.backbone} is {backbone.window} tokens: give a "
            "smaller length"
        )
    other_limits = (config.max_tokens, methods.get(config.method).text_limit(config.options))
    return min([tokens_beside_prompt, *(limit for limit in other_limits if limit is not None)])


def prepare_data(config: TrialConfig, backbone: Backbone) -> TaskData:
    """Return the data of one trial. Trials that differ only in method, seed or learning rate share one copy.

    Raises:
        ValueError: as for `load_split`, `encode` and `max_input_tokens`.
    """
    return _prepare_from_cache_key(*_cache_key(config, backbone), config.label_words or ())


def prepare_held_out(config: TrialConfig, backbone: Backbone) -> EncodedExamples:
    """Return the whole held-out part, tokenised. The selection examples are a subset of it, or all of it.

    Raises:
        ValueError: as for `prepare`.
    """
    return _prepare_held_out_from_cache_key(*_cache_key(config, backbone))


def plan_notes(config: TrialConfig) -> list[str]:
    """Return what a plan should note about the user's own rows and label words.

    Only local files are read: neither network nor weights are needed. Token limits are not applied.
    """
    notes: list[str] = []
    task = tasks.get(config.task)
    if tasks.is_from_folder(task):
        try:
            splits = _load_splits(task, os.environ.get("LOPT_DATA_DIR"))
            parts = draw_parts(task, _part_settings(config), splits.training, splits.reported, measure_lengths=None)
            notes += parts.notes
        except ValueError as error:  # a plan can be shown even if the rows cannot be read
            notes.append(str(error))
    default_template_and_words = (task.template_for(config.backbone), task.label_words)
    # Built-in templates and label words were tried with the built-in models and need no notes, nor their slow imports.
    if not tasks.is_from_folder(task) and (config.template, config.label_words) == default_template_and_words:
        return notes
    tokenizer = label_words.local_tokenizer(config.backbone)
    if tokenizer is not None:
        template = (config.template or "").replace("{mask}", "").rstrip()
        notes += label_words.label_word_notes(tokenizer, template, config.label_words or ())
    return notes


def _part_settings(config: TrialConfig) -> PartSettings:
    return PartSettings(**{field.name: getattr(config, field.name) for field in dataclasses.fields(PartSettings)})


@dataclass(frozen=True)
class _TokenizerOfModel:
    """A tokenizer as part of a cache's key. Two of them are equal if they belong to the same model, in any precision.

    Attributes:
        model: the model's name and revision.
    """

    model: str
    tokenizer: Tokenizer = dataclasses.field(compare=False)


def _cache_key(
    config: TrialConfig, backbone: Backbone
) -> tuple[int, Task, PartSettings, _TokenizerOfModel, str, str | None]:
    """Return what the tokenised examples of a trial depend on."""
    return (
        max_input_tokens(config, backbone),
        tasks.get(config.task),
        _part_settings(config),
        _TokenizerOfModel(f"{backbone.name} {backbone.revision}", backbone.tokenizer),
        backbone.fill_template(config.template or ""),
        os.environ.get("LOPT_DATA_DIR"),
    )


@lru_cache(maxsize=12)
def _prepare_from_cache_key(
    max_tokens: int,
    task: Task,
    settings: PartSettings,
    tokenizer_of_model: _TokenizerOfModel,
    template: str,
    data_dir: str | None,
    words: tuple[str, ...],
) -> TaskData:
    """Return the data of a trial, with texts cut to `max_tokens` and notes on the label words in the protocol."""
    parts, protocol, revision, report_split_size = _draw_and_tokenise(
        task, settings, tokenizer_of_model, template, data_dir
    )
    tokenizer = tokenizer_of_model.tokenizer
    train, selection, test = (
        cut_long_texts(encoded, tokenizer, task, template, examples, max_tokens) for encoded, examples in parts
    )
    protocol = "; ".join([protocol, *label_words.label_word_notes(tokenizer.backend_tokenizer, template, words)])
    return TaskData(train, selection, test, protocol, task.report, report_split_size, revision)


@lru_cache(maxsize=12)
def _prepare_held_out_from_cache_key(
    max_tokens: int,
    task: Task,
    settings: PartSettings,
    tokenizer_of_model: _TokenizerOfModel,
    template: str,
    data_dir: str | None,
) -> EncodedExamples:
    splits, tokenizer = _load_splits(task, data_dir), tokenizer_of_model.tokenizer
    pool, positions = hold_out_part(settings, splits.training, splits.reported)
    examples = [pool[i] for i in positions]
    encoded = encode_whole(tokenizer, task, template, examples)
    return cut_long_texts(encoded, tokenizer, task, template, examples, max_tokens)


_TokenisedExamples = tuple[EncodedExamples, list[Example]]


@lru_cache(maxsize=12)
def _draw_and_tokenise(
    task: Task, settings: PartSettings, tokenizer_of_model: _TokenizerOfModel, template: str, data_dir: str | None
) -> tuple[tuple[_TokenisedExamples, ...], str, str, int]:
    """Draw the training, selection and reported examples, and tokenise them without cutting any.

    Returns:
        The three parts, the protocol in words, the revision of the data, and the number of the reported examples before
        a subset was drawn.
    """
    tokenizer, splits = tokenizer_of_model.tokenizer, _load_splits(task, data_dir)
    training_examples = splits.training.examples
    measured: dict[str, Any] = {}  # the examples that were tokenised to measure their lengths, and their positions

    def measure_lengths(positions: np.ndarray) -> np.ndarray:
        measured["positions"] = positions
        measured["encoded"] = encode_whole(tokenizer, task, template, [training_examples[i] for i in positions])
        return measured["encoded"].token_counts

    parts = draw_parts(task, settings, splits.training, splits.reported, measure_lengths)
    tokenised_parts = []
    for examples, positions in (
        (training_examples, parts.train),
        (parts.selection_pool, parts.selection),
        (splits.reported.examples, parts.report),
    ):
        part_examples = [examples[i] for i in positions]
        if positions is parts.train and measured:  # the training part was drawn from the measured examples
            candidates, indices = measured["encoded"], np.searchsorted(measured["positions"], positions)
            token_ids = TokenIds.from_lists([candidates.token_ids[i] for i in indices])
            encoded = candidates.take(indices, token_ids)
        else:
            encoded = encode_whole(tokenizer, task, template, part_examples)
        tokenised_parts.append((encoded, part_examples))
    return tuple(tokenised_parts), parts.protocol, splits.revision, parts.report_split_size
