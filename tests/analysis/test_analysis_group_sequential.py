"""Levels of repeated tests: compared with published tables, with scipy, and by their own rules."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm

from analysis.group_sequential import SequentialDesign, make_design, nominal_levels, spent_level
from analysis.power import ASSUMED_NOISE


def bounds(information, spent):
    return norm.isf(nominal_levels(tuple(information), tuple(spent)))


def obrien_fleming_spending(level, time):
    """The spending function of Lan and DeMets (1983) for bounds like those of O'Brien and Fleming."""
    return 2 * norm.sf(norm.isf(level / 2) / math.sqrt(time))


def test_bounds_are_the_published_ones_of_lan_and_demets():
    # Five equal looks at a one-sided level of 2.5 %: Reboussin, DeMets, Kim and Lan (2000).
    times = [0.2, 0.4, 0.6, 0.8, 1.0]
    expected = [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]
    assert bounds(times, [obrien_fleming_spending(0.025, time) for time in times]) == pytest.approx(expected, abs=2e-4)


def test_bounds_are_the_published_ones_of_hwang_shih_and_decani():
    # gsDesign() of the R package gsDesign: three equal looks, one-sided 2.5 %, γ = -4.
    times = [1 / 3, 2 / 3, 1.0]
    spent = [0.025 * math.expm1(4 * time) / math.expm1(4) for time in times]
    assert bounds(times, spent) == pytest.approx([3.0107, 2.5465, 1.9992], abs=2e-4)


def test_bounds_of_pocock_are_the_published_ones():
    # Jennison and Turnbull (2000), table 2.1: a constant bound of 2.178 at three equal looks has a level of 5 %,
    # two-sided. The chance to pass it at each look is integrated by scipy here.
    times = np.array([1.0, 2.0, 3.0])
    correlation = np.sqrt(np.minimum.outer(times, times) / np.maximum.outer(times, times))
    spent = [
        1 - multivariate_normal(np.zeros(k), correlation[:k, :k], abseps=1e-9, releps=1e-9).cdf(np.full(k, 2.2895))
        for k in (1, 2, 3)
    ]
    assert spent[-1] == pytest.approx(0.025, abs=1e-4)  # table 2.1 with a one-sided level of 2.5 %: 2.289
    assert bounds(times, spent) == pytest.approx([2.2895] * 3, abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(st.floats(0.05, 1.0), min_size=1, max_size=5),
    level=st.floats(0.001, 0.05),
)
def test_all_looks_together_have_the_level(steps, level):
    information = np.cumsum(steps) / np.sum(steps)
    times = [*map(float, information[:-1]), 1.0]
    bound = np.minimum(bounds(information, [spent_level(level, time) for time in times]), 9.0)
    correlation = np.sqrt(np.minimum.outer(information, information) / np.maximum.outer(information, information))
    generator_of_cdf = multivariate_normal(
        np.zeros(len(bound)), correlation, allow_singular=True, abseps=1e-7, releps=1e-7, maxpts=400_000, seed=1
    )
    assert 1 - generator_of_cdf.cdf(bound) == pytest.approx(level, abs=2e-5)


def test_one_look_has_the_whole_level():
    assert nominal_levels((1.0,), (0.025,)) == pytest.approx((0.025,))
    assert SequentialDesign(margin=0.01, looks=(20,), times=(1.0,)).levels(0.025) == pytest.approx((0.025,))


@settings(max_examples=50, deadline=None)
@given(
    examples=st.one_of(st.none(), st.integers(10, 100_000)),
    first_look=st.integers(2, 6),
    more_seeds=st.integers(0, 60),
    seed_sd=st.floats(0.001, 0.1),
)
def test_a_design_looks_from_the_first_to_the_most_seeds(examples, first_look, more_seeds, seed_sd):
    noise = replace(ASSUMED_NOISE, seed_sd=seed_sd)
    most_seeds = first_look + more_seeds
    design = make_design(0.01, first_look=first_look, most_seeds=most_seeds, examples=examples, noise=noise)
    assert design.looks[0] == first_look and design.looks[-1] == most_seeds == design.most_seeds
    levels = design.levels(0.025)
    assert all(0 <= level <= 0.025 + 1e-9 for level in levels)
    assert SequentialDesign.from_dict(design.to_dict()) == design


@pytest.mark.parametrize(
    "changes",
    [
        {"looks": ()},
        {"looks": (1, 2)},
        {"looks": (5, 3)},
        {"times": (0.5,)},
        {"times": (0.5, 0.9)},
        {"times": (1.0, 1.0)},
        {"margin": 0.0},
    ],
)
def test_a_design_that_makes_no_sense_is_refused(changes):
    with pytest.raises(ValueError, match="need a margin"):
        SequentialDesign(**{"margin": 0.01, "looks": (3, 5), "times": (0.6, 1.0), **changes})
