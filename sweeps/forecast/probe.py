"""The prediction of how long a sweep will take.

`sweeps.forecast.measure` measures the costs of trials where they would train, and `sweeps.forecast.play` simulates the
sweep with these costs. The range that is printed has two sources: the spread between simulations, and the spread
of the measured steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from lopt.config import TrialConfig
from lopt.ranges import Choice, Range, Real
from sweeps.progress import format_duration

if TYPE_CHECKING:
    from lopt.records import TrialRecord
    from sweeps.space import Cell, Space

_POINTS = 40  # configurations measured for a cell whose trials differ in more than their learning rates
# The lower limit: a shared machine differs more from hour to hour than from step to step. The upper limit: a range that
# contains every duration says nothing.
_LEAST_SPREAD, _MOST_SPREAD = 0.08, 0.15
# On a machine without a GPU, the driver and the starts of the trials' processes take time from the training steps. In
# four runs the demo's ablation took 1.03 to 1.20 times as long as its steps alone would suggest (LOG.md).
BESIDE_ON_CPU = 1.1


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The machines on which a sweep runs.

    Attributes:
        devices: number of GPUs, or of nodes without a GPU.
        concurrent: number of trials that run at once.
        shared: the share of a device that a trial with a shared backbone takes; None if no backbone is shared.
        alone: the share of a device that any other trial takes.
        start_s: returns the time until the first trial begins, without the baselines.
        measure: runs `sweeps.forecast.measure.measure` on configurations, where they would train.
        slower: how many times as long everything takes in a sweep as in the measurement.
    """

    devices: int
    concurrent: int
    shared: float | None
    alone: float
    start_s: Callable[[], float]
    measure: Callable[[list[TrialConfig]], Mapping[str, Any]]
    slower: float = 1.0


def predict(
    space: Space,
    resources: Resources,
    *,
    resolve: Callable[[TrialConfig], TrialConfig],
    baselines: Sequence[TrialConfig],
    finished: Sequence[TrialRecord],
    audit: float = 0.0,
    audited: Mapping[str, int] = MappingProxyType({}),
    price_per_hour: float | None = None,
) -> dict[str, Any]:
    """Predict the rest of a sweep; return the prediction in the form of `probe.json`.

    Args:
        resolve: fills in the precision and the revisions of a configuration.
        baselines: trials whose zero-shot baseline is still to be scored.
        finished: records of trials that earlier commands have finished.
        audit, audited: as for `EarlyStopping`.
        price_per_hour: the price of the machines, in any currency.
    """
    from sweeps.forecast.play import HIGH, LOW, Cost, forecast

    slower = resources.slower
    cells_and_configs = [(cell, resolve(config)) for cell in space.cells for config in samples(space, cell)]
    measurement = resources.measure([config for _, config in cells_and_configs])
    costs: dict[str, list[Cost]] = {cell.name: [] for cell in space.cells}
    baseline_s: dict[tuple[str, str], float] = {}
    for (cell, config), measured_times in zip(cells_and_configs, measurement["costs"], strict=True):
        shared = resources.shared is not None and config.shares_backbone
        share = resources.shared if shared and resources.shared else resources.alone
        stratum = space.stratum(cell, config)
        times = {name: slower * seconds for name, seconds in measured_times.items()}
        costs[cell.name].append(
            Cost(stratum=stratum, shared=shared, share=share, eval_every=config.eval_every, **times)
        )
        baseline_s[config.backbone, config.task] = times["score_s"]
    start_s = resources.start_s() + sum(baseline_s.get((config.backbone, config.task), 0.0) for config in baselines)
    spread = min(max(measurement["spread"], _LEAST_SPREAD), _MOST_SPREAD)
    rest = forecast(
        space,
        list(costs.values()),
        devices=resources.devices,
        concurrent=resources.concurrent,
        spread=spread,
        start_s=start_s,
        finished=finished,
        audit=audit,
        audited=audited,
    )
    price_per_s = (price_per_hour or 0.0) / 3600
    return {
        "seconds": {"low": rest.low_s, "median": rest.median_s, "high": rest.high_s},
        "price": None
        if price_per_hour is None
        else {"per_hour": price_per_hour, "low": price_per_s * rest.low_s, "high": price_per_s * rest.high_s},
        "trials_done": len(finished),
        "trials": len(finished) + rest.trials,
        "steps": rest.steps,
        "start_s": start_s,
        "devices": resources.devices,
        "concurrent": resources.concurrent,
        "spread": spread,
        "measured": measurement["figures"],
        "hardware": measurement["hardware"],
        "assumptions": [
            f"{round(100 * (HIGH - LOW))} % of sweeps simulated with random qualities of trials end within the range",
            f"all steps of a sweep are slower or faster by one factor, standard deviation {100 * spread:.0f} %",
            *([f"in a sweep everything takes {slower:g} times as long as measured"] if slower != 1 else []),
            "no trial fails, diverges or is tried again",
            *([f"all {resources.devices} devices are like the measured one"] if resources.devices > 1 else []),
        ],
    }


