"""What a sweep's trials need, made ready where they would train."""

import math
from collections.abc import Sequence
from typing import Any

from lopt import methods
from lopt.config import TrialConfig
from lopt.errors import one_line
from sweeps.work import packing
from sweeps.work.process import set_threads


def prepare(
    configs: list[dict[str, Any]], wanted: Sequence[int] = (), threads: int | None = None, trials: float = math.inf
) -> dict[str, Any]:
    """Fetches what the trials need, settles precision and revisions where a trial would run, and tries on every
    configuration what would fail in all its trials: weights, label words, data, lengths.

    Args:
        wanted: which of the configurations give a zero-shot baseline.
        trials: that there are for a device.

    Returns:
        configs, resolved; packed, how many trials should share a backbone here; baselines, and what was raised instead
        of one. Or error, a line.
    """
    from lopt import backbones, data
    from lopt.engine import MOST_TOKENS
    from lopt.evaluation import zero_shot
    from lopt.resolve import resolve

    set_threads(threads)
    resolved: list[TrialConfig] = []
    baselines: list[dict[str, Any]] = []
    problems: list[str] = []
    tokens: list[float] = []
    good, room = 0, math.inf
    try:
        for values in configs:
            config = resolve(TrialConfig.from_dict(values))
            method = methods.get(config.method)
            method.require()
            backbone = backbones.load(config.backbone, method.weights_precision(config.precision))
            backbone.label_ids(config.label_words or ())
            if config.dropout:
                backbone.with_dropout(config.dropout)
            read = data.prepare(config, backbone)
            resolved.append(config)
            if config.shares_backbone:
                tokens.append(packing.tokens_a_step(backbone, config, read))
                good = MOST_TOKENS[backbone.device.type]
                room = min(room, packing.room(backbone, read, config.length or 0))
    except (ValueError, OSError) as error:
        return {"error": one_line(error)}
    for index in wanted:
        try:
            baselines.append(zero_shot(resolved[index]))
        except Exception as error:  # the report does without; trials are not affected
            problems.append(f"{type(error).__name__}: {error}")
    packed = packing.packed(sum(tokens) / len(tokens), good, room, trials) if tokens else 1
    return {
        "configs": [config.to_dict() for config in resolved],
        "packed": packed,
        "baselines": baselines,
        "problems": problems,
    }
