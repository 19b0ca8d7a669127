"""`report.py --compare A B`."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.cells import groups
from analysis.compare import compare, table
from analysis.load import load
from analysis.noninferiority import difference
from analysis.predictions import common
from analysis.report import main
from tests.analysis.test_analysis_frontier import RATES, run

MORE = {("lopt1", 20, 1): 0.75}


@pytest.fixture
def both(store):
    """Two runs; the second is better at r=2, and has a cell more and one less."""
    others = {key: rate + (0.06 if key == ("lopt1", 10, 2) else 0) for key, rate in RATES.items() if key[2] != 5}
    return [
        run(store, np.random.default_rng(7), rates, name=name)
        for name, rates in (("one", RATES), ("two", others | MORE))
    ]


def test_pairs_are_compared_on_the_same_examples(both):
    first, second = (groups(load([path])) for path in both)
    (found,) = compare(first, second, ("one", "two"))
    assert [pair.first.label for pair in found.pairs] == ["LoPT-1 n=10 r=1", "LoPT-1 n=10 r=2", "Prompt tuning n=10"]
    assert [cell.label for cell in found.only[0]] == ["LoPT-1 n=10 r=5"]
    assert [cell.label for cell in found.only[1]] == ["LoPT-1 n=20 r=1"]
    pair = found.pairs[1]
    expected = difference(*common(pair.second.confirmed, pair.first.confirmed))
    assert pair.difference == expected
    assert pair.difference.low > 0
    assert found.hypervolumes[1] > found.hypervolumes[0]
    shown = table(found)
    assert any("not there" in row for row in shown.rows)
    assert "Hypervolume up to" in shown.notes[1]


def test_the_command_writes_both_pages(both, tmp_path, capsys):
    out = tmp_path / "out"
    results = ["--results", str(both[0].parent)]
    assert main(["--compare", "one", "two", "--out", str(out), *results]) == 0
    said = capsys.readouterr().out
    assert "LoPT-1 n=20 r=1" in said and "not there" in said
    assert "<table" in (out / "compare.html").read_text()
    assert "| cell |" in (out / "compare.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--compare", "one", "one"], "names one run twice"),
        (["--compare", "one", "nowhere"], "no run 'nowhere'"),
        (["one", "--compare", "one", "two"], "leave out one"),
        (["--compare", "one"], "expected 2 arguments"),
    ],
)
def test_bad_input_is_one_line(both, capsys, arguments, says):
    assert main([*arguments, "--results", str(both[0].parent)]) == 2
    assert says in capsys.readouterr().err


def test_runs_of_other_tasks_have_nothing_in_common(store, both):
    other = run(store, np.random.default_rng(1), RATES, name="three", task="sst2")
    found = compare(groups(load([both[0]])), groups(load([other])), ("one", "three"))
    assert [len(each.pairs) for each in found] == [0, 0]
    assert all(each.hypervolumes is None for each in found)
