"""Simulated scores by another model than `simulated.py`: the chance of each example to be right is drawn from a beta
distribution, correlated with that of the reference, and each seed shifts all examples of its cell in logits."""

from __future__ import annotations

import numpy as np
from scipy.special import betaincinv, expit, logit, ndtr

ACCURACY, CONCENTRATION, CORRELATION = 0.85, 1.5, 0.9
_GRID = np.linspace(-6, 6, 2001)
_WEIGHTS = np.exp(-(_GRID**2) / 2) / np.exp(-(_GRID**2) / 2).sum()
_CHANCES = betaincinv(ACCURACY * CONCENTRATION, (1 - ACCURACY) * CONCENTRATION, ndtr(_GRID))
_LOGITS = logit(np.clip(_CHANCES, 1e-9, 1 - 1e-9))
_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(15)


def bisect(is_too_low, low, high):
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if is_too_low(middle) else (low, middle)
    return high


class BetaWorld:
    """Cells whose accuracies differ between seeds with a standard deviation of `seed_sd`."""

    def __init__(self, seed_sd, seed):
        self.generator = np.random.default_rng(seed)
        self.logit_sd = bisect(lambda logit_sd: self._moments(0.0, logit_sd)[1] < seed_sd, 0.0, 10.0)

    def _moments(self, effect, logit_sd):
        accuracies = (expit(_LOGITS + effect + logit_sd * _NODES[:, None]) * _WEIGHTS).sum(axis=1)
        mean = (_NODE_WEIGHTS * accuracies).sum() / _NODE_WEIGHTS.sum()
        variance = (_NODE_WEIGHTS * (accuracies - mean) ** 2).sum() / _NODE_WEIGHTS.sum()
        return mean, np.sqrt(variance)

    def true_accuracy(self, effect=0.0):
        """Return the accuracy over all seeds and examples of a cell with this effect on the logits."""
        return self._moments(effect, self.logit_sd)[0]

    def effect_for(self, gap):
        """Return the effect on the logits of a cell whose accuracy is worse by `gap`."""
        target = self.true_accuracy() - gap
        return bisect(lambda effect: self.true_accuracy(effect) < target, -5.0, 5.0)

    def draw(self, seeds, n, effects):
        """Draw scores of cells with these effects on the same n examples, each `[seeds, n]`."""
        shared = self.generator.standard_normal(n)
        matrices = []
        for effect in effects:
            rest = self.generator.standard_normal(n)
            logits = np.interp(CORRELATION * shared + np.sqrt(1 - CORRELATION**2) * rest, _GRID, _LOGITS)
            shifts = effect + self.logit_sd * self.generator.standard_normal((seeds, 1))
            matrices.append((self.generator.random((seeds, n)) < expit(logits + shifts)).astype(float))
        return matrices
