"""Prompt, text and update joined, compared with inputs that are built by hand, row by row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from lopt.backbones.causal import CausalBackbone
from lopt.backbones.tiny import tokenizer
from lopt.placement import PLACEMENTS
from lopt.soft_prompt import PackedPrompts, SoftPrompt

WIDTH = 5


def text_by_hand(text_TH, length, update_SH):
    """Return the real tokens of one row, with the update added to the first S of them."""
    row = [text_TH[i].clone() for i in range(length)]
    if update_SH is not None:
        for i in range(min(length, len(update_SH))):
            row[i] = row[i] + update_SH[i]
    return row


def input_by_hand(text_TH, length, prompt_PH, update_SH, placement):
    """Return the real part of one row's input, `[length + P, H]`."""
    text, prompt = text_by_hand(text_TH, length, update_SH), list(prompt_PH)
    return torch.stack(prompt + text if placement == "prefix" else text + prompt)


@st.composite
def cases(draw):
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    return {
        "lengths": lengths,
        "padding": draw(st.integers(0, 3)),
        "prompt": draw(st.integers(1, 6)),
        "update": draw(st.one_of(st.none(), st.integers(1, 14))),
        "placement": draw(st.sampled_from(list(PLACEMENTS))),
        "prompt_per_row": draw(st.booleans()),
        "update_per_row": draw(st.booleans()),
    }


@given(case=cases())
@settings(max_examples=150, deadline=None)
def test_prompt_and_text_are_joined_as_by_hand(case):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    lengths_B = torch.tensor(case["lengths"])
    rows, tokens = len(lengths_B), int(lengths_B.max()) + case["padding"]
    text_BTH, length = random(rows, tokens, WIDTH), case["prompt"]
    prompt = random(*([rows] if case["prompt_per_row"] else []), length, WIDTH)
    update = None
    if case["update"] is not None:
        update = random(*([rows] if case["update_per_row"] else []), case["update"], WIDTH)
    soft_prompt = SoftPrompt(prompt=prompt, update=update, placement=PLACEMENTS[case["placement"]])
    assert soft_prompt.length == length
    unchanged_BTH = text_BTH.clone()

    updated = soft_prompt.add_update(text_BTH)
    joined, ends_B = soft_prompt.join_text(text_BTH, lengths_B)
    assert ends_B.tolist() == [real + length for real in case["lengths"]]
    assert torch.equal(text_BTH, unchanged_BTH)
    assert updated.shape == text_BTH.shape
    assert joined.shape == (rows, tokens + length, WIDTH)
    assert bool(joined.isfinite().all())
    for row, real in enumerate(case["lengths"]):
        own_prompt = prompt[row] if case["prompt_per_row"] else prompt
        own_update = update[row] if update is not None and update.ndim == 3 else update
        by_hand = torch.stack(text_by_hand(text_BTH[row], real, own_update))
        assert torch.equal(updated[row, :real], by_hand)
        by_hand = input_by_hand(text_BTH[row], real, own_prompt, own_update, case["placement"])
        assert torch.equal(joined[row, : real + length], by_hand)


def test_padding_takes_no_gradient_from_the_prompt():
    """Each row of the prompt is once in the real part of each input. So the gradient of the sum of the real parts is
    the number of rows, wherever the prompt is."""
    lengths_B = torch.tensor([2, 5, 3])
    for placement in PLACEMENTS:
        prompt = torch.zeros(4, WIDTH, requires_grad=True)
        joined, _ = SoftPrompt(prompt=prompt, placement=PLACEMENTS[placement]).join_text(
            torch.randn(3, 6, WIDTH), lengths_B
        )
        real = sum(joined[row, : 4 + length].sum() for row, length in enumerate(lengths_B))
        real.backward()
        assert torch.equal(prompt.grad, torch.full((4, WIDTH), 3.0))


def test_the_sum_of_text_and_update_is_rounded_once_to_the_texts_type():
    """With fp32 factors and a bf16 model, the update is added first and the sum is rounded."""
    text_BTH = torch.full((1, 2, WIDTH), 1.0, dtype=torch.bfloat16)
    # In bf16, 2^-8 is half a unit in the last place of 1, and 2^-18 is lost.
    update = torch.full((2, WIDTH), 2.0**-8 + 2.0**-18)
    soft_prompt = SoftPrompt(prompt=torch.ones(3, WIDTH), update=update)
    assert (
        soft_prompt.add_update(text_BTH).dtype
        == soft_prompt.join_text(text_BTH, torch.tensor([2]))[0].dtype
        == torch.bfloat16
    )
    assert torch.equal(soft_prompt.add_update(text_BTH), (text_BTH.float() + update).bfloat16())
    assert bool((soft_prompt.add_update(text_BTH) > text_BTH).all())
    assert torch.equal(SoftPrompt(prompt=torch.ones(3, WIDTH)).add_update(text_BTH), text_BTH)


