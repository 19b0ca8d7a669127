"""A start that learns nothing is begun anew from other initial values."""

import math

import numpy as np
import pytest
import torch

from lopt import train
from lopt.config import TrialConfig
from lopt.engine import Engine
from lopt.records import MEASURED_FIELDS
from lopt.restarts import check_step, is_stuck, seed_of_start
from lopt.training import Trial

STUCK = {"learning_rate": 1e-9, "max_steps": 6, "eval_every": 1}  # such a rate never leaves the loss of guessing


def learns_nothing(trial, *, at_start):
    """Let the trial report the loss of guessing in start number `at_start` and before it, and no loss later."""
    loss = trial.loss

    def chosen_loss(positions):
        chance = math.log(2) if trial.abandoned_starts <= at_start else 0.0
        return 0.0 * loss(positions) + chance

    trial.loss = chosen_loss
    return trial


def results(record):
    return {name: value for name, value in record.to_dict().items() if name not in (*MEASURED_FIELDS, "evaluations")}


def test_the_check_looks_at_training_losses_near_chance_only():
    chance, better = torch.tensor(math.log(2)), torch.tensor(0.9 * math.log(2))
    balanced, four_of_five = np.array([0, 1]), np.array([0, 0, 0, 0, 1])
    assert is_stuck([chance], 1, balanced, 10.0) and not is_stuck([better], 1, balanced, 10.0)
    assert is_stuck([better] * 20 + [chance] * 20, 120, balanced, 10.0), "the last twenty of 120 steps count"
    assert not is_stuck([chance] * 20 + [better] * 20, 120, balanced, 10.0)
    assert is_stuck([torch.tensor(0.5)], 1, four_of_five, 10.0), "0.5 nats are the shares of the classes and no more"
    for diverged in (20.0, math.nan, math.inf):
        assert not is_stuck([torch.tensor(diverged)], 1, balanced, 10.0), "another start would diverge as well"
    assert (check_step(120), check_step(1)) == (60, 1)
    assert len({seed_of_start(seed, start) for seed in range(100) for start in range(10)}) == 1000


def test_a_stuck_trial_begins_anew_as_often_as_it_may(tiny):
    trial = learns_nothing(Trial(tiny.replace(**STUCK, restarts=2), phase="search"), at_start=9)
    starts = []
    while not trial.is_over:
        if trial.step == 0:
            starts.append({name: factor.detach().clone() for name, factor in trial.factors.items()})
        trial.advance()
    record = trial.finish()
    assert (record.status, record.abandoned_starts, record.abandoned_steps, record.steps) == ("complete", 2, 6, 6)
    assert [evaluation.step for evaluation in record.evaluations] == [3, 4, 5, 6], "none before the check"
    assert len(starts) == 3
    for first, second in ((0, 1), (1, 2), (0, 2)):
        assert not torch.equal(starts[first]["U"], starts[second]["U"])
    tokens_of_one_start = train(tiny.replace(**STUCK)).tokens
    assert record.tokens > 1.7 * tokens_of_one_start, "abandoned starts are paid for"


def test_a_start_that_learns_is_kept(tiny):
    trial = learns_nothing(Trial(tiny.replace(**STUCK, restarts=5), phase="search"), at_start=0)
    for _ in trial:
        pass
    assert trial.finish().abandoned_starts == 1


def test_without_restarts_nothing_changes(tiny):
    assert tiny.replace(restarts=0).key == tiny.key != tiny.replace(restarts=1).key
    record = train(tiny.replace(**STUCK))
    assert (record.abandoned_starts, record.abandoned_steps) == (0, 0)
    assert [evaluation.step for evaluation in record.evaluations] == [1, 2, 3, 4, 5, 6]


def test_a_new_start_is_as_good_as_a_first_one(tiny):
    """Schedule, optimiser and evaluations begin again. Only initial values and batches are other ones."""
    trial = learns_nothing(Trial(tiny.replace(**STUCK, restarts=1, warmup=0.5), phase="search"), at_start=0)
    rates = []
    while not trial.is_over:
        trial.advance()
        rates.append(trial.optimizer.param_groups[0]["lr"])
    assert rates[3:6] == rates[:3] and len(rates) == 9, "three steps, and then all six from the beginning"


@pytest.mark.parametrize("saved_at", [1, 4])
def test_a_checkpoint_before_or_after_a_new_start_continues_bit_for_bit(tiny, saved_at, monkeypatch):
    monkeypatch.setattr("lopt.restarts._GUESSING_SHARE", 0.0)  # every start counts as one that learns nothing
    config = tiny.replace(max_steps=6, eval_every=1, restarts=1)
    whole, part = Trial(config), Trial(config)
    for _ in whole:
        pass
    for _ in range(saved_at):
        part.advance()
    continued = Trial(config)
    continued.restore(part.to_checkpoint())
    for _ in continued:
        pass
    record = whole.finish()
    assert results(continued.finish()) == results(record)
    assert record.abandoned_starts == 1


def test_packed_trials_begin_anew_as_alone(tiny, monkeypatch):
    monkeypatch.setattr("lopt.restarts._GUESSING_SHARE", 0.0)
    configs = [tiny.replace(seed=seed, restarts=seed, precision="fp64") for seed in (0, 1, 2)]
    alone, packed = ([Trial(config, phase="search") for config in configs] for _ in range(2))
    for trial in alone:
        for _ in trial:
            pass
    engine = Engine()
    for trial in packed:
        engine.admit(trial)
    for _ in engine:
        pass
    for one, other in zip(alone, packed, strict=True):
        assert one.abandoned_starts == other.abandoned_starts == one.config.restarts
        for name, factor in one.factors.items():
            torch.testing.assert_close(factor, other.factors[name])


@pytest.mark.parametrize("method", ["lora", "dept", "lopt2", "ulpt"])
def test_every_method_can_begin_anew(tiny, method):
    from lopt import methods

    rank = 2 if methods.get(method).uses_rank else None
    length = 4 if methods.get(method).uses_length else None
    settings = {"method": method, "rank": rank, "length": length, "options": {}}
    config = TrialConfig.from_dict({**tiny.to_dict(), **settings, **STUCK, "restarts": 1})
    trial = learns_nothing(Trial(config), at_start=0)
    for _ in trial:
        pass
    record = trial.finish()
    assert (record.status, record.abandoned_starts) == ("complete", 1)
    assert record.test_accuracy is not None


@pytest.mark.parametrize("restarts", [-1, 1.5, True, 101])
def test_a_wrong_number_is_refused_in_one_line(tiny, restarts):
    with pytest.raises(ValueError, match="restarts is"):
        tiny.replace(restarts=restarts)


def test_fine_tuning_has_no_other_start(tiny):
    settings = {"method": "fine_tuning", "rank": None, "length": None, "options": {}, **STUCK, "restarts": 1}
    trial = learns_nothing(Trial(TrialConfig.from_dict({**tiny.to_dict(), **settings})), at_start=0)
    for _ in trial:
        pass
    assert trial.finish().abandoned_starts == 0
