"""How the rows of several trials are divided into forward passes."""

import itertools
from collections import Counter, deque
from collections.abc import Sequence
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
        position: index of the text in the trial's batch.
    """

    owner: int
    token_ids: tuple[int, ...]
    position: int


Rows = Sequence[Row]
SoftPrompts = Sequence[SoftPrompt]  # one for each packed trial, by its index


def divide_into_passes(
    rows: Rows, soft_prompts: SoftPrompts, backbone: Backbone, *, most_tokens: int, lanes: int
) -> deque[list[Row]]:
    """Divide rows into passes of about equal size, each of at most about `most_tokens` tokens.

    If the backbone pads the rows of a pass, rows of similar length go together, the longest first. Otherwise rows of
    one trial go together, and so do trials whose prompts have the same length. A prompt is then computed in one pass,
    seldom in two.
    """

    def by_length(row: Row) -> int:
        return -soft_prompts[row.owner].length - len(row.token_ids)

    def by_trial(row: Row) -> tuple[int, int, int]:
        return soft_prompts[row.owner].length, row.owner, len(row.token_ids)

    rows = sorted(rows, key=by_length if backbone.pads_rows else by_trial)
    cumulative = np.cumsum([0, *token_counts(rows, soft_prompts, backbone)])
    total = int(cumulative[-1])
    count = -(-total // most_tokens)
    # A multiple of the lanes keeps all of them busy, unless the passes would become too small for a lane.
    count = max(count, min(-(-count // lanes) * lanes, total // _MIN_TOKENS_PER_LANE))
    bounds = [0, *np.searchsorted(cumulative, total / count * np.arange(1, count)).tolist(), len(rows)]
    passes = (list(rows[begin:end]) for begin, end in itertools.pairwise(bounds))
    return deque(pass_rows for pass_rows in passes if pass_rows)


def token_counts(rows: Rows, soft_prompts: SoftPrompts, backbone: Backbone) -> list[float]:
    """Tokens that each row takes in a pass, with its part of the trial's prompt, which its rows may share."""
    row_counts = Counter(row.owner for row in rows)
    prompt_shares = {owner: soft_prompts[owner].length / count for owner, count in row_counts.items()}
    return [prompt_shares[row.owner] + backbone.row_tokens(soft_prompts[row.owner], len(row.token_ids)) for row in rows]
