"""How figures look: colours, markers, label placement, and files that are the same byte for byte.

Ink, paper, grid and the darkest hue are fixed colours, so that a page can swap them for its own
(light or dark) when it takes a figure in.
"""

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator
from PIL import Image

from analysis.methods import described, method_label

INK, MUTED, GRID, PAPER = "#1b1f24", "#6b7480", "#dfe3e8", "#fefefe"

COLOURS = {  # by the names that methods give; the hues are Okabe and Ito's, told apart by marker too
    "blue": "#0072b2", "vermillion": "#d55e00", "green": "#009e73", "orange": "#e69f00", "purple": "#cc79a7",
    "sky": "#56b4e9", "ink": INK, "muted": MUTED,
}  # fmt: skip
_PAGE = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", PAPER: "var(--paper)"}
_PAGE[COLOURS["blue"]] = "var(--blue)"
_PER_ROW = 3  # panels
MOST_DRAWN = 1000  # lines or points of one look; more of them are an image within the figure
MARKERS = ("o", "s", "^", "D", "v", "P")
_RAMP, _RAMP_ENDS = "plasma", (0.25, 0.74)  # of lengths and ranks; its ends read on light and on dark paper
_HANDLE_PT, _LETTER_PT, _ROW_PT = 34.0, 4.7, 13.5  # of a legend: an entry's marker, a letter, a row
_OTHERS = ("h", "*", "d", "8")  # of methods that have no marker of their own

RC: Any = {  # Any: the type stubs want a literal key each
    "svg.hashsalt": "analysis",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.labelsize": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": PAPER,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handletextpad": 0.4,
    "lines.linewidth": 1.4,
    "text.parse_math": False,  # a name with dollar signs is a name
    "path.simplify": True,
}


in_style = matplotlib.rc_context(RC)  # decorates what draws a figure


def method_style(method: str) -> tuple[str, str]:
    """Colour and marker, as the method says; one that does not is of ink, with one of a few markers by its name."""
    known = described(method)
    colour = getattr(known, "colour", None) or "ink"
    marker = getattr(known, "marker", None) or _OTHERS[sum(method.encode()) % len(_OTHERS)]
    return COLOURS.get(colour, colour), marker


def level_styles(levels: Iterable[int | None]) -> dict[int | None, tuple[str, str]]:
    """Colour and marker of each rank (or length), the same in every panel of a figure: colours of one ramp, which no
    method has, from low to high; None, if it is among them, is ink."""
    levels = set(levels)
    known = sorted(level for level in levels if level is not None)
    low, high = _RAMP_ENDS
    at = [low + (high - low) * i / max(1, len(known) - 1) for i in range(len(known))]
    colours = [to_hex(matplotlib.colormaps[_RAMP](place)) for place in at]
    styles: dict[int | None, tuple[str, str]] = {None: (INK, "o")} if None in levels else {}
    return styles | {
        level: (colour, MARKERS[i % len(MARKERS)]) for i, (level, colour) in enumerate(zip(known, colours, strict=True))
    }


def rank_handles(styles: Mapping[int | None, tuple[str, str]], *, lines: bool) -> list[Line2D]:
    """Legend entries of ranks, and of what has none."""
    return [
        Line2D([], [], color=colour, linestyle="-" if lines else "", marker="" if lines else marker,
               label="no rank" if rank is None else f"r={rank}")
        for rank, (colour, marker) in styles.items()
    ]  # fmt: skip


def method_handles(methods: Iterable[str], **look: Any) -> list[Line2D]:
    """Legend entries of methods."""
    return [
        Line2D([], [], color=colour, label=method_label(method), **{"marker": marker, "linestyle": ""} | look)
        for method, (colour, marker) in ((method, method_style(method)) for method in methods)
    ]


def legend_rows(labels: Sequence[str], width_pt: float) -> int:
    """In how many rows a legend of these labels fits; it is filled column by column."""
    for rows in range(1, len(labels) + 1):
        columns = [labels[i : i + rows] for i in range(0, len(labels), rows)]
        if sum(_HANDLE_PT + _LETTER_PT * max(map(len, column)) for column in columns) <= width_pt:
            return rows
    return max(1, len(labels))


