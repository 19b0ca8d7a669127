"""Attention of a flat pass in one variable-length call a layer.

The kernel needs a GPU. Here a plain function stands in for it, and gets the arguments that the kernel would get, so all
code around it runs. What a GPU would be asked to do is counted on tensors that have no values.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel

from lopt.backbones import _attention, _varlen
from lopt.backbones._blocks import Block, Layout
from lopt.backbones._flat import FlatForm
from lopt.backbones.causal import CausalBackbone
from lopt.soft_prompt import PackedPrompts, SoftPrompt
from tests.lopt.test_flat import batch, logits_and_gradients, make_backbone, packed_prompts
from tests.tiny_models import make_tokenizer


def plain_varlen(query, key, value, plan, scale):
    """What `torch.nn.attention.varlen.varlen_attn` computes with window_size=(-1, 0), row by row."""
    assert query.is_contiguous() or query.stride(-1) == 1
    outputs = []
    query_ends, key_ends = plan.query_ends.tolist(), plan.key_ends.tolist()
    assert query_ends[-1] == len(query) and key_ends[-1] == len(key) == len(value)
    assert plan.query_ends.dtype == plan.key_ends.dtype == torch.int32
    assert plan.longest_query == np.diff(query_ends).max() and plan.longest_key == np.diff(key_ends).max()
    group = query.shape[1] // key.shape[1]
    for row in range(len(query_ends) - 1):
        queries = query[query_ends[row] : query_ends[row + 1]]
        keys, values = (
            states[key_ends[row] : key_ends[row + 1]].repeat_interleave(group, 1) for states in (key, value)
        )
        scores_HTS = torch.einsum("thd,shd->hts", queries, keys) * scale
        is_visible_TS = torch.ones(scores_HTS.shape[1:], dtype=torch.bool).tril(len(keys) - len(queries))
        weights_HTS = scores_HTS.masked_fill(~is_visible_TS, -torch.inf).softmax(-1)
        outputs.append(torch.einsum("hts,shd->thd", weights_HTS, values))
    return torch.cat(outputs)


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(_varlen, "varlen_attention", plain_varlen)


def random_blocks(draw_lengths, kinds, generator):
    """Return blocks with prefixes, kept texts and rows that share nothing, and the number of tokens."""
    blocks = []

    def append(**fields):
        blocks.append(Block(begin=blocks[-1].end if blocks else 0, **fields))
        return blocks[-1]

    def rows(tokens):
        lengths = np.sort(np.array(draw_lengths(tokens)))
        lengths[-1] = tokens
        if (lengths == tokens).all():
            return {"row_count": len(lengths), "padded_length": tokens}
        real = torch.from_numpy(np.flatnonzero(np.arange(tokens) < lengths[:, None]))
        return {"row_count": len(lengths), "padded_length": tokens, "lengths": lengths, "real_indices": real}

    for kind in kinds:
        if kind == "prefix":
            for prompt_length, count in ((5, 3), (2, 2)):
                prompts = append(row_count=count, padded_length=prompt_length)
                for tokens in (4, 9):
                    fields = rows(tokens)
                    owners = torch.randint(0, count, (fields["row_count"],), generator=generator)
                    append(**fields, prefix_block=prompts, prefix_of_row_R=owners)
        elif kind == "suffix":
            past_lengths = torch.tensor([6, 2, 4, 1])
            past = torch.randn(2, 2, 4, 2, 6, 8, generator=generator, dtype=torch.float64)
            past = past * (torch.arange(6) < past_lengths[:, None])[None, None, :, None, :, None]
            append(row_count=4, padded_length=3, past_states=past, past_lengths=past_lengths)
        else:
            append(**rows(8))
    return blocks


@settings(max_examples=25, deadline=None)
@given(st.data(), st.lists(st.sampled_from(["prefix", "suffix", "plain"]), min_size=1, max_size=4))
def test_one_call_equals_attention_block_by_block(data, kinds):
    """Output and all gradients, in fp64, with two query heads for each key head."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))

    def draw_lengths(tokens):
        return data.draw(st.lists(st.integers(1, tokens), min_size=1, max_size=6))

    blocks = random_blocks(draw_lengths, kinds, generator)
    token_count = blocks[-1].end
    heads = [torch.randn(count, token_count, 8, generator=generator, dtype=torch.float64) for count in (4, 2, 2)]
    gradient = torch.randn(token_count, 4, 8, generator=generator, dtype=torch.float64)
    results = []
    for use_varlen_kernel in (False, True):
        leaves = [head.clone().requires_grad_() for head in heads]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_varlen, "varlen_attention", plain_varlen)
            output = _attention.attend(*leaves, Layout(blocks, use_varlen_kernel=use_varlen_kernel), 1, 0.35)
        results.append([output.detach(), *torch.autograd.grad(output, leaves, gradient)])
    for by_blocks, by_one_call in zip(*results, strict=True):
        torch.testing.assert_close(by_blocks, by_one_call, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_pass_with_all_kinds_of_prompts_equals_the_plain_form(family, stand_in, fp64_norms):
    backbone, soft_prompt = make_backbone(family, torch.float64), packed_prompts(torch.float64)
    plain = logits_and_gradients(backbone, soft_prompt, *batch())
    backbone.flat = FlatForm(backbone.model, backbone.pad_id)
    backbone.flat.use_varlen_kernel = True
    flat = logits_and_gradients(backbone, soft_prompt, *batch())
    for flat_tensor, plain_tensor in zip(flat, plain, strict=True):
        torch.testing.assert_close(flat_tensor, plain_tensor, rtol=1e-12, atol=1e-13)


def test_the_kernel_is_tried_first_and_the_plain_form_stays_if_it_does_not_agree(monkeypatch):
    """It is chosen by what it computes: one that is wrong, or that raises, is not taken."""
    monkeypatch.setattr(_varlen, "has_varlen_kernel", lambda *_: True)
    monkeypatch.setattr("lopt.backbones._flat.has_varlen_kernel", lambda *_: True)
    for function, is_taken in (
        (plain_varlen, True),
        (lambda *arguments: plain_varlen(*arguments) * 0.5, False),
        (lambda *_: (_ for _ in ()).throw(RuntimeError("no kernel for this GPU")), False),
    ):
        monkeypatch.setattr(_varlen, "varlen_attention", function)
        backbone = make_backbone("llama")
        assert backbone.flat is not None
        assert backbone.flat.use_varlen_kernel == is_taken


@pytest.mark.parametrize(
    ("dtype", "head_width", "device_type", "expected"),
    [
        (torch.bfloat16, 64, "cuda", True),
        (torch.float32, 64, "cuda", False),  # FlashAttention has no fp32
        (torch.bfloat16, 20, "cuda", False),
        (torch.bfloat16, 512, "cuda", False),
        (torch.bfloat16, 64, "cpu", False),
    ],
)
def test_where_there_is_a_kernel(dtype, head_width, device_type, expected):
    assert _varlen.has_varlen_kernel(dtype, head_width, device_type) == expected


class OperationCount(TorchDispatchMode):
    """Counts operations, without views. The custom operation of the kernel counts as one."""

    not_counted = (torch.ops.aten._unsafe_view.default,)  # a view, too

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not (function.is_view or function in self.not_counted)
        return function(*args, **kwargs or {})


@torch.library.custom_op("lopt_tests::varlen", mutates_args=())
def _one_operation(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, query_ends: torch.Tensor, key_ends: torch.Tensor
) -> torch.Tensor:
    return torch.zeros_like(query)


@torch.library.custom_op("lopt_tests::varlen_backward", mutates_args=())
def _one_backward_operation(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)


_one_operation.register_autograd(
    lambda ctx, gradient: (*_one_backward_operation(*ctx.saved_tensors), None, None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[:3]),
)


@pytest.mark.parametrize("trial_count", [1, 16, 64])
def test_a_pass_of_gpt2_large_takes_at_most_1400_operations_whatever_the_lengths(trial_count, monkeypatch):
    """The number does not depend on the width, so the 36 layers are narrow."""
    monkeypatch.setattr(
        _varlen,
        "varlen_attention",
        lambda query, key, value, plan, scale: _one_operation(query, key, value, plan.query_ends, plan.key_ends),
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=280, n_embd=32, n_layer=36, n_head=4, n_positions=128))
    backbone = CausalBackbone("gpt2", "test", model, make_tokenizer("gpt2"))
    assert backbone.flat is not None
    backbone.flat.use_varlen_kernel = True
    prompts_KPH = torch.randn(trial_count, 10, 32, requires_grad=True)
    rows = 16 * trial_count
    lengths_B = torch.randint(3, 60, (rows,), generator=torch.Generator().manual_seed(0))
    ids_BT = torch.randint(1, 200, (rows, 60), generator=torch.Generator().manual_seed(1))
    with OperationCount() as operations:
        prompts = SoftPrompt(prompt=prompts_KPH).unbind()
        packed = PackedPrompts(prompts=prompts, prompt_indices=[row // 16 for row in range(rows)])
        logits_BC = backbone.label_logits(packed, ids_BT, lengths_B, torch.tensor([3, 7]))
        torch.autograd.grad(logits_BC.sum(), prompts_KPH)
    assert operations.count <= 1400