def in_this_process(elapsed_s: float) -> Resources:
    """Return the resources of this process, in which trials run one at a time.

    Args:
        elapsed_s: time since the command began.
    """
    from sweeps.forecast.measure import measure

    return Resources(
        devices=1,
        concurrent=1,
        shared=None,
        alone=1.0,
        start_s=lambda: elapsed_s,
        measure=lambda configs: measure([config.to_dict() for config in configs], None, None),
    )


def samples(space: Space, cell: Cell) -> list[TrialConfig]:
    """Return trials that represent a cell: one, or random points if its trials differ in more than learning rates."""
    if all(name.endswith("learning_rate") for name in cell.search):
        return [space.sample_trial(cell)]
    generator = np.random.default_rng(0)
    return [
        space.config(cell, {name: _random_value(searched, generator) for name, searched in cell.search.items()}, seed=0)
        for _ in range(_POINTS)
    ]


def _random_value(searched: Range, generator: np.random.Generator) -> Any:
    if isinstance(searched, Choice):
        return searched.values[generator.integers(len(searched.values))]
    ends = np.array([searched.low, searched.high])
    low, high = (np.log(ends) if searched.log else ends).tolist()
    value = generator.uniform(low, high)
    value = float(np.exp(value)) if searched.log else value
    return min(max(value if isinstance(searched, Real) else round(value), searched.low), searched.high)


def text(prediction: Mapping[str, Any]) -> str:
    """Return a prediction as text for a reader."""
    seconds, price = prediction["seconds"], prediction["price"]
    trials_left = prediction["trials"] - prediction["trials_done"]
    hardware = prediction["hardware"]
    machine = hardware.get("gpu") or f"{hardware.get('cpu') or hardware['machine']}, {hardware.get('threads')} threads"
    lines = [f"measured on {machine}:"]
    for figure in prediction["measured"]:
        trials = f"{figure['packed']} trials together" if figure["packed"] > 1 else "one trial"
        alone = f", {_duration(figure['step_alone_s'])} alone" if figure["step_alone_s"] is not None else ""
        lines.append(
            f"  {figure['kind']}: a step of {trials} takes {_duration(figure['step_s'])} "
            f"({_duration(figure['step_low_s'])} to {_duration(figure['step_high_s'])}{alone}), "
            f"an evaluation {_duration(figure['evaluation_s'])}, "
            f"a canonical evaluation {_duration(figure['canonical_evaluation_s'])}"
        )
    lines.append(f"  the start-up takes {_duration(prediction['start_s'])}")
    cost = f"; {price['low']:.2f} to {price['high']:.2f} at {price['per_hour']:g} an hour" if price else ""
    finished = f"{prediction['trials_done']} trials are finished, " if prediction["trials_done"] else ""
    lines.append(
        f"prediction: {finished}{trials_left} to run in {format_duration(seconds['low'])} to "
        f"{format_duration(seconds['high'])}, probably about {format_duration(seconds['median'])}{cost}"
    )
    return "\n".join([*lines, *(f"  ({assumption})" for assumption in prediction["assumptions"])])


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s" if seconds >= 0.1 else f"{1000 * seconds:.2g} ms"
