"""Twenty training steps of every method, compared with plain loops that are written here, in fp64 with sdpa.

The code under test is `lopt.training.Trial`. The reference takes from it only the token ids of the batches and the
initial values of the factors. It has its own model, input, loss, gradient, clipping, optimiser and schedule. For prompt
methods torch computes the gradient at the model's input only. From there to the factors, NumPy code below applies the
chain rule. PEFT is a second, complete reference for prompt tuning and LoRA.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from transformers import (
    Adafactor,
    get_linear_schedule_with_warmup,
)

from lopt.batches import collate, training_batches
from lopt.config import TrialConfig
from lopt.training import Trial
from tests.tiny_models import FAMILIES, SENTINEL, WIDTH, make_model, make_tokenizer

STEPS, BATCH, LENGTH, TOKENS, SEED = 20, 4, 5, 32, 3
CLIP = 0.05  # the gradients of many steps are larger
TOLERANCE = 1e-8


# Both sides use norms in fp64. With norms in fp32, differences of 1e-16, which any two orders of a sum have, become
# 1e-8 where a value rounds to its neighbour (measured with T5: 1e-7 after twenty steps).
pytestmark = pytest.mark.usefixtures("fp64_norms")


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


# --- the code under test ---------------------------------------------------------------------------------------


def make_trial(folders, family, method, **changes):
    options = {"length": LENGTH, **changes} if method not in ("lora", "fine_tuning") else changes
    config = TrialConfig(
        method=method, task="toy", backbone=str(folders[family]), seed=SEED, precision="fp64", batch_size=BATCH,
        max_steps=STEPS, eval_every=STEPS, max_tokens=TOKENS, clip_norm=CLIP, **options,
    )  # fmt: skip
    return Trial(config, phase="search")


def factor_values(trial):
    return {name: factor.detach().numpy().copy() for name, factor in trial.factors.items()}


def train(trial):
    """Return the losses of all steps, and the factors after them."""
    losses = [float(trial.update()) for _ in range(STEPS)]
    return np.array(losses), factor_values(trial)


# --- the reference ---------------------------------------------------------------------------------------------


def batches_of(trial):
    batches = training_batches(trial.data.train.lengths, BATCH, SEED)
    return [collate(trial.data.train, positions, 0) for positions in itertools.islice(batches, STEPS)]


def token_ids_of(family, words):
    vocabulary = make_tokenizer(family).get_vocab()
    return [vocabulary[word] for word in words]


def cross_entropy(family, logits_BSV, position_B, labels_B):
    """Mean over the batch of log Σ exp(z) - z_label, where z are the logits of the label words at their positions."""
    logits_BC = logits_BSV[torch.arange(len(labels_B)), position_B][:, token_ids_of(family, [" bad", " great"])]
    return (logits_BC.exp().sum(dim=1).log() - logits_BC[torch.arange(len(labels_B)), labels_B]).mean()


def label_positions(family, last_B):
    """Where the label is read: at the last token, or at the decoder's second step."""
    return torch.ones_like(last_B) if family == "t5" else last_B


def decoder_input(family, rows):
    if family != "t5":
        return {}
    return {"decoder_input_ids": torch.tensor([[0, *token_ids_of(family, [SENTINEL])]] * rows)}


def loss_of_text(family, model, batch, virtual_token_count=0):
    """The loss of a model on token ids. The model itself puts `virtual_token_count` virtual tokens in front."""
    ids_BT, lengths_B, labels_B = batch
    mask_BT = (torch.arange(ids_BT.shape[1])[None] < lengths_B[:, None]).long()
    output = model(input_ids=ids_BT, attention_mask=mask_BT, **decoder_input(family, len(ids_BT)))
    return cross_entropy(family, output.logits, label_positions(family, virtual_token_count + lengths_B - 1), labels_B)


