"""What a report says about pooled runs whose numbers cannot be compared or are incomplete."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from analysis.report import main

FULL, SMALL = ("prompt_tuning", 10, None), ("lopt1", 10, 1)


def write_run(store, name, cells, accuracy, n=100, folder="tickets", **changes) -> Path:
    """Write a run whose trials are right on the first examples. All runs have the same classes at the same ids."""
    run = store(name=name, task=f"/data/{folder}", cells=cells, test_n=n, split_size=changes.pop("split_size", n))
    for cell in cells:
        for seed in range(3):
            record = run.confirm(*cell, accuracy, config__seed=seed, **changes)
            run.predict(record, np.arange(n) < accuracy * n + seed)
    return run.write()


def report(capsys, out: Path, *arguments: object) -> tuple[str, str]:
    """Write a report; return what is printed, and the Markdown page."""
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
    runs = [write_run(store, "a", [FULL], 0.9, **first), write_run(store, "b", [SMALL], 0.6, **second)]
    for order in (runs, runs[::-1]):
        printed, page = report(capsys, tmp_path / "out", *order)
        for text in (printed, page):
            assert "not all cells were scored on the same test examples" in text
            assert "LoPT-1 n=10 r=1" in text.split("scored on the same test examples")[1].split("\n")[0]
        assert "minus the reference" not in page
        assert "no test is possible: it needs predictions of confirmed trials on the same test examples" in page


def test_a_whole_split_is_the_same_although_the_subset_settings_differ(store, tmp_path, capsys):
    first = write_run(store, "a", [FULL], 0.9, config__data_seed=1, config__data_revision="one")
    second = write_run(
        store, "b", [SMALL], 0.6, config__data_seed=2, config__data_revision="one", config__test_examples=100
    )
    _, page = report(capsys, tmp_path / "out", first, second)
    assert "not all cells" not in page
    assert "smaller cell was compared with the reference on the same test examples" in page


def test_different_weights_in_one_folder_are_named(store, tmp_path, capsys):
    runs = []
    for name, cell in (("a", FULL), ("b", SMALL)):
        run = store(name=name, backbone="/models/mine", cells=[cell])
        run.confirm(*cell, 0.8, config__model_revision=f"weights of {name}")
        runs.append(run.write())
    printed, _ = report(capsys, tmp_path / "out", *runs)
    assert "did not hold the same weights" in printed
    assert "weights of a (Prompt tuning n=10)" in printed
    assert "weights of b (LoPT-1 n=10 r=1)" in printed


def test_a_warning_about_two_metrics_comes_before_the_answer(store, tmp_path, capsys):
    first = write_run(store, "a", [FULL], 0.9)
    second = write_run(store, "b", [SMALL], 0.8)
    for file in (second / "trials").iterdir():
        record = json.loads(file.read_text())
        record["config"]["metric"] = "macro_f1"
        for evaluation in record["evaluations"]:
            evaluation["selection_macro_f1"] = evaluation["selection_accuracy"]
        file.write_text(json.dumps(record))
    printed, page = report(capsys, tmp_path / "out", first, second)
    for text in (printed, page):
        assert text.index("selected by different metrics (accuracy, macro-F1)") < text.index("On tickets with")


def test_two_runs_on_different_texts_have_no_difference_on_the_same_examples(store, tmp_path, capsys):
    runs = [write_run(store, name, [FULL, SMALL], 0.8, config__data_revision=name) for name in ("a", "b")]
    printed, page = report(capsys, tmp_path / "out", "--compare", *runs)
    for text in (printed.replace("\\", ""), page):
        (row,) = [line for line in text.splitlines() if line.startswith("| Prompt tuning")]
        assert row.endswith("| +0.0 |")
        (note,) = [line for line in text.splitlines() if "Not scored on the same" in line]
        assert "Prompt tuning n=10" in note and "data revision a; b on" in note


def test_a_folder_that_moved_between_two_runs_is_still_compared(store, tmp_path, capsys):
    first = write_run(store, "a", [FULL, SMALL], 0.8, config__data_revision="one", folder="ann/tickets")
    second = write_run(store, "b", [FULL, SMALL], 0.7, config__data_revision="one", folder="bob/tickets")
    printed, _ = report(capsys, tmp_path / "out", "--compare", first, second)
    assert "not confirmed" not in printed
    assert printed.count("−10.0 \\[") == 2


def test_two_runs_with_the_same_name_are_called_by_their_paths(store, tmp_path, capsys):
    first = write_run(store, "a", [FULL], 0.8)
    second = first.rename(first.with_name("copy"))
    first = write_run(store, "a", [FULL], 0.7)
    printed, _ = report(capsys, tmp_path / "out", "--compare", first, second)
    assert f"{first}: test %" in printed.replace("\\", "") and f"{second}: test %" in printed.replace("\\", "")


def test_selecting_on_half_of_the_reported_split_is_not_called_training_examples(store, tmp_path, capsys):
    path = write_run(store, "a", [FULL, SMALL], 0.8, split_size=200, config__holdout="validation")
    _, page = report(capsys, tmp_path / "out", path)
    assert "128 examples of the reported split that are not scored, each of which counts for 0.78 pp" in page
    assert "held-out training examples" not in page


def test_a_copy_of_a_record_is_reported_once(store, tmp_path, capsys):
    path = write_run(store, "a", [FULL, SMALL], 0.8)
    file = next((path / "trials").iterdir())
    file.with_name(f"{file.stem} (1).json").write_bytes(file.read_bytes())
    _, page = report(capsys, tmp_path / "out", path)
    assert "1 record repeats a trial that has a record already. Each trial counts once." in page


def test_missing_confirmed_seeds_are_named(store, tmp_path, capsys):
    path = write_run(store, "a", [FULL, SMALL], 0.8)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["space"]["confirm_seeds"] = 3
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert "Fewer confirmed seeds" not in report(capsys, tmp_path / "out", path)[0]
    for file in (path / "trials").iterdir():
        config = json.loads(file.read_text())["config"]
        if config["method"] == "lopt1" and config["seed"]:
            file.unlink()
    printed, _ = report(capsys, tmp_path / "out", path)
    assert "Fewer confirmed seeds than the 3 planned: LoPT-1 n=10 r=1 (1)." in printed


def test_one_frozen_matrix_for_all_seeds_is_noted(store, tmp_path, capsys):
    lopt2 = ("lopt2", 10, 2)
    fixed_run = write_run(store, "a", [lopt2], 0.8, config__options={"x0_seed": 0})
    drawn_run = write_run(store, "b", [lopt2], 0.8, config__options={"x0_seed": None})
    note = "LoPT-2 has one frozen random matrix for all seeds (x0_seed = 0)"
    assert note in report(capsys, tmp_path / "fixed", fixed_run)[1]
    assert note not in report(capsys, tmp_path / "drawn", drawn_run)[1]


def write_same_trials(store, name, correct) -> Path:
    """Write a run whose trials have the same keys in every such run; seed i is right on `correct` + i examples."""
    run = store(name=name, cells=[FULL, SMALL], test_n=100, split_size=100)
    for i, cell in enumerate((FULL, SMALL)):
        for seed in range(3):
            record = run.confirm(*cell, 0.8, config__seed=seed, key=f"{i}{seed:015x}")
            run.predict(record, np.arange(100) < correct + seed)
    return run.write()


def test_a_record_with_predictions_replaces_its_copy_without(store, tmp_path, capsys):
    bare, whole = write_same_trials(store, "bare", 80), write_same_trials(store, "whole", 80)
    shutil.rmtree(bare / "predictions")
    for order in ((bare, whole), (whole, bare)):
        printed, page = report(capsys, tmp_path / "out", *order)
        assert "cannot be used" not in printed
        assert "6 records repeat trials that have a record already. Each trial counts once." in page
        assert "other results" not in page


def test_two_results_of_one_trial_are_noted(store, tmp_path, capsys):
    runs = write_same_trials(store, "here", 80), write_same_trials(store, "there", 70)
    _, page = report(capsys, tmp_path / "out", *runs)
    assert "6 records repeat trials that have a record already. Each trial counts once." in page
    assert "Repeated records with other results: 6. The run given first counts." in page
