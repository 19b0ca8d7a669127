"""Spaces, `--set`, plans and the command's refusals: nothing here trains."""

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


def dry(capsys, *arguments):
    code = main([*arguments, "--dry-run"])
    return code, capsys.readouterr()


def test_the_papers_ablation(capsys):
    code, printed = dry(capsys, "--space", "ablation")
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
    _, printed = dry(capsys, "--space", "ablation", "--json")
    described = json.loads(printed.out)
    assert {c["name"]: c["trainable_parameters"] for c in described["cells"]} == cells
    assert described["base"]["max_steps"] == 5000
    assert described["rungs"] == [500, 1500, 4500]
    assert described["search_trials"] == 100
    assert described["confirm_trials"] == 50


def test_help_and_every_plan_import_nothing_slow():
    code = (
        "import sys\n"
        "from sweeps import run, spaces\n"
        "assert run.main(['--help']) == 0\n"
        "assert 'numpy' not in sys.modules\n"
        "for name in spaces.names():\n"
        "    for profile in spaces.PROFILES:\n"
        "        assert run.main(['--space', name, '--profile', profile, '--dry-run']) == 0\n"
        "slow = {'torch', 'ray', 'transformers', 'optuna', 'pandas', 'pyarrow', 'scipy', 'huggingface_hub'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", spaces.names())
@pytest.mark.parametrize("profile", spaces.PROFILES)
def test_every_space_plans_in_every_profile(name, profile):
    made = spaces.load(name, profile)
    planned = make_plan(made)
    assert planned.search_trials == len(made.cells) * made.trials
    rungs, every = made.decision_steps(), planned.cells[0].example.eval_every
    assert all(rung < made.max_steps for rung in rungs)
    assert all(rung % every == 0 for rung in rungs), "rungs fall on evaluations"
    assert made.identity() == spaces.load(name, profile).identity()
    assert plan_text.text(planned, "run").count("\n") >= len(made.cells)


@pytest.mark.parametrize(
    ("steps", "stopping", "about"),
    [
        ("12", "ASHA in each cell: rungs at 4 steps, the best 1/3 go on", "about 120,"),
        ("4", "none: trials end before the first rung, at 4 steps", "about 48,"),
        ("3000", "rungs at 4, 12, 36, 108, 324, 972, 2,916 steps, the best 1/3 go on", "about 18,000,"),
    ],
)
def test_the_plan_says_when_trials_are_stopped_and_how_many_steps_to_expect(steps, stopping, about):
    short = settings.with_settings(spaces.load("smoke", "paper"), {"max_steps": steps})
    said = plan_text.text(make_plan(short), "run")
    assert stopping in said
    assert f"steps      {about}" in said


def test_the_plan_of_a_free_search_names_no_methods_optimiser_as_that_of_all():
    assert "training   batch 16, each method's own optimiser" in plan_text.text(
        make_plan(spaces.load("search", "paper")), "run"
    )


def test_lists_replace_an_axis_and_fix_or_limit_what_is_searched():
    base = spaces.load("ablation", "demo")
    fewer = settings.with_settings(base, {"rank": "1,2", "length": "15"})
    assert [c.name for c in fewer.cells] == ["prompt_tuning n=10", "lopt1 n=15 r=1", "lopt1 n=15 r=2"]
    fixed = settings.with_settings(base, {"learning_rate": "0.1"})
    assert all(not c.search for c in fixed.cells)
    assert fixed.example(fixed.cells[0]).learning_rate == 0.1
    listed = settings.with_settings(base, {"learning_rate": "0.05,0.1"})
    assert listed.cells[0].search["learning_rate"] == Choice((0.05, 0.1))
    ranged = settings.with_settings(base, {"learning_rate": "0.2:0.4"})
    assert ranged.cells[0].search["learning_rate"] == Real(0.2, 0.4, log=True)
    assert ranged.cells[0].first == (), "0.1 lies outside the new range"
    assert settings.with_settings(spaces.load("search", "demo"), {"length": "5:9"}).cells[0].search[
        "lopt1.length"
    ] == Whole(5, 9, log=True)
    words = settings.with_settings(base, {"label_words": " awful, fine", "template": "{text} So"})
    assert words.example(words.cells[0]).label_words == (" awful", " fine")
    assert settings.with_settings(base, {"trials": "7"}).trials == 7


