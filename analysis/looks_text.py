"""The looks of a run that adds seeds until it is decided, in words."""

from analysis.answer_text import listed
from analysis.cells import Cell, Group
from analysis.comparisons import cell_name, courses, reference_cell
from analysis.looks import CellCourse, Courses

_REASON_TEXTS = {
    "examples": "the test examples alone cannot decide it, because a verdict is unlikely with any number of seeds",
    "seeds": "a verdict is unlikely even with as many seeds as the run allows",
    "most seeds": "it has the most seeds that the run allows, and no verdict",
    "not needed": "a cell that is not larger is as good as the reference, so its verdict does not matter",
    "not confirmed": "it has no confirmed trial",
    "no predictions": "its predictions, or those of the reference, cannot be used",
}


def design_sentences(group: Group) -> list[str]:
    """Say how the tests at the looks are made; empty for a run with a fixed number of seeds."""
    design = group.design
    if design is None:
        return []
    looks_text = listed([str(seeds) for seeds in design.looks], len(design.looks))
    return [
        f"Seeds were added until the question was decided. There are looks at {looks_text} seeds, as the manifest has "
        f"fixed before the first of these seeds, together with the margin of {100 * design.margin:g} pp. Only the "
        "reference gets more seeds, and the cells without a verdict that are smaller than the smallest cell shown "
        "non-inferior.",
        "At each look, each p value is compared with its own level. The levels follow from how much of 2.5 % each kind "
        "of verdict may spend up to a look (Lan and DeMets; spending function of Hwang, Shih and DeCani with γ = -3), "
        "and from Holm's method, which shares this among the cells. So the chance that any verdict is wrong, over all "
        "looks, is about 5 % at most. Intervals are repeated 95 % intervals: those of all looks together miss the true "
        "difference with a chance of 5 %. Means of cells that were decided early lie a little too far from the margin.",
    ]


def look_sentence(group: Group) -> str:
    """Say in one line what the last look showed, and what follows; empty if nothing has been looked at."""
    all_courses = courses(group)
    if all_courses is None or not any(course.looks for course in all_courses.all):
        return ""
    seeds = max(course.looks[-1].seeds for course in all_courses.all if course.looks)
    counts = [
        f"{count} {name}"
        for name, count in (
            ("as good as the reference", _count(all_courses, "non-inferior")),
            ("worse", _count(all_courses, "inferior")),
            ("open", sum(course.is_open for course in all_courses.all)),
            ("undecided", sum(bool(course.reason) for course in all_courses.all)),
        )
        if count
    ]
    next_text = f"the next look is at {all_courses.next_seeds} seeds" if all_courses.next_seeds else "no more seeds"
    return f"look at {seeds} seeds, {group.title}: of the smaller cells, {', '.join(counts)}; {next_text}"


def _count(all_courses: Courses[Cell], outcome: str) -> int:
    return sum(course.outcome == outcome for course in all_courses.all)


def ending_sentences(group: Group) -> list[str]:
    """Say whether the run has decided the question of a group, with how many seeds, and what is open, and why.

    The list is empty for a run with a fixed number of seeds.
    """
    all_courses, reference, design = courses(group), reference_cell(group), group.design
    if design is None:
        return []
    if all_courses is None or reference is None:
        return ["Not decided, because the reference is not confirmed."]
    margin_text, seeds_text = f"{100 * design.margin:g} pp", f"{len(reference.confirmed_trials)} seeds of the reference"
    if all_courses.next_seeds is not None:
        waiting = listed([cell.label for cell in all_courses.wanted])
        return [f"Not decided yet: the next look is at {all_courses.next_seeds} seeds of the reference and {waiting}."]
    if not all_courses.all:
        return ["Open, because no smaller cell could be tested."]
    best = next((course.cell for course in all_courses.all if course.outcome == "non-inferior"), None)
    is_useless = best is not None and not group.is_above_no_prompt(best)
    note = " But it is not above the model without a prompt." if is_useless else ""
    if all_courses.is_decided:
        answer = (
            f"{cell_name(best)} is the smallest cell that is as good as the reference within {margin_text}"
            if best
            else f"every smaller cell is worse than the reference by more than {margin_text}"
        )
        return [f"Decided with {seeds_text}: {answer}.{note}"]
    open_texts = map(_open_sentence, _open_courses(all_courses))
    if best is None:
        return [f"Not decided with {seeds_text}.", *open_texts]
    return [
        f"Decided in part, with {seeds_text}: {cell_name(best)} is as good as the reference within {margin_text}. "
        f"It is open whether a smaller cell is as good, too.{note}",
        *open_texts,
    ]


def _open_sentence(course: CellCourse[Cell]) -> str:
    seeds_text = f" after {course.looks[-1].seeds} seeds" if course.looks else ""
    return f"{course.cell.label} is open{seeds_text}: {_REASON_TEXTS[course.reason]}."


def _open_courses(all_courses: Courses[Cell]) -> list[CellCourse[Cell]]:
    """Return the courses of the cells without a verdict that matter for the answer, smallest first."""
    smaller_courses = [course for course in all_courses.all if course.size < all_courses.answer_size]
    return [course for course in smaller_courses if course.outcome == "undecided" and course.reason]
