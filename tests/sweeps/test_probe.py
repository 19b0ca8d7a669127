"""What trials are measured to cost, and the command that predicts a sweep."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lopt import data
from lopt.engine import Engine
from lopt.resolve import resolve
from lopt.training import Trial
from sweeps import spaces
from sweeps.forecast import measure, probe
from sweeps.on_ray import resources
from sweeps.options import Options
from sweeps.planning import settings
from sweeps.planning.plan import make_plan
from sweeps.results.store import Store
from sweeps.run import main
from sweeps.sweep import Sweep

ROOT = Path(__file__).resolve().parents[2]
COSTS = {"fixed_s", "least_s", "step_s", "evaluation_s", "begin_s", "score_s"}
SMALL = ["--space", "smoke", "--set", "trials=2", "--set", "max_steps=6"]


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(measure, "SECONDS", 0.0)


def resolved(*configs):
    return [resolve(config).to_dict() for config in configs]


def test_each_configuration_gets_its_costs(tiny):
    longer = tiny.replace(length=40)
    found = measure.measure(resolved(tiny, longer), 3, None)
    assert [set(cost) for cost in found["costs"]] == [COSTS, COSTS]
    short, long = found["costs"]
    assert all(cost[name] >= 0.0 for cost in found["costs"] for name in COSTS - {"step_s"})
    assert short["score_s"] > 0.0
    assert abs(long["step_s"]) >= abs(short["step_s"])
    (figure,) = found["figures"]
    assert figure["packed"] == 3
    assert figure["step_low_s"] <= figure["step_s"] <= figure["step_high_s"]
    assert figure["step_alone_s"] is not None
    assert found["hardware"]["cpus"]
    json.dumps(found, allow_nan=False)


def test_methods_that_train_alone_are_measured_alone(tiny):
    alone = tiny.replace(method="fine_tuning", length=None, rank=None, options={})
    found = measure.measure(resolved(tiny, alone), 2, None)
    assert [(figure["kind"], figure["packed"]) for figure in found["figures"]] == [
        ("toy with tiny, prompts", 2),
        ("toy with tiny, fine_tuning", 1),
    ]
    assert measure.measure(resolved(tiny), None, None)["figures"][0]["packed"] == 1, "without Ray one at a time"


def test_trials_with_dropout_are_measured_alone_whatever_their_rate(tiny):
    rates = [tiny.replace(dropout=rate) for rate in (0.1, 0.2, 0.0)]
    found = measure.measure(resolved(*rates), 2, None)
    assert [(figure["kind"], figure["packed"]) for figure in found["figures"]] == [
        ("toy with tiny, lopt1", 1),
        ("toy with tiny, prompts", 2),
    ]
    assert found["costs"][0] == found["costs"][1] != found["costs"][2]


def test_the_loops_that_are_measured_are_the_sweeps_own(tiny, monkeypatch):
    used = []
    for owner in (Engine, Trial):
        honest = owner.advance
        monkeypatch.setattr(
            owner, "advance", lambda self, honest=honest, owner=owner: used.append(owner) or honest(self)
        )
    measure.measure(resolved(tiny), 2, None)
    assert set(used) == {Engine}
    used.clear()
    measure.measure(resolved(tiny), None, None)
    assert set(used) == {Trial}


def test_a_known_time_is_found_again(tiny, monkeypatch):
    """The engine's steps take 20 ms and 10 ms a trial here; evaluations of all, 30 ms a trial."""

    def advance(self):
        time.sleep(0.02 + 0.01 * len(self.trials))
        outcomes = []
        for trial in self.trials:
            trial.draw()
            trial.step += 1
            if trial.step % trial.config.eval_every == 0:
                time.sleep(0.03)
        return outcomes

    monkeypatch.setattr(Engine, "advance", advance)
    few = tiny.replace(selection_examples=16, train_min_tokens=40, train_max_tokens=42)
    found = measure.measure(resolved(few), 4, None)
    (cost,), (figure,) = found["costs"], found["figures"]
    assert figure["step_s"] == pytest.approx(0.06, rel=0.3)
    assert cost["fixed_s"] == pytest.approx(0.02, abs=0.012)
    assert cost["step_s"] == pytest.approx(0.01, rel=0.4)
    assert cost["evaluation_s"] == pytest.approx(0.03, rel=0.4)


