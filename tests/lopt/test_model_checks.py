"""Embeddings, positions and attention of families that differ in them. The check of the flat form must notice a wrong
attention."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from lopt import TrialConfig, backbones, count_parameters, load_prompt, train
from lopt.backbones import _attention
from lopt.backbones._flat_input import FlatInput
from lopt.backbones.seq2seq import Seq2SeqBackbone
from lopt.backbones.tiny import tokenizer
from lopt.methods.prompt_tuning import SPEC as PROMPT_TUNING
from lopt.soft_prompt import PackedPrompts, SoftPrompt
from tests.families import SIZES, small_model
from tests.tiny_models import make_model


def save_model(folder, model):
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def model_with(kind, **changes):
    """Return a small random model with changes to its configuration."""
    torch.manual_seed(0)
    known = CONFIG_MAPPING[kind]().to_dict()
    sizes = {name: value for name, value in SIZES.items() if name in known}
    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**{**sizes, **changes}))


@pytest.mark.parametrize(("kind", "scale"), [("gemma", 8.0), ("gemma3_text", 8.0), ("llama", 1.0)])
def test_initial_rows_are_as_large_as_the_embeddings_that_the_model_sees(kind, scale, tmp_path):
    backbone = backbones.load(save_model(tmp_path, model_with(kind)), "fp32")
    weight_VH = next(backbone.model.get_input_embeddings().parameters()).numpy()
    ids = np.array([5, 9])
    rows_KH = backbone.vocabulary((" bad", " great")).token_embeddings(ids)
    np.testing.assert_allclose(rows_KH, scale * weight_VH[ids], rtol=1e-6)
    options = {"init": "label_words"}
    trial = TrialConfig(method="prompt_tuning", task="toy", length=2, backbone=str(tmp_path), options=options)
    tuned = PROMPT_TUNING.begin(backbone, trial)
    words = [backbone.tokenizer(word, add_special_tokens=False)["input_ids"] for word in (" bad", " great")]
    expected = np.stack([scale * weight_VH[ids].mean(axis=0) for ids in words])
    np.testing.assert_allclose(tuned.factors["X"].detach().numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["gemma2", "gemma3_text", "recurrent_gemma", "vaultgemma"])
def test_logits_are_capped_even_if_they_are_too_small_to_show_it_when_a_bf16_model_is_loaded(kind, tmp_path):
    capped = {"final_logit_softcapping": 5.0} if kind != "recurrent_gemma" else {"logits_soft_cap": 5.0}
    backbone = backbones.load(save_model(tmp_path, model_with(kind, **capped)), "bf16")
    with torch.no_grad():  # larger logits, as for a text that the model is surer of
        backbone.model.get_output_embeddings().weight.mul_(50)
    ids_BT = torch.arange(100, 112)[None]
    logits_BC = backbone.label_logits(None, ids_BT, torch.tensor([12]), torch.arange(200, 260))
    assert logits_BC.abs().max() <= 5.0


def test_parameters_are_counted_at_the_width_of_the_embeddings(tmp_path):
    folder = save_model(tmp_path / "model", model_with("opt", word_embed_proj_dim=32))
    config = TrialConfig(
        method="lopt1", task="toy", length=4, rank=2, backbone=folder, learning_rate=0.1, max_steps=2, eval_every=2
    )
    record = train(config, artifact=tmp_path / "prompt")
    assert record.trainable_parameters == count_parameters(method="lopt1", length=4, rank=2, backbone=folder) == 72
    assert record.materialised_parameters == 4 * 32
    prompt = load_prompt(tmp_path / "prompt")
    assert prompt.prompt_PH.shape == (4, 32)
    assert prompt.evaluate().accuracy == record.test_accuracy


@pytest.mark.parametrize(
    "model",
    [
        lambda: model_with("opt", word_embed_proj_dim=32),  # embeddings that are narrower than PEFT thinks
        lambda: small_model("mpt"),  # its sizes have names that PEFT does not look for
        lambda: small_model("mamba"),  # it has no attention heads
    ],
    ids=["opt", "mpt", "mamba"],
)
def test_peft_opens_an_adapter_of_a_model_that_it_knows_little_about(model, tmp_path):
    peft = pytest.importorskip("peft")
    from lopt.export import export_to_peft

    folder = save_model(tmp_path / "model", model())
    config = TrialConfig(method="prompt_tuning", task="toy", length=3, backbone=folder, max_steps=1, precision="fp32")
    train(config, artifact=tmp_path / "prompt")
    prompt = load_prompt(tmp_path / "prompt")
    export_to_peft(prompt, tmp_path / "adapter")
    model = AutoModelForCausalLM.from_pretrained(folder)
    opened = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter")).eval()
    ids_BT = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        peft_V = opened(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT)).logits[0, -1]
        logits_C = prompt.backbone.label_logits(prompt.soft_prompt, ids_BT, torch.tensor([4]), torch.tensor([9, 30]))[0]
    torch.testing.assert_close(logits_C, peft_V[[9, 30]], rtol=1e-4, atol=1e-5)


LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64}


@pytest.mark.parametrize("where", ["rope_parameters", "top level"])
def test_no_answer_depends_on_a_neighbours_length_where_positions_are_scaled_by_it(where, tmp_path):
    long_factors = 1 + 8 * np.random.RandomState(0).rand(8)
    factors = {"short_factor": [1.0] * 8, "long_factor": long_factors.tolist()}
    window = {"original_max_position_embeddings": 64}
    model = model_with("phi3", max_position_embeddings=512, rope_parameters={**LONGROPE, **factors}, **window)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    folder = save_model(tmp_path, model)
    if where == "top level":  # where older files have it
        values = json.loads((tmp_path / "config.json").read_text())
        scaling = {"type": "longrope", **factors}
        values.pop("rope_parameters")
        values |= {"rope_scaling": scaling, "rope_theta": 1e4, **window}
        (tmp_path / "config.json").write_text(json.dumps(values))
    assert backbones.facts(folder).window == 64
    backbone = backbones.load(folder, "fp32")
    assert backbone.window == 64
    prompts = [SoftPrompt(prompt=torch.randn(length, backbone.width)) for length in (40, 4)]
    ids_BT = torch.randint(3, 250, (2, 60))
    lengths_B = torch.tensor([20, 60])  # 60 and 64 tokens with the prompts, but padded to 100 places
    labels_C = torch.tensor([258, 259])
    packed = PackedPrompts(prompts=prompts, prompt_indices=[0, 1])
    together_BC = backbone.label_logits(packed, ids_BT, lengths_B, labels_C)
    alone_BC = backbone.label_logits(prompts[0], ids_BT[:1, :20], lengths_B[:1], labels_C)
    torch.testing.assert_close(together_BC[:1], alone_BC, rtol=1e-4, atol=1e-5)


def test_padding_of_a_packed_pass_does_not_reach_beyond_learned_positions(tmp_path):
    """Each of two rows fits, but the shorter text has the longer prompt."""
    backbone = backbones.load(save_model(tmp_path, model_with("opt")), "fp32")
    backbone.flat = None
    prompts = [SoftPrompt(prompt=torch.randn(length, backbone.width)) for length in (100, 4)]
    packed = PackedPrompts(prompts=prompts, prompt_indices=[0, 1])
    logits_BC = backbone.label_logits(
        packed, torch.ones(2, 120, dtype=torch.long), torch.tensor([20, 120]), torch.tensor([5])
    )
    assert logits_BC.isfinite().all()


def test_the_window_is_smaller_if_positions_are_counted_from_the_padding_token(tmp_path):
    backbone = backbones.load(save_model(tmp_path, model_with("roberta", pad_token_id=1)), "fp32")
    assert backbone.window == 128 - 2
    ids_BT = torch.full((1, backbone.window), 7)
    assert backbone.label_logits(None, ids_BT, torch.tensor([backbone.window]), torch.tensor([5])).isfinite().all()


@pytest.mark.parametrize("partial", [{"partial_rotary_factor": 0.75}, {"partial_rotary_factor": 0.25}])
def test_attention_that_rotates_a_part_of_each_head_gives_the_same_fused_or_not(partial, tmp_path):
    parameters = {"rope_type": "default", "rope_theta": 1e4, **partial}
    folder = save_model(tmp_path, model_with("phi3", head_dim=16, rope_parameters=parameters, sliding_window=None))
    backbone = backbones.load(folder, "fp32")
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids_BT = torch.randint(3, 250, (1, 9))
    logits_BC = backbone.label_logits(None, ids_BT, torch.tensor([9]), torch.tensor([7, 8]))
    torch.testing.assert_close(logits_BC[0], plain(ids_BT).logits[0, -1, [7, 8]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("score_factor", [0.5, 0.8, 0.0, 2.0])
def test_a_flat_form_whose_attention_is_wrong_is_not_taken(kind, precision, score_factor, tmp_path, monkeypatch):
    folder = save_model(tmp_path, small_model(kind))
    assert backbones.load(folder, precision).flat is not None
    backbones.load.cache_clear()
    attend = _attention._attend_on_cpu

    def attend_wrongly(query, key, value, layout, layer, scale):
        return attend(query, key, value, layout, layer, scale * score_factor)

    monkeypatch.setattr(_attention, "_attend_on_cpu", attend_wrongly)
    assert backbones.load(folder, precision).flat is None
    backbones.load.cache_clear()


def test_a_model_whose_rounding_hides_its_attention_takes_the_plain_form(tmp_path):
    """With weights as small as at the beginning of training, every token sees all others nearly alike."""
    folder = save_model(tmp_path, model_with("gpt2"))
    assert backbones.load(folder, "fp32").flat is not None
    assert backbones.load(folder, "bf16").flat is None


def test_rows_that_leak_into_each_other_are_noticed(tmp_path, monkeypatch):
    folder = save_model(tmp_path, small_model("llama"))
    append = FlatInput.append

    def append_at_wrong_positions(self, rows_RTH, lengths=None, *, first_position=0, **context):
        """Positions go on from block to block."""
        wrong_position = first_position + 3 * len(self.blocks)
        return append(self, rows_RTH, lengths, first_position=wrong_position, **context)

    monkeypatch.setattr(FlatInput, "append", append_at_wrong_positions)
    assert backbones.load(folder, "fp32").flat is None
    backbones.load.cache_clear()


def unigram_tokenizer(sentinel):
    """Return a tokenizer like mT5's, which marks a blank before a word."""
    words = ["\N{LOWER ONE EIGHTH BLOCK}" + word for word in ("a", "film", "It", "was", "bad", "great", "Text")]
    letters = [*"abcdefghijklmnopqrstuvwxyzIT.", "\N{LOWER ONE EIGHTH BLOCK}"]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), (sentinel, -2.0)]
    vocabulary += [(piece, -3.0) for piece in words] + [(letter, -8.0) for letter in letters]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    backend.normalizer = normalizers.Sequence([])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize(
    "template", ["a film. It was {mask}", "It was{mask}", "It was {mask}.", "{mask} was It", "film"]
)
def test_a_sentinel_that_begins_with_the_mark_of_a_blank_is_found(template):
    marked_tokenizer = unigram_tokenizer("\N{LOWER ONE EIGHTH BLOCK}<extra_id_0>")
    backbone = Seq2SeqBackbone("mt5", "none", make_model("t5").float(), marked_tokenizer)
    sentinel = marked_tokenizer.get_vocab()["\N{LOWER ONE EIGHTH BLOCK}<extra_id_0>"]
    assert marked_tokenizer(backbone.fill_template(template)).input_ids.count(sentinel) == 1
    assert backbone._decoder_ids(1).tolist() == [[0, sentinel]]
