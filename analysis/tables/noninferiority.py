"""Is a prompt of five times fewer parameters as good as the full one, within the margin?"""

from __future__ import annotations

from dataclasses import dataclass

from analysis.cells import Group
from analysis.comparisons import RATIO, Comparison, comparisons
from analysis.registry import Missing, TableSpec
from analysis.render import Column, Table, count, numbers, percent


@dataclass(frozen=True, kw_only=True)
class Info:
    group: Group
    comparisons: tuple[Comparison, ...]


def compute(group: Group) -> Info | Missing:
    found = comparisons(group)
    return found if isinstance(found, Missing) else Info(group=group, comparisons=found)


def render(info: Info) -> Table:
    full = info.comparisons[0].full
    return Table(
        caption=f"As good as the full prompt, within {100 * info.group.margin:g} pp? {info.group.title}",
        columns=(
            Column(title="smaller prompt", align="left"),
            *numbers("params", "fewer", "difference, pp [95 % CI]", "seeds", "p (non-inferior)", "p (inferior)"),
            Column(title="verdict", align="left"),
        ),
        rows=tuple(
            (
                each.cell.label,
                count(each.cell.trainable_parameters),
                f"{each.ratio:.1f}×",
                str(each.verdict.difference),
                f"{each.verdict.difference.seeds_a}, {each.verdict.difference.seeds_b}",
                _p(each.verdict.p_better),
                _p(each.verdict.p_worse),
                str(each.verdict),
            )
            for each in info.comparisons
        ),
        notes=(
            f"Beside {full.label} ({count(full.trainable_parameters)} parameters, "
            f"{percent(full.accuracy.mean if full.accuracy else None)} %), on the same test examples: accuracy of the "
            f"smaller prompt less that of the full one. Cells of at least {RATIO} times fewer parameters.",
            f"Non-inferior: worse by {100 * info.group.margin:g} pp or more is refuted at 5 %; inferior: worse by less "
            f"is; each p is of what is to be refuted. One-sided t tests over seeds and examples, p by Holm over "
            f"{len(info.comparisons)} test{'s' * (len(info.comparisons) > 1)}; the margin is to be chosen before the "
            "results are seen (--margin).",
        ),
    )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else "> 0.99" if value > 0.99 else f"{value:.3f}"


SPEC = TableSpec(name="noninferiority", title="As good as the full prompt?", info=compute, render=render, place=50)