def test_map_changes_every_tensor_and_keeps_the_placement():
    soft_prompt = SoftPrompt(prompt=torch.ones(2, WIDTH), update=torch.ones(3, WIDTH), placement=PLACEMENTS["suffix"])
    doubled = soft_prompt.map(lambda tensor: 2 * tensor)
    assert torch.equal(doubled.prompt, 2 * soft_prompt.prompt)
    assert torch.equal(doubled.update, 2 * soft_prompt.update)
    assert doubled.placement.name == "suffix"
    assert SoftPrompt(prompt=torch.ones(2, WIDTH)).map(lambda tensor: tensor).update is None


# --- through a causal backbone ---------------------------------------------------------------------------------


def causal_backbone(family):
    torch.manual_seed(0)
    if family == "gpt2":
        config = GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=64)
        model = GPT2LMHeadModel(config)
    else:
        config = LlamaConfig(
            vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
    with torch.no_grad():  # initial weights barely mix their inputs
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    model.set_attn_implementation("sdpa")
    return CausalBackbone(family, "test", model.double(), tokenizer())


@pytest.mark.parametrize("update", [None, 3, 12], ids=["plain", "update-shorter", "update-longer"])
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_causal_model_sees_the_hand_built_input_without_padding(family, placement, update):
    """Label logits and the gradients of prompt and update are compared. The label is read at the end of the row."""
    backbone = causal_backbone(family)
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randn(4, 32, generator=generator, dtype=torch.float64, requires_grad=True)
    delta = None
    if update is not None:
        delta = torch.randn(update, 32, generator=generator, dtype=torch.float64, requires_grad=True)
    lengths_B = torch.tensor([9, 4, 6])
    # The padding holds tokens too. No real token may see them.
    ids_BT = torch.randint(1, 257, (3, 11), generator=generator)
    label_ids = backbone.label_ids([" bad", " great"])
    soft_prompt = SoftPrompt(prompt=prompt, update=delta, placement=PLACEMENTS[placement])
    leaves = [prompt] if delta is None else [prompt, delta]

    logits_BC = backbone.label_logits(soft_prompt, ids_BT, lengths_B, label_ids)
    by_hand = []
    for row, length in enumerate(lengths_B.tolist()):
        text_TH = backbone.model.get_input_embeddings()(ids_BT[row])
        row_SH = input_by_hand(text_TH, length, prompt, delta, placement)
        by_hand.append(backbone.model(inputs_embeds=row_SH[None]).logits[0, -1][label_ids])
    weight_BC = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    gradients = torch.autograd.grad((logits_BC * weight_BC).sum(), leaves)
    expected_gradients = torch.autograd.grad((torch.stack(by_hand) * weight_BC).sum(), leaves)
    torch.testing.assert_close(logits_BC, torch.stack(by_hand), rtol=0, atol=1e-10)
    for gradient, expected in zip(gradients, expected_gradients, strict=True):
        assert expected.abs().max() > 1e-6
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_placements_differ_and_with_one_prompt_for_each_row_each_row_gets_its_own(family):
    backbone = causal_backbone(family)
    generator = torch.Generator().manual_seed(2)
    prompts_BPH = torch.randn(3, 4, 32, generator=generator, dtype=torch.float64)
    ids_BT, lengths_B = torch.randint(1, 257, (3, 8), generator=generator), torch.tensor([8, 5, 2])
    label_ids = backbone.label_ids([" bad", " great"])
    logits_by_placement = {}
    for placement in PLACEMENTS:
        together = backbone.label_logits(
            SoftPrompt(prompt=prompts_BPH, placement=PLACEMENTS[placement]), ids_BT, lengths_B, label_ids
        )
        logits_by_placement[placement] = together
        for row in range(3):
            soft_prompt = SoftPrompt(prompt=prompts_BPH[row], placement=PLACEMENTS[placement])
            alone = backbone.label_logits(soft_prompt, ids_BT, lengths_B, label_ids)[row]
            torch.testing.assert_close(alone, together[row], rtol=0, atol=1e-12)
    difference_BC = logits_by_placement["prefix"] - logits_by_placement["suffix"]
    assert difference_BC.abs().min() > 1e-6


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.sampled_from(list(PLACEMENTS)), st.sampled_from([None, 2, 9])),
        min_size=1,
        max_size=4,
    ),
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3)), min_size=1, max_size=5),
)
def test_packed_prompts_give_each_row_what_its_own_prompt_gives_it_alone(prompt_kinds, rows):
    prompts = [
        SoftPrompt(
            prompt=torch.randn(length, WIDTH),
            update=None if update is None else torch.randn(update, WIDTH),
            placement=PLACEMENTS[placement],
        )
        for length, placement, update in prompt_kinds
    ]
    prompt_indices = [index % len(prompts) for _, index in rows]
    lengths_B = torch.tensor([length for length, _ in rows])
    text_BTH = torch.randn(len(rows), int(lengths_B.max()) + 1, WIDTH)
    joined, ends_B = PackedPrompts(prompts=prompts, prompt_indices=prompt_indices).join_text(text_BTH, lengths_B)
    for row, index in enumerate(prompt_indices):
        alone, (end,) = prompts[index].join_text(text_BTH[row : row + 1], lengths_B[row : row + 1])
        assert int(ends_B[row]) == int(end)
        assert torch.equal(joined[row, : int(end)], alone[0, : int(end)])
