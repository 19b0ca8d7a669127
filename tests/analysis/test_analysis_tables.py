"""What each table says, when our results may be compared with published ones, and the published numbers."""

import pytest

from analysis import published, render
from analysis.cells import groups
from analysis.compare_published import VERDICT_NOTE, PublishedComparison, comparable_points, obstacle, verdict_texts
from analysis.load import load
from analysis.registry import Missing
from analysis.tables import budget, cells, cost, frontier, noninferiority, table1, table2, table3
from tests.analysis.simulated import simulated_group

PAPER = {"backbone": "gpt2-large", "task": "sst2", "width": 1280}
PAPER |= {"test_split": "validation", "test_n": 872, "split_size": 872}


def only_group(path):
    """Load a run whose trials form one group."""
    (group,) = groups(load([path]))
    return group


def test_table3_lists_all_ten_cells_and_which_were_not_run(store):
    run = store()
    run.confirm("lopt1", 10, 2, 0.85)
    rows = table3.compute(only_group(run.write())).rows
    assert [row.point.row_name for row in rows] == [
        "No LoPT n=10", *(f"n={n} r={r}" for n in (10, 20, 30) for r in (1, 2, 5))
    ]  # fmt: skip
    csv_text = render.csv(table3.render(table3.compute(only_group(run.path))))
    assert csv_text.count("not run") == 2 * 9  # as result and as verdict
    assert "n=10 r=2,-79.84 %,92.1," in csv_text


def test_table3_parameters_and_changes(store, full_run):
    info = table3.compute(only_group(full_run))
    rows = {row.point.row_name: row for row in info.rows}
    (line,) = [line for line in table3.render(info).rows if line[0] == "n=20 r=5"]
    assert rows["n=20 r=5"].our_parameters == 5 * (20 + 576)
    assert line[1:5] == ("-49.22 %", "92.9", "2,980", "-48.26 %")  # against 12,800, and our own 5,760
    assert {row.comparison.verdict for row in rows.values()} == {"not comparable: different backbone and task"}
    assert {row.comparison.difference_text for row in rows.values()} == {"–"}


def test_an_obstacle_of_all_rows_is_stated_once(full_run):
    table = table3.render(table3.compute(only_group(full_run)))
    assert {row[-1] for row in table.rows} == {"–"}
    note = "None of our results can be compared with the published ones: different backbone and task."
    assert note in table.notes
    assert VERDICT_NOTE not in table.notes


def test_not_run_is_stated_in_spite_of_an_obstacle_and_several_obstacles_in_each_row(store):
    run = store(backbone="embedded", task="sst2")
    run.confirm("lopt1", 10, 2, 0.9)
    assert {row[-1] for row in table3.render(table3.compute(only_group(run.write()))).rows} == {"–", "not run"}
    reasons = {"a": "only part of the split", "b": "different size", "c": None}
    all_comparisons = [
        PublishedComparison(difference=None if reason else 0.1, verdict=f"{name} {reason}", obstacle=reason)
        for name, reason in reasons.items()
    ]
    for comparisons in (all_comparisons, all_comparisons[:2], all_comparisons[1:]):
        expected = [*(comparison.verdict for comparison in comparisons), ""]
        assert verdict_texts([*comparisons, None]) == (expected, "")


@pytest.mark.parametrize(("ranks", "applies"), [((1, 2), False), ((1, 2, 5), True)])
def test_table3_needs_three_of_its_cells(store, ranks, applies):
    info = table3.compute(only_group(store(cells=[("lopt1", 10, rank) for rank in ranks]).write()))
    assert isinstance(info, table3.Info) == applies


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("-2.1", "agrees")),
        ({"backbone": "openai-community/gpt2-large"}, ("-2.1", "agrees")),
        ({"backbone": "embedded"}, ("–", "not comparable: different backbone")),
        ({"task": "movie_snippets"}, ("–", "not comparable: different task")),
        ({"test_n": 200}, ("–", "not comparable: only part of the split")),
        ({"test_split": "test"}, ("–", "not comparable: different split")),
    ],
)
def test_a_difference_is_stated_only_where_results_are_comparable(store, changes, expected):
    run = store(**(PAPER | changes))
    run.confirm("lopt1", 10, 2, 0.90)
    row = next(row for row in table3.compute(only_group(run.write())).rows if row.point.row_name == "n=10 r=2")
    assert (row.comparison.difference_text, row.comparison.verdict) == expected


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([0.899], "agrees"),  # 2.2 pp below; the intervals of about 2 pp each allow 2.7 pp together
        ([0.88], "below"),
        ([0.96], "above"),
        ([0.80, 0.96, 0.88], "agrees"),  # 4 pp below, but the seeds differ too much to tell
        ([0.880, 0.881, 0.882], "below"),
        ([], "not confirmed"),
    ],
)
def test_the_verdict_follows_from_both_intervals(store, accuracies, expected):
    run = store(**PAPER)
    run.search("lopt1", 10, 2)
    for seed, accuracy in enumerate(accuracies):
        run.confirm("lopt1", 10, 2, accuracy, config__seed=seed)
    rows = {row.point.row_name: row for row in table3.compute(only_group(run.write())).rows}
    assert rows["n=10 r=2"].comparison.verdict == expected
    assert rows["n=20 r=2"].comparison.verdict == "not run"


