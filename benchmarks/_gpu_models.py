"""Models with random weights and made-up tasks for the benchmark of a GPU (`benchmarks/gpu.py`)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TEXT_TOKENS = 40  # of all inputs, if they have one length
LEAST_TOKENS = 12  # of the template, with the tokens that T5 needs in it
EXAMPLE_COUNT = 512


@dataclass(frozen=True)
class Setup:
    """What a process needs to build a contender: the folders of the model and of the task, and how to run the model.

    Attributes:
        lengths: "one" if all texts have 40 tokens, "sst2" if they have lengths like those of SST-2's training texts.
    """

    model: str
    task: str
    seq2seq: bool
    precision: str
    lengths: str


def build_model(name: str, *, dry: bool) -> tuple[Any, Any]:
    """Return a model with random weights and a byte tokenizer.

    Args:
        name: the architecture, gpt2-large or t5-base.
        dry: whether the model is a tiny one of two layers.
    """
    import torch
    from tokenizers import processors
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    from lopt.backbones.seq2seq import SENTINEL
    from lopt.backbones.tiny import tokenizer

    torch.manual_seed(0)
    if name == "gpt2-large":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2} if dry else {"n_embd": 1280, "n_layer": 36, "n_head": 20}
        return GPT2LMHeadModel(GPT2Config(**sizes)), tokenizer()
    if name == "t5-base":
        sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
        if not dry:
            sizes = {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
        byte_tokenizer = tokenizer().backend_tokenizer
        byte_tokenizer.add_special_tokens(["</s>", SENTINEL])
        end_token = ("</s>", byte_tokenizer.token_to_id("</s>"))
        byte_tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[end_token])
        t5_tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer, pad_token="<pad>", eos_token="</s>")
        return T5ForConditionalGeneration(T5Config(decoder_start_token_id=0, **sizes)), t5_tokenizer
    raise ValueError(f"unknown model {name!r}; valid: gpt2-large, t5-base")


def write_setup(name: str, folder: Path, *, lengths: str, dry: bool) -> Setup:
    """Write the model, and a task of random letters whose inputs have these lengths (see `Setup`), into a folder."""
    import torch

    model, tokenizer = build_model(name, dry=dry)
    if torch.cuda.is_available():
        model.cuda()  # a GPU casts and writes the weights faster
    model.to(torch.float32 if dry else torch.bfloat16).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    seq2seq, task = name.startswith("t5"), folder / f"task-{lengths}"
    template_tokens = len(" It was") + (len(" ") + 2 if seq2seq else 0)  # T5 adds a space, the sentinel and the end
    task.mkdir()
    generator = np.random.RandomState(0)
    for split, count in (("train", EXAMPLE_COUNT), ("report", 16)):
        token_counts = draw_token_counts(generator, count, lengths)
        texts = ["".join(generator.choice(list("abcdefgh"), tokens - template_tokens)) for tokens in token_counts]
        rows = [{"text": text, "label": index % 2} for index, text in enumerate(texts)]
        (task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task_settings = {
        "columns": ["text"], "classes": ["negative", "positive"], "template": "{text} It was",
        "label_words": [" bad", " great"], "train": "train.jsonl", "report": "report.jsonl",
    }  # fmt: skip
    (task / "task.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in task_settings.items()))
    return Setup(str(folder / "model"), str(task), seq2seq, "fp32" if dry else "bf16", lengths)


def draw_token_counts(generator: np.random.RandomState, count: int, lengths: str) -> np.ndarray:
    """Return the number of tokens of each input, template included.

    SST-2's training texts in the template have 14 tokens on average and up to about 70. Their lengths are close to a
    log-normal distribution.
    """
    if lengths == "one":
        return np.full(count, TEXT_TOKENS)
    return np.clip(LEAST_TOKENS + generator.lognormal(1.6, 0.9, count), LEAST_TOKENS + 1, 70).astype(int)
