"""F1a of MultiRC: the F1 of class number 1, "true", over the answers to all questions together (Khashabi et al. 2018).

SuperGLUE reports it beside the exact match by question. It is the F1 of `f1`, for a task whose answers belong to
questions.
"""

from lopt.metrics import Answers, Metric
from lopt.metrics.f1 import F1


class F1OverAnswers(Metric):
    name = "f1a"
    title = "F1a"
    needs_groups = True

    def score(self, answers: Answers) -> float:
        return F1().score(answers)


SPEC = F1OverAnswers()
