"""Dropout: on at training steps alone, its masks a function of seed and step, the weights of others untouched."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaAttention

from lopt import backbones, load_prompt, memory, methods, train
from lopt.batches import collate
from lopt.config import TrialConfig
from lopt.dropout import masks, with_dropout
from lopt.engine import Engine
from lopt.training import Trial
from tests.lopt.test_checkpoint import assert_same, config_of, first_predictions
from tests.tiny_models import FAMILIES, SENTINEL

RATE, SEED = 0.1, 3
# What each family calls its rates in its config.
RATES = {
    "gpt2": ("attn_pdrop", "resid_pdrop", "embd_pdrop"),
    "llama": ("attention_dropout",),
    "t5": ("dropout_rate",),
}


@pytest.fixture
def dropping(tiny):
    return tiny.replace(dropout=0.3)


# --- against the model itself ------------------------------------------------------------------------------------


def plain_model(folder, family, precision):
    """The family's model in training mode, as transformers loads it with these rates."""
    kind = transformers.AutoModelForSeq2SeqLM if family == "t5" else transformers.AutoModelForCausalLM
    rates = dict.fromkeys(RATES[family], RATE)
    return kind.from_pretrained(folder, dtype=precision, attn_implementation="sdpa", **rates).train()


def plain_loss(model, family, trial, positions, prompt=None):
    """Cross-entropy over the label words, written plainly; the prompt stands before the text."""
    ids, lengths, labels = collate(trial.data.train, positions, trial.backbone.pad_id)
    inputs, before = model.get_input_embeddings()(ids), 0
    if prompt is not None:
        inputs, before = torch.cat([prompt.to(inputs.dtype).expand(len(ids), -1, -1), inputs], dim=1), len(prompt)
    if family == "t5":
        mask = (torch.arange(inputs.shape[1])[None] < before + lengths[:, None]).long()
        start = torch.tensor([[0, trial.backbone.tokenizer.convert_tokens_to_ids(SENTINEL)]]).expand(len(ids), -1)
        logits = model(inputs_embeds=inputs, attention_mask=mask, decoder_input_ids=start, use_cache=False).logits[:, 1]
    else:
        logits = model(inputs_embeds=inputs, use_cache=False).logits
        logits = logits[torch.arange(len(ids)), before + lengths - 1]
    return torch.nn.functional.cross_entropy(logits[:, trial.label_ids], labels)


def seed_torch(*numbers):
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]))


@pytest.mark.parametrize(("precision", "dtype"), [("fp64", torch.float64), ("fp32", torch.float32)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_is_that_of_the_plain_model_in_training_mode(folders, family, precision, dtype):
    config = TrialConfig(
        method="prompt_tuning", task="toy", backbone=str(folders[family]), length=5, seed=SEED, precision=precision,
        batch_size=8, max_tokens=32, dropout=RATE,
    )  # fmt: skip
    trial, model = Trial(config, phase="search"), plain_model(folders[family], family, dtype)
    (factor,) = trial.factors.values()
    for step in range(3):
        positions, trial.step = trial.draw(), step
        ours = trial.loss(positions)
        (gradient,) = torch.autograd.grad(ours, factor)
        prompt = factor.detach().clone().requires_grad_()
        seed_torch(SEED, step, 0)
        theirs = plain_loss(model, family, trial, positions, prompt)
        (expected,) = torch.autograd.grad(theirs, prompt)
        assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)
        assert ours.item() != pytest.approx(plain_loss(model.eval(), family, trial, positions, prompt).item(), abs=1e-6)
        model.train()


@pytest.mark.parametrize("family", FAMILIES)
def test_fine_tuning_drops_what_the_plain_model_drops(folders, family):
    config = TrialConfig(
        method="fine_tuning", task="toy", backbone=str(folders[family]), seed=SEED, precision="fp64", batch_size=8,
        max_tokens=32, dropout=RATE,
    )  # fmt: skip
    trial, model = Trial(config, phase="search"), plain_model(folders[family], family, torch.float64)
    positions = trial.draw()
    trial.clear_gradients()
    trial.loss(positions).backward()
    seed_torch(SEED, 0, 0)
    plain_loss(model, family, trial, positions).backward()
    expected = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert expected
    for name, gradient in expected.items():
        torch.testing.assert_close(trial.factors[name].grad, gradient, rtol=0, atol=1e-6)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}


@pytest.mark.parametrize(
    ("name", "shape", "rates"),
    [
        ("opt", {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 32}, ("dropout", "attention_dropout")),
        ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64},
         ("hidden_dropout", "attention_dropout")),
        ("falcon", SMALL, ("hidden_dropout", "attention_dropout")),
        ("gpt_neox", {**SMALL, "intermediate_size": 64}, ("hidden_dropout", "attention_dropout")),
        ("phi", {**SMALL, "intermediate_size": 64}, ("resid_pdrop", "embd_pdrop", "attention_dropout")),
        ("qwen2", {**SMALL, "intermediate_size": 64, "num_key_value_heads": 2}, ("attention_dropout",)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_every_rate_of_a_family_is_set_wherever_it_stands(name, shape, rates):
    """In a module of its own, as a number of a layer, or read from the configuration in every pass."""

    def made(rate):
        config = transformers.AutoConfig.for_model(name, **shape, **dict.fromkeys(rates, rate))
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config)

    ids, device = torch.arange(1, 13)[None], torch.device("cpu")
    plain, ours = made(0.4).train(), with_dropout(made(0.0).eval(), 0.4)
    for seed in range(3):
        said = []
        for model in (plain, ours):
            with masks(device, seed), torch.no_grad():
                said.append(model(input_ids=ids, use_cache=False).logits)
        torch.testing.assert_close(*said, rtol=0, atol=1e-6)
    with torch.no_grad():
        assert not torch.allclose(said[0], plain.eval()(input_ids=ids, use_cache=False).logits)


