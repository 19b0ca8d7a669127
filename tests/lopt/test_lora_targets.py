"""What LoRA adapts in models that PEFT names no targets for, and where others are named."""

from __future__ import annotations

import pytest
import torch

from lopt import TrialConfig, backbones, count_parameters, methods
from lopt.backbones import target_names
from lopt.backbones.tiny import tokenizer
from lopt.methods.lora import SPEC
from tests.families import T5_LIKE, model_of
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
def folder(tmp_path):
    def save(kind):
        model_of(kind).save_pretrained(tmp_path)
        (make_tokenizer("t5") if kind in T5_LIKE else tokenizer()).save_pretrained(tmp_path)
        return str(tmp_path)

    return save


def config(backbone, **changes):
    return TrialConfig(method="lora", task="toy", rank=2, backbone=backbone, precision="fp32", **changes)


@pytest.mark.parametrize("kind", sorted(TARGETS))
def test_the_count_is_what_is_trained_and_every_adapter_learns(kind, folder):
    backbone = folder(kind)
    loaded = backbones.load(backbone, "fp32")
    assert target_names(loaded.model) == TARGETS[kind]
    tuned = SPEC.begin(loaded, config(backbone))
    trained = sum(factor.numel() for factor in tuned.factors.values())
    assert trained == tuned.counts.trainable == count_parameters(method="lora", rank=2, backbone=backbone)
    logits_BC = tuned.backbone.label_logits(None, torch.tensor([[5, 6, 7]]), torch.tensor([3]), torch.tensor([8, 9]))
    logits_BC[0, 0].backward()
    gradients = [factor.grad for name, factor in tuned.factors.items() if ".lora_B." in name]
    assert gradients and all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_named_targets_are_the_ones_adapted(folder):
    backbone = folder("llama")
    tuned = SPEC.begin(backbones.load(backbone, "fp32"), config(backbone, options={"targets": "q_proj+o_proj"}))
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in tuned.factors} == {"q_proj", "o_proj"}
    assert tuned.counts.trainable == count_parameters(method="lora", rank=2, backbone=backbone, targets="q_proj+o_proj")


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        ("deepseek_v3", "gate_proj+up_proj+down_proj"),  # also of experts, whose matrices are one tensor
        ("dots1", "gate_proj+up_proj+down_proj+q_proj"),
        ("qwen3_next", "gate_proj+up_proj+down_proj"),
        ("beam", "k_proj+q_proj"),
        ("hunyuan_v1_moe", "gate_proj+up_proj+down_proj"),
    ],
)
def test_the_count_of_named_targets_is_what_is_trained(kind, targets, folder):
    backbone = folder(kind)
    tuned = SPEC.begin(backbones.load(backbone, "fp32"), config(backbone, options={"targets": targets}))
    trained = sum(factor.numel() for factor in tuned.factors.values())
    assert trained == count_parameters(method="lora", rank=2, backbone=backbone, targets=targets)


@pytest.mark.parametrize(("kind", "targets"), [("mamba", "out_proj"), ("deepseek_v3", "gate_proj"), ("ctrl", "0")])
def test_a_target_that_peft_cannot_adapt_is_refused_before_the_first_trial_in_one_line(kind, targets, folder):
    with pytest.raises(ValueError, match=rf"PEFT cannot adapt {targets} of a {kind} model") as refusal:
        count_parameters(method="lora", rank=2, backbone=folder(kind), targets=targets)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["llama4_text", "phimoe"])
def test_a_router_that_gives_more_than_one_tensor_is_no_target(kind, folder):
    with pytest.raises(
        ValueError, match=rf"'router', but a {kind} model has no linear layer of that name; valid: .*q_proj"
    ):
        count_parameters(method="lora", rank=2, backbone=folder(kind), targets="router")


@pytest.mark.parametrize("targets", ["c_attn", "q_proj+nothing"])
def test_a_target_that_the_model_has_not_is_refused_with_those_it_has(targets, folder):
    with pytest.raises(ValueError, match=r"a llama model has no linear layer of that name; valid: .*q_proj"):
        count_parameters(method="lora", rank=2, backbone=folder("llama"), targets=targets)


def test_a_model_without_attention_says_how_to_name_targets(folder):
    with pytest.raises(ValueError, match=r"--set targets=.*valid: .*in_proj"):
        count_parameters(method="lora", rank=2, backbone=folder("mamba"))


@pytest.mark.parametrize("targets", ["", "+", 3, ["q_proj"]])
def test_a_bad_list_of_targets_is_refused(targets):
    with pytest.raises(ValueError, match=r"targets is .*give names"):
        methods.get("lora").check(length=None, rank=2, options={"targets": targets})
