"""The noise that a run shows, what the report says about power, and the margin that it uses."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from analysis import report
from analysis.cells import groups
from analysis.comparisons import comparisons
from analysis.load import declaration_warnings, load
from analysis.noise import measured_noise, noise_of_earlier_runs
from analysis.plots.power import SPEC
from analysis.power import ASSUMED_NOISE, Design
from analysis.power_text import design_sentences, group_power, noise_sentence, power_sentences, pp, short_text
from analysis.registry import Missing
from tests.analysis.known_sweeps import REFERENCE, lopt_cells, write_known_run
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


def known_group(store, accuracies, remove=None, **options):
    """Return the only group of a run with these accuracies, without the files of predictions or trials that match."""
    run = write_known_run(store, accuracies, **options)
    for trial_file in sorted((run / "trials").glob("*.json")):
        trial = json.loads(trial_file.read_text())
        folder = remove(trial) if remove else None
        if folder:
            next((run / folder).glob(f"{trial['key']}.*")).unlink()
    (group,) = groups(load([run]))
    return group


def test_a_cell_that_is_shown_to_be_worse_does_not_add_to_the_noise(store):
    small, middle = lopt_cells(1, 5)
    noises = [
        measured_noise(
            known_group(store, {REFERENCE: 0.85, small: accuracy, middle: 0.85}, n=3000, name=f"r{accuracy}")
        )
        for accuracy in (0.85, 0.45)
    ]
    assert "in 2 smaller cells without the verdict inferior" in noises[0].source
    assert "in 1 smaller cell without the verdict inferior" in noises[1].source
    assert noises[1].example_sd < 0.07, "0.09 with the cell that is worse"
    worse_only = measured_noise(known_group(store, {REFERENCE: 0.85, small: 0.45, middle: 0.6}, n=3000, name="worse"))
    assert "because all are inferior" in worse_only.source
    assert worse_only.example_sd < 0.1, "that of the cell at 0.6, and not the mean of both"


def test_a_cell_without_predictions_leaves_the_noise_of_the_others_measured(store):
    cells = {REFERENCE: 0.85, **dict.fromkeys(lopt_cells(1, 2, 5), 0.85)}
    group = known_group(store, cells, remove=lambda trial: "predictions" if trial["config"]["rank"] == 1 else None)
    noise = measured_noise(group)
    assert "assumed" not in noise.source and "in 2 smaller cells" in noise.source
    assert noise.seed_disagreement > 0.05 and noise.example_sd < 0.1


def test_noise_below_the_limit_of_detection_is_not_called_nothing(store):
    """Each cell is right on the same examples with every seed, so no variance is observed at all."""
    run = store(test_n=500, split_size=500)
    for method, rank in (("prompt_tuning", None), ("lopt1", 1)):
        for seed in range(3):
            run.predict(run.confirm(method, 10, rank, 0.0, config__seed=seed), np.arange(500) < 400)
    (group,) = groups(load([run.write()]))
    noise = measured_noise(group)
    assert noise.example_sd == pytest.approx(math.sqrt(3 / 500)), "the rule of three"
    assert noise.seed_sd > 0
    text = noise_sentence(noise, 500)
    assert "the spread of seeds and examples is too small to measure" in text
    assert " 0 pp" not in text


def test_with_unequal_numbers_of_seeds_the_fewest_are_called_the_fewest(store):
    small, middle = lopt_cells(1, 5)

    def is_later_seed_of_reference(trial):
        is_reference = trial["config"]["method"] == "prompt_tuning"
        return "trials" if is_reference and trial["config"]["seed"] >= 2 else None

    group = known_group(store, {REFERENCE: 0.85, small: 0.85, middle: 0.85}, is_later_seed_of_reference, seeds=6)
    assert "2 seeds of each cell (the fewest here; the most are 6)" in power_sentences(group)[0]
    assert "2 seeds of each cell (the fewest here; the most are 6)" in SPEC.caption(SPEC.info(group))


DESIGN = Design(margin=0.01, examples=872, seeds=5, cells=9, noise=ASSUMED_NOISE)


def test_chances_name_the_condition_that_all_smaller_cells_are_equal():
    for text in design_sentences(DESIGN)[1:]:
        assert "if all smaller cells equal the reference" in text.lower()
    assert "shows equal cells in" in short_text(DESIGN) and "an equal cell in" in short_text(replace(DESIGN, cells=1))
    for text in (*design_sentences(replace(DESIGN, cells=1)), short_text(replace(DESIGN, cells=1))):
        assert "all" not in text.split()


def test_a_limit_of_the_examples_does_not_say_that_nothing_can_be_shown(store):
    """A cell that is better than the reference may be shown by a design that would rarely show an equal one."""
    (small,) = lopt_cells(1)
    group = known_group(store, {REFERENCE: 0.85, small: 0.93}, n=300)
    assert comparisons(group)[0].verdict.outcome == "non-inferior"
    text = " ".join(power_sentences(group))
    assert "cannot" not in text
    assert "If the smaller cell equals the reference, 300 test examples keep this chance below 80 %" in text


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.01, "1 pp"), (0.0155, "1.6 pp"), (0.125, "12.5 pp"), (2e-7, "0.00002 pp"), (25.0, "2500 pp"), (0.0, "0 pp")],
)
def test_percentage_points_have_no_exponent(fraction, text):
    assert pp(fraction) == text


def test_an_observed_difference_of_almost_nothing_has_no_negative_zero(store):
    """The smaller cell is wrong on one example more, of three seeds with 1,000 each."""
    run = store(test_n=1000, split_size=1000)
    generator = np.random.default_rng(0)
    right_SN = np.stack([generator.permutation(1000) < 800 for _ in range(6)])
    right_SN[3, np.flatnonzero(right_SN[3])[0]] = False
    for i, right_N in enumerate(right_SN):
        method, rank = ("lopt1", 1) if i >= 3 else ("prompt_tuning", None)
        run.predict(run.confirm(method, 10, rank, 0.0, config__seed=i % 3), right_N)
    (group,) = groups(load([run.write()]))
    assert -0.0005 < comparisons(group)[0].verdict.difference.mean < 0
    text = " ".join(power_sentences(group))
    assert "its observed difference (+0.0 pp)" in text


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
    assert any("its observed difference" in sentence and "uncertain" in sentence for sentence in sentences)
    assert sentences[-1].startswith("Noise (measured in 4 cells with 3 seeds of run synthetic-run; ")


def test_the_figure_has_both_curves_and_its_caption_the_method(store):
    info = SPEC.info(simulated_group(store, GAPS, seeds=3, n=872, spread=0.02))
    assert [line.gap for line in info.curves] == [0.0, 0.005]
    assert all(line.ceiling >= max(line.power) - 0.035 for line in info.curves)
    for words in ("Holm's method", "assumed, not observed", "unlimited seeds", "Markers: 3 seeds"):
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
    assert (load([path]).margin, declaration_warnings(load([path]))) == (0.02, [])
    results = load([path], margin=0.05)
    assert results.margin == 0.05
    assert declaration_warnings(results) == [
        "This report uses a margin of 5 pp, but before the trials a margin of 2 pp was declared."
    ]
    assert report.main([str(path), "--out", str(tmp_path / "out"), "--margin", "5"]) == 0
    assert "a margin of 2 pp was declared" in capsys.readouterr().out


def test_runs_with_several_margins_are_judged_by_the_smallest(store):
    paths = [declared_run(store, "first", 0.03), declared_run(store, "second", 0.02)]
    results = load(paths)
    assert results.margin == 0.02
    assert "a margin of 3 pp was declared" in declaration_warnings(results)[0]


def test_a_run_of_an_earlier_version_has_the_default_margin(store):
    run = store()
    run.confirm("prompt_tuning", 10, None, 0.8)
    assert load([run.write()]).margin == 0.01
