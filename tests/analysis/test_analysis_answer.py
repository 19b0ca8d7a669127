"""The answer at the top of a report."""

import json

import pytest

from analysis.cells import groups
from analysis.comparisons import pending_reference, reference_cell
from analysis.headline import headline
from analysis.load import load
from tests.analysis.known_sweeps import REFERENCE, lopt_cells, write_known_run

FIRST, SECOND = lopt_cells(1, 2)


def only_group(path, **options):
    (group,) = groups(load([path], **options))
    return group


def declare(path, reference):
    """Write the reference into the manifest of a run."""
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["space"]["reference"] = reference
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def test_the_smallest_cell_that_is_shown_to_be_as_good_is_recommended(store):
    path = write_known_run(store, {REFERENCE: 0.85, FIRST: 0.80, SECOND: 0.85}, n=20_000, seeds=8)
    result = headline(only_group(path))
    assert result.recommendation.cell.rank == 2
    assert result.answer.startswith(
        "On movie_snippets with SmolLM2-135M-Instruct, LoPT-1 n=10 r=2 (1,172 parameters) is shown to be as good as "
        "the reference, full prompt tuning (n = 10, 5,760 parameters), within 1 pp. It reaches "
    )
    assert result.answer.endswith("It trains 4.9 times fewer parameters.")
    details = " ".join(result.details)
    assert "Shown to be worse than the reference by more than 1 pp: LoPT-1 n=10 r=1 (−5" in details
    assert "So the chance that any of these verdicts is wrong is at most 5 %." in details


def test_a_worse_cell_is_not_recommended_although_its_held_out_score_is_higher(store):
    path = write_known_run(store, {REFERENCE: 0.85, FIRST: 0.80}, held_out={REFERENCE: 0.8, FIRST: 0.9})
    result = headline(only_group(path))
    assert result.recommendation.cell.method == "prompt_tuning"
    assert "the only smaller cell is shown to be worse than the reference" in result.answer
    assert "The recommendation is the reference, which reaches 8" in result.answer


def test_the_answer_uses_the_declared_margin(store):
    path = write_known_run(store, {REFERENCE: 0.85, FIRST: 0.82})
    assert "as good as the reference, full prompt tuning (n = 10, 5,760 parameters), within 5 pp" in (
        headline(only_group(path, margin=0.05)).answer
    )
    result = headline(only_group(path))
    assert "by more than 1 pp" in result.answer
    assert any("128 held-out training examples, each of which counts for 0.78 pp" in text for text in result.details)


def test_a_cell_larger_than_the_reference_is_not_tested(store):
    path = write_known_run(store, {REFERENCE: 0.8, ("dept", 20, 5): 0.9}, n=1000)
    result = headline(only_group(path))
    assert "no confirmed cell has fewer parameters than the reference" in result.answer
    assert "The best cell on the held-out data is DePT n=20 r=5" in " ".join(result.details)
    assert not result.recommendation.tested


def test_the_reference_is_the_declared_cell_and_otherwise_the_longest_prompt(store):
    longest = ("prompt_tuning", 20, None)
    path = write_known_run(store, {REFERENCE: 0.85, longest: 0.84, FIRST: 0.85}, n=600, held_out={REFERENCE: 0.9})
    assert reference_cell(only_group(path)).length == 20, "its accuracy does not matter"
    assert reference_cell(only_group(declare(path, {"method": "prompt_tuning", "length": 10}))).length == 10
    assert reference_cell(only_group(declare(path, {"method": "lopt1"}))).label == "LoPT-1 n=10 r=1"
    group = only_group(declare(path, {"method": "prompt_tuning", "length": 11}))
    assert reference_cell(group) is None
    assert "because no cell is the reference that the space declares (Prompt tuning with length = 11)" in (
        headline(group).answer
    )


