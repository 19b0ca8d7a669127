"""Examples as token ids: a template filled in, tokenised, and cut to a length where only the text loses its end."""

import dataclasses
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from lopt import special_tokens
from lopt.special_tokens import Span
from lopt.tasks import Task
from lopt.tokens import TokenIds, cached
from lopt.types import Tokenizer

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


def render(task: Task, template: str, fields: Mapping[str, str]) -> tuple[str, Span]:
    """The template filled in, and the span of characters that `task.cut` takes in it."""
    text, columns = _filled(template, fields)
    return text, next(span for name, span in columns if name == task.cut)


def _filled(template: str, fields: Mapping[str, str]) -> tuple[str, list[tuple[str, Span]]]:
    """The template filled in, and the columns in it with their spans of characters."""
    text, columns = "", []
    for literal, name, _, _ in string.Formatter().parse(template):
        text += literal
        if name is not None:
            columns.append((name, (len(text), len(text) + len(fields[name]))))
            text += fields[name]
    return text, columns


@lru_cache(maxsize=32)
def _special_in(tokenizer: Tokenizer, template: str) -> list[int]:
    """The special tokens that there are when no column spells one out: those of the template, and around it."""
    names = {name: "a" for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    return _specials(tokenizer, _tokenised(tokenizer, template.format(**names))["input_ids"])


def _specials(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """In their order: of as many, one may have come and another gone, such as that of an unknown character."""
    special = special_tokens.ids_of(tokenizer)
    return [i for i in ids if i in special]


def _tokenised(tokenizer: Tokenizer, texts: str | list[str], **more: Any) -> Any:
    """Whatever the tokenizer's own settings say, a special token of the template is one."""
    return tokenizer(texts, split_special_tokens=False, **more)


def encode(
    tokenizer: Tokenizer, task: Task, template: str, fields: Mapping[str, str], most: int
) -> tuple[tuple[int, ...], bool]:
    """Token ids of one example, at most `most`, and whether its text was cut.

    A long input loses the end of `task.cut`, never a word of the template. A column that spells out a special token,
    such as `</s>`, is read as the text that it is; one in the template is the special token.
    ValueError when the template, with the other columns in it, is longer than `most`."""
    cut = False
    fields = dict(fields)
    while True:
        text, (start, end) = render(task, template, fields)
        reading = _tokenised(tokenizer, text, return_offsets_mapping=True)
        ids, offsets = reading["input_ids"], reading["offset_mapping"]
        if not ids:
            raise ValueError(_NO_TOKENS.format(text))
        if _specials(tokenizer, ids) != _special_in(tokenizer, template):
            ids, offsets = _as_text(tokenizer, template, fields) or (ids, offsets)
        excess = len(ids) - most
        if excess <= 0:
            return tuple(ids), cut
        # Drop the last `excess` tokens of the text and tokenise what remains: real tokens of a shorter text.
        inside = [a for a, b in offsets if a >= start and b <= end and b > a]
        whole, shorter = fields[task.cut], ""
        if len(inside) > excess:
            kept = whole[: inside[-excess] - start].rstrip()
            shorter = kept if len(kept) < len(whole) else whole[:-1]
            # A character may have several tokens, and of the first one not all may fit: what does is found by halves.
            shorter = shorter or whole[: len(whole) // 2].rstrip()
        if not shorter:
            others = ", ".join(name for name in task.columns if name != task.cut)
            filled = f", with {others} in it," if others else ""
            raise ValueError(
                f"the template {template!r}{filled} leaves no room for {task.cut} in {most} tokens: shorten it or the "
                "prompt, or raise max_tokens"
            )
        fields[task.cut], cut = shorter, True


def _as_text(tokenizer: Tokenizer, template: str, fields: Mapping[str, str]) -> tuple[list[int], list[Span]] | None:
    text, columns = _filled(template, fields)
    return special_tokens.as_text(tokenizer, text, [span for _, span in columns])


def encode_all(tokenizer: Tokenizer, task: Task, template: str, examples: Sequence[Example]) -> Encoded:
    """Tokenises examples whole, however long, or reads what was tokenised before (`lopt.tokens`); special tokens as in
    `encode`. N examples in the order given: token ids, labels `[N]` and example_ids `[N]`; none is cut. ValueError when
    the tokenizer finds no token in one of them."""
    texts = [render(task, template, e.fields)[0] for e in examples]

    def whole() -> Sequence[Sequence[int]]:
        rows: list[list[int]] = _tokenised(tokenizer, texts)["input_ids"] if texts else []
        if not all(rows):
            return rows
        expected = _special_in(tokenizer, template)
        for position, ids in enumerate(rows):
            if _specials(tokenizer, ids) != expected:
                reading = _as_text(tokenizer, template, examples[position].fields)
                rows[position] = ids if reading is None else reading[0]
        return rows

    token_ids = cached(tokenizer, ["whole", template, *texts], whole)
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
    tokenizer: Tokenizer,
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
    """The columns of one new input: a plain string stands for the only column of a task. ValueError when a column is
    missing or not text, or a string is given to a task of several columns."""
    if isinstance(text, str):
        if len(task.columns) > 1:
            raise ValueError(f"{task.name} reads {', '.join(task.columns)}: give a mapping of them, not one text")
        text = {task.columns[0]: text}
    for column in task.columns:
        if not isinstance(text.get(column), str) or not text[column].strip():
            raise ValueError(f"{column} is {text.get(column)!r}; give text")
    return {column: text[column].strip() for column in task.columns}
