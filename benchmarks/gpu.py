"""Trial-steps per second on a GPU, for GPT-2 large and T5-base with random weights in bf16.

    python benchmarks/gpu.py            # about four minutes; each result is saved as soon as it is there
    python benchmarks/gpu.py --long     # more rounds, and PEFT in several processes side by side
    python benchmarks/gpu.py --dry      # tiny sizes on the CPU, only to test that the benchmark runs

A trial-step is one training step of one trial. A trial has n = 10, batch 16, and texts of 40 tokens or of lengths like
SST-2's. The contenders are PEFT's prompt tuning in a loop, also with larger batches, our loop of one trial, and the
engine with K trials. They take turns in one run with matrix products, the fastest of which gives the peak speed. The
benchmark needs torch and transformers. Without peft, PEFT's rows are left out.
"""

import argparse
import importlib.util
import itertools
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import _common, _flops, limit
from benchmarks._gpu_models import Setup, write_setup
from lopt import TrialConfig
from lopt.batches import collate
from lopt.engine import Engine
from lopt.training import Trial

BATCH_SIZE, PROMPT_LENGTH, LEARNING_RATE = 16, 10, 0.3
PEFT_BATCH_FACTORS = (1, 4, 16)  # PEFT's loop runs with batches of 16 times these; the fastest counts
ALONE = "one trial"
NOTES = """\
share: the FLOP/s of what the contender computes, as a share of the fastest matrix product of this run: 4 FLOPs for each
token and each weight that the token passes (`benchmarks/_flops.py`), without embeddings, head and padding.
PEFT's loop computes the loss over the whole vocabulary, with dropout as in training. Our contenders compute the loss
over the label words, without dropout.
memory: the weights and what the contender adds to them at its peak; for several processes, the sum over them.
PEFT's loop also runs with larger batches: sixteen rows count as one trial-step. The engine also runs with as many
trials as a sweep would pack."""


def begin_trial(setup: Setup, method: str, seed: int = 0, batch_size: int = BATCH_SIZE) -> Trial:
    config = TrialConfig(
        method=method, task=setup.task, backbone=setup.model, length=PROMPT_LENGTH,
        rank=2 if method == "lopt1" else None, learning_rate=LEARNING_RATE, optimizer="adafactor",
        schedule="constant", batch_size=batch_size, max_steps=10**6,
        eval_every=10**6, precision=setup.precision, seed=seed,
    )  # fmt: skip
    return Trial(config, phase="search")


def our_step(setup: Setup) -> Callable[[], Any]:
    """Return a function that does one step of our loop of one trial."""
    return begin_trial(setup, "lopt1").update


def engine_step(setup: Setup, trial_count: int) -> Callable[[], Any]:
    """Return a function that does one step of the engine with `trial_count` trials."""
    engine = Engine()
    for seed in range(trial_count):
        engine.admit(begin_trial(setup, "lopt1", seed))
    return engine.update_trials