def test_any_field_of_a_trial_can_declare_the_reference(store):
    """The fields that the report does not flatten into its own trials count, too."""
    path = write_known_run(store, {REFERENCE: 0.85, FIRST: 0.85}, n=600)
    assert reference_cell(only_group(declare(path, {"optimizer": "adafactor"}))).label == "Prompt tuning n=10"
    assert reference_cell(only_group(declare(path, {"optimizer": "adamw"}))) is None
    assert reference_cell(only_group(declare(path, {"dropout": 0.0}))) is not None, "records without it have 0"


def test_a_reference_that_is_not_confirmed_yet_leaves_no_answer(store):
    """A shorter prompt that is confirmed does not take its place."""
    run = store(cells=[REFERENCE, ("prompt_tuning", 20, None), FIRST])
    for cell in (REFERENCE, FIRST):
        run.confirm(*cell, 0.8)
    group = only_group(run.write())
    assert reference_cell(group) is None and pending_reference(group).length == 20
    answer = headline(group).answer
    assert (
        "there is no answer yet, because the reference, full prompt tuning (n = 20, 11,520 parameters), is planned "
        "but not confirmed. The best cell on the held-out data is"
    ) in answer


def test_smaller_cells_that_are_planned_but_not_confirmed_are_named(store):
    path = write_known_run(store, {REFERENCE: 0.85, FIRST: 0.85}, n=600)
    manifest = json.loads((path / "manifest.json").read_text())
    cell = {"name": "lopt1 n=10 r=5", "config": {"method": "lopt1", "length": 10, "rank": 5}}
    manifest["space"]["cells"].append(cell | {"trainable_parameters": 2930})
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert "Not known, because planned but not confirmed: LoPT-1 n=10 r=5." in headline(only_group(path)).details


def test_a_damaged_reference_is_named(store):
    path = declare(write_known_run(store, {REFERENCE: 0.85, FIRST: 0.85}, n=100), 5)
    with pytest.raises(ValueError, match="`reference` is"):
        load([path])


def test_the_reason_for_the_smallest_cell_does_not_name_an_unknown_baseline(store):
    path = write_known_run(store, {REFERENCE: 0.85, FIRST: 0.80, SECOND: 0.85}, n=20_000, seeds=8)
    (path / "baselines.json").unlink()
    result = headline(only_group(path))
    assert result.recommendation.cell.rank == 2
    text = " ".join((result.answer, *result.details))
    assert "It is the smallest cell for which this is shown." in text and "without a prompt" not in text


def test_cells_that_are_passed_over_are_named(store):
    """Both small cells are as good as the weak reference, but only the second is shown to be above no prompt."""
    path = write_known_run(
        store, {REFERENCE: 0.75, FIRST: 0.76, SECOND: 0.82}, n=5000, seeds=6, no_prompt=0.77, spread=0.001
    )
    result = headline(only_group(path))
    assert result.recommendation.cell.rank == 2
    text = " ".join(result.details)
    assert "this is shown and which is shown to be above that without a prompt. As good as the reference, but" in text
    assert "but not shown to be above no prompt: LoPT-1 n=10 r=1." in text
    assert "is wrong is at most 10 % in all" in text, "four kinds of statements have 2.5 % each"


def test_every_smaller_cell_means_every_confirmed_one(store):
    path = write_known_run(store, {REFERENCE: 0.85, FIRST: 0.75, SECOND: 0.75}, n=2000)
    assert "both smaller cells are shown to be worse" in headline(only_group(path)).answer
    manifest = json.loads((path / "manifest.json").read_text())
    cell = {"name": "lopt1 n=10 r=5", "config": {"method": "lopt1", "length": 10, "rank": 5}}
    manifest["space"]["cells"].append(cell | {"trainable_parameters": 2930})
    (path / "manifest.json").write_text(json.dumps(manifest))
    result = headline(only_group(path))
    assert "both confirmed smaller cells are shown to be worse" in result.answer
    assert result.answer.endswith("Smaller, but not confirmed yet: LoPT-1 n=10 r=5.")
    assert result.short_answer.endswith(
        "every confirmed smaller cell is shown to be worse by more than 1 pp (not confirmed yet: LoPT-1 n=10 r=5)"
    )


