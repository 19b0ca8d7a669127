"""Lines of accuracies in figures, with the interval of each point."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from analysis import style
from analysis.stats import Estimate


def draw_accuracies(axes: Axes, points: Sequence[tuple[float, Estimate]], line_style: tuple[str, str]) -> None:
    """Draw a line of accuracies at these x, in percent, with their intervals. `line_style` is colour and marker."""
    colour, marker = line_style
    for x, accuracy in points:
        ends = [100 * accuracy.low, 100 * accuracy.high]
        axes.plot([x, x], ends, color=colour, linewidth=1, alpha=0.5, zorder=3)
    axes.plot(
        [x for x, _ in points], [100 * accuracy.mean for _, accuracy in points],
        marker=marker, color=colour, markersize=6, mec=style.PAPER, mew=0.7, zorder=4,
    )  # fmt: skip
