"""The answer in plain words: how few parameters are enough, claiming no more than the data hold."""

from dataclasses import dataclass

from analysis.cells import Cell, Group
from analysis.comparisons import Comparison, beside_full, full_prompt
from analysis.frontier import best_within
from analysis.render import bounds, minus, percent

FEW_SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class Headline:
    answer: str
    details: tuple[str, ...]
    exploratory: str | None  # why the answer is not yet one to build on
    best: Cell | None


def headline(group: Group) -> Headline:
    """The smallest cell whose selection accuracy is within the margin of the full prompt's, its test accuracy, and
    whether that is shown to be as good.

    Chosen on selection accuracy, reported on the test split, so that choosing does not flatter it.
    """
    confirmed = group.confirmed
    best = best_within(confirmed, max((c.trainable_parameters or 0 for c in confirmed), default=0))
    full = full_prompt(group)
    small = _smallest_enough(group, full) if full else None
    if not confirmed:
        answer = f"On {group.title}, no trial is confirmed yet, so there is no result to report.{_searching(group)}"
    elif full is None or small is None:
        shown = best or confirmed[0]
        why = "no full prompt is confirmed" if full is None else "no smaller cell is confirmed"
        answer = f"On {group.title}, {_reach(shown)}; {why}, so there is nothing to set it against."
    else:
        answer = _compare(group, small, full)
    seeds = min((c.accuracy.seeds for c in (small, full, best) if c and c.accuracy), default=0)
    exploratory = None
    if 0 < seeds < FEW_SEEDS:
        known = "unknown" if seeds == 1 else "hardly known"
        exploratory = f"Exploratory: {seeds} seed{'s' * (seeds > 1)}; the variance between seeds is {known}."
    details = tuple(_details(group, small or best, full, best))
    return Headline(answer=answer, details=details, exploratory=exploratory, best=best)


def _smallest_enough(group: Group, full: Cell) -> Cell | None:
    smaller = [c for c in group.confirmed if (c.trainable_parameters or 0) < (full.trainable_parameters or 0)]
    enough = [c for c in smaller if _enough(group, c, full)]
    return enough[0] if enough else best_within(smaller, full.trainable_parameters or 0)


def _reach(cell: Cell) -> str:
    assert cell.accuracy
    return f"{cell.label} ({cell.trainable_parameters:,} parameters) reaches {percent(cell.accuracy.mean)} %"


def _compare(group: Group, small: Cell, full: Cell) -> str:
    assert small.accuracy and full.accuracy and small.trainable_parameters and full.trainable_parameters
    gap = 100 * (small.accuracy.mean - full.accuracy.mean)
    relation = "level with" if abs(gap) < 0.05 else f"{abs(gap):.1f} pp {'above' if gap > 0 else 'below'}"
    ratio = full.trainable_parameters / small.trainable_parameters
    fewer = f", with {ratio:.1f}× fewer parameters" if ratio >= 1.1 else ""
    none = "" if _enough(group, small, full) else (
        f"no smaller prompt comes within {_margin(group)} of full prompt tuning on the selection data. The closest: "
    )  # fmt: skip
    return (
        f"On {group.title}, {none}{_reach(small)} on the test examples, {relation} full prompt tuning "
        f"({full.trainable_parameters:,} parameters, {percent(full.accuracy.mean)} %){fewer}. {_shown(group, small)}"
    )


def _shown(group: Group, small: Cell) -> str:
    tested = beside_full(group, small)
    outcome = tested.verdict.outcome if tested else "untested"
    return {
        "non-inferior": f"It is shown to be as good within {_margin(group)}.",
        "inferior": f"It is shown to be worse by more than {_margin(group)}.",
        "inconclusive": f"Whether it is as good within {_margin(group)}, these data do not show.",
        "untested": "No test has shown it to be as good.",
    }[outcome]


def _margin(group: Group) -> str:
    return f"{100 * group.margin:g} pp"


def _enough(group: Group, cell: Cell, full: Cell) -> bool:
    """Whether the cell is as good as the full prompt on the selection data."""
    ours, theirs = cell.selection_score, full.selection_score
    return ours is not None and theirs is not None and ours >= theirs - group.margin


def _details(group: Group, small: Cell | None, full: Cell | None, best: Cell | None) -> list[str]:
    details = []
    tested = beside_full(group, small) if small and small is not full else None
    if tested:
        details.append(_tested(tested, group.margin))
    elif small and full and small.accuracy and full.accuracy and small is not full:
        ours, theirs = small.accuracy, full.accuracy
        which = f"({bounds(ours)} and {bounds(theirs)})"
        if ours.overlaps(theirs):
            details.append(f"The 95 % intervals overlap {which}: these data do not tell the two apart.")
        elif min(ours.seeds, theirs.seeds) == 1:
            unknown = "but they leave out the unknown variance between seeds"
            details.append(f"The 95 % intervals do not overlap {which}, {unknown}.")
        else:
            details.append(f"The 95 % intervals do not overlap {which}: the difference is more than noise.")
    if small and full and small is not full:
        details.append(
            f"Chosen on {_selected_on(small)}: "
            f"{'the smallest that' if _enough(group, small, full) else 'no smaller cell'} comes within "
            f"{_margin(group)} of the full prompt there."
        )
    if best and best.accuracy and best is not small and best is not full:
        details.append(f"The best on the selection data: {_reach(best)}.")
    known = {"without a prompt": group.zero_shot_accuracy, "majority class": group.majority_accuracy}
    floors = {name: value for name, value in known.items() if value is not None}
    if floors:
        text = f"For scale: {', '.join(f'{name} {percent(value)} %' for name, value in floors.items())}."
        if small and small.accuracy and small.accuracy.low <= max(floors.values()):
            text += " The interval reaches down to that: training has not been shown to help."
        details.append(text)
    return details


def _tested(found: Comparison, margin: float) -> str:
    gap = found.verdict.difference
    found_pp = minus(f"{100 * gap.mean:+.1f} pp, 95 % interval [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]")
    return (
        f"As good as the full prompt within {100 * margin:g} pp? {str(found.verdict).capitalize()}. On the same test "
        f"examples the difference is {found_pp}."
    )


def _selected_on(cell: Cell) -> str:
    """The selection data, and how coarse they are."""
    sizes = {(trial.selection_n, trial.holdout) for trial in cell.confirmed if trial.selection_n}
    if len(sizes) != 1:
        return "the selection data"
    ((n, holdout),) = sizes
    of = "held-out training examples" if holdout == "train" else "examples of the reported split, which are not scored"
    return f"{n:,} {of}, of which one is {100 / n:.2g} pp"


def _searching(group: Group) -> str:
    scored = [c for c in group.cells if c.selection_score is not None]
    best = max(scored, key=lambda c: c.selection_score or 0.0, default=None)
    if best is None:
        return ""
    return f" The best search trial so far is of {best.label}: {percent(best.selection_score)} % on the selection data."
