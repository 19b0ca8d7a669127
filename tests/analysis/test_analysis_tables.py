"""What each table says, when a difference may be shown, and the published numbers."""

import pytest

from analysis import published, render
from analysis.beside_published import VERDICTS, Beside, comparable, obstacle, verdicts
from analysis.cells import groups
from analysis.load import load
from analysis.registry import Missing
from analysis.tables import budget, cells, cost, frontier, noninferiority, over_tasks, table1, table2, table3
from tests.analysis.simulated import simulated

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
    s = store()
    s.confirm("lopt1", 10, 2, 0.85)
    rows = table3.compute(only_group(s.write())).rows
    assert [row.point.cell for row in rows] == [
        "No LoPT n=10", *(f"n={n} r={r}" for n in (10, 20, 30) for r in (1, 2, 5))
    ]  # fmt: skip
    text = render.csv(table3.render(table3.compute(only_group(s.path))))
    assert text.count("not run") == 2 * 9  # as result and as verdict
    assert "n=10 r=2,-79.84 %,92.1," in text


def test_table3_parameters_and_changes(store, full_run):
    info = table3.compute(only_group(full_run))
    rows = {row.point.cell: row for row in info.rows}
    (shown,) = [row for row in table3.render(info).rows if row[0] == "n=20 r=5"]
    assert rows["n=20 r=5"].parameters == 5 * (20 + 576)
    assert shown[1:5] == ("-49.22 %", "92.9", "2,980", "-48.26 %")  # against 12,800, and our own 5,760
    assert {row.beside.verdict for row in rows.values()} == {"not comparable: other backbone and task"}
    assert {row.beside.points for row in rows.values()} == {"–"}


def test_one_obstacle_for_all_is_said_once(full_run):
    table = table3.render(table3.compute(only_group(full_run)))
    assert {row[-1] for row in table.rows} == {"–"}
    assert "No result of ours is comparable with the published one: other backbone and task." in table.notes
    assert VERDICTS not in table.notes


def test_what_was_not_run_is_said_beside_an_obstacle_and_of_several_each(store):
    s = store(backbone="embedded", task="sst2")
    s.confirm("lopt1", 10, 2, 0.9)
    assert {row[-1] for row in table3.render(table3.compute(only_group(s.write()))).rows} == {"–", "not run"}
    of = {"a": "subset of split", "b": "other size", "c": None}
    besides = [Beside(difference=None if why else 0.1, verdict=f"{x} {why}", obstacle=why)
               for x, why in of.items()]  # fmt: skip
    for some in (besides, besides[:2], besides[1:]):
        assert verdicts([*some, None]) == ([*(each.verdict for each in some), ""], "")


@pytest.mark.parametrize(("ranks", "shown"), [((1, 2), False), ((1, 2, 5), True)])
def test_table3_wants_three_of_its_cells(store, ranks, shown):
    info = table3.compute(only_group(store(cells=[("lopt1", 10, rank) for rank in ranks]).write()))
    assert isinstance(info, table3.Info) == shown


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("-2.1", "agrees")),
        ({"backbone": "openai-community/gpt2-large"}, ("-2.1", "agrees")),
        ({"backbone": "embedded"}, ("–", "not comparable: other backbone")),
        ({"task": "movie_snippets"}, ("–", "not comparable: other task")),
        ({"test_n": 200}, ("–", "not comparable: subset of split")),
        ({"test_split": "test"}, ("–", "not comparable: other split")),
    ],
)
def test_difference_only_where_comparable(store, changes, expected):
    s = store(**(PAPER | changes))
    s.confirm("lopt1", 10, 2, 0.90)
    row = next(row for row in table3.compute(only_group(s.write())).rows if row.point.cell == "n=10 r=2")
    assert (row.beside.points, row.beside.verdict) == expected


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([0.899], "agrees"),  # 2.2 pp below, intervals of about 2 pp and 2 pp: 2.7 together
        ([0.88], "below"),
        ([0.96], "above"),
        ([0.80, 0.96, 0.88], "agrees"),  # 4 pp below, but who knows what a fourth seed gives
        ([0.880, 0.881, 0.882], "below"),
        ([], "not confirmed"),
    ],
)
def test_the_verdict_follows_from_both_intervals(store, accuracies, expected):
    s = store(**PAPER)
    s.search("lopt1", 10, 2)
    for seed, accuracy in enumerate(accuracies):
        s.confirm("lopt1", 10, 2, accuracy, config__seed=seed)
    rows = {row.point.cell: row for row in table3.compute(only_group(s.write())).rows}
    assert rows["n=10 r=2"].beside.verdict == expected
    assert rows["n=20 r=2"].beside.verdict == "not run"


