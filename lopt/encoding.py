"""Examples as token ids: a template filled in, tokenised, and cut to a length where only the text loses its end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lopt.tasks import Task
from lopt.tokens import TokenIds, cached

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_NO_TOKENS = "the model's tokenizer finds no token in {!r}: take the text out, or give another template or model"


@dataclass(frozen=True)
class Example:
    """One labelled example: its id in the split, the text of each column, the number of its class."""

    id: int
    fields: Mapping[str, str]
    label: int


@dataclass(frozen=True)
class Encoded:
    """A tokenised split of N examples: token ids of each, their classes and ids in the split, `[N]`, and how many texts
    were cut to fit."""

    token_ids: Sequence[tuple[int, ...]]
    labels: np.ndarray
    example_ids: np.ndarray
    truncated: int

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, `[N]`."""
        if isinstance(self.token_ids, TokenIds):
            return self.token_ids.lengths
        return np.array([len(ids) for ids in self.token_ids])

    def __len__(self) -> int:
        return len(self.token_ids)


def render(task: Task, template: str, fields: Mapping[str, str]) -> tuple[str, tuple[int, int]]:
    """The template filled in, and the span of characters that `task.cut` takes in it."""
    head, tail = template.split("{" + task.cut + "}")
    before = head.format(**fields)
    text = before + fields[task.cut] + tail.format(**fields)
    return text, (len(before), len(before) + len(fields[task.cut]))


def encode(
    tokenizer: PreTrainedTokenizerBase, task: Task, template: str, fields: Mapping[str, str], most: int
) -> tuple[tuple[int, ...], bool]:
    """Token ids of one example, at most `most`, and whether its text was cut.

    A long input loses the end of `task.cut`, never a word of the template.

    Raises:
        ValueError: the template, with the other columns in it, is longer than `most`.
    """
    cut = False
    fields = dict(fields)
    while True:
        text, (start, end) = render(task, template, fields)
        made = tokenizer(text, return_offsets_mapping=True)
        ids = made["input_ids"]
        if not ids:
            raise ValueError(_NO_TOKENS.format(text))
        excess = len(ids) - most
        if excess <= 0:
            return tuple(ids), cut
        # Drop the last `excess` tokens of the text and tokenise what remains: real tokens of a shorter text.
        inside = [a for a, b in made["offset_mapping"] if a >= start and b <= end and b > a]
        if len(inside) <= excess:
            others = ", ".join(name for name in task.columns if name != task.cut)
            filled = f", with {others} in it," if others else ""
            raise ValueError(
                f"the template {template!r}{filled} leaves no room for {task.cut} in {most} tokens: shorten it or the "
                "prompt, or raise max_tokens"
            )
        kept = fields[task.cut][: inside[-excess] - start].rstrip()
        shorter = kept if len(kept) < len(fields[task.cut]) else fields[task.cut][:-1]
        fields[task.cut], cut = shorter, True


def encode_all(tokenizer: PreTrainedTokenizerBase, task: Task, template: str, examples: Sequence[Example]) -> Encoded:
    """Tokenises examples whole, however long, or reads what was tokenised before (`lopt.tokens`).

    Returns:
        N examples in the order given: token ids, labels `[N]` and example_ids `[N]`; none is cut.

    Raises:
        ValueError: the tokenizer finds no token in one of them.
    """
    texts = [render(task, template, e.fields)[0] for e in examples]
    token_ids = cached(tokenizer, ["whole", *texts], lambda: tokenizer(texts)["input_ids"] if texts else ())
    if not token_ids.lengths.all():
        raise ValueError(_NO_TOKENS.format(texts[int(token_ids.lengths.argmin())]))
    return Encoded(
        token_ids=token_ids,
        labels=np.array([e.label for e in examples]),
        example_ids=np.array([e.id for e in examples]),
        truncated=0,
    )


def cut_to(
    encoded: Encoded,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    template: str,
    examples: Sequence[Example],
    most: int,
) -> Encoded:
    """The same examples in at most `most` tokens each; counts the texts that were cut."""
    long = np.flatnonzero(encoded.lengths > most).tolist()
    if not long:
        return encoded
    fields = [examples[i].fields for i in long]
    texts = (each[name] for each in fields for name in task.columns)
    parts = ["cut", template, task.cut, str(most), *task.columns, *texts]
    short = cached(tokenizer, parts, lambda: [encode(tokenizer, task, template, each, most)[0] for each in fields])
    ids = list(encoded.token_ids)
    for position, cut in zip(long, short, strict=True):
        ids[position] = cut
    return dataclasses.replace(encoded, token_ids=TokenIds.of(ids), truncated=len(long))


def as_fields(task: Task, text: str | Mapping[str, Any]) -> dict[str, str]:
    """The columns of one new input: a plain string stands for the only column of a task.

    Raises:
        ValueError: a column is missing or not text, or a string is given to a task of several columns.
    """
    if isinstance(text, str):
        if len(task.columns) > 1:
            raise ValueError(f"{task.name} reads {', '.join(task.columns)}: give a mapping of them, not one text")
        text = {task.columns[0]: text}
    for column in task.columns:
        if not isinstance(text.get(column), str) or not text[column].strip():
            raise ValueError(f"{column} is {text.get(column)!r}; give text")
    return {column: text[column].strip() for column in task.columns}
