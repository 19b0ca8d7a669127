"""What each table says, when a difference may be shown, and the published numbers."""

import pytest

from analysis import published, render
from analysis.cells import groups
from analysis.load import load
from analysis.registry import Missing
from analysis.tables import budget, cells, table1, table3

PAPER = {
    "backbone": "gpt2-large",
    "task": "sst2",
    "width": 1280,
    "test_split": "validation",
    "test_n": 872,
    "split_size": 872,
}


def only_group(path):
    (group,) = groups(load([path]))
    return group


def test_table3_lists_all_ten_cells_and_which_were_not_run(store):
    s = store(cells=[("lopt1", 10, 2)])
    s.confirm("lopt1", 10, 2, 0.85)
    rows = table3.compute(only_group(s.write())).rows
    assert [row.cell for row in rows] == [
        "No LoPT n=10", *(f"n={n} r={r}" for n in (10, 20, 30) for r in (1, 2, 5))
    ]  # fmt: skip
    text = render.csv(table3.render(table3.compute(only_group(s.path))))
    assert text.count("not run") == 9
    assert "n=10 r=2,-79.84 %,92.1," in text


def test_table3_parameters_and_changes(store, full_run):
    rows = {row.cell: row for row in table3.compute(only_group(full_run)).rows}
    assert rows["n=20 r=5"].published_change == "-49.22 %"
    assert rows["n=20 r=5"].parameters == 5 * (20 + 576)
    assert rows["n=20 r=5"].change == "-48.26 %"  # against our own 5,760
    assert {row.difference for row in rows.values()} == {"other backbone or task"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "-2.1"),
        ({"backbone": "openai-community/gpt2-large"}, "-2.1"),
        ({"backbone": "embedded"}, "other backbone or task"),
        ({"task": "movie_snippets"}, "other backbone or task"),
        ({"test_n": 200}, "subset of split"),
        ({"test_split": "test"}, "other split"),
    ],
)
def test_difference_only_where_comparable(store, changes, expected):
    s = store(**(PAPER | changes), cells=[("lopt1", 10, 2)])
    s.confirm("lopt1", 10, 2, 0.90)
    row = next(row for row in table3.compute(only_group(s.write())).rows if row.cell == "n=10 r=2")
    assert row.difference == expected


def test_only_confirmed_complete_trials_are_ours(store):
    s = store(**PAPER)
    s.search("lopt1", 10, 2, test_accuracy=0.99, test_n=872)
    s.confirm("lopt1", 10, 2, 0.99, status="diverged")
    table = render.csv(table3.render(table3.compute(only_group(s.write()))))
    assert "99.0" not in table
    assert (table.count("not run"), table.count("not confirmed")) == (9, 1)


def test_table1_by_task(store):
    s = store(**(PAPER | {"task": "ag_news", "test_split": "test", "test_n": 7600, "split_size": 7600}))
    s.confirm("lopt2", 10, 2, 0.91)
    rows = {row.cell: row for row in table1.compute(only_group(s.write())).rows}
    assert rows["LoPT-2"].difference == "+1.0"
    assert rows["LoPT-1"].ours is None


def test_table1_does_not_apply_without_lopt2(full_run):
    assert isinstance(table1.compute(only_group(full_run)), Missing)


def test_budget_gives_the_line_of_the_seed_best_on_selection(store):
    s = store()
    s.confirm("lopt1", 10, 1, 0.95, selection_accuracy=0.80, config__seed=1)
    best = s.confirm("lopt1", 10, 1, 0.85, selection_accuracy=0.90, config__seed=2)
    (row,) = budget.compute(only_group(s.write())).rows
    assert (row.budget, row.key) == (1000, best["key"])
    assert row.load_line == f'load_prompt("{s.path.as_posix()}/artifacts/{best["key"]}")'


def test_cells_counts_every_outcome(store):
    s = store(cells=[("lopt1", 10, 1), ("lopt1", 10, 2)])
    for status in ("complete", "complete", "stopped", "diverged", "failed"):
        s.search("lopt1", 10, 1, status=status, config__learning_rate=0.3)
    s.confirm("lopt1", 10, 1, 0.85, config__learning_rate=0.2)
    s.confirm("lopt1", 10, 1, 0.1, status="failed", config__learning_rate=0.2, config__seed=7)
    table = cells.render(cells.compute(only_group(s.write())))
    assert table.rows[0][4:6] == ("2 / 1 / 1 / 1", "0.2")
    assert table.rows[1][-1] == "not run"
    assert any("LoPT-1 n=10 r=1: 1" in note for note in table.notes)


def test_published_values():
    def at(table, task, method, length, rank):
        (found,) = [
            p for p in published.table(table) if (p.task, p.method, p.length, p.rank) == (task, method, length, rank)
        ]
        return found.trainable_parameters, found.accuracy_percent

    assert at("table1", "sst2", "prompt_tuning", 10, None) == (12_800, 92.8)
    assert at("table1", "ag_news", "lopt1", 10, 2) == (2_580, 91.9)
    assert at("table1", "ag_news", "lopt2", 10, 2) == (5_120, 90.0)
    assert at("table2", "wic", "lopt1", 20, 5) == (3_940, 55.1)
    assert at("table2", "cb", "lopt2", 20, 5) == (7_680, 74.0)
    assert at("table2", "boolq", "prompt_tuning", 100, None) == (76_800, 63.7)
    assert at("table3", "sst2", "lopt1", 30, 1) == (1_310, 90.9)
    assert at("table3", "sst2", "lopt1", 20, 5) == (6_500, 92.9)
    assert at("ulpt-table1", "cb", "ulpt", None, 64) == (7_900, 96.4)
    changes = [render.change(p.trainable_parameters, 12_800) for p in published.table("table3")[1:]]
    assert changes == [
        "-89.92 %", "-79.84 %", "-49.61 %", "-89.84 %", "-79.69 %", "-49.22 %", "-89.77 %", "-79.53 %", "-48.83 %"
    ]  # fmt: skip
    assert [len(published.table(name)) for name in ("table1", "table2", "table3", "ulpt-table1")] == [6, 30, 10, 45]


HOSTILE = r'<script>alert(1)</script> \input{x} & % _ $x$ # ~ ^ | `c` "q"'


def test_every_format_escapes():
    table = render.Table(
        caption=HOSTILE,
        columns=(render.Column(title=HOSTILE, align="left"), render.Column(title="code", code=True)),
        rows=((HOSTILE, HOSTILE),),
        notes=(HOSTILE,),
    )
    assert "<script" not in render.html(table)
    latex = render.latex(table)
    assert r"\input" not in latex and r"\textbackslash{}input\{x\} \& \% \_ \$x\$ \#" in latex
    markdown = render.markdown(table)
    assert "<script" not in markdown.replace(render.markdown_code(HOSTILE), "")
    header = next(line for line in markdown.splitlines() if line.startswith("| "))
    assert header.replace(r"\|", "").count("|") == 3
    assert len(render.csv(table).splitlines()) == 2


def test_latex_signs():
    assert render.latex_text("-5.7 pp, Δ × 2 ≥ 1 – n=10") == r"$-$5.7 pp, $\Delta$ $\times$ 2 $\geq$ 1 -- n=10"
    assert render.latex_text("LoPT-1") == "LoPT-1"
