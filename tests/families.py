"""Small random models of every causal architecture that transformers can build from the configuration of a plain
decoder, and of T5-style encoder-decoders. docs/models.md lists them, and a test compares the page with the lists
here."""

from __future__ import annotations

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

# The same sizes under every name that a configuration may use for them.
SIZES = {
    "vocab_size": 300, "max_position_embeddings": 128, "n_positions": 128, "max_seq_len": 128, "sliding_window": 64,
    "hidden_size": 64, "n_embd": 64, "d_model": 64, "embedding_size": 64, "word_embed_proj_dim": 64,
    "intermediate_size": 96, "n_inner": 96, "dim_ff": 96, "ffn_dim": 96, "decoder_ffn_dim": 96, "encoder_ffn_dim": 96,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "decoder_layers": 2, "encoder_layers": 2,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "decoder_attention_heads": 4,
    "encoder_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rotary_dim": 8, "is_decoder": True,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "n_shared_experts": 1,
    "num_shared_experts": 1, "num_experts_per_tok": 2, "num_experts_per_token": 2, "moe_top_k": 2, "moe_k": 2,
    "moe_topk": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
    "qk_head_dim": 16, "linear_head_dim": 16, "linear_num_heads": 4, "chunk_size": 16, "mamba_chunk_size": 16,
}  # fmt: skip
_HYBRID = ["mamba", "mamba", "hybrid"] * 2
_CHANGES = {
    "bamba": {
        "attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 16,
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "dots3_note_text": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16},
    "gemma3n_text": {
        "num_hidden_layers": 4, "num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2,
        "vocab_size_per_layer_input": 300, "hidden_size_per_layer_input": 16, "intermediate_size": [96] * 4,
        "activation_sparsity_pattern": [0.0] * 4, "laurel_rank": 8,
    },
    "gemma4_text": {"vocab_size_per_layer_input": 300, "hidden_size_per_layer_input": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"], "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"head_dim": 8, "num_key_value_heads": 4},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1, "state_size": 16},
    "nemotron_h": {"mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 1},
    "reformer": {"axial_pos_embds": False, "attention_head_size": 16, "attn_layers": ["local", "local"],
                 "local_attn_chunk_length": 16},
    "xlm": {"causal": True},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 6, "layers_block_type": _HYBRID},
    "zamba2": {"num_hidden_layers": 6, "layers_block_type": _HYBRID, "mamba_d_state": 16, "n_mamba_heads": 8,
               "mamba_headdim": 16},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip

# Architectures that are refused, with words from the reason.
REFUSED = {
    "cpmant": "cannot be run on embeddings",
    "deepseek_v4": "cannot be run on embeddings",
    "gemma3n_text": "use token ids for more than their embeddings",
    "gemma4_text": "cannot be run on embeddings",
    "prophetnet": "looks at the tokens that follow",
    "reformer": "give no gradient",
    "xlnet": "looks at the tokens that follow",
}
# Architectures that cannot be built from the configuration of a plain decoder: models that read more than text, or
# generate sound from text.
NOT_DECODERS = {
    "blt", "dots3_note", "emu3", "fuyu", "gemma3", "gemma3n", "gemma4", "gemma4_assistant", "gemma4_unified",
    "gemma4_unified_assistant", "git", "got_ocr2", "llama4", "mllama", "moss_transcribe_diarize", "musicgen",
    "musicgen_melody", "phi4_multimodal", "qwen3_5", "qwen3_5_moe", "qwen4_exp",
    "cohere_compass_text",  # transformers cannot build it from its own defaults
}  # fmt: skip
CAUSAL = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - NOT_DECODERS)
T5_LIKE = ("t5", "mt5", "umt5", "switch_transformers", "longt5", "t5gemma")


def small_config(model_type):
    """Return a small configuration of a causal architecture."""
    default = CONFIG_MAPPING[model_type]()
    other_names = getattr(default, "attribute_map", {})
    known = {*default.to_dict(), *other_names}
    values = {
        name: value for name, value in SIZES.items()
        if name in known and not (other_names.get(name) in SIZES and other_names.get(name) in known)
    }  # fmt: skip
    if "qk_rope_head_dim" in known:  # here queries and keys have their own size
        values.pop("head_dim", None)
        values["num_key_value_heads"] = 4
    return CONFIG_MAPPING[model_type](**{**values, **_CHANGES.get(model_type, {})})


def small_model(model_type):
    """Return a small random model, float32. Its weights are larger than at the beginning of training, so that they mix
    their inputs."""
    torch.manual_seed(0)
    if model_type == "t5gemma":
        known = CONFIG_MAPPING[model_type]().encoder.to_dict()
        sizes = {name: value for name, value in SIZES.items() if name in known and name != "is_decoder"}
        config = CONFIG_MAPPING[model_type](encoder=sizes, decoder=sizes, vocab_size=300)
        return AutoModelForSeq2SeqLM.from_config(config)
    if model_type in T5_LIKE:
        experts = {"num_experts": 4, "expert_capacity": 4} if model_type == "switch_transformers" else {}
        config = CONFIG_MAPPING[model_type](
            vocab_size=300, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_decoder_layers=2, num_heads=4,
            decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, **experts,
        )  # fmt: skip
        return AutoModelForSeq2SeqLM.from_config(config)
    model = AutoModelForCausalLM.from_config(small_config(model_type))
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
            else:  # a scale of zero would switch some parts off
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
    return model


def has_experts(model):
    """Return whether a model sends tokens to experts. In float32, two experts with nearly the same score may change
    places."""
    words = ("expert", "router", ".gate.")
    return any(word in name for name, _ in model.named_modules() for word in words)
