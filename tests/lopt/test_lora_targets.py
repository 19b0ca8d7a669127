"""The layers that LoRA adapts, by default and with the option `targets`."""

from __future__ import annotations

import pytest
import torch

from lopt import TrialConfig, backbones, count_parameters, methods
from lopt.backbones import target_names
from lopt.backbones.tiny import tokenizer
from lopt.methods.lora import SPEC
from tests.families import T5_LIKE, small_model
from tests.tiny_models import make_tokenizer

TARGETS = {
    "granite": ["q_proj", "v_proj"],
    "phi3": ["qkv_proj"],
    "cohere": ["q_proj", "v_proj"],
    "olmo2": ["q_proj", "v_proj"],
    "mixtral": ["q_proj", "v_proj"],
    "gpt2": ["c_attn"],
    "gpt_neox_japanese": ["query_key_value"],
    "minicpm3": ["kv_b_proj", "q_b_proj"],
    "xlm": ["q_lin", "v_lin"],
    "bert": ["query", "value"],
    "umt5": ["q", "v"],
    "switch_transformers": ["q", "v"],
}


@pytest.fixture
def save_model(tmp_path):
    """Return a function that saves a small model and returns its folder."""

    def save(kind):
        small_model(kind).save_pretrained(tmp_path)
        (make_tokenizer("t5") if kind in T5_LIKE else tokenizer()).save_pretrained(tmp_path)
        return str(tmp_path)

    return save


def lora_config(backbone, **changes):
    return TrialConfig(method="lora", task="toy", rank=2, backbone=backbone, precision="fp32", **changes)


@pytest.mark.parametrize("kind", sorted(TARGETS))
def test_the_count_equals_the_trained_parameters_and_every_adapter_gets_a_gradient(kind, save_model):
    backbone = save_model(kind)
    loaded = backbones.load(backbone, "fp32")
    assert target_names(loaded.model) == TARGETS[kind]
    tuned = SPEC.begin(loaded, lora_config(backbone))
    trained = sum(factor.numel() for factor in tuned.factors.values())
    assert trained == tuned.counts.trainable == count_parameters(method="lora", rank=2, backbone=backbone)
    logits_BC = tuned.backbone.label_logits(None, torch.tensor([[5, 6, 7]]), torch.tensor([3]), torch.tensor([8, 9]))
    logits_BC[0, 0].backward()
    gradients = [factor.grad for name, factor in tuned.factors.items() if ".lora_B." in name]
    assert gradients and all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_named_targets_are_adapted_and_no_others(save_model):
    backbone = save_model("llama")
    tuned = SPEC.begin(backbones.load(backbone, "fp32"), lora_config(backbone, options={"targets": "q_proj+o_proj"}))
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in tuned.factors} == {"q_proj", "o_proj"}
    assert tuned.counts.trainable == count_parameters(method="lora", rank=2, backbone=backbone, targets="q_proj+o_proj")


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        ("deepseek_v3", "gate_proj+up_proj+down_proj"),  # also in experts, whose matrices are one tensor
        ("dots1", "gate_proj+up_proj+down_proj+q_proj"),
        ("qwen3_next", "gate_proj+up_proj+down_proj"),
        ("beam", "k_proj+q_proj"),
        ("hunyuan_v1_moe", "gate_proj+up_proj+down_proj"),
    ],
)
def test_the_count_of_named_targets_equals_the_trained_parameters(kind, targets, save_model):
    backbone = save_model(kind)
    tuned = SPEC.begin(backbones.load(backbone, "fp32"), lora_config(backbone, options={"targets": targets}))
    trained = sum(factor.numel() for factor in tuned.factors.values())
    assert trained == count_parameters(method="lora", rank=2, backbone=backbone, targets=targets)


@pytest.mark.parametrize(("kind", "targets"), [("mamba", "out_proj"), ("deepseek_v3", "gate_proj"), ("ctrl", "0")])
def test_a_target_that_peft_cannot_adapt_is_refused_when_parameters_are_counted_in_one_line(kind, targets, save_model):
    with pytest.raises(ValueError, match=rf"PEFT cannot adapt {targets} of a {kind} model") as refusal:
        count_parameters(method="lora", rank=2, backbone=save_model(kind), targets=targets)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["llama4_text", "phimoe"])
def test_a_router_that_returns_more_than_one_tensor_cannot_be_a_target(kind, save_model):
    with pytest.raises(
        ValueError, match=rf"'router', but a {kind} model has no linear layer of that name; valid: .*q_proj"
    ):
        count_parameters(method="lora", rank=2, backbone=save_model(kind), targets="router")


@pytest.mark.parametrize("targets", ["c_attn", "q_proj+nothing"])
def test_an_unknown_target_is_refused_with_the_names_of_valid_ones(targets, save_model):
    with pytest.raises(ValueError, match=r"a llama model has no linear layer of that name; valid: .*q_proj"):
        count_parameters(method="lora", rank=2, backbone=save_model("llama"), targets=targets)


def test_the_refusal_of_a_model_without_attention_says_how_to_name_targets(save_model):
    with pytest.raises(ValueError, match=r"--set targets=.*valid: .*in_proj"):
        count_parameters(method="lora", rank=2, backbone=save_model("mamba"))


@pytest.mark.parametrize("targets", ["", "+", 3, ["q_proj"]])
def test_a_bad_list_of_targets_is_refused(targets):
    with pytest.raises(ValueError, match=r"targets is .*give names"):
        methods.get("lora").check(length=None, rank=2, options={"targets": targets})
