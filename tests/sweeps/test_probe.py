"""The measurement of what trials cost, and the command that predicts a sweep."""

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
COSTS = {"fixed_s", "min_step_s", "step_s", "evaluation_s", "begin_s", "score_s", "held_out_s"}
SMALL = ["--space", "smoke", "--set", "trials=2", "--set", "max_steps=6"]


@pytest.fixture(autouse=True)
def _short_measurements(monkeypatch):
    monkeypatch.setattr(measure, "MIN_MEASURING_S", 0.0)


def resolved(*configs):
    return [resolve(config).to_dict() for config in configs]


def test_each_configuration_gets_its_costs(tiny):
    longer = tiny.replace(length=40)
    measurement = measure.measure(resolved(tiny, longer), 3, None)
    assert [set(cost) for cost in measurement["costs"]] == [COSTS, COSTS]
    short_cost, long_cost = measurement["costs"]
    assert all(cost[name] >= 0.0 for cost in measurement["costs"] for name in COSTS - {"step_s"})
    assert short_cost["score_s"] > 0.0
    assert abs(long_cost["step_s"]) >= abs(short_cost["step_s"])
    (figure,) = measurement["figures"]
    assert figure["packed"] == 3
    assert figure["step_low_s"] <= figure["step_s"] <= figure["step_high_s"]
    assert figure["step_alone_s"] is not None
    assert measurement["hardware"]["cpus"]
    json.dumps(measurement, allow_nan=False)


def test_methods_that_train_alone_are_measured_alone(tiny):
    fine_tuning = tiny.replace(method="fine_tuning", length=None, rank=None, options={})
    measurement = measure.measure(resolved(tiny, fine_tuning), 2, None)
    assert [(figure["kind"], figure["packed"]) for figure in measurement["figures"]] == [
        ("toy with tiny, prompts", 2),
        ("toy with tiny, fine_tuning", 1),
    ]
    assert measure.measure(resolved(tiny), None, None)["figures"][0]["packed"] == 1, "without Ray, one trial at a time"


def test_trials_with_dropout_are_measured_alone_whatever_their_rate(tiny):
    configs = [tiny.replace(dropout=rate) for rate in (0.1, 0.2, 0.0)]
    measurement = measure.measure(resolved(*configs), 2, None)
    assert [(figure["kind"], figure["packed"]) for figure in measurement["figures"]] == [
        ("toy with tiny, lopt1", 1),
        ("toy with tiny, prompts", 2),
    ]
    assert measurement["costs"][0] == measurement["costs"][1] != measurement["costs"][2]


def test_the_measured_loops_are_those_of_the_sweep(tiny, monkeypatch):
    used_loops = []
    for loop in (Engine, Trial):
        advance = loop.advance
        monkeypatch.setattr(
            loop, "advance", lambda self, advance=advance, loop=loop: used_loops.append(loop) or advance(self)
        )
    measure.measure(resolved(tiny), 2, None)
    assert set(used_loops) == {Engine}
    used_loops.clear()
    measure.measure(resolved(tiny), None, None)
    assert set(used_loops) == {Trial}


def test_known_times_are_measured(tiny, monkeypatch):
    """A step of this engine takes 20 ms and 10 ms more for each trial. An evaluation takes 30 ms for each trial."""

    def advance(self):
        time.sleep(0.02 + 0.01 * len(self.trials))
        outcomes = []
        for trial in self.trials:
            trial.draw_batch()
            trial.step += 1
            if trial.step % trial.config.eval_every == 0:
                time.sleep(0.03)
        return outcomes

    monkeypatch.setattr(Engine, "advance", advance)
    few_examples = tiny.replace(selection_examples=16, train_min_tokens=40, train_max_tokens=42)
    measurement = measure.measure(resolved(few_examples), 4, None)
    (cost,), (figure,) = measurement["costs"], measurement["figures"]
    assert figure["step_s"] == pytest.approx(0.06, rel=0.3)
    assert cost["fixed_s"] == pytest.approx(0.02, abs=0.012)
    assert cost["step_s"] == pytest.approx(0.01, rel=0.4)
    assert cost["evaluation_s"] == pytest.approx(0.03, rel=0.4)


def test_the_time_of_examples_that_are_not_measured_is_estimated(tiny):
    """The measurement evaluates 64 of 120 examples."""
    measurement = measure.measure(resolved(tiny), 2, None)
    prepared = data.prepare_data(resolve(tiny), Trial(tiny).backbone)
    assert len(prepared.test) == 120
    all_examples, measured_examples = (
        measure._costs(resolve(config), measure._Rates(0.0, 0.0, 1.0, 1.0, 1.0, 0.0), Trial(tiny).backbone)
        for config in (tiny, tiny.replace(test_examples=64))
    )
    assert measured_examples["score_s"] < 0.7 * all_examples["score_s"]
    assert all_examples["score_s"] == prepared.test.token_counts.sum() + (0 if Trial(tiny).backbone.flat else 120 * 4)
    assert measurement["costs"][0]["score_s"] > 0


