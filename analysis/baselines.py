"""Scores that need no training: those of the backbone without a prompt, and of the majority class."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from analysis.json_fields import (
    get_fraction,
    get_integer,
    get_objects,
    get_optional_object,
    get_optional_text,
    get_text,
)

_ACCURACY = "accuracy"


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Accuracies that need no training, on `test_n` examples of the reported split, as fractions.

    `zero_shot_accuracy` is the accuracy of the backbone without any prompt. `majority_accuracy` is the accuracy of
    always predicting the most frequent class.
    """

    backbone: str
    task: str
    test_split: str | None
    test_n: int | None
    zero_shot_accuracy: float | None
    majority_accuracy: float | None
    zero_shot_scores: Mapping[str, float] = field(default_factory=dict)
    majority_scores: Mapping[str, float] = field(default_factory=dict)

    def score(self, kind: str, metric: str) -> float | None:
        """Return the score of one kind ("zero_shot" or "majority") by a metric; None if it is not known."""
        accuracy: float | None = getattr(self, f"{kind}_accuracy")
        scores: Mapping[str, float] = getattr(self, f"{kind}_scores")
        return accuracy if metric == _ACCURACY else scores.get(metric)


def parse_baselines(content: Any) -> list[Baseline]:
    """Return the baselines in a run's file. Raise ValueError if an entry is missing or has a wrong type."""
    if not isinstance(content, list):
        raise ValueError("not a list of baselines")
    return [
        Baseline(
            backbone=get_text(baseline, "backbone"),
            task=get_text(baseline, "task"),
            test_split=get_optional_text(baseline, "test_split"),
            test_n=get_integer(baseline, "test_n"),
            zero_shot_accuracy=get_fraction(baseline, "zero_shot_accuracy"),
            majority_accuracy=get_fraction(baseline, "majority_accuracy"),
            zero_shot_scores=get_optional_object(baseline, "zero_shot_scores"),
            majority_scores=get_optional_object(baseline, "majority_scores"),
        )
        for baseline in get_objects({"baselines": content}, "baselines")
    ]
