"""What the length of a prompt costs: time and memory of a training step, and the speed of inference.

Time and memory are relative to those of the reference, or of the shortest prompt if the reference is not confirmed.
Every confirmed trial is a point, so that the figure shows which differences are smaller than the scatter of the
measured times. The paper of DePT (arXiv 2309.05173) also reports that a shorter prompt is cheaper to train and to use.
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
from analysis.comparisons import reference_cell
from analysis.methods import sorted_methods
from analysis.records import Trial
from analysis.registry import Missing, PlotSpec, Row


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One quantity, with a value for every confirmed trial.

    Attributes:
        values_with_length: the values by method and length.
        values_without_length: the values by method, for methods without a prompt, which have no length.
    """

    name: str
    values_with_length: dict[str, dict[int, tuple[float, ...]]]
    values_without_length: dict[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Info:
    group: Group
    panels: tuple[Panel, ...]
    unit_label: str  # the label of the cell whose median is 1 in the relative panels


def compute(group: Group) -> Info | Missing:
    lengths = {cell.length for cell in group.confirmed_cells if cell.length}
    if len(lengths) < 2:
        return Missing("it needs confirmed cells of two prompt lengths")
    shortest_cell = min(group.confirmed_cells, key=lambda cell: (cell.length or 0, cell.name))
    unit_cell = reference_cell(group) or shortest_cell
    candidates = (
        _make_panel("training step, relative time", group, _step_seconds, unit_cell),
        _make_panel("peak memory, relative", group, attrgetter("peak_memory_bytes"), unit_cell),
        _make_panel("inference, examples/s", group, _examples_per_second, None),
    )
    panels = tuple(panel for panel in candidates if len(_lengths(panel)) > 1)
    if not panels:
        return Missing("its records hold neither the time nor the memory of trials")
    return Info(group=group, panels=panels, unit_label=unit_cell.label)


def _lengths(panel: Panel) -> set[int]:
    return {length for values_by_length in panel.values_with_length.values() for length in values_by_length}


def _make_panel(name: str, group: Group, read_value: Callable[[Trial], float | None], unit_cell: Cell | None) -> Panel:
    """Return the panel of the quantity that `read_value` reads from a trial.

    If `unit_cell` is given, the values are relative to the median of that cell.
    """
    unit_values = _known_values(unit_cell, read_value) if unit_cell else [1.0]
    values_with_length: dict[str, dict[int, list[float]]] = {}
    values_without_length: dict[str, list[float]] = {}
    for cell in group.confirmed_cells if unit_values else ():
        values = [value / median(unit_values) for value in _known_values(cell, read_value)]
        if cell.length and values:
            values_with_length.setdefault(cell.method, {}).setdefault(cell.length, []).extend(values)
        elif values:
            values_without_length.setdefault(cell.method, []).extend(values)
    return Panel(
        name=name,
        values_with_length={
            method: {length: tuple(sorted(values_by_length[length])) for length in sorted(values_by_length)}
            for method, values_by_length in values_with_length.items()
        },
        values_without_length={method: tuple(sorted(values)) for method, values in values_without_length.items()},
    )


def _known_values(cell: Cell, read_value: Callable[[Trial], float | None]) -> list[float]:
    return [value for value in map(read_value, cell.confirmed_trials) if value]


def _step_seconds(trial: Trial) -> float | None:
    steps = (trial.steps or 0) + (trial.abandoned_steps or 0)
    return trial.train_time_s / steps if trial.train_time_s and steps else None


def _examples_per_second(trial: Trial) -> float | None:
    return trial.test_n / trial.test_time_s if trial.test_n and trial.test_time_s else None


@style.in_style
def draw(info: Info) -> Figure:
    methods = sorted_methods(
        method for panel in info.panels for method in (*panel.values_with_length, *panel.values_without_length)
    )
    methods_without_length = {method for panel in info.panels for method in panel.values_without_length}
    handles = style.method_handles(method for method in methods if method not in methods_without_length)
    dashed_line: dict[str, Any] = {"marker": "", "linestyle": (0, (4, 3)), "linewidth": 1.5}
    handles += style.method_handles((method for method in methods if method in methods_without_length), **dashed_line)
    figure, all_axes = style.panels(
        [panel.name for panel in info.panels], height=3.2, legend=handles, shares_y_axis=False
    )
    lengths = sorted({length for panel in info.panels for length in _lengths(panel)})
    for axes, panel in zip(all_axes, info.panels, strict=True):
        style.log2_axis(axes, lengths[0] / 1.25, lengths[-1] * 1.25, lengths)
        if any(longer / shorter < 1.4 for shorter, longer in pairwise(lengths)):  # too close for a tick at every length
            axes.xaxis.set_major_locator(LogLocator(2))
        for i, (method, values_by_length) in enumerate(panel.values_with_length.items()):
            colour, marker = style.method_style(method)
            shift = 1.04 ** (i - (len(panel.values_with_length) - 1) / 2)  # puts methods of one length side by side
            trial_points = [(length * shift, value) for length, values in values_by_length.items() for value in values]
            axes.plot(*zip(*trial_points, strict=True), marker, color=colour, markersize=4.5, alpha=0.45, mec="none")
            median_points = [(length * shift, median(values)) for length, values in values_by_length.items()]
            axes.plot(*zip(*median_points, strict=True), marker, color=colour, markersize=6.5, mec=style.PAPER, mew=0.7)
        for method, method_values in panel.values_without_length.items():
            colour, _ = style.method_style(method)
            axes.axhline(median(method_values), color=colour, linestyle=(0, (4, 3)), linewidth=1.2)
        axes.set_ylim(0, 1.12 * max(value for _, _, value in _method_length_values(panel)))
        axes.set_xlabel("prompt length n")
    return figure


def _method_length_values(panel: Panel) -> list[tuple[str, int | None, float]]:
    """Return (method, length, value) for every trial. The length is None for a method without a prompt."""
    values: list[tuple[str, int | None, float]] = [
        (method, length, value)
        for method, values_by_length in panel.values_with_length.items()
        for length, length_values in values_by_length.items()
        for value in length_values
    ]
    for method, method_values in panel.values_without_length.items():
        values += [(method, None, value) for value in method_values]
    return values


def caption(info: Info) -> str:
    panel_names = " ".join(panel.name for panel in info.panels)
    sentences = [
        f"What the length of a prompt costs on {info.group.title}. A pale point is a confirmed trial, of any rank. A "
        "solid point is the median of all trials of one method and length."
    ]
    if "relative" in panel_names:
        sentences.append(f"In relative values, the median of {info.unit_label} is 1.")
    if any(panel.values_without_length for panel in info.panels):
        sentences.append("A dashed line is the median of a method without a prompt.")
    sentences.append(
        "Time is that of the device. The time of a pass that trials share is divided among them in proportion to their "
        "tokens. Inference is the evaluation on the test examples. All values were measured during the sweep, so they "
        "also depend on what else the machine did at that time. There are no error bars."
    )
    if "memory" not in panel_names:
        sentences.append("Memory is known only for trials that train alone.")
    return " ".join(sentences)


def data(info: Info) -> list[Row]:
    return [
        {"quantity": panel.name, "method": method, "length": length, "value": value}
        for panel in info.panels
        for method, length, value in _method_length_values(panel)
    ]


SPEC = PlotSpec(
    name="efficiency",
    title="What a prompt's length costs",
    info=compute,
    draw=draw,
    caption=caption,
    data=data,
    place=150,
)