# --- whose masks -------------------------------------------------------------------------------------------------


def test_masks_are_a_function_of_seed_step_and_part(dropping):
    trial = Trial(dropping, phase="search")
    positions = trial.draw()

    def loss(seed=0, step=0, first=0):
        other = trial if seed == 0 else Trial(dropping.replace(seed=seed), phase="search")
        with torch.no_grad():
            for name, factor in trial.factors.items():
                other.factors[name].copy_(factor)
            other.step = step
            other._part_begins = first
            return other.loss(positions).item()

    assert loss() == loss()
    assert len({loss(), loss(seed=1), loss(step=1), loss(step=2), loss(first=4)}) == 5


def test_a_step_leaves_torchs_own_generator_alone(dropping):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    trial = Trial(dropping, phase="search")
    trial.update()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("method", methods.names())
def test_the_same_trial_twice_and_one_that_was_cut_off_anywhere(tiny, method):
    """Bit for bit, whatever else has drawn from torch's generator meanwhile."""
    config = config_of(tiny, method, max_steps=5, eval_every=2, dropout=0.2)
    whole, again = Trial(config), Trial(config)
    list(whole)
    torch.manual_seed(123)
    list(again)
    assert_same(again, whole)
    first = Trial(config)
    for step in range(5):
        second = Trial(config)
        second.restore(first.saved())
        list(second)
        assert_same(second, whole)
        first.advance()
        assert first.step == step + 1


def test_another_seed_and_no_dropout_are_other_trials(dropping):
    losses = [train(config).selection_loss for config in
              (dropping, dropping.replace(dropout=0.0), dropping.replace(dropout=0.31))]  # fmt: skip
    assert len(set(losses)) == 3
    keys = {dropping.replace(dropout=rate).key for rate in (0.0, 0.1, 0.3)}
    assert len(keys) == 3
    assert dropping.replace(dropout=0).key == dropping.replace(dropout=0.0).key


def test_a_batch_in_parts_repeats_too(dropping, monkeypatch):
    def begun():
        trial, honest = Trial(dropping, phase="search"), Trial.loss

        def loss(self, positions):
            if len(positions) > 4:
                raise MemoryError
            return honest(self, positions)

        monkeypatch.setattr(Trial, "loss", loss)
        monkeypatch.setattr(memory, "free", lambda: None)
        list(trial)
        monkeypatch.setattr(Trial, "loss", honest)
        return trial

    assert_same(begun(), begun())


# --- whose weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lopt1", "lora", "fine_tuning"])
def test_nothing_is_dropped_but_at_steps(tiny, tmp_path, method):
    """Evaluations and the score are those of the model without dropout, and the shared model stays as it was."""
    config = config_of(tiny, method, dropout=0.5)
    shared = backbones.load(config.backbone, "fp32")
    before, rates = shared.checksum(), shared.model.config.attention_dropout
    trial = Trial(config)
    for evaluation in trial:
        other = Trial(config.replace(dropout=0.0))
        with torch.no_grad():
            for name, factor in other.factors.items():
                factor.copy_(trial.factors[name])
        other.step, other._train_loss = evaluation.step, evaluation.train_loss
        plain = other.record_evaluation(first_predictions(other))
        assert dataclasses.replace(plain, wall_time_s=0) == dataclasses.replace(evaluation, wall_time_s=0)
    record = trial.finish(artifact=tmp_path / "made")
    assert load_prompt(tmp_path / "made").evaluate().accuracy == record.test_accuracy
    assert shared.checksum() == before
    assert shared.model.config.attention_dropout == rates == 0.0
    assert not any(module.training for module in shared.model.modules())


def test_no_weight_is_there_twice(dropping):
    trial = Trial(dropping, phase="search")
    shared = backbones.load("tiny", "fp32").model
    mine = dict(trial._in_steps.model.named_parameters())
    assert mine
    assert all(mine[name] is weight for name, weight in shared.named_parameters())
    assert trial._in_steps.model.training
    assert trial.backbone.model is shared


# --- where it cannot be ------------------------------------------------------------------------------------------


def test_the_engine_refuses_it(dropping, tiny):
    assert tiny.shares_backbone
    assert not dropping.shares_backbone
    with pytest.raises(ValueError, match=r"dropout is 0\.3, and its masks are the trial's own: train it alone"):
        Engine().admit(Trial(dropping))


def test_a_model_without_dropout_is_refused_before_training(dropping, monkeypatch):
    honest = LlamaAttention.forward

    def forward(self, *arguments, **named):
        self.attention_dropout = 0.0
        return honest(self, *arguments, **named)

    monkeypatch.setattr(LlamaAttention, "forward", forward)
    with pytest.raises(ValueError, match=r"dropout is 0\.3, but backbone 'tiny' has no place for it") as caught:
        Trial(dropping.replace(precision="fp64"))
    assert "\n" not in str(caught.value)


def test_a_copy_is_of_the_model_as_it_is(folders):
    """Weights that are tied stay tied, and what is fused stays fused."""
    backbone = backbones.load(str(folders["gpt2"]), "fp32")
    made = backbone.with_dropout(0.1)
    assert made.model.get_output_embeddings().weight is made.model.get_input_embeddings().weight
    assert [type(module) for module in made.model.modules()] == [type(module) for module in backbone.model.modules()]
    assert (made.flat, made.side_by_side) == (None, False)
    assert copy.deepcopy(made.model.config).attn_pdrop == 0.1