def test_settings_of_a_search_over_methods():
    base = spaces.load("search", "demo")

    def cell(**given):
        return settings.with_settings(base, given).cells[0]

    everywhere = cell(learning_rate="0.01:0.1")
    assert all(r == Real(0.01, 0.1, log=True) for n, r in everywhere.search.items() if n.endswith(".learning_rate"))
    assert everywhere.search["dept.update_learning_rate"] == base.cells[0].search["dept.update_learning_rate"]
    assert not everywhere.first, "the papers' rates lie outside"
    two = cell(method="lopt1,lora")
    assert {n.partition(".")[0] for n in two.search} == {"method", "lopt1", "lora"}
    assert [p["method"] for p in two.first] == ["lopt1", "lora"]
    made = settings.with_settings(base, {"method": "lora", "rank": "4"})
    (one,) = made.cells
    assert set(one.search) == {"learning_rate"}
    assert one.first == ({"learning_rate": 5e-4},)
    assert made.example(one).rank == 4
    only = settings.with_settings(base, {"lora.rank": "4"})
    assert only.config(only.cells[0], {"method": "lora", "lora.learning_rate": 0.1}, seed=0).rank == 4
    assert "lopt1.rank" in only.cells[0].search


def test_a_method_asked_for_is_searched_in_its_own_ranges():
    made = settings.with_settings(spaces.load("search", "paper"), {"method": "lopt1,fine_tuning"})
    (cell,) = made.cells
    assert "fine_tuning.learning_rate" in cell.search
    assert [p["method"] for p in cell.first] == ["lopt1", "fine_tuning"]
    assert "fine_tuning.learning_rate" not in spaces.load("search", "paper").cells[0].search, (
        "by default it takes no part"
    )
    (alone,) = settings.with_settings(spaces.load("search", "paper"), {"method": "fine_tuning"}).cells
    assert set(alone.search) == {"learning_rate"}


def test_an_option_of_one_method_among_several_that_have_it():
    made = settings.with_settings(spaces.load("search", "demo"), {"dept.alpha": "4"})
    (cell,) = made.cells
    found = {p["method"]: made.config(cell, p, seed=0).options.get("alpha") for p in cell.first}
    assert found["dept"] == 4
    assert found["lora"] == 16.0


def test_every_method_of_table2_reads_the_same_text():
    made = spaces.load("table2", "paper")
    limits = {methods.get(c.method).text_limit(c.options) for c in (made.example(cell) for cell in made.cells)}
    assert limits == {None, 256}
    assert {made.example(cell).max_tokens for cell in made.cells} == {256}
    asked = settings.with_settings(made, {"method": "lopt1,ulpt", "task": "rte"})
    assert [cell.name for cell in asked.cells] == ["rte lopt1 n=20 r=5", "rte ulpt n=100 r=16"]


def test_an_option_goes_to_the_methods_that_have_it():
    made = settings.with_settings(spaces.load("table2", "demo"), {"placement": "suffix"})
    found = {made.example(cell).method: made.example(cell).options for cell in made.cells}
    assert found["lopt1"]["placement"] == found["dept"]["placement"] == "suffix"
    assert "placement" not in found["lora"]


def test_table2_has_the_papers_shapes_and_as_many_trials_for_every_method():
    made = spaces.load("table2", "paper")
    planned = make_plan(made)
    counts = {
        "fine_tuning": 222_903_552, "lora": 3_538_944, "prompt_tuning": 76_800, "dept": 76_800, "lopt1": 3_940,
        "lopt2": 7_680,
    }  # fmt: skip
    assert {(c.example.task, c.example.method): c.counts.trainable for c in planned.cells} == {
        (task, method): count for task in ("sst2", "boolq", "rte", "wic", "cb") for method, count in counts.items()
    }
    assert {c.trials for c in planned.cells} == {10}
    assert {(c.example.task, c.example.holdout, c.example.batch_size) for c in planned.cells} == {
        ("sst2", "train", 16), *((task, "validation", 8) for task in ("boolq", "rte", "wic", "cb"))
    }  # fmt: skip
    others = [c.example for c in planned.cells if c.example.method != "dept"]
    assert all(example.learning_rate == methods.get(example.method).recipe.learning_rate for example in others)


