"""Sequential tests: smaller cells are compared with the reference at each look, until the question is decided.

Seeds are added where the verdict is open and matters for the answer: to the reference, and to each open cell that is
smaller than the smallest cell shown non-inferior. At each look, Holm's method shares the level of each kind of verdict
among the cells: what a decided cell no longer needs, the others get (Maurer and Bretz 2013). So the chance of any wrong
verdict, over both kinds, all cells and all looks, is at most 5 %.

A cell gets no more seeds if a verdict has become unlikely. This never makes a verdict, so it cannot make a wrong one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Literal, TypeVar

from analysis.group_sequential import SequentialDesign
from analysis.noninferiority import KIND_LEVEL, Difference, Verdict
from analysis.stats import critical_value

AnyCell = TypeVar("AnyCell")
Reason = Literal["", "examples", "seeds", "most seeds", "not needed", "not confirmed", "no predictions"]

FUTILE_CHANCE = 0.03  # a cell gets no more seeds if its chance of a verdict is smaller than this
# The same from the third look on, if even unlimited seeds would show an equal cell with a small chance only.
HOPELESS_CHANCE, SMALL_POWER, HOPELESS_LOOK = 0.15, 0.2, 3


@dataclass(frozen=True, kw_only=True)
class Look:
    """The test of one cell at one look.

    Attributes:
        seeds: number of seeds of the cell and of the reference.
        difference: the difference, with its repeated confidence interval: at all looks together, the interval misses
            the true difference with a chance of 5 %.
        level_non_inferior, level_inferior: the nominal level of each kind of verdict at this look.
    """

    seeds: int
    difference: Difference
    level_non_inferior: float
    level_inferior: float


@dataclass(kw_only=True, eq=False)
class CellCourse(Generic[AnyCell]):
    """The looks at one smaller cell.

    Attributes:
        outcome: "non-inferior", "inferior", or "undecided".
        reason: why an undecided cell gets no more seeds: "examples" (a verdict is unlikely with any number of seeds),
            "seeds" (it is unlikely with the most seeds), "most seeds" (it has them), "not needed" (a smaller or equally
            large cell is as good), "not confirmed" (it has no seed), "no predictions" (its predictions, or those of the
            reference, cannot be used). Empty if the cell still gets seeds, or is decided.
    """

    cell: AnyCell
    size: int
    outcome: str = "undecided"
    reason: Reason = ""
    looks: list[Look] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        return self.outcome == "undecided" and not self.reason

    def verdict(self, margin: float) -> Verdict | None:
        """Return the verdict of the last look; None without a look.

        Its p values are scaled so that they may be compared with `KIND_LEVEL`.
        """
        if not self.looks:
            return None
        look = self.looks[-1]
        return Verdict(
            outcome=self.outcome,
            difference=look.difference,
            margin=margin,
            p_non_inferior=_scaled(look.difference.p_non_inferior(margin), look.level_non_inferior),
            p_inferior=_scaled(look.difference.p_inferior(margin), look.level_inferior),
        )


def _scaled(p_value: float, level: float) -> float:
    return min(1.0, p_value * KIND_LEVEL / level) if level else 1.0


@dataclass(kw_only=True)
class Courses(Generic[AnyCell]):
    """The looks at all smaller cells, smallest cell first.

    Attributes:
        next_seeds: the number of seeds that the reference and the `wanted` cells need for the next look. None if no
            more seeds are needed.
    """

    all: list[CellCourse[AnyCell]]
    next_seeds: int | None = None

    @property
    def wanted(self) -> list[AnyCell]:
        """The cells that need more seeds."""
        return [course.cell for course in self.all if course.is_open] if self.next_seeds else []

    @property
    def is_decided(self) -> bool:
        """Whether every cell that is smaller than the smallest one shown non-inferior is shown inferior."""
        answer_size = self.answer_size
        return all(course.outcome == "inferior" for course in self.all if course.size < answer_size)

    @property
    def answer_size(self) -> float:
        """The size of the smallest cell that is shown non-inferior; infinite if there is none."""
        return min((course.size for course in self.all if course.outcome == "non-inferior"), default=math.inf)


def run_looks(
    design: SequentialDesign,
    cells: Sequence[AnyCell],
    *,
    size_of: Callable[[AnyCell], int],
    is_ready: Callable[[AnyCell, int], bool],
    difference_at: Callable[[AnyCell, int], Difference | None],
    is_confirmed: Callable[[AnyCell], bool] = lambda cell: True,
) -> Courses[AnyCell]:
    """Return what the looks show that are possible so far. The same seeds always give the same looks.

    Args:
        cells: the smaller cells, smallest first. They share the level, whether they can be tested or not.
        size_of: returns the number of trainable parameters of a cell.
        is_ready: returns whether a cell and the reference have so many seeds.
        difference_at: returns the difference of a cell from the reference with so many seeds of both, or None if it
            cannot be known.
        is_confirmed: returns whether a cell has any seed, or will get its first ones.
    """
    courses = Courses(all=[CellCourse(cell=cell, size=size_of(cell)) for cell in cells])
    for course in courses.all:
        if not is_confirmed(course.cell):
            course.reason = "not confirmed"
    for index, seeds in enumerate(design.looks):
        open_courses = [course for course in courses.all if course.is_open]
        if not open_courses:
            break
        if not all(is_ready(course.cell, seeds) for course in open_courses):
            courses.next_seeds = seeds
            break
        differences = {}
        for course in open_courses:
            if difference := difference_at(course.cell, seeds):
                differences[course] = difference
            else:
                course.reason = "no predictions"
        _look(design, index, courses, differences)
    return courses


def _look(
    design: SequentialDesign,
    index: int,
    courses: Courses[AnyCell],
    differences: dict[CellCourse[AnyCell], Difference],
) -> None:
    """Test the open cells at one look, and close those that need no more seeds."""
    levels, cell_count = {}, len(courses.all)
    for outcome in ("non-inferior", "inferior"):
        p_values = {
            course: (difference.p_non_inferior if outcome == "non-inferior" else difference.p_inferior)(design.margin)
            for course, difference in differences.items()
        }
        decided_count = sum(course.outcome == outcome for course in courses.all)
        for course in sorted(p_values, key=p_values.__getitem__):
            levels[course, outcome] = design.levels(KIND_LEVEL / (cell_count - decided_count))[index]
            if p_values[course] <= levels[course, outcome]:
                course.outcome = outcome
                decided_count += 1
    for course, difference in differences.items():
        course.looks.append(
            Look(
                seeds=design.looks[index],
                difference=_with_interval(difference, design.levels(KIND_LEVEL)[index]),
                level_non_inferior=levels[course, "non-inferior"],
                level_inferior=levels[course, "inferior"],
            )
        )
        if course.outcome == "undecided":
            course.reason = _reason_to_stop(design, index, difference, design.levels(KIND_LEVEL / cell_count)[-1])
    for course in courses.all:
        if course.is_open and course.size >= courses.answer_size:
            course.reason = "not needed"


def _with_interval(difference: Difference, level: float) -> Difference:
    """Return the difference with the interval at this one-sided level."""
    degrees = difference.seed_degrees, difference.example_degrees
    half_width = float(critical_value(max(level, 1e-15), difference.seed_share, *degrees)) * difference.standard_error
    return replace(difference, low=max(-1.0, difference.mean - half_width), high=min(1.0, difference.mean + half_width))


def _reason_to_stop(design: SequentialDesign, index: int, difference: Difference, final_level: float) -> Reason:
    """Return why a cell without a verdict gets no more seeds after this look; empty if it gets more."""
    seeds, margin = design.looks[index], design.margin
    chance_with_unlimited_seeds = chance_of_verdict(difference, margin, seeds, math.inf, final_level)
    if chance_with_unlimited_seeds < FUTILE_CHANCE or (
        index + 1 >= HOPELESS_LOOK
        and chance_with_unlimited_seeds < HOPELESS_CHANCE
        and _power_of_examples(difference, margin, final_level) < SMALL_POWER
    ):
        return "examples"
    if index + 1 == len(design.looks):
        return "most seeds"
    if chance_of_verdict(difference, margin, seeds, design.most_seeds, final_level) < FUTILE_CHANCE:
        return "seeds"
    return ""


def _power_of_examples(difference: Difference, margin: float, final_level: float) -> float:
    """Return the chance that a cell that equals the reference is shown non-inferior by unlimited seeds."""
    from scipy.special import ndtr, ndtri

    return float(ndtr(margin / math.sqrt(difference.example_variance) + ndtri(final_level)))


def chance_of_verdict(
    difference: Difference, margin: float, seeds: int, later_seeds: float, final_level: float
) -> float:
    """Return the chance that a test with more seeds has a verdict, given the difference so far.

    The difference with more seeds is taken to be normal around the one so far. Its variance is what the seeds' part of
    the variance loses by the further seeds.

    Args:
        seeds, later_seeds: the number of seeds now and then.
        final_level: the nominal level of each of the two tests then.
    """
    from scipy.special import ndtr

    variance = difference.standard_error**2
    seed_variance, example_variance = variance * difference.seed_share, variance * (1 - difference.seed_share)
    later_seed_variance = seed_variance * seeds / later_seeds
    later_variance = example_variance + later_seed_variance
    degrees = difference.seed_degrees * (later_seeds - 1) / (seeds - 1)
    share = later_seed_variance / later_variance
    bound = float(critical_value(final_level, share, degrees, difference.example_degrees)) * math.sqrt(later_variance)
    sd = max(math.sqrt(max(0.0, seed_variance - later_seed_variance)), 1e-12)
    distance = difference.mean + margin
    return float(ndtr((distance - bound) / sd) + ndtr((-distance - bound) / sd))