def panels(
    titles: Iterable[str],
    *,
    width: float = 7.2,
    height: float = 3.4,
    right: float = 0.985,
    legend: Sequence[Line2D] = (),
    shared: bool = True,
) -> tuple[Figure, list[Axes]]:
    """A figure (inches) of a panel for each title side by side, three a row, under one legend for all.

    shared: they have one y axis.
    """
    titles = list(titles)
    count = len(titles)
    columns, rows = min(count, _PER_ROW), -(-count // _PER_ROW)
    many = legend_rows([str(handle.get_label()) for handle in legend], 72 * width - 20) if legend else 0
    head = 0.3 + many * _ROW_PT / 72
    figure = Figure(figsize=(width, 0.55 + (height - 0.55) * rows + head - 0.3))
    axes = figure.subplots(rows, columns, sharey=shared, squeeze=False)
    figure.subplots_adjust(
        left=0.09 if shared else 0.065,
        right=right,
        bottom=0.5 / figure.get_figheight(),
        top=1 - head / figure.get_figheight(),
        wspace=0.08 if shared else 0.22,
        hspace=0.35,
    )
    if legend:
        figure.legend(
            handles=[*legend],
            loc="upper right",
            bbox_to_anchor=(0.995, 1.0),
            ncols=math.ceil(len(legend) / many),
            columnspacing=1.0,
            handlelength=1.3,
            borderpad=0.3,
        )
    flat = list(axes.flat)
    for unused in flat[count:]:
        unused.set_visible(False)
    for axes, title in zip(flat, titles, strict=False):
        panel_title(axes, title)
    return figure, flat[:count]


def panel_title(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9.5, loc="left")


def y_label(panels: Sequence[Axes], text: str) -> None:
    """The y axis that all panels share is named at the first of each row."""
    for axes in panels[::_PER_ROW]:
        axes.set_ylabel(text)


def files(figure: Figure) -> dict[str, bytes]:
    """What is in a figure's svg, pdf and png files, without dates."""
    buffers = {ending: io.BytesIO() for ending in ("svg", "pdf", "png")}
    with matplotlib.rc_context(RC):
        figure.savefig(buffers["svg"], format="svg", dpi=150, metadata={"Date": None})
        figure.savefig(buffers["pdf"], format="pdf", dpi=150, metadata={"CreationDate": None})
        figure.set_dpi(150)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    # A palette makes the file a third as large, and nobody sees it.
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(buffers["png"], format="png", optimize=True)
    return {ending: buffer.getvalue() for ending, buffer in buffers.items()}


def inline_svg(text: str, name: str, label: str) -> Markup:
    """An SVG file's text as part of a page: its own ids, the page's colours, and a label for screen readers."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    text = re.sub(r"<path(?![^>]*\bd=)", '<path d=""', text)  # the glyph of a space
    # as wide as the page, but not blown up
    text = re.sub(r'<svg([^>]*?) width="([\d.]+)pt"', r'<svg\1 style="max-width: calc(\2pt * 1.25)"', text, count=1)
    text = re.sub(r'<svg([^>]*?) height="[^"]*"', r"<svg\1", text, count=1)
    for colour, variable in _PAGE.items():
        text = text.replace(colour, variable)
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))


def log_axis(axes: Axes, low: float, high: float, *, roomy: bool) -> None:
    """A logarithmic x axis from `low` to `high` with plain numbers: at 1, 2 and 5 where it is roomy."""
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    subs = (1.0, 2.0, 5.0) if roomy and high / low < 2000 else (1.0, 3.0) if high / low < 30 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _plain(x)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", bottom=False)


def log2_axis(axes: Axes, low: float, high: float, ticks: Sequence[float] = ()) -> None:
    """A logarithmic x axis of counts from `low` to `high`. Without ticks of its own it has one a doubling (500, 1,000,
    2,000, ..., or where those are no whole numbers 64, 128, ...); over more than ten doublings one at each power of
    ten."""
    axes.set_xscale("log", base=2)
    axes.set_xlim(low, high)
    unit = 125.0 if low > 100 else 1.0
    first, last = (math.log2(end / unit) for end in (low, high))
    doublings = [unit * 2.0**k for k in range(math.ceil(first), math.floor(last) + 1)]
    decades = [10.0**k for k in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    axes.xaxis.set_major_locator(FixedLocator(ticks or (doublings if 1 < len(doublings) <= 10 else decades)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _plain(x)))


def _plain(x: float) -> str:
    if x >= 1e9:
        return f"{x / 1e9:,g}B"
    if x >= 1e6:
        return f"{x / 1e6:,g}M"
    return f"{x:,.0f}" if x >= 1 else f"{x:g}" if x > 9e-4 else f"{x:.0e}".replace("e-0", "e-")


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """The positions nearest to those given, in the same order, that are at least `gap` apart."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    blocks: list[tuple[float, list[int]]] = []  # (mean of what its first member would like, members)
    for i in order:
        start, members = positions[i], [i]
        while blocks and blocks[-1][0] + gap * len(blocks[-1][1]) > start:
            before, others = blocks.pop()
            wish = before * len(others) + (start - gap * len(others)) * len(members)
            start, members = wish / (len(others) + len(members)), others + members
        blocks.append((start, members))
    result = [0.0] * len(positions)
    for start, members in blocks:
        for offset, i in enumerate(members):
            result[i] = start + gap * offset
    return result


def break_mark(upper: Axes, lower: Axes) -> None:
    """Marks that the y axis leaves out what lies between two panels."""
    upper.spines.bottom.set_visible(False)
    upper.tick_params(which="both", bottom=False, labelbottom=False)
    slash: dict[str, Any] = {"marker": [(-1, -0.5), (1, 0.5)], "markersize": 8, "linestyle": "none", "color": MUTED}
    upper.plot([0], [0], transform=upper.transAxes, clip_on=False, **slash)
    lower.plot([0], [1], transform=lower.transAxes, clip_on=False, **slash)


def halo(width: float = 2.2) -> list[withStroke]:
    """A rim in the paper's colour, so that a label reads over lines."""
    return [withStroke(linewidth=width, foreground=PAPER)]


def end_labels(axes: Axes, labels: Iterable[tuple[float, float, str, str]], gap: float = 10) -> None:
    """Write (x, y, text, colour) to the right of each point, moved up or down until none overlaps."""
    labels = list(labels)
    if not labels:
        return
    axes.get_ylim()  # an axes finds its limits when it is asked for them
    to_points = axes.transData
    scale = 72 / axes.figure.dpi
    heights = [to_points.transform((x, y))[1] * scale for x, y, *_ in labels]
    placed = [0.0] * len(labels)
    for column in {x for x, *_ in labels}:  # only labels beside each other can overlap
        members = [i for i, (x, *_) in enumerate(labels) if x == column]
        for i, height in zip(members, spread([heights[i] for i in members], gap), strict=True):
            placed[i] = height
    for (x, y, text, colour), old, new in zip(labels, heights, placed, strict=True):
        axes.annotate(
            text,
            (x, y),
            xytext=(7, new - old),
            textcoords="offset points",
            color=colour,
            fontsize=8,
            va="center",
            annotation_clip=False,
            path_effects=halo(),
        )
