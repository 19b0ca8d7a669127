"""How the rows of several trials are cut into forward passes."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lopt.backbones import Backbone
from lopt.soft_prompt import SoftPrompt

_FEWEST_TOKENS_A_LANE = 256


@dataclass(frozen=True)
class Row:
    """One example of one trial: which trial (its place among those packed), its tokens, its place in the trial's
    batch."""

    owner: int
    token_ids: tuple[int, ...]
    place: int


Rows = Sequence[Row]
Softs = Sequence[SoftPrompt]  # one for each trial, by its place


def cut(rows: Rows, soft_prompts: Softs, backbone: Backbone, *, most_tokens: int, lanes: int) -> deque[list[Row]]:
    """Rows cut into passes of about one size, of at most about `most_tokens` tokens.

    Where a pass pads its rows, those of about one length stand together, the longest first. Else those of one
    trial do, so that a prompt is computed in one pass, seldom in two, and trials whose prompts have one length.
    """

    def by_length(row: Row) -> int:
        return -soft_prompts[row.owner].length - len(row.token_ids)

    def by_trial(row: Row) -> tuple[int, int, int]:
        return soft_prompts[row.owner].length, row.owner, len(row.token_ids)

    with_tokens = sized(sorted(rows, key=by_length if backbone.pads_rows else by_trial), soft_prompts, backbone)
    tokens = np.cumsum([0, *(size for _, size in with_tokens)])
    every = int(tokens[-1])
    count = -(-every // most_tokens)
    count = max(count, min(-(-count // lanes) * lanes, every // _FEWEST_TOKENS_A_LANE))
    ends = np.searchsorted(tokens, every / count * np.arange(1, count)).tolist()
    begins, ends = [0, *ends], [*ends, len(with_tokens)]
    passes = ([row for row, _ in with_tokens[begin:end]] for begin, end in zip(begins, ends, strict=True))
    return deque(some for some in passes if some)


def sized(rows: Rows, soft_prompts: Softs, backbone: Backbone) -> list[tuple[Row, float]]:
    """Each row with the tokens that it takes in a pass, among them its share of its trial's prompt, which rows may
    have in common."""
    count = Counter(row.owner for row in rows)
    shares = {owner: soft_prompts[owner].length / count[owner] for owner in count}
    return [(row, shares[row.owner] + backbone.row_tokens(soft_prompts[row.owner], len(row.token_ids))) for row in rows]
