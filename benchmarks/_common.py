"""What the benchmarks share: taking turns, a clock, the run's hardware and versions, and the files of results."""

import contextlib
import importlib.metadata
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lopt.records import collect_provenance, utc_now

RESULTS_FOLDER = Path(__file__).resolve().parent / "results"
T = TypeVar("T")


def synchronised_time() -> float:
    """Return the time in seconds once the GPU has finished its work. All processes share the clock."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def time_calls(function: Callable[[], Any], call_count: int) -> list[float]:
    """Return the seconds of each of `call_count` calls, one after the other."""
    times_s = [synchronised_time()]
    for _ in range(call_count):
        function()
        times_s.append(synchronised_time())
    return intervals_between(times_s)


def intervals_between(times_s: Sequence[float]) -> list[float]:
    return [end - begin for begin, end in itertools.pairwise(times_s)]


def run_in_turns(contenders: Mapping[str, Callable[[], T]], round_count: int) -> dict[str, list[T]]:
    """Call every contender once in each round, in reverse order in every second round; return their results by name."""
    results: dict[str, list[T]] = {name: [] for name in contenders}
    for round_number in range(round_count):
        for name in list(contenders)[:: -1 if round_number % 2 else 1]:
            print(f"round {round_number + 1}/{round_count}: {name}", file=sys.stderr, flush=True)
            results[name].append(contenders[name]())
    return results


def speed_ratios(baseline_s: Sequence[float], contender_s: Sequence[float]) -> tuple[float, float, float]:
    """Return how many times as fast a contender is as the baseline, from the times of each round.

    Returns:
        The ratio of the medians, and the least and the greatest ratio of a round.
    """
    ratios = [baseline / contender for baseline, contender in zip(baseline_s, contender_s, strict=True)]
    return statistics.median(baseline_s) / statistics.median(contender_s), min(ratios), max(ratios)


def run_context() -> dict[str, Any]:
    """Return the date, command, commit, versions, hardware and load of this run, for its result."""
    script_path, *arguments = sys.argv
    # Of an absolute path only the last part is kept, because the rest says something about this machine only.
    arguments = [Path(argument).name if argument.startswith(os.sep) else argument for argument in arguments]
    command = " ".join(["python", f"benchmarks/{Path(script_path).name}", *arguments])
    context = collect_provenance(
        date=utc_now(), command=command, load=[round(load_average, 2) for load_average in os.getloadavg()]
    )
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        context["versions"] = {**context["versions"], "accelerate": importlib.metadata.version("accelerate")}
    return context


def hardware_line(context: Mapping[str, Any]) -> str:
    """Return the hardware and the versions in one line."""
    hardware, versions = context["hardware"], context["versions"]
    threads = f"{hardware['threads']} threads" if "threads" in hardware else f"{hardware['cpus']} processors"
    machine = hardware.get("gpu") or f"{hardware.get('cpu')}, {threads}"
    packages = ("torch", "transformers", "peft", "accelerate", "ray")
    return f"{machine}; " + ", ".join(f"{name} {versions[name]}" for name in packages if name in versions)


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with aligned columns: the first is aligned to the left, the others to the right."""
    all_rows = [list(header), *map(list, rows)]
    first_width, *widths = (max(map(len, column)) for column in zip(*all_rows, strict=True))
    line_format = "  ".join([f"{{:<{first_width}}}", *(f"{{:>{width}}}" for width in widths)])
    return "\n".join(line_format.format(*row).rstrip() for row in all_rows)


def add_out_option(parser: Any) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (default benchmarks/results)")


def save_result(script: str, result: Mapping[str, Any], folder: Path | None, *, is_smoke_test: bool = False) -> None:
    """Append a run's result to `<script>.jsonl`; the result of a smoke test is saved only if a folder is given."""
    if is_smoke_test and folder is None:
        return
    folder = folder or RESULTS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{script}.jsonl").open("a") as file:
        file.write(json.dumps(result, sort_keys=True, allow_nan=False) + "\n")
    print(f"the result has been appended to {folder.name}/{script}.jsonl")