def loss_of_input(family, model, batch, prompt_PH, update_SH, placement):
    """The loss of a model on embeddings, which are joined one row after another."""
    ids_BT, lengths_B, labels_B = batch
    rows, masks = [], []
    for ids_T, length in zip(ids_BT, lengths_B.tolist(), strict=True):
        text_TH = model.get_input_embeddings()(ids_T[:length])
        if update_SH is not None:
            updated = min(length, len(update_SH))
            text_TH = torch.cat([text_TH[:updated] + update_SH[:updated], text_TH[updated:]])
        padding_H = torch.zeros(len(ids_T) - length, WIDTH, dtype=torch.float64)
        parts = [prompt_PH, text_TH] if placement == "prefix" else [text_TH, prompt_PH]
        rows.append(torch.cat([*parts, padding_H]))
        masks.append([1] * (length + len(prompt_PH)) + [0] * len(padding_H))
    output = model(
        inputs_embeds=torch.stack(rows), attention_mask=torch.tensor(masks), **decoder_input(family, len(ids_BT))
    )
    return cross_entropy(family, output.logits, label_positions(family, lengths_B + len(prompt_PH) - 1), labels_B)


class PromptTuning:
    """X."""

    def forward(self, values):
        return values["X"], None

    def backward(self, values, d_x, d_e):
        return {"X": d_x}


class LoPT1:
    """X = U V."""

    def forward(self, values):
        return values["U"] @ values["V"], None

    def backward(self, values, d_x, d_e):
        return {"U": d_x @ values["V"].T, "V": values["U"].T @ d_x}


class LoPT2:
    """X = σ(X0 U) V. X0 is drawn from U[-0.5, 0.5] with the random stream (x0_seed, index of the factor, 0)."""

    def __init__(self, activation, x0_seed):
        self.x0 = np.random.RandomState([x0_seed, 2, 0]).uniform(-0.5, 0.5, (LENGTH, WIDTH))
        normal_cdf = np.vectorize(lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2))))
        self.sigma, self.slope = {
            "elu": (lambda x: np.where(x > 0, x, np.expm1(x)), lambda x: np.where(x > 0, 1, np.exp(x))),
            "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(float)),
            "gelu": (
                lambda x: x * normal_cdf(x),
                lambda x: normal_cdf(x) + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi),
            ),
        }[activation]

    def forward(self, values):
        return self.sigma(self.x0 @ values["U"]) @ values["V"], None

    def backward(self, values, d_x, d_e):
        hidden = self.x0 @ values["U"]
        d_hidden = (d_x @ values["V"].T) * self.slope(hidden)
        return {"U": self.x0.T @ d_hidden, "V": self.sigma(hidden).T @ d_x}


class DePT:
    """X = P, and scale·A B is added to the text, where scale = α/√r."""

    def __init__(self, alpha, rank):
        self.scale = alpha / math.sqrt(rank)

    def forward(self, values):
        return values["P"], self.scale * values["A"] @ values["B"]

    def backward(self, values, d_x, d_e):
        return {"P": d_x, "A": self.scale * d_e @ values["B"].T, "B": self.scale * values["A"].T @ d_e}


class ULPT:
    """X = (Z P)·diag(s) + b. P is drawn from Xavier's uniform distribution with the random stream (projection_seed,
    index of the factor, 0)."""

    def __init__(self, rank, projection_seed):
        bound = math.sqrt(6 / (rank + WIDTH))
        self.p = np.random.RandomState([projection_seed, 3, 0]).uniform(-bound, bound, (rank, WIDTH))

    def forward(self, values):
        return (values["Z"] @ self.p) * values["s"][None] + values["b"][None], None

    def backward(self, values, d_x, d_e):
        projected = values["Z"] @ self.p
        return {
            "Z": (d_x * values["s"][None]) @ self.p.T,
            "s": (d_x * projected).sum(axis=0),
            "b": d_x.sum(axis=0),
        }


def adafactor(parameters, rate):
    return Adafactor(
        parameters, lr=rate, scale_parameter=False, relative_step=False, warmup_init=False, clip_threshold=1.0,
        decay_rate=-0.8, eps=(1e-30, 1e-3), weight_decay=0.0,
    )  # fmt: skip


def constant(optimizer):
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def linear(warmup_steps):
    return lambda optimizer: get_linear_schedule_with_warmup(optimizer, warmup_steps, STEPS)


