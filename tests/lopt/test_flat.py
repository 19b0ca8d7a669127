"""The flat form of causal passes compared with the plain form, and its parts: blocks, attention and stored texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import MistralConfig, MistralForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from lopt.backbones import _last_mlp, _texts
from lopt.backbones._attention import attend_in_blocks
from lopt.backbones._blocks import Block, Layout, cut_into_blocks
from lopt.backbones._flat import FlatForm
from lopt.backbones.causal import CausalBackbone
from lopt.placement import PLACEMENTS
from lopt.soft_prompt import PackedPrompts, SoftPrompt
from tests.tiny_models import WIDTH, make_model, make_tokenizer

PROMPT_KINDS = (("prefix", 4, None), ("prefix", 4, 5), ("prefix", 6, None), ("suffix", 4, None), ("suffix", 3, 20),
                ("suffix", 3, None))  # fmt: skip
# For each row of a batch, the index of its prompt.
PROMPT_INDICES = [0, 1, 2, 3, 4, 5, 0, 3, 2]


def make_backbone(family, dtype=torch.float32):
    return CausalBackbone(family, "test", make_model(family).to(dtype), make_tokenizer(family))


def packed_prompts(dtype, prompt_indices=PROMPT_INDICES):
    """Return packed prompts: one soft prompt of each of PROMPT_KINDS, and rows with these prompts."""
    torch.manual_seed(1)

    def leaf(tokens):
        return None if tokens is None else (0.3 * torch.randn(tokens, WIDTH, dtype=dtype)).requires_grad_()

    prompts = [
        SoftPrompt(prompt=leaf(length), update=leaf(update), placement=PLACEMENTS[placement])
        for placement, length, update in PROMPT_KINDS
    ]
    return PackedPrompts(prompts=prompts, prompt_indices=prompt_indices)


def batch(rows=9, seed=0):
    """Return token ids and lengths of random texts."""
    generator = torch.Generator().manual_seed(seed)
    lengths_B = torch.randint(2, 13, (rows,), generator=generator)
    lengths_B[0] = 12
    return torch.randint(1, 200, (rows, 12), generator=generator), lengths_B


def logits_and_gradients(backbone, soft_prompt, ids_BT, lengths_B):
    """Return label logits, and the gradients of all prompts and updates that rows use."""
    logits_BC = backbone.label_logits(soft_prompt, ids_BT, lengths_B, torch.tensor([3, 7]))
    used_prompts = [soft_prompt.prompts[index] for index in sorted(set(soft_prompt.prompt_indices))]
    leaves = [tensor for prompt in used_prompts for tensor in (prompt.prompt, prompt.update) if tensor is not None]
    loss = torch.nn.functional.cross_entropy(logits_BC, torch.arange(len(ids_BT)) % 2, reduction="sum")
    return [logits_BC.detach(), *torch.autograd.grad(loss, leaves)]


def texts_of(ids_BT, lengths_B):
    """Return the token ids of each row without padding."""
    return [tuple(ids[:length]) for ids, length in zip(ids_BT.tolist(), lengths_B.tolist(), strict=True)]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_all_kinds_of_prompts_in_one_pass_equal_the_plain_form(family, fp64_norms):
    """In fp64, logits and every gradient are compared, for prefixes, suffixes, updates and several lengths."""
    backbone, soft_prompt = make_backbone(family, torch.float64), packed_prompts(torch.float64)
    assert backbone.flat is None, "in fp64, passes take the plain form unless a test asks for the flat one"
    plain = logits_and_gradients(backbone, soft_prompt, *batch())
    backbone.flat = FlatForm(backbone.model, backbone.pad_id)
    flat = logits_and_gradients(backbone, soft_prompt, *batch())
    for flat_tensor, plain_tensor in zip(flat, plain, strict=True):
        torch.testing.assert_close(flat_tensor, plain_tensor, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 2e-6), (torch.bfloat16, 0.04)])
def test_the_flat_form_is_taken_and_equals_the_plain_one_to_rounding(family, dtype, rounding):
    backbone, soft_prompt = make_backbone(family, dtype), packed_prompts(torch.float32)
    assert backbone.flat is not None
    flat = logits_and_gradients(backbone, soft_prompt, *batch())
    backbone.flat = None
    plain = logits_and_gradients(backbone, soft_prompt, *batch())
    for flat_tensor, plain_tensor in zip(flat, plain, strict=True):
        assert (flat_tensor - plain_tensor).norm() <= rounding * plain_tensor.norm()


def test_one_prompt_for_all_rows_one_for_each_row_and_none_take_the_flat_form():
    backbone = make_backbone("llama")
    ids_BT, lengths_B = batch(5)
    label_ids = torch.tensor([3, 7])
    for_all_rows = SoftPrompt(prompt=0.3 * torch.randn(4, WIDTH))
    for_each_row = SoftPrompt(prompt=for_all_rows.prompt.expand(5, -1, -1))
    prompts = (None, for_all_rows, for_each_row)
    with torch.no_grad():
        flat = [backbone.label_logits(soft_prompt, ids_BT, lengths_B, label_ids) for soft_prompt in prompts]
        backbone.flat = None
        plain = [backbone.label_logits(soft_prompt, ids_BT, lengths_B, label_ids) for soft_prompt in prompts]
    for flat_tensor, plain_tensor in zip(flat, plain, strict=True):
        torch.testing.assert_close(flat_tensor, plain_tensor, rtol=1e-5, atol=1e-5)


def padded_to(tokens, lengths):
    """Return the arguments of a block whose rows have these lengths and are padded to this many tokens."""
    lengths = np.array(lengths)
    return {"lengths": lengths, "real_indices": torch.from_numpy(np.flatnonzero(np.arange(tokens) < lengths[:, None]))}


def test_attention_by_pytorchs_kernels_equals_the_one_for_the_cpu():
    """On a GPU, attention of each block is computed by scaled_dot_product_attention. Here it runs on the CPU."""
    from lopt.backbones import _attention

    torch.manual_seed(0)
    prompts = Block(begin=0, row_count=2, padded_length=3)
    texts = Block(begin=6, row_count=3, padded_length=4, prefix_block=prompts, prefix_of_row_R=torch.tensor([1, 0, 1]))
    past_states = torch.randn(1, 2, 2, 2, 5, 8, dtype=torch.float64)
    suffixes = Block(begin=18, row_count=2, padded_length=3, past_states=past_states, past_lengths=torch.tensor([5, 2]))
    uneven = Block(
        begin=24,
        row_count=3,
        padded_length=4,
        prefix_block=prompts,
        prefix_of_row_R=torch.tensor([0, 1, 1]),
        **padded_to(4, [4, 1, 3]),
    )
    assert uneven.end == 32
    assert uneven.row_ends.tolist() == [28, 29, 32]
    layout = Layout([prompts, texts, suffixes, uneven])
    heads = [torch.randn(count, 32, 8, dtype=torch.float64, requires_grad=True) for count in (4, 2, 2)]
    gradient = torch.randn(32, 4, 8, dtype=torch.float64)
    results = []
    for attend in (_attention._attend_on_cpu, _attention._attend_with_torch_kernels):
        output = attend(*heads, Layout(layout.blocks), 0, 0.3)
        results.append([output.detach(), *torch.autograd.grad(output, heads, gradient)])
    for on_cpu, by_kernels in zip(*results, strict=True):
        torch.testing.assert_close(on_cpu, by_kernels, rtol=1e-12, atol=1e-12)


def test_the_backward_pass_of_attention_is_its_derivative():
    torch.manual_seed(0)
    prompts = Block(begin=0, row_count=2, padded_length=2)
    texts = Block(
        begin=4,
        row_count=3,
        padded_length=2,
        prefix_block=prompts,
        prefix_of_row_R=torch.tensor([1, 0, 1]),
        **padded_to(2, [1, 2, 2]),
    )
    module = type("Module", (), {"layer_idx": 0})()

    def attention(query, key, value):
        return attend_in_blocks(module, query, key, value, None, layout=Layout([prompts, texts]), scaling=0.5)[0]

    heads = [torch.randn(1, count, 9, 3, dtype=torch.float64, requires_grad=True) for count in (4, 2, 2)]
    assert torch.autograd.gradcheck(attention, heads)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_no_padding_is_computed_and_the_last_mlp_only_where_a_label_is_read(family):
    backbone, (ids_BT, lengths_B) = make_backbone(family), batch()
    prefix_tokens = 4 + 4 + 6  # each prefix once
    suffix_tokens = PROMPT_INDICES.count(3) * 4 + PROMPT_INDICES.count(5) * 3  # their texts are stored
    whole_row_tokens = sum(int(lengths_B[row]) + 3 for row, index in enumerate(PROMPT_INDICES) if index == 4)
    text_tokens = sum(int(lengths_B[row]) for row, index in enumerate(PROMPT_INDICES) if index in (0, 1, 2))
    suffix = packed_prompts(torch.float32).prompts[3]
    backbone.cache_texts(backbone.uncached_texts(suffix, texts_of(ids_BT, lengths_B)))
    token_counts = []
    layers = backbone.model.base_model.layers if family == "llama" else backbone.model.base_model.h
    for layer in layers:
        linear = layer.mlp.gate_proj if family == "llama" else layer.mlp.c_fc
        linear.register_forward_hook(lambda module, inputs, output: token_counts.append(inputs[0].shape[1]))
    logits_and_gradients(backbone, packed_prompts(torch.float32), ids_BT, lengths_B)
    pass_tokens = prefix_tokens + suffix_tokens + whole_row_tokens + text_tokens
    assert token_counts == [pass_tokens] * (len(layers) - 1) + [len(PROMPT_INDICES)]


def test_an_mlp_that_returns_more_than_states_is_computed_everywhere():
    class Mixture(torch.nn.Module):
        def forward(self, states):
            return 2 * states, "which experts"

    mixture, states = Mixture(), torch.randn(1, 5, 3)
    mixture.__class__ = _last_mlp._make_restricted_class(Mixture)
    with _last_mlp.last_mlp_only_at(torch.tensor([1, 4])):
        output, experts = mixture(states)
    assert torch.equal(output, 2 * states)
    assert experts == "which experts"


@given(st.lists(st.integers(1, 200), min_size=1, max_size=60))
def test_blocks_cover_all_rows_at_the_lowest_cost(lengths):
    lengths = sorted(lengths)
    blocks = cut_into_blocks(lengths, "cpu")
    assert [row for first, end in blocks for row in range(first, end)] == list(range(len(lengths)))

    def cost(blocks):
        return sum((end - first) * lengths[end - 1] + 48 for first, end in blocks)

    singles = [(row, row + 1) for row in range(len(lengths))]
    halves = [(0, len(lengths) // 2), (len(lengths) // 2, len(lengths))] if len(lengths) > 1 else [(0, 1)]
    assert cost(blocks) <= min(cost([(0, len(lengths))]), cost(singles), cost(halves))


# --- texts before a suffix -------------------------------------------------------------------------------------------


def packed_suffixes():
    return packed_prompts(torch.float32, prompt_indices=[3, 5, 3, 5, 3, 5])


def test_texts_are_computed_once_and_shared_between_prompts_and_passes():
    backbone = make_backbone("llama")
    ids_BT, lengths_B = batch(6)
    texts = backbone.flat.text_store
    # Loading the backbone has computed texts already, for its checks.
    computed_before, bytes_before = texts.computed_text_count, texts.used_bytes
    first = logits_and_gradients(backbone, packed_suffixes(), ids_BT, lengths_B)
    distinct_count = len(set(texts_of(ids_BT, lengths_B)))
    assert texts.computed_text_count == computed_before + distinct_count
    second = logits_and_gradients(backbone, packed_suffixes(), ids_BT, lengths_B)
    assert texts.computed_text_count == computed_before + distinct_count
    for first_tensor, second_tensor in zip(first, second, strict=True):
        assert torch.equal(first_tensor, second_tensor)
    bytes_per_token = 2 * 2 * 2 * (WIDTH // 4) * 4  # layers, keys and values, heads, width of a head, bytes
    assert texts.used_bytes == bytes_before + bytes_per_token * int(lengths_B.sum())


def test_texts_met_in_an_evaluation_serve_training():
    backbone = make_backbone("llama")
    expected = logits_and_gradients(backbone, packed_suffixes(), *batch(6))
    fresh = make_backbone("llama")
    with torch.inference_mode():
        fresh.label_logits(packed_suffixes(), *batch(6), torch.tensor([3, 7]))
    results = logits_and_gradients(fresh, packed_suffixes(), *batch(6))
    assert all(torch.equal(*pair) for pair in zip(results, expected, strict=True))


def test_uncached_texts_are_those_that_the_store_has_room_for_and_does_not_have():
    backbone, (ids_BT, lengths_B) = make_backbone("llama"), batch(6)
    texts = texts_of(ids_BT, lengths_B)
    prefix, _, _, suffix, suffix_with_update, _ = packed_prompts(torch.float32).prompts
    assert set(backbone.uncached_texts(suffix, texts)) == set(texts)
    assert backbone.uncached_texts(prefix, texts) == []
    assert backbone.uncached_texts(suffix_with_update, texts) == [], "the update changes its texts"
    backbone.cache_texts(texts[:2])
    assert set(backbone.uncached_texts(suffix, texts)) == set(texts[2:]) - set(texts[:2])
    backbone.flat.text_store.limit_bytes = backbone.flat.text_store.used_bytes
    assert backbone.uncached_texts(suffix, texts) == [], "there is no room for more"
    backbone.flat = None
    assert backbone.uncached_texts(suffix, texts) == []


@pytest.mark.parametrize("limit_bytes", [0, 2000])
def test_beyond_the_limit_texts_are_computed_again_with_the_same_result(limit_bytes):
    backbone = make_backbone("llama")
    expected = logits_and_gradients(backbone, packed_suffixes(), *batch(6))
    backbone.flat.text_store.limit_bytes = limit_bytes
    backbone.flat.text_store._stored_states.clear()
    backbone.flat.text_store.used_bytes = 0
    computed_before = backbone.flat.text_store.computed_text_count
    for _ in range(2):
        results = logits_and_gradients(backbone, packed_suffixes(), *batch(6))
        for result, expected_result in zip(results, expected, strict=True):
            torch.testing.assert_close(result, expected_result, rtol=1e-5, atol=1e-6)
    assert backbone.flat.text_store.used_bytes <= limit_bytes
    assert backbone.uncached_texts(packed_prompts(torch.float32).prompts[3], [(1, 2, 3, 4)] * 9) == [], (
        "no text is computed ahead in vain"
    )
    assert backbone.flat.text_store.computed_text_count > computed_before + 6


def test_a_full_disk_stops_the_store_from_growing_and_nothing_else(monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_texts.os, "posix_fallocate", fail)
    backbone = make_backbone("gpt2")
    logits_and_gradients(backbone, packed_suffixes(), *batch(6))
    assert backbone.flat.text_store.used_bytes == 0


def test_texts_are_stored_even_if_the_system_has_no_call_to_reserve_disk(monkeypatch):
    """macOS has none. Unhandled, the AttributeError would turn the flat form off without a message."""
    expected = logits_and_gradients(make_backbone("gpt2"), packed_suffixes(), *batch(6))
    monkeypatch.delattr(_texts.os, "posix_fallocate")
    monkeypatch.setattr(_texts, "_GROWTH_BYTES", (1 << 20) + 1)  # not a multiple of the pieces that are written
    backbone = make_backbone("gpt2")
    assert backbone.flat is not None
    results = logits_and_gradients(backbone, packed_suffixes(), *batch(6))
    assert backbone.flat.text_store.used_bytes > 0
    for result, expected_result in zip(results, expected, strict=True):
        torch.testing.assert_close(result, expected_result, rtol=1e-5, atol=1e-6)


def test_the_limit_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("LOPT_TEXT_CACHE_GB", "0.001")
    assert _texts._default_limit_bytes(torch.device("cpu")) == 1_000_000
    monkeypatch.setenv("LOPT_TEXT_CACHE_GB", "much")
    with pytest.raises(ValueError, match="LOPT_TEXT_CACHE_GB is 'much'; give a number of gigabytes"):
        _texts._default_limit_bytes(torch.device("cpu"))


# --- when the plain form is taken ------------------------------------------------------------------------------------


def test_a_model_with_a_sliding_window_takes_the_plain_form():
    config = MistralConfig(
        vocab_size=280, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, sliding_window=8,
    )  # fmt: skip
    backbone = CausalBackbone("mistral", "test", MistralForCausalLM(config), make_tokenizer("llama"))
    assert backbone.flat is None


@pytest.mark.parametrize("special", [{"softcap": 50.0}, {"dropout": 0.1}, {"sliding_window": 8}])
def test_attention_that_has_no_flat_form_is_refused(special):
    heads = [torch.randn(1, 2, 3, 4) for _ in range(3)]
    with pytest.raises(ValueError, match="has no flat form"):
        attend_in_blocks(None, *heads, None, layout=Layout([Block(begin=0, row_count=1, padded_length=3)]), **special)


def test_a_copy_whose_weights_change_takes_the_plain_form_and_the_models_own_norms():
    backbone = make_backbone("llama")
    changeable_copy = backbone.copy()
    assert changeable_copy.flat is None
    assert type(changeable_copy.model.model.norm) is LlamaRMSNorm
    assert type(backbone.model.model.norm) is not LlamaRMSNorm