def test_what_is_left_out_of_an_evaluation_is_reckoned(tiny):
    """Of 120 examples 64 are looked at."""
    found = measure.measure(resolved(tiny), 2, None)
    read = data.prepare(resolve(tiny), Trial(tiny).backbone)
    assert len(read.test) == 120
    whole, short = (
        measure._costs(resolve(config), measure._Rates(0.0, 0.0, 1.0, 1.0, 1.0, 0.0), Trial(tiny).backbone)
        for config in (tiny, tiny.replace(test_examples=64))
    )
    assert short["score_s"] < 0.7 * whole["score_s"]
    assert whole["score_s"] == read.test.lengths.sum() + (0 if Trial(tiny).backbone.flat else 120 * 4)
    assert found["costs"][0]["score_s"] > 0


def test_samples_of_a_cell():
    table = spaces.load("ablation", "demo")
    assert all(probe.samples(table, cell) == [table.example(cell)] for cell in table.cells)
    free = spaces.load("search", "demo")
    (cell,) = free.cells
    drawn = probe.samples(free, cell)
    assert len({config.method for config in drawn}) == len(cell.search["method"].values)
    for config in drawn:
        made = cell.search[f"{config.method}.learning_rate"]
        assert made.low <= config.learning_rate <= made.high
        assert config.rank is None or config.rank >= 1
    assert drawn == probe.samples(free, cell)