def test_a_result_is_exploratory_only_if_its_own_cells_have_few_seeds(store):
    """Fine-tuning has the best held-out accuracy and one seed, but the answer does not rest on it."""
    fine_tuning = ("fine_tuning", None, None)
    path = write_known_run(
        store, {REFERENCE: 0.85, FIRST: 0.75, fine_tuning: 0.95}, held_out={fine_tuning: 0.99}, n=1000, seeds=4
    )
    trials = [(file, json.loads(file.read_text())) for file in sorted((path / "trials").iterdir())]
    for file, _ in [pair for pair in trials if pair[1]["config"]["method"] == "fine_tuning"][1:]:
        file.unlink()
    result = headline(only_group(path))
    assert result.exploratory_warning is None
    assert any(
        "The best cell on the held-out data is" in text and "with only 1 seed." in text for text in result.details
    )
    for file, _ in [pair for pair in trials if pair[1]["config"]["method"] == "lopt1"][2:]:
        file.unlink()
    assert "exploratory: with 2 seeds" in headline(only_group(path)).exploratory_warning


def test_each_accuracy_without_training_has_its_own_sentence_in_the_answer(store):
    """The recommended reference is above the accuracy without a prompt, but not above that of the majority class."""
    path = write_known_run(store, {REFERENCE: 0.6, FIRST: 0.5}, n=3000, no_prompt=0.4)
    baselines = json.loads((path / "baselines.json").read_text())
    (path / "baselines.json").write_text(json.dumps([baselines[0] | {"majority_accuracy": 0.6}]))
    group = only_group(path)
    answer, accuracy = headline(group).answer, reference_cell(group).accuracy.mean
    assert "is not wholly above the 60.0 % for the majority class, so it is not shown to do better than" in answer
    assert "training helps" not in answer
    (path / "baselines.json").write_text(
        json.dumps([baselines[0] | {"zero_shot_accuracy": round(accuracy - 0.001, 6)}])
    )
    result = headline(only_group(path))
    assert "% without a prompt, so it is not shown that training helps." in result.answer
    assert "majority" not in result.answer


@pytest.mark.parametrize("cell_count", [1, 40])
def test_to_be_above_no_prompt_is_corrected_for_the_number_of_cells(store, cell_count):
    """The lower end of one cell's 95 % interval lies just above no prompt. Among 40 cells this is no evidence."""
    cells = [REFERENCE, *lopt_cells(*range(1, cell_count + 1))]
    run = store(cells=cells, test_n=1000)
    for cell in cells:
        for seed in range(3):
            run.confirm(*cell, {REFERENCE: 0.5, cells[-1]: 0.62}.get(cell, 0.55), config__seed=seed)
    recommendation = headline(only_group(run.write())).recommendation  # without a prompt, the accuracy is 58 %
    assert recommendation.outcome == ("weak reference" if cell_count == 1 else "no prompt")


def test_a_statement_of_its_own_level_states_the_chance_of_all(store):
    path = write_known_run(store, {REFERENCE: 0.80, FIRST: 0.90}, n=3000)
    (text,) = [text for text in headline(only_group(path)).details if text.startswith("Shown to be better")]
    assert "against the reference is wrong is at most 7.5 % in all" in text


def test_a_free_search_names_its_best_cell_once_and_an_answer_few_cells(store):
    path = write_known_run(store, dict.fromkeys([REFERENCE, *lopt_cells(1, 2, 3, 4, 5)], 0.85), n=100, seeds=2)
    undecided = "Undecided: LoPT-1 n=10 r=1, LoPT-1 n=10 r=2, LoPT-1 n=10 r=3, and 2 more."
    assert undecided in headline(only_group(path)).answer
    result = headline(only_group(declare(path, {"method": "prompt_tuning", "length": 11})))
    assert " ".join((result.answer, *result.details)).count("The best cell on the held-out data is") == 1
