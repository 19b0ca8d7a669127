"""Seconds of a training step and trial: PEFT's prompt tuning with transformers' Trainer, and this library.

    LOPT_DATA_DIR=<mirror> python benchmarks/step.py [--tasks sst2,ag_news,boolq] [--rounds 5] [--steps 4] [--threads 2]

In every round each contender goes once through the same steps x batch examples, in batches of its own, and the matrix
product is measured; a first pass of each, which also fills what is kept from pass to pass, is timed apart. Trainer runs
as a user runs it: full-vocabulary logits, loss on the label word, Adafactor, gradients clipped at 1; a step of it lasts
from the end of one to the end of the next. Ratios are of the medians over the rounds, with their least and most.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import _common, limit
from lopt import TrialConfig
from lopt.batches import training_batches
from lopt.engine import Engine
from lopt.training import Trial

LENGTH, PADDED, RATE = 10, 128, 0.3
BASE = "Trainer fp32"
NOTES = """\
times as fast: as Trainer in fp32 that pads to the longest of the batch; in brackets the least and most of the rounds.
tokens/s: of prompt and text, without padding. share: 4 FLOPs for each such token and weight of the blocks, a second, as
a share of the fastest matrix product of this run in that precision; with suffixes only the prompt's tokens count.
first: the first pass over the examples, in times of a later one.
Trainer trains the prompt itself (prompt tuning), a prefix, on the loss over the whole vocabulary; ours is the method
named, on the loss over the label words. A suffix is another placement than PEFT's: compare its accuracy, too."""


@dataclass(frozen=True)
class Contender:
    """Who trains: `laps` goes once through the examples and returns the seconds of each step.

    trials: that a step trains. computed: tokens a row that must be computed, beside the text's where None.
    """

    laps: Callable[[], list[float]]
    precision: str
    trials: int = 1
    placement: str = "prefix"


def trial_of(given: argparse.Namespace, task: str, **changes: Any) -> Trial:
    """Our trial; rounds and steps are counted here, so it is given more than it will take."""
    method = changes.setdefault("method", given.method)
    config = TrialConfig(
        task=task, backbone=given.backbone, length=LENGTH, rank=2 if method.startswith("lopt") else None,
        learning_rate=RATE, optimizer="adafactor", schedule="constant", batch_size=given.batch, max_steps=10**6,
        eval_every=10**6, max_tokens=PADDED - 1, train_examples=given.steps * given.batch, selection_examples=32,
        test_examples=32, **changes,
    )  # fmt: skip
    return Trial(config, phase="search")


def ours(
    given: argparse.Namespace, task: str, *, packed: int = 0, placement: str = "prefix", **changes: Any
) -> Contender:
    """Our loop of one trial, or the engine with so many packed."""
    changes["options"] = {"placement": placement}
    trials = [trial_of(given, task, seed=seed, **changes) for seed in range(packed or 1)]
    engine = Engine()
    for trial in trials:
        engine.admit(trial)

    def run() -> list[float]:
        trials[0].loss(np.arange(given.batch)).backward()  # untimed, like Trainer's first step
        trials[0].clear_gradients()
        return _common.laps(engine.step if packed else trials[0].update, given.steps)

    return Contender(run, changes["precision"], len(trials), placement)


@lru_cache
def _copied(backbone: Any) -> Any:
    """The model of a backbone that Trainer may switch into training; its weights stay frozen, so all share it."""
    return backbone.copy().model


