"""What a report says of runs whose numbers do not belong together, or are not all there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from analysis.report import main

FULL, SMALL = ("prompt_tuning", 10, None), ("lopt1", 10, 1)


def run(store, name, cells, accuracy, n=100, folder="tickets", **changes) -> Path:
    """A run whose trials are right on the first examples; all runs have the same classes in the same places."""
    s = store(name=name, task=f"/data/{folder}", cells=cells, test_n=n, split_size=changes.pop("split_size", n))
    for cell in cells:
        for seed in range(3):
            record = s.confirm(*cell, accuracy, config__seed=seed, **changes)
            s.predict(record, np.arange(n) < accuracy * n + seed)
    return s.write()


def report(capsys, out: Path, *arguments: object) -> tuple[str, str]:
    """What is printed, and the Markdown page."""
    assert main([*map(str, arguments), "--out", str(out)]) == 0
    (page,) = out.glob("*.md")
    return capsys.readouterr().out, page.read_text().replace("\\", "")


OTHER_EXAMPLES = {
    "texts": ({"config__data_revision": "one"}, {"config__data_revision": "two"}),
    "half": ({"split_size": 200}, {"split_size": 200, "config__holdout": "validation"}),
    "subset": (
        {"split_size": 200, "config__data_seed": 1, "config__test_examples": 100},
        {"split_size": 200, "config__data_seed": 2, "config__test_examples": 100},
    ),
}


@pytest.mark.parametrize("kind", OTHER_EXAMPLES)
def test_cells_that_were_scored_on_other_examples_are_named_and_not_tested(store, tmp_path, capsys, kind):
    first, second = OTHER_EXAMPLES[kind]
    runs = [run(store, "a", [FULL], 0.9, **first), run(store, "b", [SMALL], 0.6, **second)]
    for order in (runs, runs[::-1]):
        printed, page = report(capsys, tmp_path / "out", *order)
        for text in (printed, page):
            assert "not all cells were scored on the same test examples" in text
            assert "LoPT-1 n=10 r=1" in text.split("scored on the same test examples")[1].split("\n")[0]
        assert "On the same test examples the difference" not in page
        assert "No test has shown it to be as good" in page


def test_a_whole_split_is_the_same_whatever_would_have_drawn_a_part(store, tmp_path, capsys):
    first = run(store, "a", [FULL], 0.9, config__data_seed=1, config__data_revision="one")
    second = run(store, "b", [SMALL], 0.6, config__data_seed=2, config__data_revision="one", config__test_examples=100)
    _, page = report(capsys, tmp_path / "out", first, second)
    assert "not all cells" not in page
    assert "On the same test examples the difference" in page


def test_other_weights_in_one_folder_are_named(store, tmp_path, capsys):
    runs = []
    for name, cell in (("a", FULL), ("b", SMALL)):
        s = store(name=name, backbone="/models/mine", cells=[cell])
        s.confirm(*cell, 0.8, config__model_revision=f"weights of {name}")
        runs.append(s.write())
    printed, _ = report(capsys, tmp_path / "out", *runs)
    assert "held other weights" in printed
    assert "weights of a (Prompt tuning n=10)" in printed
    assert "weights of b (LoPT-1 n=10 r=1)" in printed


def test_scores_of_two_metrics_are_spoken_of_before_the_answer(store, tmp_path, capsys):
    first = run(store, "a", [FULL], 0.9)
    second = run(store, "b", [SMALL], 0.8)
    for file in (second / "trials").iterdir():
        record = json.loads(file.read_text())
        record["config"]["metric"] = "macro_f1"
        for evaluation in record["evaluations"]:
            evaluation["selection_macro_f1"] = evaluation["selection_accuracy"]
        file.write_text(json.dumps(record))
    printed, page = report(capsys, tmp_path / "out", first, second)
    for text in (printed, page):
        assert text.index("selected by different metrics (accuracy, macro-F1)") < text.index("On tickets with")


def test_two_runs_on_other_texts_have_no_difference_on_the_same_examples(store, tmp_path, capsys):
    runs = [run(store, name, [FULL, SMALL], 0.8, config__data_revision=name) for name in ("a", "b")]
    printed, page = report(capsys, tmp_path / "out", "--compare", *runs)
    for text in (printed.replace("\\", ""), page):
        (row,) = [line for line in text.splitlines() if line.startswith("| Prompt tuning")]
        assert row.endswith("| +0.0 |")
        (note,) = [line for line in text.splitlines() if "Not scored on the same" in line]
        assert "Prompt tuning n=10" in note and "data a; b on" in note


def test_a_folder_that_lay_elsewhere_for_one_run_is_compared(store, tmp_path, capsys):
    first = run(store, "a", [FULL, SMALL], 0.8, config__data_revision="one", folder="ann/tickets")
    second = run(store, "b", [FULL, SMALL], 0.7, config__data_revision="one", folder="bob/tickets")
    printed, _ = report(capsys, tmp_path / "out", "--compare", first, second)
    assert "not there" not in printed
    assert printed.count("−10.0 \\[") == 2


def test_runs_of_one_name_are_told_apart(store, tmp_path, capsys):
    first = run(store, "a", [FULL], 0.8)
    second = first.rename(first.with_name("copy"))
    first = run(store, "a", [FULL], 0.7)
    printed, _ = report(capsys, tmp_path / "out", "--compare", first, second)
    assert f"{first}: test %" in printed.replace("\\", "") and f"{second}: test %" in printed.replace("\\", "")


def test_selecting_on_half_of_the_reported_split_is_not_called_training_examples(store, tmp_path, capsys):
    path = run(store, "a", [FULL, SMALL], 0.8, split_size=200, config__holdout="validation")
    _, page = report(capsys, tmp_path / "out", path)
    assert "128 examples of the reported split, which are not scored, of which one is 0.78 pp" in page
    assert "held-out training examples" not in page


def test_a_copy_of_a_record_is_not_said_to_lie_in_another_run(store, tmp_path, capsys):
    path = run(store, "a", [FULL, SMALL], 0.8)
    file = next((path / "trials").iterdir())
    file.with_name(f"{file.stem} (1).json").write_bytes(file.read_bytes())
    _, page = report(capsys, tmp_path / "out", path)
    assert "Records of trials that another record is of, too, which are not counted again: 1." in page


def test_confirmed_seeds_that_are_gone_are_spoken_of(store, tmp_path, capsys):
    path = run(store, "a", [FULL, SMALL], 0.8)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["space"]["confirm_seeds"] = 3
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert "Fewer confirmed seeds" not in report(capsys, tmp_path / "out", path)[0]
    for file in (path / "trials").iterdir():
        config = json.loads(file.read_text())["config"]
        if config["method"] == "lopt1" and config["seed"]:
            file.unlink()
    printed, _ = report(capsys, tmp_path / "out", path)
    assert "Fewer confirmed seeds than the 3 that were to be trained: LoPT-1 n=10 r=1 (1)." in printed


def test_one_frozen_matrix_for_all_seeds_is_spoken_of(store, tmp_path, capsys):
    lopt2 = ("lopt2", 10, 2)
    fixed = run(store, "a", [lopt2], 0.8, config__options={"x0_seed": 0})
    drawn = run(store, "b", [lopt2], 0.8, config__options={"x0_seed": None})
    said = "LoPT-2: one frozen random matrix for all seeds (x0_seed = 0)"
    assert said in report(capsys, tmp_path / "fixed", fixed)[1]
    assert said not in report(capsys, tmp_path / "drawn", drawn)[1]


def same_trials(store, name, right) -> Path:
    s = store(name=name, cells=[FULL, SMALL], test_n=100, split_size=100)
    for place, cell in enumerate((FULL, SMALL)):
        for seed in range(3):
            record = s.confirm(*cell, 0.8, config__seed=seed, key=f"{place}{seed:015x}")
            s.predict(record, np.arange(100) < right + seed)
    return s.write()


def test_of_one_trial_in_two_runs_the_record_with_its_predictions_counts(store, tmp_path, capsys):
    bare, whole = same_trials(store, "bare", 80), same_trials(store, "whole", 80)
    shutil.rmtree(bare / "predictions")
    for order in ((bare, whole), (whole, bare)):
        printed, page = report(capsys, tmp_path / "out", *order)
        assert "cannot be used" not in printed
        assert "which are not counted again: 6." in page


def test_one_trial_with_two_results_is_spoken_of(store, tmp_path, capsys):
    runs = same_trials(store, "here", 80), same_trials(store, "there", 70)
    _, page = report(capsys, tmp_path / "out", *runs)
    assert "which are not counted again: 6, of which 6 have other results: the run that is named first counts." in page
