"""Forest plot: how far each smaller cell is from the reference, and the margin."""

from matplotlib.figure import Figure

from analysis import style
from analysis.comparisons import Comparison, cell_name
from analysis.registry import Info, PlotSpec, Row
from analysis.tables.noninferiority import compute

_MOST_ROWS = 30  # a figure has no room for more rows


def _drawn_rows(info: Info[Comparison]) -> tuple[Comparison, ...]:
    """Return the comparisons to draw. If there are too many, these are the ones closest to being as good."""
    closest_rows = sorted(info.rows, key=lambda row: -row.verdict.difference.low)[:_MOST_ROWS]
    return tuple(row for row in info.rows if row in closest_rows)


@style.in_style
def draw(info: Info[Comparison]) -> Figure:
    drawn_rows = _drawn_rows(info)
    margin_pp = 100 * info.group.margin
    figure = Figure(figsize=(7.2, 0.95 + 0.32 * len(drawn_rows)))
    axes = figure.add_axes((0.33, 0.55 / figure.get_figheight(), 0.5, 1 - 0.85 / figure.get_figheight()))
    interval_ends = [
        100 * end for row in drawn_rows for end in (row.verdict.difference.low, row.verdict.difference.high)
    ]
    low, high = min([*interval_ends, -margin_pp]), max([*interval_ends, 0.0])
    room = 0.06 * (high - low)
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(len(drawn_rows) - 0.4, -0.6)
    axes.axvspan(low - room, -margin_pp, color=style.MUTED, alpha=0.12, linewidth=0)
    axes.axvline(-margin_pp, color=style.MUTED, linestyle=(0, (4, 3)), linewidth=1)
    axes.axvline(0, color=style.INK, linewidth=0.8)
    for y, row in enumerate(drawn_rows):
        difference, outcome = row.verdict.difference, row.verdict.outcome
        colour, marker = style.method_style(row.cell.method)
        axes.plot([100 * difference.low, 100 * difference.high], [y, y], color=colour, linewidth=1.4)
        axes.plot(100 * difference.mean, y, marker, color=colour, markersize=6.5, mec=style.PAPER, mew=0.7)
        axes.annotate(
            outcome,
            (1.02, y),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
            color=style.INK if outcome in ("non-inferior", "inferior") else style.MUTED,
            annotation_clip=False,
        )
    axes.set_yticks(range(len(drawn_rows)), [f"{row.cell.label}, {row.ratio:.1f}× fewer" for row in drawn_rows])
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"test {info.group.score_name} minus that of the reference, percentage points")
    axes.annotate(
        f"margin: −{margin_pp:g}",
        (-margin_pp, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=style.MUTED,
    )
    return figure


def caption(info: Info[Comparison]) -> str:
    text = (
        f"Cells with fewer parameters than the reference, {cell_name(info.rows[0].reference)}, compared with it on "
        f"{info.group.title}. Each point is the difference in test {info.group.score_name} on the same examples; the "
        "bar is its 95 % "
        "interval over seeds and examples. In the shaded area a cell is worse than the reference by more than the "
        "margin. A bar outside this area suggests that the cell is as good. The verdicts at the right are corrected "
        "for the number of tests by Holm's method, so a cell can be without a verdict although its bar is outside the "
        "shaded area."
    )
    if len(info.rows) > _MOST_ROWS:
        text += (
            f" Of {len(info.rows)} smaller cells, the figure shows the {_MOST_ROWS} that come closest to being as "
            'good. The table "As good as the reference?" shows all of them.'
        )
    return text


def data(info: Info[Comparison]) -> list[Row]:
    rows: list[Row] = []
    for row in info.rows:
        difference = row.verdict.difference
        rows.append(
            {
                "cell": row.cell.label,
                "parameters": row.cell.trainable_parameters,
                "times_fewer": row.ratio,
                "difference_pp": 100 * difference.mean,
                "difference_pp_low": 100 * difference.low,
                "difference_pp_high": 100 * difference.high,
                "verdict": row.verdict.outcome,
            }
        )
    return rows


SPEC = PlotSpec(
    name="forest", title="How far from the reference", info=compute, draw=draw, caption=caption, data=data, place=40
)
