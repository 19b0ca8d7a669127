"""The wall time of a sweep of twelve trials, with a plain Ray Tune script and with `sweeps/run.py`.

    LOPT_DATA_DIR=<mirror> python benchmarks/sweep.py [--task sst2] [--steps 30] [--rounds 1]

Both sides train prompt tuning (n = 10) at the same twelve learning rates with Optuna and ASHA, on the same examples,
with the same batch size, optimiser, steps and evaluations (`twelve.py`, `plain_tune.py`). Each side fills the machine
in its own way. Our sweep runs with prefixes and with suffixes. The time is that of the whole command. Our command also
trains and scores the confirm trial and computes the zero-shot baseline in this time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import _common
from sweeps import spaces
from sweeps.planning import settings

ROOT = Path(__file__).resolve().parent.parent
SPACE = "benchmarks/twelve.py"
PLAIN_SCRIPT = "plain Ray Tune"


def write_examples(config: Any, folder: Path) -> dict[str, str]:
    """Write the training and held-out texts of our trials, with the template filled in, as JSON lines.

    Returns:
        The path of the file of each split.
    """
    from lopt import backbones, tasks
    from lopt.data import prepare_data
    from lopt.encoding import render
    from lopt.examples import load_split

    task, backbone = tasks.get(config.task), backbones.load(config.backbone, "fp32")
    data, examples = prepare_data(config, backbone), load_split(task, task.train)
    template, files = backbone.fill_template(config.template or ""), {}
    for split, encoded in (("train", data.train), ("selection", data.selection)):
        assert not encoded.truncated_count, "Trainer would cut the template: raise max_tokens"
        texts = [render(task, template, examples[example_id].text_by_column)[0] for example_id in encoded.example_ids]
        rows = [{"text": text, "label": int(label)} for text, label in zip(texts, encoded.labels, strict=True)]
        path = folder / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[split] = str(path)
    return files


def run_command(command: list[str], environment: dict[str, str]) -> float:
    """Run a Python command and return its seconds.

    Raises:
        RuntimeError: The command failed; the message has its output.
    """
    began = time.perf_counter()
    process = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    if process.returncode:
        output = f"{process.stdout}\n{process.stderr}"
        raise RuntimeError(f"{' '.join(command)} ended with exit code {process.returncode}:\n{output}")
    return time.perf_counter() - began


def run_plain_script(script_settings: dict[str, Any]) -> dict[str, Any]:
    """Run the plain script in a folder of its own, so that nothing of earlier rounds is cached."""
    with tempfile.TemporaryDirectory() as folder:
        settings_path, out_path = Path(folder) / "settings.json", Path(folder) / "trials.json"
        settings_path.write_text(json.dumps(script_settings))
        environment = {"HF_DATASETS_CACHE": folder, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment["RAY_USAGE_STATS_ENABLED"] = "0"
        command = ["benchmarks/plain_tune.py", "--settings", str(settings_path), "--out", str(out_path)]
        wall_s = run_command(command, environment)
        trials = json.loads(out_path.read_text())
    if errors := [trial["error"] for trial in trials if trial["error"]]:
        raise RuntimeError(f"{len(errors)} of the plain script's trials failed: {errors[0]}")
    steps = sum(max(trial["steps"], default=0) for trial in trials)
    complete_trials = [trial for trial in trials if max(trial["steps"], default=0) >= script_settings["max_steps"]]
    accuracies = [trial["accuracy"][-1] for trial in complete_trials]
    return {"wall_s": wall_s, "trials": len(trials), "steps": steps, "accuracies": accuracies, "raw": trials}


def run_our_sweep(setting_texts: dict[str, str], placement: str) -> dict[str, Any]:
    """Run `sweeps/run.py` on the same trials; return separate times of its search and its confirm trial."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [word for name, value in setting_texts.items() for word in ("--set", f"{name}={value}")]
        command = ["sweeps/run.py", "--space", SPACE, "--out", folder, "--name", "twelve", *arguments]
        began = time.time()
        wall_s = run_command([*command, "--set", f"placement={placement}"], {"HF_HUB_OFFLINE": "1"})
        record_paths = [*Path(folder, "twelve", "trials").glob("*.json")]
        records = [json.loads(path.read_text()) | {"written_at": path.stat().st_mtime} for path in record_paths]
    search_records = [record for record in records if record["phase"] == "search"]
    confirm_records = [record for record in records if record["phase"] == "confirm"]
    complete_records = [record for record in search_records if record["status"] == "complete"]
    kept_fields = ("phase", "status", "steps", "wall_time_s", "evaluations")
    return {
        "wall_s": wall_s,
        "searched_s": max(record["written_at"] for record in search_records) - began,
        "trials": len(search_records),
        "steps": sum(record["steps"] for record in search_records),
        "accuracies": [record["evaluations"][-1]["selection_accuracy"] for record in complete_records],
        "confirm_s": sum(record["wall_time_s"] for record in confirm_records),
        "confirm_steps": sum(record["steps"] for record in confirm_records),
        "precision": records[0]["config"]["precision"],
        "raw": [{field: record[field] for field in kept_fields} for record in records],
    }


