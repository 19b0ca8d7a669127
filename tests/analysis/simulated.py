"""Simulated sweeps whose true accuracies are known. Seeds and examples are drawn at random."""

from __future__ import annotations

import math

import numpy as np

from analysis.cells import groups
from analysis.load import load

ACCURACY = 0.85
EXAMPLE_SPREAD = 1.0  # standard deviation of an example's logit
SHARED_PART = 0.8  # the part of an example's variance that all methods share


class World:
    """Examples that differ in difficulty, and seeds whose accuracies differ with a standard deviation of `spread`."""

    def __init__(self, spread, generator):
        self.generator = generator
        self.base_logit = math.log(ACCURACY / (1 - ACCURACY)) * math.sqrt(1 + 0.35 * EXAMPLE_SPREAD**2)
        self.all_examples = generator.normal(0, EXAMPLE_SPREAD, 50_000)
        self.seed_spread = spread / ((self.seed_accuracy(0.05) - self.seed_accuracy(-0.05)) / 0.1)

    def seed_accuracy(self, effect):
        """Return the accuracy of a seed with this effect on the logit, over all examples."""
        return float((1 / (1 + np.exp(-(self.base_logit + effect + self.all_examples)))).mean())

    def true_accuracy(self, effect=0.0):
        """Return the accuracy over all seeds and examples."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(15)
        accuracies = [self.seed_accuracy(effect + self.seed_spread * node) for node in nodes]
        return float(sum(weight * accuracy for weight, accuracy in zip(weights, accuracies)) / weights.sum())

    def effect_for(self, gap):
        """Return the effect on the logit of a method whose accuracy is worse by `gap`."""
        low, high = -3.0, 0.0
        for _ in range(20):
            middle = (low + high) / 2
            is_too_low = self.true_accuracy(middle) < self.true_accuracy() - gap
            low, high = (middle, high) if is_too_low else (low, middle)
        return high

    def draw_scores(self, seeds, examples, effect=0.0):
        """Draw which examples each seed gets right, `[seeds, examples]`."""
        effects = effect + self.generator.normal(0, self.seed_spread, (seeds, 1))
        probabilities = 1 / (1 + np.exp(-(self.base_logit + effects + examples)))
        return (self.generator.random((seeds, len(examples))) < probabilities).astype(float)

    def pair(self, seeds, n, effect):
        """Draw the scores of two methods on the same n examples. Only the first method has the effect."""
        shared = self.generator.normal(0, EXAMPLE_SPREAD * math.sqrt(SHARED_PART), n)
        method_spread = EXAMPLE_SPREAD * math.sqrt(1 - SHARED_PART)
        return [
            self.draw_scores(seeds, shared + self.generator.normal(0, method_spread, n), method_effect)
            for method_effect in (effect, 0.0)
        ]


def simulated_run(store, gaps, *, seeds=3, n=872, spread=0.005, draw_seed=0, only_these_cells=False, more_cells=()):
    """Write a run of a full prompt and of smaller prompts that are worse by these gaps.

    With `only_these_cells`, no other cell is planned but `more_cells`, each of a method, a length and a rank.
    """
    world = World(spread, np.random.default_rng(draw_seed))
    cells = [("prompt_tuning", 10, None), *(("lopt1", 10, rank) for rank in range(1, len(gaps) + 1))]
    run = store(test_n=n, split_size=n, **({"cells": [*cells, *more_cells]} if only_these_cells else {}))
    examples = world.generator.normal(0, EXAMPLE_SPREAD, n)
    for i, gap in enumerate((0.0, *gaps)):
        method, rank = ("lopt1", i) if i else ("prompt_tuning", None)
        correct_SN = world.draw_scores(seeds, examples, world.effect_for(gap) if gap else 0.0)
        for seed, correct in enumerate(correct_SN, start=1):
            record = run.confirm(method, 10, rank, 0.0, config__seed=seed, selection_accuracy=0.8)
            run.predict(record, correct > 0)
    return run.write()


def simulated_group(store, gaps, **options):
    """Return the only group of a simulated run."""
    (group,) = groups(load([simulated_run(store, gaps, **options)]))
    return group
