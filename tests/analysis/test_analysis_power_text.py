"""The noise that a run shows, what the report says about power, and the margin that it uses."""

from __future__ import annotations

import pytest

from analysis import report
from analysis.cells import groups
from analysis.comparisons import comparisons
from analysis.load import load, margin_warnings
from analysis.noise import measured_noise, noise_of_earlier_runs
from analysis.plots.power import SPEC
from analysis.power import ASSUMED_NOISE
from analysis.power_text import group_power, power_sentences
from analysis.registry import Missing
from tests.analysis.simulated import simulated_group, simulated_run
from tests.analysis.simulated_power import Sweep

GAPS = (0.0, 0.0, 0.02)


def test_the_noise_of_a_run_is_that_of_its_world(store):
    group = simulated_group(store, (0.0,) * 9, seeds=6, n=4000, spread=0.02, draw_seed=3)
    noise = measured_noise(group)
    true_noise = Sweep(n=4000, seeds=6, cells=1, spread=0.02, gap=0.0).noise()
    assert noise.seed_sd == pytest.approx(0.02, rel=0.25)
    assert noise.seed_disagreement == pytest.approx(true_noise.seed_disagreement, rel=0.1)
    assert noise.example_sd < 0.05, "all cells of this world are right on the same examples"
    assert "10 cells with 6 seeds of run synthetic-run" in noise.source


def test_without_predictions_only_the_spread_of_seeds_is_measured(store):
    run = store()
    for method, rank in (("prompt_tuning", None), ("lopt1", 1)):
        for seed in range(3):
            run.confirm(method, 10, rank, 0.8 + 0.01 * seed, config__seed=seed)
    (group,) = groups(load([run.write()]))
    noise = measured_noise(group)
    assert noise.seed_sd == pytest.approx(0.01)
    assert noise.example_sd == ASSUMED_NOISE.example_sd
    assert "the spread of examples is assumed" in noise.source


def test_one_seed_shows_no_noise(store):
    group = simulated_group(store, GAPS, seeds=1)
    assert measured_noise(group) is None
    assert isinstance(group_power(group), Missing)
    (sentence,) = power_sentences(group)
    assert "nothing can be tested" in sentence


def test_the_report_says_what_the_design_can_tell_and_labels_what_uses_an_observed_effect(store):
    group = simulated_group(store, GAPS, seeds=3, n=872, spread=0.02)
    sentences = power_sentences(group)
    count = len(comparisons(group))
    assert sentences[0].startswith(f"With 872 test examples, 3 seeds and {count} smaller cell")
    assert any("By its observed difference" in sentence and "uncertain" in sentence for sentence in sentences)
    assert sentences[-1].startswith("Noise (measured in 4 cells with 3 seeds of run synthetic-run)")


def test_the_figure_has_both_curves_and_its_caption_the_method(store):
    info = SPEC.info(simulated_group(store, GAPS, seeds=3, n=872, spread=0.02))
    assert [line.gap for line in info.curves] == [0.0, 0.005]
    assert all(line.ceiling >= max(line.power) - 0.035 for line in info.curves)
    for words in ("Holm's method", "No observed difference is used", "unlimited seeds", "the 3 seeds"):
        assert words in SPEC.caption(info)
    rows = SPEC.data(info)
    assert len(rows) == 2 * (len(info.seeds) + 1)
    SPEC.draw(info)


def test_a_plan_finds_the_noise_of_the_newest_run_of_the_same_task(store, tmp_path):
    simulated_run(store, GAPS, seeds=3)
    (tmp_path / "results" / "damaged").mkdir()
    (tmp_path / "results" / "damaged" / "manifest.json").write_text("{")
    task, other_task = ("embedded", "movie_snippets"), ("embedded", "sst2")
    noise_by_task = noise_of_earlier_runs(str(tmp_path / "results"), [task, other_task])
    assert noise_by_task.keys() == {task}
    assert noise_of_earlier_runs(str(tmp_path / "nowhere"), [task]) == {}


def declared_run(store, name, margin):
    run = store(name=name)
    run.confirm("prompt_tuning", 10, None, 0.8)
    path = run.write()
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"trials_per_cell"', f'"margin": {margin}, "trials_per_cell"'))
    return path


def test_the_report_uses_the_declared_margin_unless_another_is_given(store, capsys, tmp_path):
    path = declared_run(store, "declared", 0.02)
    assert (load([path]).margin, margin_warnings(load([path]))) == (0.02, [])
    results = load([path], margin=0.05)
    assert results.margin == 0.05
    assert margin_warnings(results) == [
        "This report uses a margin of 5 pp, but before the trials a margin of 2 pp was declared."
    ]
    assert report.main([str(path), "--out", str(tmp_path / "out"), "--margin", "5"]) == 0
    assert "a margin of 2 pp was declared" in capsys.readouterr().out


def test_runs_with_several_margins_are_judged_by_the_smallest(store):
    paths = [declared_run(store, "first", 0.03), declared_run(store, "second", 0.02)]
    results = load(paths)
    assert results.margin == 0.02
    assert "a margin of 3 pp was declared" in margin_warnings(results)[0]


def test_a_run_of_an_earlier_version_has_the_default_margin(store):
    run = store()
    run.confirm("prompt_tuning", 10, None, 0.8)
    assert load([run.write()]).margin == 0.01