def test_only_complete_confirmed_trials_count_as_our_result(store):
    run = store(**PAPER)
    run.search("lopt1", 10, 2, test_accuracy=0.99, test_n=872)
    run.confirm("lopt1", 10, 2, 0.99, status="diverged")
    csv_text = render.csv(table3.render(table3.compute(only_group(run.write()))))
    assert "99.0" not in csv_text
    assert (csv_text.count("not run"), csv_text.count("not confirmed")) == (2 * 9, 2)


def test_table1_compares_with_the_published_number_of_the_task(store):
    run = store(**(PAPER | {"task": "ag_news", "test_split": "test", "test_n": 7600, "split_size": 7600}))
    run.confirm("lopt2", 10, 2, 0.91)
    rows = {row.point.row_name: row for row in table1.compute(only_group(run.write())).rows}
    assert rows["LoPT-2"].comparison.difference_text == "+1.0"
    assert rows["LoPT-1"].our_accuracy is None


def test_table1_does_not_apply_without_lopt2(full_run):
    assert isinstance(table1.compute(only_group(full_run)), Missing)


def test_table3_does_not_apply_to_the_cells_of_table2(store, table2_cells):
    assert isinstance(table3.compute(only_group(store(cells=table2_cells).write())), Missing)


T5 = {"backbone": "t5-base", "width": 768, "test_split": "validation"}
# For each task the numbers of examples of the scored half and of the whole split.
HALF_AND_WHOLE = {"sst2": (872, 872), "boolq": (1635, 3270), "rte": (139, 277), "wic": (319, 638), "cb": (28, 56)}


def t5_groups(store, test_n_by_task, table2_cells, **changes):
    """Return the groups of T5-base, one for each task, with all six methods confirmed at 80 %."""
    paths = []
    for task, test_n in test_n_by_task.items():
        run = store(name=task.rsplit("/", 1)[-1], task=task, cells=table2_cells, **T5)
        run.test_n, run.split_size = test_n, test_n
        for method, length, rank in table2_cells:
            run.confirm(method, length, rank, 0.8, **changes)
        paths.append(run.write())
    return groups(load(paths))


def test_table2_has_rows_for_each_method_and_a_column_for_each_task(store, table2_cells):
    t5 = t5_groups(store, {"rte": 139, "cb": 28}, table2_cells)
    table = table2.render(table2.compute(t5))
    titles = ["SST-2 %", "BoolQ %", "RTE %", "WiC %", "CB %"]
    assert [column.title for column in table.columns[2:]] == ["trainable parameters", *titles]
    assert render.csv(table).splitlines()[0] == ",".join(["method", "what", "params", *titles])
    rows = {(row[0], row[1]): row[2:] for row in table.rows}
    names = ["Fine-tuning", "LoRA", "PT (n=100)", "DePT", "LoPT-1", "LoPT-2"]
    assert list(dict.fromkeys(name for name, _ in rows)) == names
    assert rows["LoRA", "published"] == ("3.8M", "94.3", "81.3", "75.5", "68.3", "92.9")
    assert rows["LoRA", "ours (N)"] == ("3,538,944", "", "", "80.0 (1)", "", "80.0 (1)")
    assert rows["LoRA", "95 % CI"][:3] == ("", "", "") and rows["LoRA", "95 % CI"][3] == "[72.6, 85.8]"
    assert rows["LoRA", "difference, pp"] == ("", "", "", "+4.5", "", "-12.9")
    assert rows["LoRA", "verdict"] == ("", "not run", "not run", "agrees", "not run", "agrees")
    unknown = "not comparable: split not stated"
    assert rows["LoPT-1", "verdict"] == ("", "not run", "not run", unknown, "not run", unknown)
    assert ("LoPT-1", "difference, pp") not in rows
    notes = " ".join(table.notes)
    assert "LoRA r=32 (RTE, CB); DePT n=40 r=45 (RTE, CB)" in notes and "RTE 139, CB 28" in notes
    assert published.MIXED_PROTOCOLS in table.notes