def train_by_hand(family, method, values, batches, make_optimizer, make_scheduler, placement="prefix"):
    """Return the losses, the factors after all steps, and the norms of the gradients before clipping."""
    model = make_model(family).requires_grad_(False)
    factors = {name: torch.tensor(value) for name, value in values.items()}
    optimizer = make_optimizer(factors)
    scheduler = make_scheduler(optimizer)
    losses, norms = [], []
    for batch in batches:
        values = {name: factor.numpy() for name, factor in factors.items()}
        prompt, update = (
            None if array is None else torch.tensor(array, requires_grad=True) for array in method.forward(values)
        )
        loss = loss_of_input(family, model, batch, prompt, update, placement)
        loss.backward()
        gradients = method.backward(values, prompt.grad.numpy(), None if update is None else update.grad.numpy())
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients.values()))
        for name, gradient in gradients.items():
            factors[name].grad = torch.tensor(gradient * min(1.0, CLIP / (norm + 1e-6)))
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        norms.append(norm)
    return np.array(losses), {name: factor.numpy() for name, factor in factors.items()}, np.array(norms)


def train_in_torch(parameters, loss_of, batches, optimizer, scheduler):
    """Train with gradients that torch computes alone. Return the losses and the norms of the gradients."""
    losses, norms = [], []
    for batch in batches:
        loss = loss_of(batch)
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, CLIP)))
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return np.array(losses), np.array(norms)


def assert_equal(result, reference, initial):
    """Losses and factors must be equal, and the training must be one in which they could differ."""
    (losses, factors), (expected_losses, expected_factors, norms) = result, reference
    assert (norms > CLIP).any(), "no gradient was clipped"
    assert np.ptp(losses) > 1e-2, "the losses do not move"
    assert set(factors) == set(expected_factors) == set(initial)
    largest_change = max(np.abs(factors[name] - initial[name]).max() for name in factors)
    assert largest_change > 1e-3, "nothing is trained"
    np.testing.assert_allclose(losses, expected_losses, rtol=0, atol=TOLERANCE)
    for name, value in factors.items():
        np.testing.assert_allclose(value, expected_factors[name], rtol=0, atol=TOLERANCE, err_msg=name)


# --- prompt methods against NumPy ------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["prefix", "suffix"])
@pytest.mark.parametrize("method", ["prompt_tuning", "lopt1"])
def test_prompt_tuning_and_lopt1_equal_the_reference(folders, family, method, placement):
    rank = {} if method == "prompt_tuning" else {"rank": 2}
    trial = make_trial(folders, family, method, **rank, learning_rate=0.1, options={"placement": placement})
    initial, formulas = factor_values(trial), PromptTuning() if method == "prompt_tuning" else LoPT1()
    reference = train_by_hand(
        family,
        formulas,
        initial,
        batches_of(trial),
        lambda factors: adafactor(list(factors.values()), 0.1),
        constant,
        placement,
    )
    assert_equal(train(trial), reference, initial)


@pytest.mark.parametrize("activation", ["elu", "relu", "gelu"])
def test_lopt2_equals_the_reference(folders, family, activation):
    trial = make_trial(
        folders, family, "lopt2", rank=2, learning_rate=0.03, options={"activation": activation, "x0_seed": 7}
    )
    initial = factor_values(trial)
    reference = train_by_hand(
        family,
        LoPT2(activation, 7),
        initial,
        batches_of(trial),
        lambda factors: adafactor(list(factors.values()), 0.03),
        constant,
    )
    assert_equal(train(trial), reference, initial)


@pytest.mark.parametrize(
    ("tokens", "placement"),
    [(12, "prefix"), (48, "prefix"), (48, "suffix")],
    ids=["text-cut", "text-shorter", "suffix"],
)
def test_dept_equals_the_reference(folders, family, tokens, placement):
    """The update has fewer rows than the longest text, which is then cut, or more rows than every text. Rows beyond the
    text get no gradient."""
    options = {"update_tokens": tokens, "update_learning_rate": 0.02, "alpha": 5.0, "placement": placement}
    trial = make_trial(folders, family, "dept", rank=3, learning_rate=0.1, warmup=0.1, options=options)
    initial, batches = factor_values(trial), batches_of(trial)
    longest = max(int(lengths.max()) for _, lengths, _ in batches)
    assert longest == min(tokens, TOKENS)

    def make_optimizer(factors):
        groups = [
            {"params": [factors["P"]], "lr": 0.1},
            {"params": [factors["A"], factors["B"]], "lr": 0.02},
        ]
        return torch.optim.AdamW(groups, weight_decay=0.0)

    reference = train_by_hand(family, DePT(5.0, 3), initial, batches, make_optimizer, linear(2), placement)
    result = train(trial)
    assert_equal(result, reference, initial)
    for name in ("P", "A", "B"):
        assert np.abs(result[1][name] - initial[name]).max() > 1e-3
    np.testing.assert_array_equal(result[1]["A"][longest:], initial["A"][longest:])


