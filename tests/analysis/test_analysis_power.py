"""The power of a design: compared with simulated power of the whole procedure, with scipy, and by its own rules."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import nct, norm, t, ttest_ind

from analysis.noninferiority import KIND_LEVEL
from analysis.power import MOST_SEEDS, TARGET_POWER, Design, Noise, curve
from analysis.stats import Z95
from tests.analysis.simulated_power import Sweep

NOISE = Noise(seed_sd=0.015, seed_disagreement=0.1, example_sd=0.15, source="invented")
DESIGN = Design(margin=0.03, examples=872, seeds=5, cells=3, noise=NOISE)
LARGEST_ERROR = 0.05
LUCK = KIND_LEVEL + 0.01
GRID = list(product((277, 872, 2022, 7600), (2, 3, 5, 10), (0.005, 0.02, 0.04), (1, 9)))
SHORT_GRID = [(277, 3, 0.02, 1), (872, 2, 0.005, 9), (872, 10, 0.04, 1), (2022, 5, 0.02, 1)]
LONG_GRID_WANTED = pytest.mark.skipif(
    not os.environ.get("LOPT_LONG_TESTS"), reason="takes about twenty minutes; LOPT_LONG_TESTS=1 runs it"
)


def largest_error(examples, seeds, spread, cells, *, sweeps, gap=0.0):
    """Return the largest difference between planned and simulated power, at four margins from low to high power."""
    sweep = Sweep(n=examples, seeds=seeds, cells=cells, spread=spread, gap=gap, draw_seed=examples + seeds)
    design = Design(margin=0.01, examples=examples, seeds=seeds, cells=cells, noise=sweep.noise())
    margins = [gap + share * design.smallest_difference() for share in (0.4, 0.7, 1.0, 1.3)]
    planned = [replace(design, margin=margin).power(gap) for margin in margins]
    return float(np.abs(np.array(planned) - sweep.power(margins, sweeps)).max())


@pytest.mark.parametrize(("examples", "seeds", "spread", "cells"), SHORT_GRID[:1])
def test_power_is_that_of_the_whole_procedure(examples, seeds, spread, cells):
    assert largest_error(examples, seeds, spread, cells, sweeps=600) < LARGEST_ERROR


@pytest.mark.slow
@pytest.mark.parametrize(("examples", "seeds", "spread", "cells"), SHORT_GRID)
@pytest.mark.parametrize("gap", [0.0, 0.01])
def test_power_is_that_of_the_whole_procedure_on_a_small_grid(examples, seeds, spread, cells, gap):
    assert largest_error(examples, seeds, spread, cells, gap=gap, sweeps=1000 if cells == 1 else 700) < LARGEST_ERROR


@LONG_GRID_WANTED
@pytest.mark.slow
@pytest.mark.parametrize(("examples", "seeds", "spread", "cells"), GRID)
def test_power_is_that_of_the_whole_procedure_on_the_whole_grid(examples, seeds, spread, cells):
    assert largest_error(examples, seeds, spread, cells, sweeps=1500 if cells == 1 else 1000) < LARGEST_ERROR


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_without_noise_of_examples_the_power_is_that_of_the_t_test_of_welch(seeds):
    noise = Noise(seed_sd=0.02, seed_disagreement=0.0, example_sd=0.0, source="invented")
    samples = np.random.default_rng(5).normal(0, noise.seed_sd, (2, seeds, 20_000))
    for margin_in_errors in (1.0, 2.5, 4.0):
        margin = margin_in_errors * noise.seed_sd * math.sqrt(2 / seeds)
        design = Design(margin=margin, examples=10_000_000, seeds=seeds, cells=1, noise=noise)
        p_values = ttest_ind(samples[0] + margin, samples[1], equal_var=False, alternative="greater").pvalue
        assert design.power(0) == pytest.approx((p_values <= KIND_LEVEL).mean(), abs=0.015)


def test_with_many_seeds_the_power_is_that_of_the_noncentral_t_distribution():
    """With twenty seeds, the degrees of freedom of Welch are close to those of Student's test of two samples."""
    noise = Noise(seed_sd=0.02, seed_disagreement=0.0, example_sd=0.0, source="invented")
    for margin_in_errors in (1.0, 2.0, 3.0):
        margin = margin_in_errors * noise.seed_sd * math.sqrt(2 / 20)
        design = Design(margin=margin, examples=10_000_000, seeds=20, cells=1, noise=noise)
        assert design.power(0) == pytest.approx(nct.sf(t.isf(KIND_LEVEL, 38), 38, margin_in_errors), abs=0.015)