def trainer(
    given: argparse.Namespace, task: str, *, padding: str = "longest", autocast: bool = False, weights: str = "fp32",
    grouped: bool = False,
) -> Contender:  # fmt: skip
    """PEFT's prompt tuning under Trainer, on the same weights.

    padding: "longest" of the batch or "max_length". autocast: Trainer's bf16. grouped: batches of about one length, as
    ours are.
    """
    import peft
    from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    trial = trial_of(given, task, precision=weights)
    train, tokenizer, label_ids = trial.data.train, trial.backbone.tokenizer, trial.label_ids.tolist()
    examples = []
    for token_ids, label in zip(train.token_ids, train.labels, strict=True):
        ids = [*token_ids, label_ids[label]]
        labels = [-100] * len(token_ids) + ids[-1:]
        examples.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tuning = peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=LENGTH, prompt_tuning_init="RANDOM", tokenizer_name_or_path=None
    )
    model = peft.get_peft_model(_copied(trial.backbone), tuning)
    stamps: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            stamps.append(_common.stamp())

    arguments = TrainingArguments(
        given.scratch, per_device_train_batch_size=given.batch, max_steps=given.steps + 1, optim="adafactor",
        learning_rate=RATE, lr_scheduler_type="constant", bf16=autocast, use_cpu=trial.backbone.device.type == "cpu",
        train_sampling_strategy="sequential", remove_unused_columns=False, label_names=["labels"],
        logging_strategy="no", save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    collator = DataCollatorForSeq2Seq(tokenizer, padding=padding, max_length=PADDED)
    made = Trainer(model, arguments, data_collator=collator, train_dataset=[], callbacks=[Clock()])
    made.remove_callback(PrinterCallback)
    passes = iter(range(10**6))

    def run() -> list[float]:
        number = next(passes)
        order = np.random.RandomState(number).permutation(len(examples))
        if grouped:
            batches = training_batches(train.lengths, given.batch, number)
            order = np.concatenate([next(batches) for _ in range(given.steps)])
        made.train_dataset = [examples[i] for i in [*range(given.batch), *order]]  # the first batch is not timed
        stamps.clear()
        made.train()
        return _common.between(stamps)

    return Contender(run, "bf16" if autocast else weights)


CONTENDERS: dict[str, Callable[[argparse.Namespace, str], Contender]] = {
    BASE: trainer,
    "Trainer fp32, grouped by length": partial(trainer, grouped=True),
    "Trainer fp32, padded to 128": partial(trainer, padding="max_length"),
    "Trainer bf16 autocast": partial(trainer, autocast=True),
    "Trainer bf16 weights": partial(trainer, weights="bf16"),
    "solo fp32": partial(ours, precision="fp32"),
    "solo bf16": partial(ours, precision="bf16"),
    "solo bf16, prompt_tuning": partial(ours, precision="bf16", method="prompt_tuning"),
    "engine K=1 bf16": partial(ours, precision="bf16", packed=1),
    "engine K=4 bf16": partial(ours, precision="bf16", packed=4),
    "engine K=8 bf16": partial(ours, precision="bf16", packed=8),
    "engine K=8 fp32": partial(ours, precision="fp32", packed=8),
    "suffix solo bf16": partial(ours, precision="bf16", placement="suffix"),
    "suffix engine K=8 bf16": partial(ours, precision="bf16", packed=8, placement="suffix"),
    "suffix engine K=8 fp32": partial(ours, precision="fp32", packed=8, placement="suffix"),
}


def measured(given: argparse.Namespace, task: str, names: list[str]) -> dict[str, Any]:
    """One task: prints its table, and returns what is kept of it."""
    probe = trial_of(given, task)
    contenders = {name: CONTENDERS[name](given, task) for name in names}
    text_tokens = float(probe.data.train.lengths.mean())
    model = probe.backbone.model
    width, inner = probe.backbone.width, getattr(model.config, "intermediate_size", 4 * probe.backbone.width)
    counts = [round(given.batch * (LENGTH + text_tokens)) * trials for trials in (1, 8)]
    shapes = [*((count, width, inner) for count in counts), (given.square,) * 3]
    turns: dict[str, Callable[[], Any]] = {"limit": partial(limit.peaks, shapes, repeats=3)}
    turns |= {name: contender.laps for name, contender in contenders.items()}
    first = _common.in_turns(turns, 1)
    later = _common.in_turns(turns, given.rounds)

    peaks = {p: statistics.median(found[p] for found in later["limit"]) for p in limit.PRECISIONS}
    weights = limit.block_parameters(model)
    by_pass = {
        name: [sum(steps) / (given.steps * contender.trials) for steps in first[name] + later[name]]
        for name, contender in contenders.items()
    }
    rows, kept = [], {}
    for name, contender in contenders.items():
        median = statistics.median(by_pass[name][1:])
        ratio, least, most = _common.ratios(by_pass[BASE][1:], by_pass[name][1:])
        rate = given.batch * (LENGTH + text_tokens) / median
        computed = given.batch * (LENGTH + (text_tokens if contender.placement == "prefix" else 0.0))
        share = 4 * weights * computed / median / peaks[contender.precision]
        shown = (f"{median:.3f}", f"{ratio:.2f} [{least:.2f}, {most:.2f}]", f"{rate:,.0f}", f"{share:.0%}")
        rows.append([name, *shown, f"{by_pass[name][0] / median:.2f}"])
        kept[name] = {
            "precision": contender.precision, "trials": contender.trials, "placement": contender.placement,
            "median_s": median, "times_as_fast": [ratio, least, most], "tokens_per_s": rate, "share_of_peak": share,
            "first_pass_s": first[name][0], "passes_s": later[name],
        }  # fmt: skip
    print(
        f"\n{task}: {len(probe.data.train)} training texts of {text_tokens:.1f} tokens in the mean (at most "
        f"{PADDED - 1}), n={LENGTH}, batch {given.batch}, {given.method}; peak fp32 {peaks['fp32'] / 1e12:.3g}, "
        f"bf16 {peaks['bf16'] / 1e12:.3g} TFLOP/s"
    )
    header = ["contender", "s a trial-step", "times as fast", "tokens/s", "share", "first"]
    print(_common.table(header, rows), flush=True)
    about = {"text_tokens": text_tokens, "block_parameters": weights, "shapes": shapes, "limit": later["limit"]}
    return {**about, "contenders": kept}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--tasks", default="sst2,ag_news,boolq")
    parser.add_argument("--data", help="folder <task>/<split>.parquet (default: LOPT_DATA_DIR, else the hub)")
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--method", default="lopt1", help="of our contenders (default lopt1, r=2)")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="a round and trial")
    parser.add_argument("--threads", type=int, help="default: as torch chooses")
    parser.add_argument("--square", type=int, default=2048, help="of the largest product of the limit")
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="contenders with this text in their name; repeatable"
    )
    parser.add_argument("--quick", action="store_true", help="tiny backbone, made-up text: does it run?")
    _common.add_out(parser)
    given = parser.parse_args(argv)
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    if given.data:
        os.environ["LOPT_DATA_DIR"] = given.data
    if given.threads:
        torch.set_num_threads(given.threads)
    if given.quick:
        given.backbone, given.tasks, given.batch, given.steps, given.rounds, given.square = "tiny", "toy", 4, 2, 2, 64
    names = [n for n in CONTENDERS if n == BASE or not given.only or any(text in n for text in given.only)]
    about = _common.context()
    print(_common.headline(about))
    settings = {name: value for name, value in vars(given).items() if name not in ("out", "data")}
    with tempfile.TemporaryDirectory() as given.scratch:
        tasks = {task: measured(given, task, names) for task in given.tasks.split(",")}
    print("\n" + NOTES)
    _common.keep("step", {**about, "settings": settings, "tasks": tasks}, given.out, smoke=given.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