def test_the_frontier_fills_each_budget_with_every_method_that_can_be_so_small():
    made = spaces.load("frontier", "paper")
    budgets = made.axes["budget"]
    for cell in make_plan(made).cells:
        budget = min(b for b in budgets if b >= cell.counts.trainable)
        assert cell.counts.trainable > 0.4 * budget, (cell.name, cell.counts.trainable)
        assert cell.counts.trainable <= 12_800 * 10, "not above the longest full prompt"
    assert {c.fixed["method"] for c in made.cells} == {"prompt_tuning", "lopt1", "lopt2", "dept", "ulpt"}
    other = settings.with_settings(made, {"backbone": "gpt2", "budget": "5000", "method": "lopt1,ulpt"})
    assert [c.name for c in other.cells] == ["lopt1 n=24 r=6", "ulpt n=100 r=34"]


def test_folders_become_absolute_and_are_named_by_their_last_part(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "data" / "tickets"
    folder.mkdir(parents=True)
    (folder / "task.toml").write_text(TASK_TOML)
    monkeypatch.chdir(tmp_path)
    made = settings.with_settings(spaces.load("ablation", "demo"), {"task": "data/tickets", "backbone": "tiny"})
    assert made.example(made.cells[0]).task == str(folder)
    code, printed = dry(capsys, "--space", "ablation", "--profile", "demo", "--set", "task=data/tickets")
    assert code == 0
    assert "tickets" in printed.out
    (folder / "task.toml").write_text("columns = [")
    code, printed = dry(capsys, "--space", "ablation", "--profile", "demo", "--set", "task=data/tickets")
    assert code == 2
    assert "task.toml cannot be read" in printed.err


def test_a_setting_changes_the_identity_and_the_number_of_seeds_does_not():
    base = spaces.load("smoke", "paper")
    assert settings.with_settings(base, {"max_steps": "20"}).identity() != base.identity()
    assert settings.with_seeds(base, 4).identity() == base.identity()


def test_strata_are_cells_in_a_table_and_sizes_in_the_free_search():
    table, free = spaces.load("ablation", "demo"), spaces.load("search", "demo")
    (cell,) = free.cells
    assert table.stratum(table.cells[1], table.example(table.cells[1])) == table.cells[1].name
    point = {"method": "lopt1", "length": 10, "rank": 2, "learning_rate": 0.1}
    assert free.stratum(cell, free.config(cell, point, seed=0)) == "1,025–2,048 parameters"  # 2 · (10 + 576) = 1,172
    smaller = free.config(cell, {**point, "rank": 16}, seed=0)
    assert smaller.rank == 10, "a rank above the length is the length"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--space", "ablaton"],
            ["unknown space 'ablaton'", "ablation, frontier, search, smoke, table1, table2", "Did you mean 'ablation'"],
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
        (["--space", "ablation", "--set", "trials=0"], ["trials is 0", "1 or more"]),
        (["--space", "ablation", "--set", "backbone=./nowhere"], ["./nowhere"]),
        (["--space", "ablation", "--set", "task=./nowhere"], ["nowhere", "not a folder with a task.toml"]),
        (["--space", "ablation", "--set", "alpha=8"], ["alpha is an option of dept, lora", "lopt1, prompt_tuning"]),
        (["--space", "ablation", "--set", "placement=sufix"], ["placement is 'sufix'", "Did you mean 'suffix'"]),
        (["--space", "search", "--set", "lora.rank=0"], ["rank is 0"]),
        (["--space", "search", "--set", "lora.rnk=2"], ["unknown key 'lora.rnk'", "Did you mean 'lora.rank'"]),
        (["--space", "frontier", "--set", "budget=10"], ["prompt_tuning has no form within a budget of 10 parameters"]),
        (["--space", "frontier", "--set", "method=lopt1,lora"], ["lora has no form within a budget", "leave it out"]),
        (["--space", "table2", "--set", "method=bitfit"], ["'bitfit' has no row in table2", "lora, prompt_tuning"]),
        (["--space", "ablation", "--name", "../up"], ["run name '../up'"]),
        (["--space", "nowhere.py"], ["space file 'nowhere.py' does not exist"]),
        (["--space", "ablation", "--seeds", "0"], ["--seeds", "'0' is no whole number"]),
        (["--space", "ablation", "--max-wall-time", "soon"], ["'soon' is no time", "30m"]),
        (["--spac", "ablation"], ["--space"]),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(capsys, arguments, words):
    code, printed = dry(capsys, *arguments)
    assert code == 2
    assert printed.out == ""
    last = printed.err.strip().splitlines()[-1]
    for word in words:
        assert word in last
    assert "Traceback" not in printed.err


def test_a_space_of_ones_own_is_a_file(tmp_path, capsys):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from sweeps.space import Cell, Real, Space, Spec\n"
        "def build(profile):\n"
        "    cell = Cell(name='one', fixed={'method': 'lopt1', 'length': 8, 'rank': 3},"
        " search={'learning_rate': Real(0.01, 1, log=True)})\n"
        "    return Space(name='mine', title='Mine', profile=profile, base={'task': 'toy', 'backbone': 'tiny'},"
        " grid=lambda axes: (cell,), trials=2, confirm_seeds=1, grace_steps=100)\n"
        "SPEC = Spec('mine', build)\n"
    )
    code, printed = dry(capsys, "--space", str(mine))
    assert code == 0
    assert "run mine-paper" in printed.out
    mine.write_text("SPEC = 1\n")
    code, printed = dry(capsys, "--space", str(mine))
    assert code == 2
    assert "gives no space" in printed.err


