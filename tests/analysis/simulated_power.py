"""The power of the whole procedure, by drawing which examples each seed gets right. Nothing of `analysis.power` is used
but `Noise`."""

from __future__ import annotations

import numpy as np

from analysis.noninferiority import KIND_LEVEL, correct_p_values, estimate_difference, verdicts
from analysis.power import Noise
from analysis.stats import upper_tail
from tests.analysis.simulated import EXAMPLE_SPREAD, SHARED_PART, World


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


class Sweep:
    """A reference and smaller cells that are all worse by `gap`, with scores of 0 and 1 in a `World`."""

    def __init__(self, *, n, seeds, cells, spread, gap, draw_seed=0):
        self.world = World(spread, np.random.default_rng(draw_seed))
        self.n, self.seeds, self.cells = n, seeds, cells
        self.effects = [0.0, *[self.world.effect_for(gap) if gap else 0.0] * cells]
        self.spread = spread

    def noise(self):
        """Return the true noise of this world, from the mean scores of very many examples and seeds."""
        generator = np.random.default_rng(1)
        shared = generator.normal(0, EXAMPLE_SPREAD * np.sqrt(SHARED_PART), 20_000)
        nodes, weights = np.polynomial.hermite_e.hermegauss(15)
        weights /= weights.sum()
        means = []
        for effect in self.effects[:2]:
            examples = shared + generator.normal(0, EXAMPLE_SPREAD * np.sqrt(1 - SHARED_PART), len(shared))
            effects = effect + self.world.seed_spread * nodes[:, None]
            means.append(weights @ sigmoid(self.world.base_logit + effects + examples))
        disagreement = float(np.mean([2 * mean * (1 - mean) for mean in means]))
        return Noise(
            seed_sd=self.spread,
            seed_disagreement=disagreement,
            example_sd=float((means[1] - means[0]).std()),
            source="simulated",
        )

    def differences(self):
        """Draw one sweep, and return the difference of each smaller cell from the reference."""
        generator = self.world.generator
        shared = generator.normal(0, EXAMPLE_SPREAD * np.sqrt(SHARED_PART), self.n)
        scores = []
        for effect in self.effects:
            examples = shared + generator.normal(0, EXAMPLE_SPREAD * np.sqrt(1 - SHARED_PART), self.n)
            scores.append(self.world.draw_scores(self.seeds, examples, effect))
        return [estimate_difference(cell, scores[0]) for cell in scores[1:]]

    def power(self, margins, sweeps):
        """Return, for each margin, the share of smaller cells that are shown to be non-inferior.

        The p values of all sweeps are computed at once, which is much faster. For the first sweeps, `verdicts` has to
        give the same.
        """
        differences_DC = [self.differences() for _ in range(sweeps)]

        def values(name):
            return np.array([[getattr(difference, name) for difference in family] for family in differences_DC])

        degrees = values("seed_share"), values("seed_degrees"), values("example_degrees")
        shares = []
        for margin in margins:
            p_values_DC = upper_tail((values("mean") + margin) / values("standard_error"), *degrees)
            shown_DC = np.array([correct_p_values(p_values) for p_values in p_values_DC]) <= KIND_LEVEL
            for family, shown in zip(differences_DC[:5], shown_DC):
                assert [verdict.outcome == "non-inferior" for verdict in verdicts(family, margin)] == list(shown)
            shares.append(shown_DC.mean())
        return np.array(shares)
