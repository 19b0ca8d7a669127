"""Accuracy, macro-F1 and per-example predictions, from label-word logits."""

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Predictions:
    """Predictions for the N examples of one split, in the split's order.

    Attributes:
        example_ids: ids of the examples in the split, `[N]`.
        gold: their true classes, `[N]`.
        logits: logits of the label words, `[N, C]`.
    """

    example_ids: np.ndarray
    gold: np.ndarray
    logits: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The class with the largest logit, `[N]`."""
        return self.logits.argmax(axis=1)

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
    def macro_f1(self) -> float:
        return macro_f1(self.gold, self.predicted, self.logits.shape[1])

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


def macro_f1(gold: np.ndarray, predicted: np.ndarray, class_count: int) -> float:
    """Return the unweighted mean of the classes' F1. A class that is neither present nor predicted counts as 0, as in
    scikit-learn."""
    correct_counts = np.bincount(gold[gold == predicted], minlength=class_count)
    true_counts, predicted_counts = (np.bincount(labels, minlength=class_count) for labels in (gold, predicted))
    return float(np.mean(2 * correct_counts / np.maximum(true_counts + predicted_counts, 1)))
