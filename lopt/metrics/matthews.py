"""Matthews' correlation of the true and the predicted classes, the metric of CoLA, for two classes or more.

It is that of `sklearn.metrics.matthews_corrcoef` (Gorodkin 2004): the covariance of the two one-hot matrices, divided
by the root of the product of their variances. It is 0 if all true classes, or all predicted ones, are the same.
"""

import numpy as np

from lopt.metrics import Answers, Metric


class Matthews(Metric):
    name = "matthews"
    title = "Matthews correlation"
    lowest = -1.0

    def score(self, answers: Answers) -> float:
        class_count, count = answers.class_count, len(answers)
        true_counts, predicted_counts = (
            np.bincount(labels, minlength=class_count).astype(float) for labels in (answers.gold, answers.predicted)
        )
        covariance = count * np.sum(answers.gold == answers.predicted) - true_counts @ predicted_counts
        variances = (count**2 - counts @ counts for counts in (true_counts, predicted_counts))
        product = float(np.prod(list(variances)))
        return float(np.clip(covariance / np.sqrt(product), -1.0, 1.0)) if product > 0 else 0.0


SPEC = Matthews()
