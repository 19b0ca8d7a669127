"""The flat form of T5-style passes, without padding, compared with the plain form and with transformers."""

from __future__ import annotations

import pytest
import torch

from lopt.backbones.seq2seq import Seq2SeqBackbone
from lopt.placement import PLACEMENTS
from lopt.soft_prompt import PackedPrompts, SoftPrompt
from tests.families import small_model
from tests.tiny_models import make_tokenizer

LABEL_IDS = torch.tensor([3, 7, 11])
PROMPT_KINDS = (("prefix", 4, None), ("prefix", 6, 5), ("suffix", 4, None), ("suffix", 3, 20))
PROMPT_INDICES = [0, 1, 2, 3, 0, 3, 2, 1, 1, 0, 2]
FLAT_KINDS, PLAIN_KINDS = ("t5", "mt5"), ("umt5", "longt5", "t5gemma", "switch_transformers")


def make_backbone(kind, dtype):
    model = small_model(kind)
    with torch.no_grad():  # a bias that differs from layer to layer, and matters
        for name, parameter in model.named_parameters():
            if "relative_attention_bias" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    model.set_attn_implementation("eager" if kind in PLAIN_KINDS else "sdpa")
    return Seq2SeqBackbone(kind, "test", model.to(dtype), make_tokenizer("t5"))


def packed_prompts(width, dtype):
    generator = torch.Generator().manual_seed(1)

    def leaf(tokens):
        if tokens is None:
            return None
        return (0.3 * torch.randn(tokens, width, generator=generator, dtype=dtype)).requires_grad_()

    prompts = [
        SoftPrompt(prompt=leaf(length), update=leaf(update), placement=PLACEMENTS[placement])
        for placement, length, update in PROMPT_KINDS
    ]
    return PackedPrompts(prompts=prompts, prompt_indices=PROMPT_INDICES)


def batch(longest=60):
    generator = torch.Generator().manual_seed(0)
    lengths_B = torch.randint(2, longest, (len(PROMPT_INDICES),), generator=generator)
    lengths_B[3] = longest
    return torch.randint(1, 200, (len(PROMPT_INDICES), longest), generator=generator), lengths_B


def logits_and_gradients(backbone, packed, ids_BT, lengths_B):
    logits_BC = backbone.label_logits(packed, ids_BT, lengths_B, LABEL_IDS)
    leaves = [tensor for prompt in packed.prompts for tensor in (prompt.prompt, prompt.update) if tensor is not None]
    weights_BC = torch.randn(logits_BC.shape, generator=torch.Generator().manual_seed(2), dtype=logits_BC.dtype)
    return [logits_BC.detach(), *torch.autograd.grad((logits_BC * weights_BC).sum(), leaves)]


@pytest.mark.parametrize("use_torch_kernels", [False, True])
@pytest.mark.parametrize("kind", FLAT_KINDS)
def test_packed_prompts_of_all_kinds_equal_transformers_row_by_row(kind, use_torch_kernels, fp64_norms):
    """In fp64, the flat form is compared with transformers' own forward pass of one row without padding."""
    backbone = make_backbone(kind, torch.float64)
    packed, (ids_BT, lengths_B) = packed_prompts(backbone.width, torch.float64), batch()
    assert backbone.flat is None, "in fp64, passes take the plain form unless a test asks for the flat one"
    backbone.flat = backbone.make_flat_form()
    backbone.flat.use_torch_kernels = use_torch_kernels
    flat = logits_and_gradients(backbone, packed, ids_BT, lengths_B)
    decoder_ids = torch.tensor([[backbone._start_id, backbone._sentinel_id]])
    rows = []
    for row, length in enumerate(lengths_B.tolist()):
        one_row = packed.select_rows([row])
        inputs_1SH, _ = one_row.join_text(
            backbone.model.get_input_embeddings()(ids_BT[row : row + 1, :length]), lengths_B[row : row + 1]
        )
        inputs_1SH = inputs_1SH[:, : length + packed.prompts[PROMPT_INDICES[row]].length]
        rows.append(backbone.model(inputs_embeds=inputs_1SH, decoder_input_ids=decoder_ids).logits[0, 1, LABEL_IDS])
    logits_BC = torch.stack(rows)
    leaves = [tensor for prompt in packed.prompts for tensor in (prompt.prompt, prompt.update) if tensor is not None]
    weights_BC = torch.randn(logits_BC.shape, generator=torch.Generator().manual_seed(2), dtype=logits_BC.dtype)
    expected = [logits_BC.detach(), *torch.autograd.grad((logits_BC * weights_BC).sum(), leaves)]
    for tensor, expected_tensor in zip(flat, expected, strict=True):
        torch.testing.assert_close(tensor, expected_tensor, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", FLAT_KINDS)
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_the_flat_form_is_taken_and_equals_the_plain_one_to_rounding(kind, dtype, rounding):
    backbone = make_backbone(kind, dtype)
    assert backbone.flat is not None
    assert backbone.allows_parallel_passes
    assert not backbone.pads_rows
    packed = packed_prompts(backbone.width, torch.float32)
    flat = logits_and_gradients(backbone, packed, *batch())
    backbone.flat = None
    plain = logits_and_gradients(backbone, packed, *batch())
    for flat_tensor, plain_tensor in zip(flat, plain, strict=True):
        assert (flat_tensor - plain_tensor).norm() <= rounding * plain_tensor.norm()


@pytest.mark.parametrize("kind", PLAIN_KINDS)
def test_families_with_another_attention_keep_the_plain_form(kind):
    assert make_backbone(kind, torch.float32).flat is None


def test_the_plain_form_of_the_same_model_still_has_its_whole_bias():
    backbone = make_backbone("t5", torch.float32)
    ids_BT, lengths_B = batch()
    with torch.no_grad():
        flat = backbone.label_logits(None, ids_BT, lengths_B, LABEL_IDS)
        backbone.flat = None
        plain = backbone.label_logits(None, ids_BT, lengths_B, LABEL_IDS)
    torch.testing.assert_close(flat, plain, rtol=1e-4, atol=1e-5)


def test_no_padding_is_computed():
    backbone = make_backbone("t5", torch.float32)
    packed, (ids_BT, lengths_B) = packed_prompts(backbone.width, torch.float32), batch()
    token_counts = []
    for block in backbone.model.get_encoder().block:
        block.layer[-1].DenseReluDense.wi.register_forward_hook(
            lambda module, inputs, output: token_counts.append(inputs[0].shape[:-1].numel())
        )
    logits_and_gradients(backbone, packed, ids_BT, lengths_B)
    prompt_tokens = sum(PROMPT_KINDS[index][1] for index in PROMPT_INDICES)
    assert token_counts == [int(lengths_B.sum()) + prompt_tokens] * 2
