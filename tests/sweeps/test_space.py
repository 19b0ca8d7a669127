"""Spaces, `--set`, plans, and what the command refuses. Nothing here trains."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lopt import methods
from sweeps import spaces
from sweeps.planning import plan_text, settings
from sweeps.planning.plan import make_plan
from sweeps.run import main
from sweeps.space import Choice, Real, Whole

ROOT = Path(__file__).resolve().parents[2]
TASK_TOML = (
    'columns = ["body"]\nclasses = ["bug", "other"]\ntemplate = "{body} This is about"\n'
    'label_words = [" errors", " other"]\ntrain = "train.csv"\nreport = "test.csv"\n'
)


def dry_run(capsys, *arguments):
    """Return the exit code and output of a dry run."""
    code = main([*arguments, "--dry-run"])
    return code, capsys.readouterr()


def test_the_ablation_is_that_of_the_paper(capsys):
    code, printed = dry_run(capsys, "--space", "ablation")
    assert code == 0
    for word in ("gpt2-large", "SST-2", "batch 16", "Adafactor", "0.3 first", "5,000 steps", "run ablation-paper"):
        assert word in printed.out
    cells = {
        "prompt_tuning n=10": 12_800,
        "lopt1 n=10 r=1": 1_290, "lopt1 n=10 r=2": 2_580, "lopt1 n=10 r=5": 6_450,
        "lopt1 n=20 r=1": 1_300, "lopt1 n=20 r=2": 2_600, "lopt1 n=20 r=5": 6_500,
        "lopt1 n=30 r=1": 1_310, "lopt1 n=30 r=2": 2_620, "lopt1 n=30 r=5": 6_550,
    }  # fmt: skip
    for name, count in cells.items():
        (line,) = [line for line in printed.out.splitlines() if line.strip().startswith(name + " ")]
        assert f"{count:,}" in line
    _, printed = dry_run(capsys, "--space", "ablation", "--json")
    plan = json.loads(printed.out)
    assert {cell["name"]: cell["trainable_parameters"] for cell in plan["cells"]} == cells
    assert plan["base"]["max_steps"] == 5000
    assert plan["rungs"] == [500, 1500, 4500]
    assert plan["search_trials"] == 100
    assert plan["confirm_trials"] == 50


def test_help_and_every_plan_import_nothing_slow():
    code = (
        "import sys\n"
        "from sweeps import run, spaces\n"
        "assert run.main(['--help']) == 0\n"
        "assert 'numpy' not in sys.modules\n"
        "for name in spaces.names():\n"
        "    for profile in spaces.PROFILES:\n"
        "        assert run.main(['--space', name, '--profile', profile, '--dry-run']) == 0\n"
        "slow = {'torch', 'ray', 'transformers', 'optuna', 'pandas', 'pyarrow', 'scipy.stats', 'huggingface_hub'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)\n"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("name", spaces.names())
@pytest.mark.parametrize("profile", spaces.PROFILES)
def test_every_space_plans_in_every_profile(name, profile):
    space = spaces.load(name, profile)
    plan = make_plan(space)
    assert plan.search_trial_count == len(space.cells) * space.trials
    rungs, eval_every = space.decision_steps(), plan.cells[0].sample_config.eval_every
    assert all(rung < space.max_steps for rung in rungs)
    assert all(rung % eval_every == 0 for rung in rungs), "rungs fall on evaluations"
    assert space.identity() == spaces.load(name, profile).identity()
    assert plan_text.format_plan(plan, "run").count("\n") >= len(space.cells)


@pytest.mark.parametrize(
    ("max_steps", "stopping", "expected_steps"),
    [
        ("12", "ASHA in each cell: rungs at 4 steps, the best 1/3 go on", "about 120,"),
        ("4", "none, because trials end before the first rung, which is at 4 steps", "about 48,"),
        ("3000", "rungs at 4, 12, 36, 108, 324, 972, 2,916 steps, the best 1/3 go on", "about 18,000,"),
    ],
)
def test_the_plan_says_when_trials_are_stopped_and_how_many_steps_to_expect(max_steps, stopping, expected_steps):
    space = settings.with_settings(spaces.load("smoke", "paper"), {"max_steps": max_steps})
    text = plan_text.format_plan(make_plan(space), "run")
    assert stopping in text
    assert f"steps      {expected_steps}" in text


def test_the_plan_of_a_free_search_does_not_name_one_optimiser_for_all_methods():
    text = plan_text.format_plan(make_plan(spaces.load("search", "paper")), "run")
    assert "training   batch 16, each method's own optimiser" in text


def test_lists_replace_an_axis_and_fix_or_limit_a_searched_field():
    space = spaces.load("ablation", "demo")
    small_space = settings.with_settings(space, {"rank": "1,2", "length": "15"})
    assert [cell.name for cell in small_space.cells] == ["prompt_tuning n=10", "lopt1 n=15 r=1", "lopt1 n=15 r=2"]
    with_rate = settings.with_settings(space, {"learning_rate": "0.1"})
    assert all(not cell.search for cell in with_rate.cells)
    assert with_rate.sample_config(with_rate.cells[0]).learning_rate == 0.1
    with_list = settings.with_settings(space, {"learning_rate": "0.05,0.1"})
    assert with_list.cells[0].search["learning_rate"] == Choice((0.05, 0.1))
    with_range = settings.with_settings(space, {"learning_rate": "0.2:0.4"})
    assert with_range.cells[0].search["learning_rate"] == Real(0.2, 0.4, log=True)
    assert with_range.cells[0].first == (), "0.1 lies outside the new range"
    with_length = settings.with_settings(spaces.load("search", "demo"), {"length": "5:9"})
    assert with_length.cells[0].search["lopt1.length"] == Whole(5, 9, log=True)
    with_words = settings.with_settings(space, {"label_words": " awful, fine", "template": "{text} So"})
    assert with_words.sample_config(with_words.cells[0]).label_words == (" awful", " fine")
    assert settings.with_settings(space, {"trials": "7"}).trials == 7


def test_settings_of_a_search_over_methods():
    space = spaces.load("search", "demo")

    def cell_with(**values):
        return settings.with_settings(space, values).cells[0]

    all_methods = cell_with(learning_rate="0.01:0.1")
    rates = {
        name: searched_range for name, searched_range in all_methods.search.items() if name.endswith(".learning_rate")
    }
    assert set(rates.values()) == {Real(0.01, 0.1, log=True)}
    assert all_methods.search["dept.update_learning_rate"] == space.cells[0].search["dept.update_learning_rate"]
    assert not all_methods.first, "the rates of the papers lie outside"
    two_methods = cell_with(method="lopt1,lora")
    assert {name.partition(".")[0] for name in two_methods.search} == {"method", "lopt1", "lora"}
    assert [point["method"] for point in two_methods.first] == ["lopt1", "lora"]
    lora_only = settings.with_settings(space, {"method": "lora", "rank": "4"})
    (cell,) = lora_only.cells
    assert set(cell.search) == {"learning_rate"}
    assert cell.first == ({"learning_rate": 5e-4},)
    assert lora_only.sample_config(cell).rank == 4
    fixed_rank = settings.with_settings(space, {"lora.rank": "4"})
    (cell,) = fixed_rank.cells
    assert fixed_rank.config(cell, {"method": "lora", "lora.learning_rate": 0.1}, seed=0).rank == 4
    assert "lopt1.rank" in cell.search


def test_a_method_that_is_set_is_searched_in_its_own_ranges():
    space = spaces.load("search", "paper")
    (cell,) = settings.with_settings(space, {"method": "lopt1,fine_tuning"}).cells
    assert "fine_tuning.learning_rate" in cell.search
    assert [point["method"] for point in cell.first] == ["lopt1", "fine_tuning"]
    assert "fine_tuning.learning_rate" not in space.cells[0].search, "by default it takes no part"
    (cell,) = settings.with_settings(space, {"method": "fine_tuning"}).cells
    assert set(cell.search) == {"learning_rate"}


def test_an_option_is_set_for_one_of_several_methods_that_have_it():
    space = settings.with_settings(spaces.load("search", "demo"), {"dept.alpha": "4"})
    (cell,) = space.cells
    alphas = {point["method"]: space.config(cell, point, seed=0).options.get("alpha") for point in cell.first}
    assert alphas["dept"] == 4
    assert alphas["lora"] == 16.0


def test_every_method_of_table2_reads_the_same_text():
    space = spaces.load("table2", "paper")
    configs = [space.sample_config(cell) for cell in space.cells]
    assert {methods.get(config.method).text_limit(config.options) for config in configs} == {None, 256}
    assert {config.max_tokens for config in configs} == {256}
    two_methods = settings.with_settings(space, {"method": "lopt1,ulpt", "task": "rte"})
    assert [cell.name for cell in two_methods.cells] == ["rte lopt1 n=20 r=5", "rte ulpt n=100 r=16"]


def test_an_option_goes_to_the_methods_that_have_it():
    space = settings.with_settings(spaces.load("table2", "demo"), {"placement": "suffix"})
    options = {space.sample_config(cell).method: space.sample_config(cell).options for cell in space.cells}
    assert options["lopt1"]["placement"] == options["dept"]["placement"] == "suffix"
    assert "placement" not in options["lora"]


def test_table2_has_the_papers_shapes_and_as_many_trials_for_every_method():
    plan = make_plan(spaces.load("table2", "paper"))
    counts = {
        "fine_tuning": 222_903_552, "lora": 3_538_944, "prompt_tuning": 76_800, "dept": 76_800, "lopt1": 3_940,
        "lopt2": 7_680,
    }  # fmt: skip
    assert {
        (cell.sample_config.task, cell.sample_config.method): cell.parameter_counts.trainable for cell in plan.cells
    } == {(task, method): count for task in ("sst2", "boolq", "rte", "wic", "cb") for method, count in counts.items()}
    assert {cell.trial_count for cell in plan.cells} == {10}
    configs = [cell.sample_config for cell in plan.cells]
    assert {(config.task, config.holdout, config.batch_size) for config in configs} == {
        ("sst2", "train", 16), *((task, "validation", 8) for task in ("boolq", "rte", "wic", "cb"))
    }  # fmt: skip
    without_dept = [cell.sample_config for cell in plan.cells if cell.sample_config.method != "dept"]
    assert all(config.learning_rate == methods.get(config.method).recipe.learning_rate for config in without_dept)


def test_the_frontier_fills_each_budget_with_every_method_that_can_be_so_small():
    space = spaces.load("frontier", "paper")
    budgets = space.axes["budget"]
    for cell in make_plan(space).cells:
        budget = min(budget for budget in budgets if budget >= cell.parameter_counts.trainable)
        assert cell.parameter_counts.trainable > 0.4 * budget, (cell.name, cell.parameter_counts.trainable)
        assert cell.parameter_counts.trainable <= 12_800 * 10, "not above the longest full prompt"
    assert {cell.fixed["method"] for cell in space.cells} == {"prompt_tuning", "lopt1", "lopt2", "dept", "ulpt"}
    gpt2_space = settings.with_settings(space, {"backbone": "gpt2", "budget": "5000", "method": "lopt1,ulpt"})
    assert [cell.name for cell in gpt2_space.cells] == ["lopt1 n=24 r=6", "ulpt n=100 r=34"]


def test_task_folders_become_absolute_and_are_named_by_their_last_part(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "data" / "tickets"
    folder.mkdir(parents=True)
    (folder / "task.toml").write_text(TASK_TOML)
    monkeypatch.chdir(tmp_path)
    space = settings.with_settings(spaces.load("ablation", "demo"), {"task": "data/tickets", "backbone": "tiny"})
    assert space.sample_config(space.cells[0]).task == str(folder)
    code, printed = dry_run(capsys, "--space", "ablation", "--profile", "demo", "--set", "task=data/tickets")
    assert code == 0
    assert "tickets" in printed.out
    (folder / "task.toml").write_text("columns = [")
    code, printed = dry_run(capsys, "--space", "ablation", "--profile", "demo", "--set", "task=data/tickets")
    assert code == 2
    assert "task.toml cannot be read" in printed.err


def test_a_setting_changes_the_identity_and_the_number_of_seeds_does_not():
    space = spaces.load("smoke", "paper")
    assert settings.with_settings(space, {"max_steps": "20"}).identity() != space.identity()
    assert settings.with_settings(space, {"confirm_seeds": "4"}).identity() == space.identity()


def test_strata_are_cells_in_a_table_and_sizes_in_the_free_search():
    table_space, free_space = spaces.load("ablation", "demo"), spaces.load("search", "demo")
    (cell,) = free_space.cells
    table_cell = table_space.cells[1]
    assert table_space.stratum(table_cell, table_space.sample_config(table_cell)) == table_cell.name
    point = {"method": "lopt1", "length": 10, "rank": 2, "learning_rate": 0.1}
    config = free_space.config(cell, point, seed=0)
    assert free_space.stratum(cell, config) == "1,025–2,048 parameters", "2 · (10 + 576) = 1,172"
    config = free_space.config(cell, {**point, "rank": 16}, seed=0)
    assert config.rank == 10, "a rank above the length is lowered to the length"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--space", "ablaton"],
            [
                "unknown space 'ablaton'",
                "ablation, frontier, quickstart, search, smoke, table1, table2",
                "Did you mean 'ablation'",
            ],
        ),
        (["--space", "ablation", "--profile", "dem"], ["unknown profile 'dem'", "paper, demo"]),
        (["--space", "ablation", "--set", "max_step=3"], ["unknown key 'max_step'", "Did you mean 'max_steps'"]),
        (["--space", "ablation", "--set", "task=sst3"], ["unknown task 'sst3'", "Did you mean 'sst2'"]),
        (["--space", "search", "--set", "method=lopt9"], ["unknown method 'lopt9'", "lopt1, lopt2"]),
        (["--space", "ablation", "--set", "rank=0"], ["rank is 0"]),
        (["--space", "ablation", "--set", "rank=11"], ["rank is 11 at length 10", "1 to 10"]),
        (["--space", "ablation", "--set", "learning_rate=-0.1"], ["learning_rate is -0.1", "above 0"]),
        (["--space", "ablation", "--set", "learning_rate=0.5:0.1"], ["range 0.5 to 0.1"]),
        (["--space", "ablation", "--set", "learning_rate=0.1,-0.3"], ["learning_rate is -0.3"]),
        (["--space", "ablation", "--set", "learning_rate=0.1,abc"], ["learning_rate is 'abc'"]),
        (["--space", "ablation", "--set", "learning_rate=0.1:inf"], ["range 0.1 to inf"]),
        (["--space", "search", "--set", "rank=1:2.5"], ["range 1 to 2.5", "whole numbers"]),
        (["--space", "ablation", "--set", "batch_size=8,16"], ["batch_size takes one value", "rank"]),
        (["--space", "ablation", "--set", "method=lopt2"], ["method is fixed by the cells"]),
        (["--space", "ablation", "--set", "max_steps"], ["give key=value"]),
        (["--space", "ablation", "--set", "rank=1", "--set", "rank=2"], ["rank is given twice"]),
        (["--space", "ablation", "--set", "trials=0"], ["trials is 0", "searches learning_rate"]),
        (["--space", "ablation", "--set", "backbone=./nowhere"], ["./nowhere"]),
        (["--space", "ablation", "--set", "task=./nowhere"], ["nowhere", "not a folder with a task.toml"]),
        (["--space", "ablation", "--set", "alpha=8"], ["alpha is an option of dept, lora", "lopt1, prompt_tuning"]),
        (["--space", "ablation", "--set", "placement=sufix"], ["placement is 'sufix'", "Did you mean 'suffix'"]),
        (["--space", "search", "--set", "lora.rank=0"], ["rank is 0"]),
        (["--space", "search", "--set", "lora.rnk=2"], ["unknown key 'lora.rnk'", "Did you mean 'lora.rank'"]),
        (
            ["--space", "frontier", "--set", "budget=10"],
            ["prompt_tuning has no usual length and rank that fit into 10 parameters"],
        ),
        (
            ["--space", "frontier", "--set", "method=lopt1,lora"],
            ["lora has no usual length and rank that fit into", "leave the method out"],
        ),
        (["--space", "table2", "--set", "method=bitfit"], ["'bitfit' has no row in table2", "lora, prompt_tuning"]),
        (["--space", "ablation", "--name", "../up"], ["run name '../up'"]),
        (["--space", "nowhere.py"], ["space file 'nowhere.py' does not exist"]),
        (["--space", "ablation", "--seeds", "0"], ["--seeds", "'0' is not a whole number"]),
        (["--space", "ablation", "--max-wall-time", "soon"], ["'soon' is not a duration", "30m"]),
        (["--spac", "ablation"], ["--space"]),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(capsys, arguments, words):
    code, printed = dry_run(capsys, *arguments)
    assert code == 2
    assert printed.out == ""
    last = printed.err.strip().splitlines()[-1]
    for word in words:
        assert word in last
    assert "Traceback" not in printed.err


def test_a_file_defines_a_space(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "from sweeps.space import Cell, Real, Space, Spec\n"
        "def build(profile):\n"
        "    cell = Cell(name='one', fixed={'method': 'lopt1', 'length': 8, 'rank': 3},"
        " search={'learning_rate': Real(0.01, 1, log=True)})\n"
        "    return Space(name='mine', title='Mine', profile=profile, base={'task': 'toy', 'backbone': 'tiny'},"
        " grid=lambda axes: (cell,), trials=2, confirm_seeds=1, grace_steps=100)\n"
        "SPEC = Spec('mine', build)\n"
    )
    code, printed = dry_run(capsys, "--space", str(file))
    assert code == 0
    assert "run mine-paper" in printed.out
    file.write_text("SPEC = 1\n")
    code, printed = dry_run(capsys, "--space", str(file))
    assert code == 2
    assert "does not define a space" in printed.err


def test_a_misspelt_field_in_a_space_file_is_refused(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "from sweeps.space import Cell, Real, Space, Spec\n"
        "def build(profile):\n"
        "    cell = Cell(name='one', fixed={'method': 'lopt1', 'rank': 3}, search={'learning_rate': Real(0.01, 1)})\n"
        "    return Space(name='mine', title='Mine', profile=profile, base={'task': 'toy', 'maxsteps': 7},"
        " grid=lambda axes: (cell,), trials=2, confirm_seeds=1, grace_steps=100)\n"
        "SPEC = Spec('mine', build)\n"
    )
    code, printed = dry_run(capsys, "--space", str(file))
    assert code == 2
    assert "unknown name 'maxsteps'" in printed.err
    assert "Did you mean 'max_steps'" in printed.err


def test_a_changed_task_folder_changes_the_identity(tmp_path):
    def identity():
        return settings.with_settings(
            spaces.load("smoke", "paper"), {"task": str(tmp_path), "backbone": "tiny"}
        ).identity()

    (tmp_path / "task.toml").write_text(TASK_TOML)
    before = identity()
    assert identity() == before
    (tmp_path / "task.toml").write_text(TASK_TOML.replace("This is about", "It was about"))
    assert identity() != before


def test_no_script_shadows_a_module():
    """`python sweeps/run.py` puts sweeps/ first on the path: a file named like a dependency would take its place."""
    import importlib.metadata

    installed = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    dependencies = installed - {"lopt", "sweeps", "analysis"}
    for folder in ("sweeps", "analysis"):
        names = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__"}
        assert not names & dependencies, f"{folder}: {names & dependencies}"


def test_the_plan_names_dropout_and_metric_only_if_they_are_set():
    smoke = spaces.load("smoke", "paper")
    text = plan_text.format_plan(make_plan(smoke), "r")
    assert "dropout" not in text
    assert "selection" not in text
    changed = settings.with_settings(smoke, {"dropout": "0.1", "metric": "macro_f1"})
    lines = plan_text.format_plan(make_plan(changed), "r").splitlines()
    assert "  dropout    0.1 in training; trials with dropout train alone" in lines
    assert "  selection  by macro-F1" in lines
    cells = [
        dataclasses.replace(cell, name=f"{cell.name} {task}", fixed={**cell.fixed, "task": task, "metric": metric})
        for cell in smoke.cells
        for task, metric in (("toy", "accuracy"), ("movie_snippets", "macro_f1"))
    ]
    mixed = dataclasses.replace(smoke, grid=lambda axes: tuple(cells))
    text = plan_text.format_plan(make_plan(mixed), "r")
    assert "selection  by accuracy on Toy (made up) (toy); by macro-F1 on " in text
