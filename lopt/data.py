"""What a trial reads: a task loaded, its parts drawn (`lopt.parts`), and tokenised once.

Nothing here depends on a trial but through its seed, so all trials of a sweep see the same examples.
"""

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from lopt import label_words, methods, tasks
from lopt.backbones import Backbone
from lopt.config import TrialConfig
from lopt.encoding import Encoded, Example, cut_to, encode_all
from lopt.examples import Split, read_split
from lopt.parts import Parts, draw
from lopt.tasks import Task
from lopt.tokens import TokenIds
from lopt.types import Tokenizer


@dataclass(frozen=True)
class TaskData:
    """What one trial reads: train, held-out selection and reported split, all tokenised.

    protocol: how the parts were drawn, in words; report_size: the reported split's size before any subset.
    """

    train: Encoded
    selection: Encoded
    test: Encoded
    protocol: str
    report_split: str
    report_size: int
    revision: str


@dataclass(frozen=True)
class _Loaded:
    """Both splits of a task, and a fingerprint of their content."""

    training: Split
    reported: Split
    revision: str


@lru_cache(maxsize=8)
def _load(task: Task, source: str | None) -> _Loaded:
    """`source` (LOPT_DATA_DIR) is part of the key."""
    splits = read_split(task, task.train), read_split(task, task.report)
    digest = hashlib.sha256()
    if len(task.columns) > 1:  # which of them is cut decides what of a long input is read
        digest.update(task.cut.encode())
    if task.divided is not None:
        digest.update(f"{task.divided.share} {task.divided.seed}".encode())
    to_json = json.JSONEncoder(sort_keys=True).encode  # json.dumps would make one for each example
    for split in splits:
        for example in split.examples:
            digest.update(to_json([example.fields, example.label]).encode())
    return _Loaded(*splits, digest.hexdigest()[:16])


def data_revision(task: str) -> str:
    """16 digits that change when any text or label of the task's splits does, or the column that is cut."""
    return _load(tasks.get(task), os.environ.get("LOPT_DATA_DIR")).revision


def most_tokens(config: TrialConfig, backbone: Backbone) -> int:
    """The most tokens of template and text in one input of a trial; ValueError when the prompt fills the window."""
    room = backbone.window - (config.length or 0)
    if room < 1:
        raise ValueError(f"length is {config.length}, but the window of {config.backbone} is {backbone.window} tokens")
    limits = (config.max_tokens, methods.get(config.method).text_limit(config.options))
    return min([room, *(limit for limit in limits if limit is not None)])


def prepare(config: TrialConfig, backbone: Backbone) -> TaskData:
    """Everything one trial reads. Trials that differ only in method, seed or learning rate share one copy.
    ValueError as of `load_split`, `encode` and `most_tokens`."""
    return _prepare(
        most_tokens(config, backbone),
        tasks.get(config.task),
        _parts_of(config),
        _Reader(f"{backbone.name} {backbone.revision}", backbone.tokenizer),
        backbone.complete(config.template or ""),
        config.label_words or (),
        os.environ.get("LOPT_DATA_DIR"),
    )


def notes(config: TrialConfig) -> list[str]:
    """What a plan should say of the user's own rows and of the label words, as far as files at hand tell without
    network or weights. Limits of tokens are not applied."""
    said: list[str] = []
    task = tasks.get(config.task)
    if tasks.is_folder(task):
        try:
            loaded = _load(task, os.environ.get("LOPT_DATA_DIR"))
            said += draw(task, _parts_of(config), loaded.training, loaded.reported, lengths=None).notes
        except ValueError as error:  # the plan can do without the rows
            said.append(str(error))
    own = (task.template_for(config.backbone), task.label_words) == (config.template, config.label_words)
    if own and not tasks.is_folder(task):  # tried with the models that are named; no library needs to be imported
        return said
    tokenizer = label_words.tokenizer_at_hand(config.backbone)
    if tokenizer is not None:
        template = (config.template or "").replace("{mask}", "").rstrip()
        said += label_words.notes(tokenizer, template, config.label_words or ())
    return said


def _parts_of(config: TrialConfig) -> Parts:
    return Parts(**{f.name: getattr(config, f.name) for f in dataclasses.fields(Parts)})


@dataclass(frozen=True)
class _Reader:
    """A tokenizer, known by its model: one model in two precisions reads alike."""

    model: str
    tokenizer: Tokenizer = field(compare=False)


@lru_cache(maxsize=12)
def _prepare(
    most: int,
    task: Task,
    parts: Parts,
    reader: _Reader,
    template: str,
    words: tuple[str, ...],
    source: str | None,
) -> TaskData:
    """`_draw`, cut to `most` tokens; what there is to say of the label words follows the protocol."""
    drawn, protocol, revision, report_size = _draw(task, parts, reader, template, source)
    train, selection, test = (
        cut_to(encoded, reader.tokenizer, task, template, examples, most) for encoded, examples in drawn
    )
    protocol = "; ".join([protocol, *label_words.notes(reader.tokenizer.backend_tokenizer, template, words)])
    return TaskData(train, selection, test, protocol, task.report, report_size, revision)


_Tokenised = tuple[Encoded, list[Example]]


@lru_cache(maxsize=12)
def _draw(
    task: Task, parts: Parts, reader: _Reader, template: str, source: str | None
) -> tuple[tuple[_Tokenised, ...], str, str, int]:
    """Train, selection and reported examples, tokenised whole; the protocol in words, the data's revision, and the size
    of the reported part before a subset is taken."""
    loaded = _load(task, source)
    training = loaded.training.examples
    measured: dict[str, Any] = {}

    def lengths(kept: np.ndarray) -> np.ndarray:
        measured["positions"] = kept
        measured["encoded"] = encode_all(reader.tokenizer, task, template, [training[i] for i in kept])
        return measured["encoded"].lengths

    drawn = draw(task, parts, loaded.training, loaded.reported, lengths)
    tokenised = []
    for examples, positions in (
        (training, drawn.train),
        (drawn.pool, drawn.selection),
        (loaded.reported.examples, drawn.report),
    ):
        some = [examples[i] for i in positions]
        if positions is drawn.train and measured:
            whole, places = measured["encoded"], np.searchsorted(measured["positions"], positions)
            token_ids = TokenIds.of([whole.token_ids[i] for i in places])
            encoded = Encoded(token_ids, whole.labels[places], whole.example_ids[places], truncated=0)
        else:
            encoded = encode_all(reader.tokenizer, task, template, some)
        tokenised.append((encoded, some))
    return tuple(tokenised), drawn.protocol, loaded.revision, drawn.report_size
