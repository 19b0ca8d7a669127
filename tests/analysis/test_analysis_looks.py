"""Sequential tests of smaller cells: who gets more seeds, who is decided, and how often a verdict is wrong."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest

from analysis.group_sequential import SequentialDesign, make_design
from analysis.looks import run_looks
from analysis.noninferiority import KIND_LEVEL, estimate_difference, verdicts
from analysis.power import ASSUMED_NOISE, Noise
from analysis.sequential_power import simulate_sweeps
from tests.analysis.simulated import World

DESIGN = make_design(0.02, first_look=3, most_seeds=20, examples=2022, noise=ASSUMED_NOISE)
LONG_SWEEPS = int(os.environ.get("LOPT_LONG_SIMULATION", 0))  # sweeps of each setting of the grid; 0 leaves it out


def noise(seed_sd):
    return Noise(seed_sd=seed_sd, seed_disagreement=0.1, example_sd=0.15, source="invented")


class Scores:
    """Scores of 0 and 1 of a reference and of smaller cells that are worse by these gaps, on the same examples."""

    def __init__(self, gaps, *, examples=2022, spread=0.005, most_seeds=20, draw_seed=0):
        world = World(spread, np.random.default_rng(draw_seed))
        difficulty = world.generator.normal(0, 1, examples)
        self.reference = world.draw_scores(most_seeds, difficulty)
        self.cells = [world.draw_scores(most_seeds, difficulty, world.effect_for(gap) if gap else 0.0) for gap in gaps]

    def difference(self, cell, seeds):
        return estimate_difference(self.cells[cell][:seeds], self.reference[:seeds])

    def looks(self, design=DESIGN, known_seeds=20, sizes=None):
        return run_looks(
            design,
            range(len(self.cells)),
            size_of=lambda cell: sizes[cell] if sizes else cell,
            is_ready=lambda cell, seeds: seeds <= known_seeds,
            difference_at=self.difference,
        )


def test_a_cell_far_from_the_margin_is_decided_at_the_first_look():
    courses = Scores([0.15, 0.0]).looks(known_seeds=3)
    assert courses.all[0].outcome == "inferior"
    assert [look.seeds for look in courses.all[0].looks] == [3]


def test_no_more_seeds_go_to_cells_that_do_not_matter():
    scores = Scores([0.0, 0.0, 0.0], spread=0.001)
    courses = scores.looks(make_design(0.1, first_look=3, most_seeds=20, examples=2022, noise=ASSUMED_NOISE))
    assert courses.all[0].outcome == "non-inferior" and courses.next_seeds is None and courses.is_decided
    assert {course.outcome for course in courses.all[1:]} <= {"non-inferior", "undecided"}
    assert {course.reason for course in courses.all[1:] if course.outcome == "undecided"} <= {"not needed"}


def test_of_equally_large_cells_one_that_is_as_good_is_enough():
    design = make_design(0.1, first_look=3, most_seeds=20, examples=2022, noise=ASSUMED_NOISE)
    courses = Scores([0.1, 0.0], spread=0.001).looks(design, sizes=[7, 7])
    assert [course.outcome for course in courses.all] == ["undecided", "non-inferior"]
    assert courses.all[0].reason == "not needed" and courses.is_decided and courses.next_seeds is None


def test_a_smaller_cell_without_a_test_keeps_the_question_open():
    design = make_design(0.1, first_look=3, most_seeds=20, examples=2022, noise=ASSUMED_NOISE)
    scores = Scores([0.0, 0.0], spread=0.001)
    for reason, options in (
        ("not confirmed", {"is_confirmed": lambda cell: cell == 1, "difference_at": scores.difference}),
        ("no predictions", {"difference_at": lambda cell, seeds: scores.difference(cell, seeds) if cell else None}),
    ):
        courses = run_looks(design, range(2), size_of=lambda cell: cell, is_ready=lambda cell, seeds: True, **options)
        assert [course.reason for course in courses.all] == [reason, ""]
        assert courses.all[1].outcome == "non-inferior"
        assert not courses.is_decided and courses.next_seeds is None


def test_seeds_are_added_to_the_open_cells_alone():
    courses = Scores([0.15, 0.02]).looks(known_seeds=3)
    assert courses.wanted == [1] and courses.next_seeds == DESIGN.looks[1]
    assert not courses.is_decided


def test_the_same_seeds_give_the_same_looks_whatever_came_later():
    scores = Scores([0.02, 0.01, 0.0], spread=0.02)
    whole = scores.looks()
    for known_seeds in DESIGN.looks:
        part = scores.looks(known_seeds=known_seeds)
        for early, late in zip(part.all, whole.all):
            assert early.looks == late.looks[: len(early.looks)]
            if not early.is_open:
                assert (early.outcome, early.reason) == (late.outcome, late.reason)


def test_a_design_with_one_look_has_the_verdicts_of_a_fixed_number_of_seeds():
    design = SequentialDesign(margin=0.02, looks=(10,), times=(1.0,))
    for draw_seed in range(5):
        scores = Scores([0.05, 0.02, 0.0], draw_seed=draw_seed)
        expected = verdicts([scores.difference(cell, 10) for cell in range(3)], 0.02)
        for course, verdict in zip(scores.looks(design).all, expected):
            assert course.outcome == verdict.outcome
            assert course.looks[0].difference.low == pytest.approx(verdict.difference.low)
            assert course.looks[0].difference.high == pytest.approx(verdict.difference.high)


def test_p_values_of_a_verdict_may_be_compared_with_its_level():
    for draw_seed in range(5):
        for course in Scores([0.05, 0.02, 0.0], draw_seed=draw_seed).looks().all:
            verdict = course.verdict(0.02)
            assert (verdict.p_non_inferior <= KIND_LEVEL) == (course.outcome == "non-inferior")
            assert (verdict.p_inferior <= KIND_LEVEL) == (course.outcome == "inferior")


def test_examples_that_cannot_decide_end_the_looks_early():
    design = make_design(0.01, first_look=3, most_seeds=20, examples=56, noise=ASSUMED_NOISE)
    for gap in (0.0, 0.01, 0.02):
        chances = simulate_sweeps(design, gaps=[gap], examples=56, noise=noise(0.02))
        assert chances.within_three_looks >= 0.9
    courses = [Scores([0.0], examples=56, draw_seed=draw_seed).looks(design).all[0] for draw_seed in range(20)]
    assert "examples" in {course.reason for course in courses}
    assert {course.reason for course in courses} <= {"examples", "seeds"}


def test_simulated_summaries_agree_with_whole_matrices_of_scores():
    """`analysis.sequential_power` draws summaries, with its own code for the rules; here the rules run on scores."""
    gaps, spread, examples, sweeps = [0.03, 0.0], 0.01, 872, 60
    design = make_design(0.02, first_look=3, most_seeds=12, examples=examples, noise=ASSUMED_NOISE)
    all_looks = [
        Scores(gaps, examples=examples, spread=spread, most_seeds=12, draw_seed=draw_seed).looks(design)
        for draw_seed in range(sweeps)
    ]
    world = World(spread, np.random.default_rng(0))
    difficulty = world.generator.normal(0, 1, 4000)
    scores = world.draw_scores(200, difficulty)
    means = scores.mean(axis=0)
    simulated = simulate_sweeps(
        design,
        gaps=gaps,
        examples=examples,
        noise=Noise(
            seed_sd=spread,
            seed_disagreement=float((2 * means * (1 - means)).mean()),
            example_sd=0.02,  # both cells are right with the same chance on the same example
            source="invented",
        ),
        sweeps=4000,
    )
    decided = np.mean([courses.is_decided for courses in all_looks])
    assert simulated.decided == pytest.approx(decided, abs=3.5 * math.sqrt(0.25 / sweeps))


@pytest.mark.parametrize("cells", [1, 3])
@pytest.mark.parametrize("seed_sd", [0.005, 0.04])
@pytest.mark.parametrize("examples", [277, 2022])
def test_a_wrong_verdict_is_rare_over_all_looks(examples, seed_sd, cells):
    """All cells lie exactly at the margin, so every verdict is wrong."""
    design = make_design(0.03, first_look=3, most_seeds=20, examples=examples, noise=ASSUMED_NOISE)
    chances = simulate_sweeps(
        design, gaps=[0.03] * cells, examples=examples, noise=noise(seed_sd), sweeps=2000, random_seed=cells
    )
    assert chances.wrong <= 2 * KIND_LEVEL + 2.6 * math.sqrt(0.05 * 0.95 / 2000)


def compare_with_fixed(examples, seed_sd, margin, sweeps):
    """Return the chances of the sequential design and of a fixed one with 20 seeds, for one cell that is as good."""
    settings = {"gaps": [0.0], "examples": examples, "noise": noise(seed_sd), "sweeps": sweeps, "random_seed": 1}
    fixed = SequentialDesign(margin=margin, looks=(20,), times=(1.0,))
    design = make_design(margin, first_look=3, most_seeds=20, examples=examples, noise=ASSUMED_NOISE)
    return simulate_sweeps(design, **settings), simulate_sweeps(fixed, **settings)


def margin_with_power(examples, seed_sd, power):
    """Return a margin at which the fixed design has about this power."""
    standard_error = math.sqrt((0.15**2 + 3.84 / examples) / examples + 2 * noise(seed_sd).seed_variance(examples) / 20)
    low, high = 0.0, 10 * standard_error
    for _ in range(20):
        middle = (low + high) / 2
        _, fixed = compare_with_fixed(examples, seed_sd, middle, 2000)
        low, high = (middle, high) if fixed.power < power else (low, middle)
    return high


@pytest.mark.parametrize(("examples", "seed_sd"), [(277, 0.01), (7600, 0.02)])
@pytest.mark.parametrize(("power", "most_seeds_share"), [(0.8, 0.75), (0.9, 0.75), (0.98, 0.6)])
def test_looks_save_seeds_and_cost_little_power(examples, seed_sd, power, most_seeds_share):
    margin = margin_with_power(examples, seed_sd, power)
    sequential, fixed = compare_with_fixed(examples, seed_sd, margin, 4000)
    assert sequential.power >= fixed.power - 0.06
    assert sequential.seeds <= most_seeds_share + 0.01


@pytest.mark.slow
@pytest.mark.skipif(not LONG_SWEEPS, reason="LOPT_LONG_SIMULATION=N simulates N sweeps of each setting")
@pytest.mark.parametrize("examples", [277, 872, 2022, 7600])
@pytest.mark.parametrize("seed_sd", [0.005, 0.01, 0.02, 0.04])
def test_the_whole_grid(examples, seed_sd):
    for power in (0.8, 0.85, 0.9, 0.95, 0.98):
        margin = margin_with_power(examples, seed_sd, power)
        sequential, fixed = compare_with_fixed(examples, seed_sd, margin, LONG_SWEEPS)
        print(
            f"N {examples}, sd {100 * seed_sd:g} pp, margin {100 * margin:.2f} pp: power {sequential.power:.3f} of "
            f"{fixed.power:.3f}, seeds {sequential.seeds:.3f}, looks {sequential.looks:.1f}"
        )
        assert sequential.power >= fixed.power - 0.055
        assert sequential.seeds <= (0.75 if power < 0.95 else 0.645 if power < 0.98 else 0.6)
        for cells in (1, 3, 9):
            design = make_design(margin, first_look=3, most_seeds=20, examples=examples, noise=ASSUMED_NOISE)
            wrong = simulate_sweeps(
                design, gaps=[margin] * cells, examples=examples, noise=noise(seed_sd), sweeps=LONG_SWEEPS
            ).wrong
            assert wrong <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / LONG_SWEEPS)
