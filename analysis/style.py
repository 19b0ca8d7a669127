"""How figures look (colours, markers, axes and legends), and their files. The same figure always gives the same files.

Every figure uses the same five colours for ink, muted ink, grid, paper and blue. A page that includes a figure replaces
them by its own colours, light or dark.
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

from analysis.methods import find_method, method_label

INK, MUTED, GRID, PAPER = "#1b1f24", "#6b7480", "#dfe3e8", "#fefefe"

COLOURS = {  # by the names that methods use. The hues are those of Okabe and Ito; methods also differ by marker
    "blue": "#0072b2", "vermillion": "#d55e00", "green": "#009e73", "orange": "#e69f00", "purple": "#cc79a7",
    "sky": "#56b4e9", "ink": INK, "muted": MUTED,
}  # fmt: skip
_PAGE_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", PAPER: "var(--paper)"}
_PAGE_VARIABLES[COLOURS["blue"]] = "var(--blue)"
_PANELS_PER_ROW = 3
MOST_VECTOR_SHAPES = 1000  # more lines or points that look alike are drawn as one image
MARKERS = ("o", "s", "^", "D", "v", "P")
# Lengths and ranks have colours from the part of this ramp that can be read on light and on dark paper.
_COLOUR_MAP, _COLOUR_MAP_ENDS = "plasma", (0.25, 0.74)
_HANDLE_WIDTH_PT, _LETTER_WIDTH_PT, _ROW_HEIGHT_PT = 34.0, 4.7, 13.5  # in a legend; a handle is an entry's marker
_OTHER_MARKERS = ("h", "*", "d", "8")  # for methods that have no marker of their own

RC_SETTINGS: Any = {  # Any, because the type stubs want literal keys
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
    "text.parse_math": False,  # a name with dollar signs is not a formula
    "path.simplify": True,
}


in_style = matplotlib.rc_context(RC_SETTINGS)  # a decorator for functions that draw a figure


def method_style(method: str) -> tuple[str, str]:
    """Return the colour and marker that the method states.

    The default colour is ink, and the default marker depends on the method's name.
    """
    method_description = find_method(method)
    colour = getattr(method_description, "colour", None) or "ink"
    marker = getattr(method_description, "marker", None) or _OTHER_MARKERS[sum(method.encode()) % len(_OTHER_MARKERS)]
    return COLOURS.get(colour, colour), marker


def level_styles(levels: Iterable[int | None]) -> dict[int | None, tuple[str, str]]:
    """Return the colour and marker of each rank (or length), which are the same in every panel of a figure.

    The colours are taken from one ramp, in order. No method uses that ramp. If None is among the levels, it is ink.
    """
    levels = set(levels)
    numbers = sorted(level for level in levels if level is not None)
    low, high = _COLOUR_MAP_ENDS
    shares = [low + (high - low) * i / max(1, len(numbers) - 1) for i in range(len(numbers))]
    colours = [to_hex(matplotlib.colormaps[_COLOUR_MAP](share)) for share in shares]
    styles: dict[int | None, tuple[str, str]] = {None: (INK, "o")} if None in levels else {}
    for i, (number, colour) in enumerate(zip(numbers, colours, strict=True)):
        styles[number] = (colour, MARKERS[i % len(MARKERS)])
    return styles


def rank_handles(styles: Mapping[int | None, tuple[str, str]], *, with_lines: bool) -> list[Line2D]:
    """Return a legend entry for each rank, and for trials without a rank."""
    return [
        Line2D([], [], color=colour, linestyle="-" if with_lines else "", marker="" if with_lines else marker,
               label="no rank" if rank is None else f"r={rank}")
        for rank, (colour, marker) in styles.items()
    ]  # fmt: skip


def method_handles(methods: Iterable[str], **line_options: Any) -> list[Line2D]:
    """Return a legend entry for each method."""
    return [
        Line2D([], [], color=colour, label=method_label(method), **{"marker": marker, "linestyle": ""} | line_options)
        for method, (colour, marker) in ((method, method_style(method)) for method in methods)
    ]


def count_legend_rows(labels: Sequence[str], width_pt: float) -> int:
    """Return how many rows a legend of these labels needs. A legend is filled column by column."""
    for row_count in range(1, len(labels) + 1):
        columns = [labels[i : i + row_count] for i in range(0, len(labels), row_count)]
        if sum(_HANDLE_WIDTH_PT + _LETTER_WIDTH_PT * max(map(len, column)) for column in columns) <= width_pt:
            return row_count
    return max(1, len(labels))


def panels(
    titles: Iterable[str],
    *,
    width: float = 7.2,
    height: float = 3.4,
    right: float = 0.985,
    legend: Sequence[Line2D] = (),
    shares_y_axis: bool = True,
) -> tuple[Figure, list[Axes]]:
    """Return a figure with one panel for each title, three in a row, under one legend.

    Args:
        titles: the title of each panel.
        width, height: the size of a figure with one row of panels, in inches.
        right: where the last panel ends, as a share of the width.
        legend: the entries of the legend.
        shares_y_axis: whether the panels share one y axis.
    """
    titles = list(titles)
    panel_count = len(titles)
    column_count, row_count = min(panel_count, _PANELS_PER_ROW), -(-panel_count // _PANELS_PER_ROW)
    labels = [str(handle.get_label()) for handle in legend]
    legend_row_count = count_legend_rows(labels, 72 * width - 20) if legend else 0
    head_height_in = 0.3 + legend_row_count * _ROW_HEIGHT_PT / 72  # inches above the panels, for the legend and a title
    figure = Figure(figsize=(width, 0.55 + (height - 0.55) * row_count + head_height_in - 0.3))
    grid = figure.subplots(row_count, column_count, sharey=shares_y_axis, squeeze=False)
    figure.subplots_adjust(
        left=0.09 if shares_y_axis else 0.065,
        right=right,
        bottom=0.5 / figure.get_figheight(),
        top=1 - head_height_in / figure.get_figheight(),
        wspace=0.08 if shares_y_axis else 0.22,
        hspace=0.35,
    )
    if legend:
        figure.legend(
            handles=[*legend],
            loc="upper right",
            bbox_to_anchor=(0.995, 1.0),
            ncols=math.ceil(len(legend) / legend_row_count),
            columnspacing=1.0,
            handlelength=1.3,
            borderpad=0.3,
        )
    all_panels = list(grid.flat)
    for unused_panel in all_panels[panel_count:]:
        unused_panel.set_visible(False)
    for axes, title in zip(all_panels, titles, strict=False):
        set_panel_title(axes, title)
    return figure, all_panels[:panel_count]


def set_panel_title(axes: Axes, title: str) -> None:
    """Write a panel's title above its left end."""
    axes.set_title(title, fontsize=9.5, loc="left")


