"""The audit of early stopping: false kills, and how well a rung predicts the end."""

from __future__ import annotations

import json

import pytest
from scipy.stats import spearmanr

from analysis import notes
from analysis.audit import audit_early_stopping, audit_text
from analysis.cells import groups
from analysis.load import load
from analysis.plots.audit import SPEC


def evaluations(*accuracies):
    return [
        {
            "step": 10 * number, "selection_accuracy": accuracy, "selection_loss": 0.5, "train_loss": 0.5,
            "top_class_share": 0.6, "wall_time_s": 1.0,
        }
        for number, accuracy in enumerate(accuracies, start=1)
    ]  # fmt: skip


def load_run(store, curves, audited=(), strata=()):
    """Write and load a run of one cell with a trial for each curve.

    `audited` holds the indices of the trials that would have been stopped at step 10. `strata` holds the stratum of
    each trial of a free search.
    """
    run = store()
    keys = [
        run.search(
            "lopt1", 10, 1, selection_accuracy=max(curve), evaluations=evaluations(*curve),
            status="complete" if len(curve) == 3 else "stopped", config__learning_rate=0.01 * number,
            **({"cell": "search", "stratum": strata[number - 1]} if strata else {}),
        )["key"]
        for number, curve in enumerate(curves, start=1)
    ]  # fmt: skip
    path = run.write()
    if audited:
        audits = {keys[i]: {"step": 10, "selection_accuracy": curves[i][0]} for i in audited}
        (path / "audits.json").write_text(json.dumps(audits))
    return load([path])


CURVES = [(0.6, 0.7, 0.8), (0.7, 0.75, 0.85), (0.5, 0.6, 0.65), (0.4, 0.5, 0.9), (0.45,)]


def test_a_trial_that_would_have_won_is_a_false_kill(store):
    results = load_run(store, CURVES, audited=[2, 3])
    audit = audit_early_stopping(results.trials, 10)
    assert (audit.stopped_count, audit.audited_count, audit.false_kill_count) == (3, 2, 1)
    text = audit_text(audit)
    assert "2 of them ran to the end all the same, and 1 of these won its cell" in text
    assert "50 % (95 % interval 9 to 91 %)" in text
    (note,) = [note for note in notes.notes(results, groups(results)) if note.startswith("Early stopping")]
    assert "false-kill rate" in note


def test_in_a_free_search_a_trial_competes_with_those_of_its_size(store):
    small, large = "513–1,024 parameters", "4,097–8,192 parameters"
    curves = [(0.6, 0.6, 0.65), (0.5, 0.5, 0.7), (0.4, 0.6, 0.6), (0.8, 0.8, 0.9), (0.7, 0.8, 0.85), (0.6, 0.6, 0.8)]
    strata = [small, small, small, large, large, large]
    results = load_run(store, curves, audited=[1, 5], strata=strata)
    audit = audit_early_stopping(results.trials, 10)
    assert (audit.audited_count, audit.false_kill_count) == (2, 1)
    assert "1 of these won its size" in audit_text(audit)
    (group,) = groups(results)
    info = SPEC.info(group)
    assert [point.final_accuracy for point in info.points if point.is_false_kill] == [0.7]
    assert "1 of these won its size." in SPEC.caption(info)


@pytest.mark.parametrize(("trials_per_stratum", "has_correlation"), [(4, False), (5, True)])
def test_a_rank_correlation_needs_ten_trials_and_is_a_mean_over_strata(store, trials_per_stratum, has_correlation):
    early = [0.6, 0.5, 0.4, 0.7, 0.55][:trials_per_stratum]
    late = [0.65, 0.7, 0.6, 0.8, 0.9][:trials_per_stratum]
    small_curves = [(first, first, last) for first, last in zip(early, late, strict=True)]
    large_curves = [(first, first, first + 0.1) for first in early]
    strata = ["513–1,024 parameters"] * trials_per_stratum + ["4,097–8,192 parameters"] * trials_per_stratum
    results = load_run(store, [*small_curves, *large_curves], audited=[0], strata=strata)
    audit = audit_early_stopping(results.trials, 10)
    if has_correlation:
        assert audit.correlation == pytest.approx((spearmanr(early, late).statistic + 1) / 2)
        assert "(mean over 2 sizes)" in audit_text(audit)
    else:
        assert audit.correlation is None and "correlation" not in audit_text(audit)


def test_without_an_audit_the_cost_is_called_unknown(store):
    results = load_run(store, CURVES)
    text = audit_text(audit_early_stopping(results.trials, 10))
    assert "ended 1 search trial. The cost of that is unknown" in text
    assert "false-kill rate" not in text


def test_a_tie_is_not_a_false_kill_and_equal_trials_have_no_correlation(store):
    results = load_run(store, [(0.5, 0.5, 0.8)] * 3, audited=[0])
    audit = audit_early_stopping(results.trials, 10)
    assert (audit.false_kill_count, audit.correlation, audit.correlated_strata_count) == (0, None, 0)


def test_there_is_no_text_if_nothing_was_stopped(store):
    results = load_run(store, [(0.5, 0.6, 0.8)])
    assert audit_text(audit_early_stopping(results.trials, 10)) is None
