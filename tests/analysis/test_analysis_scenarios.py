"""Whole reports of sweeps whose truth is known: the right verdict, and never a claim that the data do not hold."""

from __future__ import annotations

import re

import numpy as np
import pytest

from analysis import report
from tests.analysis.simulated import simulated_run

CLAIMS = ("more than noise", "**Non-inferior", "? Non-inferior.", "? Inferior.")


def told(path, capsys):
    """The report's Markdown, and the verdicts of its table of non-inferiority, by cell."""
    assert report.main([str(path)]) == 0
    capsys.readouterr()
    text = (path / "report" / "report.md").read_text()
    table = path / "report" / "tables" / "noninferiority.md"
    rows = re.findall(r"^\| (LoPT[^|]+?) \|.* \| ([^|]+?) \|$", table.read_text(), re.M) if table.exists() else []
    return text, dict(rows)


def claims(text):
    return [claim for claim in CLAIMS if claim in text]


def test_a_method_truly_three_points_worse_is_never_called_as_good(store, capsys):
    for draw in range(6):
        made = lambda **options: store(name=f"run-{draw}", **options)  # noqa: B023, E731
        text, verdicts = told(simulated_run(made, [0.03], seeds=3, draw_seed=draw), capsys)
        assert set(verdicts) == {"LoPT-1 n=10 r=1"}
        assert not verdicts["LoPT-1 n=10 r=1"].startswith("non-inferior")
        assert "Non-inferior." not in text


def test_methods_that_are_all_equal_are_not_called_worse(store, capsys):
    inferior = 0
    for draw in range(6):
        made = lambda **options: store(name=f"run-{draw}", **options)  # noqa: B023, E731
        _, verdicts = told(simulated_run(made, [0.0], seeds=3, draw_seed=draw), capsys)
        assert len(verdicts) == 1
        inferior += any(verdict.startswith("inferior") for verdict in verdicts.values())
    assert inferior <= 1, "5 % of six"


def test_one_seed_claims_nothing(store, capsys):
    text, verdicts = told(simulated_run(store, [0.05, 0.0], seeds=1), capsys)
    assert verdicts == {} and "Exploratory: 1 seed" in text
    assert "two confirm seeds" in text, "what is missing is said"
    assert not claims(text)


def test_two_seeds_are_exploratory(store, capsys):
    text, _ = told(simulated_run(store, [0.0], seeds=2), capsys)
    assert "Exploratory: 2 seeds" in text


def test_failures_are_named_and_the_mean_is_over_the_survivors(store, capsys):
    s = store(cells=[("prompt_tuning", 10, None), ("lopt1", 10, 1)])
    for seed, accuracy in enumerate((0.8, 0.82, 0.84)):
        s.confirm("prompt_tuning", 10, None, accuracy, config__seed=seed)
    s.confirm("lopt1", 10, 1, 0.9, config__seed=0)
    error = {"type": "RuntimeError", "message": "a GPU fell off", "traceback": "…"}
    for seed in (1, 2):
        s.confirm("lopt1", 10, 1, 0.0, status="failed", config__seed=seed, error=error, test_accuracy=None)
    text, verdicts = told(s.write(), capsys)
    assert "LoPT-1 n=10 r=1: 2" in text.replace("\\", ""), "confirm trials that did not finish"
    assert "a GPU fell off" in text and "Exploratory: 1 seed" in text
    assert verdicts == {} and not claims(text)


def test_a_missing_cell_is_said_and_not_compared(store, capsys):
    s = store(cells=[("prompt_tuning", 10, None), ("lopt1", 10, 1), ("lopt1", 10, 2)])
    draw = np.random.default_rng(0)
    for method, rank in (("lopt1", 1), ("lopt1", 2)):  # the full prompt has failed
        for seed in range(3):
            s.predict(s.confirm(method, 10, rank, 0.0, config__seed=seed), draw.random(600) < 0.8)
    text, verdicts = told(s.write(), capsys)
    assert "only 2 of 3 cells have a confirmed trial" in text
    assert "no full prompt is confirmed" in text and verdicts == {} and not claims(text)


@pytest.mark.parametrize("seeds", [3, 5])
def test_ties_go_to_the_smaller_and_are_no_difference(store, capsys, seeds):
    s = store(cells=[("prompt_tuning", 10, None), ("lopt1", 10, 1), ("lopt1", 10, 2)])
    same = np.random.default_rng(0).random(600) < 0.8
    for method, rank in (("prompt_tuning", None), ("lopt1", 1), ("lopt1", 2)):
        for seed in range(seeds):
            s.predict(s.confirm(method, 10, rank, 0.0, config__seed=seed, selection_accuracy=0.8), same)
    text, verdicts = told(s.write(), capsys)
    answer = next(line for line in text.splitlines() if line.startswith("**On "))
    assert "LoPT-1 n=10 r=1 " in answer and "level with full prompt tuning" in answer
    assert not any(verdict.startswith("inferior") for verdict in verdicts.values())
    frontier = (s.path / "report" / "tables" / "frontier.md").read_text()
    assert r"r=1 \* |" in frontier and r"r=2 \* |" not in frontier
    assert "Bold" not in text, "nothing stands out"


def test_fifty_six_examples_decide_nothing_at_a_margin_of_one_point(store, capsys):
    text, verdicts = told(simulated_run(store, [0.0, 0.01], seeds=5, n=56), capsys)
    assert verdicts and all(verdict.startswith("inconclusive") for verdict in verdicts.values())
    assert "Inconclusive" in text and not claims(text)
