"""The audit of early stopping: false kills, and rungs against the end."""

from __future__ import annotations

import json

import pytest
from scipy.stats import spearmanr

from analysis import notes
from analysis.audit import audit, text
from analysis.cells import groups
from analysis.load import load
from analysis.plots.audit import SPEC


def evaluations(*accuracies):
    return [
        {"step": 10 * n, "selection_accuracy": a, "selection_loss": 0.5, "train_loss": 0.5, "top_class_share": 0.6,
         "wall_time_s": 1.0}
        for n, a in enumerate(accuracies, start=1)
    ]  # fmt: skip


def write(store, curves, audited=(), strata=()):
    """A run of one cell; `audited` are the places of the curves that would have been stopped at step 10, `strata` those
    of a free search."""
    s = store()
    keys = [
        s.search(
            "lopt1", 10, 1, selection_accuracy=max(curve), evaluations=evaluations(*curve),
            status="complete" if len(curve) == 3 else "stopped", config__learning_rate=0.01 * n,
            **({"cell": "search", "stratum": strata[n - 1]} if strata else {}),
        )["key"]
        for n, curve in enumerate(curves, start=1)
    ]  # fmt: skip
    path = s.write()
    if audited:
        (path / "audits.json").write_text(
            json.dumps({keys[n]: {"step": 10, "selection_accuracy": curves[n][0]} for n in audited})
        )
    return load([path])


CURVES = [(0.6, 0.7, 0.8), (0.7, 0.75, 0.85), (0.5, 0.6, 0.65), (0.4, 0.5, 0.9), (0.45,)]


def test_a_trial_that_would_have_won_is_a_false_kill(store):
    results = write(store, CURVES, audited=[2, 3])
    found = audit(results.trials, 10)
    assert (found.stopped, found.audited, found.false_kills) == (3, 2, 1)
    said = text(found)
    assert "2 of them ran to the end all the same, and 1 would have won its cell" in said
    assert "50 % (95 % interval 9 to 91 %)" in said
    (note,) = [n for n in notes.notes(results, groups(results)) if n.startswith("Early stopping")]
    assert "false-kill rate" in note


def test_in_a_free_search_a_trial_competes_with_those_of_its_size(store):
    small, large = "513–1,024 parameters", "4,097–8,192 parameters"
    curves = [(0.6, 0.6, 0.65), (0.5, 0.5, 0.7), (0.4, 0.6, 0.6), (0.8, 0.8, 0.9), (0.7, 0.8, 0.85), (0.6, 0.6, 0.8)]
    strata = [small, small, small, large, large, large]
    results = write(store, curves, audited=[1, 5], strata=strata)
    found = audit(results.trials, 10)
    assert (found.audited, found.false_kills) == (2, 1)
    assert "1 would have won its size" in text(found)
    (group,) = groups(results)
    info = SPEC.info(group)
    assert [p.late for p in info.points if p.false_kill] == [0.7]
    assert "1 then won its size." in SPEC.caption(info)


@pytest.mark.parametrize(("of_each", "told"), [(4, False), (5, True)])
def test_a_rank_correlation_is_told_of_ten_trials_in_the_mean_over_strata(store, of_each, told):
    early, late = [0.6, 0.5, 0.4, 0.7, 0.55][:of_each], [0.65, 0.7, 0.6, 0.8, 0.9][:of_each]
    small = [(first, first, last) for first, last in zip(early, late, strict=True)]
    large = [(first, first, first + 0.1) for first in early]
    curves, strata = [*small, *large], ["513–1,024 parameters"] * of_each + ["4,097–8,192 parameters"] * of_each
    found = audit(write(store, curves, audited=[0], strata=strata).trials, 10)
    if told:
        assert found.correlation == pytest.approx((spearmanr(early, late).statistic + 1) / 2)
        assert "(mean over 2 sizes)" in text(found)
    else:
        assert found.correlation is None and "correlation" not in text(found)


def test_without_an_audit_it_is_said_that_nobody_knows(store):
    results = write(store, CURVES)
    said = text(audit(results.trials, 10))
    assert "cut 1 search trial; none was run to the end" in said
    assert "false-kill rate" not in said


def test_a_tie_is_no_false_kill_and_equal_trials_have_no_correlation(store):
    results = write(store, [(0.5, 0.5, 0.8)] * 3, audited=[0])
    found = audit(results.trials, 10)
    assert (found.false_kills, found.correlation, found.strata) == (0, None, 0)


def test_nothing_stopped_nothing_said(store):
    results = write(store, [(0.5, 0.6, 0.8)])
    assert text(audit(results.trials, 10)) is None
