"""Pearson's correlation of the true and the predicted numbers, as in `scipy.stats.pearsonr`: the metric of STS-B.

It is 0 if all true numbers, or all predicted ones, are the same, where scipy gives no number.
"""

import numpy as np

from lopt.metrics import Answers, Metric, correlation


class Pearson(Metric):
    name = "pearson"
    title = "Pearson correlation"
    lowest = -1.0
    needs_numbers = True

    def score(self, answers: Answers) -> float:
        assert answers.gold_numbers is not None and answers.predicted_numbers is not None
        return float(correlation(answers.gold_numbers, answers.predicted_numbers))

    def scores_without_each(self, answers: Answers) -> np.ndarray:
        assert answers.gold_numbers is not None and answers.predicted_numbers is not None
        # Without example i, a sum of squares or products around the mean is smaller by n/(n-1) times that of i.
        x_N, y_N = (values - values.mean() for values in (answers.gold_numbers, answers.predicted_numbers))
        factor = len(x_N) / max(1, len(x_N) - 1)
        products_N = x_N @ y_N - factor * x_N * y_N
        squares_N = (x_N @ x_N - factor * x_N**2) * (y_N @ y_N - factor * y_N**2)
        has_spread_N = squares_N > 0
        scores_N = np.divide(products_N, np.sqrt(np.maximum(squares_N, 0)), out=np.zeros(len(x_N)), where=has_spread_N)
        return np.clip(scores_N, -1.0, 1.0)


SPEC = Pearson()
