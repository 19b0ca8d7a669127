"""Tasks of GLUE and SuperGLUE with metrics of their own: on small files of the hub's form, and on the real ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from lopt import data, metrics, tasks
from lopt.backbones import load
from lopt.config import TrialConfig, reported_metrics
from lopt.data import prepare_data, prepare_held_out
from lopt.evaluation import measure_baselines
from lopt.examples import load_split
from lopt.records import TrialRecord
from lopt.training import Trial

# The columns of the hub's data sets beside the label, and the type of the label.
HUB_COLUMNS = {
    "mrpc": (["sentence1", "sentence2"], int),
    "cola": (["sentence"], int),
    "stsb": (["sentence1", "sentence2"], float),
    "multirc": (["paragraph", "question", "answer"], int),
    "mnli": (["premise", "hypothesis"], int),
    "qqp": (["question1", "question2"], int),
    "qnli": (["question", "sentence"], int),
    "wnli": (["sentence1", "sentence2"], int),
    "wsc": (["text", "span1_text", "span2_text"], int),
    "scitail": (["premise", "hypothesis"], str),
    "paws_wiki": (["sentence1", "sentence2"], int),
    "yelp_2": (["text"], int),
    "winogrande": (["sentence", "option1", "option2"], str),
}
REAL_SPLITS = {  # of the training split and the reported split
    "mrpc": (3_668, 408),
    "cola": (8_551, 1_043),
    "stsb": (5_749, 1_500),
    "multirc": (27_240, 4_848),  # three of 27,243 rows have no answer
}


def hub_rows(name, count):
    """Rows of the hub's form: MultiRC has 4 answers to each of 3 questions on a paragraph."""
    task, (columns, label_type) = tasks.get(name), HUB_COLUMNS[name]
    class_count, rows = len(task.classes), []
    for i in range(count):
        row = {column: f"{column} {i if name != 'multirc' else i // 12} of {name}" for column in columns}
        label = {int: i % class_count, float: (i % 11) / 2, str: task.classes[i % class_count]}[label_type]
        row[task.label] = label
        if name == "multirc":
            row |= {"answer": f"answer {i}", "idx": {"paragraph": i // 12, "question": i // 4, "answer": i}}
        rows.append(row)
    return rows


@pytest.fixture
def hub_files(tmp_path, monkeypatch):
    """A mirror with a few made-up rows of every task."""
    monkeypatch.setenv("LOPT_DATA_DIR", str(tmp_path))
    for name in HUB_COLUMNS:
        (tmp_path / name).mkdir()
        task = tasks.get(name)
        for split, count in ((task.train, 480), (task.report, 96)):
            table = pyarrow.Table.from_pylist(hub_rows(name, count))
            pyarrow.parquet.write_table(table, tmp_path / name / f"{split}.parquet")
    return tmp_path


@pytest.fixture
def real_data(shared, monkeypatch):
    monkeypatch.setenv("LOPT_DATA_DIR", str(shared / "data"))


def trial_config(name, **changes):
    settings = {"method": "lopt1", "task": name, "backbone": "tiny", "length": 3, "rank": 1, "learning_rate": 0.3,
                "batch_size": 8, "max_steps": 4, "eval_every": 2, "precision": "fp32"}  # fmt: skip
    return TrialConfig(**{**settings, **changes})


@pytest.mark.parametrize("name", HUB_COLUMNS)
def test_files_of_the_hubs_form_are_read_and_trained_on(name, hub_files):
    config, task = trial_config(name), tasks.get(name)
    trial = Trial(config)
    for evaluation in trial:
        assert evaluation.score(task.metric) is not None
    record = trial.finish()
    assert record.status == "complete" and record.metric == task.metric
    assert {metric for metric in reported_metrics(config) if metric not in ("accuracy", "macro_f1")} == set(
        record.test_scores
    )
    expected = metrics.get(task.metric).score(trial.predictions.answers)
    assert record.test_score == expected
    assert record.held_out_score is not None and record.selection_score is not None
    assert TrialRecord.from_dict(record.to_dict()) == record
    assert record.to_row()["test_score"] == expected


def test_a_record_of_a_number_is_scored_by_the_expected_number(hub_files):
    trial = Trial(trial_config("stsb"))
    for _ in trial:
        pass
    trial.finish()
    predictions = trial.predictions
    exponentials = np.exp(predictions.logits - predictions.logits.max(axis=1, keepdims=True))
    expected = (exponentials / exponentials.sum(axis=1, keepdims=True)) @ np.arange(6.0)
    np.testing.assert_allclose(predictions.answers.predicted_numbers, expected)
    assert sorted(set(predictions.gold_numbers)) == [i / 2 for i in range(11)]
    assert set(predictions.gold[predictions.gold_numbers == 2.5]) == {2}, "the nearest class, the lower of two"


def test_the_best_evaluation_is_that_of_the_metric(hub_files):
    trial = Trial(trial_config("multirc", metric="exact_match", max_steps=8, eval_every=1))
    scores = [evaluation.score("exact_match") for evaluation in trial]
    assert trial.best.score("exact_match") == max(scores)
    assert trial.finish().selection_score == max(scores)


@pytest.mark.parametrize("name", ["mrpc", "stsb", "multirc"])
def test_baselines_give_the_metric_too(name, hub_files):
    baseline, task = measure_baselines(trial_config(name)), tasks.get(name)
    assert set(baseline["zero_shot_scores"]) == set(baseline["majority_scores"]) == {task.metric, *task.reports}
    if "accuracy" in task.reports:
        assert baseline["zero_shot_scores"]["accuracy"] == baseline["zero_shot_accuracy"]
        assert baseline["majority_scores"]["accuracy"] == baseline["majority_accuracy"]
    if name == "stsb":
        assert baseline["majority_scores"]["pearson"] == 0.0


@pytest.mark.parametrize("holdout", ["train", "validation"])
def test_parts_have_whole_paragraphs_and_subsets_whole_questions(hub_files, holdout):
    config, backbone = trial_config("multirc", holdout=holdout, selection_examples=10), load("tiny", "fp32")
    parts, held_out = prepare_data(config, backbone), prepare_held_out(config, backbone)

    def paragraphs(examples):
        return set(examples.groups[:, 0])

    other = parts.test if holdout == "validation" else parts.train
    assert not paragraphs(held_out) & paragraphs(other), "no paragraph is on both sides"
    assert set(np.unique(held_out.groups[:, 0], return_counts=True)[1]) == {12}, "whole paragraphs"
    assert set(np.unique(parts.selection.groups[:, 1], return_counts=True)[1]) == {4} and len(parts.selection) == 8
    assert "whole groups" in parts.protocol


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("label", [1.5, 5.5], ["`label` is 5.5", "a number from 0 to 5"]),
        ("label", [1.5, -1.0], ["`label` is -1.0"]),
        ("label", [1.5, None], ["`label` is None"]),
        ("label", ["2", "two"], ["`label` is 'two'"]),
    ],
)
def test_a_row_without_a_number_is_named(hub_files, column, values, words):
    rows = [{**row, column: value} for row, value in zip(hub_rows("stsb", 2), values, strict=True)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), hub_files / "stsb" / "train.parquet")
    data._load_splits.cache_clear()
    with pytest.raises(ValueError) as caught:
        load_split(tasks.get("stsb"), "train")
    assert all(word in str(caught.value) for word in [*words, "row 1"])


