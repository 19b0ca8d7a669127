"""When one of our results may be compared with a published number, and what a table says about the two."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from analysis.cells import Cell, Group
from analysis.published import POINTS, Point
from analysis.registry import Info
from analysis.render import Column, Table, interval, score_title
from analysis.stats import BOLD_NOTE, Estimate, clear_best_index, intervals_note, wilson_interval


def is_same_backbone(ours: str, published: str) -> bool:
    """Whether both are the same backbone. Ours may begin with its owner's name, as in `openai-community/gpt2-large`."""
    return ours.rstrip("/").rsplit("/", 1)[-1].lower() == published


@dataclass(frozen=True, kw_only=True)
class PublishedComparison:
    """Our result compared with a published one.

    Attributes:
        difference: our accuracy minus theirs, a fraction; None if they may not be compared.
        verdict: "agrees", "below", "above", "not run", "not confirmed", or "not comparable: ..." with the reason.
        obstacle: the reason why they may not be compared, else None.
    """

    difference: float | None
    verdict: str
    obstacle: str | None = None

    @property
    def difference_text(self) -> str:
        """The difference in percentage points."""
        return "–" if self.difference is None else f"{100 * self.difference:+z.1f}"


# Parameter counts are taken as equal if they differ by at most this share, because the paper rounds its counts.
_SIZE_TOLERANCE = 0.1

VERDICT_NOTE = (
    "Verdict: our mean test accuracy agrees with the published one if the 95 % intervals of both together allow their "
    "difference. If not, it is below or above. The published accuracy gets the Wilson interval of one run on its "
    "split, even if it is a mean over an unstated number of runs. Two results are compared only if backbone, task and "
    "split are the same and their numbers of parameters differ by at most 10 % (the paper rounds its counts)."
)


def compare_with_published(group: Group | None, cell: Cell | None, point: Point) -> PublishedComparison:
    """Compare our cell with a published result.

    They agree if their difference is at most sqrt(a² + b²). Here a and b are the half widths of the two intervals,
    each on the side of the other result.
    """
    if group is None or cell is None or not cell.trials:
        return PublishedComparison(difference=None, verdict="not run")
    if cell.plain_accuracy is None:
        return PublishedComparison(difference=None, verdict="not confirmed")
    reason = obstacle(group, cell, point) or _size_obstacle(cell, point)
    if reason or point.split_size is None:
        return PublishedComparison(difference=None, verdict=f"not comparable: {reason}", obstacle=reason)
    our_accuracy, their_accuracy = cell.plain_accuracy, point.accuracy_percent / 100
    low, high = wilson_interval(their_accuracy, point.split_size)
    difference = our_accuracy.mean - their_accuracy
    half_widths = (
        (our_accuracy.mean - our_accuracy.low, high - their_accuracy)
        if difference > 0
        else (our_accuracy.high - our_accuracy.mean, their_accuracy - low)
    )
    verdict = "agrees" if abs(difference) <= math.hypot(*half_widths) else "above" if difference > 0 else "below"
    return PublishedComparison(difference=difference, verdict=verdict)


def _size_obstacle(cell: Cell, point: Point) -> str | None:
    our_count, their_count = cell.trainable_parameters, point.trainable_parameters
    is_different = our_count is not None and abs(our_count - their_count) > _SIZE_TOLERANCE * their_count
    return "different size" if is_different else None


def verdict_texts(comparisons: Iterable[PublishedComparison | None]) -> tuple[list[str], str]:
    """Return the verdict on each comparison (an empty text for None), and a note.

    If the same obstacle forbids every comparison, the note states it, and each verdict is a dash. Otherwise the note
    is empty.
    """
    comparisons = list(comparisons)
    obstacles = {
        comparison.obstacle
        for comparison in comparisons
        if comparison and (comparison.obstacle or comparison.difference is not None)
    }
    (common_obstacle,) = obstacles if len(obstacles) == 1 else (None,)
    texts = [
        "" if comparison is None else "–" if common_obstacle and comparison.obstacle else comparison.verdict
        for comparison in comparisons
    ]
    note = f"None of our results can be compared with the published ones: {common_obstacle}." if common_obstacle else ""
    return texts, note