def test_only_confirmed_complete_trials_are_ours(store):
    s = store(**PAPER)
    s.search("lopt1", 10, 2, test_accuracy=0.99, test_n=872)
    s.confirm("lopt1", 10, 2, 0.99, status="diverged")
    table = render.csv(table3.render(table3.compute(only_group(s.write()))))
    assert "99.0" not in table
    assert (table.count("not run"), table.count("not confirmed")) == (2 * 9, 2)


def test_table1_by_task(store):
    s = store(**(PAPER | {"task": "ag_news", "test_split": "test", "test_n": 7600, "split_size": 7600}))
    s.confirm("lopt2", 10, 2, 0.91)
    rows = {row.point.cell: row for row in table1.compute(only_group(s.write())).rows}
    assert rows["LoPT-2"].beside.points == "+1.0"
    assert rows["LoPT-1"].ours is None


def test_table1_does_not_apply_without_lopt2(full_run):
    assert isinstance(table1.compute(only_group(full_run)), Missing)


def test_table3_does_not_apply_to_table2s_own_cells(store, table2_cells):
    assert isinstance(table3.compute(only_group(store(cells=table2_cells).write())), Missing)


T5 = {"backbone": "t5-base", "width": 768, "test_split": "validation"}
SCORED = {"sst2": (872, 872), "boolq": (1635, 3270), "rte": (139, 277), "wic": (319, 638), "cb": (28, 56)}


def t5_groups(store, of, table2_cells, **changes):
    """Groups of T5-base, one a task, with all six methods confirmed at 80 %."""
    paths = []
    for task, test_n in of.items():
        s = store(name=task.rsplit("/", 1)[-1], task=task, cells=table2_cells, **T5)
        s.test_n, s.split_size = test_n, test_n
        for method, length, rank in table2_cells:
            s.confirm(method, length, rank, 0.8, **changes)
        paths.append(s.write())
    return groups(load(paths))


def test_table2_has_a_row_a_method_and_a_column_a_task(store, table2_cells):
    found = t5_groups(store, {"rte": 139, "cb": 28}, table2_cells)
    table = table2.render(table2.compute(found))
    assert [column.title for column in table.columns[2:]] == ["params", "SST-2 %", "BoolQ %", "RTE %", "WiC %", "CB %"]
    rows = {(row[0], row[1]): row[2:] for row in table.rows}
    assert list(dict.fromkeys(name for name, _ in rows)) == [
        "Fine-tuning", "LoRA", "PT (n=100)", "DePT", "LoPT-1", "LoPT-2"
    ]  # fmt: skip
    assert rows["LoRA", "published"] == ("3.8M", "94.3", "81.3", "75.5", "68.3", "92.9")
    assert rows["LoRA", "ours (N)"] == ("3,538,944", "", "", "80.0 (1)", "", "80.0 (1)")
    assert rows["LoRA", "95 % CI"][:3] == ("", "", "") and rows["LoRA", "95 % CI"][3] == "[72.6, 85.8]"
    assert rows["LoRA", "difference, pp"] == ("", "", "", "+4.5", "", "-12.9")
    assert rows["LoRA", "verdict"] == (
        "",
        "not run",
        "not run",
        "agrees",
        "not run",
        "agrees",
    )  # of 139 and 28 examples
    unknown = "not comparable: split not stated"
    assert rows["LoPT-1", "verdict"] == ("", "not run", "not run", unknown, "not run", unknown)
    assert ("LoPT-1", "difference, pp") not in rows
    notes = " ".join(table.notes)
    assert "LoRA r=32 (RTE, CB); DePT n=40 r=45 (RTE, CB)" in notes and "RTE 139, CB 28" in notes
    assert published.MIXED_PROTOCOLS in table.notes


