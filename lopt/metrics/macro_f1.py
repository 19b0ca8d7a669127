"""Macro-F1: the unweighted mean of the classes' F1, as `sklearn.metrics.f1_score(average="macro")` computes it.

A class that is neither present nor predicted counts as 0.
"""

import numpy as np

from lopt.metrics import Answers, Metric


class MacroF1(Metric):
    name = "macro_f1"
    title = "macro-F1"

    def score(self, answers: Answers) -> float:
        gold, predicted, class_count = answers.gold, answers.predicted, answers.class_count
        correct_counts = np.bincount(gold[gold == predicted], minlength=class_count)
        true_counts, predicted_counts = (np.bincount(labels, minlength=class_count) for labels in (gold, predicted))
        return float(np.mean(2 * correct_counts / np.maximum(true_counts + predicted_counts, 1)))


SPEC = MacroF1()
