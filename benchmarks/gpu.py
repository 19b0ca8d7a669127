"""Trial-steps a second on a GPU: GPT-2 large and T5-base of random weights, bf16, n = 10, batch 16, 40 text tokens.

    python benchmarks/gpu.py [--models gpt2-large,t5-base] [--packed 1,4,16,64] [--processes 2,4]
    python benchmarks/gpu.py --dry      # tiny sizes on the CPU: does it run?

PEFT's prompt tuning in a loop, one trial at a time and in processes side by side; our loop of one trial; the engine
with K trials. In turns, with the matrix product, in one run. Needs torch and transformers; without peft its rows are
left out, and processes run our loop of one trial.
"""

import argparse
import importlib.util
import json
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import _common, limit
from lopt import TrialConfig
from lopt.batches import collate
from lopt.engine import Engine
from lopt.training import Trial

BATCH, LENGTH, TEXT_TOKENS, RATE = 16, 10, 40, 0.3
EXAMPLES = 512
ALONE = "one trial"
NOTES = """\
share: 4 FLOPs for each token and weight that it passes, a second, of the fastest product of this run. Weights are the
blocks', without embeddings and head; of T5 the encoder's for prompt and text, the decoder's for its two tokens.
PEFT's loop takes the loss over the whole vocabulary, with dropout, as in training; ours over the label words, without.
memory: weights and what the turn adds to them at its peak; of processes the sum. No padding: all texts are as long."""


@dataclass(frozen=True)
class Given:
    """What a process needs to make a contender."""

    model: str
    task: str
    seq2seq: bool
    precision: str


def model_of(name: str, *, dry: bool) -> tuple[Any, Any]:
    """Model and byte tokenizer: the architecture of that name, or two layers of it, with random weights."""
    import torch
    from tokenizers import processors
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    from lopt.backbones.seq2seq import SENTINEL
    from lopt.backbones.tiny import tokenizer

    torch.manual_seed(0)
    if name == "gpt2-large":
        size = {"n_embd": 32, "n_layer": 2, "n_head": 2} if dry else {"n_embd": 1280, "n_layer": 36, "n_head": 20}
        return GPT2LMHeadModel(GPT2Config(**size)), tokenizer()
    if name == "t5-base":
        size = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
        if not dry:
            size = {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
        inner = tokenizer().backend_tokenizer
        inner.add_special_tokens(["</s>", SENTINEL])
        end = ("</s>", inner.token_to_id("</s>"))
        inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[end])
        outer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>")
        return T5ForConditionalGeneration(T5Config(decoder_start_token_id=0, **size)), outer
    raise ValueError(f"model {name!r}; valid: gpt2-large, t5-base")


