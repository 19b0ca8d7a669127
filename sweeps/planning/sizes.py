"""Estimates how many tokens a sweep trains on and how many bytes it writes, as far as this is known without data or
weights."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import cycle, islice

from lopt import backbones, methods, tasks
from lopt.config import TrialConfig
from lopt.records import dumps
from sweeps.planning.plan import Plan
from sweeps.space import Cell

RUNNING_TRIALS = 16  # number of trials at once, each of which has a checkpoint
# Bytes, as measured in finished runs.
_RECORD, _EVALUATION = 3500, 250  # a record with its row of the table; one evaluation
_DESCRIPTION = 550  # an artifact's description, without the configuration
_TENSOR_NAME, _WEIGHT_NAME = 70, 120  # name and shape of a tensor: of a prompt; of a weight inside its model
_FLOAT, _LOGIT = 4, 8
# Largest size of the optimiser's state, in multiples of the trained parameters.
_OPTIMIZER_STATE = {"adafactor": 1, "adamw": 2}


@dataclass(frozen=True, kw_only=True)
class DiskUse:
    """About how many bytes a run takes on disk.

    Attributes:
        artifacts: None in a free search, whose confirm trials are unknown beforehand.
        predictions: None in a free search, and if the size of the reported split is unknown.
        checkpoints: Only while the run lasts.
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
    """Return a bound on the tokens of prompts and texts in the expected steps; None if only the data say how long their
    texts are."""
    total = 0.0
    for cell, steps in _expected_steps(plan):
        bounds = [_most_tokens_per_step(config) for config in plan.space.largest_trials(cell)]
        if None in bounds:
            return None
        total += steps * max(bound for bound in bounds if bound)
    return round(total)


def _most_tokens_per_step(config: TrialConfig) -> int | None:
    limits = (config.max_tokens, config.train_max_tokens, methods.get(config.method).text_limit(config.options))
    known_limits = [limit for limit in limits if limit]
    return config.batch_size * (min(known_limits) + (config.length or 0)) if known_limits else None


def disk_use(plan: Plan) -> DiskUse:
    """Return how much a run takes on disk: records, artifacts and predictions of confirm trials, and, while it runs,
    checkpoints."""
    largest_by_cell = [plan.space.largest_trials(cell) for cell in plan.space.cells]
    trials = plan.search_trials + (plan.confirm_trials or 0)
    evaluations = sum(
        steps / min(config.eval_every for config in configs)
        for configs, (_, steps) in zip(largest_by_cell, _expected_steps(plan), strict=True)
    )
    seeds, artifacts, predictions = plan.space.confirm_seeds, None, None
    if plan.confirm_trials:
        artifacts = seeds * sum(max(map(_artifact_bytes, configs)) for configs in largest_by_cell)
        sizes = [_prediction_bytes(configs[0]) for configs in largest_by_cell]
        predictions = None if None in sizes else seeds * sum(size or 0 for size in sizes)
    checkpoints = sorted((_checkpoint_bytes(config) for configs in largest_by_cell for config in configs), reverse=True)
    return DiskUse(
        records=round(_RECORD * trials + _EVALUATION * evaluations),
        artifacts=artifacts,
        predictions=predictions,
        # Cells, and methods, take turns.
        checkpoints=sum(islice(cycle(checkpoints), min(RUNNING_TRIALS, trials))),
    )


def _expected_steps(plan: Plan) -> Iterator[tuple[Cell, float]]:
    """Yield each cell with the number of steps that its trials take on average."""
    confirm_trials = plan.space.confirm_seeds if plan.confirm_trials else 0
    for cell, cell_plan in zip(plan.space.cells, plan.cells, strict=True):
        search_steps = sum(plan.space.expected_steps(position) for position in range(1, cell_plan.trials + 1))
        yield cell, search_steps + confirm_trials * plan.space.max_steps


def _artifact_bytes(config: TrialConfig) -> int:
    """Return the size of an artifact: the factors, their product at the input, the name and shape of each tensor, and
    the description."""
    method, shape = methods.get(config.method), methods.shape_of(config, backbones.facts(config.backbone))
    counts = method.counts(shape)
    names = (_TENSOR_NAME if method.uses_length else _WEIGHT_NAME) * method.stored_tensor_count(shape)
    description = len(dumps(config.to_dict()).encode()) + _DESCRIPTION
    return _number_bytes(config) * (counts.trainable + counts.materialised) + names + description


def _number_bytes(config: TrialConfig) -> int:
    """Return the size of one trained number."""
    return 2 * _FLOAT if config.precision == "fp64" else _FLOAT


def _checkpoint_bytes(config: TrialConfig) -> int:
    """Return the size of a checkpoint: the factors, the best factors so far, and the optimiser's state."""
    copies = 2 + _OPTIMIZER_STATE[str(config.optimizer)]
    return _number_bytes(config) * methods.counts_of(config).trainable * copies


def _prediction_bytes(config: TrialConfig) -> int | None:
    """Return the size of a confirm trial's predictions; None if the size of the reported split is unknown."""
    task = tasks.get(config.task)
    reported = task.report_size and (task.report_size // 2 if config.holdout == "validation" else task.report_size)
    examples = min((count for count in (config.test_examples, reported) if count), default=None)
    return None if examples is None else examples * _LOGIT * len(task.classes)


def size_lines(plan: Plan) -> list[str]:
    """Return the plan's two lines on tokens and disk."""
    tokens, disk = most_tokens(plan), disk_use(plan)
    confirm = "" if plan.confirm_trials else ", plus the confirm trials"
    token_text = (
        "unknown before the data is read" if tokens is None else f"at most about {_format_count(tokens)}{confirm}"
    )
    sizes = {"records": disk.records, "artifacts": disk.artifacts, "predictions": disk.predictions}
    parts = [f"{name} {'unknown' if size is None else format_bytes(size)}" for name, size in sizes.items()]
    return [
        f"  tokens     {token_text}",
        f"  disk       about {format_bytes(disk.total)}{confirm}: {', '.join(parts)}, "
        f"checkpoints {format_bytes(disk.checkpoints)} (while {RUNNING_TRIALS} trials run)",
    ]


def _format_count(count: float) -> str:
    for unit, name in ((1e9, " billion"), (1e6, " million"), (1e3, ",000")):
        if count >= unit:
            return f"{count / unit:.3g}{name}" if unit > 1e3 else f"{count / unit:.0f}{name}"
    return f"{count:.0f}"


def format_bytes(size: float) -> str:
    """Return a number of bytes in a unit that reads well."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.2g} {name}" if size < 10 * unit else f"{size / unit:.0f} {name}"
    return f"{size:.0f} bytes"
