"""What a plan says about its own power, and the margin that a space declares."""

from __future__ import annotations

import dataclasses
import json

import pytest

from analysis.load import declaration_warnings, load
from analysis.power import ASSUMED_NOISE, Design, Noise
from sweeps import spaces
from sweeps.planning import settings
from sweeps.planning.decisions import decision_lines, decisions_to_dicts, planned_comparisons
from sweeps.planning.looks import look_lines, with_looks
from sweeps.planning.plan import make_plan
from sweeps.run import main
from sweeps.search.earlier_work import space_changes

NOISE = Noise(seed_sd=0.005, seed_disagreement=0.05, example_sd=0.1, source="measured in run x")


def plan_of(name, profile="paper", seeds=5, **values):
    space = settings.with_settings(spaces.load(name, profile), values)
    return make_plan(settings.with_settings(space, {"confirm_seeds": str(seeds)}))


def text_of(plan, noise_by_task=None):
    return "\n".join(decision_lines(plan, noise_by_task or {}))


def test_the_plan_says_what_the_design_can_tell():
    plan = plan_of("ablation")
    design = Design(margin=0.01, examples=872, seeds=5, cells=9, noise=ASSUMED_NOISE)
    text = text_of(plan)
    assert text.startswith("  power      With 872 test examples, 5 seeds and 9 smaller cells, the smallest ")
    assert f"{100 * design.smallest_difference():.2g} pp." in text
    assert "872 test examples keep this chance below 80 % at any number of seeds" in text
    assert "Noise (assumed)" in text
    assert 2 <= len(text.splitlines()) <= 4


def test_a_design_that_can_answer_needs_no_advice():
    text = text_of(plan_of("ablation", margin="0.1"))
    assert "more than 99 % if all smaller cells equal the reference" in text
    assert "a chance of 80 % takes" not in text.lower()


def test_a_design_with_too_few_seeds_says_how_many_are_enough():
    plan = plan_of("ablation", margin="0.03", seeds=3)
    (answer,) = decisions_to_dicts(plan, {})
    assert answer["power_if_equal"] < 0.8 and 3 < answer["seeds_needed"] <= 50
    assert f"takes {answer['seeds_needed']} seeds of each cell" in text_of(plan)


def test_measured_noise_takes_the_place_of_the_assumed_one():
    plan = plan_of("ablation")
    measured = {("gpt2-large", "sst2"): NOISE}
    assert "Noise (measured in run x)" in text_of(plan, measured)
    assert decisions_to_dicts(plan, measured)[0]["power_if_equal"] > decisions_to_dicts(plan, {})[0]["power_if_equal"]


def test_noise_that_no_margin_below_100_pp_outweighs_is_said_to_be_so():
    noise = Noise(seed_sd=0.9, seed_disagreement=0.1, example_sd=0.15, source="invented")
    noise_by_task = {("gpt2-large", "sst2"): noise}
    plan = plan_of("ablation", seeds=2)
    text = text_of(plan, noise_by_task)
    assert "no difference below 100 pp" in text and "a margin of" not in text
    assert decisions_to_dicts(plan, noise_by_task)[0]["smallest_difference"] is None


def test_with_one_seed_nothing_can_be_tested():
    plan = plan_of("ablation", seeds=1)
    assert "nothing can be tested" in text_of(plan)
    (answer,) = decisions_to_dicts(plan, {})
    assert answer["power_if_equal"] is None and answer["smaller_cells"] == 9


def test_a_plan_with_several_tasks_has_one_line_for_each_number_of_test_examples():
    plan = plan_of("table2", seeds=3)
    sizes = {comparison.examples for comparison in planned_comparisons(plan)}
    assert len(sizes) > 1
    lines = [line for line in decision_lines(plan, {}) if "test examples" in line]
    assert len(lines) == len(sizes) < len(decisions_to_dicts(plan, {})) + 1
    assert "all have the same true difference" in text_of(plan)


def test_a_halved_split_and_a_subset_have_fewer_test_examples():
    assert planned_comparisons(plan_of("ablation", holdout="validation"))[0].examples == 436
    assert planned_comparisons(plan_of("ablation", test_examples="100"))[0].examples == 100


