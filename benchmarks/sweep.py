"""Whole wall time of a sweep of twelve trials: a plain Ray Tune script, and `sweeps/run.py`.

    LOPT_DATA_DIR=<mirror> python benchmarks/sweep.py [--task sst2] [--steps 30] [--rounds 1]

Both sides train prompt tuning (n = 10) at the same twelve learning rates with Optuna and ASHA, on the same examples,
with the same batch size, optimiser, steps and evaluations (`twelve.py`, `plain_tune.py`), and fill the machine in their
own way. Ours runs with prefixes and with suffixes. Time is that of the whole command; ours does more in it: the confirm
trial with its score, and the zero-shot baseline.
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
PLAIN = "plain Ray Tune"


def write_examples(config: Any, folder: Path) -> dict[str, str]:
    """The texts that our trials train and are selected on, template filled in, one JSON-lines file a split."""
    from lopt import backbones, tasks
    from lopt.data import prepare
    from lopt.encoding import render
    from lopt.examples import load_split

    task, backbone = tasks.get(config.task), backbones.load(config.backbone, "fp32")
    data, examples = prepare(config, backbone), load_split(task, task.train)
    template, files = backbone.complete(config.template), {}
    for split, encoded in (("train", data.train), ("selection", data.selection)):
        assert not encoded.truncated, "Trainer's side would cut the template: raise max_tokens"
        texts = [render(task, template, examples[i].fields)[0] for i in encoded.example_ids]
        rows = [{"text": t, "label": int(label)} for t, label in zip(texts, encoded.labels, strict=True)]
        path = folder / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[split] = str(path)
    return files


def timed(command: list[str], environment: dict[str, str]) -> float:
    """Seconds of a command, whose output is shown only when it fails.

    Raises:
        RuntimeError: it failed.
    """
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - began


def plain(described: dict[str, Any]) -> dict[str, Any]:
    """The plain script in a folder of its own; nothing is left of earlier rounds."""
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "settings.json", Path(folder) / "trials.json"
        given.write_text(json.dumps(described))
        environment = {"HF_DATASETS_CACHE": folder, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment["RAY_USAGE_STATS_ENABLED"] = "0"
        wall_s = timed(["benchmarks/plain_tune.py", "--settings", str(given), "--out", str(out)], environment)
        trials = json.loads(out.read_text())
    if failed := [trial["error"] for trial in trials if trial["error"]]:
        raise RuntimeError(f"{len(failed)} of the plain script's trials failed: {failed[0]}")
    steps = sum(max(trial["steps"], default=0) for trial in trials)
    whole = [trial for trial in trials if max(trial["steps"], default=0) >= described["max_steps"]]
    accuracies = [trial["accuracy"][-1] for trial in whole]
    return {"wall_s": wall_s, "trials": len(trials), "steps": steps, "accuracies": accuracies, "raw": trials}


def ours(pairs: dict[str, str], placement: str) -> dict[str, Any]:
    """`sweeps/run.py` on the same trials; its confirm trial is told apart."""
    with tempfile.TemporaryDirectory() as folder:
        changes = [part for name, value in pairs.items() for part in ("--set", f"{name}={value}")]
        command = ["sweeps/run.py", "--space", SPACE, "--out", folder, "--name", "twelve", *changes]
        began = time.time()
        wall_s = timed([*command, "--set", f"placement={placement}"], {"HF_HUB_OFFLINE": "1"})
        written = [*Path(folder, "twelve", "trials").glob("*.json")]
        records = [json.loads(path.read_text()) | {"at": path.stat().st_mtime} for path in written]
    search, confirm = ([r for r in records if r["phase"] == phase] for phase in ("search", "confirm"))
    return {
        "wall_s": wall_s,
        "searched_s": max(r["at"] for r in search) - began,
        "trials": len(search),
        "steps": sum(r["steps"] for r in search),
        "accuracies": [r["evaluations"][-1]["selection_accuracy"] for r in search if r["status"] == "complete"],
        "confirm_s": sum(r["wall_time_s"] for r in confirm),
        "confirm_steps": sum(r["steps"] for r in confirm),
        "precision": records[0]["config"]["precision"],
        "raw": [{n: r[n] for n in ("phase", "status", "steps", "wall_time_s", "evaluations")} for r in records],
    }


def tiny_model(folder: Path) -> str:
    """The tiny backbone as a folder that transformers opens."""
    from lopt import backbones

    backbone = backbones.load("tiny", "fp32")
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    return str(folder)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--task", default="sst2", help="sst2 (default), movie_snippets, ...")
    parser.add_argument("--steps", type=int, default=30, help="of a trial that is not stopped")
    parser.add_argument("--eval-every", type=int, default=10)
    parser.add_argument("--grace", type=int, default=10, help="ASHA's; as many as steps: no trial is stopped")
    parser.add_argument("--trials", type=int, default=12, help="at most 12")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--precision", default="auto", help="ours (default auto)")
    parser.add_argument("--plain-bf16", action="store_true", help="Trainer with bf16=True")
    parser.add_argument("--quick", action="store_true", help="tiny backbone, made-up text: does it run?")
    _common.add_out(parser)
    given = parser.parse_args(argv)
    if given.quick:
        given.task, given.steps, given.eval_every, given.grace, given.trials = "toy", 4, 2, 2, 3
    about = _common.context()
    print(_common.headline(about))
    with tempfile.TemporaryDirectory() as folder:
        from lopt.backbones import embedded

        model = tiny_model(Path(folder) / "tiny") if given.quick else str(embedded.folder())
        pairs = {
            "task": given.task, "max_steps": given.steps, "eval_every": given.eval_every, "grace_steps": given.grace,
            "trials": given.trials, "precision": given.precision, **({"backbone": model} if given.quick else {}),
        }  # fmt: skip
        pairs = {name: str(value) for name, value in pairs.items()}
        chosen = settings.with_settings(spaces.load(SPACE, "paper"), pairs)
        (cell,) = chosen.cells
        config, rates = chosen.example(cell), [point["learning_rate"] for point in cell.first[: given.trials]]
        found_range = cell.search["learning_rate"]
        described = {
            "model": model, "files": write_examples(config, Path(folder)), "label_words": list(config.label_words),
            "length": config.length, "max_tokens": config.max_tokens, "batch_size": config.batch_size,
            "max_steps": config.max_steps, "eval_every": config.eval_every, "bf16": given.plain_bf16, "rates": rates,
            "range": [found_range.low, found_range.high], "grace_steps": chosen.grace_steps,
            "reduction_factor": chosen.reduction_factor,
        }  # fmt: skip
        contenders = {PLAIN: partial(plain, described)}
        contenders |= {f"ours, {placement}": partial(ours, pairs, placement) for placement in ("prefix", "suffix")}
        found = _common.in_turns(contenders, given.rounds)

    rows, walls_of = [], {name: [run["wall_s"] for run in runs] for name, runs in found.items()}
    for name, runs in found.items():
        ratio, least, most = _common.ratios(walls_of[PLAIN], walls_of[name])
        accuracies = [accuracy for run in runs for accuracy in run["accuracies"]]
        steps, confirm = (statistics.median(run.get(n, 0) for run in runs) for n in ("steps", "confirm_steps"))
        searched = statistics.median(run.get("searched_s", run["wall_s"]) for run in runs)
        rows.append([
            name, f"{statistics.median(walls_of[name]):.0f}", f"{ratio:.2f} [{least:.2f}, {most:.2f}]",
            *(f"{number:.0f}" for number in (searched, steps, confirm, len(accuracies))),
            *(f"{accuracy:.3f}" for accuracy in (max(accuracies, default=0), statistics.mean(accuracies or [0]))),
        ])  # fmt: skip
    header = ["", "wall s", "times as fast", "searched s", "search steps", "confirm steps", "whole trials", "best",
              "mean accuracy"]  # fmt: skip
    plain_in, ours_in = "bf16 autocast" if given.plain_bf16 else "fp32", found["ours, prefix"][0]["precision"]
    print(f"\n{given.task}, {len(rates)} trials of at most {given.steps} steps of batch {config.batch_size}")
    print(f"plain in {plain_in}, ours in {ours_in}")
    print(_common.table(header, rows))
    print(
        "wall s: the whole command; ours includes its confirm trial (its steps beside) and the zero-shot baseline.\n"
        "searched s: from its start to the end of the last search trial.\n"
        "accuracy: at the last step, of trials that were not stopped, on the same held-out examples on all sides.\n"
        "Which trials ASHA stops differs, as initial values and order of arrival do; with --grace as many as --steps\n"
        "it stops none."
    )
    kept = {name: value for name, value in vars(given).items() if name != "out"}
    _common.keep("sweep", {**about, "settings": kept, "rates": rates, "runs": found}, given.out, smoke=given.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
