"""Is a prompt of five times fewer parameters as good as the full one, within the margin?"""

from analysis.cells import Group
from analysis.comparisons import RATIO, Comparison, comparisons
from analysis.registry import Info, Missing, TableSpec
from analysis.render import Column, Table, count, percent


def compute(group: Group) -> Info[Comparison] | Missing:
    found = comparisons(group)
    return found if isinstance(found, Missing) else Info(group=group, rows=found)


def render(info: Info[Comparison]) -> Table:
    full = info.rows[0].full
    return Table.of(
        info.rows,
        caption=f"As good as the full prompt, within {100 * info.group.margin:g} pp? {info.group.title}",
        columns=(
            Column(title="smaller prompt", align="left", text=lambda row: row.cell.label),
            Column(title="params", text=lambda row: count(row.cell.trainable_parameters)),
            Column(title="fewer", text=lambda row: f"{row.ratio:.1f}×"),
            Column(title="difference, pp [95 % CI]", text=lambda row: str(row.verdict.difference)),
            Column(title="seeds", text=lambda of: f"{of.verdict.difference.seeds_a}, {of.verdict.difference.seeds_b}"),
            Column(title="p (non-inferior)", text=lambda row: _p(row.verdict.p_better)),
            Column(title="p (inferior)", text=lambda row: _p(row.verdict.p_worse)),
            Column(title="verdict", align="left", text=lambda row: str(row.verdict)),
        ),
        notes=(
            f"Beside {full.label} ({count(full.trainable_parameters)} parameters, "
            f"{percent(full.accuracy.mean if full.accuracy else None)} %), on the same test examples: accuracy of the "
            f"smaller prompt less that of the full one. Cells of at least {RATIO} times fewer parameters.",
            f"Non-inferior: worse by {100 * info.group.margin:g} pp or more is refuted at 5 %; inferior: worse by less "
            f"is; each p is of what is to be refuted. One-sided t tests over seeds and examples, p by Holm over "
            f"{len(info.rows)} test{'s' * (len(info.rows) > 1)}; the margin is to be chosen before the "
            "results are seen (--margin).",
        ),
    )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else "> 0.99" if value > 0.99 else f"{value:.3f}"


SPEC = TableSpec(name="noninferiority", title="As good as the full prompt?", info=compute, render=render, place=50)
