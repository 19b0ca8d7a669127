"""Estimates how many tokens a sweep trains on and how many bytes it writes, without data and weights."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain, cycle, islice

from lopt import backbones, methods, tasks
from lopt.config import TrialConfig
from lopt.records import to_json
from sweeps.planning.decisions import test_example_count
from sweeps.planning.plan import Plan
from sweeps.space import Cell

RUNNING_TRIAL_COUNT = 16  # trials that run at once in this estimate; each has a checkpoint
# Sizes as measured in finished runs: a record with its row in the run's table, and one evaluation in the record.
_RECORD_BYTES, _EVALUATION_BYTES = 3500, 250
_DESCRIPTION_BYTES = 550  # an artifact's description, without the configuration
# Size of the name and shape of one tensor in the header of a safetensors file: a prompt's tensor, and a model's weight.
_PROMPT_TENSOR_HEADER_BYTES, _WEIGHT_HEADER_BYTES = 70, 120
_FLOAT_BYTES, _LOGIT_BYTES = 4, 8  # logits are stored as float64
# Largest number of values that an optimiser keeps for each trained parameter.
_OPTIMIZER_VALUES_PER_PARAMETER = {"adafactor": 1, "adamw": 2}


@dataclass(frozen=True, kw_only=True)
class DiskUse:
    """An estimate of the bytes that a run takes on disk.

    Attributes:
        records: Bytes of all records.
        artifacts: Bytes of all artifacts; None in a free search, whose confirm trials are unknown beforehand.
        predictions: Bytes of all predictions; None in a free search, or if the size of the reported split is unknown.
        checkpoints: Bytes of all checkpoints, which are kept only while the run lasts.
    """

    records: int
    artifacts: int | None
    predictions: int | None
    checkpoints: int

    @property
    def total(self) -> int:
        """Sum of what is known."""
        return sum(size for size in asdict(self).values() if size)


def most_tokens(plan: Plan) -> int | None:
    """Return an upper bound on the tokens (of prompts and texts) in all steps that are expected. Return None if no
    limit on the length of the texts is known before the data is read."""
    token_count = 0.0
    for cell, steps in _expected_steps(plan):
        token_counts = [_most_tokens_per_step(config) for config in plan.space.largest_configs(cell)]
        if None in token_counts:
            return None
        token_count += steps * max(count for count in token_counts if count)
    return round(token_count)


def _most_tokens_per_step(config: TrialConfig) -> int | None:
    """Return an upper bound on the tokens of a step; None if the length of the texts has no known limit."""
    token_limits = (config.max_tokens, config.train_max_tokens, methods.get(config.method).text_limit(config.options))
    known_token_limits = [limit for limit in token_limits if limit]
    return config.batch_size * (min(known_token_limits) + (config.length or 0)) if known_token_limits else None


def disk_use(plan: Plan) -> DiskUse:
    """Return the bytes that a run takes on disk: the records, the artifacts and predictions of confirm trials, and the
    checkpoints."""
    configs_by_cell = [plan.space.largest_configs(cell) for cell in plan.space.cells]
    trial_count = plan.search_trial_count + (plan.confirm_trial_count or 0)
    evaluation_count = sum(
        steps / min(config.eval_every for config in configs)
        for configs, (_, steps) in zip(configs_by_cell, _expected_steps(plan), strict=True)
    )
    seed_count, artifacts, predictions = plan.most_seeds, None, None
    if plan.confirm_trial_count:
        artifacts = seed_count * sum(max(map(_artifact_bytes, configs)) for configs in configs_by_cell)
        prediction_sizes = [_prediction_bytes(configs[0]) for configs in configs_by_cell]
        predictions = None if None in prediction_sizes else seed_count * sum(size or 0 for size in prediction_sizes)
    checkpoint_sizes = sorted(map(_checkpoint_bytes, chain.from_iterable(configs_by_cell)), reverse=True)
    return DiskUse(
        records=round(_RECORD_BYTES * trial_count + _EVALUATION_BYTES * evaluation_count),
        artifacts=artifacts,
        predictions=predictions,
        # Cells take turns to start trials, and so do the methods of a cell. So the sizes are repeated in turn.
        checkpoints=sum(islice(cycle(checkpoint_sizes), min(RUNNING_TRIAL_COUNT, trial_count))),
    )


def _expected_steps(plan: Plan) -> Iterator[tuple[Cell, float]]:
    """Yield each cell with the expected number of steps of all its trials together."""
    confirm_count = plan.most_seeds if plan.confirm_trial_count else 0
    for cell, cell_plan in zip(plan.space.cells, plan.cells, strict=True):
        search_steps = plan.search_steps_by_trial_count[cell_plan.trial_count]
        yield cell, search_steps + confirm_count * plan.space.max_steps


def _artifact_bytes(config: TrialConfig) -> int:
    """Return the size of an artifact: the factors, their product at the input, the name and shape of each tensor, and
    the description."""
    method, shape = methods.get(config.method), methods.shape_of(config, backbones.facts(config.backbone))
    counts = method.counts(shape)
    bytes_per_name = _PROMPT_TENSOR_HEADER_BYTES if method.uses_length else _WEIGHT_HEADER_BYTES
    name_bytes = bytes_per_name * method.stored_tensor_count(shape)
    description_bytes = len(to_json(config.to_dict()).encode()) + _DESCRIPTION_BYTES
    return _bytes_per_parameter(config) * (counts.trainable + counts.materialised) + name_bytes + description_bytes


def _bytes_per_parameter(config: TrialConfig) -> int:
    """Return the size of one trained parameter."""
    return 2 * _FLOAT_BYTES if config.precision == "fp64" else _FLOAT_BYTES


def _checkpoint_bytes(config: TrialConfig) -> int:
    """Return the size of a checkpoint: the factors, the best factors so far, and the optimiser's state."""
    values_per_parameter = 2 + _OPTIMIZER_VALUES_PER_PARAMETER[str(config.optimizer)]
    return _bytes_per_parameter(config) * methods.counts_of(config).trainable * values_per_parameter


