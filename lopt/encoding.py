"""Turns examples into token ids: fills in a template, tokenises it, and cuts the text if the input is too long."""

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
from lopt.tokens import TokenIds, cached_token_ids
from lopt.types import Tokenizer

_NO_TOKEN_ERROR = "the model's tokenizer finds no token in {!r}: take the text out, or give another template or model"


@dataclass(frozen=True)
class Example:
    """One labelled example: its id in the split, the text of each column, and the number of its class.

    Attributes:
        groups: the numbers of its cluster and of its group, if the task has groups.
        number: its true number, if the task's answers are numbers.
    """

    id: int
    text_by_column: Mapping[str, str]
    class_number: int
    groups: tuple[int, int] | None = None
    number: float | None = None


@dataclass(frozen=True)
class EncodedExamples:
    """A tokenised split of N examples.

    Attributes:
        token_ids: the token ids of each example.
        labels: the class of each example, `[N]`.
        example_ids: the id of each example in its split, `[N]`.
        truncated_count: number of texts that were cut to fit.
        groups: the cluster and the group of each example, `[N, 2]`, if the task has groups.
        gold_numbers: the true number of each example, `[N]`, if the task's answers are numbers.
        class_numbers: the number that each class stands for, `[C]`, if the task's answers are numbers.
    """

    token_ids: Sequence[tuple[int, ...]]
    labels: np.ndarray
    example_ids: np.ndarray
    truncated_count: int
    groups: np.ndarray | None = None
    gold_numbers: np.ndarray | None = None
    class_numbers: np.ndarray | None = None

    @cached_property
    def token_counts(self) -> np.ndarray:
        """The number of tokens of each example, `[N]`."""
        if isinstance(self.token_ids, TokenIds):
            return self.token_ids.token_counts
        return np.array([len(ids) for ids in self.token_ids])

    def __len__(self) -> int:
        return len(self.token_ids)

    def take(self, positions: np.ndarray, token_ids: Sequence[tuple[int, ...]]) -> "EncodedExamples":
        """Return the examples at these positions, which have these token ids."""
        arrays = {name: getattr(self, name) for name in ("labels", "example_ids", "groups", "gold_numbers")}
        taken = {name: array[positions] for name, array in arrays.items() if array is not None}
        return dataclasses.replace(self, token_ids=token_ids, **taken)


def render(task: Task, template: str, fields: Mapping[str, str]) -> tuple[str, Span]:
    """Return the filled template, and the span of characters of the column `task.cut_column` in it.

    `fields` is the text of each column.
    """
    text, column_spans = _fill_columns(template, fields)
    return text, next(span for name, span in column_spans if name == task.cut_column)


def _fill_columns(template: str, fields: Mapping[str, str]) -> tuple[str, list[tuple[str, Span]]]:
    """Return the filled template, and the name of each column in it with its span of characters."""
    text, column_spans = "", []
    for literal, name, _, _ in string.Formatter().parse(template):
        text += literal
        if name is not None:
            column_spans.append((name, (len(text), len(text) + len(fields[name]))))
            text += fields[name]
    return text, column_spans


