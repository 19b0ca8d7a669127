"""How many tokens a sweep trains on and how much it writes, as far as this is known without data or weights."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import cycle, islice

from lopt import backbones, methods, tasks
from lopt.config import TrialConfig
from lopt.records import dumps
from sweeps.planning.plan import Plan
from sweeps.space import Cell

RUNNING = 16  # trials at once, of which there are checkpoints
# Bytes, as seen in finished runs: of a record and its row, of one evaluation; of an artifact's description beside the
# configuration, and of a tensor's name and shape: a prompt's, and a weight's inside its model.
_RECORD, _EVALUATION, _DESCRIPTION = 3500, 250, 550
_NAME, _LONG_NAME = 70, 120
_FLOAT, _LOGIT = 4, 8
_STATE = {"adafactor": 1, "adamw": 2}  # the optimiser's, in multiples of what is trained, at most


@dataclass(frozen=True, kw_only=True)
class Disk:
    """About how many bytes of each kind; None where that is unknown: predictions without the size of the reported
    split, and what confirm trials leave in a free search."""

    records: int
    artifacts: int | None
    predictions: int | None
    checkpoints: int

    @property
    def total(self) -> int:
        return sum(size for size in asdict(self).values() if size)


def most_tokens(plan: Plan) -> int | None:
    """A bound on the tokens, of prompts and texts, in the expected steps; None where only the data say how long their
    texts are."""
    total = 0.0
    for cell, steps in _steps(plan):
        bounds = [_tokens_a_step(config) for config in plan.space.largest(cell)]
        if None in bounds:
            return None
        total += steps * max(bound for bound in bounds if bound)
    return round(total)


def _tokens_a_step(config: TrialConfig) -> int | None:
    limits = (config.max_tokens, config.train_max_tokens, methods.get(config.method).text_limit(config.options))
    known = [limit for limit in limits if limit]
    return config.batch_size * (min(known) + (config.length or 0)) if known else None


def disk(plan: Plan) -> Disk:
    """What a run holds: records, then artifacts and predictions of confirm trials, and while it runs, checkpoints."""
    largest = [plan.space.largest(cell) for cell in plan.space.cells]
    trials = plan.search_trials + (plan.confirm_trials or 0)
    evaluations = sum(
        steps / min(config.eval_every for config in configs)
        for configs, (_, steps) in zip(largest, _steps(plan), strict=True)
    )
    seeds, artifacts, predictions = plan.space.confirm_seeds, None, None
    if plan.confirm_trials:
        artifacts = seeds * sum(max(map(_artifact, configs)) for configs in largest)
        sizes = [_predictions(configs[0]) for configs in largest]
        predictions = None if None in sizes else seeds * sum(size or 0 for size in sizes)
    kept = cycle(sorted((_checkpoint(config) for configs in largest for config in configs), reverse=True))
    return Disk(
        records=round(_RECORD * trials + _EVALUATION * evaluations),
        artifacts=artifacts,
        predictions=predictions,
        checkpoints=sum(islice(kept, min(RUNNING, trials))),  # cells, and methods, take turns
    )


def _steps(plan: Plan) -> Iterator[tuple[Cell, float]]:
    """Each cell with the steps that its trials take on average."""
    confirm = plan.space.confirm_seeds if plan.confirm_trials else 0
    for cell, planned in zip(plan.space.cells, plan.cells, strict=True):
        searched = sum(plan.space.expected_steps(n + 1) for n in range(planned.trials))
        yield cell, searched + confirm * plan.space.max_steps


def _artifact(config: TrialConfig) -> int:
    """Factors, what they make at the input, the name and shape of each tensor, and the description."""
    method, shape = methods.get(config.method), methods.shape_of(config, backbones.facts(config.backbone))
    counts = method.counts(shape)
    names = (_NAME if method.uses_length else _LONG_NAME) * method.stored_tensors(shape)
    described = len(dumps(config.to_dict()).encode()) + _DESCRIPTION
    return _float(config) * (counts.trainable + counts.materialised) + names + described


def _float(config: TrialConfig) -> int:
    """Bytes of one number of what is trained."""
    return 2 * _FLOAT if config.precision == "fp64" else _FLOAT


def _checkpoint(config: TrialConfig) -> int:
    """Factors, the best ones so far, and the optimiser's state."""
    return _float(config) * methods.counts_of(config).trainable * (2 + _STATE[str(config.optimizer)])


def _predictions(config: TrialConfig) -> int | None:
    task = tasks.get(config.task)
    whole = task.report_size and (task.report_size // 2 if config.holdout == "validation" else task.report_size)
    examples = min((n for n in (config.test_examples, whole) if n), default=None)
    return None if examples is None else examples * _LOGIT * len(task.classes)


def text(plan: Plan) -> list[str]:
    """Two lines of the plan."""
    bound, sizes, more = most_tokens(plan), disk(plan), "" if plan.confirm_trials else ", and the confirm trials'"
    tokens = "unknown before the data is read" if bound is None else f"at most about {_short(bound)}{more}"
    of = {"records": sizes.records, "artifacts": sizes.artifacts, "predictions": sizes.predictions}
    parts = [f"{name} {'unknown' if size is None else shown(size)}" for name, size in of.items()]
    return [
        f"  tokens     {tokens}",
        f"  disk       about {shown(sizes.total)}{more}: {', '.join(parts)}; "
        f"while {RUNNING} trials run, checkpoints {shown(sizes.checkpoints)}",
    ]


def _short(count: float) -> str:
    for unit, name in ((1e9, " billion"), (1e6, " million"), (1e3, ",000")):
        if count >= unit:
            return f"{count / unit:.3g}{name}" if unit > 1e3 else f"{count / unit:.0f}{name}"
    return f"{count:.0f}"


def shown(size: float) -> str:
    """Bytes for a reader."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.2g} {name}" if size < 10 * unit else f"{size / unit:.0f} {name}"
    return f"{size:.0f} bytes"
