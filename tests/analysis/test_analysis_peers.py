"""What the published numbers are compared with: splits, runs and settings, beside what is known of them."""

from __future__ import annotations

import re
from dataclasses import astuple
from pathlib import Path

import pytest

from analysis import peers, published
from analysis.cells import groups
from analysis.load import load
from analysis.peers import DEPT, METHODS, differences
from analysis.tables import table2
from sweeps import spaces
from sweeps.planning.check_space import check_space

FACTS = Path(__file__).resolve().parents[2].parent / "shared" / "paper" / "facts.md"
NAMES = {"SST-2": "sst2", "BoolQ": "boolq", "RTE": "rte", "WiC": "wic", "CB": "cb", "AGNews": "ag_news"}
ROWS = published.table("table2")


@pytest.fixture(scope="module")
def facts():
    if not FACTS.is_file():
        pytest.skip(f"no {FACTS}")
    return FACTS.read_text()


def rows_of(facts, heading):
    """A Markdown table after a heading: its rows as lists of texts, the head first."""
    lines = facts[facts.index(heading) :].split("\n\n")[1].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in rows if not set(row[0]) <= {"-"}]


def test_every_number_of_tables_1_and_2_is_the_papers(facts):
    for heading, table in (("Table 1 (", "table1"), ("Table 2 (", "table2")):
        (_, _, *tasks), *rows = rows_of(facts, heading)
        expected = {(row[0], NAMES[task]): float(value) for row in rows for task, value in zip(tasks, row[2:])}
        assert {(p.cell, p.task): p.accuracy_percent for p in published.table(table)} == expected


def test_every_number_of_table_3_is_the_papers(facts):
    (_, *ranks), *rows = rows_of(facts, "Table 3 (")
    expected = {
        (int(row[0]), int(rank[2:])): float(cell.split()[-1]) for row in rows for rank, cell in zip(ranks, row[1:])
    }
    found = {(p.length, p.rank): p.accuracy_percent for p in published.table("table3") if p.rank}
    assert found == expected and len(found) == 9


def test_every_further_point_is_the_papers(facts):
    text = facts[facts.index("More published T5-base points") :].split("\n\n")[0]
    expected = {tuple(map(float, numbers.split("/"))) for numbers in re.findall(r"[\d.]+(?:/[\d.]+){4}", text)}
    found = {}
    for point in published.table("ulpt-table1"):
        found.setdefault(point.cell, []).append(point.accuracy_percent)
    assert {tuple(values) for values in found.values()} == expected and len(expected) == 9


def test_depts_released_runs_are_as_known(facts):
    text = facts[facts.index("DePT's row is its released runs") :].split("\n")[0]
    runs = re.findall(
        r"(SST-2|BoolQ|RTE|WiC|CB)[^(]*\(?(?:\(m, r\) = \()?(\d+), (\d+)\),(?: rates)? ([\d.]+) / ([\de.-]+), ([\d,]+)",
        text,
    )
    expected = {NAMES[t]: (int(m), int(r), float(a), float(b), int(s.replace(",", ""))) for t, m, r, a, b, s in runs}
    assert {task: astuple(run) for task, run in DEPT.items()} == expected and len(expected) == 5
    assert f"batch {peers.BATCH}, s = {peers.UPDATE_TOKENS}, AdamW eps 1e-6" in text and peers.EPS == 1e-6


def test_which_split_and_how_many_runs_each_row_is_of(facts):
    assert "halves for every method; PT's 78.8 on RTE is no single run's accuracy, so a mean" in facts
    assert "no split size is assumed but on SST-2" in facts
    for point in ROWS:
        known = published.HALF[point.task]
        if point.method in ("lopt1", "lopt2"):
            known = published.WHOLE["sst2"] if point.task == "sst2" else None
        assert point.split_size == known, point
        assert point.runs == {"dept": "one", "prompt_tuning": "mean"}.get(point.method, "unstated"), point
    for point in published.table("ulpt-table1"):
        assert (point.split_size, point.runs) == (872 if point.task == "sst2" else None, "unstated"), point
    for point in (*published.table("table1"), *published.table("table3")):
        assert (point.split_size, point.runs) == (published.WHOLE[point.task], "unstated"), point


def percents(n, seeds=1):
    """All accuracies that a mean over so many runs can have, as they are printed."""
    return {round(100 * right / (n * seeds) + side, 1) for right in range(n * seeds + 1) for side in (-1e-9, 1e-9)}


def test_what_is_said_of_runs_follows_from_the_numbers():
    at = {(p.method, p.task): p.accuracy_percent for p in ROWS}
    for task in ("boolq", "rte", "wic", "cb"):
        assert at["dept", task] in percents(published.HALF[task]), "one run each"
    assert at["prompt_tuning", "rte"] not in percents(139) | percents(277), "a mean, of halves or not"
    needed = [s for s in range(1, 20) if {at["lopt1", "cb"], at["lopt2", "cb"]} <= percents(56, s)]
    assert needed[0] == 11
    assert {at["lopt1", "cb"], at["lopt2", "cb"]} <= percents(250), "SuperGLUE's hidden test of CB"
    assert at["lopt1", "sst2"] in percents(872) and at["lopt2", "sst2"] in percents(872)