def save_tiny_model(folder: Path) -> str:
    """Save the tiny backbone in a folder that transformers can open; return the folder."""
    from lopt import backbones

    backbone = backbones.load("tiny", "fp32")
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    return str(folder)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--task", default="sst2", help="sst2 (default), movie_snippets, ...")
    parser.add_argument("--steps", type=int, default=30, help="steps of a trial that is not stopped (default 30)")
    parser.add_argument("--eval-every", type=int, default=10, help="steps between evaluations (default 10)")
    parser.add_argument(
        "--grace", type=int, default=10, help="ASHA's grace period (default 10); if it equals --steps, no trial stops"
    )
    parser.add_argument("--trials", type=int, default=12, help="search trials, at most 12 (default 12)")
    parser.add_argument("--rounds", type=int, default=1, help="sweeps of each contender (default 1)")
    parser.add_argument("--precision", default="auto", help="precision of our sweep (default auto)")
    parser.add_argument("--plain-bf16", action="store_true", help="run the plain script's Trainer with bf16=True")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="use a tiny backbone and made-up text, only to test that the benchmark runs",
    )
    _common.add_out_option(parser)
    options = parser.parse_args(argv)
    if options.quick:
        options.task, options.steps, options.eval_every, options.grace, options.trials = "toy", 4, 2, 2, 3
    context = _common.run_context()
    print(_common.hardware_line(context))
    with tempfile.TemporaryDirectory() as folder:
        from lopt.backbones import embedded

        model = save_tiny_model(Path(folder) / "tiny") if options.quick else str(embedded.folder())
        setting_values = {
            "task": options.task, "max_steps": options.steps, "eval_every": options.eval_every,
            "grace_steps": options.grace, "trials": options.trials, "precision": options.precision,
            **({"backbone": model} if options.quick else {}),
        }  # fmt: skip
        setting_texts = {name: str(value) for name, value in setting_values.items()}
        space = settings.with_settings(spaces.load(SPACE, "paper"), setting_texts)
        (cell,) = space.cells
        config, rates = space.sample_config(cell), [point["learning_rate"] for point in cell.first[: options.trials]]
        rate_range = cell.search["learning_rate"]
        script_settings = {
            "model": model, "files": write_examples(config, Path(folder)), "label_words": list(config.label_words),
            "length": config.length, "max_tokens": config.max_tokens, "batch_size": config.batch_size,
            "max_steps": config.max_steps, "eval_every": config.eval_every, "bf16": options.plain_bf16, "rates": rates,
            "range": [rate_range.low, rate_range.high], "grace_steps": space.grace_steps,
            "reduction_factor": space.reduction_factor,
        }  # fmt: skip
        contenders = {PLAIN_SCRIPT: partial(run_plain_script, script_settings)}
        for placement in ("prefix", "suffix"):
            contenders[f"ours, {placement}"] = partial(run_our_sweep, setting_texts, placement)
        runs_by_name = _common.run_in_turns(contenders, options.rounds)

    wall_seconds_by_name = {name: [run["wall_s"] for run in runs] for name, runs in runs_by_name.items()}
    table_rows = []
    for name, runs in runs_by_name.items():
        ratio, least_ratio, greatest_ratio = _common.speed_ratios(
            wall_seconds_by_name[PLAIN_SCRIPT], wall_seconds_by_name[name]
        )
        accuracies = [accuracy for run in runs for accuracy in run["accuracies"]]
        steps, confirm_steps = (
            statistics.median(run.get(key, 0) for run in runs) for key in ("steps", "confirm_steps")
        )
        searched_s = statistics.median(run.get("searched_s", run["wall_s"]) for run in runs)
        table_rows.append([
            name, f"{statistics.median(wall_seconds_by_name[name]):.0f}",
            f"{ratio:.2f} [{least_ratio:.2f}, {greatest_ratio:.2f}]",
            *(f"{number:.0f}" for number in (searched_s, steps, confirm_steps, len(accuracies))),
            *(f"{accuracy:.3f}" for accuracy in (max(accuracies, default=0), statistics.mean(accuracies or [0]))),
        ])  # fmt: skip
    header = ["", "wall s", "times as fast", "search s", "search steps", "confirm steps", "whole trials", "best",
              "mean accuracy"]  # fmt: skip
    plain_precision = "bf16 autocast" if options.plain_bf16 else "fp32"
    our_precision = runs_by_name["ours, prefix"][0]["precision"]
    print(f"\n{options.task}, {len(rates)} trials of at most {options.steps} steps of batch {config.batch_size}")
    print(f"the plain script runs in {plain_precision}, our sweep in {our_precision}")
    print(_common.format_table(header, table_rows))
    print(
        "wall s: the time of the whole command. Ours includes the zero-shot baseline and its confirm trial, whose\n"
        "steps have a column of their own.\n"
        "search s: the time from the start of the command to the end of the last search trial.\n"
        "best, mean accuracy: the accuracies of trials that were not stopped, at the last step, on the same examples.\n"
        "ASHA does not stop the same trials on both sides, because initial values and the order of reports differ.\n"
        "If --grace equals --steps, it stops none."
    )
    chosen_options = {name: value for name, value in vars(options).items() if name != "out"}
    result = {**context, "settings": chosen_options, "rates": rates, "runs": runs_by_name}
    _common.save_result("sweep", result, options.out, is_smoke_test=options.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
