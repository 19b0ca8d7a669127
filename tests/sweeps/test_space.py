"""Spaces, `--set`, plans and the command's refusals: nothing here trains."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps import plan, space
from sweeps.run import main
from sweeps.space import Choice, Real, Whole

ROOT = Path(__file__).resolve().parents[2]


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


def test_a_plan_needs_neither_torch_nor_ray_nor_a_network():
    code = (
        "import sys\n"
        "from sweeps.run import main\n"
        "assert main(['--space', 'search', '--dry-run']) == 0\n"
        "bad = {'torch', 'ray', 'transformers', 'optuna'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60, capture_output=True)


@pytest.mark.parametrize("name", space.names())
@pytest.mark.parametrize("profile", space.PROFILES)
def test_every_space_plans_in_every_profile(name, profile):
    made = space.load(name, profile)
    planned = plan.make_plan(made)
    assert planned.search_trials == len(made.cells) * made.trials
    assert all(rung < made.max_steps for rung in made.rungs)
    assert all(rung % planned.cells[0].example.eval_every == 0 for rung in made.rungs), "rungs fall on evaluations"
    assert made.identity() == space.load(name, profile).identity()
    assert plan.text(planned, "run").count("\n") >= len(made.cells)


def test_lists_replace_an_axis_and_fix_or_limit_what_is_searched():
    base = space.load("ablation", "demo")
    fewer = space.with_settings(base, {"rank": "1,2", "length": "15"})
    assert [c.name for c in fewer.cells] == ["prompt_tuning n=10", "lopt1 n=15 r=1", "lopt1 n=15 r=2"]
    fixed = space.with_settings(base, {"learning_rate": "0.1"})
    assert all(not c.search for c in fixed.cells)
    assert fixed.example(fixed.cells[0]).learning_rate == 0.1
    listed = space.with_settings(base, {"learning_rate": "0.05,0.1"})
    assert listed.cells[0].search["learning_rate"] == Choice((0.05, 0.1))
    ranged = space.with_settings(base, {"learning_rate": "0.2:0.4"})
    assert ranged.cells[0].search["learning_rate"] == Real(0.2, 0.4, log=True)
    assert ranged.cells[0].first == (), "0.1 lies outside the new range"
    assert space.with_settings(space.load("search", "demo"), {"length": "5:9"}).cells[0].search["length"] == Whole(
        5, 9, log=True
    )
    words = space.with_settings(base, {"label_words": " awful, fine", "template": "{text} So"})
    assert words.example(words.cells[0]).label_words == (" awful", " fine")
    assert space.with_settings(base, {"trials": "7"}).trials == 7


def test_a_setting_changes_the_identity_and_the_number_of_seeds_does_not():
    base = space.load("smoke", "paper")
    assert space.with_settings(base, {"max_steps": "20"}).identity() != base.identity()
    assert space.with_seeds(base, 4).identity() == base.identity()


def test_strata_are_cells_in_a_table_and_sizes_in_the_free_search():
    table, free = space.load("ablation", "demo"), space.load("search", "demo")
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
            ["unknown space 'ablaton'", "ablation, search, smoke, table1", "Did you mean 'ablation'"],
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


def test_no_script_shadows_a_module():
    """`python sweeps/run.py` puts sweeps/ first on the path: a file named like a dependency would take its place."""
    import importlib.metadata

    taken = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    for folder in ("sweeps", "analysis"):
        names = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__"}
        own = {"lopt", "sweeps", "analysis"}
        assert not names & (taken - own), f"{folder}: {names & taken}"
