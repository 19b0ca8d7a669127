"""The seconds of one training step of one trial: PEFT's prompt tuning with transformers' Trainer, and this library.

    LOPT_DATA_DIR=<mirror> python benchmarks/step.py [--tasks sst2,ag_news,boolq] [--rounds 5] [--steps 4] [--threads 2]

In every round each contender trains once on the same examples (steps x batch), which it divides into batches in its own
way. Matrix products are measured in the same rounds. The first pass of each contender also fills its caches and is
timed separately.
Trainer runs as a user runs it: full-vocabulary logits, loss on the label word, Adafactor, gradients clipped at 1. The
time of a step of Trainer is the time from the end of the step before to the end of this one. Ratios compare medians
over the rounds. The least and the greatest ratio of a single round are printed next to them.
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

from benchmarks import _common, _flops, limit
from lopt import TrialConfig
from lopt.batches import training_batches
from lopt.engine import Engine
from lopt.training import Trial

PROMPT_LENGTH, PADDED_TOKENS, LEARNING_RATE = 10, 128, 0.3
BASELINE = "Trainer fp32"
NOTES = """\
times as fast: compared with Trainer in fp32, which pads to the longest text of the batch; in brackets the least and the
greatest ratio of a round.
tokens/s: tokens of prompt and text, without padding.
share: the FLOP/s of what the contender computes (`benchmarks/_flops.py`), as a share of the fastest matrix product of
this run in the same precision. Our contenders compute a prefix once for all rows of a batch, and with suffixes only the
prompt's tokens.
first: the time of the first pass over the examples, as a multiple of the time of a later pass.
Trainer trains the prompt itself (prompt tuning) as a prefix, with the loss over the whole vocabulary. Our contenders
train the named method with the loss over the label words. A suffix is another placement than PEFT's, so compare its
accuracy, too."""


@dataclass(frozen=True)
class Contender:
    """A contender of the benchmark.

    Attributes:
        run_pass: trains once on all examples and returns the seconds of each step.
        trial_count: the number of trials that a step trains.
        flat: whether its passes take the flat form.
    """

    run_pass: Callable[[], list[float]]
    precision: str
    trial_count: int = 1
    placement: str = "prefix"
    flat: bool = False


def begin_trial(arguments: argparse.Namespace, task: str, **changes: Any) -> Trial:
    """Begin a trial of ours. It never reaches its last step, because the benchmark counts rounds and steps itself."""
    method = changes.setdefault("method", arguments.method)
    config = TrialConfig(
        task=task, backbone=arguments.backbone, length=PROMPT_LENGTH, rank=2 if method.startswith("lopt") else None,
        learning_rate=LEARNING_RATE, optimizer="adafactor", schedule="constant", batch_size=arguments.batch,
        max_steps=10**6, eval_every=10**6, max_tokens=PADDED_TOKENS - 1,
        train_examples=arguments.steps * arguments.batch, selection_examples=32, test_examples=32, **changes,
    )  # fmt: skip
    return Trial(config, phase="search")


def our_contender(
    arguments: argparse.Namespace, task: str, *, packed_count: int = 0, placement: str = "prefix", **changes: Any
) -> Contender:
    """Return our loop of one trial (if `packed_count` is 0), or the engine with `packed_count` trials."""
    changes["options"] = {"placement": placement}
    trials = [begin_trial(arguments, task, seed=seed, **changes) for seed in range(packed_count or 1)]
    engine = Engine()
    for trial in trials:
        engine.admit(trial)

    def run_pass() -> list[float]:
        trials[0].loss(np.arange(arguments.batch)).backward()  # untimed, like Trainer's first step
        trials[0].clear_gradients()
        return _common.time_calls(engine.update_trials if packed_count else trials[0].update, arguments.steps)

    return Contender(run_pass, changes["precision"], len(trials), placement, _flops.is_flat(trials[0].backbone))


@lru_cache
def _model_copy(backbone: Any) -> Any:
    """Return a copy of a backbone's model that Trainer may switch to training mode.

    Its weights stay frozen, so all Trainer contenders share the copy.
    """
    return backbone.copy().model


def trainer_contender(
    arguments: argparse.Namespace, task: str, *, padding: str = "longest", uses_autocast: bool = False,
    weights_precision: str = "fp32", groups_by_length: bool = False,
) -> Contender:  # fmt: skip
    """Return PEFT's prompt tuning with Trainer on the same weights.

    Args:
        padding: "longest" pads to the longest text of the batch, "max_length" to `PADDED_TOKENS`.
        uses_autocast: whether Trainer computes in bf16 (its option `bf16`).
        weights_precision: the precision of the weights.
        groups_by_length: whether the texts of a batch have about the same length, as in our batches.
    """
    import peft
    from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    trial = begin_trial(arguments, task, precision=weights_precision)
    training_split, tokenizer, label_ids = trial.data.train, trial.backbone.tokenizer, trial.label_ids.tolist()
    examples = []
    for token_ids, label in zip(training_split.token_ids, training_split.labels, strict=True):
        ids = [*token_ids, label_ids[label]]
        labels = [-100] * len(token_ids) + ids[-1:]
        examples.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    prompt_config = peft.PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=PROMPT_LENGTH,
        prompt_tuning_init="RANDOM",
        tokenizer_name_or_path=None,
    )
    model = peft.get_peft_model(_model_copy(trial.backbone), prompt_config)
    step_ends: list[float] = []

    class StepClock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            step_ends.append(_common.synchronised_time())

    training_arguments = TrainingArguments(
        arguments.scratch, per_device_train_batch_size=arguments.batch, max_steps=arguments.steps + 1,
        optim="adafactor", learning_rate=LEARNING_RATE, lr_scheduler_type="constant", bf16=uses_autocast,
        use_cpu=trial.backbone.device.type == "cpu", train_sampling_strategy="sequential", remove_unused_columns=False,
        label_names=["labels"], logging_strategy="no", save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    collator = DataCollatorForSeq2Seq(tokenizer, padding=padding, max_length=PADDED_TOKENS)
    trainer = Trainer(model, training_arguments, data_collator=collator, train_dataset=[], callbacks=[StepClock()])
    trainer.remove_callback(PrinterCallback)
    pass_seeds = iter(range(10**6))

    def run_pass() -> list[float]:
        seed = next(pass_seeds)
        order = np.random.RandomState(seed).permutation(len(examples))
        if groups_by_length:
            batches = training_batches(training_split.token_counts, arguments.batch, seed)
            order = np.concatenate([next(batches) for _ in range(arguments.steps)])
        trainer.train_dataset = [examples[i] for i in [*range(arguments.batch), *order]]  # the first batch is not timed
        step_ends.clear()
        trainer.train()
        return _common.intervals_between(step_ends)

    return Contender(run_pass, "bf16" if uses_autocast else weights_precision)


CONTENDERS: dict[str, Callable[[argparse.Namespace, str], Contender]] = {
    BASELINE: trainer_contender,
    "Trainer fp32, grouped by length": partial(trainer_contender, groups_by_length=True),
    "Trainer fp32, padded to 128": partial(trainer_contender, padding="max_length"),
    "Trainer bf16 autocast": partial(trainer_contender, uses_autocast=True),
    "Trainer bf16 weights": partial(trainer_contender, weights_precision="bf16"),
    "solo fp32": partial(our_contender, precision="fp32"),
    "solo bf16": partial(our_contender, precision="bf16"),
    "solo bf16, prompt_tuning": partial(our_contender, precision="bf16", method="prompt_tuning"),
    "engine K=1 bf16": partial(our_contender, precision="bf16", packed_count=1),
    "engine K=4 bf16": partial(our_contender, precision="bf16", packed_count=4),
    "engine K=8 bf16": partial(our_contender, precision="bf16", packed_count=8),
    "engine K=8 fp32": partial(our_contender, precision="fp32", packed_count=8),
    "suffix solo bf16": partial(our_contender, precision="bf16", placement="suffix"),
    "suffix engine K=8 bf16": partial(our_contender, precision="bf16", packed_count=8, placement="suffix"),
    "suffix engine K=8 fp32": partial(our_contender, precision="fp32", packed_count=8, placement="suffix"),
}


def measure_task(arguments: argparse.Namespace, task: str, names: list[str]) -> dict[str, Any]:
    """Measure the named contenders on one task, print the table, and return the result to save."""
    trial = begin_trial(arguments, task)
    contenders = {name: CONTENDERS[name](arguments, task) for name in names}
    text_tokens = float(trial.data.train.token_counts.mean())
    model = trial.backbone.model
    width, inner_width = trial.backbone.width, getattr(model.config, "intermediate_size", 4 * trial.backbone.width)
    batch_tokens = arguments.batch * (PROMPT_LENGTH + text_tokens)
    shapes = [*((round(batch_tokens) * trials, width, inner_width) for trials in (1, 8)), (arguments.square,) * 3]
    functions_by_name: dict[str, Callable[[], Any]] = {"limit": partial(limit.measure_peaks, shapes, repeats=3)}
    functions_by_name |= {name: contender.run_pass for name, contender in contenders.items()}
    first_round = _common.run_in_turns(functions_by_name, 1)
    later_rounds = _common.run_in_turns(functions_by_name, arguments.rounds)

    peaks_by_round = later_rounds["limit"]
    peak_by_precision = {
        precision: statistics.median(round_peaks[precision] for round_peaks in peaks_by_round)
        for precision in limit.PRECISIONS
    }
    block_weight_count = limit.count_block_weights(model)
    step_seconds_by_name = {}  # seconds of one step of one trial in each pass, the first pass included
    for name, contender in contenders.items():
        step_count = arguments.steps * contender.trial_count
        step_seconds_by_name[name] = [
            sum(pass_times) / step_count for pass_times in first_round[name] + later_rounds[name]
        ]
    table_rows, results = [], {}
    for name, contender in contenders.items():
        first_s, *later_s = step_seconds_by_name[name]
        median_s = statistics.median(later_s)
        ratio, least_ratio, greatest_ratio = _common.speed_ratios(step_seconds_by_name[BASELINE][1:], later_s)
        tokens_per_s = batch_tokens / median_s
        flops = _flops.step_flops(
            trial.backbone, prompt_length=PROMPT_LENGTH, batch_size=arguments.batch,
            text_tokens=arguments.batch * text_tokens, flat=contender.flat, placement=contender.placement,
        )  # fmt: skip
        share = flops / median_s / peak_by_precision[contender.precision]
        table_rows.append([
            name, f"{median_s:.3f}", f"{ratio:.2f} [{least_ratio:.2f}, {greatest_ratio:.2f}]", f"{tokens_per_s:,.0f}",
            f"{share:.0%}", f"{first_s / median_s:.2f}",
        ])  # fmt: skip
        results[name] = {
            "precision": contender.precision, "trials": contender.trial_count, "placement": contender.placement,
            "median_s": median_s, "times_as_fast": [ratio, least_ratio, greatest_ratio], "tokens_per_s": tokens_per_s,
            "share_of_peak": share, "flat": contender.flat, "first_pass_s": first_round[name][0],
            "passes_s": later_rounds[name],
        }  # fmt: skip
    print(
        f"\n{task}: {len(trial.data.train)} training texts with a mean of {text_tokens:.1f} tokens (at most "
        f"{PADDED_TOKENS - 1}), n={PROMPT_LENGTH}, batch {arguments.batch}, {arguments.method}; peak fp32 "
        f"{peak_by_precision['fp32'] / 1e12:.3g}, bf16 {peak_by_precision['bf16'] / 1e12:.3g} TFLOP/s"
    )
    header = ["contender", "s per trial-step", "times as fast", "tokens/s", "share", "first"]
    print(_common.format_table(header, table_rows), flush=True)
    facts = {
        "text_tokens": text_tokens,
        "block_parameters": block_weight_count,
        "shapes": shapes,
        "limit": peaks_by_round,
    }
    return {**facts, "contenders": results}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--tasks", default="sst2,ag_news,boolq")
    parser.add_argument(
        "--data",
        help="folder with <task>/<split>.parquet (default: the folder LOPT_DATA_DIR, else the Hugging Face hub)",
    )
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--method", default="lopt1", help="method of our contenders (default lopt1, with r=2)")
    parser.add_argument("--batch", type=int, default=16, help="batch size (default 16)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds after the first pass (default 5)")
    parser.add_argument("--steps", type=int, default=4, help="steps of each trial in a round (default 4)")
    parser.add_argument("--threads", type=int, help="processor threads (default: torch's choice)")
    parser.add_argument(
        "--square", type=int, default=2048, help="size of the largest matrix product of the limit (default 2048)"
    )
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="run only contenders whose name has this text; repeatable"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="use a tiny backbone and made-up text, only to test that the benchmark runs",
    )
    _common.add_out_option(parser)
    arguments = parser.parse_args(argv)
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    if arguments.data:
        os.environ["LOPT_DATA_DIR"] = arguments.data
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.quick:
        arguments.backbone, arguments.tasks, arguments.batch, arguments.steps = "tiny", "toy", 4, 2
        arguments.rounds, arguments.square = 2, 64
    only = arguments.only or [""]  # every name contains the empty text
    names = [name for name in CONTENDERS if name == BASELINE or any(text in name for text in only)]
    context = _common.run_context()
    print(_common.hardware_line(context))
    settings = {name: value for name, value in vars(arguments).items() if name not in ("out", "data")}
    with tempfile.TemporaryDirectory() as arguments.scratch:
        tasks = {task: measure_task(arguments, task, names) for task in arguments.tasks.split(",")}
    print("\n" + NOTES)
    _common.save_result(
        "step", {**context, "settings": settings, "tasks": tasks}, arguments.out, is_smoke_test=arguments.quick
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
