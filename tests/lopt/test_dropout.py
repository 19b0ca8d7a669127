"""Dropout is on at training steps only, seed and step decide its masks, and shared weights stay as they are."""

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
from lopt.dropout import seeded_masks, with_dropout
from lopt.engine import Engine
from lopt.training import Trial
from tests.lopt.test_checkpoint import assert_same, config_of, first_predictions
from tests.tiny_models import FAMILIES, SENTINEL

RATE, SEED = 0.1, 3
# The names of the rates in each family's config.
RATES = {
    "gpt2": ("attn_pdrop", "resid_pdrop", "embd_pdrop"),
    "llama": ("attention_dropout",),
    "t5": ("dropout_rate",),
}


@pytest.fixture
def dropout_config(tiny):
    return tiny.replace(dropout=0.3)


# --- against the model itself ------------------------------------------------------------------------------------


def plain_model(folder, family, precision):
    """Return the family's model in training mode, as transformers loads it with dropout rates."""
    kind = transformers.AutoModelForSeq2SeqLM if family == "t5" else transformers.AutoModelForCausalLM
    rates = dict.fromkeys(RATES[family], RATE)
    return kind.from_pretrained(folder, dtype=precision, attn_implementation="sdpa", **rates).train()


def plain_loss(model, family, trial, positions, prompt=None):
    """Return the cross-entropy over the label words, without this program's code. The prompt comes before the text."""
    ids, lengths, labels = collate(trial.data.train, positions, trial.backbone.pad_id)
    inputs, prompt_length = model.get_input_embeddings()(ids), 0
    if prompt is not None:
        inputs = torch.cat([prompt.to(inputs.dtype).expand(len(ids), -1, -1), inputs], dim=1)
        prompt_length = len(prompt)
    if family == "t5":
        mask = (torch.arange(inputs.shape[1])[None] < prompt_length + lengths[:, None]).long()
        decoder_ids = torch.tensor([[0, trial.backbone.tokenizer.convert_tokens_to_ids(SENTINEL)]])
        decoder_inputs = {"decoder_input_ids": decoder_ids.expand(len(ids), -1)}
        logits = model(inputs_embeds=inputs, attention_mask=mask, **decoder_inputs, use_cache=False).logits[:, 1]
    else:
        logits = model(inputs_embeds=inputs, use_cache=False).logits
        logits = logits[torch.arange(len(ids)), prompt_length + lengths - 1]
    return torch.nn.functional.cross_entropy(logits[:, trial.label_ids], labels)


def seed_torch(*numbers):
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]))


@pytest.mark.parametrize(("precision", "dtype"), [("fp64", torch.float64), ("fp32", torch.float32)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_equals_that_of_the_plain_model_in_training_mode(folders, family, precision, dtype):
    config = TrialConfig(
        method="prompt_tuning", task="toy", backbone=str(folders[family]), length=5, seed=SEED, precision=precision,
        batch_size=8, max_tokens=32, dropout=RATE,
    )  # fmt: skip
    trial, model = Trial(config, phase="search"), plain_model(folders[family], family, dtype)
    (factor,) = trial.factors.values()
    for step in range(3):
        positions, trial.step = trial.draw_batch(), step
        loss = trial.loss(positions)
        (gradient,) = torch.autograd.grad(loss, factor)
        prompt = factor.detach().clone().requires_grad_()
        seed_torch(SEED, step, 0)
        expected_loss = plain_loss(model, family, trial, positions, prompt)
        (expected,) = torch.autograd.grad(expected_loss, prompt)
        assert loss.item() == pytest.approx(expected_loss.item(), abs=1e-6)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)
        without_dropout = plain_loss(model.eval(), family, trial, positions, prompt)
        assert loss.item() != pytest.approx(without_dropout.item(), abs=1e-6)
        model.train()


@pytest.mark.parametrize("family", FAMILIES)
def test_fine_tuning_drops_what_the_plain_model_drops(folders, family):
    config = TrialConfig(
        method="fine_tuning", task="toy", backbone=str(folders[family]), seed=SEED, precision="fp64", batch_size=8,
        max_tokens=32, dropout=RATE,
    )  # fmt: skip
    trial, model = Trial(config, phase="search"), plain_model(folders[family], family, torch.float64)
    positions = trial.draw_batch()
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
def test_every_rate_of_a_family_is_set_wherever_it_is(name, shape, rates):
    """A rate is in a dropout module, is a number of a layer, or is read from the configuration in every pass."""

    def model_with_rate(rate):
        config = transformers.AutoConfig.for_model(name, **shape, **dict.fromkeys(rates, rate))
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config)

    ids, device = torch.arange(1, 13)[None], torch.device("cpu")
    plain, changed = model_with_rate(0.4).train(), with_dropout(model_with_rate(0.0).eval(), 0.4)
    for seed in range(3):
        both_logits = []
        for model in (plain, changed):
            with seeded_masks(device, seed), torch.no_grad():
                both_logits.append(model(input_ids=ids, use_cache=False).logits)
        torch.testing.assert_close(*both_logits, rtol=0, atol=1e-6)
    with torch.no_grad():
        assert not torch.allclose(both_logits[0], plain.eval()(input_ids=ids, use_cache=False).logits)


# --- what decides the masks --------------------------------------------------------------------------------------


