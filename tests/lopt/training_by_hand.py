"""Training written by hand: the reference that `test_parity.py` compares with.

It has its own model, input, loss, gradient, clipping, optimiser and schedule. For prompt methods torch computes the
gradient at the model's input only. From there to the factors, NumPy code applies the chain rule.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from transformers import (
    Adafactor,
    get_linear_schedule_with_warmup,
)

from lopt.batches import collate, training_batches
from tests.tiny_models import SENTINEL, WIDTH, make_model, make_tokenizer

STEPS, BATCH, LENGTH, TOKENS, SEED = 20, 4, 5, 32, 3
CLIP = 0.05  # the gradients of many steps are larger


def batches_of(trial):
    batches = training_batches(trial.data.train.token_counts, BATCH, SEED)
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


def arrays_of(parameters):
    return {name: parameter.detach().numpy() for name, parameter in parameters.items()}
