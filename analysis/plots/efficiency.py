"""What a prompt's length costs: time and memory of a training step beside the shortest full prompt's, and inference.

DePT (arXiv 2309.05173) reports the same of itself: a shorter prompt is cheaper to train and to use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from analysis import style
from analysis.cells import Cell, Group, method_label
from analysis.records import Trial
from analysis.registry import Missing, PlotSpec, Row


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One quantity by method and length: of all ranks' confirmed trials the best, which was disturbed least. flat: of
    methods that have no prompt, and so no length."""

    name: str
    points: dict[str, dict[int, float]]
    flat: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Info:
    group: Group
    panels: tuple[Panel, ...]
    reference: str  # what 1 is in the relative panels


def compute(group: Group) -> Info | Missing:
    lengths = {cell.length for cell in group.confirmed if cell.length}
    if len(lengths) < 2:
        return Missing("it needs confirmed cells of two prompt lengths")
    full = [cell for cell in group.confirmed if cell.method == "prompt_tuning"] or list(group.confirmed)
    base = min(full, key=lambda cell: (cell.length or 0, cell.name))
    made = (
        _panel("training step, relative time", group, _step_s, min, base),
        _panel("peak memory, relative", group, _memory, min, base),
        _panel("inference, examples/s", group, _speed, max, None),
    )
    panels = tuple(panel for panel in made if len({n for by in panel.points.values() for n in by}) > 1)
    if not panels:
        return Missing("its records hold neither the time nor the memory of trials")
    return Info(group=group, panels=panels, reference=base.label)


def _panel(
    name: str,
    group: Group,
    of: Callable[[Trial], float | None],
    best: Callable[[list[float]], float],
    base: Cell | None,
) -> Panel:
    found: dict[str, dict[int, list[float]]] = {}
    flat: dict[str, list[float]] = {}
    for cell in group.confirmed:
        values = _known(cell, of)
        if cell.length and values:
            found.setdefault(cell.method, {}).setdefault(cell.length, []).extend(values)
        elif values:
            flat.setdefault(cell.method, []).extend(values)
    scale = 1.0
    if base is not None:
        known = _known(base, of)
        if not known:
            return Panel(name=name, points={}, flat={})
        scale = best(known)
    points = {method: {n: best(by[n]) / scale for n in sorted(by)} for method, by in found.items()}
    return Panel(name=name, points=points, flat={method: best(some) / scale for method, some in flat.items()})


def _known(cell: Cell, of: Callable[[Trial], float | None]) -> list[float]:
    return [value for value in map(of, cell.confirmed) if value]


def _step_s(trial: Trial) -> float | None:
    return trial.train_time_s / trial.steps if trial.train_time_s and trial.steps else None


def _memory(trial: Trial) -> float | None:
    return trial.peak_memory_bytes


def _speed(trial: Trial) -> float | None:
    return trial.test_n / trial.test_time_s if trial.test_n and trial.test_time_s else None


def draw(info: Info) -> Figure:
    with matplotlib.rc_context(style.RC):
        many = len(info.panels)
        figure = Figure(figsize=(7.2, 3.3))
        lengths = sorted({n for panel in info.panels for by in panel.points.values() for n in by})
        left, gap = 0.075, 0.075
        width = (0.985 - left - gap * (many - 1)) / many
        for place, panel in enumerate(info.panels):
            axes = figure.add_axes((left + place * (width + gap), 0.15, width, 0.7))
            axes.set_xscale("log", base=2)
            axes.set_xlim(lengths[0] / 1.25, lengths[-1] * 1.25)
            crowded = any(after / before < 1.4 for before, after in pairwise(lengths))
            axes.xaxis.set_major_locator(LogLocator(2) if crowded else FixedLocator(lengths))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            for method, by in panel.points.items():
                colour, marker = style.method_style(method)
                axes.plot([*by], [*by.values()], marker=marker, color=colour, markersize=5.5, mec=style.PAPER, mew=0.7)
            for method, value in panel.flat.items():
                axes.axhline(value, color=style.method_style(method)[0], linestyle=(0, (4, 3)), linewidth=1.2)
            axes.set_ylim(
                0, 1.12 * max([*(v for by in panel.points.values() for v in by.values()), *panel.flat.values()])
            )
            axes.set_xlabel("prompt length n")
            axes.set_title(panel.name, fontsize=9.5, loc="left")
        methods = dict.fromkeys(method for panel in info.panels for method in (*panel.points, *panel.flat))
        style.method_legend(figure, {method: method_label(method) for method in methods})
        return figure


def caption(info: Info) -> str:
    relative = any("relative" in panel.name for panel in info.panels)
    return (
        f"What a prompt's length costs on {info.group.title}: of each method and length the confirmed trial that was "
        "disturbed least, of all ranks"
        + (f"; relative: {info.reference} is 1" if relative else "")
        + ("; dashed: methods without a prompt" if any(panel.flat for panel in info.panels) else "")
        + ". Time is the device's, of passes that trials share each one's part by tokens; inference is the canonical "
        "evaluation of the reported split. Taken while the sweep ran, not side by side: no error bars."
    )


def data(info: Info) -> list[Row]:
    rows: list[Row] = []
    for panel in info.panels:
        known = [(method, length, value) for method, by in panel.points.items() for length, value in by.items()]
        for method, length, value in [*known, *((method, None, value) for method, value in panel.flat.items())]:
            rows.append({"quantity": panel.name, "method": method, "length": length, "value": value})
    return rows


SPEC = PlotSpec(
    name="efficiency", title="What a prompt's length costs", info=compute, draw=draw, caption=caption, data=data
)