def test_an_unknown_number_of_test_examples_is_called_unknown(tmp_path):
    (tmp_path / "task.toml").write_text(
        'columns = ["text"]\nclasses = ["a", "b"]\ntemplate = "{text} is"\nlabel_words = [" a", " b"]\n'
        'train = "train.csv"\nreport = "test.csv"\n'
    )
    text = text_of(plan_of("ablation", task=str(tmp_path), backbone="embedded"))
    assert "The number of test examples is unknown before the data is read." in text
    assert "are needed" in text


def test_a_search_over_sizes_says_that_it_counts_one_cell():
    text = text_of(plan_of("search", seeds=3))
    assert "1 smaller cell" in text and "because the sizes are searched" in text


def test_a_space_without_a_reference_compares_nothing():
    plan = plan_of("frontier", method="lopt1", seeds=3)
    assert decision_lines(plan, {}) == []


def test_the_plan_as_json_has_the_power(capsys, tmp_path):
    assert main(["--space", "ablation", "--dry-run", "--json", "--out", str(tmp_path)]) == 0
    (answer,) = json.loads(capsys.readouterr().out)["power"]
    assert (answer["margin"], answer["test_examples"], answer["confirm_seeds"]) == (0.01, 872, 5)
    assert 0 < answer["power_at_half_margin"] < answer["power_if_equal"] < 1
    assert answer["seeds_needed"] is None and answer["examples_needed"] > 872


@pytest.mark.parametrize("value", ["0", "1", "-0.01", "one", "none", "0.01,0.02"])
def test_a_margin_that_is_not_a_fraction_is_refused(value, capsys):
    assert main(["--space", "smoke", "--dry-run", "--set", f"margin={value}"]) == 2
    assert "margin is" in capsys.readouterr().err


def test_the_margin_is_declared_in_the_manifest_and_is_not_part_of_the_identity():
    space, other = (
        settings.with_settings(spaces.load("smoke", "paper"), {"margin": text}) for text in ("0.01", "0.02")
    )
    assert (space.to_dict()["margin"], other.to_dict()["margin"]) == (0.01, 0.02)
    assert space.identity() == other.identity()


def test_a_continued_run_says_that_its_margin_has_changed():
    space = spaces.load("smoke", "paper")

    class Store:
        run = "r"

        def __init__(self, margin):
            self.space = {**space.to_dict(), **({"margin": margin} if margin else {})}
            if margin is None:
                del self.space["margin"]

        def manifest(self):
            return {"identity": space.identity(), "space": self.space}

    assert space_changes(Store(0.03), space) == ["margin 0.03 → 0.01"]
    assert space_changes(Store(0.01), space) == []
    assert space_changes(Store(None), space) == [], "a run of an earlier version has the default margin"


def test_the_plan_names_the_reference_and_the_margin(capsys):
    assert main(["--space", "ablation", "--dry-run", "--set", "margin=0.02"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  reference")]
    assert "prompt_tuning with length 10" in line and "worse by less than 2 pp" in line


def test_looks_of_two_numbers_of_shots_are_told_apart():
    space = spaces.load("ablation", "demo")
    cells = [cell for cell in space.cells if cell.name in ("prompt_tuning n=10", "lopt1 n=10 r=2")]
    few_shot_cells = tuple(
        dataclasses.replace(
            cell, name=f"{cell.name} shots={shots}", fixed={**cell.fixed, "shots": shots, "train_examples": None}
        )
        for shots in (4, 16)
        for cell in cells
    )
    plan = make_plan(dataclasses.replace(space, grid=lambda axes: few_shot_cells))
    lines = look_lines(with_looks(plan, {}, seeds=3, most_seeds=4), {})
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["movie_snippets (4-shot)", "movie_snippets (16-shot)"]


def test_the_report_names_the_margin_that_a_run_began_with(tmp_path, capsys):
    arguments = [
        "--space",
        "smoke",
        "--local-mode",
        "--set",
        "max_steps=2",
        "--set",
        "trials=1",
        "--out",
        str(tmp_path),
    ]
    assert main([*arguments, "--margin", "1"]) == 0
    for margin in ("30", "30"):  # twice, because each command keeps the former margins
        assert main([*arguments, "--margin", margin]) == 0
    results = load([tmp_path / "smoke-paper"])
    assert (results.margin, results.declared_margins) == (0.3, (0.3, 0.01))
    assert declaration_warnings(results) == [
        "This report uses a margin of 30 pp, but before the trials a margin of 1 pp was declared."
    ]
