"""The class of all metrics."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from lopt.metrics._answers import Answers


class Metric(ABC):
    """A score of the answers to a split. A larger score is better.

    Attributes:
        name: the NAME in `--set metric=NAME`.
        title: what tables and sentences call it, such as "macro-F1".
        lowest, highest: the smallest and the largest possible score.
        needs_groups: whether it is for tasks whose examples belong to groups.
        needs_numbers: whether it is for tasks whose answers are numbers.
    """

    name: str
    title: str
    lowest: ClassVar[float] = 0.0
    highest: ClassVar[float] = 1.0
    needs_groups: ClassVar[bool] = False
    needs_numbers: ClassVar[bool] = False

    @abstractmethod
    def score(self, answers: Answers) -> float:
        """Return the score of at least one answer, between `lowest` and `highest`."""

    def example_scores(self, answers: Answers) -> np.ndarray | None:
        """Return the score of each example, `[N]`, if the metric is their mean. Otherwise return None."""
        return None

    def scores_without_each(self, answers: Answers) -> np.ndarray:
        """Return the score without each example in turn, `[N]`.

        This general form takes the score once for each pair of a true and a predicted class, so it is only for metrics
        that depend on how often each pair occurs. Other metrics define their own.
        """
        pair_N = answers.gold * answers.class_count + answers.predicted
        _, first_positions, pair_index_N = np.unique(pair_N, return_index=True, return_inverse=True)
        without = [self.score(answers.take(np.arange(len(answers)) != position)) for position in first_positions]
        return np.array(without)[pair_index_N]

    def with_argument(self, argument: str, classes: tuple[str, ...] | None) -> "Metric":
        """Return the metric that "NAME:argument" names. `classes` are the task's, or None if they are not known.

        Raises:
            ValueError: the metric takes no argument, or not this one.
        """
        raise ValueError(f"metric is '{self.name}:{argument}', but {self.name} takes no argument: give {self.name}")

    def is_for(self, *, has_groups: bool, has_numbers: bool) -> bool:
        """Return whether it can be computed for a task whose examples have groups, and whose answers are numbers."""
        return (has_groups or not self.needs_groups) and (has_numbers or not self.needs_numbers)

    @property
    def span(self) -> float:
        """The largest possible difference of two scores."""
        return self.highest - self.lowest
