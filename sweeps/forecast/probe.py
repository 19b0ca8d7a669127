"""What a sweep will take, before it is run: what `sweeps.forecast.measure` finds where trials train, played through by
`sweeps.forecast.play`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from lopt.config import TrialConfig
from lopt.ranges import Choice, Range, Real
from sweeps.progress import clock

if TYPE_CHECKING:
    from lopt.records import TrialRecord
    from sweeps.space import Cell, Space

_POINTS = 40  # of a cell whose trials differ in more than their rates
# A shared machine differs more from hour to hour than from step to step; a range that holds everything says nothing.
_LEAST_SPREAD, _MOST_SPREAD = 0.08, 0.15
# On a machine without GPU the driver and the start of each trial's process take their time from the steps: the demo's
# ablation took 1.03 to 1.20 times as long as its steps alone let expect, in four runs (LOG.md).
BESIDE_ON_CPU = 1.1


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a sweep runs on.

    devices: GPUs, or nodes without one. concurrent: trials at once. shared, alone: the share of a device that a trial
    takes which shares its backbone, and any other; shared None where none does. start_s: until the first trial begins,
    without baselines. measure: `sweeps.forecast.measure.measure` on these configurations, run there. slower: how many
    times as long everything takes in a sweep as when it is measured.
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
    """What is left of a sweep, as `probe.json` holds it.

    Args:
        settle: fills in precision and revisions. baselines: trials whose zero-shot baseline is still to be scored.
        finished: records of earlier commands. audit, audited: as of `EarlyStopping`.
    """
    from sweeps.forecast.play import HIGH, LOW, Cost, forecast

    slower = resources.slower
    kinds = [(cell, resolve(config)) for cell in space.cells for config in samples(space, cell)]
    measured = resources.measure([config for _, config in kinds])
    costs: dict[str, list[Cost]] = {cell.name: [] for cell in space.cells}
    score_s: dict[tuple[str, str], float] = {}
    for (cell, config), seconds in zip(kinds, measured["costs"], strict=True):
        shared = resources.shared is not None and config.shares_backbone
        share = resources.shared if shared and resources.shared else resources.alone
        stratum = space.stratum(cell, config)
        seconds = {name: slower * value for name, value in seconds.items()}
        costs[cell.name].append(
            Cost(stratum=stratum, shared=shared, share=share, eval_every=config.eval_every, **seconds)
        )
        score_s[config.backbone, config.task] = seconds["score_s"]
    start_s = resources.start_s() + sum(score_s.get((c.backbone, c.task), 0.0) for c in baselines)
    spread = min(max(measured["spread"], _LEAST_SPREAD), _MOST_SPREAD)
    made = forecast(
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
    per_second = (price_per_hour or 0.0) / 3600
    return {
        "seconds": {"low": made.low_s, "median": made.median_s, "high": made.high_s},
        "price": None
        if price_per_hour is None
        else {"per_hour": price_per_hour, "low": per_second * made.low_s, "high": per_second * made.high_s},
        "trials_done": len(finished),
        "trials": len(finished) + made.trials,
        "steps": made.steps,
        "start_s": start_s,
        "devices": resources.devices,
        "concurrent": resources.concurrent,
        "spread": spread,
        "measured": measured["figures"],
        "hardware": measured["hardware"],
        "assumptions": [
            f"{round(100 * (HIGH - LOW))} % of the sweeps played with random qualities of trials end within the range",
            f"all steps of a sweep are slower or faster by one factor, standard deviation {100 * spread:.0f} %",
            *([f"in a sweep all takes {slower:g} times as long as measured"] if slower != 1 else []),
            "no trial fails, diverges or is tried again",
            *([f"{resources.devices} devices like the one that was measured"] if resources.devices > 1 else []),
        ],
    }


def in_this_process(elapsed_s: float) -> Resources:
    """This process, in which trials run one at a time."""
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
    """Trials that stand for those of a cell: one, or points of its ranges where these differ in more than rates."""
    if all(name.endswith("learning_rate") for name in cell.search):
        return [space.example(cell)]
    draw = np.random.default_rng(0)
    return [
        space.config(cell, {name: _drawn(made, draw) for name, made in cell.search.items()}, seed=0)
        for _ in range(_POINTS)
    ]


def _drawn(made: Range, draw: np.random.Generator) -> Any:
    if isinstance(made, Choice):
        return made.values[draw.integers(len(made.values))]
    low, high = (np.log([made.low, made.high]) if made.log else np.array([made.low, made.high])).tolist()
    value = draw.uniform(low, high)
    value = float(np.exp(value)) if made.log else value
    return min(max(value if isinstance(made, Real) else round(value), made.low), made.high)


def text(found: Mapping[str, Any]) -> str:
    """A prediction for a reader."""
    seconds, price, left = found["seconds"], found["price"], found["trials"] - found["trials_done"]
    hardware = found["hardware"]
    on = hardware.get("gpu") or f"{hardware.get('cpu') or hardware['machine']}, {hardware.get('threads')} threads"
    lines = [f"measured on {on}:"]
    for figure in found["measured"]:
        together = f"{figure['packed']} trials together" if figure["packed"] > 1 else "one trial"
        alone = f", alone {_short(figure['step_alone_s'])}" if figure["step_alone_s"] is not None else ""
        lines.append(
            f"  {figure['kind']}: a step of {together} {_short(figure['step_s'])} "
            f"({_short(figure['step_low_s'])} to {_short(figure['step_high_s'])}{alone}), "
            f"evaluation {_short(figure['evaluation_s'])}, "
            f"canonical evaluation {_short(figure['canonical_evaluation_s'])}"
        )
    lines.append(f"  start-up {_short(found['start_s'])}")
    money = f"; {price['low']:.2f} to {price['high']:.2f} at {price['per_hour']:g} an hour" if price else ""
    begun = f"{found['trials_done']} trials are finished, " if found["trials_done"] else ""
    lines.append(
        f"prediction: {begun}{left} to run in {clock(seconds['low'])} to {clock(seconds['high'])}, "
        f"probably about {clock(seconds['median'])}{money}"
    )
    return "\n".join([*lines, *(f"  ({assumption})" for assumption in found["assumptions"])])


def _short(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s" if seconds >= 0.1 else f"{1000 * seconds:.2g} ms"
