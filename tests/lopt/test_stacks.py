"""Packed trials of one shape, whose factors are stacked, compared with the same trials alone."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.optimization import Adafactor

from lopt import adafactor
from lopt.config import TrialConfig
from lopt.engine import Engine
from lopt.stacks import SameShapeStack, Stack, Stacks, prompt_tensors
from lopt.training import Trial

TOLERANCE = 1e-9
METHODS = {
    "prompt_tuning": {"learning_rate": 0.1, "weight_decay": 0.05},
    "lopt1": {"rank": 2, "learning_rate": 0.2, "warmup": 0.2, "schedule": "linear"},
    "lopt2": {"rank": 1, "learning_rate": 0.03, "options": {"unit": "embeddings"}},
    "dept": {"rank": 4, "learning_rate": 0.05, "clip_norm": 0.01},
    "ulpt": {"rank": 4, "learning_rate": 0.1, "optimizer": "adafactor"},
}


def make_trial(backbone, method, seed, steps=12, precision="fp64", **changes):
    config = TrialConfig(
        task="toy", backbone=str(backbone), method=method, length=4, max_steps=steps, eval_every=4, seed=seed,
        precision=precision, batch_size=4, selection_examples=12, max_tokens=32, **{**METHODS[method], **changes},
    )  # fmt: skip
    return Trial(config, phase="search")


def train_alone(trial):
    for _ in trial:
        pass
    return trial


def assert_equal(packed, reference, tolerance=TOLERANCE):
    assert packed.evaluations and packed.step == reference.step
    for evaluation, expected in zip(packed.evaluations, reference.evaluations, strict=True):
        assert evaluation.train_loss == pytest.approx(expected.train_loss, abs=tolerance)
        assert evaluation.selection_loss == pytest.approx(expected.selection_loss, abs=tolerance)
    for name, factor in packed.factors.items():
        torch.testing.assert_close(factor, reference.factors[name], rtol=0, atol=tolerance)
        state, expected_state = packed.optimizer.state[factor], reference.optimizer.state[reference.factors[name]]
        assert set(state) == set(expected_state)
        for entry, value in state.items():
            torch.testing.assert_close(value, expected_state[entry], rtol=1e-9, atol=tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_stacked_trials_equal_trials_alone(folders, method):
    """The trials have other seeds and rates. One enters late, one leaves early, one goes through a checkpoint."""
    rates = [factor * METHODS[method]["learning_rate"] for factor in (1, 0.5, 2, 0.7)]
    references = [make_trial(folders["gpt2"], method, seed, learning_rate=rate) for seed, rate in enumerate(rates)]
    for reference in (references[0], *references[2:]):
        train_alone(reference)
    next(iter(references[1]))
    trials = [make_trial(folders["gpt2"], method, seed, learning_rate=rate) for seed, rate in enumerate(rates)]
    engine, sizes = Engine(), []
    for trial in trials[:3]:
        engine.admit(trial)
    while engine.trials:
        outcomes = dict(engine.advance())
        assert not any(isinstance(outcome, Exception) for outcome in outcomes.values())
        sizes.append([len(stack.trials) for stack in engine._stacks._stacks])
        if trials[1] in outcomes and trials[1] in engine.trials:
            engine.evict(trials[1])
            engine.admit(trials[3])
        if trials[2].step == 8 and trials[2] in engine.trials:
            engine.evict(trials[2])
            restored = make_trial(folders["gpt2"], method, 2, learning_rate=rates[2])
            restored.restore(trials[2].to_checkpoint())
            trials[2] = restored
            engine.admit(restored)
    assert sizes[0] == [3], "the trials are stacked"
    for packed, reference in zip(trials, references, strict=True):
        assert_equal(packed, reference)


def test_a_trial_that_begins_anew_equals_the_same_trial_alone(folders, monkeypatch):
    from lopt import restarts

    monkeypatch.setattr(restarts, "is_stuck", lambda *_: True)

    def make(seed):
        config = make_trial(folders["gpt2"], "lopt1", seed, steps=40).config
        return Trial(config.replace(restarts=1), phase="search")

    references, trials = [train_alone(make(seed)) for seed in (1, 2)], [make(seed) for seed in (1, 2)]
    assert all(reference.abandoned_starts == 1 for reference in references)
    engine = Engine()
    for trial in trials:
        engine.admit(trial)
    for _ in engine:
        pass
    for packed, reference in zip(trials, references, strict=True):
        assert packed.abandoned_starts == 1
        assert_equal(packed, reference)


def test_trials_of_other_shapes_and_of_plugins_that_cannot_be_stacked_take_the_plain_path(monkeypatch):
    trials = [make_trial("tiny", "lopt1", seed, precision="fp32") for seed in range(3)]
    other = make_trial("tiny", "prompt_tuning", 0, precision="fp32")
    assert [type(stack) for stack in Stacks().of([*trials, other])] == [SameShapeStack, Stack]
    method = type(trials[0].method)
    monkeypatch.setattr(method, "prompt", lambda self, tensors, options: tensors["U"].mT.mT[..., :2, :] @ tensors["V"])
    assert [len(stack.trials) for stack in Stacks().of(trials)] == [3]
    monkeypatch.setattr(method, "prompt", lambda self, tensors, options: torch.mm(tensors["U"], tensors["V"]))
    assert [type(stack) for stack in Stacks().of(trials)] == [Stack] * 3, "mm takes no stacked matrices"
    monkeypatch.setattr(
        method, "prompt", lambda self, tensors, options: tensors["U"] @ tensors["V"] / tensors["V"].norm()
    )
    assert [type(stack) for stack in Stacks().of(trials)] == [Stack] * 3, "its prompts would depend on one another"


def test_a_stack_stays_while_its_trials_stay_and_their_state_is_theirs():
    trials, stacks = [make_trial("tiny", "lopt1", seed, precision="fp32") for seed in range(3)], Stacks()
    (stack,) = stacks.of(trials)
    assert stacks.of(trials) == [stack]
    trials[1].optimizer.state.clear()
    (renewed,) = stacks.of(trials)
    assert renewed is not stack
    assert [type(part) for part in stacks.of(trials[:1])] == [Stack]


@pytest.mark.parametrize("shape", [(5, 3), (7,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stacked_adafactor_equals_that_of_transformers(shape, dtype):
    torch.manual_seed(0)
    rates, decays = [0.1, 0.3, 0.02], [0.0, 0.1, 0.2]
    references = [torch.randn(shape, dtype=dtype).requires_grad_() for _ in rates]
    optimizers = [
        Adafactor(
            [reference], lr=rate, weight_decay=decay, scale_parameter=False, relative_step=False, warmup_init=False
        )
        for reference, rate, decay in zip(references, rates, decays, strict=True)
    ]
    factor = torch.stack([reference.detach().clone() for reference in references])
    averages = adafactor.empty_averages(factor)
    for step in range(1, 30):
        gradient = torch.randn(factor.shape, dtype=dtype) * 10.0 ** torch.randint(-6, 3, (3, *(1,) * len(shape)))
        for reference, optimizer, part in zip(references, optimizers, gradient, strict=True):
            reference.grad = part.clone()
            optimizer.step()
        new_share = adafactor.share_of_new(step)
        adafactor.update_factors(
            factor,
            gradient,
            averages,
            rates_K=torch.tensor(rates, dtype=dtype),
            decays_K=torch.tensor(rates, dtype=dtype) * torch.tensor(decays, dtype=dtype),
            old_shares_K=torch.full((3,), 1.0 - new_share, dtype=dtype),
            new_shares_K=torch.full((3,), new_share, dtype=dtype),
        )
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(factor, torch.stack(references).detach(), rtol=tolerance, atol=tolerance)


class OperationCount(TorchDispatchMode):
    """Counts operations, without views."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.is_view
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("method", [method for method in METHODS if method != "dept"])
def test_optimiser_and_prompts_of_64_trials_take_at_most_150_operations(method):
    """Not of DePT, which is trained by AdamW: there each trial makes its own optimiser step."""
    trials = [make_trial("tiny", method, seed, precision="fp32") for seed in range(64)]
    (stack,) = Stacks().of(trials)
    with OperationCount() as operations:
        soft_prompt = stack.soft_prompt()
        parts = soft_prompt.map(lambda tensor: tensor.detach().requires_grad_()).unbind()
        gradients = [torch.ones_like(tensor) for tensor in prompt_tensors(soft_prompt)]
        stack.update(soft_prompt, gradients, list(torch.zeros(64).unbind(0)))
    assert len(parts) == 64
    assert 10 < operations.count <= 150
