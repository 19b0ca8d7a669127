"""Accuracy, macro-F1 and per-example predictions, from label-word logits."""

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Predictions:
    """What a prompt says of each example of one split, in the split's order.

    example_ids, gold, predicted: `[N]`; logits: `[N, C]`; loss: mean cross-entropy over the classes, in nats.
    """

    example_ids: np.ndarray
    gold: np.ndarray
    logits: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        return self.logits.argmax(axis=1)

    @property
    def accuracy(self) -> float:
        """Share of examples whose class has the largest logit."""
        return float((self.predicted == self.gold).mean())

    @property
    def loss(self) -> float:
        shifted = self.logits - self.logits.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return float(-log_p[np.arange(len(self.gold)), self.gold].mean())

    @property
    def macro_f1(self) -> float:
        return macro_f1(self.gold, self.predicted, self.logits.shape[1])

    @property
    def top_class_share(self) -> float:
        """Share of the class predicted most often; 1 at every evaluation means a prompt that says one thing."""
        return float(np.bincount(self.predicted).max() / len(self.predicted))

    @property
    def majority_share(self) -> float:
        """Accuracy of always naming the commonest class."""
        return float(np.bincount(self.gold).max() / len(self.gold))

    @property
    def digest(self) -> str:
        """Hash of the predicted classes: the same at two evaluations when no prediction has changed."""
        return hashlib.sha256(self.predicted.astype("<i8").tobytes()).hexdigest()[:12]


def macro_f1(gold: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Unweighted mean over classes of F1; a class that neither occurs nor is predicted counts 0, as in scikit-learn."""
    hits, golds, named = (np.bincount(x, minlength=classes) for x in (gold[gold == predicted], gold, predicted))
    return float(np.mean(2 * hits / np.maximum(golds + named, 1)))