@pytest.mark.parametrize("examples", [277, 872, 7600])
def test_examples_alone_give_the_power_of_a_normal_test(examples):
    design = replace(DESIGN, examples=examples, cells=1).with_unlimited_seeds
    sd = math.sqrt(NOISE.example_sd**2 / examples)
    error = math.sqrt((NOISE.example_sd**2 + Z95**2 / examples) / examples)
    critical_value = t.isf(KIND_LEVEL, examples - 1)
    expected = norm.sf((critical_value * error - design.margin) / sd)
    assert design.power(0) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("cells", [1, 3, 9])
@pytest.mark.parametrize("gap", [0.0, 0.01])
def test_seeds_needed_is_the_first_number_with_enough_power(cells, gap):
    design = replace(DESIGN, cells=cells, margin=0.04)
    needed = design.seeds_needed(gap)
    powers = curve(design, gap, range(2, MOST_SEEDS + 1))
    assert needed == next(seeds for seeds, power in enumerate(powers, start=2) if power >= TARGET_POWER)
    assert 2 < needed < MOST_SEEDS, "or the test shows nothing"


def test_seeds_needed_for_a_cell_that_is_worse_than_the_margin():
    far, near = DESIGN.seeds_needed(0.08), DESIGN.seeds_needed(0.07)
    assert far <= near <= MOST_SEEDS
    assert DESIGN.seeds_needed(0.07) == replace(DESIGN, margin=0.04).seeds_needed(0.0), "as far from the margin"
    assert DESIGN.seeds_needed(DESIGN.margin) is None


@pytest.mark.parametrize("cells", [1, 9])
def test_examples_needed_is_the_first_number_with_enough_power_at_unlimited_seeds(cells):
    design = replace(DESIGN, cells=cells, margin=0.01)
    needed = design.examples_needed(0.0)
    unlimited = design.with_unlimited_seeds
    assert replace(unlimited, examples=needed).power(0) >= TARGET_POWER
    assert replace(unlimited, examples=needed - 1).power(0) < TARGET_POWER
    assert design.seeds_needed(0.0) is None, "872 examples are too few for 1 pp"
    assert design.examples_needed(design.margin) is None, "at the margin itself nothing is shown"


def test_the_smallest_difference_is_shown_with_the_target_power():
    difference = DESIGN.smallest_difference()
    assert replace(DESIGN, margin=difference).power(0) >= TARGET_POWER
    assert replace(DESIGN, margin=0.99 * difference).power(0) < TARGET_POWER


def test_a_cell_at_the_margin_is_shown_by_mistake_only():
    for cells, seeds in product((1, 9), (2, 5, 20)):
        assert replace(DESIGN, cells=cells, seeds=seeds).power(DESIGN.margin) < KIND_LEVEL + 0.01


def test_many_cells_cost_power_and_no_more_than_bonferroni():
    powers = [replace(DESIGN, cells=cells).power(0) for cells in (1, 2, 9, 40, 64, 65, 1000)]
    assert powers == sorted(powers, reverse=True)


designs = st.builds(
    Design,
    margin=st.floats(0.002, 0.1),
    examples=st.integers(20, 20_000),
    seeds=st.integers(2, 20),
    cells=st.sampled_from([1, 2, 9]),
    noise=st.builds(
        Noise,
        seed_sd=st.floats(0, 0.06),
        seed_disagreement=st.floats(0, 0.4),
        example_sd=st.floats(0, 0.5),
        source=st.just("invented"),
    ),
)


@settings(max_examples=25, deadline=None)
@given(design=designs, gap=st.floats(0, 0.05))
def test_power_grows_with_seeds_and_margin_and_falls_with_the_gap(design, gap):
    power = design.power(gap)
    assert 0 <= power <= 1
    assert replace(design, margin=1.2 * design.margin).power(gap) >= power
    assert design.power(gap + 0.01) <= power
    # Where little can be shown, few seeds show it by luck more often, because their means and errors differ more.
    if power >= 0.5:
        assert design.with_seeds(design.seeds + 3).power(gap) >= power - LUCK
        assert design.with_unlimited_seeds.power(gap) >= power - LUCK


@settings(max_examples=25, deadline=None)
@given(design=designs, factor=st.floats(1.5, 20))
def test_power_grows_with_examples(design, factor):
    more = replace(design, examples=round(factor * design.examples))
    if design.power(0) >= 0.5:
        assert more.power(0) >= design.power(0) - LUCK
    assert more.with_unlimited_seeds.power(0) >= design.with_unlimited_seeds.power(0) - 0.005


@pytest.mark.parametrize(
    "changes", [{"margin": 0.0}, {"examples": 1}, {"seeds": 1}, {"cells": 0}], ids=lambda changes: next(iter(changes))
)
def test_a_design_that_cannot_be_tested_is_refused(changes):
    with pytest.raises(ValueError, match="two examples, two seeds and one cell"):
        replace(DESIGN, **changes)
