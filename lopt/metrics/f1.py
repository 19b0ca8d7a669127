"""F1 of one class: the harmonic mean of its precision and its recall, as `sklearn.metrics.f1_score` computes it.

`f1` is the F1 of class number 1, the second one, as in scikit-learn and in GLUE (MRPC, QQP). `f1:NAME` is that of
another class. It is 0 if the class is neither present nor predicted.
"""

import numpy as np

from lopt.metrics import Answers, Metric
from lopt.registry import did_you_mean


class F1(Metric):
    def __init__(self, class_number: int = 1) -> None:
        self.class_number = class_number
        self.name = "f1" if class_number == 1 else f"f1:{class_number}"
        self.title = "F1" if class_number == 1 else f"F1 of class {class_number}"

    def score(self, answers: Answers) -> float:
        is_gold, is_predicted = answers.gold == self.class_number, answers.predicted == self.class_number
        total_count = int(is_gold.sum() + is_predicted.sum())
        return float(2 * np.sum(is_gold & is_predicted) / max(total_count, 1))

    def with_argument(self, argument: str, classes: tuple[str, ...] | None) -> Metric:
        if classes is not None and argument in classes:
            return F1(classes.index(argument))
        if argument.isdecimal() and (classes is None or int(argument) < len(classes)):
            return F1(int(argument))
        valid = classes or ("a class's number",)
        suggestion = did_you_mean(argument, valid)
        raise ValueError(f"metric is 'f1:{argument}'; give f1: and a class, one of {', '.join(valid)}.{suggestion}")


SPEC = F1()