def test_a_misspelt_name_of_a_space_is_refused(tmp_path, capsys):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from sweeps.space import Cell, Real, Space, Spec\n"
        "def build(profile):\n"
        "    cell = Cell(name='one', fixed={'method': 'lopt1', 'rank': 3}, search={'learning_rate': Real(0.01, 1)})\n"
        "    return Space(name='mine', title='Mine', profile=profile, base={'task': 'toy', 'maxsteps': 7},"
        " grid=lambda axes: (cell,), trials=2, confirm_seeds=1, grace_steps=100)\n"
        "SPEC = Spec('mine', build)\n"
    )
    code, printed = dry(capsys, "--space", str(mine))
    assert code == 2
    assert "unknown name 'maxsteps'" in printed.err
    assert "Did you mean 'max_steps'" in printed.err


def test_a_changed_task_folder_is_another_sweep(tmp_path):
    (tmp_path / "task.toml").write_text(TASK_TOML)
    chosen = {"task": str(tmp_path), "backbone": "tiny"}
    before = settings.with_settings(spaces.load("smoke", "paper"), chosen).identity()
    assert settings.with_settings(spaces.load("smoke", "paper"), chosen).identity() == before
    (tmp_path / "task.toml").write_text(TASK_TOML.replace("This is about", "It was about"))
    assert settings.with_settings(spaces.load("smoke", "paper"), chosen).identity() != before


def test_no_script_shadows_a_module():
    """`python sweeps/run.py` puts sweeps/ first on the path: a file named like a dependency would take its place."""
    import importlib.metadata

    taken = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    for folder in ("sweeps", "analysis"):
        names = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__"}
        own = {"lopt", "sweeps", "analysis"}
        assert not names & (taken - own), f"{folder}: {names & taken}"


def test_the_plan_says_what_is_off_unless_asked_for():
    smoke = spaces.load("smoke", "paper")
    said = plan_text.text(make_plan(smoke), "r")
    assert "dropout" not in said
    assert "selection" not in said
    asked = settings.with_settings(smoke, {"dropout": "0.1", "metric": "macro_f1"})
    lines = plan_text.text(make_plan(asked), "r").splitlines()
    assert "  dropout    0.1 at training steps; such trials train alone" in lines
    assert "  selection  by macro-F1" in lines
    cells = [
        dataclasses.replace(cell, name=f"{cell.name} {task}", fixed={**cell.fixed, "task": task, "metric": metric})
        for cell in smoke.cells
        for task, metric in (("toy", "accuracy"), ("movie_snippets", "macro_f1"))
    ]
    mixed = dataclasses.replace(smoke, grid=lambda axes: tuple(cells))
    said = plan_text.text(make_plan(mixed), "r")
    assert "selection  by accuracy on Toy (made up) (toy); by macro-F1 on " in said
