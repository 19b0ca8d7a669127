"""Whole reports of sweeps whose truth is known: the verdict is right, and nothing is claimed that data do not show."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest

from analysis import report
from tests.analysis.simulated import simulated_run

CLAIMS = ("parameters) is shown to be as good", "shown to be worse", "shown to be better")


def write_report(path, capsys):
    """Write the report; return its Markdown, and the verdicts of its table of non-inferiority by cell."""
    assert report.main([str(path)]) == 0
    capsys.readouterr()
    text = (path / "report" / "report.md").read_text()
    table = path / "report" / "tables" / "noninferiority.md"
    rows = re.findall(r"^\| (LoPT[^|]+?) \|.* \| ([^|]+?) \|$", table.read_text(), re.M) if table.exists() else []
    return text, dict(rows)


def claims(text):
    return [claim for claim in CLAIMS if claim in text]


def test_a_method_three_points_worse_is_never_called_as_good(store, capsys):
    for draw_seed in range(6):
        named_store = functools.partial(store, name=f"run-{draw_seed}")
        text, verdicts = write_report(simulated_run(named_store, [0.03], seeds=3, draw_seed=draw_seed), capsys)
        assert set(verdicts) == {"LoPT-1 n=10 r=1"}
        assert not verdicts["LoPT-1 n=10 r=1"].startswith("non-inferior")
        assert CLAIMS[0] not in text


def test_methods_that_are_all_equal_are_not_called_worse(store, capsys):
    inferior = 0
    for draw_seed in range(6):
        named_store = functools.partial(store, name=f"run-{draw_seed}")
        _, verdicts = write_report(simulated_run(named_store, [0.0], seeds=3, draw_seed=draw_seed), capsys)
        assert len(verdicts) == 1
        inferior += any(verdict.startswith("inferior") for verdict in verdicts.values())
    assert inferior <= 1, "5 % of six"


def test_one_seed_claims_nothing(store, capsys):
    text, verdicts = write_report(simulated_run(store, [0.05, 0.0], seeds=1), capsys)
    assert verdicts == {} and "exploratory: with 1 seed" in text
    assert "two confirm seeds" in text, "the report says what is missing"
    assert not claims(text)


def test_two_seeds_are_exploratory(store, capsys):
    text, _ = write_report(simulated_run(store, [0.0], seeds=2), capsys)
    assert "exploratory: with 2 seeds" in text


def test_failures_are_named_and_the_mean_is_over_the_survivors(store, capsys):
    run = store(cells=[("prompt_tuning", 10, None), ("lopt1", 10, 1)])
    for seed, accuracy in enumerate((0.8, 0.82, 0.84)):
        run.confirm("prompt_tuning", 10, None, accuracy, config__seed=seed)
    run.confirm("lopt1", 10, 1, 0.9, config__seed=0)
    error = {"type": "RuntimeError", "message": "a GPU fell off", "traceback": "…"}
    for seed in (1, 2):
        run.confirm("lopt1", 10, 1, 0.0, status="failed", config__seed=seed, error=error, test_accuracy=None)
    text, verdicts = write_report(run.write(), capsys)
    assert "LoPT-1 n=10 r=1 (2 seeds)" in text.replace("\\", ""), "the number of confirm trials that did not finish"
    assert "a GPU fell off" in text and "exploratory: with 1 seed" in text
    assert verdicts == {} and not claims(text)


def test_a_missing_cell_is_named_and_not_compared(store, capsys):
    run = store(cells=[("prompt_tuning", 10, None), ("lopt1", 10, 1), ("lopt1", 10, 2)])
    generator = np.random.default_rng(0)
    for method, rank in (("lopt1", 1), ("lopt1", 2)):  # the full prompt has failed
        for seed in range(3):
            run.predict(run.confirm(method, 10, rank, 0.0, config__seed=seed), generator.random(600) < 0.8)
    text, verdicts = write_report(run.write(), capsys)
    assert "only 2 of 3 cells have a confirmed trial" in text
    pending = "there is no answer yet, because the reference, full prompt tuning (n = 10, 5,760 parameters), is planned"
    assert pending in text and verdicts == {} and not claims(text)


@pytest.mark.parametrize("seeds", [3, 5])
def test_ties_go_to_the_smaller_cell_and_are_not_a_difference(store, capsys, seeds):
    run = store(cells=[("prompt_tuning", 10, None), ("lopt1", 10, 1), ("lopt1", 10, 2)], test_n=3000)
    correct = np.random.default_rng(0).random(3000) < 0.8
    for method, rank in (("prompt_tuning", None), ("lopt1", 1), ("lopt1", 2)):
        for seed in range(seeds):
            run.predict(run.confirm(method, 10, rank, 0.0, config__seed=seed, selection_accuracy=0.8), correct)
    text, verdicts = write_report(run.write(), capsys)
    answer = next(line for line in text.splitlines() if line.startswith("On "))
    assert "LoPT-1 n=10 r=1 (586 parameters) is shown to be as good as the reference, full prompt tuning" in answer
    assert not any(verdict.startswith("inferior") for verdict in verdicts.values())
    frontier = (run.path / "report" / "tables" / "frontier.md").read_text()
    assert r"r=1 \* |" in frontier and r"r=2 \* |" not in frontier
    assert "Bold" not in text, "nothing stands out"


def test_fifty_six_examples_decide_nothing_at_a_margin_of_one_point(store, capsys):
    text, verdicts = write_report(simulated_run(store, [0.0, 0.01], seeds=5, n=56), capsys)
    assert len(verdicts) == 2 and not any("inferior" in verdict.split(":")[0] for verdict in verdicts.values())
    assert "Undecided: LoPT-1 n=10 r=1, LoPT-1 n=10 r=2." in text and not claims(text)