def test_the_space_has_depts_released_runs_as_its_first_points():
    made = spaces.load("table2", "paper")
    cells = {cell.fixed["task"]: cell for cell in made.cells if cell.fixed["method"] == "dept"}
    for task, run in DEPT.items():
        example, (first,) = made.example(cells[task]), cells[task].first
        assert (example.length, example.rank) == (run.length, run.rank)
        assert first == {"learning_rate": run.learning_rate, "update_learning_rate": run.update_learning_rate}
        assert (example.learning_rate, example.options["update_learning_rate"]) == tuple(first.values())
        assert example.options["update_tokens"] == peers.UPDATE_TOKENS and example.optimizer == "adamw"
        assert example.options["adam_eps"] == peers.EPS
        assert f"n={run.length} r={run.rank}" in cells[task].name
    check_space(made)


def test_the_methods_of_one_task_have_one_budget_and_one_protocol():
    made = spaces.load("table2", "paper")
    for task in DEPT:
        examples = [made.example(cell) for cell in made.cells if cell.fixed["task"] == task]
        (protocol,) = {(e.max_steps, e.batch_size, e.eval_every, e.max_tokens, e.holdout, e.metric) for e in examples}
        assert protocol[-1] == ("macro_f1" if task == "cb" else "accuracy")


def confirmed(store, task, methods, **changes):
    s = store(
        name=f"{task}-{len(changes)}", task=task, backbone="t5-base", width=768, test_split="validation", cells=[]
    )
    s.test_n = s.split_size = published.HALF[task]
    for method, length, rank in methods:
        s.confirm(method, length, rank, 0.8, max_steps=20_000, config__batch_size=8, **changes)
    return groups(load([s.write()]))


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({}, set()),
        ({"config__dropout": 0.1}, {"dropout"}),
        ({"config__metric": "macro_f1"}, {"metric"}),
        ({"max_steps": 30_000, "config__batch_size": 32}, {"steps", "batch"}),
        ({"config__options": {"update_tokens": 128, "adam_eps": 1e-6}}, {"eps"}),
    ],
)
def test_what_differs_from_depts_run(store, changes, missing):
    options = {"config__options": {"update_tokens": 128}}
    s = store(task="cb", backbone="t5-base", width=768, cells=[])
    s.confirm("dept", 40, 45, 0.8, **({"max_steps": 20_000, "config__batch_size": 8} | options | changes))
    (group,) = groups(load([s.write()]))
    found = differences(group.confirmed[0].confirmed, "cb")
    assert {*found} == {"answers", "dropout", "metric", "size", "steps", "batch", "s", "eps"} - missing
    assert found["size"] == "(m, r) = (40, 45), theirs (60, 30)" and found["s"] == "128, theirs 256"
    assert found.get("eps", "of AdamW 1e-8, theirs 1e-6") == "of AdamW 1e-8, theirs 1e-6"
    assert {found.get("steps"), found.get("batch")} <= {"20,000, theirs 30,000", "8, theirs 32", None}


def test_differences_stand_beside_the_rows_that_are_compared(store, table2_cells):
    table = table2.render(table2.compute(confirmed(store, "cb", table2_cells)))
    rows = {(row[0], row[1]): row[-1] for row in table.rows}
    for name in ("Fine-tuning", "LoRA", "PT (n=100)"):
        assert rows[name, "differs in"] == "answers, dropout, metric"
    assert rows["DePT", "differs in"].startswith("answers, dropout, metric, size, steps, batch")
    assert not any(row[:2] == ("LoPT-1", "differs in") for row in table.rows), "how it was trained is not stated"
    notes = " ".join(table.notes)
    assert "dropout: off in training; theirs is on" in notes
    assert "of DePT, steps: 20,000, theirs 30,000 (CB); " in notes
    assert "CB (m, r) = (60, 30), rates 0.4 and 0.0001, 30,000 steps" in notes and "eps 1e-6" in notes


def test_nothing_differs_where_nothing_is_compared(store, table2_cells):
    s = store(cells=table2_cells)
    for method, length, rank in table2_cells:
        s.confirm(method, length, rank, 0.8)
    table = table2.render(table2.compute(groups(load([s.write()]))))
    assert not any(row[1] == "differs in" for row in table.rows)
    assert not any(note.startswith(("What ours differs", "DePT's row")) for note in table.notes)


def test_the_caveats_say_how_the_peers_train():
    said = " ".join(published.CAVEATS)
    for words in ("dropout on", "full vocabulary", "generated answers", "mean over an unstated number", "hidden test"):
        assert words in said
    assert {p.method for p in ROWS if p.split_size == published.HALF[p.task] and p.task != "sst2"} == set(METHODS)
    assert not [p for p in ROWS if p.method.startswith("lopt") and p.split_size and p.task != "sst2"]