def test_a_row_without_its_group_is_named(hub_files):
    rows = hub_rows("multirc", 3)
    rows[1]["idx"] = {"paragraph": None, "question": 0, "answer": 1}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), hub_files / "multirc" / "train.parquet")
    with pytest.raises(ValueError, match=r"row 1: `idx\.paragraph`, which names the row's group, is None"):
        load_split(dataclasses.replace(tasks.get("multirc"), bad_rows="refuse"), "train")


@pytest.mark.parametrize("name", REAL_SPLITS)
def test_the_real_files_load_completely(name, real_data):
    task = tasks.get(name)
    train, reported = load_split(task, task.train), load_split(task, task.report)
    assert (len(train), len(reported)) == REAL_SPLITS[name]
    assert len(reported) == task.report_size
    if name == "multirc":
        groups = np.array([example.groups for example in reported])
        assert (len(set(groups[:, 0])), len(set(groups[:, 1]))) == (83, 953)


@pytest.mark.parametrize("model", ["gpt2", "t5-base"])
@pytest.mark.parametrize("name", HUB_COLUMNS)
def test_the_label_words_are_different_single_tokens(name, model, shared):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers" / model)
    ids = tokenizer(list(tasks.get(name).label_words), add_special_tokens=False)["input_ids"]
    assert {len(word_ids) for word_ids in ids} == {1}
    assert len({word_ids[0] for word_ids in ids}) == len(ids)
