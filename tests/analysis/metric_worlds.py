"""Worlds in which the true value of a metric is known: seeds and examples, or clusters of them, are drawn at random."""

from __future__ import annotations

import numpy as np

from lopt import metrics
from lopt.metrics import Answers

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_POPULATION = 150_000


class MetricWorld:
    """Examples differ in difficulty, and seeds in skill. `spread` is the standard deviation of the metric over seeds.

    Classes are not equally frequent. Clusters have 3 to 9 questions of 2 to 8 answers each, and share a part of their
    difficulty. True numbers are normal, and a seed's predicted numbers add noise of the example and of the seed.
    """

    def __init__(self, metric, spread, draw_seed=0):
        self.metric, self.generator = metrics.get(metric), np.random.default_rng(draw_seed)
        self.class_count = 3 if metric == "macro_f1" else 2
        self.spread = 1.0
        population = self.draw_examples(_POPULATION)
        slope = abs(self._score(population, 0.05) - self._score(population, -0.05)) / 0.1
        self.spread = spread / slope
        scores = [self._score(population, self.spread * node) for node in _NODES]
        self.truth = float(np.array(scores) @ _WEIGHTS / _WEIGHTS.sum())

    def draw_examples(self, count):
        generator, examples = self.generator, {}
        if self.metric.needs_numbers:
            gold_numbers = generator.normal(size=count)
            return {"gold_numbers": gold_numbers, "shared": generator.normal(size=count)}
        difficulty = generator.normal(size=count)
        if self.metric.needs_groups:
            question_N = np.repeat(np.arange(count), generator.integers(2, 9, count))[:count]
            cluster_of_question = np.repeat(np.arange(count), generator.integers(3, 10, count))
            examples["groups"] = np.stack([cluster_of_question[question_N], question_N], axis=1)
            difficulty = difficulty * 0.7 + generator.normal(size=count)[examples["groups"][:, 0]] * 0.7
        shares = [0.3, 0.7] if self.class_count == 2 else [0.2, 0.3, 0.5]
        gold = generator.choice(self.class_count, count, p=shares)
        return {"gold": gold, "difficulty": difficulty, **examples}

    def answers(self, examples, skill):
        """Draw what one seed answers."""
        generator = self.generator
        if self.metric.needs_numbers:
            gold_numbers, count = examples["gold_numbers"], len(examples["gold_numbers"])
            predicted = np.exp(skill) * gold_numbers + 0.6 * examples["shared"] + 0.4 * generator.normal(size=count)
            classes = np.zeros(count, dtype=int)
            return Answers(gold=classes, predicted=classes, class_count=2, gold_numbers=gold_numbers,
                           predicted_numbers=predicted)  # fmt: skip
        gold, base = examples["gold"], np.array([0.8, 1.6, 2.0])
        is_right = generator.random(len(gold)) < 1 / (1 + np.exp(-(base[gold] + skill + examples["difficulty"])))
        other = (gold + generator.integers(1, self.class_count, len(gold))) % self.class_count
        return Answers(gold=gold, predicted=np.where(is_right, gold, other), class_count=self.class_count,
                       groups=examples.get("groups"))  # fmt: skip

    def draw(self, seeds, count):
        """Draw the answers of some seeds to the same new examples."""
        examples = self.draw_examples(count)
        return [self.answers(examples, skill) for skill in self.generator.normal(0, self.spread, seeds)]

    def _score(self, examples, skill):
        return self.metric.score(self.answers(examples, skill))