@lru_cache(maxsize=32)
def _special_ids_of_template(tokenizer: Tokenizer, template: str) -> list[int]:
    """Return the ids of the special tokens of the filled template when no column spells one out.

    These tokens are in the template itself, or the tokenizer puts them around every text.
    """
    fields = {name: "a" for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    return _special_ids_in(tokenizer, _tokenise(tokenizer, template.format(**fields))["input_ids"])


def _special_ids_in(tokenizer: Tokenizer, token_ids: Sequence[int]) -> list[int]:
    """Return the ids of special tokens among `token_ids`, in order.

    Callers compare these lists. Comparing their lengths would not be enough, because a text may add one special token
    and remove another, such as the unknown token.
    """
    special_ids = special_tokens.special_ids(tokenizer)
    return [token_id for token_id in token_ids if token_id in special_ids]


def _tokenise(tokenizer: Tokenizer, texts: str | list[str], **options: Any) -> Any:
    """Tokenise texts. A spelt-out special token becomes one token, whatever the tokenizer's own settings are."""
    return tokenizer(texts, split_special_tokens=False, **options)


def encode(
    tokenizer: Tokenizer, task: Task, template: str, fields: Mapping[str, str], max_tokens: int
) -> tuple[tuple[int, ...], bool]:
    """Return the token ids of one example, at most `max_tokens`, and whether its text was cut.

    A long input loses the end of the column `task.cut_column`, and never a word of the template. In a column, a
    spelt-out special token such as `</s>` is read as ordinary text. In the template it is the special token.

    Raises:
        ValueError: the template, with the other columns in it, is longer than `max_tokens`; or the tokenizer finds no
            token.
    """
    was_cut = False
    fields = dict(fields)
    while True:
        text, (column_start, column_end) = render(task, template, fields)
        encoding = _tokenise(tokenizer, text, return_offsets_mapping=True)
        ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
        if not ids:
            raise ValueError(_NO_TOKEN_ERROR.format(text))
        if _special_ids_in(tokenizer, ids) != _special_ids_of_template(tokenizer, template):
            ids, offsets = _encode_columns_as_text(tokenizer, template, fields) or (ids, offsets)
        excess_tokens = len(ids) - max_tokens
        if excess_tokens <= 0:
            return tuple(ids), was_cut
        # Drop the excess tokens at the end of the text. The rest is tokenised again, because a shorter text may end in
        # other tokens.
        token_starts = [start for start, end in offsets if column_start <= start < end <= column_end]
        old_text, new_text = fields[task.cut_column], ""
        if len(token_starts) > excess_tokens:
            remaining = old_text[: token_starts[-excess_tokens] - column_start].rstrip()
            new_text = remaining if len(remaining) < len(old_text) else old_text[:-1]
            # If no character is left, because the first one has several tokens, halve the text instead.
            new_text = new_text or old_text[: len(old_text) // 2].rstrip()
        if not new_text:
            other_columns = ", ".join(name for name in task.columns if name != task.cut_column)
            with_others = f", with {other_columns} in it," if other_columns else ""
            raise ValueError(
                f"the template {template!r}{with_others} leaves no room for {task.cut_column} in {max_tokens} tokens: "
                "shorten the template or the prompt, or raise max_tokens"
            )
        fields[task.cut_column], was_cut = new_text, True


def _encode_columns_as_text(
    tokenizer: Tokenizer, template: str, fields: Mapping[str, str]
) -> tuple[list[int], list[Span]] | None:
    """Return token ids and their spans of characters, with special tokens in the columns read as ordinary text.

    Return None if the tokenizer's own ids are right already, or if the tokenizer cannot be copied.
    """
    text, column_spans = _fill_columns(template, fields)
    return special_tokens.encode_as_text(tokenizer, text, [span for _, span in column_spans])


def encode_whole(tokenizer: Tokenizer, task: Task, template: str, examples: Sequence[Example]) -> EncodedExamples:
    """Return the examples in the same order, tokenised without cutting any.

    Ids that were tokenised before are read from the cache (`lopt.tokens`). Special tokens are treated as in `encode`.

    Raises:
        ValueError: the tokenizer finds no token in one of the examples.
    """
    texts = [render(task, template, example.text_by_column)[0] for example in examples]

    def tokenise_whole() -> Sequence[Sequence[int]]:
        ids_of_texts: list[list[int]] = _tokenise(tokenizer, texts)["input_ids"] if texts else []
        if not all(ids_of_texts):
            return ids_of_texts
        expected_special_ids = _special_ids_of_template(tokenizer, template)
        for position, ids in enumerate(ids_of_texts):
            if _special_ids_in(tokenizer, ids) != expected_special_ids:
                encoding_as_text = _encode_columns_as_text(tokenizer, template, examples[position].text_by_column)
                ids_of_texts[position] = ids if encoding_as_text is None else encoding_as_text[0]
        return ids_of_texts

    token_ids = cached_token_ids(tokenizer, ["whole", template, *texts], tokenise_whole)
    if not token_ids.token_counts.all():
        raise ValueError(_NO_TOKEN_ERROR.format(texts[int(token_ids.token_counts.argmin())]))
    return EncodedExamples(
        token_ids=token_ids,
        labels=np.array([example.class_number for example in examples]),
        example_ids=np.array([example.id for example in examples]),
        truncated_count=0,
        groups=np.array([example.groups for example in examples]) if task.groups else None,
        gold_numbers=np.array([example.number for example in examples]) if task.class_numbers else None,
        class_numbers=np.array(task.class_numbers) if task.class_numbers else None,
    )


def cut_long_texts(
    encoded: EncodedExamples,
    tokenizer: Tokenizer,
    task: Task,
    template: str,
    examples: Sequence[Example],
    max_tokens: int,
) -> EncodedExamples:
    """Return the same examples with at most `max_tokens` tokens each. `truncated_count` says how many were cut."""
    long_positions = np.flatnonzero(encoded.token_counts > max_tokens).tolist()
    if not long_positions:
        return encoded
    fields_of_long_texts = [examples[i].text_by_column for i in long_positions]
    texts = (fields[name] for fields in fields_of_long_texts for name in task.columns)
    key_parts = ["cut", template, task.cut_column, str(max_tokens), *task.columns, *texts]
    cut_ids = cached_token_ids(
        tokenizer,
        key_parts,
        lambda: [encode(tokenizer, task, template, fields, max_tokens)[0] for fields in fields_of_long_texts],
    )
    token_ids = list(encoded.token_ids)
    for position, ids in zip(long_positions, cut_ids, strict=True):
        token_ids[position] = ids
    return dataclasses.replace(encoded, token_ids=TokenIds.from_lists(token_ids), truncated_count=len(long_positions))


def check_fields(task: Task, text: str | Mapping[str, Any]) -> dict[str, str]:
    """Check one new input, and return the text of each column. A plain string will do if the task has one column.

    Raises:
        ValueError: a column is missing, empty or not text; or `text` is a string, and the task has several columns.
    """
    if isinstance(text, str):
        if len(task.columns) > 1:
            raise ValueError(
                f"task {task.name} reads {', '.join(task.columns)}: give a mapping with these keys, not one text"
            )
        text = {task.columns[0]: text}
    for column in task.columns:
        if not isinstance(text.get(column), str) or not text[column].strip():
            raise ValueError(f"`{column}` is {text.get(column)!r}; give text")
    return {column: text[column].strip() for column in task.columns}
