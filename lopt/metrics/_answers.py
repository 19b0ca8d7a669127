"""The true and the predicted answers of one split, from which every metric is computed."""

import dataclasses
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from lopt.encoding import EncodedExamples

_ENTRIES = ("gold", "predicted", "groups", "gold_numbers", "predicted_numbers")


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The true and the predicted answers to N examples.

    Attributes:
        gold, predicted: numbers of the true and the predicted classes, `[N]`.
        class_count: number of classes, C.
        groups: for a task whose examples belong together, two numbers of each example, `[N, 2]`: that of its cluster,
            such as a paragraph, and that of its group in the cluster, such as a question.
        gold_numbers, predicted_numbers: for a task whose answers are numbers, the true and the predicted ones, `[N]`.
    """

    gold: np.ndarray
    predicted: np.ndarray
    class_count: int
    groups: np.ndarray | None = None
    gold_numbers: np.ndarray | None = None
    predicted_numbers: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.gold)

    def take(self, positions: np.ndarray) -> Self:
        """Return the answers at these positions, or those where a mask `[N]` is true."""
        arrays = {name: getattr(self, name) for name in _ENTRIES}
        taken = {name: array[positions] for name, array in arrays.items() if array is not None}
        return dataclasses.replace(self, **taken)


@dataclass(frozen=True)
class Predictions:
    """Predictions for the N examples of one split, in the split's order.

    Attributes:
        example_ids: ids of the examples in the split, `[N]`.
        gold: their true classes, `[N]`.
        logits: logits of the label words, `[N, C]`.
        groups, gold_numbers: as in `Answers`.
        class_numbers: the number that each class stands for, `[C]`, if the answers are numbers.
    """

    example_ids: np.ndarray
    gold: np.ndarray
    logits: np.ndarray
    groups: np.ndarray | None = field(default=None, kw_only=True)
    gold_numbers: np.ndarray | None = field(default=None, kw_only=True)
    class_numbers: np.ndarray | None = field(default=None, kw_only=True)

    @classmethod
    def of(cls, examples: "EncodedExamples", logits_NC: np.ndarray) -> Self:
        """Return the predictions for a split, from its examples and their logits `[N, C]`."""
        names = ("groups", "gold_numbers", "class_numbers")
        targets: dict[str, Any] = {name: getattr(examples, name) for name in names}
        return cls(examples.example_ids, examples.labels, logits_NC, **targets)

    @property
    def predicted(self) -> np.ndarray:
        """The class with the largest logit, `[N]`."""
        return self.logits.argmax(axis=1)

    @property
    def predicted_numbers(self) -> np.ndarray | None:
        """The expected number under the softmax over the classes, `[N]`. None if the answers are not numbers."""
        if self.class_numbers is None:
            return None
        exponentials_NC = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        return exponentials_NC @ self.class_numbers / exponentials_NC.sum(axis=1)

    @property
    def answers(self) -> Answers:
        """The true and the predicted answers."""
        return Answers(
            gold=self.gold,
            predicted=self.predicted,
            class_count=self.logits.shape[1],
            groups=self.groups,
            gold_numbers=self.gold_numbers,
            predicted_numbers=self.predicted_numbers,
        )

    @property
    def majority_answers(self) -> Answers:
        """The answers of always predicting the most frequent true class, or the mean of the true numbers."""
        numbers = self.gold_numbers
        return dataclasses.replace(
            self.answers,
            predicted=np.full_like(self.gold, np.bincount(self.gold).argmax()),
            predicted_numbers=None if numbers is None else np.full_like(numbers, numbers.mean()),
        )

    @property
    def accuracy(self) -> float:
        """Share of examples whose true class is predicted."""
        return float((self.predicted == self.gold).mean())

    @property
    def loss(self) -> float:
        """Mean cross-entropy over the classes, in nats."""
        shifted_logits = self.logits - self.logits.max(axis=1, keepdims=True)
        log_probabilities = shifted_logits - np.log(np.exp(shifted_logits).sum(axis=1, keepdims=True))
        return float(-log_probabilities[np.arange(len(self.gold)), self.gold].mean())

    @property
    def top_class_share(self) -> float:
        """Share of the examples that get the most frequent prediction. If it is 1, all predictions are the same."""
        return float(np.bincount(self.predicted).max() / len(self.predicted))

    @property
    def majority_share(self) -> float:
        """Accuracy of always predicting the most frequent true class."""
        return float(np.bincount(self.gold).max() / len(self.gold))

    @property
    def digest(self) -> str:
        """Hash of the predicted classes. Two evaluations have the same digest if no prediction has changed."""
        return hashlib.sha256(self.predicted.astype("<i8").tobytes()).hexdigest()[:12]