def peft_step(setup: Setup, *, batch_size: int = BATCH_SIZE, alone: bool = False) -> Callable[[], Any]:
    """Return a function that does one step of PEFT's prompt tuning.

    The step computes all logits, takes the loss on the label word, clips gradients at 1 and updates with Adafactor.

    Args:
        alone: whether no other contender of this process uses the model, so that it need not be copied.
    """
    import peft
    import torch
    from transformers.optimization import Adafactor

    trial = begin_trial(setup, "prompt_tuning", batch_size=batch_size)
    backbone, label_ids = trial.backbone, trial.label_ids
    prompt_config = peft.PromptTuningConfig(
        task_type="SEQ_2_SEQ_LM" if setup.seq2seq else "CAUSAL_LM", num_virtual_tokens=PROMPT_LENGTH,
        prompt_tuning_init="RANDOM", num_transformer_submodules=1,
    )  # fmt: skip
    model = peft.get_peft_model(backbone.model if alone else backbone.copy().model, prompt_config).train()
    prompts = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = Adafactor(prompts, lr=LEARNING_RATE, scale_parameter=False, relative_step=False, warmup_init=False)

    def step() -> None:
        batch = collate(trial.data.train, trial.draw_batch(), 0)
        ids_BT, lengths_B, classes_B = (tensor.to(backbone.device) for tensor in batch)
        word_B1 = label_ids[classes_B][:, None]
        mask_BT = torch.arange(ids_BT.shape[1], device=backbone.device)[None] < lengths_B[:, None]
        if setup.seq2seq:
            inputs = {"input_ids": ids_BT, "labels": torch.cat([torch.full_like(word_B1, -100), word_B1], dim=1)}
            inputs["decoder_input_ids"] = backbone._decoder_ids(len(ids_BT))
        else:
            labels_BT = torch.cat([torch.full_like(ids_BT, -100), word_B1], dim=1)
            inputs = {"input_ids": torch.cat([ids_BT, word_B1], dim=1), "labels": labels_BT}
            mask_BT = torch.cat([mask_BT, torch.ones_like(word_B1, dtype=torch.bool)], dim=1)
        model(**inputs, attention_mask=mask_BT.long()).loss.backward()
        torch.nn.utils.clip_grad_norm_(prompts, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def serve_steps(pipe: Any, setup: Setup, build_step: Callable[[Setup], Callable[[], Any]]) -> None:
    """Run a contender in a process of its own.

    The process receives a number of steps over the pipe and does these steps. It sends back when they began, when they
    ended, and the peak of memory in bytes. Then it waits for the next number; it ends when it receives 0.
    """
    step = build_step(setup)
    step()
    pipe.send("ready")
    while step_count := pipe.recv():
        _reset_peak_bytes()
        began_s = _common.synchronised_time()
        for _ in range(step_count):
            step()
        pipe.send((began_s, _common.synchronised_time(), _peak_bytes()))


def _reset_peak_bytes() -> int:
    """Reset the peak of the GPU's allocated memory, and return the memory that is allocated now (0 without a GPU)."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak_bytes() -> int:
    import torch

    return torch.cuda.max_memory_allocated()


def sweep_pack_size(trial: Trial) -> int:
    """Return how many trials like this a sweep would pack on this device."""
    from lopt.pass_runner import max_pass_tokens
    from sweeps.work import packing

    backbone, device_type = trial.backbone, trial.backbone.device.type
    step_tokens = packing.tokens_per_step(backbone, trial.config, trial.data)
    memory_tokens = packing.tokens_in_memory(backbone, trial.data, PROMPT_LENGTH)
    return packing.choose_pack_size(step_tokens, max_pass_tokens(backbone), memory_tokens, device_type=device_type)


def form_of(backbone: Any) -> str:
    """Return the form that passes take, in words."""
    if not _flops.is_flat(backbone):
        return "plain form, with padding"
    if getattr(backbone.flat, "use_varlen_kernel", False):
        return "flat form, one attention call a layer"
    return "flat form, attention block by block"


def measure_model(model_name: str, lengths: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure one model on texts of these lengths, print its table, and return the result to save."""
    setup = write_setup(model_name, folder, lengths=lengths, dry=options.dry)
    has_peft = importlib.util.find_spec("peft") is not None
    process_step, loop_name = (partial(peft_step, alone=True), "PEFT loop") if has_peft else (our_step, "our loop")
    if not has_peft:
        print("PEFT's loop does not run, because peft is not installed; the processes run our loop of one trial")
    first_trial = begin_trial(setup, "lopt1")
    backbone, text_tokens = first_trial.backbone, BATCH_SIZE * float(first_trial.data.train.token_counts.mean())
    packed = sorted({*options.packed, sweep_pack_size(first_trial)})
    weight_bytes = sum(weight.numel() * weight.element_size() for weight in backbone.model.parameters())

    def in_this_process(step: Callable[[], Any], count: int) -> Callable[[], dict[str, Any]]:
        def run() -> dict[str, Any]:
            step()  # untimed
            allocated_bytes = _reset_peak_bytes()
            # The GPU is waited for after the last step only, as in training.
            (seconds,) = _common.time_calls(lambda: [step() for _ in range(options.steps)], 1)
            memory = weight_bytes + _peak_bytes() - allocated_bytes
            return {"trial_steps": options.steps * count, "seconds": seconds, "memory": memory}

        return run

    def side_by_side(pipes: list[Any]) -> dict[str, Any]:
        for pipe in pipes:
            pipe.send(options.steps)
        begins, ends, memory_bytes_by_process = zip(*(pipe.recv() for pipe in pipes), strict=True)
        seconds = max(ends) - min(begins)
        return {"trial_steps": options.steps * len(pipes), "seconds": seconds, "memory": sum(memory_bytes_by_process)}

    baseline = f"{loop_name}, {ALONE}"
    contenders: dict[str, Callable[[], Any]] = {}
    for factor in PEFT_BATCH_FACTORS if has_peft else ():
        name = baseline if factor == 1 else f"{loop_name}, batches of {factor * BATCH_SIZE}"
        contenders[name] = in_this_process(peft_step(setup, batch_size=factor * BATCH_SIZE), factor)
    contenders[f"our loop, {ALONE}"] = in_this_process(our_step(setup), 1)
    spawn, pipes, processes = multiprocessing.get_context("spawn"), [], []
    try:
        for _ in range(max(options.processes, default=0)):
            pipe, process_pipe = spawn.Pipe()
            processes.append(spawn.Process(target=serve_steps, args=(process_pipe, setup, process_step), daemon=True))
            processes[-1].start()
            process_pipe.close()  # so that the wait for a process ends if the process dies
            pipes.append(pipe)
        for pipe in pipes:
            pipe.recv()
        for count in options.processes:
            contenders[f"{loop_name}, {count} processes"] = partial(side_by_side, pipes[:count])
        for count in packed:
            contenders[f"engine K={count}"] = in_this_process(engine_step(setup, count), count)
        width, batch_tokens = backbone.width, BATCH_SIZE * PROMPT_LENGTH + text_tokens
        shapes = [(round(batch_tokens) * count, width, 4 * width) for count in {1, max(packed)}]
        shapes.append((options.square,) * 3)
        runs = _common.run_in_turns({"limit": partial(limit.measure_peaks, shapes), **contenders}, options.rounds)
    finally:
        for pipe, process in zip(pipes, processes, strict=True):
            if process.is_alive():
                pipe.send(0)
            process.join(timeout=30)

    peak_flops_per_s = statistics.median(peaks[setup.precision] for peaks in runs["limit"])
    sizes = {"prompt_length": PROMPT_LENGTH, "batch_size": BATCH_SIZE, "text_tokens": text_tokens}
    flops_by_form = {flat: _flops.step_flops(backbone, flat=flat, **sizes) for flat in (False, True)}
    is_flat = _flops.is_flat(backbone)
    step_seconds = {name: [run["seconds"] / run["trial_steps"] for run in runs[name]] for name in contenders}
    table_rows, results = [], {}
    for name, times in step_seconds.items():
        ratio, least_ratio, greatest_ratio = _common.speed_ratios(step_seconds[baseline], times)
        steps_per_s = 1 / statistics.median(times)
        memory_bytes = max(run["memory"] for run in runs[name])
        step_flops = flops_by_form[is_flat and not name.startswith("PEFT")]
        tokens_per_s, share = steps_per_s * batch_tokens, steps_per_s * step_flops / peak_flops_per_s
        table_rows.append([
            name, f"{steps_per_s:.1f}", f"{ratio:.2f} [{least_ratio:.2f}, {greatest_ratio:.2f}]",
            f"{tokens_per_s:,.0f}", f"{share:.1%}", f"{memory_bytes / 1e9:.2f}",
        ])  # fmt: skip
        results[name] = {
            "trial_steps_per_s": steps_per_s, "times_as_fast": [ratio, least_ratio, greatest_ratio],
            "tokens_per_s": tokens_per_s, "share_of_peak": share, "memory_bytes": memory_bytes, "raw": runs[name],
        }  # fmt: skip
    weight_count = limit.count_block_weights(backbone.model)
    print(f"\n{model_name}{' (two tiny layers)' if options.dry else ''}, {setup.precision}, {weight_count / 1e6:,.1f}M "
          f"weights in blocks; peak {peak_flops_per_s / 1e12:.3g} TFLOP/s; lengths: {lengths}, "
          f"{text_tokens / BATCH_SIZE:.1f} tokens on average; {form_of(backbone)}")  # fmt: skip
    header = ["", "trial-steps/s", "times as fast", "tokens/s", "share", "memory GB"]
    print(_common.format_table(header, table_rows), flush=True)
    facts = {
        "block_parameters": weight_count, "flops_a_step": flops_by_form[is_flat], "shapes": shapes,
        "limit": runs["limit"], "form": form_of(backbone), "lengths": lengths, "text_tokens": text_tokens,
    }  # fmt: skip
    return {**facts, "runs": results}


def _parse_numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--models", default="gpt2-large,t5-base")
    parser.add_argument("--lengths", default="one,sst2", help="lengths of the texts: one, sst2 or both (default)")
    parser.add_argument("--long", action="store_true", help="more rounds, and PEFT in processes side by side")
    parser.add_argument("--packed", type=_parse_numbers, help="numbers of trials in the engine (default 1,16,64)")
    parser.add_argument("--processes", type=_parse_numbers, help="numbers of processes side by side (--long: 2,4)")
    parser.add_argument("--rounds", type=int, help="rounds (default 3, with --long 5)")
    parser.add_argument("--steps", type=int, help="steps of each contender in a round (default 5, with --long 10)")
    parser.add_argument("--square", type=int, default=8192, help="size of the largest matrix product (default 8192)")
    parser.add_argument("--dry", action="store_true", help="use tiny sizes, only to test that the benchmark runs")
    _common.add_out_option(parser)
    options = parser.parse_args(argv)
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if not torch.cuda.is_available():
        consequence = "tiny sizes run on the CPU" if options.dry else "nothing is measured; --dry tests the benchmark"
        print(f"there is no GPU here: {consequence}")
        if not options.dry:
            return 2
    if options.dry:
        options.rounds, options.steps, options.square = 1, 1, 64
    options.rounds, options.steps = (
        options.rounds or (5 if options.long else 3),
        options.steps or (10 if options.long else 5),
    )
    options.packed = options.packed or ([1, 2] if options.dry else [1, 16, 64])
    if options.processes is None:
        options.processes = [2, 4] if options.long else []
    context = _common.run_context()
    print(_common.hardware_line(context))
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    print(NOTES)
    for name, lengths in itertools.product(options.models.split(","), options.lengths.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            models = {name: measure_model(name, lengths, options, Path(folder))}
        result = {**context, "settings": settings, "models": models}
        _common.save_result("gpu", result, options.out, is_smoke_test=options.dry)  # at once: a lease may end early
    return 0


if __name__ == "__main__":
    sys.exit(main())
