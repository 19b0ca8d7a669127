"""Every architecture gives what transformers gives for one row at a time, or is refused with the reason."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lopt import backbones
from lopt.backbones._configs import facts_from_config
from lopt.backbones.tiny import tokenizer
from lopt.placement import PLACEMENTS
from lopt.soft_prompt import SoftPrompt
from tests.families import CAUSAL, NOT_DECODERS, REFUSED, T5_LIKE, has_experts, small_model
from tests.tiny_models import make_tokenizer

LENGTHS = (11, 7, 3, 9)
LABELS = [258, 259, 261]
LARGEST_DIFFERENCE = 1e-4  # relative
# They compute in float32 whatever the model's type is.
ONLY_FP32 = ("inkling_text", "inkling2_text")


def save_model(kind, folder):
    """Save a small model to a folder and return the precision in which it is compared."""
    model = small_model(kind)
    precision = "fp64" if has_experts(model) and kind not in ONLY_FP32 else "fp32"
    model.to(torch.float64 if precision == "fp64" else torch.float32).save_pretrained(folder)
    (make_tokenizer("t5") if kind in T5_LIKE else tokenizer()).save_pretrained(folder)
    return precision


def plain_logits(model, backbone, prompt_PH, rows, placement):
    """Return label logits by transformers alone, one row at a time, `[B, C]`."""
    logits = []
    for ids in rows:
        text_TH = model.get_input_embeddings()(torch.tensor(ids))
        parts = [prompt_PH, text_TH] if placement == "prefix" else [text_TH, prompt_PH]
        inputs = {"inputs_embeds": torch.cat(parts)[None]}
        if model.config.is_encoder_decoder:
            decoder_ids = torch.tensor([[backbone._start_id, backbone._sentinel_id]])
            logits.append(model(**inputs, decoder_input_ids=decoder_ids).logits[0, 1, LABELS])
        else:
            if "use_cache" in inspect.signature(model.forward).parameters:
                inputs["use_cache"] = False
            logits.append(model(**inputs).logits[0, -1, LABELS])
    return torch.stack(logits)


def relative_difference(result, expected):
    return float((result - expected).norm() / expected.norm())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in (*CAUSAL, *T5_LIKE) if kind not in REFUSED])
def test_label_logits_and_the_prompts_gradient_equal_the_plain_model(kind, tmp_path):
    precision = save_model(kind, tmp_path)
    backbone = backbones.load(str(tmp_path), precision)
    assert backbones.facts(str(tmp_path)).width == backbone.width
    family = AutoModelForSeq2SeqLM if kind in T5_LIKE else AutoModelForCausalLM
    experts = {"experts_implementation": "eager"} if precision == "fp64" else {}
    plain = family.from_pretrained(tmp_path, dtype=backbone.dtype, attn_implementation="eager", **experts).eval()
    random = torch.Generator().manual_seed(3)
    rows = [torch.randint(3, 250, (length,), generator=random).tolist() for length in LENGTHS]
    ids_BT = torch.zeros(len(rows), max(LENGTHS), dtype=torch.long)
    for row, ids in enumerate(rows):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
    scale = float(plain.get_input_embeddings()(ids_BT[0]).std().detach())
    for placement in PLACEMENTS.values():
        prompt_PH = (scale * torch.randn(4, backbone.width, generator=random)).to(backbone.dtype).requires_grad_()
        weights_BC = torch.randn(len(rows), len(LABELS), generator=random).to(backbone.dtype)
        expected_BC = plain_logits(plain, backbone, prompt_PH, rows, placement.name)
        (expected_gradient,) = torch.autograd.grad((expected_BC * weights_BC).sum(), prompt_PH)
        soft_prompt = SoftPrompt(prompt=prompt_PH, placement=placement)
        logits_BC = backbone.label_logits(soft_prompt, ids_BT, torch.tensor(LENGTHS), torch.tensor(LABELS))
        (gradient,) = torch.autograd.grad((logits_BC * weights_BC).sum(), prompt_PH)
        assert relative_difference(logits_BC, expected_BC) <= LARGEST_DIFFERENCE
        assert relative_difference(gradient, expected_gradient) <= LARGEST_DIFFERENCE


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_a_model_that_cannot_have_a_soft_prompt_is_refused_with_the_reason(kind, tmp_path):
    precision = save_model(kind, tmp_path)
    with pytest.raises(ValueError, match=re.escape(REFUSED[kind])) as refusal:
        backbones.load(str(tmp_path), precision)
    assert "\n" not in str(refusal.value)
    assert "github.com" not in str(refusal.value), "no message sends a user to another project"


def test_the_lists_cover_all_of_transformers_causal_architectures():
    assert set(REFUSED) <= set(CAUSAL)
    assert {*CAUSAL, *NOT_DECODERS} == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert len(CAUSAL) - len(REFUSED) >= 70


@pytest.mark.parametrize("kind", ["gemma3", "phi4_multimodal", "llama4", "git", "bart", "whisper", "musicgen"])
def test_a_config_of_another_kind_is_refused_without_weights(kind):
    with pytest.raises(ValueError, match=f"is not supported: .*{kind}.*T5-style"):
        facts_from_config("my-model", CONFIG_MAPPING[kind]().to_dict())


def test_the_documented_table_lists_what_the_tests_check():
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    exact_section, refused_section = page.split("## Refused")
    exact = set(re.findall(r"(?:^|· )`([\w-]+)`", exact_section.split("## Supported")[1], re.M))
    assert exact == {*CAUSAL, *T5_LIKE} - set(REFUSED)
    assert set(re.findall(r"^\| `([\w.-]+)`", refused_section, re.M)) == {*REFUSED, *NOT_DECODERS}


@pytest.mark.parametrize(
    ("changes", "width"),
    [
        ({"model_type": "opt", "word_embed_proj_dim": 32}, 32),
        ({"model_type": "electra", "embedding_size": 16}, 16),
        ({"model_type": "mpt"}, 2048),  # d_model, and n_layers
        ({"model_type": "rembert", "input_embedding_size": 24}, 24),
    ],
)
def test_the_width_is_that_of_the_embeddings(changes, width):
    kind = changes["model_type"]
    others = {name: value for name, value in changes.items() if name != "model_type"}
    config = json.loads(CONFIG_MAPPING[kind](**others).to_json_string())
    assert facts_from_config("my-model", config).width == width
