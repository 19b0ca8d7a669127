"""How the rows of several trials are divided into forward passes."""

import itertools
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lopt.backbones import Backbone
from lopt.soft_prompt import SoftPrompt

_MIN_TOKENS_PER_LANE = 256


@dataclass(frozen=True)
class Row:
    """One text of one trial.

    Attributes:
        owner: index of the trial among the packed trials.
        token_ids: the tokens of the text.
        index_in_batch: index of the text in the trial's batch, or among its selection examples.
    """

    owner: int
    token_ids: tuple[int, ...]
    index_in_batch: int


Rows = Sequence[Row]
SoftPrompts = Sequence[SoftPrompt]  # one for each packed trial, by its index


def make_rows(texts_of_owners: Iterable[Iterable[tuple[int, ...]]]) -> list[Row]:
    """Return the texts of each trial as rows, in the order of the trials."""
    return [
        Row(owner, token_ids, index_in_batch)
        for owner, texts in enumerate(texts_of_owners)
        for index_in_batch, token_ids in enumerate(texts)
    ]


def divide_into_passes(
    rows: Rows, soft_prompts: SoftPrompts, backbone: Backbone, *, max_pass_tokens: int, lane_count: int
) -> deque[list[Row]]:
    """Divide rows into passes of about equal size, each of at most about `max_pass_tokens` tokens.

    If the backbone pads the rows of a pass, rows of similar length go together, the longest first. Otherwise rows of
    one trial go together, and so do trials whose prompts have the same length. Most prompts are then computed in one
    pass only.
    """

    def length_order(row: Row) -> int:
        return -soft_prompts[row.owner].length - len(row.token_ids)

    def trial_order(row: Row) -> tuple[int, int, int]:
        return soft_prompts[row.owner].length, row.owner, len(row.token_ids)

    rows = sorted(rows, key=length_order if backbone.pads_rows else trial_order)
    cumulative_tokens = np.cumsum([0, *count_row_tokens(rows, soft_prompts, backbone)])
    total_tokens = int(cumulative_tokens[-1])
    pass_count = -(-total_tokens // max_pass_tokens)
    # A multiple of the number of lanes keeps all lanes busy, but passes must not become too small for a lane.
    pass_count = max(pass_count, min(-(-pass_count // lane_count) * lane_count, total_tokens // _MIN_TOKENS_PER_LANE))
    pass_ends = total_tokens / pass_count * np.arange(1, pass_count)
    row_bounds = [0, *np.searchsorted(cumulative_tokens, pass_ends).tolist(), len(rows)]
    passes = (list(rows[begin:end]) for begin, end in itertools.pairwise(row_bounds))
    return deque(pass_rows for pass_rows in passes if pass_rows)


def count_row_tokens(rows: Rows, soft_prompts: SoftPrompts, backbone: Backbone) -> list[float]:
    """Return the number of tokens of each row in a pass. The tokens of a trial's prompt are divided evenly among the
    trial's rows."""
    row_counts = Counter(row.owner for row in rows)
    prompt_tokens_per_row = {owner: soft_prompts[owner].length / count for owner, count in row_counts.items()}
    return [
        prompt_tokens_per_row[row.owner] + backbone.token_count_of_row(soft_prompts[row.owner], len(row.token_ids))
        for row in rows
    ]
