"""Sweeps that search nothing: every cell has one configuration, which is confirmed directly (trials = 0)."""

from __future__ import annotations

import json

import pytest

from analysis.report import main as report
from sweeps import spaces
from sweeps.forecast.cost import Cost
from sweeps.forecast.simulate import SimulatedSweep
from sweeps.planning.plan import make_plan
from sweeps.planning.settings import with_settings
from sweeps.results.store import Store
from sweeps.run import main
from sweeps.search.winners import winners_confirm_trials

NOTHING_SEARCHED = {"learning_rate": "0.1", "trials": "0", "max_steps": "2"}
COMMAND = ["--space", "smoke", "--local-mode", "--seeds", "2"]
COMMAND += [word for key, value in NOTHING_SEARCHED.items() for word in ("--set", f"{key}={value}")]


def test_every_cell_is_confirmed_without_a_search_trial(tmp_path, capsys):
    assert main([*COMMAND, "--out", str(tmp_path)]) == 0
    assert "6 confirm trials (each winner with 2 fresh seeds); nothing is searched" in capsys.readouterr().out
    records = Store(tmp_path, "smoke-paper").readable_records()
    assert [record.phase for record in records] == ["confirm"] * 6
    assert len(winners_confirm_trials(records)) == 6
    manifest = json.loads((tmp_path / "smoke-paper" / "manifest.json").read_text())
    assert manifest["space"]["search_trials"] == 0 and manifest["status"] == "complete"

    assert main([*COMMAND, "--out", str(tmp_path)]) == 0
    assert "6 trials are finished" in capsys.readouterr().out
    assert report([str(tmp_path / "smoke-paper")]) == 0


def test_a_budget_and_a_later_command_finish_it(tmp_path):
    assert main([*COMMAND, "--out", str(tmp_path), "--max-trials", "2"]) == 4
    assert main([*COMMAND, "--out", str(tmp_path)]) == 0
    assert len(Store(tmp_path, "smoke-paper").readable_records()) == 6


def test_another_run_is_reused(tmp_path, capsys):
    assert main([*COMMAND, "--out", str(tmp_path)]) == 0
    assert main([*COMMAND, "--out", str(tmp_path), "--name", "again", "--reuse", "smoke-paper"]) == 0
    assert "reused 6 of 6 trials" in capsys.readouterr().out
    assert len(Store(tmp_path, "again").readable_records()) == 6


def test_a_cell_that_searches_needs_a_trial(tmp_path, capsys):
    assert main(["--space", "smoke", "--set", "trials=0", "--out", str(tmp_path), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "searches learning_rate" in error and len(error.strip().splitlines()) == 1


def test_the_forecast_confirms_every_cell():
    space = with_settings(spaces.load("smoke", "paper"), NOTHING_SEARCHED)
    cost = Cost(stratum="s", shares_device=True, device_share=0.1, fixed_s=0.0, step_s=1.0, evaluation_s=0.0,
                begin_s=0.0, score_s=0.0, eval_every=2)  # fmt: skip
    sweep = SimulatedSweep(
        space,
        [[cost]] * len(space.cells),
        device_count=1,
        max_concurrent=8,
        score_at_rung=lambda number, rung: 0.0,
    ).run()
    assert sweep.trial_count == make_plan(space).confirm_trial_count


@pytest.mark.parametrize("profile", ["demo", "paper"])
def test_quickstart_compares_three_ranks_with_the_full_prompt(profile):
    plan = make_plan(spaces.load("quickstart", profile))
    assert plan.cells[0].parameter_counts.trainable == max(cell.parameter_counts.trainable for cell in plan.cells)
    assert [cell.sample_config.rank for cell in plan.cells] == [None, 1, 2, 5]
    assert plan.search_trial_count == 0 and plan.confirm_trial_count == 12