def test_table2_takes_of_several_settings_the_best_on_selection(store):
    s = store(task="sst2", test_n=872, split_size=872, cells=[("fine_tuning", None, None)], **T5)
    s.confirm("lora", None, 8, 0.95, selection_accuracy=0.80)
    s.confirm("lora", None, 32, 0.90, selection_accuracy=0.85)
    row = next(row for row in table2.compute(groups(load([s.write()]))).rows if row.cell == "LoRA")
    assert (row.entries[0].size, row.entries[0].beside.points) == ("r=32", "-4.3")


@pytest.mark.parametrize(("rank", "verdict"), [(8, "not comparable: other size"), (32, "agrees")])
def test_a_method_of_another_size_than_the_papers_is_not_compared(store, rank, verdict):
    s = store(task="sst2", test_n=872, split_size=872, cells=[("fine_tuning", None, None)], **T5)
    s.confirm("lora", None, rank, 0.943)  # 884,736 or 3,538,944 parameters, beside "3.8M"
    s.confirm("fine_tuning", None, None, 0.946)  # 222,903,552 beside "220M"
    rows = {row.cell: row.entries[0].beside for row in table2.compute(groups(load([s.write()]))).rows}
    assert rows["LoRA"].verdict == verdict and (rows["LoRA"].points == "–") == (rank == 8)
    assert rows["Fine-tuning"].verdict == "agrees"


def test_table2_has_a_column_for_another_task_without_published_numbers(store, table2_cells):
    found = t5_groups(store, {"/data/me/tickets": 300}, table2_cells)
    table = table2.render(table2.compute(found))
    assert table.columns[-1].title == "tickets %"
    assert {row[-1] for row in table.rows} == {"", "80.0 (1)", "[75.1, 84.1]"}
    assert not any("difference" in row[1] for row in table.rows)


@pytest.mark.parametrize(
    ("cells", "shown"),
    [
        ([("lora", None, 8), ("dept", 40, 45)], True),
        ([("lopt1", 20, 5), ("lopt2", 20, 5)], True),
        ([("lora", None, 8), ("lora", None, 32)], False),
        ([("lopt1", 20, 5), ("prompt_tuning", 100, None)], False),
        ([("lopt1", 10, 5), ("fine_tuning", None, None)], False),
    ],
)
def test_table2_needs_two_of_its_methods(store, cells, shown):
    info = table2.compute(groups(load([store(cells=cells).write()])))
    assert isinstance(info, table2.Info) == shown


@pytest.mark.parametrize("task", ["boolq", "rte", "wic", "cb"])
@pytest.mark.parametrize("whole", [False, True])
def test_the_peers_rows_are_compared_with_halves_and_lopts_with_nothing(store, task, whole, table2_cells):
    (group,) = t5_groups(store, {task: SCORED[task][whole]}, table2_cells)
    found = {}
    for point in published.table("table2"):
        if point.task == task:
            cell = max((c for c in group.cells if c.method == point.method), key=lambda c: c.name)
            found[point.method] = obstacle(group, cell, point)
    halved, others = {"fine_tuning", "lora", "prompt_tuning", "dept"}, {"lopt1", "lopt2"}
    assert found == dict.fromkeys(halved, "other split" if whole else None) | dict.fromkeys(others, "split not stated")
    assert {point.method for point in comparable(group)} == (set() if whole else halved)


