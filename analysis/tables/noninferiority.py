"""Whether cells with fewer trainable parameters are as good as the reference, within the margin."""

from analysis.cells import Group
from analysis.comparisons import Comparison, cell_name, comparisons, declared_text
from analysis.looks_text import design_sentences
from analysis.noninferiority import KIND_LEVEL
from analysis.registry import Info, Missing, TableSpec
from analysis.render import INTERVAL_TITLE, Column, Table, count, percent


def compute(group: Group) -> Info[Comparison] | Missing:
    rows = comparisons(group)
    return rows if isinstance(rows, Missing) else Info(group=group, rows=rows)


def render(info: Info[Comparison]) -> Table:
    reference, margin_pp = info.rows[0].reference, 100 * info.group.margin
    margin_text = f"{margin_pp:g} percentage point{'s' * (margin_pp != 1)}"
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
            f"The reference is {cell_name(reference)}, called {reference.label} elsewhere, with a test "
            f"{info.group.score_name} of {percent(reference.accuracy.mean if reference.accuracy else None)} %. The "
            "space declares it "
            f"({declared_text(info.group)}); of several such cells it is the one with the most trainable parameters. "
            "The table shows the confirmed cells with fewer parameters that have two seeds or more, and predictions of "
            f"the same test examples. The difference is the test {info.group.score_name} of the smaller cell minus "
            "that of "
            "the reference, in percentage points (pp). Seeds are those of the smaller cell, then of the reference.",
            f"A smaller cell is non-inferior if a one-sided test shows that it is worse by less than {margin_text}. It "
            "is inferior if a one-sided test shows that it is worse by more. Otherwise it is undecided. "
            f"{_levels_text(info)}",
            "Intervals are 95 % intervals, and one cell alone would have the verdict that its interval shows. The "
            "variance of a difference is that of the seeds, s²/S of the smaller cell plus s²/S of the reference, plus "
            "that of the examples. Each of the two parts has its own quantile of Student's t distribution, with the "
            "degrees of freedom of Welch and Satterthwaite for the seeds and one less than the number of examples for "
            "the examples. The mean of both quantiles, weighted by the parts, is used (Cochran and Cox). The variance "
            "of the examples is increased by (1.96 / number of examples)², because cells that agree on all of these "
            "examples may differ on others.",
        ),
    )


def _levels_text(info: Info[Comparison]) -> str:
    """Say with what the p values are compared."""
    if info.group.design:
        return (
            "The p values are those of the last look at each cell, multiplied so that they may be compared with "
            f"{100 * KIND_LEVEL:g} % in place of the level of this look. " + " ".join(design_sentences(info.group))
        )
    return (
        f"Each test has its own p value. The p values of each kind are corrected for {len(info.rows)} "
        f"cell{'s' * (len(info.rows) > 1)} by Holm's method, and then compared with {100 * KIND_LEVEL:g} %. So the "
        f"probability that any verdict in this table is wrong is at most {200 * KIND_LEVEL:g} %. Choose the margin "
        "(--margin) before you see the results."
    )


def _seeds_text(row: Comparison) -> str:
    difference = row.verdict.difference
    return f"{difference.seed_count_a}, {difference.seed_count_b}"


def _format_p(p_value: float) -> str:
    return "< 0.001" if p_value < 0.001 else "> 0.99" if p_value > 0.99 else f"{p_value:.3f}"


SPEC = TableSpec(name="noninferiority", title="As good as the reference?", info=compute, render=render, place=50)
