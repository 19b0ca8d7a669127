"""Exact match by group: the share of the groups, such as MultiRC's questions, in which every answer is right.

SuperGLUE reports it for MultiRC as EM, beside F1a (Khashabi et al. 2018; Wang et al. 2019).
"""

import numpy as np

from lopt.metrics import Answers, Metric


class ExactMatch(Metric):
    name = "exact_match"
    title = "exact match by question"
    needs_groups = True

    def score(self, answers: Answers) -> float:
        assert answers.groups is not None
        _, group_N = np.unique(answers.groups, axis=0, return_inverse=True)
        wrong_counts = np.bincount(group_N.ravel(), weights=answers.gold != answers.predicted)
        return float((wrong_counts == 0).mean())

    def scores_without_each(self, answers: Answers) -> np.ndarray:
        return np.array([self.score(answers.take(np.arange(len(answers)) != i)) for i in range(len(answers))])


SPEC = ExactMatch()