def test_the_size_of_the_split_does_not_matter(store, table2_cells):
    (group,) = t5_groups(store, {"rte": 139}, table2_cells, test_split_size=277)
    point = next(p for p in published.table("table2") if (p.method, p.task) == ("dept", "rte"))
    assert obstacle(group, group.find("dept", 40, 45), point) is None


def test_few_shot_is_not_compared(store, table2_cells):
    found = t5_groups(store, {"rte": 139}, table2_cells, config__shots=16)
    (group,) = [each for each in found if each.shots]
    assert comparable(group) == ()
    info = table2.compute([group])
    rows = table2.render(info).rows
    assert {row[5] for row in rows if row[1] == "verdict"} == {"–"}
    assert "No result of ours is comparable with the published one: few-shot." in table2.render(info).notes


def test_a_folder_is_no_task_of_the_paper_and_a_backbone_may_be_one(store):
    for changes, expected in (
        ({"backbone": "/models/gpt2-large/"}, "agrees"),
        ({"task": "/data/me/sst2"}, "not comparable: other task"),
    ):
        s = store(**(PAPER | changes), name=expected)
        s.confirm("lopt1", 10, 2, 0.90)
        info = table3.compute(only_group(s.write()))
        assert next(row for row in info.rows if row.point.cell == "n=10 r=2").beside.verdict == expected
        caption = table3.render(info).caption
        assert "/" not in caption and caption.endswith("sst2 with gpt2-large")


def test_a_difference_of_nothing_has_no_minus(store):
    s = store(**PAPER)
    s.confirm("lopt1", 10, 2, 0.9208)
    row = next(row for row in table3.compute(only_group(s.write())).rows if row.point.cell == "n=10 r=2")
    assert row.beside.points == "+0.0"


def test_budget_gives_the_line_of_the_seed_best_on_selection(store):
    s = store()
    s.confirm("lopt1", 10, 1, 0.95, selection_accuracy=0.80, config__seed=1)
    best = s.confirm("lopt1", 10, 1, 0.85, selection_accuracy=0.90, config__seed=2)
    (row,) = budget.compute(only_group(s.write())).rows
    assert (row.budget, row.key) == (1000, best["key"])
    assert row.load_line == f'load_prompt("{s.path.as_posix()}/artifacts/{best["key"]}")'


def test_budget_says_which_artifact_is_not_there(store):
    s = store(name='a "run"')
    keys = [s.confirm("lopt1", 10, rank, 0.8 + rank / 100)["key"] for rank in (1, 2)]
    (s.path / "artifacts" / keys[0]).mkdir(parents=True)
    info = budget.compute(only_group(s.write()))
    assert [row.there for row in info.rows] == [True, False]
    assert info.rows[0].load_line.endswith(f'/a \\"run\\"/artifacts/{keys[0]}")')
    (note,) = [note for note in budget.render(info).notes if "artifacts/" in note]
    assert keys[1] in note and keys[0] not in note


def test_cells_counts_every_outcome(store):
    s = store(cells=[("lopt1", 10, 1), ("lopt1", 10, 2)])
    for status in ("complete", "complete", "stopped", "diverged", "failed"):
        s.search("lopt1", 10, 1, status=status, config__learning_rate=0.3)
    s.confirm("lopt1", 10, 1, 0.85, config__learning_rate=0.2)
    s.confirm("lopt1", 10, 1, 0.1, status="failed", config__learning_rate=0.2, config__seed=7)
    table = cells.render(cells.compute(only_group(s.write())))
    assert table.rows[0][4:6] == ("2 / 1 / 1 / 1", "0.2")
    assert table.rows[1][-2:] == ("not run", "–")
    assert table.rows[0][-1] == "+0.0"  # optimism
    assert any("LoPT-1 n=10 r=1: 1" in note for note in table.notes)


