"""Every metric against scikit-learn or scipy, or against a count by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from lopt import metrics
from lopt.config import TrialConfig
from lopt.metrics import Answers, Predictions

CASES = range(200)


def random_answers(case):
    """Classes that agree more or less, some of them never true or never predicted, and numbers with ties."""
    generator = np.random.default_rng(case)
    count, class_count = int(generator.integers(2, 60)), int(generator.integers(2, 6))
    gold = generator.integers(0, generator.integers(1, class_count + 1), count)
    is_copied = generator.random(count) < generator.random()
    predicted = np.where(is_copied, gold, generator.integers(0, class_count, count))
    gold_numbers = generator.integers(0, 11, count) / 2
    return Answers(
        gold=gold,
        predicted=predicted,
        class_count=class_count,
        groups=np.stack([question := np.sort(generator.integers(0, 9, count)) // 3, question], axis=1)
        if case % 2
        else np.stack([(question := np.sort(generator.integers(0, 9, count))) // 3, question + 9], axis=1),
        gold_numbers=gold_numbers,
        predicted_numbers=gold_numbers * is_copied + np.round(generator.normal(0, 2, count), 1),
    )


def reference(name, answers):
    gold, predicted, labels = answers.gold, answers.predicted, list(range(answers.class_count))
    numbers = answers.gold_numbers, answers.predicted_numbers
    f1_by_class = sklearn_metrics.f1_score(gold, predicted, labels=labels, average=None, zero_division=0)
    return {
        "accuracy": lambda: sklearn_metrics.accuracy_score(gold, predicted),
        "f1": lambda: f1_by_class[1],
        "f1:0": lambda: f1_by_class[0],
        "f1a": lambda: f1_by_class[1],
        "macro_f1": lambda: sklearn_metrics.f1_score(gold, predicted, labels=labels, average="macro", zero_division=0),
        "matthews": lambda: sklearn_metrics.matthews_corrcoef(gold, predicted),
        "pearson": lambda: scipy.stats.pearsonr(*numbers).statistic,
        "spearman": lambda: scipy.stats.spearmanr(*numbers).statistic,
        "exact_match": lambda: exact_match(answers),
    }[name]()


def exact_match(answers):
    is_right_by_question = {}
    for group, gold, predicted in zip(answers.groups.tolist(), answers.gold, answers.predicted, strict=True):
        is_right_by_question.setdefault(tuple(group), []).append(gold == predicted)
    return np.mean([all(is_right) for is_right in is_right_by_question.values()])


@pytest.mark.parametrize("name", [*metrics.names(), "f1:0"])
@pytest.mark.filterwarnings("ignore::scipy.stats.ConstantInputWarning", "ignore::scipy.stats.NearConstantInputWarning",
                            "ignore:A single label was found")  # fmt: skip
def test_each_metric_is_that_of_the_library_on_two_hundred_cases(name):
    metric = metrics.get(name)
    for case in CASES:
        answers = random_answers(case)
        expected = reference(name, answers)
        expected = 0.0 if np.isnan(expected) else expected  # scipy's answer where one side is constant
        score = metric.score(answers)
        assert score == pytest.approx(expected, abs=1e-12)
        assert metric.lowest <= score <= metric.highest
        if (example_scores := metric.example_scores(answers)) is not None:
            assert example_scores.mean() == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize("name", [*metrics.names(), "f1:0"])
def test_the_scores_without_each_example_are_those_of_the_other_examples(name):
    metric = metrics.get(name)
    for case in range(30):
        answers = random_answers(case)
        others = [np.arange(len(answers)) != i for i in range(len(answers))]
        expected = [metric.score(answers.take(other)) for other in others]
        np.testing.assert_allclose(metric.scores_without_each(answers), expected, atol=1e-10)


@pytest.mark.parametrize("name", metrics.names())
def test_right_answers_have_the_highest_score_and_one_answer_has_a_score(name):
    metric, numbers = metrics.get(name), np.array([0.0, 1.0, 3.0, 1.0])
    gold = np.array([0, 1, 1, 0])
    answers = Answers(gold=gold, predicted=gold, class_count=2, groups=np.array([[0, 1], [0, 1], [0, 2], [3, 4]]),
                      gold_numbers=numbers, predicted_numbers=numbers)  # fmt: skip
    assert metric.score(answers) == pytest.approx(metric.highest)
    assert metric.lowest <= metric.score(answers.take(np.arange(1))) <= metric.highest


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=2), st.integers(1, 5))
def test_a_predicted_number_is_the_expected_one(logits, largest):
    numbers = np.array([0.0, largest])
    predictions = Predictions(np.arange(1), np.array([0]), np.array([logits]), gold_numbers=np.array([0.5]),
                              class_numbers=numbers)  # fmt: skip
    expected = largest / (1 + np.exp(logits[0] - logits[1]))
    assert predictions.predicted_numbers == pytest.approx([expected], abs=1e-9)
    assert predictions.answers.predicted_numbers == pytest.approx([expected], abs=1e-9)


def test_a_class_may_follow_the_name_of_a_metric():
    config = TrialConfig(method="lopt1", task="sst2", backbone="tiny", length=3, rank=1, metric="f1:negative")
    assert config.metric == "f1:0" and metrics.title(config.metric) == "F1 of class 0"
    assert config.replace(metric="f1:positive").metric == "f1"
    assert config.replace(metric="f1:0") == config and config.replace(metric=None).metric == "accuracy"


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("f1:postive", ["'f1:postive'", "negative, positive", "Did you mean 'positive'"]),
        ("f1:2", ["'f1:2'", "negative, positive"]),
        ("accuracy:positive", ["accuracy takes no argument"]),
        ("pearson", ["answers that are numbers", "accuracy, f1, macro_f1, matthews"]),
        ("exact_match", ["examples that have groups"]),
        ("mathews", ["Did you mean 'matthews'"]),
        (3, ["metric is 3", "accuracy"]),
    ],
)
def test_a_metric_that_does_not_fit_the_task_is_refused_in_one_line(metric, words):
    with pytest.raises(ValueError) as error:
        TrialConfig(method="lopt1", task="sst2", backbone="tiny", length=3, rank=1, metric=metric)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_a_metric_of_a_later_version_is_called_by_its_name():
    assert metrics.title("rouge") == "rouge" and metrics.title("macro_f1") == "macro-F1"
