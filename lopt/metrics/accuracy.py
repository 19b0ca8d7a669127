"""Accuracy: the share of examples whose true class is predicted."""

import numpy as np

from lopt.metrics import Answers, Metric


class Accuracy(Metric):
    name = "accuracy"
    title = "accuracy"

    def score(self, answers: Answers) -> float:
        return float(self.example_scores(answers).mean())

    def example_scores(self, answers: Answers) -> np.ndarray:
        return (answers.gold == answers.predicted).astype(np.float64)


SPEC = Accuracy()