def test_seed_step_and_part_of_the_batch_decide_the_masks(dropout_config):
    trial = Trial(dropout_config, phase="search")
    positions = trial.draw_batch()

    def loss(seed=0, step=0, part_begins=0):
        same_factors = trial if seed == 0 else Trial(dropout_config.replace(seed=seed), phase="search")
        with torch.no_grad():
            for name, factor in trial.factors.items():
                same_factors.factors[name].copy_(factor)
            same_factors.step = step
            same_factors._part_start = part_begins
            return same_factors.loss(positions).item()

    assert loss() == loss()
    assert len({loss(), loss(seed=1), loss(step=1), loss(step=2), loss(part_begins=4)}) == 5


def test_a_step_leaves_torchs_own_generator_alone(dropout_config):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    trial = Trial(dropout_config, phase="search")
    trial.update()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("method", methods.names())
def test_a_trial_repeats_bit_for_bit_also_from_a_checkpoint_of_any_step(tiny, method):
    """It does not matter what else draws from torch's generator meanwhile."""
    config = config_of(tiny, method, max_steps=5, eval_every=2, dropout=0.2)
    trial, repeated = Trial(config), Trial(config)
    list(trial)
    torch.manual_seed(123)
    list(repeated)
    assert_same(repeated, trial)
    interrupted = Trial(config)
    for step in range(5):
        continued = Trial(config)
        continued.restore(interrupted.to_checkpoint())
        list(continued)
        assert_same(continued, trial)
        interrupted.advance()
        assert interrupted.step == step + 1


def test_trials_with_other_dropout_rates_are_other_trials(dropout_config):
    losses = [train(config).selection_loss for config in
              (dropout_config, dropout_config.replace(dropout=0.0), dropout_config.replace(dropout=0.31))]  # fmt: skip
    assert len(set(losses)) == 3
    keys = {dropout_config.replace(dropout=rate).key for rate in (0.0, 0.1, 0.3)}
    assert len(keys) == 3
    assert dropout_config.replace(dropout=0).key == dropout_config.replace(dropout=0.0).key


def test_a_trial_whose_batches_are_split_repeats_too(dropout_config, monkeypatch):
    def train_in_parts():
        trial, original_loss = Trial(dropout_config, phase="search"), Trial.loss

        def loss(self, positions):
            if len(positions) > 4:
                raise MemoryError
            return original_loss(self, positions)

        monkeypatch.setattr(Trial, "loss", loss)
        monkeypatch.setattr(memory, "release_unused", lambda: None)
        list(trial)
        monkeypatch.setattr(Trial, "loss", original_loss)
        return trial

    assert_same(train_in_parts(), train_in_parts())


# --- what stays as it is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lopt1", "lora", "fine_tuning"])
def test_dropout_is_on_at_training_steps_only(tiny, tmp_path, method):
    """Evaluations and the score are those of the model without dropout, and the shared model does not change."""
    config = config_of(tiny, method, dropout=0.5)
    shared = backbones.load(config.backbone, "fp32")
    checksum, rate = shared.checksum(), shared.model.config.attention_dropout
    trial = Trial(config)
    for evaluation in trial:
        without_dropout = Trial(config.replace(dropout=0.0))
        with torch.no_grad():
            for name, factor in without_dropout.factors.items():
                factor.copy_(trial.factors[name])
        without_dropout.step, without_dropout._train_loss = evaluation.step, evaluation.train_loss
        expected = without_dropout.record_evaluation(first_predictions(without_dropout))
        assert dataclasses.replace(expected, wall_time_s=0) == dataclasses.replace(evaluation, wall_time_s=0)
    record = trial.finish(artifact=tmp_path / "artifact")
    assert load_prompt(tmp_path / "artifact").evaluate().accuracy == record.test_accuracy
    assert shared.checksum() == checksum
    assert shared.model.config.attention_dropout == rate == 0.0
    assert not any(module.training for module in shared.model.modules())


def test_the_model_with_dropout_shares_the_weights(dropout_config):
    trial = Trial(dropout_config, phase="search")
    shared = backbones.load("tiny", "fp32").model
    weights = dict(trial._training_backbone.model.named_parameters())
    assert weights
    assert all(weights[name] is weight for name, weight in shared.named_parameters())
    assert trial._training_backbone.model.training
    assert trial.backbone.model is shared


# --- where dropout is refused ------------------------------------------------------------------------------------


def test_the_engine_refuses_a_trial_with_dropout(dropout_config, tiny):
    assert tiny.shares_backbone
    assert not dropout_config.shares_backbone
    with pytest.raises(ValueError, match=r"dropout is 0\.3, and each trial draws its own masks: train it alone"):
        Engine().admit(Trial(dropout_config))


def test_a_model_without_dropout_is_refused_before_training(dropout_config, monkeypatch):
    original_forward = LlamaAttention.forward

    def forward(self, *arguments, **options):
        self.attention_dropout = 0.0
        return original_forward(self, *arguments, **options)

    monkeypatch.setattr(LlamaAttention, "forward", forward)
    with pytest.raises(ValueError, match=r"dropout is 0\.3, but backbone 'tiny' has no dropout layers") as error:
        Trial(dropout_config.replace(precision="fp64"))
    assert "\n" not in str(error.value)


def test_a_copy_with_dropout_keeps_tied_weights_tied_and_fused_parts_fused(folders):
    backbone = backbones.load(str(folders["gpt2"]), "fp32")
    with_dropout_on = backbone.with_dropout(0.1)
    assert with_dropout_on.model.get_output_embeddings().weight is with_dropout_on.model.get_input_embeddings().weight
    assert [type(module) for module in with_dropout_on.model.modules()] == [
        type(module) for module in backbone.model.modules()
    ]
    assert (with_dropout_on.flat, with_dropout_on.allows_parallel_passes) == (None, False)
    assert copy.deepcopy(with_dropout_on.model.config).attn_pdrop == 0.1
