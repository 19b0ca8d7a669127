"""Tiny random models of three families, and byte tokenizers for them: a forward pass takes milliseconds."""

from __future__ import annotations

import torch
from tokenizers import processors
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from lopt.backbones.tiny import tokenizer as byte_tokenizer

FAMILIES = ("gpt2", "llama", "t5")
SENTINEL = "<extra_id_0>"
WIDTH = 32


def make_tokenizer(family):
    if family != "t5":
        return byte_tokenizer()
    tokenizer = byte_tokenizer().backend_tokenizer
    tokenizer.add_special_tokens(["</s>", SENTINEL])
    end = ("</s>", tokenizer.token_to_id("</s>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[end])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


def make_model(family):
    torch.manual_seed(0)
    if family == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=280, n_embd=WIDTH, n_layer=2, n_head=4, n_positions=64))
    elif family == "llama":
        config = LlamaConfig(
            vocab_size=280, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
    else:
        config = T5Config(
            vocab_size=280, d_model=WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0
        )
        model = T5ForConditionalGeneration(config)
    # Initial weights barely mix their inputs, so they are made larger. Not T5's: its attention scores are not scaled
    # down, and larger weights would make twenty steps chaotic.
    if family != "t5":
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(4)
    model.set_attn_implementation("sdpa")
    return model.double().eval()
