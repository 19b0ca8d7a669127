"""Is a trained full prompt low-rank? Its singular values, and its accuracy after it was cut to lower ranks.

LoPT (arXiv 2406.19486) assumes that it is, and trains a prompt of rank r from the start.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import style
from analysis.accuracy_lines import draw_accuracies
from analysis.cells import Group
from analysis.labels import LINE_COST, MARKER_COST, Labels
from analysis.low_rank import FACTORED, FullPromptRank, full_prompt_ranks
from analysis.methods import method_label
from analysis.registry import Missing, PlotSpec, Row
from analysis.render import data_columns
from analysis.stats import Estimate, intervals_note

_INITIAL_LINE = (0, (4, 2))  # the dashes of initial values


@dataclass(frozen=True, kw_only=True)
class Info:
    group: Group
    entries: tuple[FullPromptRank, ...]  # the figure shows the first; the data file has all

    @property
    def entry(self) -> FullPromptRank:
        """The full prompts that the figure shows."""
        return self.entries[0]


def compute(group: Group) -> Info | Missing:
    entries = full_prompt_ranks(group)
    return entries if isinstance(entries, Missing) else Info(group=group, entries=entries)


@style.in_style
def draw(info: Info) -> Figure:
    entry = info.entry
    colour, marker = style.method_style(entry.cell.method)
    factored_colour, factored_marker = style.method_style(FACTORED)
    handles = [
        Line2D([], [], color=colour, label="trained"),
        Line2D([], [], color=style.MUTED, linestyle=_INITIAL_LINE, label="before training"),
        Line2D([], [], color=colour, marker=marker, label="cut to rank r after training"),
    ]
    if entry.factored_accuracies:
        label = f"{method_label(FACTORED)} trained at rank r"
        handles.append(Line2D([], [], color=factored_colour, marker=factored_marker, label=label))
    figure, (left, right) = style.panels(
        [f"singular values of X, {entry.cell.label}", f"accuracy at rank r, n={entry.length}"],
        height=3.5, legend=handles, shares_y_axis=False,
    )  # fmt: skip
    figure.subplots_adjust(left=0.085, wspace=0.2)
    _draw_singular_values(left, [seed.initial_singular_values for seed in entry.seeds], style.MUTED, _INITIAL_LINE)
    _draw_singular_values(left, [seed.singular_values for seed in entry.seeds], colour, "-")
    left.set_xlim(0.5, len(entry.seeds[0].singular_values) + 0.5)
    left.set_ylim(0, 1.04)
    left.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    left.set_xlabel("index")
    left.set_ylabel("share of the largest")
    _draw_accuracies(right, info)
    return figure


def _draw_singular_values(axes: Axes, values_SK: Sequence[Sequence[float]], colour: str, linestyle: object) -> None:
    """Draw the singular values relative to the largest: their mean over seeds as a line, their range as a band."""
    shares_SK = [[value / values[0] for value in values] for values in values_SK]
    shares_by_index = [*zip(*shares_SK, strict=True)]
    indices = range(1, len(shares_by_index) + 1)
    lows, highs = [min(shares) for shares in shares_by_index], [max(shares) for shares in shares_by_index]
    axes.fill_between(indices, lows, highs, color=colour, alpha=0.18, linewidth=0)
    means = [sum(shares) / len(shares) for shares in shares_by_index]
    axes.plot(indices, means, color=colour, linestyle=linestyle)


def _draw_accuracies(axes: Axes, info: Info) -> None:
    entry, full_accuracy = info.entry, info.entry.uncut_accuracy
    ranks = sorted({rank for rank, _ in (*entry.cut_accuracies, *entry.factored_accuracies)})
    style.log2_axis(axes, ranks[0] / 1.25, ranks[-1] * 1.25, ranks)
    axes.set_xlabel("rank r")
    axes.set_ylabel("test accuracy, %")
    axes.axhspan(100 * full_accuracy.low, 100 * full_accuracy.high, color=style.MUTED, alpha=0.12, linewidth=0)
    shift = 1.03 if entry.factored_accuracies else 1.0  # puts the two points of a rank side by side
    lines = [
        _draw_line(axes, entry.cut_accuracies, 1 / shift, style.method_style(entry.cell.method)),
        _draw_line(axes, entry.factored_accuracies, shift, style.method_style(FACTORED)),
    ]
    levels = [(100 * full_accuracy.mean, f"whole prompt, n={entry.length}")]
    if info.group.zero_shot_accuracy is not None:
        levels.append((100 * info.group.zero_shot_accuracy, "no prompt"))
    heights = [height for height, _ in levels]
    low, high = min(axes.get_ylim()[0], *heights), max(axes.get_ylim()[1], *heights)
    margin = 0.07 * (high - low)  # room for the names of the levels
    axes.set_ylim(low - margin, high + margin)
    labels = Labels(axes)
    for points in lines:
        labels.keep_off_line([(x, 100 * accuracy.mean) for x, accuracy in points], LINE_COST)
        for x, accuracy in points:
            labels.keep_off([(x, 100 * accuracy.mean)], MARKER_COST)
            labels.keep_off_line([(x, 100 * accuracy.low), (x, 100 * accuracy.high)], LINE_COST)
    labels.draw_levels(levels)


def _draw_line(
    axes: Axes, accuracies: Sequence[tuple[int, Estimate]], shift: float, line_style: tuple[str, str]
) -> list[tuple[float, Estimate]]:
    """Draw accuracy against rank with intervals, and return the points as (x, accuracy)."""
    points = [(rank * shift, accuracy) for rank, accuracy in accuracies]
    draw_accuracies(axes, points, line_style)
    return points


def caption(info: Info) -> str:
    entry, full_accuracy = info.entry, info.entry.uncut_accuracy
    sentences = [
        f"Is a trained full prompt low-rank? {entry.cell.label} on {info.group.title}, {entry.seeds_text}. Left: the "
        "singular values of the trained prompt X and of its initial values, each divided by the largest."
    ]
    if len(entry.seeds) > 1:
        sentences.append("The line is the mean over the seeds; the band reaches from the lowest to the highest seed.")
    sentences += [
        f"The stable rank (‖X‖² by Frobenius norm / ‖X‖² by spectral norm) is {entry.stable_rank:.1f}, and "
        f"{entry.initial_stable_rank:.1f} before training{', on average' if len(entry.seeds) > 1 else ''}.",
        "Right: test accuracy of the prompts after each was replaced by its best approximation of rank r (from its "
        "singular value decomposition) and not trained again.",
    ]
    if entry.factored_accuracies:
        sentences.append(
            f"Beside them is {method_label(FACTORED)} of the same length, trained at rank r from the start."
        )
    estimates = [full_accuracy, *(accuracy for _, accuracy in (*entry.cut_accuracies, *entry.factored_accuracies))]
    sentences += [
        f"The dashed line is the whole prompt of the same {entry.cut_seeds_text}, and the grey band is its interval. "
        "Each point is the mean over seeds; the bar is its 95 % interval.",
        intervals_note(estimates),
    ]
    if len(entry.seeds) > 1:
        sentences.append(
            "The interval of a cut prompt comes from the accuracies of its seeds alone, because its predictions are "
            "not stored, and can be wider for that reason."
        )
    sentences += filter(None, [entry.left_out_text])
    if len(info.entries) > 1:
        others = ", ".join(other.cell.label for other in info.entries[1:])
        sentences.append(f"The data file also has {others}.")
    return " ".join(sentences)


def data(info: Info) -> list[Row]:
    rows: list[Row] = []
    for entry in info.entries:
        cell_columns = {"cell": entry.cell.label}
        rows += [
            {**cell_columns, "prompt": prompt, "trial": seed.key, "index": index, "singular_value": value}
            for seed in entry.seeds
            for prompt, values in (("trained", seed.singular_values), ("initial", seed.initial_singular_values))
            for index, value in enumerate(values, start=1)
        ]
        rows.append({**cell_columns, "prompt": "whole", **data_columns(entry.uncut_accuracy)})
        rows += [
            {**cell_columns, "prompt": prompt, "rank": rank, **data_columns(accuracy)}
            for prompt, accuracies in (("cut", entry.cut_accuracies), (FACTORED, entry.factored_accuracies))
            for rank, accuracy in accuracies
        ]
    return rows


SPEC = PlotSpec(
    name="low_rank",
    title="Is a trained full prompt low-rank?",
    info=compute,
    draw=draw,
    caption=caption,
    data=data,
    place=95,
)
