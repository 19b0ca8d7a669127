"""Fewer parameters against higher accuracy: the Pareto front, and what to use within a budget."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.cells import Cell


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (parameters, accuracy) points that no other beats, by parameters.

    A point is beaten when another has no more parameters and no less accuracy, and is better in one.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for i in order:
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front


def best_within(cells: Sequence[Cell], budget: int) -> Cell | None:
    """The confirmed cell of at most `budget` parameters with the highest selection accuracy.

    Chosen on held-out training data and never on the reported split, so that the accuracy reported
    for the choice is not inflated by the choosing. Equal ones: the smaller.
    """
    usable = [
        c
        for c in cells
        if c.accuracy is not None
        and c.selection_accuracy is not None
        and c.trainable_parameters is not None
        and c.trainable_parameters <= budget
    ]
    return min(
        usable, key=lambda c: (-(c.selection_accuracy or 0.0), c.trainable_parameters or 0, c.name), default=None
    )


def budgets(smallest: int, largest: int) -> list[int]:
    """Round budgets (1, 2 or 5 times a power of ten), from the first that holds `smallest` to one for `largest`."""
    found: list[int] = []
    for power in range(len(str(largest)) + 1):
        for step in (1, 2, 5):
            budget = step * 10**power
            if budget >= smallest:
                found.append(budget)
            if budget >= largest:
                return found
    return found
