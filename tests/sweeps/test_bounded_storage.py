"""A sampler is shown the best trials and an even selection of the others; with few trials it is shown all of them."""

from __future__ import annotations

import itertools
import random

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from sweeps.search.bounded_storage import GOOD_COUNT, BoundedStorage

RANGES = {"x": FloatDistribution(0.0, 1.0)}
STUDY_ID = 0  # of the only study of a storage


def filled_study(trial_count, max_shown, *, complete_share=0.5, sampler=None):
    """Return a study with random trials (complete, pruned, failed and running ones), and its storage."""
    generator, storage = random.Random(3), BoundedStorage(max_shown)
    study = optuna.create_study(storage=storage, sampler=sampler, direction="maximize")
    for _ in range(trial_count):
        trial, draw = study.ask(RANGES), generator.random()
        if draw < 0.02:
            continue
        if draw < 0.05:
            study.tell(trial, state=TrialState.FAIL)
        elif draw < 0.05 + 0.95 * complete_share:
            study.tell(trial, generator.choice([0.1, 0.5, generator.random()]))
        else:
            trial.report(generator.random(), generator.choice([1, 2, 4]))
            study.tell(trial, state=TrialState.PRUNED)
    return study, storage


def all_trials(storage):
    return [storage.get_trial(number) for number in range(storage.count_all_trials(STUDY_ID))]


def optunas_good_trials(trials):
    """Return the numbers of the 25 trials that Optuna's estimator counts as good: complete ones first."""
    complete = sorted((t for t in trials if t.state == TrialState.COMPLETE), key=lambda t: t.value, reverse=True)
    pruned = [t for t in trials if t.state == TrialState.PRUNED]
    pruned = sorted(pruned, key=lambda t: (-t.last_step, -t.intermediate_values[t.last_step]))
    return {trial.number for trial in [*complete, *pruned][:GOOD_COUNT]}


@pytest.mark.parametrize("complete_share", [0.5, 0.01])
def test_the_best_trials_and_an_even_selection_of_the_others_are_shown(complete_share):
    sampler = optuna.samplers.RandomSampler(seed=0)
    study, storage = filled_study(1000, 100, complete_share=complete_share, sampler=sampler)
    trials, shown = all_trials(storage), study.get_trials(deepcopy=False)
    shown_numbers = [trial.number for trial in shown]
    assert shown_numbers == sorted(set(shown_numbers))
    running = {trial.number for trial in trials if trial.state == TrialState.RUNNING}
    good = optunas_good_trials(trials)
    assert running | good <= set(shown_numbers)
    others = [t.number for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED) and t.number not in good]
    positions = [others.index(number) for number in shown_numbers if number not in running | good]
    assert len(positions) == 100 - GOOD_COUNT
    gaps = {later - earlier for earlier, later in itertools.pairwise(positions)}
    assert positions[0] == 0 and max(gaps) - min(gaps) <= 1 and positions[-1] >= len(others) - max(gaps) - 1
    assert [trial.number for trial in study.get_trials(states=[TrialState.RUNNING])] == sorted(running)


def test_with_few_trials_the_sampler_proposes_the_same_points_as_without_a_bound():
    def points(max_shown):
        sampler = optuna.samplers.TPESampler(multivariate=True, seed=1)
        _, storage = filled_study(90, max_shown, sampler=sampler)
        return [trial.params for trial in all_trials(storage)]

    assert points(100) == points(None)
    assert points(40) != points(None)


def test_a_proposal_looks_at_no_more_trials_than_the_bound():
    study, storage = filled_study(600, 250, sampler=optuna.samplers.RandomSampler(seed=0))
    scored = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    assert len(scored) == 250
    assert storage.count_all_trials(STUDY_ID) == 600
    assert storage.count_all_trials(STUDY_ID, TrialState.FAIL) > 0
