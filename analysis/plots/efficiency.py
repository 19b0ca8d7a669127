"""What a prompt's length costs: time and memory of a training step beside the shortest full prompt's, and inference.

Every confirmed trial is a point, so that what a sweep's own times cannot tell apart is seen. DePT (arXiv 2309.05173)
reports the same of itself: a shorter prompt is cheaper to train and to use.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from statistics import median
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from analysis import style
from analysis.cells import Cell, Group
from analysis.methods import FULL_PROMPT, in_order
from analysis.records import Trial
from analysis.registry import Missing, PlotSpec, Row


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One quantity of every confirmed trial, by method and length. flat: of methods that have no prompt, and so no
    length."""

    name: str
    points: dict[str, dict[int, tuple[float, ...]]]
    flat: dict[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Info:
    group: Group
    panels: tuple[Panel, ...]
    reference: str  # what 1 is in the relative panels


def compute(group: Group) -> Info | Missing:
    lengths = {cell.length for cell in group.confirmed if cell.length}
    if len(lengths) < 2:
        return Missing("it needs confirmed cells of two prompt lengths")
    full = [cell for cell in group.confirmed if cell.method == FULL_PROMPT] or list(group.confirmed)
    base = min(full, key=lambda cell: (cell.length or 0, cell.name))
    made = (
        _panel("training step, relative time", group, _step_s, base),
        _panel("peak memory, relative", group, attrgetter("peak_memory_bytes"), base),
        _panel("inference, examples/s", group, _speed, None),
    )
    panels = tuple(panel for panel in made if len({n for by in panel.points.values() for n in by}) > 1)
    if not panels:
        return Missing("its records hold neither the time nor the memory of trials")
    return Info(group=group, panels=panels, reference=base.label)


def _panel(name: str, group: Group, of: Callable[[Trial], float | None], base: Cell | None) -> Panel:
    """base: the cell whose median is 1."""
    known = _known(base, of) if base else [1.0]
    found: dict[str, dict[int, list[float]]] = {}
    flat: dict[str, list[float]] = {}
    for cell in group.confirmed if known else ():
        values = [value / median(known) for value in _known(cell, of)]
        if cell.length and values:
            found.setdefault(cell.method, {}).setdefault(cell.length, []).extend(values)
        elif values:
            flat.setdefault(cell.method, []).extend(values)
    points = {method: {n: tuple(sorted(by[n])) for n in sorted(by)} for method, by in found.items()}
    return Panel(name=name, points=points, flat={method: tuple(sorted(some)) for method, some in flat.items()})


def _known(cell: Cell, of: Callable[[Trial], float | None]) -> list[float]:
    return [value for value in map(of, cell.confirmed) if value]


def _step_s(trial: Trial) -> float | None:
    return trial.train_time_s / trial.steps if trial.train_time_s and trial.steps else None


def _speed(trial: Trial) -> float | None:
    return trial.test_n / trial.test_time_s if trial.test_n and trial.test_time_s else None


@style.in_style
def draw(info: Info) -> Figure:
    methods = in_order(method for panel in info.panels for method in (*panel.points, *panel.flat))
    flat = {method for panel in info.panels for method in panel.flat}
    handles = style.method_handles(method for method in methods if method not in flat)
    dashed: dict[str, Any] = {"marker": "", "linestyle": (0, (4, 3)), "linewidth": 1.5}
    handles += style.method_handles((method for method in methods if method in flat), **dashed)
    figure, panels = style.panels([panel.name for panel in info.panels], height=3.2, legend=handles, shared=False)
    lengths = sorted({n for panel in info.panels for by in panel.points.values() for n in by})
    for axes, panel in zip(panels, info.panels, strict=True):
        style.log2_axis(axes, lengths[0] / 1.25, lengths[-1] * 1.25, lengths)
        if any(after / before < 1.4 for before, after in pairwise(lengths)):  # too close for a tick each
            axes.xaxis.set_major_locator(LogLocator(2))
        for place, (method, by) in enumerate(panel.points.items()):
            colour, marker = style.method_style(method)
            shift = 1.04 ** (place - (len(panel.points) - 1) / 2)  # sets methods of one length apart
            xs, ys = zip(*((n * shift, v) for n, values in by.items() for v in values), strict=True)
            axes.plot(xs, ys, marker, color=colour, markersize=4.5, alpha=0.45, mec="none")
            middles = [(n * shift, median(values)) for n, values in by.items()]
            axes.plot(*zip(*middles, strict=True), marker, color=colour, markersize=6.5, mec=style.PAPER, mew=0.7)
        for method, values in panel.flat.items():
            axes.axhline(median(values), color=style.method_style(method)[0], linestyle=(0, (4, 3)), linewidth=1.2)
        everything = [v for by in panel.points.values() for values in by.values() for v in values]
        axes.set_ylim(0, 1.12 * max([*everything, *(v for values in panel.flat.values() for v in values)]))
        axes.set_xlabel("prompt length n")
    return figure


def caption(info: Info) -> str:
    names = " ".join(panel.name for panel in info.panels)
    return (
        f"What a prompt's length costs on {info.group.title}: pale, every confirmed trial of all ranks; full, the "
        "median of a method and length"
        + (f"; relative: the median of {info.reference} is 1" if "relative" in names else "")
        + ("; dashed: methods without a prompt" if any(panel.flat for panel in info.panels) else "")
        + ". Time is the device's, of passes that trials share each one's part by tokens; inference is the canonical "
        "evaluation of the reported split. Taken while the sweep ran, not side by side: where trials of one length lie "
        "apart, that is what the machine did meanwhile; no error bars."
        + (" Memory is known of trials that train alone only." if "memory" not in names else "")
    )


def data(info: Info) -> list[Row]:
    rows: list[Row] = []
    for panel in info.panels:
        known = [(method, length, values) for method, by in panel.points.items() for length, values in by.items()]
        for method, length, values in [*known, *((method, None, values) for method, values in panel.flat.items())]:
            rows += [{"quantity": panel.name, "method": method, "length": length, "value": value} for value in values]
    return rows


SPEC = PlotSpec(
    name="efficiency",
    title="What a prompt's length costs",
    info=compute,
    draw=draw,
    caption=caption,
    data=data,
    place=150,
)
