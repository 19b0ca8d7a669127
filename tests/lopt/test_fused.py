"""Fused norms, GELU and rotary positions compared with the model's own."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import GlmConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig
from transformers.activations import NewGELUActivation
from transformers.models.glm.modeling_glm import GlmAttention
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRMSNorm, LlamaRotaryEmbedding
from transformers.models.t5.modeling_t5 import T5LayerNorm

from lopt.backbones import _fused
from lopt.backbones.causal import CausalBackbone
from tests.tiny_models import WIDTH, make_tokenizer


def assert_same_both_ways(fused, original, inputs, rounding):
    """Check that outputs and gradients of the inputs are equal up to a relative rounding error."""
    gradient = torch.randn(inputs.shape).to(inputs.dtype)
    results = []
    for function in (fused, original):
        leaf = inputs.clone().requires_grad_()
        outputs = function(leaf)
        results.append((outputs.detach().float(), torch.autograd.grad(outputs, leaf, gradient)[0].float()))
    for result, expected in zip(*results, strict=True):
        assert (result - expected).norm() <= rounding * expected.norm()


@pytest.mark.parametrize("kind", [LlamaRMSNorm, T5LayerNorm])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
def test_fused_norms_equal_the_originals_forwards_and_backwards(kind, dtype, rounding):
    torch.manual_seed(0)
    original = kind(48).to(dtype).requires_grad_(False)
    original.weight.uniform_(0.5, 1.5)
    fused = copy.deepcopy(original)
    _fused.fuse(fused)
    assert type(fused) is not kind
    assert isinstance(fused, kind)
    assert_same_both_ways(fused, original, 3 * torch.randn(2, 7, 48).to(dtype), rounding)
    _fused.unfuse(fused)
    assert type(fused) is kind


def test_gpt2s_gelu_equals_pytorchs():
    fused, inputs = NewGELUActivation(), torch.linspace(-6, 6, 200)
    expected = fused(inputs)
    _fused.fuse(fused)
    assert type(fused) is not NewGELUActivation
    torch.testing.assert_close(fused(inputs), expected)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_fused_rotary_attention_equals_the_original_forwards_and_backwards(dtype, rounding):
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=48, num_attention_heads=3, num_key_value_heads=1, attn_implementation="eager")
    original = LlamaAttention(config, layer_idx=0).to(dtype).requires_grad_(False).eval()
    angles = LlamaRotaryEmbedding(config)(torch.zeros(2, 7, 48, dtype=dtype), torch.arange(7)[None])
    fused = copy.deepcopy(original)
    _fused.fuse(fused)
    assert type(fused) is not LlamaAttention
    assert isinstance(fused, LlamaAttention)

    def attention_of(module):
        return lambda inputs: module(inputs, position_embeddings=angles, attention_mask=None)[0]

    assert_same_both_ways(attention_of(fused), attention_of(original), torch.randn(2, 7, 48).to(dtype), rounding)
    _fused.unfuse(fused)
    assert type(fused) is LlamaAttention


def test_attention_that_rotates_neighbouring_entries_is_left_alone():
    attention = GlmAttention(GlmConfig(hidden_size=48, num_attention_heads=3, num_key_value_heads=1, head_dim=16), 0)
    _fused.fuse(attention.requires_grad_(False))
    assert type(attention) is GlmAttention


def test_a_norm_of_another_kind_is_left_alone():
    class OffsetRMSNorm(LlamaRMSNorm):
        def forward(self, hidden_states):
            return super().forward(hidden_states) + hidden_states

    norm = OffsetRMSNorm(16).requires_grad_(False)
    _fused.fuse(norm)
    assert type(norm) is OffsetRMSNorm


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_trained_weight_gets_its_gradient(when):
    norm = LlamaRMSNorm(16).requires_grad_(when == "before")
    _fused.fuse(norm)
    norm.requires_grad_()
    norm(torch.randn(2, 16)).sum().backward()
    assert norm.weight.grad is not None
    assert np.isfinite(norm.weight.grad.numpy()).all()


def test_a_scale_that_depends_on_the_layer_reaches_the_attention():
    config = GPT2Config(
        vocab_size=280, n_embd=WIDTH, n_layer=3, n_head=4, n_positions=64, scale_attn_by_inverse_layer_idx=True
    )
    backbone = CausalBackbone("gpt2", "test", GPT2LMHeadModel(config), make_tokenizer("gpt2"))
    assert backbone.flat is not None