def test_ulpt_equals_the_reference(folders, family):
    trial = make_trial(
        folders, family, "ulpt", rank=3, learning_rate=0.2, warmup=0.15, options={"projection_seed": 11}
    )  # fmt: skip
    initial = factor_values(trial)
    reference = train_by_hand(
        family, ULPT(3, 11), initial, batches_of(trial),
        lambda factors: torch.optim.AdamW(factors.values(), lr=0.2, weight_decay=0.0), linear(3),
    )  # fmt: skip
    result = train(trial)
    assert_equal(result, reference, initial)
    assert all(np.abs(result[1][name] - initial[name]).max() > 1e-3 for name in ("Z", "s", "b"))


def arrays_of(parameters):
    return {name: parameter.detach().numpy() for name, parameter in parameters.items()}


# --- against PEFT, and a plain loop ----------------------------------------------------------------------------


def test_prompt_tuning_equals_peft(folders, family):
    peft = pytest.importorskip("peft")
    trial = make_trial(folders, family, "prompt_tuning", learning_rate=0.1)
    initial, batches = factor_values(trial), batches_of(trial)
    task_arguments = (
        {"task_type": "SEQ_2_SEQ_LM", "num_transformer_submodules": 1} if family == "t5" else {"task_type": "CAUSAL_LM"}
    )
    config = peft.PromptTuningConfig(num_virtual_tokens=LENGTH, **task_arguments)
    wrapped = peft.get_peft_model(make_model(family), config).double().eval()  # PEFT makes its own weights in fp32
    weight = wrapped.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        weight.copy_(torch.tensor(initial["X"]))
    optimizer = adafactor([weight], 0.1)
    losses, norms = train_in_torch(
        [weight], lambda batch: loss_of_text(family, wrapped, batch, LENGTH), batches, optimizer, constant(optimizer)
    )
    assert_equal(train(trial), (losses, {"X": weight.detach().numpy()}, norms), initial)


def test_lora_equals_peft(folders, family):
    peft = pytest.importorskip("peft")
    trial = make_trial(
        folders, family, "lora", rank=3, learning_rate=5e-3, weight_decay=0.1, warmup=0.1, options={"alpha": 7.0}
    )
    initial, batches = factor_values(trial), batches_of(trial)
    config = peft.LoraConfig(r=3, lora_alpha=7.0, lora_dropout=0.0, bias="none", fan_in_fan_out=family == "gpt2")
    wrapped = peft.get_peft_model(make_model(family), config).eval()
    trained = ((name, parameter) for name, parameter in wrapped.named_parameters() if parameter.requires_grad)
    parameters = {name.removeprefix("base_model.model."): parameter for name, parameter in trained}
    assert set(parameters) == set(initial)
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float64}
    with torch.no_grad():
        for name, parameter in parameters.items():
            assert parameter.shape == initial[name].shape
            parameter.copy_(torch.tensor(initial[name]))
    optimizer = torch.optim.AdamW(parameters.values(), lr=5e-3, weight_decay=0.1)
    losses, norms = train_in_torch(
        list(parameters.values()), lambda batch: loss_of_text(family, wrapped, batch), batches, optimizer,
        linear(2)(optimizer),
    )  # fmt: skip
    result = train(trial)
    assert_equal(result, (losses, arrays_of(parameters), norms), initial)
    assert all((value != initial[name]).any() for name, value in result[1].items())


def test_fine_tuning_equals_a_plain_loop(folders, family):
    trial = make_trial(folders, family, "fine_tuning", learning_rate=1e-3, weight_decay=0.01, warmup=0.1)
    initial, batches, model = factor_values(trial), batches_of(trial), make_model(family)
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        np.testing.assert_array_equal(parameter.detach().numpy(), initial[name])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    losses, norms = train_in_torch(
        list(model.parameters()), lambda batch: loss_of_text(family, model, batch), batches, optimizer,
        linear(2)(optimizer),
    )  # fmt: skip
    assert_equal(train(trial), (losses, arrays_of(parameters), norms), initial)
