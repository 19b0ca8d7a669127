"""The scores of the kept prompt on the whole held-out part, and the winner that they choose."""

import dataclasses

import pytest

from lopt import evaluation, train
from lopt.data import prepare_data, prepare_held_out
from lopt.training import Trial
from sweeps.search.winners import winner


def finished(config, phase="search"):
    trial = Trial(config, phase=phase)
    for _ in trial:
        pass
    return trial, trial.finish()


@pytest.mark.parametrize("holdout", ["train", "validation"])
def test_the_whole_held_out_part_holds_the_selection_examples_and_no_training_example(tiny, holdout):
    config = tiny.replace(selection_examples=8, holdout=holdout)
    trial = Trial(config, phase="search")
    data, held_out = prepare_data(trial.config, trial.backbone), prepare_held_out(trial.config, trial.backbone)
    whole_selection = prepare_data(trial.config.replace(selection_examples=None), trial.backbone).selection
    assert list(held_out.token_ids) == list(whole_selection.token_ids)
    assert {*data.selection.example_ids.tolist()} < {*held_out.example_ids.tolist()}
    if holdout == "train":
        assert not {*data.train.example_ids.tolist()} & {*held_out.example_ids.tolist()}


def test_a_complete_search_trial_is_scored_on_the_whole_part_with_its_best_prompt(tiny):
    trial, record = finished(tiny.replace(selection_examples=8, learning_rate=0.5))
    held_out = prepare_held_out(trial.config, trial.backbone)
    soft_prompt = trial.best_prompt().soft_prompt
    predictions = evaluation.predict_split(trial.backbone, soft_prompt, held_out, trial.label_ids)
    assert record.held_out_n == len(held_out) > record.selection_n == 8
    assert record.held_out_accuracy == predictions.accuracy
    assert record.held_out_loss == pytest.approx(predictions.loss)
    assert record.held_out_score == record.held_out_accuracy
    assert record.test_accuracy is None, "the reported split is not touched"


def test_evaluations_on_the_whole_part_are_not_repeated(tiny, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("scored again")

    monkeypatch.setattr("lopt.final_scores.predict_split", fail)
    _, record = finished(tiny.replace(selection_examples=None))
    assert record.held_out_accuracy == record.selection_accuracy
    assert record.held_out_n == record.selection_n


def test_confirm_trials_have_both_scores(tiny):
    record = train(tiny.replace(selection_examples=8))
    assert record.held_out_n > 8 and record.test_n
    assert record.held_out_accuracy is not None and record.test_accuracy is not None


def test_stopped_and_diverged_trials_have_none(tiny):
    trial = Trial(tiny.replace(selection_examples=8), phase="search")
    for _ in trial:
        break
    assert trial.finish().held_out_accuracy is None


def test_macro_f1_has_its_own_score(tiny):
    _, record = finished(tiny.replace(selection_examples=8, metric="macro_f1"))
    assert record.held_out_score == record.held_out_macro_f1 is not None


def test_the_winner_is_chosen_on_the_whole_part(tiny):
    _, record = finished(tiny.replace(selection_examples=8))
    lucky = dataclasses.replace(record, key="a" * 16, selection_accuracy=1.0, held_out_accuracy=0.6)
    good = dataclasses.replace(record, key="b" * 16, selection_accuracy=0.9, held_out_accuracy=0.8)
    earlier = dataclasses.replace(record, key="c" * 16, selection_accuracy=0.95, held_out_accuracy=None)
    stopped = dataclasses.replace(lucky, key="d" * 16, status="stopped")
    assert winner([lucky, good, stopped]) is good
    assert winner([lucky, good, earlier]) is lucky, "a trial of an earlier version has its best evaluation only"


def test_few_shot_trials_see_no_more_labelled_examples_than_their_shots(tiny):
    _, record = finished(tiny.replace(shots=2))
    assert record.held_out_n == record.selection_n == 4


def test_a_subset_of_the_held_out_part_is_enough_if_it_is_asked_for(tiny):
    trial, record = finished(tiny.replace(selection_examples=8, held_out_examples=20))
    held_out, whole = (
        prepare_held_out(trial.config, trial.backbone),
        prepare_held_out(trial.config.replace(held_out_examples=None), trial.backbone),
    )
    assert record.held_out_n == len(held_out) == 20 < len(whole)
    assert {*held_out.example_ids.tolist()} < {*whole.example_ids.tolist()}
    assert abs(held_out.labels.mean() - whole.labels.mean()) <= 1 / 20, "stratified"
