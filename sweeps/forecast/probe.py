"""The prediction of how long a sweep will take.

`sweeps.forecast.measure` measures the costs of trials where they would train, and `sweeps.forecast.simulate` simulates
the sweep with these costs. The printed range has a width because the simulations differ, and because
the measured steps differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from lopt import backbones, methods
from lopt.config import TrialConfig
from lopt.low_rank import cut_ranks
from lopt.ranges import Choice, Range, Real
from sweeps.progress import format_duration

if TYPE_CHECKING:
    from lopt.records import TrialRecord
    from sweeps.space import Cell, Space

_SAMPLE_COUNT = 40  # number of configurations that represent a cell whose trials differ in more than learning rates
# The spread has a lower limit, because a shared machine differs more from hour to hour than from step to step. It has
# an upper limit, because a range that contains every duration says nothing.
_MIN_SPREAD, _MAX_SPREAD = 0.08, 0.15
# On a machine without a GPU, two things take time from the training steps: the driver, and the start of trials'
# processes. In four runs the demo's ablation took 1.03 to 1.20 times as long as its steps alone would suggest (LOG.md).
CPU_SLOWDOWN = 1.1


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The machines on which a sweep runs.

    Attributes:
        device_count: the number of GPUs, or of nodes without a GPU.
        max_concurrent: the largest number of trials that run at once.
        shared_share: the share of a device that a trial with a shared backbone takes; None if no trials share
            a backbone.
        solo_share: the share of a device that any other trial takes.
        measure_start_s: returns the seconds until the first trial begins, without the time for the baselines.
        measure: runs `sweeps.forecast.measure.measure` on configurations, where they would train.
        slowdown: the factor by which everything takes longer in a sweep than in the measurement.
    """

    device_count: int
    max_concurrent: int
    shared_share: float | None
    solo_share: float
    measure_start_s: Callable[[], float]
    measure: Callable[[list[TrialConfig]], Mapping[str, Any]]
    slowdown: float = 1.0


def predict(
    space: Space,
    resources: Resources,
    *,
    resolve: Callable[[TrialConfig], TrialConfig],
    baselines: Sequence[TrialConfig],
    finished: Sequence[TrialRecord],
    audit_share: float = 0.0,
    audited_steps: Mapping[str, int] = MappingProxyType({}),
    price_per_hour: float | None = None,
    most_seeds: int | None = None,
) -> dict[str, Any]:
    """Predict the rest of a sweep; return the prediction in the form of `probe.json`.

    Args:
        resolve: fills in the precision and the revisions of a configuration.
        baselines: trials whose zero-shot baseline is still to be scored.
        finished: records of trials that earlier commands have finished.
        audit_share, audited_steps: as for `EarlyStopping`.
        price_per_hour: the price of the machines, in any currency.
        most_seeds: the most confirm seeds of a cell, if the sweep adds seeds until it is decided; else None. Then the
            prediction says how long it takes with these, too.
    """
    from sweeps.forecast.cost import Cost
    from sweeps.forecast.simulate import HIGH, LOW, Forecast, forecast

    slowdown, device_count = resources.slowdown, resources.device_count
    cells_and_configs = [(cell, resolve(config)) for cell in space.cells for config in sample_configs(space, cell)]
    measurement = resources.measure([config for _, config in cells_and_configs])
    costs_by_cell: dict[str, list[Cost]] = {cell.name: [] for cell in space.cells}
    baseline_s_by_backbone_and_task: dict[tuple[str, str], float] = {}
    for (cell, config), measured_times in zip(cells_and_configs, measurement["costs"], strict=True):
        shares_device = resources.shared_share is not None and config.shares_backbone
        shared_share = resources.shared_share
        device_share = shared_share if shares_device and shared_share else resources.solo_share
        stratum = space.stratum(cell, config)
        times = {name: slowdown * seconds for name, seconds in measured_times.items()}
        baseline_s_by_backbone_and_task[config.backbone, config.task] = times["score_s"]
        times["score_s"] *= 1 + _cut_count(config)
        costs_by_cell[cell.name].append(
            Cost(
                stratum=stratum,
                shares_device=shares_device,
                device_share=device_share,
                eval_every=config.eval_every,
                **times,
            )
        )
    has_cuts = any(_cut_count(config) for _, config in cells_and_configs)
    start_s = resources.measure_start_s()
    start_s += sum(baseline_s_by_backbone_and_task.get((config.backbone, config.task), 0.0) for config in baselines)
    spread = min(max(measurement["spread"], _MIN_SPREAD), _MAX_SPREAD)

    def rest_with(seeds: int) -> Forecast:
        return forecast(
            replace(space, confirm_seeds=seeds),
            list(costs_by_cell.values()),
            device_count=device_count,
            max_concurrent=resources.max_concurrent,
            spread=spread,
            start_s=start_s,
            finished=finished,
            audit_share=audit_share,
            audited_steps=audited_steps,
        )

    rest = rest_with(space.confirm_seeds)
    longest_rest = rest_with(most_seeds) if most_seeds else None
    price_per_s = (price_per_hour or 0.0) / 3600
    low_price, high_price = price_per_s * rest.low_s, price_per_s * rest.high_s
    price_range = {"per_hour": price_per_hour, "low": low_price, "high": high_price}
    return {
        "seconds": {"low": rest.low_s, "median": rest.median_s, "high": rest.high_s},
        **({"seconds_with_most_seeds": longest_rest.median_s} if longest_rest else {}),
        "price": None if price_per_hour is None else price_range,
        "trials_done": len(finished),
        "trials": len(finished) + rest.trial_count,
        "steps": rest.step_count,
        "start_s": start_s,
        "devices": device_count,
        "concurrent": resources.max_concurrent,
        "spread": spread,
        "measured": measurement["figures"],
        "hardware": measurement["hardware"],
        "assumptions": [
            f"{round(100 * (HIGH - LOW))} % of sweeps simulated with random qualities of trials end within the range",
            f"one factor, common to all steps of a sweep, makes them slower or faster (standard deviation "
            f"{100 * spread:.0f} %)",
            *([f"in a sweep everything takes {slowdown:g} times as long as measured"] if slowdown != 1 else []),
            "no trial fails, diverges or is tried again",
            *(["a confirmed full prompt is scored again after each cut to a lower rank"] if has_cuts else []),
            *(["the sweep ends with its first look"] if most_seeds else []),
            *([f"all {device_count} devices are like the measured one"] if device_count > 1 else []),
        ],
    }


