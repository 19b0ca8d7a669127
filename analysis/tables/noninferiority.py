"""Whether cells with fewer trainable parameters are as good as the reference, within the margin."""

from analysis.cells import Group
from analysis.comparisons import Comparison, cell_name, comparisons, declared_text
from analysis.recommendation import LEVEL
from analysis.registry import Info, Missing, TableSpec
from analysis.render import INTERVAL_TITLE, Column, Table, count, percent


def compute(group: Group) -> Info[Comparison] | Missing:
    rows = comparisons(group)
    return rows if isinstance(rows, Missing) else Info(group=group, rows=rows)


def render(info: Info[Comparison]) -> Table:
    reference, margin_pp, level = info.rows[0].reference, 100 * info.group.margin, f"{100 * LEVEL:g} %"
    margin_text = f"{margin_pp:g} percentage point{'s' * (margin_pp != 1)}"
    cell_count = len(info.rows)
    correction_text = (
        f"Holm's method corrects the p values of each kind for {cell_count} cells. So the chance that any verdict in "
        "this table is wrong is at most "
        if cell_count > 1
        else "So the chance that the verdict is wrong is at most "
    )
    return Table.from_rows(
        info.rows,
        caption=f"As good as the reference within {margin_text}? {info.group.title}",
        columns=(
            Column(title="smaller cell", align="left", text=lambda row: row.cell.label),
            Column(title="parameters", csv_name="params", text=lambda row: count(row.cell.trainable_parameters)),
            Column(title="fewer", text=lambda row: f"{row.ratio:.1f}×"),
            Column(
                title=f"difference, pp {INTERVAL_TITLE}",
                csv_name="difference, pp [95 % CI]",
                text=lambda row: str(row.verdict.difference),
            ),
            Column(title="seeds", text=_seeds_text),
            Column(
                title="p, non-inferior",
                csv_name="p (non-inferior)",
                text=lambda row: _format_p(row.verdict.p_non_inferior),
            ),
            Column(title="p, inferior", csv_name="p (inferior)", text=lambda row: _format_p(row.verdict.p_inferior)),
            Column(title="verdict", align="left", text=lambda row: str(row.verdict)),
        ),
        notes=(
            f"The reference is {cell_name(reference)}, with a test accuracy of "
            f"{percent(reference.accuracy.mean if reference.accuracy else None)} %. The space declares it "
            f"({declared_text(info.group)}); of several such cells it is the one with the most trainable parameters. "
            "The table shows the confirmed cells with fewer parameters that have two seeds or more, and predictions of "
            "the same test examples. The difference is the test accuracy of the smaller cell minus that of the "
            "reference, in percentage points (pp). Seeds are those of the smaller cell, then of the reference.",
            f"A smaller cell is non-inferior if a test shows that it is worse by less than {margin_text}. It is "
            "inferior if a test shows that it is worse by more. Otherwise it is undecided. Each of the two tests has "
            "its own p value. They are one-sided t tests over seeds and examples, and each kind of test has a level of "
            f"{level}. {correction_text}{200 * LEVEL:g} %. Choose the margin (--margin) before you see the results.",
        ),
    )


def _seeds_text(row: Comparison) -> str:
    difference = row.verdict.difference
    return f"{difference.seed_count_a}, {difference.seed_count_b}"


def _format_p(p_value: float) -> str:
    return "< 0.001" if p_value < 0.001 else "> 0.99" if p_value > 0.99 else f"{p_value:.3f}"


SPEC = TableSpec(name="noninferiority", title="As good as the reference?", info=compute, render=render, place=50)
