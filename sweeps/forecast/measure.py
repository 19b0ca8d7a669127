"""What trials cost on the device that they would train on: a few steps of each kind, in the engine with as many trials
as the sweep packs, or in the plain loop where trials train alone; evaluations; a part of the canonical evaluation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from lopt import methods
from lopt.config import TrialConfig
from sweeps.work.process import release_memory, set_threads

if TYPE_CHECKING:
    from lopt.backbones import Backbone
    from lopt.encoding import Encoded
    from lopt.training import Trial

SECONDS = 6.0  # of steps, at least, of each kind
_BLOCK = {"cpu": 1, "cuda": 10}  # steps between two looks at the clock, for which a GPU must have finished
_BLOCKS = 3  # then an evaluation
_ROUNDS = 2  # at least
_EXAMPLES = 64  # of an evaluation; more are reckoned from these
_RECIPE = ("learning_rate", "optimizer", "schedule", "warmup", "weight_decay")


@dataclass(frozen=True)
class _Rates:
    """Seconds of one kind of trial: of any step, the least of one, of a token of a step, of an evaluation, of the
    canonical evaluation; and of beginning."""

    fixed_s: float
    least_s: float
    token_s: float
    evaluated_token_s: float
    scored_token_s: float
    begin_s: float


def measure(configs: Sequence[Mapping[str, Any]], packed: int | None, threads: int | None) -> dict[str, Any]:
    """What trials cost on this device.

    Args:
        configs: resolved. packed: how many of those that share a backbone train together; None runs the plain loop.

    Returns:
        costs: of each configuration, seconds by their names in `sweeps.forecast.play.Cost`. figures: what was
        measured of each kind, for a reader. spread: standard deviation of the logarithm of a step's time. hardware.
    """
    from lopt import backbones
    from lopt.records import provenance

    set_threads(threads)
    kinds: dict[tuple[object, ...], list[int]] = {}
    parsed = [TrialConfig.from_dict(values) for values in configs]
    for place, config in enumerate(parsed):
        kinds.setdefault(_kind(config), []).append(place)
    costs: dict[int, dict[str, float]] = {}
    figures, spreads = [], []
    for places in kinds.values():
        rates, figure, spread = _measured([parsed[place] for place in places], packed)
        figures.append(figure)
        spreads.append(spread)
        for place in places:
            config = parsed[place]
            precision = methods.get(config.method).weights_precision(config.precision)
            costs[place] = _costs(config, rates, backbones.load(config.backbone, precision))
        release_memory()
    return {
        "costs": [costs[place] for place in range(len(parsed))],
        "figures": figures,
        "spread": max(spreads),
        "hardware": provenance()["hardware"],
    }


def _kind(config: TrialConfig) -> tuple[object, ...]:
    """What the time of a token depends on, and what decides which texts are read."""
    own = ("method", "length", "rank", "options", "seed", "dropout", *_RECIPE)
    rest = {name: value for name, value in config.to_dict().items() if name not in own}
    mine = config.options.get("placement") if config.shares_backbone else config.method
    return (mine, bool(config.dropout), *map(str, rest.values()))


def _measured(configs: Sequence[TrialConfig], packed: int | None) -> tuple[_Rates, dict[str, Any], float]:
    """Rates, figures and spread of trials of one kind."""
    from lopt import backbones
    from lopt.engine import Engine
    from lopt.evaluation import predict_split
    from lopt.training import Trial

    method = methods.get(configs[0].method)
    backbone = backbones.load(configs[0].backbone, method.weights_precision(configs[0].precision))
    begun_s: list[float] = []

    def begun(config: TrialConfig) -> Trial:
        began = time.monotonic()
        trial = Trial(_short(config, len(begun_s), backbone), phase="search")
        begun_s.append(time.monotonic() - began)
        return trial

    def engine(trials: Sequence[Trial]) -> _Timed:
        made = Engine()
        for trial in trials:
            made.admit(trial)
        return _Timed(made.advance, trials)

    one, alone = begun(configs[0]), None
    if packed is None or not configs[0].shares_backbone:
        trials = [one]
        timed = _Timed(one.advance, trials)
    else:
        trials = [begun(config) for config in islice(cycle(configs), packed)]
        timed = engine(trials)
        alone = engine([one]) if packed > 1 else None
    began = time.monotonic()
    while len(timed.evaluations_s) < _ROUNDS or time.monotonic() - began < SECONDS:
        timed.round()
        if alone:  # in turns, since other work may slow the machine for a while
            alone.round()
    steps_s, alone_s = timed.steps_s, median(alone.steps_s) if alone else None
    for _ in range(2):  # the first pass of any shape takes longer
        began = _now(backbone)
        predict_split(one.backbone, one.soft_prompt(), one.data.test, one.label_ids)
        score_s = _now(backbone) - began
    tokens, step_s = [_tokens_a_step(trial.config, backbone, trial.data.train) for trial in trials], median(steps_s)
    token_s = step_s / sum(tokens)
    if alone_s is not None:  # two points of a line, which may fall: a trial alone can make poor use of the device
        first = _tokens_a_step(one.config, backbone, one.data.train)
        token_s = min(token_s, (step_s - alone_s) / (sum(tokens) - first))
    evaluated = sum(_tokens(trial.config, backbone, trial.data.selection.lengths) for trial in trials)
    rates = _Rates(
        fixed_s=step_s - token_s * sum(tokens),
        least_s=min(step_s, alone_s or step_s),
        token_s=token_s,
        evaluated_token_s=max(0.0, median(timed.evaluations_s)) / evaluated,
        scored_token_s=score_s / _tokens(one.config, backbone, one.data.test.lengths),
        begin_s=median(begun_s),
    )
    costs = [_costs(config, rates, backbone) for config in islice(cycle(configs), len(trials))]
    figure = {
        "kind": f"{Path(one.config.task).name} with {Path(one.config.backbone).name}, "
        + ("prompts" if one.config.shares_backbone else method.name),
        "packed": len(trials),
        "steps_measured": len(steps_s) * _BLOCK[backbone.device.type],
        "step_s": step_s,
        "step_low_s": min(steps_s),
        "step_high_s": max(steps_s),
        "step_alone_s": alone_s,
        "evaluation_s": sum(cost["evaluation_s"] for cost in costs),
        "canonical_evaluation_s": max(cost["score_s"] for cost in costs),
        "begin_s": rates.begin_s,
    }
    return rates, figure, float(np.std(np.log(steps_s)))


def _short(config: TrialConfig, seed: int, backbone: Backbone) -> TrialConfig:
    """The same trial with few examples to evaluate, which never ends, and whose rate can do no harm."""
    return config.replace(
        seed=seed,
        learning_rate=1e-6,
        max_steps=10**6,
        eval_every=_BLOCKS * _BLOCK[backbone.device.type] + 1,
        selection_examples=min(config.selection_examples or _EXAMPLES, _EXAMPLES),
        test_examples=min(config.test_examples or _EXAMPLES, _EXAMPLES),
    )


class _Timed:
    """Rounds of some steps, then one with an evaluation; times of steps are as if batches were of mean length."""

    def __init__(self, advance: Callable[[], object], trials: Sequence[Trial]) -> None:
        self._advance, self._trials, self._backbone = advance, trials, trials[0].backbone
        self._mean_tokens = sum(
            min(t.config.batch_size, len(t.data.train)) * (float(t.data.train.lengths.mean()) + (t.config.length or 0))
            for t in trials
        )
        self.steps_s: list[float] = []
        self.evaluations_s: list[float] = []

    def round(self) -> None:
        blocks, block = _BLOCKS, _BLOCK[self._backbone.device.type]
        if not self.steps_s:  # the first steps take longer
            self._steps(block)
            blocks -= 1
        for _ in range(blocks):
            taken_s, as_many = self._steps(block)
            self.steps_s.append(taken_s / as_many)
        taken_s, as_many = self._steps(1)
        self.evaluations_s.append(taken_s - as_many * median(self.steps_s))

    def _steps(self, count: int) -> tuple[float, float]:
        """Seconds of so many steps, and how many of mean length they amount to."""
        before, began = self._tokens(), _now(self._backbone)
        for _ in range(count):
            self._advance()
        return _now(self._backbone) - began, (self._tokens() - before) / self._mean_tokens

    def _tokens(self) -> int:
        return sum(trial.tokens for trial in self._trials)


def _now(backbone: Backbone) -> float:
    """The time when everything asked of the device is done."""
    if backbone.device.type == "cuda":
        import torch

        torch.cuda.synchronize(backbone.device)
    return time.monotonic()


def _tokens(config: TrialConfig, backbone: Backbone, lengths: np.ndarray) -> float:
    """Tokens that texts of these lengths take in passes of a trial."""
    if not config.shares_backbone:
        return float(lengths.sum()) + len(lengths) * (config.length or 0)
    soft_prompt = methods.get(config.method).begin(backbone, config).soft_prompt()
    assert soft_prompt is not None
    each, counts = np.unique(lengths, return_counts=True)
    return float(counts @ [backbone.row_tokens(soft_prompt, int(length)) for length in each])


def _tokens_a_step(config: TrialConfig, backbone: Backbone, train: Encoded) -> float:
    """And those of the prompt itself, which may be there once for all rows."""
    rows = min(config.batch_size, len(train)) / len(train) * _tokens(config, backbone, train.lengths)
    return rows + (config.length or 0)


def _costs(config: TrialConfig, rates: _Rates, backbone: Backbone) -> dict[str, float]:
    """Seconds of a trial with all its examples."""
    from lopt import data

    read = data.prepare(config, backbone)
    return {
        "fixed_s": rates.fixed_s,
        "least_s": rates.least_s,
        "step_s": rates.token_s * _tokens_a_step(config, backbone, read.train),
        "evaluation_s": rates.evaluated_token_s * _tokens(config, backbone, read.selection.lengths),
        "begin_s": rates.begin_s,
        "score_s": rates.scored_token_s * _tokens(config, backbone, read.test.lengths),
    }
