"""Power against seeds: the chance to show a cell non-inferior at a true gap of 0 and of half the margin."""

import math
from dataclasses import dataclass

from matplotlib.figure import Figure

from analysis import style
from analysis.cells import Group
from analysis.power import MOST_SEEDS, TARGET_POWER, Design, curve
from analysis.power_text import group_power, noise_sentence, pp
from analysis.registry import Missing, PlotSpec, Row

_LEAST_RIGHT_END = 20  # the curve goes to at least this number of seeds
_STYLES = ((style.COLOURS["blue"], "o"), (style.COLOURS["orange"], "s"))  # colour and marker of each curve


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Power at each number of seeds, if the smaller cells are truly worse by `gap`. All numbers are fractions.

    Attributes:
        ceiling: power with unlimited seeds, which the test examples alone set.
    """

    gap: float
    power: tuple[float, ...]
    ceiling: float


@dataclass(frozen=True, kw_only=True)
class Info:
    group: Group
    design: Design
    seeds_text: str
    seeds: tuple[int, ...]
    curves: tuple[Curve, ...]


def compute(group: Group) -> Info | Missing:
    power = group_power(group)
    if isinstance(power, Missing):
        return power
    design = power.design
    needed = design.seeds_needed(0) or 0
    right_end = min(MOST_SEEDS, max(_LEAST_RIGHT_END, math.ceil(1.3 * needed), math.ceil(1.3 * design.seeds)))
    seeds = tuple(range(2, max(right_end, int(design.seeds)) + 1))
    return Info(
        group=group,
        design=design,
        seeds_text=power.seeds_text,
        seeds=seeds,
        curves=tuple(
            Curve(
                gap=gap,
                power=tuple(curve(design, gap, seeds)),
                ceiling=design.with_unlimited_seeds.power(gap),
            )
            for gap in (0.0, design.margin / 2)
        ),
    )


def _gap_text(gap: float) -> str:
    return f"{pp(gap)} worse" if gap else "equal"


@style.in_style
def draw(info: Info) -> Figure:
    figure = Figure(figsize=(5.6, 3.5))
    axes = figure.add_axes((0.12, 0.15, 0.68, 0.78))
    axes.set_xlim(info.seeds[0] - 0.6, info.seeds[-1] + 0.4)
    axes.set_ylim(-2, 102)
    axes.axhline(100 * TARGET_POWER, color=style.INK, linewidth=0.8)
    axes.axvline(info.design.seeds, color=style.MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
    here = info.seeds.index(int(info.design.seeds))
    end_labels = []
    for i, (line, (colour, marker)) in enumerate(zip(info.curves, _STYLES, strict=True)):
        percents = [100 * power for power in line.power]
        # Where two dashed lines lie on each other, the dashes of one are in the gaps of the other.
        axes.axhline(100 * line.ceiling, color=colour, linewidth=1, linestyle=(4 * i, (4, 4)))
        axes.plot(info.seeds, percents, color=colour, zorder=3)
        axes.plot(
            info.seeds[here], percents[here], marker, color=colour, markersize=6.5, mec=style.PAPER, mew=0.7, zorder=4
        )
        end_labels.append((info.seeds[-1] + 0.4, percents[-1], _gap_text(line.gap), colour))
    axes.set_xticks([2, *range(5, info.seeds[-1] + 1, 5)])
    axes.set_xlabel("seeds of each cell")
    axes.set_ylabel("chance to show non-inferior, %")
    style.draw_end_labels(axes, end_labels)
    return figure


def caption(info: Info) -> str:
    design = info.design
    cells_text = f"{design.cells} smaller cells have" if design.cells > 1 else "the smaller cell has"
    return (
        f"The chance to show that a cell is non-inferior within {pp(design.margin)} on {info.group.title}, against the "
        f"number of seeds of each cell, if {cells_text} the same true difference from the reference: none, or half the "
        f"margin. The test examples stay as they are ({design.examples:,}). Markers: {info.seeds_text}. "
        "Solid black line: 80 %. Dashed lines: the chance with unlimited seeds, which the test examples "
        "alone limit. The chances are simulated with the tests of this report: means are drawn from normal and "
        "variances from chi-squared distributions. Then one-sided tests are made at 2.5 %, which the cells share by "
        "Holm's method. Their critical value is the mean of Student's t for seeds and for examples, weighted by "
        "the two parts of the variance (Cochran and Cox). The true difference is assumed, not observed. "
        "There are no error bars, because the error of the simulation is about one point. "
        f"{noise_sentence(design.noise, design.examples)}"
    )


def data(info: Info) -> list[Row]:
    rows: list[Row] = [
        {"gap_pp": 100 * line.gap, "seeds": seeds, "power_percent": 100 * power}
        for line in info.curves
        for seeds, power in zip(info.seeds, line.power, strict=True)
    ]
    return rows + [
        {"gap_pp": 100 * line.gap, "seeds": "unlimited", "power_percent": 100 * line.ceiling} for line in info.curves
    ]


SPEC = PlotSpec(
    name="power", title="What more seeds would show", info=compute, draw=draw, caption=caption, data=data, place=45
)