def _prediction_bytes(config: TrialConfig) -> int | None:
    """Return the size of a confirm trial's predictions; None if the size of the reported split is unknown."""
    example_count = test_example_count(config)
    return None if example_count is None else example_count * _LOGIT_BYTES * len(tasks.get(config.task).classes)


def size_lines(plan: Plan) -> list[str]:
    """Return the plan's two lines on tokens and disk."""
    tokens, disk = most_tokens(plan), disk_use(plan)
    suffix = "" if plan.confirm_trial_count else ", plus the confirm trials"
    token_text = (
        "unknown before the data is read" if tokens is None else f"at most about {_format_count(tokens)}{suffix}"
    )
    sizes = {"records": disk.records, "artifacts": disk.artifacts, "predictions": disk.predictions}
    size_texts = [f"{name} {'unknown' if size is None else format_bytes(size)}" for name, size in sizes.items()]
    return [
        f"  tokens     {token_text}",
        f"  disk       about {format_bytes(disk.total)}{suffix}: {', '.join(size_texts)}, "
        f"checkpoints {format_bytes(disk.checkpoints)} (while {RUNNING_TRIAL_COUNT} trials run)",
    ]


def _format_count(count: float) -> str:
    for unit, name in ((1e9, " billion"), (1e6, " million"), (1e3, ",000")):
        if count >= unit:
            return f"{count / unit:.3g}{name}" if unit > 1e3 else f"{count / unit:.0f}{name}"
    return f"{count:.0f}"


def format_bytes(size: float) -> str:
    """Return a number of bytes as text, in bytes, kB, MB or GB."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.2g} {name}" if size < 10 * unit else f"{size / unit:.0f} {name}"
    return f"{size:.0f} bytes"