def test_a_search_winner_that_does_not_hold_with_other_seeds_is_named(store):
    s = store(cells=[])
    for rank, confirmed in ((1, 0.557), (2, 0.80)):
        s.search("lopt1", 4, rank, selection_accuracy=0.891)
        s.search("lopt1", 4, rank, selection_accuracy=0.99, status="diverged")
        s.confirm("lopt1", 4, rank, 0.5, selection_accuracy=confirmed)
    table = cells.render(cells.compute(only_group(s.write())))
    at = [column.title for column in table.columns].index("best search %")
    assert [row[at : at + 2] for row in table.rows] == [("89.1", "55.7"), ("89.1", "80.0")]
    (note,) = [note for note in table.notes if "more than 10 pp below" in note]
    assert "LoPT-1 n=4 r=1 (89.1 to 55.7)" in note and "r=2" not in note


def test_the_smallest_cell_is_not_shown_as_surely_on_the_frontier(store):
    s = store()
    for rank, accuracy in ((1, 0.6), (5, 0.9)):
        s.confirm("lopt1", 10, rank, accuracy)
    table = frontier.render(frontier.compute(only_group(s.write())))
    assert [column.title for column in table.columns][-3:] == [
        "on the frontier by parameters trained", "by parameters stored", "by parameters at input"
    ]  # fmt: skip
    assert [row[-3:-1] for row in table.rows] == [("smallest", "smallest"), ("100 %", "100 %")]
    assert "smallest" not in {row[-1] for row in table.rows}, "both are of ten vectors at the input"
    (note,) = [note for note in table.notes if note.startswith("Hypervolume")]
    assert "accuracy (1 is 100 %) times doublings" in note and "twice the largest" in note


@pytest.mark.parametrize(
    ("gap", "expected"), [(0.0, ("0.005", "> 0.99", "non-inferior")), (0.15, ("> 0.99", "< 0.001", "inferior"))]
)
def test_each_p_is_of_the_hypothesis_in_its_heading(store, gap, expected):
    group = simulated(store, [gap], n=6000, spread=0.001, seeds=10)
    table = noninferiority.render(noninferiority.compute(group))
    assert [column.title for column in table.columns][-3:] == ["p (non-inferior)", "p (inferior)", "verdict"]
    (row,) = table.rows
    assert row[-3:] == expected


@pytest.mark.parametrize(("memory", "last"), [(None, "device-hours"), (2_000_000_000, "peak memory, GB")])
def test_cost_shows_no_hours_as_none_and_memory_where_it_is_known(store, memory, last):
    s = store()
    s.search("lopt1", 10, 1, train_time_s=2.0, evaluation_time_s=0.5, peak_memory_bytes=memory)
    table = cost.render(cost.compute(only_group(s.write())))
    titles = [column.title for column in table.columns]
    assert titles[-1] == last and "trials per size" in titles
    assert table.rows[0][titles.index("device-hours")] == "< 0.01"
    assert any(note.startswith("Peak memory") for note in table.notes) == (memory is not None)


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


def test_over_tasks_needs_four_and_takes_the_best_size_of_each(store):
    paths = []
    for task, accuracy in (("sst2", 0.9), ("boolq", 0.5), ("rte", 0.7), ("wic", 0.6), ("cb", 0.8)):
        s = store(name=task, task=task)
        for rank, worse in ((1, 0.1), (2, 0.0)):
            s.confirm("lopt1", 10, rank, accuracy - worse, selection_accuracy=accuracy - worse)
        if task != "cb":
            s.confirm("ulpt", 10, 2, accuracy)
        paths.append(s.write())
    info = over_tasks.compute(groups(load(paths)))
    (row,) = info.rows
    assert row.interquartile[0] == pytest.approx(0.7) and row.mean == pytest.approx(0.7)
    assert row.parameters == (2 * (10 + 576),) * 2
    assert info.left_out == ("ULPT",)
    assert "left out: ULPT" in " ".join(over_tasks.render(info).notes)
    assert isinstance(over_tasks.compute(groups(load(paths[:3]))), Missing)
