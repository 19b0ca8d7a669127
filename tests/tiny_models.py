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
    made = byte_tokenizer().backend_tokenizer
    made.add_special_tokens(["</s>", SENTINEL])
    end = ("</s>", made.token_to_id("</s>"))
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[end])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>")


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
    if family != "t5":  # whose attention is not scaled down: larger weights would make twenty steps chaotic
        with torch.no_grad():  # the others' random weights, as they come, barely mix their inputs
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(4)
    model.set_attn_implementation("sdpa")
    return model.double().eval()
