"""What trials cost on the device on which they would train.

For each kind of trial, a few steps are measured: in the engine with as many trials as the sweep packs, or in the plain
loop if trials of this kind train alone. Two kinds of evaluation are measured, too, on a part of the examples: that of
held-out examples during training, and the canonical one, which scores a confirmed trial on the reported split.
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
    from lopt.encoding import EncodedExamples
    from lopt.training import Trial

MIN_MEASURING_S = 6.0  # the steps of each kind of trial are measured for at least this time
_STEPS_PER_BLOCK = {"cpu": 1, "cuda": 10}  # the clock is read after each block, when a GPU has finished its work
_BLOCKS_PER_ROUND = 3  # after these blocks, a step with an evaluation ends the round
_MIN_ROUNDS = 2
_MAX_EXAMPLES = 64  # if a trial evaluates more, this many are measured, and the time of all is estimated
_RECIPE_FIELDS = ("learning_rate", "optimizer", "schedule", "warmup", "weight_decay")


@dataclass(frozen=True)
class _Rates:
    """Times of one kind of trial, in seconds."""

    fixed_s: float  # the part of a step's time that does not depend on the number of tokens
    min_step_s: float  # no step takes less time
    token_s: float  # time of a token in a training step
    evaluated_token_s: float  # time of a token in an evaluation
    scored_token_s: float  # time of a token in the canonical evaluation
    begin_s: float  # time to begin a trial


def measure(configs: Sequence[Mapping[str, Any]], packed_count: int | None, thread_count: int | None) -> dict[str, Any]:
    """Measure what trials cost on this device.

    Args:
        configs: resolved configurations.
        packed_count: the number of trials with a shared backbone that train together; None measures the plain loop.
        thread_count: the number of processor threads; None leaves the present number.

    Returns:
        `costs`: for each configuration, the fields of `sweeps.forecast.simulate.Cost` that are times in seconds.
        `figures`: for each kind of trial, the measurements to be printed.
        `spread`: the standard deviation of the logarithm of a step's time; the largest among the kinds of trial.
        `hardware`: the machine, as in records.
    """
    from lopt import backbones
    from lopt.records import collect_provenance

    set_threads(thread_count)
    trial_configs = [TrialConfig.from_dict(values) for values in configs]
    indices_by_kind: dict[tuple[object, ...], list[int]] = {}
    for index, config in enumerate(trial_configs):
        indices_by_kind.setdefault(_kind_key(config), []).append(index)
    cost_by_index: dict[int, dict[str, float]] = {}
    figures, spreads = [], []
    for indices in indices_by_kind.values():
        rates, figure, spread = _measure_kind([trial_configs[index] for index in indices], packed_count)
        figures.append(figure)
        spreads.append(spread)
        for index in indices:
            config = trial_configs[index]
            precision = methods.get(config.method).weights_precision(config.precision)
            cost_by_index[index] = _costs(config, rates, backbones.load(config.backbone, precision))
        release_memory()
    return {
        "costs": [cost_by_index[index] for index in range(len(trial_configs))],
        "figures": figures,
        "spread": max(spreads),
        "hardware": collect_provenance()["hardware"],
    }


def _kind_key(config: TrialConfig) -> tuple[object, ...]:
    """Return a key that trials share if they read the same texts and need the same time for a token."""
    ignored_fields = ("method", "length", "rank", "options", "seed", "dropout", *_RECIPE_FIELDS)
    settings = {name: value for name, value in config.to_dict().items() if name not in ignored_fields}
    pass_kind = config.options.get("placement") if config.shares_backbone else config.method
    return (pass_kind, bool(config.dropout), *map(str, settings.values()))


def _measure_kind(configs: Sequence[TrialConfig], packed_count: int | None) -> tuple[_Rates, dict[str, Any], float]:
    """Measure trials of one kind; return their rates, the figures to be printed, and the spread of a step's time."""
    from lopt import backbones
    from lopt.engine import Engine
    from lopt.evaluation import predict_split
    from lopt.training import Trial

    method = methods.get(configs[0].method)
    backbone = backbones.load(configs[0].backbone, method.weights_precision(configs[0].precision))
    begin_times_s: list[float] = []

    def begin_trial(config: TrialConfig) -> Trial:
        began_at_s = time.monotonic()
        trial = Trial(_config_to_measure(config, len(begin_times_s), backbone), phase="search")
        begin_times_s.append(time.monotonic() - began_at_s)
        return trial

    def engine_loop(trials: Sequence[Trial]) -> _TimedLoop:
        engine = Engine()
        for trial in trials:
            engine.admit(trial)
        return _TimedLoop(engine.advance, trials)

    first_trial, alone_loop = begin_trial(configs[0]), None
    if packed_count is None or not configs[0].shares_backbone:
        trials = [first_trial]
        loop = _TimedLoop(first_trial.advance, trials)
    else:
        trials = [begin_trial(config) for config in islice(cycle(configs), packed_count)]
        loop = engine_loop(trials)
        alone_loop = engine_loop([first_trial]) if packed_count > 1 else None
    began_at_s = time.monotonic()
    while len(loop.evaluation_times_s) < _MIN_ROUNDS or time.monotonic() - began_at_s < MIN_MEASURING_S:
        loop.run_round()
        if alone_loop:  # the loops take turns, since other work may slow the machine for a while
            alone_loop.run_round()
    step_times_s, alone_step_s = loop.step_times_s, median(alone_loop.step_times_s) if alone_loop else None
    for _ in range(2):  # the first pass of any shape takes longer, so the second one counts
        began_at_s = _synchronised_time(backbone)
        predict_split(first_trial.backbone, first_trial.soft_prompt(), first_trial.data.test, first_trial.label_ids)
        score_s = _synchronised_time(backbone) - began_at_s
    step_token_counts = [_step_tokens(trial.config, backbone, trial.data.train) for trial in trials]
    step_s = median(step_times_s)
    token_s = step_s / sum(step_token_counts)
    if alone_step_s is not None:
        # The slope of the line through two measured points. It is negative if one trial alone uses the device poorly.
        alone_step_token_count = _step_tokens(first_trial.config, backbone, first_trial.data.train)
        token_s = min(token_s, (step_s - alone_step_s) / (sum(step_token_counts) - alone_step_token_count))
    evaluated_token_count = sum(
        _pass_tokens(trial.config, backbone, trial.data.selection.token_counts) for trial in trials
    )
    rates = _Rates(
        fixed_s=step_s - token_s * sum(step_token_counts),
        min_step_s=min(step_s, alone_step_s or step_s),
        token_s=token_s,
        evaluated_token_s=max(0.0, median(loop.evaluation_times_s)) / evaluated_token_count,
        scored_token_s=score_s / _pass_tokens(first_trial.config, backbone, first_trial.data.test.token_counts),
        begin_s=median(begin_times_s),
    )
    costs = [_costs(config, rates, backbone) for config in islice(cycle(configs), len(trials))]
    task, backbone_name = Path(first_trial.config.task).name, Path(first_trial.config.backbone).name
    figure = {
        "kind": f"{task} with {backbone_name}, {'prompts' if first_trial.config.shares_backbone else method.name}",
        "packed": len(trials),
        "steps_measured": len(step_times_s) * _STEPS_PER_BLOCK[backbone.device.type],
        "step_s": step_s,
        "step_low_s": min(step_times_s),
        "step_high_s": max(step_times_s),
        "step_alone_s": alone_step_s,
        "evaluation_s": sum(cost["evaluation_s"] for cost in costs),
        "canonical_evaluation_s": max(cost["score_s"] for cost in costs),
        "begin_s": rates.begin_s,
    }
    return rates, figure, float(np.std(np.log(step_times_s)))


