"""Forest plot: how far each much smaller prompt is from the full one, beside the margin."""

from matplotlib.figure import Figure

from analysis import style
from analysis.comparisons import Comparison
from analysis.registry import Info, PlotSpec, Row
from analysis.tables.noninferiority import compute

_MOST = 30  # rows that a figure can hold


def _shown(info: Info[Comparison]) -> tuple[Comparison, ...]:
    """Of more comparisons those that come closest to being as good."""
    closest = sorted(info.rows, key=lambda each: -each.verdict.difference.low)[:_MOST]
    return tuple(each for each in info.rows if each in closest)


@style.in_style
def draw(info: Info[Comparison]) -> Figure:
    shown = _shown(info)
    rows = len(shown)
    margin = 100 * info.group.margin
    figure = Figure(figsize=(7.2, 0.95 + 0.32 * rows))
    axes = figure.add_axes((0.33, 0.55 / figure.get_figheight(), 0.5, 1 - 0.85 / figure.get_figheight()))
    ends = [100 * end for c in shown for end in (c.verdict.difference.low, c.verdict.difference.high)]
    low, high = min([*ends, -margin]), max([*ends, 0.0])
    room = 0.06 * (high - low)
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.axvspan(low - room, -margin, color=style.MUTED, alpha=0.12, linewidth=0)
    axes.axvline(-margin, color=style.MUTED, linestyle=(0, (4, 3)), linewidth=1)
    axes.axvline(0, color=style.INK, linewidth=0.8)
    for row, each in enumerate(shown):
        found = each.verdict.difference
        colour, marker = style.method_style(each.cell.method)
        axes.plot([100 * found.low, 100 * found.high], [row, row], color=colour, linewidth=1.4)
        axes.plot(100 * found.mean, row, marker, color=colour, markersize=6.5, mec=style.PAPER, mew=0.7)
        axes.annotate(
            each.verdict.outcome,
            (1.02, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
            color=style.INK if each.verdict.outcome != "inconclusive" else style.MUTED,
            annotation_clip=False,
        )
    axes.set_yticks(range(rows), [f"{c.cell.label}, {c.ratio:.1f}× fewer" for c in shown])
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("accuracy minus the full prompt's, pp")
    axes.annotate(
        f"margin −{margin:g} pp",
        (-margin, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=style.MUTED,
    )
    return figure


def caption(info: Info[Comparison]) -> str:
    full = info.rows[0].full
    return (
        f"Much smaller prompts beside the full one ({full.label}) on {info.group.title}: difference in accuracy on the "
        "same test examples; bars are 95 % intervals over seeds and examples. Shaded: worse by more than the margin; a "
        "bar clear of it speaks for as good. The verdicts hold for all tests together (Holm), and so ask for more."
        + (
            f" Of {len(info.rows)} smaller prompts the {_MOST} that come closest; the table has all."
            if len(info.rows) > _MOST
            else ""
        )
    )


def data(info: Info[Comparison]) -> list[Row]:
    return [
        {"cell": each.cell.label, "parameters": each.cell.trainable_parameters, "times_fewer": each.ratio}
        | {f"difference_pp{name}": 100 * end for name, end in (("", gap.mean), ("_low", gap.low), ("_high", gap.high))}
        | {"verdict": each.verdict.outcome}
        for each in info.rows
        for gap in (each.verdict.difference,)
    ]


SPEC = PlotSpec(
    name="forest", title="How far from the full prompt", info=compute, draw=draw, caption=caption, data=data, place=40
)
