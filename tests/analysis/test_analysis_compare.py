"""`report.py --compare A B`."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.cells import groups
from analysis.compare import compare_groups, comparison_table
from analysis.load import load
from analysis.noninferiority import estimate_difference
from analysis.predictions import values_by_group
from analysis.report import main
from tests.analysis.test_analysis_frontier import ACCURACIES, write_run

ADDED_CELL = {("lopt1", 20, 1): 0.75}


@pytest.fixture
def two_runs(store):
    """Two runs. The second is better at r=2, has one more cell, and lacks one."""
    second_accuracies = {
        cell: accuracy + (0.06 if cell == ("lopt1", 10, 2) else 0)
        for cell, accuracy in ACCURACIES.items()
        if cell[2] != 5
    }
    return [
        write_run(store, np.random.default_rng(7), accuracies, name=name)
        for name, accuracies in (("one", ACCURACIES), ("two", second_accuracies | ADDED_CELL))
    ]


def test_pairs_are_compared_on_the_same_examples(two_runs):
    first, second = (groups(load([path])) for path in two_runs)
    (comparison,) = compare_groups(first, second, ("one", "two"))
    labels = [pair.first.label for pair in comparison.pairs]
    assert labels == ["LoPT-1 n=10 r=1", "LoPT-1 n=10 r=2", "Prompt tuning n=10"]
    assert [cell.label for cell in comparison.unpaired_cells[0]] == ["LoPT-1 n=10 r=5"]
    assert [cell.label for cell in comparison.unpaired_cells[1]] == ["LoPT-1 n=20 r=1"]
    pair = comparison.pairs[1]
    trials_of_both = pair.second.confirmed_trials, pair.first.confirmed_trials
    expected = estimate_difference(*values_by_group(*trials_of_both, metric="accuracy"))
    assert pair.difference == expected
    assert pair.difference.low > 0
    assert comparison.hypervolumes[1] > comparison.hypervolumes[0]
    difference = comparison.hypervolume_difference
    assert difference.value == pytest.approx(comparison.hypervolumes[1] - comparison.hypervolumes[0])
    assert difference.low < difference.value < difference.high
    table = comparison_table(comparison)
    assert any("not confirmed" in row for row in table.rows)
    assert "Hypervolume up to" in table.notes[1]


def test_the_command_writes_both_pages(two_runs, tmp_path, capsys):
    out = tmp_path / "out"
    results = ["--results", str(two_runs[0].parent)]
    assert main(["--compare", "one", "two", "--out", str(out), *results]) == 0
    printed = capsys.readouterr().out
    assert "LoPT-1 n=20 r=1" in printed and "not confirmed" in printed
    assert "<table" in (out / "compare.html").read_text()
    assert "| cell |" in (out / "compare.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compare", "one", "one"], "names one run twice"),
        (["--compare", "one", "nowhere"], "no run 'nowhere'"),
        (["one", "--compare", "one", "two"], "leave out one"),
        (["--compare", "one"], "expected 2 arguments"),
    ],
)
def test_bad_input_is_refused(two_runs, capsys, arguments, message):
    assert main([*arguments, "--results", str(two_runs[0].parent)]) == 2
    assert message in capsys.readouterr().err


def test_runs_of_different_tasks_have_no_pairs(store, two_runs):
    third = write_run(store, np.random.default_rng(1), ACCURACIES, name="three", task="sst2")
    comparisons = compare_groups(groups(load([two_runs[0]])), groups(load([third])), ("one", "three"))
    assert [len(comparison.pairs) for comparison in comparisons] == [0, 0]
    assert all(comparison.hypervolumes is None for comparison in comparisons)