def _config_to_measure(config: TrialConfig, seed: int, backbone: Backbone) -> TrialConfig:
    """Return the trial with other limits: it never ends, evaluates few examples, and learns too slowly to diverge."""
    return config.replace(
        seed=seed,
        learning_rate=1e-6,
        max_steps=10**6,
        restarts=0,  # with restarts, a trial is not evaluated before half of its steps
        eval_every=_BLOCKS_PER_ROUND * _STEPS_PER_BLOCK[backbone.device.type] + 1,
        selection_examples=min(config.selection_examples or _MAX_EXAMPLES, _MAX_EXAMPLES),
        test_examples=min(config.test_examples or _MAX_EXAMPLES, _MAX_EXAMPLES),
    )


class _TimedLoop:
    """A training loop whose steps and evaluations are timed.

    A round consists of some blocks of steps, and then one step with an evaluation. The time of a step is scaled to a
    batch whose texts have the mean length of the training examples.
    """

    def __init__(self, advance: Callable[[], object], trials: Sequence[Trial]) -> None:
        self._advance, self._trials, self._backbone = advance, trials, trials[0].backbone
        self._mean_step_tokens = 0.0
        for trial in trials:
            config, lengths = trial.config, trial.data.train.token_counts
            self._mean_step_tokens += min(config.batch_size, len(lengths)) * (
                float(lengths.mean()) + (config.length or 0)
            )
        self.step_times_s: list[float] = []
        self.evaluation_times_s: list[float] = []

    def run_round(self) -> None:
        block_count, steps_per_block = _BLOCKS_PER_ROUND, _STEPS_PER_BLOCK[self._backbone.device.type]
        if not self.step_times_s:  # the first steps take longer and do not count
            self._time_steps(steps_per_block)
            block_count -= 1
        for _ in range(block_count):
            elapsed_s, mean_step_count = self._time_steps(steps_per_block)
            self.step_times_s.append(elapsed_s / mean_step_count)
        elapsed_s, mean_step_count = self._time_steps(1)
        self.evaluation_times_s.append(elapsed_s - mean_step_count * median(self.step_times_s))

    def _time_steps(self, step_count: int) -> tuple[float, float]:
        """Make steps. Return the seconds they took, and how many steps of mean length have as many tokens."""
        token_count_before, began_at_s = self._trained_tokens(), _synchronised_time(self._backbone)
        for _ in range(step_count):
            self._advance()
        elapsed_s = _synchronised_time(self._backbone) - began_at_s
        return elapsed_s, (self._trained_tokens() - token_count_before) / self._mean_step_tokens

    def _trained_tokens(self) -> int:
        return sum(trial.tokens for trial in self._trials)