def test_table2_shows_the_setting_with_the_best_held_out_accuracy(store):
    run = store(task="sst2", test_n=872, split_size=872, cells=[("fine_tuning", None, None)], **T5)
    run.confirm("lora", None, 8, 0.95, selection_accuracy=0.80)
    run.confirm("lora", None, 32, 0.90, selection_accuracy=0.85)
    row = next(row for row in table2.compute(groups(load([run.write()]))).rows if row.name == "LoRA")
    assert (row.entries[0].our_size, row.entries[0].comparison.difference_text) == ("r=32", "-4.3")


@pytest.mark.parametrize(("rank", "verdict"), [(8, "not comparable: different size"), (32, "agrees")])
def test_a_method_with_another_size_than_in_the_paper_is_not_compared(store, rank, verdict):
    run = store(task="sst2", test_n=872, split_size=872, cells=[("fine_tuning", None, None)], **T5)
    run.confirm("lora", None, rank, 0.943)  # 884,736 or 3,538,944 parameters; the paper says 3.8M
    run.confirm("fine_tuning", None, None, 0.946)  # 222,903,552 parameters; the paper says 220M
    comparisons = {row.name: row.entries[0].comparison for row in table2.compute(groups(load([run.write()]))).rows}
    assert comparisons["LoRA"].verdict == verdict
    assert (comparisons["LoRA"].difference_text == "–") == (rank == 8)
    assert comparisons["Fine-tuning"].verdict == "agrees"


def test_table2_has_a_column_for_another_task_without_published_numbers(store, table2_cells):
    t5 = t5_groups(store, {"/data/me/tickets": 300}, table2_cells)
    table = table2.render(table2.compute(t5))
    assert table.columns[-1].title == "tickets %"
    assert {row[-1] for row in table.rows} == {"", "80.0 (1)", "[75.1, 84.1]"}
    assert not any("difference" in row[1] for row in table.rows)


@pytest.mark.parametrize(
    ("cells", "applies"),
    [
        ([("lora", None, 8), ("dept", 40, 45)], True),
        ([("lopt1", 20, 5), ("lopt2", 20, 5)], True),
        ([("lora", None, 8), ("lora", None, 32)], False),
        ([("lopt1", 20, 5), ("prompt_tuning", 100, None)], False),
        ([("lopt1", 10, 5), ("fine_tuning", None, None)], False),
    ],
)
def test_table2_needs_two_of_its_methods(store, cells, applies):
    info = table2.compute(groups(load([store(cells=cells).write()])))
    assert isinstance(info, table2.Info) == applies


@pytest.mark.parametrize("task", ["boolq", "rte", "wic", "cb"])
@pytest.mark.parametrize("is_whole", [False, True])
def test_rows_from_dept_are_compared_on_halves_and_those_of_lopt_never(store, task, is_whole, table2_cells):
    (group,) = t5_groups(store, {task: HALF_AND_WHOLE[task][is_whole]}, table2_cells)
    obstacles = {}
    for point in published.table_points("table2"):
        if point.task == task:
            cells_of_method = [cell for cell in group.cells if cell.method == point.method]
            obstacles[point.method] = obstacle(group, max(cells_of_method, key=lambda cell: cell.name), point)
    halved, others = {"fine_tuning", "lora", "prompt_tuning", "dept"}, {"lopt1", "lopt2"}
    expected = dict.fromkeys(halved, "different split" if is_whole else None)
    assert obstacles == expected | dict.fromkeys(others, "split not stated")
    assert {point.method for point in comparable_points(group)} == (set() if is_whole else halved)