def protocol_note(group: Group) -> str:
    """Describe how long our trials trained and what scored them, and what the paper does not state about its own."""
    trials = [trial for cell in group.confirmed_cells for trial in cell.confirmed_trials]
    step_counts = sorted({trial.max_steps for trial in trials if trial.max_steps})
    scored_and_split_sizes = sorted(
        {(trial.test_n or 0, trial.test_split_size or trial.test_n or 0) for trial in trials}
    )
    if not trials or not step_counts:
        return ""
    step_range = " to ".join(f"{number:,}" for number in dict.fromkeys((step_counts[0], step_counts[-1])))
    sizes_text = " and ".join(f"{number:,} of the {size:,}" for number, size in scored_and_split_sizes)
    return (
        f"Our trials train for {step_range} steps and are scored on {sizes_text} examples of the "
        f"{trials[0].test_split} split. The paper states neither its number of steps nor over how many seeds it "
        "averages."
    )


@dataclass(frozen=True, kw_only=True)
class Row:
    """A setting of a published table, our cell of the same setting, and their comparison."""

    point: Point
    cell: Cell | None
    comparison: PublishedComparison

    @property
    def our_accuracy(self) -> Estimate | None:
        """Our test accuracy; None without a confirmed trial."""
        return self.cell.plain_accuracy if self.cell else None

    @property
    def our_parameters(self) -> int | None:
        """The trainable parameters of our cell."""
        return self.cell.trainable_parameters if self.cell else None


def comparison_row(group: Group, point: Point, compared_point: Point | None = None) -> Row:
    """Return the row of a published point.

    Args:
        compared_point: the point with which our cell is compared; None for `point` itself.
    """
    cell = group.find(point.method, point.length, point.rank)
    return Row(point=point, cell=cell, comparison=compare_with_published(group, cell, compared_point or point))


def comparison_table(
    info: Info[Row], caption: str, columns: tuple[Column, ...], middle_texts: Callable[[Row], tuple[str, ...]]
) -> Table:
    """Return a published table with our results.

    Args:
        columns: the first columns. The name of a published row is in the first of them. The columns of our result, the
            difference and the verdict follow.
        middle_texts: writes the texts of a row for all but the first of `columns`.
    """
    bold_row = clear_best_index([row.our_accuracy for row in info.rows])
    verdicts, obstacle_note = verdict_texts(row.comparison for row in info.rows)
    our_texts = [
        interval(row.our_accuracy, row.cell.missing_accuracy_text if row.cell else "not run") for row in info.rows
    ]
    return Table(
        caption=f"{caption}, and our results: {info.group.title}",
        columns=(
            *columns,
            Column(title=f"our {score_title('accuracy')}", csv_name="ours % [95 % CI] (N)"),
            Column(title="difference, percentage points", csv_name="difference, pp"),
            Column(title="verdict", align="left"),
        ),
        rows=tuple(
            (row.point.row_name, *middle_texts(row), our_text, row.comparison.difference_text, verdict)
            for row, our_text, verdict in zip(info.rows, our_texts, verdicts, strict=True)
        ),
        notes=(
            obstacle_note or VERDICT_NOTE,
            protocol_note(info.group),
            intervals_note([row.our_accuracy for row in info.rows if row.our_accuracy]),
            BOLD_NOTE if bold_row is not None else "",
        ),
        bold=frozenset() if bold_row is None else frozenset({(bold_row, len(columns))}),
    )


def obstacle(group: Group, cell: Cell, point: Point) -> str | None:
    """Return why our result may not be compared with the published one; None when it may."""
    is_same_by_aspect = {"backbone": is_same_backbone(group.backbone, point.backbone), "task": group.task == point.task}
    if different_aspects := [aspect for aspect, is_same in is_same_by_aspect.items() if not is_same]:
        return f"different {' and '.join(different_aspects)}"
    if group.shots is not None:
        return "few-shot"
    if not cell.confirmed_trials:
        return "not run"
    trial = cell.confirmed_trials[0]
    if point.split_size is None:
        return "split not stated"
    if trial.test_split != point.split:
        return "different split"
    if trial.test_n != point.split_size:
        return "only part of the split" if (trial.test_n or 0) < point.split_size else "different split"
    return None


def comparable_points(group: Group) -> tuple[Point, ...]:
    """Return the published points that a figure of this group may show. A point of several tables is returned once."""
    first_cell = next(iter(group.confirmed_cells), None)
    if first_cell is None:
        return ()
    points: dict[object, Point] = {}
    for point in POINTS:
        if obstacle(group, first_cell, point) is None:
            points.setdefault((point.method, point.length, point.rank, point.accuracy_percent), point)
    return tuple(points.values())
