"""Sweeps with known truth: seeds and examples are both drawn."""

from __future__ import annotations

import math

import numpy as np

from analysis.cells import groups
from analysis.load import load

RATE, ITEMS, SHARED = 0.85, 1.0, 0.8  # accuracy; standard deviation of an example's logit; of that, what methods share


class World:
    """Examples of differing difficulty, and seeds whose accuracies spread by `spread` (a fraction)."""

    def __init__(self, spread, draw):
        self.draw = draw
        self.base = math.log(RATE / (1 - RATE)) * math.sqrt(1 + 0.35 * ITEMS**2)
        self.many = draw.normal(0, ITEMS, 50_000)
        self.seeds = spread / ((self.rate(0.05) - self.rate(-0.05)) / 0.1)

    def rate(self, effect):
        """Accuracy over all examples of a seed of this effect."""
        return float((1 / (1 + np.exp(-(self.base + effect + self.many)))).mean())

    def truth(self, effect=0.0):
        """Accuracy over all seeds and examples."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(15)
        return float(sum(w * self.rate(effect + self.seeds * x) for x, w in zip(nodes, weights)) / weights.sum())

    def effect_of(self, gap):
        """Of a method that is `gap` worse."""
        low, high = -3.0, 0.0
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (middle, high) if self.truth(middle) < self.truth() - gap else (low, middle)
        return high

    def scored(self, seeds, items, effect=0.0):
        effects = effect + self.draw.normal(0, self.seeds, (seeds, 1))
        return (self.draw.random((seeds, len(items))) < 1 / (1 + np.exp(-(self.base + effects + items)))).astype(float)

    def pair(self, seeds, n, effect):
        common = self.draw.normal(0, ITEMS * math.sqrt(SHARED), n)
        own = ITEMS * math.sqrt(1 - SHARED)
        return [self.scored(seeds, common + self.draw.normal(0, own, n), each) for each in (effect, 0.0)]


def simulated_run(store, gaps, *, seeds=3, n=872, spread=0.005, draw_seed=0):
    """A run: a full prompt and smaller ones, worse by these gaps."""
    world = World(spread, np.random.default_rng(draw_seed))
    s = store(test_n=n, split_size=n)
    items = world.draw.normal(0, ITEMS, n)
    for place, gap in enumerate((0.0, *gaps)):
        method, rank = ("lopt1", place) if place else ("prompt_tuning", None)
        rows = world.scored(seeds, items, world.effect_of(gap) if gap else 0.0)
        for seed, row in enumerate(rows):
            s.predict(s.confirm(method, 10, rank, 0.0, config__seed=seed, selection_accuracy=0.8), row > 0)
    return s.write()


def simulated(store, gaps, **options):
    """The one group of such a run."""
    (group,) = groups(load([simulated_run(store, gaps, **options)]))
    return group