def test_only_the_number_of_scored_examples_must_be_the_papers(store, table2_cells):
    (group,) = t5_groups(store, {"rte": 139}, table2_cells, test_split_size=277)
    point = next(point for point in published.table_points("table2") if (point.method, point.task) == ("dept", "rte"))
    assert obstacle(group, group.find("dept", 40, 45), point) is None


def test_few_shot_results_are_not_compared(store, table2_cells):
    t5 = t5_groups(store, {"rte": 139}, table2_cells, config__shots=16)
    (group,) = [group for group in t5 if group.shots]
    assert comparable_points(group) == ()
    info = table2.compute([group])
    rows = table2.render(info).rows
    assert {row[5] for row in rows if row[1] == "verdict"} == {"–"}
    assert "None of our results can be compared with the published ones: few-shot." in table2.render(info).notes


def test_a_folder_can_be_the_papers_backbone_but_not_its_task(store):
    not_comparable = ({"task": "/data/me/sst2"}, "not comparable: different task")
    for changes, expected in (({"backbone": "/models/gpt2-large/"}, "agrees"), not_comparable):
        run = store(**(PAPER | changes), name=expected)
        run.confirm("lopt1", 10, 2, 0.90)
        info = table3.compute(only_group(run.write()))
        assert next(row for row in info.rows if row.point.row_name == "n=10 r=2").comparison.verdict == expected
        caption = table3.render(info).caption
        assert "/" not in caption and caption.endswith("sst2 with gpt2-large")


def test_a_difference_of_zero_has_no_minus(store):
    run = store(**PAPER)
    run.confirm("lopt1", 10, 2, 0.9208)
    row = next(row for row in table3.compute(only_group(run.write())).rows if row.point.row_name == "n=10 r=2")
    assert row.comparison.difference_text == "+0.0"


def test_budget_loads_the_seed_with_the_best_held_out_accuracy(store):
    run = store()
    run.confirm("lopt1", 10, 1, 0.95, selection_accuracy=0.80, config__seed=1)
    best = run.confirm("lopt1", 10, 1, 0.85, selection_accuracy=0.90, config__seed=2)
    (row,) = budget.compute(only_group(run.write())).rows
    assert (row.budget, row.trial_key) == (1000, best["key"])
    assert row.load_line == f'load_prompt("{run.path.as_posix()}/artifacts/{best["key"]}")'


def test_budget_names_missing_artifacts(store):
    run = store(name='a "run"')
    keys = [run.confirm("lopt1", 10, rank, 0.8 + rank / 100)["key"] for rank in (1, 2)]
    (run.path / "artifacts" / keys[0]).mkdir(parents=True)
    info = budget.compute(only_group(run.write()))
    assert [row.has_artifact for row in info.rows] == [True, False]
    assert info.rows[0].load_line.endswith(f'/a \\"run\\"/artifacts/{keys[0]}")')
    (note,) = [note for note in budget.render(info).notes if "artifacts/" in note]
    assert keys[1] in note and keys[0] not in note


def test_cells_counts_every_outcome(store):
    run = store(cells=[("lopt1", 10, 1), ("lopt1", 10, 2)])
    for status in ("complete", "complete", "stopped", "diverged", "failed"):
        run.search("lopt1", 10, 1, status=status, config__learning_rate=0.3)
    run.confirm("lopt1", 10, 1, 0.85, config__learning_rate=0.2)
    run.confirm("lopt1", 10, 1, 0.1, status="failed", config__learning_rate=0.2, config__seed=7)
    table = cells.render(cells.compute(only_group(run.write())))
    assert table.rows[0][4:6] == ("2 / 1 / 1 / 1", "0.2")
    assert table.rows[1][-2:] == ("not run", "–")
    assert table.rows[0][-1].startswith("+0.0 [−") or table.rows[0][-1].startswith("+0.0 [-")  # optimism
    assert any("LoPT-1 n=10 r=1 (1 seed)" in note for note in table.notes)


def test_a_search_winner_that_does_worse_with_other_seeds_is_named(store):
    run = store(cells=[])
    for rank, confirmed in ((1, 0.557), (2, 0.80)):
        run.search("lopt1", 4, rank, selection_accuracy=0.891)
        run.search("lopt1", 4, rank, selection_accuracy=0.99, status="diverged")
        run.confirm("lopt1", 4, rank, 0.5, selection_accuracy=confirmed)
    table = cells.render(cells.compute(only_group(run.write())))
    column = [column.title for column in table.columns].index("best search trial, %")
    assert [row[column : column + 2] for row in table.rows] == [("89.1", "55.7"), ("89.1", "80.0")]
    (note,) = [note for note in table.notes if "fell by more than 10 percentage points" in note]
    assert "LoPT-1 n=4 r=1 (from 89.1 % to 55.7 %)" in note and "r=2" not in note