def test_the_command_without_ray(tmp_path, capsys):
    command = [*SMALL, "--local-mode", "--out", str(tmp_path)]
    assert main([*command, "--probe", "--price-per-hour", "3.6"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"prediction: 9 to run in \d+:\d\d", out)
    assert "toy with tiny, prompts: a step of one trial" in out
    assert "at 3.6 an hour" in out
    run = tmp_path / "smoke-paper"
    assert not (run / "trials").exists()
    assert not (run / "manifest.json").exists()
    written = json.loads((run / "probe.json").read_text())
    seconds = written["prediction"]["seconds"]
    assert 0 < seconds["low"] < seconds["median"] < seconds["high"] <= 2.2 * seconds["low"]
    price = written["prediction"]["price"]
    assert price["low"] == pytest.approx(seconds["low"] / 1000)
    assert written["elapsed_before_s"] == 0.0

    assert main(command) == 0
    manifest = json.loads((run / "manifest.json").read_text())
    assert 0 < manifest["elapsed_s"] < 120
    assert main(command) == 0
    assert json.loads((run / "manifest.json").read_text())["elapsed_s"] == manifest["elapsed_s"], "nothing was left"
    assert main(["--space", "smoke", "--out", str(tmp_path), "--probe", "--local-mode"]) == 2, "other settings"

    done = subprocess.run([sys.executable, "analysis/report.py", str(run)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "started with 0 of 9 trials" in (run / "report" / "report.md").read_text()


def test_json_is_all_that_is_printed(tmp_path, capsys):
    assert main([*SMALL, "--local-mode", "--out", str(tmp_path), "--probe", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["plan"]["name"] == "smoke"
    assert printed["prediction"]["trials"] == 9
    assert printed["prediction"]["price"] is None


def test_what_is_finished_is_not_predicted_again(tmp_path, capsys):
    command = [*SMALL, "--local-mode", "--out", str(tmp_path)]
    assert main([*command, "--max-trials", "4"]) == 4
    elapsed = json.loads((tmp_path / "smoke-paper" / "manifest.json").read_text())["elapsed_s"]
    assert main([*command, "--probe"]) == 0
    assert "4 trials are finished, 5 to run in" in capsys.readouterr().out
    written = json.loads((tmp_path / "smoke-paper" / "probe.json").read_text())
    assert written["elapsed_before_s"] == elapsed
    assert (written["prediction"]["trials_done"], written["prediction"]["trials"]) == (4, 9)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--dry-run", "--probe"], "give one of them"),
        (["--price-per-hour", "2"], "goes with --probe"),
        (["--probe", "--fresh"], "leave --fresh out"),
        (["--probe", "--price-per-hour", "0"], "is not a price above 0"),
    ],
)
def test_usage(tmp_path, capsys, more, words):
    assert main([*SMALL, "--out", str(tmp_path), *more]) == 2
    assert words in capsys.readouterr().err


def test_a_run_in_use_is_not_measured_beside(tmp_path):
    made = make_plan(settings.with_settings(spaces.load("smoke", "paper"), {"trials": "2"}))
    store = Store(tmp_path, "r")
    with store.held(), pytest.raises(ValueError, match="being worked on"):
        Sweep(made, Store(tmp_path, "r"), Options(local_mode=True), []).probe()


def test_the_spread_has_bounds(tiny, monkeypatch):
    made = settings.with_settings(spaces.load("smoke", "paper"), {"trials": "2"})

    def said(spread, **more):
        ground = probe.Resources(
            devices=1,
            concurrent=1,
            shared=None,
            alone=1.0,
            start_s=lambda: 5.0,
            measure=lambda configs: {
                "costs": [dict.fromkeys(COSTS, 0.1) for _ in configs],
                "figures": [],
                "spread": spread,
                "hardware": {},
            },
            **more,
        )
        return probe.predict(made, ground, resolve=lambda config: config, baselines=[tiny], finished=[])

    assert (
        said(0.0)["spread"] == said(0.05)["spread"] < said(0.1)["spread"] < said(0.3)["spread"] == said(9.0)["spread"]
    )
    found = said(9.0)
    assert found["start_s"] == pytest.approx(5.1), "and the baseline, which is scored once"
    assert found["seconds"]["high"] < 2.2 * found["seconds"]["low"]
    assert np.isfinite(found["seconds"]["median"])
    slower = said(9.0, slower=1.5)
    expected = 5.0 + 1.5 * (found["seconds"]["median"] - 5.0)
    assert slower["seconds"]["median"] == pytest.approx(expected, rel=0.03), "all but the start"
    assert "1.5 times as long as measured" in "".join(slower["assumptions"])
    assert "times as long" not in "".join(found["assumptions"])


def test_what_is_measured_side_by_side_is_averaged():
    parts = [
        {"costs": [{"step_s": 1.0}, {"step_s": 3.0}], "spread": 0.1, "figures": [1], "hardware": {}},
        {"costs": [{"step_s": 2.0}, {"step_s": 5.0}], "spread": 0.2, "figures": [2], "hardware": {}},
    ]
    assert resources._mean(parts) == {
        "costs": [{"step_s": 1.5}, {"step_s": 4.0}], "spread": 0.2, "figures": [1], "hardware": {}
    }  # fmt: skip


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_the_command_on_ray(tmp_path):
    command = [sys.executable, "sweeps/run.py", *SMALL, "--out", str(tmp_path), "--trials-per-gpu", "3"]
    done = subprocess.run([*command, "--probe"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "a step of 3 trials together" in done.stdout
    assert "prediction: 9 to run in" in done.stdout
    assert not (tmp_path / "smoke-paper" / "ray").exists()
    mixed = [*command, "--set", "method=lopt1,fine_tuning", "--name", "mixed", "--probe", "--json"]
    mixed[mixed.index("smoke")] = "search"
    for value in ("task=toy", "backbone=tiny"):
        mixed += ["--set", value]
    done = subprocess.run(mixed, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {figure["packed"] for figure in json.loads(done.stdout)["prediction"]["measured"]} == {1, 3}