def _synchronised_time(backbone: Backbone) -> float:
    """Wait until the device has finished all its work; return the time in seconds."""
    if backbone.device.type == "cuda":
        import torch

        torch.cuda.synchronize(backbone.device)
    return time.monotonic()


def _pass_tokens(config: TrialConfig, backbone: Backbone, lengths: np.ndarray) -> float:
    """Return the number of tokens that a trial's passes compute for texts of these lengths."""
    if not config.shares_backbone:
        return float(lengths.sum()) + len(lengths) * (config.length or 0)
    soft_prompt = methods.get(config.method).begin(backbone, config).soft_prompt()
    assert soft_prompt is not None
    distinct_lengths, counts = np.unique(lengths, return_counts=True)
    return float(counts @ [backbone.token_count_of_row(soft_prompt, int(length)) for length in distinct_lengths])


def _step_tokens(config: TrialConfig, backbone: Backbone, train: EncodedExamples) -> float:
    """Return the mean number of tokens of a training step.

    The tokens of one soft prompt are added, because all rows of a pass may share it.
    """
    row_tokens = min(config.batch_size, len(train)) / len(train) * _pass_tokens(config, backbone, train.token_counts)
    return row_tokens + (config.length or 0)


def _costs(config: TrialConfig, rates: _Rates, backbone: Backbone) -> dict[str, float]:
    """Return the times of a trial, in seconds. Evaluations are those of all its examples, not of the measured part."""
    from lopt import data

    trial_data, held_out = data.prepare_data(config, backbone), data.prepare_held_out(config, backbone)
    scored_counts = held_out.token_counts if len(held_out) > len(trial_data.selection) else np.zeros(0, dtype=np.int64)
    return {
        "fixed_s": rates.fixed_s,
        "min_step_s": rates.min_step_s,
        "step_s": rates.token_s * _step_tokens(config, backbone, trial_data.train),
        "evaluation_s": rates.evaluated_token_s * _pass_tokens(config, backbone, trial_data.selection.token_counts),
        "begin_s": rates.begin_s,
        "score_s": rates.scored_token_s * _pass_tokens(config, backbone, trial_data.test.token_counts),
        "held_out_s": rates.scored_token_s * _pass_tokens(config, backbone, scored_counts),
    }
