"""When a number of ours may be set against a published one, and what then is said of it."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from analysis.cells import Cell, Group
from analysis.published import POINTS, Point
from analysis.registry import Info
from analysis.render import Column, Table, interval, numbers
from analysis.stats import BOLD, Estimate, describe, standing_out, wilson


def same_backbone(ours: str, published: str) -> bool:
    """Whether it is the same backbone, with or without its owner (`openai-community/gpt2-large`)."""
    return ours.rstrip("/").rsplit("/", 1)[-1].lower() == published


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Our result beside a published one.

    difference: ours less theirs, a fraction; None where they may not be compared. verdict: agrees, below, above, not
    run, not confirmed, or not comparable with the reason, which is also in `obstacle`.
    """

    difference: float | None
    verdict: str
    obstacle: str | None = None

    @property
    def points(self) -> str:
        """The difference in percentage points."""
        return "–" if self.difference is None else f"{100 * self.difference:+z.1f}"


_ROUNDING = 0.1  # of a count of parameters, within which two are the same

VERDICTS = (
    "Agrees: our mean and the published one are no further apart than the 95 % intervals of both allow, for the "
    "published one the Wilson interval of one run on its split, also where it is a mean over a number of runs that is "
    "not stated; else below or above. A comparison wants the same backbone, task and split, and as many parameters "
    "within 10 % (the paper's counts are rounded)."
)


def set_beside(group: Group | None, cell: Cell | None, point: Point) -> Beside:
    """Sets our cell beside a published result. Interval: half widths towards each other, added as squares."""
    if group is None or cell is None or not cell.trials:
        return Beside(difference=None, verdict="not run")
    if cell.accuracy is None:
        return Beside(difference=None, verdict="not confirmed")
    why = obstacle(group, cell, point) or _other_size(cell, point)
    if why or point.split_size is None:
        return Beside(difference=None, verdict=f"not comparable: {why}", obstacle=why)
    ours, theirs = cell.accuracy, point.accuracy_percent / 100
    low, high = wilson(theirs, point.split_size)
    gap = ours.mean - theirs
    halves = (ours.mean - ours.low, high - theirs) if gap > 0 else (ours.high - ours.mean, theirs - low)
    verdict = "agrees" if abs(gap) <= math.hypot(*halves) else "above" if gap > 0 else "below"
    return Beside(difference=gap, verdict=verdict)


def _other_size(cell: Cell, point: Point) -> str | None:
    ours, theirs = cell.trainable_parameters, point.trainable_parameters
    return "other size" if ours is not None and abs(ours - theirs) > _ROUNDING * theirs else None


def verdicts(besides: Iterable[Beside | None]) -> tuple[list[str], str]:
    """The texts of a table's column of verdicts, empty for None, and a note. Where one obstacle keeps all results of
    ours from being compared, the note says it for all of them, and the column has dashes."""
    besides = list(besides)
    reasons = {beside.obstacle for beside in besides if beside and (beside.obstacle or beside.difference is not None)}
    (common,) = reasons if len(reasons) == 1 else (None,)
    texts = ["" if beside is None else "–" if common and beside.obstacle else beside.verdict for beside in besides]
    return texts, f"No result of ours is comparable with the published one: {common}." if common else ""


def protocol(group: Group) -> str:
    """How ours was made, beside what the papers leave open."""
    trials = [trial for cell in group.confirmed for trial in cell.confirmed]
    steps = sorted({trial.max_steps for trial in trials if trial.max_steps})
    scored = sorted({(trial.test_n or 0, trial.test_split_size or trial.test_n or 0) for trial in trials})
    if not trials or not steps:
        return ""
    span = " to ".join(f"{number:,}" for number in dict.fromkeys((steps[0], steps[-1])))
    parts = " and ".join(f"{n:,} of {size:,}" for n, size in scored)
    return (
        f"Ours: {span} steps, scored on {parts} examples of the {trials[0].test_split} split. The paper states neither "
        "its number of steps nor over how many seeds it averages."
    )


@dataclass(frozen=True, kw_only=True)
class Row:
    """A setting of a published table, and ours beside it."""

    point: Point
    cell: Cell | None
    beside: Beside

    @property
    def ours(self) -> Estimate | None:
        return self.cell.accuracy if self.cell else None

    @property
    def parameters(self) -> int | None:
        return self.cell.trainable_parameters if self.cell else None


def row(group: Group, point: Point, compared: Point | None = None) -> Row:
    """`compared`: the point beside which ours is set, where that is another one of the row."""
    cell = group.find(point.method, point.length, point.rank)
    return Row(point=point, cell=cell, beside=set_beside(group, cell, compared or point))


def table(info: Info[Row], caption: str, titles: tuple[str, ...], texts: Callable[[Row], tuple[str, ...]]) -> Table:
    """A published table with ours beside it: a row's name and `texts` under `titles`, then our result and a verdict."""
    best = standing_out([row.ours for row in info.rows])
    said, obstacle = verdicts(row.beside for row in info.rows)
    ours = [interval(row.ours, row.cell.unconfirmed if row.cell else "not run") for row in info.rows]
    return Table(
        caption=f"{caption} beside {info.group.title}",
        columns=(
            Column(title=titles[0], align="left"),
            *numbers(*titles[1:], "ours % [95 % CI] (N)", "difference, pp"),
            Column(title="verdict", align="left"),
        ),
        rows=tuple(
            (row.point.cell, *texts(row), result, row.beside.points, verdict)
            for row, result, verdict in zip(info.rows, ours, said, strict=True)
        ),
        notes=(
            obstacle or VERDICTS,
            protocol(info.group),
            describe([row.ours for row in info.rows if row.ours]),
            BOLD if best is not None else "",
        ),
        bold=frozenset() if best is None else frozenset({(best, len(titles))}),
    )


def obstacle(group: Group, cell: Cell, point: Point) -> str | None:
    """Why our result may not be set against the published one; None when it may."""
    same = {"backbone": same_backbone(group.backbone, point.backbone), "task": group.task == point.task}
    if other := [name for name, alike in same.items() if not alike]:
        return f"other {' and '.join(other)}"
    if group.shots is not None:
        return "few-shot"
    if not cell.confirmed:
        return "not run"
    trial = cell.confirmed[0]
    if point.split_size is None:
        return "split not stated"
    if trial.test_split != point.split:
        return "other split"
    if trial.test_n != point.split_size:
        return "subset of split" if (trial.test_n or 0) < point.split_size else "other split"
    return None


def comparable(group: Group) -> tuple[Point, ...]:
    """The published points that may be drawn among this group's, each setting once."""
    probe = next(iter(group.confirmed), None)
    if probe is None:
        return ()
    points: dict[object, Point] = {}
    for point in POINTS:
        if obstacle(group, probe, point) is None:
            points.setdefault((point.method, point.length, point.rank, point.accuracy_percent), point)
    return tuple(points.values())
