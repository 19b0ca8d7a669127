"""Sweeps with dropout, and sweeps that select by macro-F1."""

from __future__ import annotations

import pandas

from sweeps.results.store import Store
from sweeps.run import main
from tests.sweeps.test_sweep_local import sweep


def test_a_sweep_with_dropout_that_selects_by_macro_f1(tmp_path, capsys):
    options = ["--set", "dropout=0.2", "--set", "metric=macro_f1", "--set", "eval_every=1"]
    assert sweep(tmp_path, *options) == 0
    assert "% macro-F1 on held-out examples" in capsys.readouterr().out
    table = pandas.read_parquet(tmp_path / "smoke-paper" / "trials.parquet").set_index("key")
    assert set(table.dropout) == {0.2}
    assert set(table.metric) == {"macro_f1"}
    records = {record.key: record for record in Store(tmp_path, "smoke-paper").records()}
    for key, record in records.items():
        scores = [evaluation.selection_macro_f1 for evaluation in record.evaluations]
        assert table.selection_score[key] == max(scores)
        assert record.peak_memory_bytes, "a trial that trains alone measures its memory"
    search = table[(table.phase == "search") & (table.status == "complete")]
    for cell, confirmed in table[table.phase == "confirm"].groupby("cell"):
        candidates = search[search.cell == cell]
        best = candidates.sort_values(["selection_score", "selection_loss"], ascending=[True, False]).iloc[-1]
        assert set(confirmed.learning_rate) == {best.learning_rate}
    assert sweep(tmp_path, *options) == 0
    assert "continuing run smoke-paper: 9 trials are finished" in capsys.readouterr().out


def test_set_takes_a_list_for_a_searched_dropout_and_else_one_value(tmp_path, capsys):
    assert sweep(tmp_path, "--set", "dropout=0.1,0.2") == 2
    assert "dropout takes one value in space smoke, not '0.1,0.2'" in capsys.readouterr().err
    file = tmp_path / "space.py"
    file.write_text(
        "import dataclasses\nfrom sweeps.space import Cell, Choice, Real, Spec\nfrom sweeps.spaces import smoke\n"
        "def build(profile):\n"
        "    search = {'learning_rate': Real(0.01, 0.5, log=True), 'dropout': Choice((0.0, 0.1))}\n"
        "    cell = Cell(name='c', fixed={'method': 'lopt1', 'rank': 2, 'length': 4}, search=search)\n"
        "    return dataclasses.replace(smoke.build(profile), name='mine', axes={}, grid=lambda axes: (cell,))\n"
        "SPEC = Spec('mine', build)\n"
    )
    arguments = ["--space", str(file), "--local-mode", "--set", "max_steps=4", "--set", "learning_rate=0.1"]
    assert main([*arguments, "--set", "trials=3", "--set", "dropout=0.0,0.2,0.3", "--out", str(tmp_path)]) == 0
    rates = {record.config["dropout"] for record in Store(tmp_path, "mine-paper").records() if record.phase == "search"}
    assert rates == {0.0, 0.2, 0.3}


def test_a_backbone_without_dropout_is_refused_before_the_first_trial(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lopt.dropout.with_dropout", lambda model, rate: model)
    assert sweep(tmp_path, "--set", "dropout=0.1") == 2
    error = capsys.readouterr().err
    assert "dropout is 0.1, but backbone 'tiny' has no dropout layers" in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "smoke-paper" / "trials").exists()
