"""Spearman's rank correlation of the true and the predicted numbers, as in `scipy.stats.spearmanr`.

Equal numbers share the mean of their ranks. It is 0 if all true numbers, or all predicted ones, are the same, where
scipy gives no number.
"""

import numpy as np

from lopt.metrics import Answers, Metric, correlation

_ROWS_AT_ONCE = 256  # bounds the memory for many examples: so many rows of ranks are held at once


class Spearman(Metric):
    name = "spearman"
    title = "Spearman correlation"
    lowest = -1.0
    needs_numbers = True

    def score(self, answers: Answers) -> float:
        assert answers.gold_numbers is not None and answers.predicted_numbers is not None
        return float(correlation(_ranks(answers.gold_numbers), _ranks(answers.predicted_numbers)))

    def scores_without_each(self, answers: Answers) -> np.ndarray:
        assert answers.gold_numbers is not None and answers.predicted_numbers is not None
        both_numbers = answers.gold_numbers, answers.predicted_numbers
        count = len(answers)
        scores = []
        for start in range(0, count, _ROWS_AT_ONCE):
            left_out = np.arange(start, min(start + _ROWS_AT_ONCE, count))
            is_kept = np.arange(count) != left_out[:, None]
            # Without a number, the ranks of larger ones fall by 1, and those of equal ones by 1/2.
            gold_ranks, predicted_ranks = (
                (_ranks(numbers) - (numbers > numbers[left_out, None]) - 0.5 * (numbers == numbers[left_out, None]))[
                    is_kept
                ].reshape(len(left_out), count - 1)
                for numbers in both_numbers
            )
            scores.append(correlation(gold_ranks, predicted_ranks))
        return np.concatenate(scores)


def _ranks(numbers_N: np.ndarray) -> np.ndarray:
    """Return the ranks 1 to N of numbers, `[N]`. Equal numbers share the mean of their ranks."""
    _, index_N, counts = np.unique(numbers_N, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[index_N]


SPEC = Spearman()
