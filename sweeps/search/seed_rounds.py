"""The seeds that a sweep adds until its question is decided (`--until-decided`)."""

from collections.abc import Mapping
from typing import Any

from analysis.cells import groups
from analysis.comparisons import courses, reference_cell
from analysis.group_sequential import SequentialDesign
from analysis.load import load
from analysis.looks_text import look_sentence
from sweeps.planning.looks import with_design
from sweeps.planning.plan import Plan
from sweeps.results.store import Store


class SeedRounds:
    """Looks at the confirm trials of a run whenever all of them have ended, and says which seeds are needed next.

    The looks follow from the records alone, so a continued sweep makes the same ones.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._announced_texts: set[str] = set()

    def seeds_needed(self) -> Mapping[tuple[str, str], int]:
        """Return how many confirm seeds the next look needs, by cell and stratum. Cells that need none are left out."""
        results = load([self._store.folder])
        seeds_by_cell: dict[tuple[str, str], int] = {}
        for group in groups(results):
            all_courses, reference = courses(group), reference_cell(group)
            if all_courses is None or reference is None:
                continue
            if (text := look_sentence(group)) and text not in self._announced_texts:
                print(text, flush=True)
                self._announced_texts.add(text)
            if all_courses.next_seeds is not None:
                for cell in (reference, *all_courses.wanted):
                    for trial in cell.confirmed_trials[:1]:  # a cell without any gets its first seeds after its search
                        seeds_by_cell[trial.cell, trial.stratum] = all_courses.next_seeds
        return seeds_by_cell


def keep_looks(plan: Plan, store: Store, *, margin: float | None, seeds: int | None, most_seeds: int | None) -> Plan:
    """Return the plan with the looks that the store's run has begun with, because looks are fixed before the first
    seed.

    Args:
        margin: the margin for which the command asks, as a fraction, or None.
        seeds, most_seeds: the values of `--seeds` and `--most-seeds`, or None.

    Raises:
        ValueError: The command asks for other looks than those of the run.
    """
    old_space = (store.manifest() or {}).get("space", {})
    values = old_space.get("until_decided")
    advice = "give --name for a new run (its confirm trials are trained again)"
    if not values:
        if plan.design and any(record.phase == "confirm" for record in store.readable_records()):
            raise ValueError(
                f"run {store.run!r} has confirm trials already, but --until-decided has to be given before the first "
                f"of them: {advice}"
            )
        return plan
    try:
        design = SequentialDesign.from_dict(values)
    except ValueError as error:
        raise ValueError(
            f"manifest.json of run {store.run!r} is damaged ({error}): repair it, or give --name"
        ) from None
    kept_text = (
        f"run {store.run!r} adds seeds until it is decided, with a margin of {100 * design.margin:g} pp, a first look "
        f"at {design.looks[0]} seeds and at most {design.most_seeds} seeds"
    )
    if plan.design is None:
        raise ValueError(f"{kept_text}: give --until-decided again, or --name for a new run")
    if (
        margin not in (None, design.margin)
        or most_seeds not in (None, design.most_seeds)
        or seeds not in (None, design.looks[0])
    ):
        raise ValueError(f"{kept_text}, which cannot be changed afterwards: {advice}")
    if changed_names := _changed_parts(plan, old_space):
        raise ValueError(
            f"{kept_text}. What it compares cannot be changed any more ({', '.join(changed_names)}): {advice}"
        )
    return with_design(plan, design)


def _changed_parts(plan: Plan, old_space: Mapping[str, Any]) -> list[str]:
    """Return which parts of the plan that decide the cells, their winners or the reference are not those of the run.

    `old_space` is the space in the run's manifest.
    """
    old_parts = {
        "cells": [(cell.get("name"), cell.get("search")) for cell in old_space.get("cells", [])],
        "trials": old_space.get("trials_per_cell"),
        "reference": old_space.get("reference"),
    }
    new_parts = {
        "cells": [(cell.name, cell.search) for cell in plan.cells],
        "trials": plan.space.trials,
        "reference": dict(plan.space.reference),
    }
    return [name for name, part in new_parts.items() if part != old_parts[name]]