def written(name: str, folder: Path, *, dry: bool) -> Given:
    """The model as a local folder, and a task of random letters whose inputs all have 40 tokens."""
    import torch

    model, tokenizer = model_of(name, dry=dry)
    if torch.cuda.is_available():
        model.cuda()  # to be cast and written there is faster
    model.to(torch.float32 if dry else torch.bfloat16).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    seq2seq, task = name.startswith("t5"), folder / "task"
    others = len(" It was") + (len(" ") + 2 if seq2seq else 0)  # T5: a space, the sentinel, the end
    task.mkdir()
    draw = np.random.RandomState(0)
    for split, count in (("train", EXAMPLES), ("report", 16)):
        texts = ["".join(draw.choice(list("abcdefgh"), TEXT_TOKENS - others)) for _ in range(count)]
        rows = [{"text": text, "label": number % 2} for number, text in enumerate(texts)]
        (task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    described = {
        "columns": ["text"], "classes": ["negative", "positive"], "template": "{text} It was",
        "label_words": [" bad", " great"], "train": "train.jsonl", "report": "report.jsonl",
    }  # fmt: skip
    (task / "task.toml").write_text("".join(f"{n} = {json.dumps(value)}\n" for n, value in described.items()))
    return Given(str(folder / "model"), str(task), seq2seq, "fp32" if dry else "bf16")


def trial_of(given: Given, method: str, seed: int = 0) -> Trial:
    config = TrialConfig(
        method=method, task=given.task, backbone=given.model, length=LENGTH, rank=2 if method == "lopt1" else None,
        learning_rate=RATE, optimizer="adafactor", schedule="constant", batch_size=BATCH, max_steps=10**6,
        eval_every=10**6, precision=given.precision, seed=seed,
    )  # fmt: skip
    trial = Trial(config, phase="search")
    assert set(trial.data.train.lengths) == {TEXT_TOKENS}
    return trial


def solo(given: Given) -> Callable[[], Any]:
    """A step of our loop of one trial."""
    return trial_of(given, "lopt1").update


def packed(given: Given, count: int) -> Callable[[], Any]:
    """A step of the engine, `count` trials."""
    engine = Engine()
    for seed in range(count):
        engine.admit(trial_of(given, "lopt1", seed))
    return engine.step


def peft_loop(given: Given, *, alone: bool = False) -> Callable[[], Any]:
    """A step of PEFT's prompt tuning: whole logits, loss on the label word, Adafactor, gradients clipped at 1.

    alone: no other contender of this process uses the model.
    """
    import peft
    import torch
    from transformers.optimization import Adafactor

    trial = trial_of(given, "prompt_tuning")
    backbone, words = trial.backbone, trial.label_ids
    tuning = peft.PromptTuningConfig(
        task_type="SEQ_2_SEQ_LM" if given.seq2seq else "CAUSAL_LM", num_virtual_tokens=LENGTH,
        prompt_tuning_init="RANDOM", num_transformer_submodules=1,
    )  # fmt: skip
    model = peft.get_peft_model(backbone.model if alone else backbone.copy().model, tuning).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = Adafactor(trained, lr=RATE, scale_parameter=False, relative_step=False, warmup_init=False)

    def step() -> None:
        ids_BT, lengths_B, labels_B = (t.to(backbone.device) for t in collate(trial.data.train, trial.draw(), 0))
        word_B1 = words[labels_B][:, None]
        mask_BT = torch.arange(ids_BT.shape[1], device=backbone.device)[None] < lengths_B[:, None]
        if given.seq2seq:
            call = {"input_ids": ids_BT, "labels": torch.cat([torch.full_like(word_B1, -100), word_B1], dim=1)}
            call["decoder_input_ids"] = backbone._decoder_ids(len(ids_BT))
        else:
            labels_BT = torch.cat([torch.full_like(ids_BT, -100), word_B1], dim=1)
            call = {"input_ids": torch.cat([ids_BT, word_B1], dim=1), "labels": labels_BT}
            mask_BT = torch.cat([mask_BT, torch.ones_like(word_B1, dtype=torch.bool)], dim=1)
        model(**call, attention_mask=mask_BT.long()).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def work(pipe: Any, given: Given, make: Callable[[Given], Callable[[], Any]]) -> None:
    """A process of its own: on each number received it takes so many steps, and answers with begin, end and memory."""
    step = make(given)
    step()
    pipe.send("ready")
    while count := pipe.recv():
        _allocated_bytes()
        begin = _common.stamp()
        for _ in range(count):
            step()
        pipe.send((begin, _common.stamp(), _peak_bytes()))


def _allocated_bytes() -> int:
    """Of the GPU, 0 without one; the peak counts from here on."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak_bytes() -> int:
    import torch

    return torch.cuda.max_memory_allocated()


def flops_of_row(model: Any, *, seq2seq: bool) -> float:
    """Forward and backward of one row: 4 for each token and weight that it passes."""
    whole, tokens = limit.block_parameters(model), LENGTH + TEXT_TOKENS
    if not seq2seq:
        return 4.0 * whole * tokens
    encoder = sum(p.numel() for p in model.get_encoder().block.parameters())
    return 4.0 * (encoder * tokens + (whole - encoder) * 2)


def measured(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One model: prints its table, and returns what is kept of it."""
    given = written(name, folder, dry=options.dry)
    with_peft = importlib.util.find_spec("peft") is not None
    loop, its_name = (partial(peft_loop, alone=True), "PEFT loop") if with_peft else (solo, "our loop")
    if not with_peft:
        print("PEFT loop: not run, peft is not installed; processes run our loop of one trial")
    backbone = trial_of(given, "lopt1").backbone
    weights_bytes = sum(p.numel() * p.element_size() for p in backbone.model.parameters())

    def in_this_process(step: Callable[[], Any], trials: int) -> Callable[[], dict[str, Any]]:
        def run() -> dict[str, Any]:
            step()  # untimed
            resident = _allocated_bytes()
            laps = _common.laps(step, options.steps)
            memory = weights_bytes + _peak_bytes() - resident
            return {"trial_steps": options.steps * trials, "seconds": sum(laps), "steps_s": laps, "memory": memory}

        return run

    def side_by_side(pipes: list[Any]) -> dict[str, Any]:
        for pipe in pipes:
            pipe.send(options.steps)
        begins, ends, memories = zip(*(pipe.recv() for pipe in pipes), strict=True)
        seconds = max(ends) - min(begins)
        return {"trial_steps": options.steps * len(pipes), "seconds": seconds, "memory": sum(memories)}

    base = f"{its_name}, {ALONE}"
    turns: dict[str, Callable[[], Any]] = {base: in_this_process(peft_loop(given), 1)} if with_peft else {}
    turns[f"our loop, {ALONE}"] = in_this_process(solo(given), 1)
    spawn, pipes, processes = multiprocessing.get_context("spawn"), [], []
    try:
        for _ in range(max(options.processes, default=0)):
            ours, theirs = spawn.Pipe()
            processes.append(spawn.Process(target=work, args=(theirs, given, loop), daemon=True))
            processes[-1].start()
            theirs.close()  # so that a process which dies ends the wait for it
            pipes.append(ours)
        for pipe in pipes:
            pipe.recv()
        for count in options.processes:
            turns[f"{its_name}, {count} processes"] = partial(side_by_side, pipes[:count])
        for count in options.packed:
            turns[f"engine K={count}"] = in_this_process(packed(given, count), count)
        width, rows = backbone.width, BATCH * (LENGTH + TEXT_TOKENS)
        shapes = [(rows * count, width, 4 * width) for count in {1, max(options.packed)}] + [(options.square,) * 3]
        found = _common.in_turns({"limit": partial(limit.peaks, shapes), **turns}, options.rounds)
    finally:
        for pipe, process in zip(pipes, processes, strict=True):
            if process.is_alive():
                pipe.send(0)
            process.join(timeout=30)

    peak = statistics.median(round_[given.precision] for round_ in found["limit"])
    flops = BATCH * flops_of_row(backbone.model, seq2seq=given.seq2seq)
    table, kept = [], {}
    for contender in turns:
        each = [run["seconds"] / run["trial_steps"] for run in found[contender]]
        ratio, least, most = _common.ratios([r["seconds"] / r["trial_steps"] for r in found[base]], each)
        rate = 1 / statistics.median(each)
        memory = max(run["memory"] for run in found[contender])
        tokens, share = rate * BATCH * (LENGTH + TEXT_TOKENS), rate * flops / peak
        shown = (f"{rate:.1f}", f"{ratio:.2f} [{least:.2f}, {most:.2f}]", f"{tokens:,.0f}", f"{share:.1%}")
        table.append([contender, *shown, f"{memory / 1e9:.2f}"])
        kept[contender] = {
            "trial_steps_per_s": rate, "times_as_fast": [ratio, least, most], "tokens_per_s": tokens,
            "share_of_peak": share, "memory_bytes": memory, "raw": found[contender],
        }  # fmt: skip
    weights = limit.block_parameters(backbone.model)
    print(f"\n{name}{' (two tiny layers)' if options.dry else ''}, {given.precision}, {weights / 1e6:,.1f}M weights in "
          f"blocks; peak {peak / 1e12:.3g} TFLOP/s")  # fmt: skip
    print(_common.table(["", "trial-steps/s", "times as fast", "tokens/s", "share", "memory GB"], table), flush=True)
    return {"block_parameters": weights, "flops_a_step": flops, "shapes": shapes, "limit": found["limit"], "runs": kept}


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--models", default="gpt2-large,t5-base")
    parser.add_argument("--packed", type=_numbers, help="trials in the engine (default 1,4,16,64)")
    parser.add_argument("--processes", type=_numbers, help="side by side (default 2,4)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="a round")
    parser.add_argument("--square", type=int, default=8192, help="of the largest product of the limit")
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU: does it run?")
    _common.add_out(parser)
    options = parser.parse_args(argv)
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if not torch.cuda.is_available():
        print(f"no GPU here: {'tiny sizes on the CPU' if options.dry else 'nothing measured; --dry tests the path'}")
        if not options.dry:
            return 2
    if options.dry:
        options.rounds, options.steps, options.square = 1, 1, 64
    options.packed = options.packed or ([1, 2] if options.dry else [1, 4, 16, 64])
    if options.processes is None:
        options.processes = [2] if options.dry else [2, 4]
    about = _common.context()
    print(_common.headline(about))
    models = {}
    for name in options.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            models[name] = measured(name, options, Path(folder))
    print("\n" + NOTES)
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    _common.keep("gpu", {**about, "settings": settings, "models": models}, options.out, smoke=options.dry)
    return 0


if __name__ == "__main__":
    sys.exit(main())
