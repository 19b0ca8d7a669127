"""Model folders whose files do not belong together, and settings in a config.json of how its model should run."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lopt import backbones, count_parameters
from lopt.backbones.tiny import tokenizer
from tests.families import T5_LIKE, small_model
from tests.tiny_models import make_tokenizer


@pytest.fixture
def save(tmp_path):
    """Return a function that saves a small model with changes to its config.json and returns the folder."""

    def save_model(kind, name="model", **changes):
        folder = tmp_path / name
        small_model(kind).save_pretrained(folder)
        (make_tokenizer("t5") if kind in T5_LIKE else tokenizer()).save_pretrained(folder)
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        return folder

    return save_model


def label_logits(folder):
    backbone = backbones.load(str(folder), "fp32")
    ids_BT = torch.arange(100, 112)[None]
    with torch.no_grad():
        return backbone.label_logits(None, ids_BT, torch.tensor([12]), torch.tensor([258, 259]))


@pytest.mark.parametrize(
    ("kind", "changes", "weight_name"),
    [
        ("llama", {"num_hidden_layers": 1}, "model.layers.1.input_layernorm.weight"),
        ("gpt2", {"n_layer": 1}, "transformer.h.1.attn.c_attn.weight"),
        ("t5", {"num_layers": 1, "num_decoder_layers": 1}, "decoder.block.1.layer.0.SelfAttention.k.weight"),
        ("qwen2", {"model_type": "llama"}, "model.layers.0.self_attn.k_proj.bias"),
        ("qwen3", {"model_type": "llama"}, "model.layers.0.self_attn.k_norm.weight"),
        ("gemma2", {"model_type": "gemma"}, "model.layers.0.post_feedforward_layernorm.weight"),
    ],
)
def test_weights_of_layers_that_the_config_does_not_have_are_refused(kind, changes, weight_name, save):
    folder = save(kind, **changes)
    with pytest.raises(ValueError, match=r"config\.json belongs to another model") as refusal:
        backbones.load(str(folder), "fp32")
    assert weight_name in str(refusal.value)


@pytest.mark.parametrize("kind", T5_LIKE)
def test_weights_of_unknown_layers_of_encoder_decoders_are_refused_too(kind, save):
    folder = save(kind)
    expected = label_logits(folder)
    weights = load_file(folder / "model.safetensors")
    layer = next(name for name in weights if ".0." in name).split(".0.")[0]
    with_extra_layer = {**weights, f"{layer}.7.q_proj.weight": torch.ones(2, 2)}
    save_file(with_extra_layer, folder / "model.safetensors", metadata={"format": "pt"})
    backbones.load.cache_clear()
    with pytest.raises(ValueError, match=rf"hold weights of layers .*{layer}\.7\..*; 1 in all"):
        backbones.load(str(folder), "fp32")
    assert expected.isfinite().all()


def test_adapter_weights_among_the_weights_are_refused(save):
    folder = save("llama")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.lora_A.weight"] = torch.ones(2, 64)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"hold weights of layers .*q_proj\.lora_A\.weight; 1 in all"):
        backbones.load(str(folder), "fp32")


def test_weights_that_a_causal_model_does_not_need_are_left_out(save):
    """Heads for another use, tables that older releases stored, and last layers that predict tokens after the next."""
    expected = label_logits(save("llama"))
    folder = save("llama", "with-extra-weights", num_nextn_predict_layers=1)
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"] = torch.ones(3, 64)
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    weights["model.layers.2.self_attn.q_proj.weight"] = torch.ones(64, 64)
    weights["model.layers.2.eh_proj.weight"] = torch.ones(64, 128)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    torch.testing.assert_close(label_logits(folder), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"_attn_implementation": "flash_attention_2"},
        {"attn_implementation": "flash_attention_2"},
        {"output_attentions": True},
        {"output_hidden_states": True, "return_dict": False},
    ],
)
def test_settings_of_how_a_model_runs_are_not_taken_from_its_config(changes, save):
    expected = label_logits(save("llama"))
    folder = save("llama", "other", **changes)
    torch.testing.assert_close(label_logits(folder), expected)
    assert count_parameters(method="fine_tuning", backbone=str(folder)) == 100160
    assert count_parameters(method="lora", rank=2, backbone=str(folder)) == 896


@pytest.mark.parametrize("quantisation", ["gptq", "awq", "bitsandbytes", "compressed-tensors", "of-tomorrow"])
def test_quantised_weights_are_refused_before_anything_is_read(quantisation, save):
    folder = save("llama", quantization_config={"quant_method": quantisation, "bits": 4})
    with pytest.raises(
        ValueError, match=rf"quantised \({quantisation}\).*give the model as it was before it was quantised"
    ):
        count_parameters(method="prompt_tuning", length=3, backbone=str(folder))
    with pytest.raises(ValueError, match="quantised"):
        backbones.load(str(folder), "fp32")


def test_a_folder_with_an_adapter_of_another_model_is_refused(save):
    peft = pytest.importorskip("peft")
    base_folder, folder = save("llama", "base"), save("llama")
    adapted = peft.get_peft_model(small_model("llama"), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.peft_config["default"].base_model_name_or_path = str(base_folder)
    adapted.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"adapter_config\.json.*merged into it"):
        backbones.load(str(folder), "fp32")


def test_a_model_below_the_model_folder_is_counted_from_its_own_config(save, monkeypatch, tmp_path):
    """This holds even if width and layers are those of the known model with the same name."""
    folder = save("llama", "gpt2")
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 48}
    path.write_text(json.dumps(config))
    monkeypatch.setenv("LOPT_MODEL_DIR", str(tmp_path))
    for method, settings in (("fine_tuning", {}), ("lora", {"rank": 2}), ("lora", {"rank": 2, "targets": "q_proj"})):
        by_name, by_folder = (
            count_parameters(method=method, backbone=name, **settings) for name in ("gpt2", str(folder))
        )
        assert by_name == by_folder
    assert backbones.facts("gpt2").window == backbones.facts(str(folder)).window == 128
    assert backbones.facts("gpt2").vocabulary == 300


def test_the_window_ends_where_attention_would_choose_among_all_tokens_of_a_row(save):
    """In longer rows, Doge's attention chooses among all tokens, padding included, so an answer would depend on the
    neighbours."""
    folder = save("doge", keep_window_size=8)
    assert backbones.facts(str(folder)).window == backbones.load(str(folder), "fp32").window == 8