def test_samples_of_a_cell_lie_in_its_ranges():
    table = spaces.load("ablation", "demo")
    assert all(probe.sample_configs(table, cell) == [table.sample_config(cell)] for cell in table.cells)
    free_search = spaces.load("search", "demo")
    (cell,) = free_search.cells
    configs = probe.sample_configs(free_search, cell)
    assert len({config.method for config in configs}) == len(cell.search["method"].values)
    for config in configs:
        learning_rates = cell.search[f"{config.method}.learning_rate"]
        assert learning_rates.low <= config.learning_rate <= learning_rates.high
        assert config.rank is None or config.rank >= 1
    assert configs == probe.sample_configs(free_search, cell)


def test_the_command_predicts_without_ray(tmp_path, capsys):
    command = [*SMALL, "--local-mode", "--out", str(tmp_path)]
    assert main([*command, "--probe", "--price-per-hour", "3.6"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"prediction: all 9 trials take \d+:\d\d", out)
    assert "toy with tiny, prompts: a step of one trial" in out
    assert "at 3.6 an hour" in out
    run = tmp_path / "smoke-paper"
    assert not (run / "trials").exists()
    assert not (run / "manifest.json").exists()
    content = json.loads((run / "probe.json").read_text())
    seconds = content["prediction"]["seconds"]
    assert 0 < seconds["low"] < seconds["median"] < seconds["high"] <= 2.2 * seconds["low"]
    price = content["prediction"]["price"]
    assert price["low"] == pytest.approx(seconds["low"] / 1000)
    assert content["elapsed_before_s"] == 0.0

    assert main(command) == 0
    manifest = json.loads((run / "manifest.json").read_text())
    assert 0 < manifest["elapsed_s"] < 120
    assert main(command) == 0
    assert json.loads((run / "manifest.json").read_text())["elapsed_s"] == manifest["elapsed_s"], "nothing was left"
    assert main(["--space", "smoke", "--out", str(tmp_path), "--probe", "--local-mode"]) == 2, "settings have changed"

    report = subprocess.run([sys.executable, "analysis/report.py", str(run)], cwd=ROOT, capture_output=True, text=True)
    assert report.returncode == 0, report.stderr
    assert "0 of 9 trials were finished when it was predicted" in (run / "report" / "report.md").read_text()


def test_seeds_that_may_be_added_are_predicted_beside_the_first_look(tmp_path, capsys):
    command = [*SMALL, "--until-decided", "--most-seeds", "9", "--local-mode", "--out", str(tmp_path), "--probe"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert re.search(r"with the most seeds of each cell, it takes about \d+:\d\d", out)
    assert "the sweep ends with its first look" in out
    (file,) = tmp_path.glob("*/probe.json")
    prediction = json.loads(file.read_text())["prediction"]
    assert prediction["seconds_with_most_seeds"] > prediction["seconds"]["high"]


def test_with_json_only_json_is_printed(tmp_path, capsys):
    assert main([*SMALL, "--local-mode", "--out", str(tmp_path), "--probe", "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["plan"]["name"] == "smoke"
    assert output["prediction"]["trials"] == 9
    assert output["prediction"]["price"] is None


def test_finished_trials_are_not_part_of_the_prediction(tmp_path, capsys):
    command = [*SMALL, "--local-mode", "--out", str(tmp_path)]
    assert main([*command, "--max-trials", "4"]) == 4
    elapsed = json.loads((tmp_path / "smoke-paper" / "manifest.json").read_text())["elapsed_s"]
    assert main([*command, "--probe"]) == 0
    assert "4 of 9 trials are finished; the rest takes" in capsys.readouterr().out
    content = json.loads((tmp_path / "smoke-paper" / "probe.json").read_text())
    assert content["elapsed_before_s"] == elapsed
    assert (content["prediction"]["trials_done"], content["prediction"]["trials"]) == (4, 9)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dry-run", "--probe"], "give one of them"),
        (["--price-per-hour", "2"], "goes with --probe"),
        (["--probe", "--fresh"], "leave --fresh out"),
        (["--probe", "--price-per-hour", "0"], "is not a price above 0"),
    ],
)
def test_options_that_do_not_fit_a_probe_are_refused(tmp_path, capsys, options, words):
    assert main([*SMALL, "--out", str(tmp_path), *options]) == 2
    assert words in capsys.readouterr().err


def test_a_run_that_another_command_works_on_is_not_measured(tmp_path):
    plan = make_plan(settings.with_settings(spaces.load("smoke", "paper"), {"trials": "2"}))
    store = Store(tmp_path, "r")
    with store.hold(), pytest.raises(ValueError, match="being worked on"):
        Sweep(plan, Store(tmp_path, "r"), Options(local_mode=True), []).probe()


def test_the_spread_has_bounds(tiny, monkeypatch):
    space = settings.with_settings(spaces.load("smoke", "paper"), {"trials": "2"})

    def prediction(spread, **changes):
        test_resources = probe.Resources(
            device_count=1,
            max_concurrent=1,
            shared_share=None,
            solo_share=1.0,
            measure_start_s=lambda: 5.0,
            measure=lambda configs: {
                "costs": [dict.fromkeys(COSTS, 0.1) for _ in configs],
                "figures": [],
                "spread": spread,
                "hardware": {},
            },
            **changes,
        )
        return probe.predict(space, test_resources, resolve=lambda config: config, baselines=[tiny], finished=[])

    spreads = [prediction(spread)["spread"] for spread in (0.0, 0.05, 0.1, 0.3, 9.0)]
    assert spreads[0] == spreads[1] < spreads[2] < spreads[3] == spreads[4]
    widest = prediction(9.0)
    assert widest["start_s"] == pytest.approx(5.1), "the start and the baseline, which is scored once"
    assert widest["seconds"]["high"] < 2.2 * widest["seconds"]["low"]
    assert np.isfinite(widest["seconds"]["median"])
    slower = prediction(9.0, slowdown=1.5)
    expected = 5.0 + 1.5 * (widest["seconds"]["median"] - 5.0)
    assert slower["seconds"]["median"] == pytest.approx(expected, rel=0.03), "everything but the start takes longer"
    assert "1.5 times as long as measured" in "".join(slower["assumptions"])
    assert "times as long" not in "".join(widest["assumptions"])


@pytest.mark.parametrize(("length", "evaluation_count"), [("2", 4), ("4", 5), ("12", 7)])
def test_the_cuts_of_a_confirmed_full_prompt_take_time(tiny, length, evaluation_count):
    """Three confirm trials are scored once. The full prompt is scored again at ranks 1, 2, 5 and 10, if below n."""
    space = settings.with_settings(spaces.load("smoke", "paper"), {"trials": "1", "length": length})
    test_resources = probe.Resources(
        device_count=1,
        max_concurrent=1,
        shared_share=None,
        solo_share=1.0,
        measure_start_s=lambda: 0.0,
        measure=lambda configs: {
            "costs": [dict.fromkeys(COSTS, 1e-6) | {"score_s": 100.0} for _ in configs],
            "figures": [],
            "spread": 0.0,
            "hardware": {},
        },
    )
    prediction = probe.predict(space, test_resources, resolve=lambda config: config, baselines=[tiny], finished=[])
    assert prediction["start_s"] == pytest.approx(100.0), "the baseline is scored once"
    assert prediction["seconds"]["median"] - 100.0 == pytest.approx(100.0 * evaluation_count, rel=0.03)
    assert "cut to a lower rank" in "".join(prediction["assumptions"])


def test_measurements_made_side_by_side_are_averaged():
    parts = [
        {"costs": [{"step_s": 1.0}, {"step_s": 3.0}], "spread": 0.1, "figures": [1], "hardware": {}},
        {"costs": [{"step_s": 2.0}, {"step_s": 5.0}], "spread": 0.2, "figures": [2], "hardware": {}},
    ]
    assert resources._combine_measurements(parts) == {
        "costs": [{"step_s": 1.5}, {"step_s": 4.0}], "spread": 0.2, "figures": [1], "hardware": {}
    }  # fmt: skip


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_the_command_predicts_on_ray(tmp_path):
    command = [sys.executable, "sweeps/run.py", *SMALL, "--out", str(tmp_path), "--trials-per-gpu", "3"]
    process = subprocess.run([*command, "--probe"], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "a step of 3 trials together" in process.stdout
    assert "prediction: all 9 trials take" in process.stdout
    assert not (tmp_path / "smoke-paper" / "ray").exists()
    free_search = [*command, "--set", "method=lopt1,fine_tuning", "--name", "mixed", "--probe", "--json"]
    free_search[free_search.index("smoke")] = "search"
    for setting in ("task=toy", "backbone=tiny"):
        free_search += ["--set", setting]
    process = subprocess.run(free_search, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert {figure["packed"] for figure in json.loads(process.stdout)["prediction"]["measured"]} == {1, 3}