def test_the_smallest_cell_is_named_so_instead_of_certainly_on_the_frontier(store):
    run = store()
    for rank, accuracy in ((1, 0.6), (5, 0.9)):
        for seed in range(2):
            run.confirm("lopt1", 10, rank, accuracy, config__seed=seed)
    table = frontier.render(frontier.compute(only_group(run.write(baselines=False))))
    assert [column.title for column in table.columns[-3:]] == [
        f"on the frontier, {count}" for count in ("trainable", "stored", "at input")
    ]
    assert [row[-3:-1] for row in table.rows] == [("smallest", "smallest"), ("100 %", "100 %")]
    assert "smallest" not in {row[-1] for row in table.rows}, "both have ten vectors at the input"
    (note,) = [note for note in table.notes if note.startswith("Hypervolume")]
    assert "over log2 of the trainable parameters" in note and "twice those of the largest cell" in note


@pytest.mark.parametrize(
    ("gap", "expected"), [(0.0, ("0.005", "> 0.99", "non-inferior")), (0.15, ("> 0.99", "< 0.001", "inferior"))]
)
def test_each_p_value_belongs_to_the_verdict_in_its_heading(store, gap, expected):
    group = simulated_group(store, [gap], n=6000, spread=0.001, seeds=10)
    table = noninferiority.render(noninferiority.compute(group))
    titles = [column.title for column in table.columns]
    assert titles[-3:] == ["p, non-inferior", "p, inferior", "verdict"]
    (row,) = table.rows
    assert row[-3:] == expected


@pytest.mark.parametrize(("memory", "last"), [(None, "device-hours"), (2_000_000_000, "peak memory, GB")])
def test_cost_never_shows_zero_hours_and_shows_memory_where_it_is_known(store, memory, last):
    run = store()
    run.search("lopt1", 10, 1, train_time_s=2.0, evaluation_time_s=0.5, peak_memory_bytes=memory)
    table = cost.render(cost.compute(only_group(run.write())))
    titles = [column.title for column in table.columns]
    assert titles[-1] == last and "search trials per size" in titles
    assert table.rows[0][titles.index("device-hours")] == "< 0.01"
    assert any(note.startswith("Peak memory") for note in table.notes) == (memory is not None)


def test_published_values():
    def published_values(table, *setting):
        """Return parameters and accuracy of the point with this setting: task, method, length and rank."""
        points = published.table_points(table)
        (point,) = [p for p in points if (p.task, p.method, p.length, p.rank) == setting]
        return point.trainable_parameters, point.accuracy_percent

    assert published_values("table1", "sst2", "prompt_tuning", 10, None) == (12_800, 92.8)
    assert published_values("table1", "ag_news", "lopt1", 10, 2) == (2_580, 91.9)
    assert published_values("table1", "ag_news", "lopt2", 10, 2) == (5_120, 90.0)
    assert published_values("table2", "wic", "lopt1", 20, 5) == (3_940, 55.1)
    assert published_values("table2", "cb", "lopt2", 20, 5) == (7_680, 74.0)
    assert published_values("table2", "boolq", "prompt_tuning", 100, None) == (76_800, 63.7)
    assert published_values("table3", "sst2", "lopt1", 30, 1) == (1_310, 90.9)
    assert published_values("table3", "sst2", "lopt1", 20, 5) == (6_500, 92.9)
    assert published_values("ulpt-table1", "cb", "ulpt", None, 64) == (7_900, 96.4)
    changes = [render.change(p.trainable_parameters, 12_800) for p in published.table_points("table3")[1:]]
    assert changes == [
        "-89.92 %", "-79.84 %", "-49.61 %", "-89.84 %", "-79.69 %", "-49.22 %", "-89.77 %", "-79.53 %", "-48.83 %"
    ]  # fmt: skip
    names = ("table1", "table2", "table3", "ulpt-table1")
    assert [len(published.table_points(name)) for name in names] == [6, 30, 10, 45]