def _cut_count(config: TrialConfig) -> int:
    """Return how often the prompt of a confirm trial is scored again, each time cut to a lower rank."""
    if not methods.get(config.method).trains_whole_prompt:
        return 0
    return len(cut_ranks(config.length or 0, backbones.facts(config.backbone).width))


def resources_of_this_process(elapsed_s: float) -> Resources:
    """Return the resources of this process, in which trials run one at a time.

    Args:
        elapsed_s: time since the command began.
    """
    from sweeps.forecast.measure import measure

    return Resources(
        device_count=1,
        max_concurrent=1,
        shared_share=None,
        solo_share=1.0,
        measure_start_s=lambda: elapsed_s,
        measure=lambda configs: measure([config.to_dict() for config in configs], None, None),
    )


def sample_configs(space: Space, cell: Cell) -> list[TrialConfig]:
    """Return trials that represent a cell: random ones if trials differ in more than learning rates, or else one."""
    if all(name.endswith("learning_rate") for name in cell.search):
        return [space.sample_config(cell)]
    generator = np.random.default_rng(0)

    def random_point() -> dict[str, Any]:
        return {name: _random_value(searched_range, generator) for name, searched_range in cell.search.items()}

    return [space.config(cell, random_point(), seed=0) for _ in range(_SAMPLE_COUNT)]


def _random_value(searched_range: Range, generator: np.random.Generator) -> Any:
    if isinstance(searched_range, Choice):
        return searched_range.values[generator.integers(len(searched_range.values))]
    ends = np.array([searched_range.low, searched_range.high])
    low, high = (np.log(ends) if searched_range.log else ends).tolist()
    value = generator.uniform(low, high)
    value = float(np.exp(value)) if searched_range.log else value
    return min(
        max(value if isinstance(searched_range, Real) else round(value), searched_range.low), searched_range.high
    )


def prediction_text(prediction: Mapping[str, Any]) -> str:
    """Return a prediction as text to be printed."""
    seconds, price, hardware = prediction["seconds"], prediction["price"], prediction["hardware"]
    machine_text = (
        hardware.get("gpu") or f"{hardware.get('cpu') or hardware['machine']}, {hardware.get('threads')} threads"
    )
    lines = [f"measured on {machine_text}:"]
    for figure in prediction["measured"]:
        trials_text = f"{figure['packed']} trials together" if figure["packed"] > 1 else "one trial"
        alone_text = (
            f"; {_short_duration(figure['step_alone_s'])} for one alone" if figure["step_alone_s"] is not None else ""
        )
        lines.append(
            f"  {figure['kind']}: a step of {trials_text} takes {_short_duration(figure['step_s'])} "
            f"({_short_duration(figure['step_low_s'])} to {_short_duration(figure['step_high_s'])}{alone_text}), "
            f"an evaluation {_short_duration(figure['evaluation_s'])}, "
            f"and scoring the reported split {_short_duration(figure['canonical_evaluation_s'])}"
        )
    lines.append(f"  the start-up takes {_short_duration(prediction['start_s'])}")
    price_text = (
        f"; the price is {price['low']:.2f} to {price['high']:.2f} at {price['per_hour']:g} an hour" if price else ""
    )
    trial_count, finished_count = prediction["trials"], prediction["trials_done"]
    subject_text = (
        f"{finished_count} of {trial_count} trials are finished; the rest takes"
        if finished_count
        else f"all {trial_count} trials take"
    )
    lines.append(
        f"prediction: {subject_text} {format_duration(seconds['low'])} to {format_duration(seconds['high'])}, "
        f"probably about {format_duration(seconds['median'])}{price_text}"
    )
    if (longest_s := prediction.get("seconds_with_most_seeds")) is not None:
        lines.append(f"with the most seeds of each cell, it takes about {format_duration(longest_s)}")
    return "\n".join([*lines, *(f"  ({assumption})" for assumption in prediction["assumptions"])])


def _short_duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s" if seconds >= 0.1 else f"{1000 * seconds:.2g} ms"
