"""Two runs beside each other: cells that both confirmed, what only one has, and the area under their frontiers."""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.cells import Cell, Group
from analysis.comparisons import difference_of
from analysis.frontier import hypervolume, reference_of
from analysis.noninferiority import Difference
from analysis.notes import examples
from analysis.records import grouped
from analysis.render import Column, Table, count, interval, numbers


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A cell of both runs. difference: of the second less the first, on the same examples; None where there are not two
    seeds of each with predictions of the same examples."""

    first: Cell
    second: Cell
    difference: Difference | None


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One backbone and task of two runs."""

    title: str
    names: tuple[str, str]
    pairs: tuple[Pair, ...]
    only: tuple[tuple[Cell, ...], tuple[Cell, ...]]
    hypervolumes: tuple[float, float] | None
    reference: tuple[float, float] | None


def compare(first: Sequence[Group], second: Sequence[Group], names: tuple[str, str]) -> list[Compared]:
    """Every backbone, task and number of shots that either run has."""
    keys = dict.fromkeys((g.backbone, g.task, g.shots) for g in (*first, *second))
    of_key = [{(g.backbone, g.task, g.shots): g for g in groups} for groups in (first, second)]
    return [_compared(of_key[0].get(key), of_key[1].get(key), names) for key in keys]


def _compared(first: Group | None, second: Group | None, names: tuple[str, str]) -> Compared:
    known = [group for group in (first, second) if group is not None]
    cells = [{_identity(c): c for c in group.confirmed} if group else {} for group in (first, second)]
    pairs = tuple(
        Pair(first=cell, second=cells[1][each], difference=difference_of(cells[1][each], cell))
        for each, cell in cells[0].items()
        if each in cells[1]
    )
    only = [tuple(c for each, c in cells[side].items() if each not in cells[1 - side]) for side in (0, 1)]
    volumes, reference = None, None
    if first and second and first.confirmed and second.confirmed:
        mosts, floors = zip(reference_of(first), reference_of(second), strict=True)
        reference = max(mosts), min(floors)
        volumes = _volume(first, reference), _volume(second, reference)
    return Compared(
        title=known[0].title,
        names=names,
        pairs=pairs,
        only=(only[0], only[1]),
        hypervolumes=volumes,
        reference=reference,
    )


def _identity(cell: Cell) -> tuple[str, int | None, int | None, str]:
    return cell.method, cell.length, cell.rank, cell.name


def _volume(group: Group, reference: tuple[float, float]) -> float:
    points = [(float(c.trainable_parameters or 1), c.accuracy.mean) for c in group.confirmed if c.accuracy]
    return hypervolume(points, reference)


def table(found: Compared) -> Table:
    """The cells of both, then what only one has."""
    rows = []
    for pair in found.pairs:
        both = interval(pair.first.accuracy), interval(pair.second.accuracy)
        rows.append((pair.first.label, count(pair.first.trainable_parameters), *both, _shown(pair)))
    for side, cells in enumerate(found.only):
        for cell in cells:
            shown = ("not there", interval(cell.accuracy)) if side else (interval(cell.accuracy), "not there")
            rows.append((cell.label, count(cell.trainable_parameters), *shown, "–"))
    notes = [
        f"Difference: {found.names[1]} less {found.names[0]}, percentage points, with its 95 % interval over seeds and "
        "test examples, which both share; without one where a run has a single seed, predictions are missing, or the "
        "examples are not the same.",
    ]
    notes += _other_examples(found)
    if found.hypervolumes and found.reference:
        most, floor = found.reference
        one, other = found.hypervolumes
        notes.append(
            f"Hypervolume up to {most:,.0f} parameters and {100 * floor:.1f} %: {found.names[0]} {one:.3f}, "
            f"{found.names[1]} {other:.3f} ({other - one:+.3f})."
        )
    titles = ("params", *(f"{name}: test % [95 % CI] (N)" for name in found.names), "difference, pp [95 % CI]")
    return Table(
        caption=f"{found.names[0]} and {found.names[1]}: {found.title}",
        columns=(Column(title="cell", align="left"), *numbers(*titles)),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _other_examples(compared: Compared) -> list[str]:
    """What the cells were scored on that the two runs scored on other examples, with the cells of each such pair."""
    one, other = compared.names
    apart = [p for p in compared.pairs if p.first.confirmed[0].scored_on != p.second.confirmed[0].scored_on]

    def said(pair: Pair) -> str:
        return f"{one} on {examples(pair.first.confirmed[0])}; {other} on {examples(pair.second.confirmed[0])}"

    return [
        f"Not scored on the same test examples: {', '.join(pair.first.label for pair in pairs)} ({both}). A difference "
        "may come of that alone."
        for both, pairs in grouped(apart, said).items()
    ]


def _shown(pair: Pair) -> str:
    if pair.difference is not None:
        return str(pair.difference)
    first, second = pair.first.accuracy, pair.second.accuracy
    return f"{100 * (second.mean - first.mean):+.1f}" if first and second else "–"