def set_y_label(panels: Sequence[Axes], text: str) -> None:
    """Name the y axis that all panels share, at the first panel of each row."""
    for axes in panels[::_PANELS_PER_ROW]:
        axes.set_ylabel(text)


def figure_files(figure: Figure) -> dict[str, bytes]:
    """Return the contents of a figure's svg, pdf and png files, by ending. They hold no dates."""
    svg = figure_svg(figure)
    buffers = {ending: io.BytesIO() for ending in ("pdf", "png")}
    with matplotlib.rc_context(RC_SETTINGS):
        figure.savefig(buffers["pdf"], format="pdf", dpi=150, metadata={"CreationDate": None})
        figure.set_dpi(150)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    # A file with a palette looks the same and is a third as large.
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(buffers["png"], format="png", optimize=True)
    return {"svg": svg, **{ending: buffer.getvalue() for ending, buffer in buffers.items()}}


def figure_svg(figure: Figure) -> bytes:
    """Return the content of a figure's svg file, which holds no date."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(RC_SETTINGS):
        figure.savefig(buffer, format="svg", dpi=150, metadata={"Date": None})
    return buffer.getvalue()


def inline_svg(svg_text: str, id_prefix: str, label: str) -> Markup:
    """Prepare the text of an SVG file for a page. The figure then has the colours of the page.

    Args:
        svg_text: the content of the file.
        id_prefix: put before each id, so that the ids of several figures on a page differ.
        label: what screen readers read out.
    """
    svg_text = svg_text[svg_text.index("<svg") :]
    svg_text = re.sub(r"<metadata>.*?</metadata>", "", svg_text, flags=re.DOTALL)
    svg_text = re.sub(r'\bid="', f'id="{id_prefix}-', svg_text)
    svg_text = re.sub(r'(href="|url\()#', rf"\1#{id_prefix}-", svg_text)
    svg_text = re.sub(r"<path(?![^>]*\bd=)", '<path d=""', svg_text)  # the glyph of a space
    # The figure is as wide as the page, but at most a quarter wider than it was drawn.
    svg_text = re.sub(
        r'<svg([^>]*?) width="([\d.]+)pt"', r'<svg\1 style="max-width: calc(\2pt * 1.25)"', svg_text, count=1
    )
    svg_text = re.sub(r'<svg([^>]*?) height="[^"]*"', r"<svg\1", svg_text, count=1)
    for colour, variable in _PAGE_VARIABLES.items():
        svg_text = svg_text.replace(colour, variable)
    return Markup(svg_text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))


def log_axis(axes: Axes, low: float, high: float, *, is_roomy: bool) -> None:
    """Make the x axis logarithmic, from `low` to `high`, with plain numbers. A roomy axis has ticks at 1, 2 and 5."""
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    tick_digits = (1.0, 2.0, 5.0) if is_roomy and high / low < 2000 else (1.0, 3.0) if high / low < 30 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=tick_digits))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _format_tick(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", bottom=False)


def log2_axis(axes: Axes, low: float, high: float, ticks: Sequence[float] = ()) -> None:
    """Make the x axis a logarithmic one of counts, from `low` to `high`.

    Without `ticks` there is a tick at each doubling of 125, such as 500, 1,000 and 2,000. If `low` is at most 100, the
    ticks are at 1, 2, 4 and so on, because halves of 125 are not whole numbers. An axis of more than ten doublings has
    a tick at each power of ten.
    """
    axes.set_xscale("log", base=2)
    axes.set_xlim(low, high)
    unit = 125.0 if low > 100 else 1.0
    first_exponent, last_exponent = (math.log2(end / unit) for end in (low, high))
    doubling_ticks = [
        unit * 2.0**exponent for exponent in range(math.ceil(first_exponent), math.floor(last_exponent) + 1)
    ]
    decade_ticks = [10.0**exponent for exponent in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    axes.xaxis.set_major_locator(
        FixedLocator(ticks or (doubling_ticks if 1 < len(doubling_ticks) <= 10 else decade_ticks))
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _format_tick(value)))


def _format_tick(value: float) -> str:
    if value >= 1e9:
        return f"{value / 1e9:,g}B"
    if value >= 1e6:
        return f"{value / 1e6:,g}M"
    return f"{value:,.0f}" if value >= 1 else f"{value:g}" if value > 9e-4 else f"{value:.0e}".replace("e-0", "e-")


def move_apart(positions: Sequence[float], least_gap: float) -> list[float]:
    """Move positions as little as possible until they are at least `least_gap` apart; their order stays the same."""
    sorted_indices = sorted(range(len(positions)), key=lambda i: positions[i])
    # A block holds neighbours that were moved to be exactly `least_gap` apart, while their mean stays where it was. It
    # is a pair: the new position of its first member, and the indices of all members.
    blocks: list[tuple[float, list[int]]] = []
    for i in sorted_indices:
        start, indices = positions[i], [i]
        while blocks and blocks[-1][0] + least_gap * len(blocks[-1][1]) > start:
            left_start, left_indices = blocks.pop()
            sum_of_starts = left_start * len(left_indices) + (start - least_gap * len(left_indices)) * len(indices)
            start, indices = sum_of_starts / (len(left_indices) + len(indices)), left_indices + indices
        blocks.append((start, indices))
    moved_positions = [0.0] * len(positions)
    for start, indices in blocks:
        for offset, i in enumerate(indices):
            moved_positions[i] = start + least_gap * offset
    return moved_positions


def draw_axis_break(upper: Axes, lower: Axes) -> None:
    """Mark that the y axis leaves out the values between two panels."""
    upper.spines.bottom.set_visible(False)
    upper.tick_params(which="both", bottom=False, labelbottom=False)
    slash_options: dict[str, Any] = {
        "marker": [(-1, -0.5), (1, 0.5)],
        "markersize": 8,
        "linestyle": "none",
        "color": MUTED,
    }
    upper.plot([0], [0], transform=upper.transAxes, clip_on=False, **slash_options)
    lower.plot([0], [1], transform=lower.transAxes, clip_on=False, **slash_options)


def halo(width_pt: float = 2.2) -> list[withStroke]:
    """Return a rim in the paper's colour, so that a label can be read over lines."""
    return [withStroke(linewidth=width_pt, foreground=PAPER)]


def draw_end_labels(axes: Axes, labels: Iterable[tuple[float, float, str, str]], gap_pt: float = 10) -> None:
    """Write labels (x, y, text, colour) to the right of their points, moved up or down until none overlaps another."""
    labels = list(labels)
    if not labels:
        return
    axes.get_ylim()  # this makes matplotlib compute the limits of the axes
    points_per_pixel = 72 / axes.figure.dpi
    heights_pt = [axes.transData.transform((x, y))[1] * points_per_pixel for x, y, *_ in labels]
    moved_heights_pt = [0.0] * len(labels)
    for label_x in {x for x, *_ in labels}:  # only labels at one x can overlap
        indices = [i for i, (x, *_) in enumerate(labels) if x == label_x]
        for i, height_pt in zip(indices, move_apart([heights_pt[i] for i in indices], gap_pt), strict=True):
            moved_heights_pt[i] = height_pt
    for (x, y, text, colour), height_pt, moved_height_pt in zip(labels, heights_pt, moved_heights_pt, strict=True):
        axes.annotate(
            text,
            (x, y),
            xytext=(7, moved_height_pt - height_pt),
            textcoords="offset points",
            color=colour,
            fontsize=8,
            va="center",
            annotation_clip=False,
            path_effects=halo(),
        )
