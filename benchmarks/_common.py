"""What the benchmarks share: contenders in turns, a clock, the run's hardware and versions, results on disk."""

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

from lopt.records import now, provenance

RESULTS = Path(__file__).resolve().parent / "results"
T = TypeVar("T")


def stamp() -> float:
    """Seconds of a clock that all processes share, once the GPU has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def laps(step: Callable[[], Any], count: int) -> list[float]:
    """Seconds of each of `count` calls, one after the other."""
    stamps = [stamp()]
    for _ in range(count):
        step()
        stamps.append(stamp())
    return between(stamps)


def between(stamps: Sequence[float]) -> list[float]:
    return [end - begin for begin, end in itertools.pairwise(stamps)]


def in_turns(contenders: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Calls every contender once a round, every other round backwards; what each of them returned."""
    found: dict[str, list[T]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            print(f"round {number + 1}/{rounds}: {name}", file=sys.stderr, flush=True)
            found[name].append(contenders[name]())
    return found


def ratios(base: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """How many times as fast the other is: by the medians, and the least and most of the rounds."""
    each = [b / o for b, o in zip(base, other, strict=True)]
    return statistics.median(base) / statistics.median(other), min(each), max(each)


def context() -> dict[str, Any]:
    """Date, command, commit, versions, hardware and load of this run, for its result."""
    script, *arguments = sys.argv
    shown = [Path(a).name if a.startswith(os.sep) else a for a in arguments]  # no paths of this machine
    command = " ".join(["python", f"benchmarks/{Path(script).name}", *shown])
    found = provenance(date=now(), command=command, load=[round(x, 2) for x in os.getloadavg()])
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["versions"] = {**found["versions"], "accelerate": importlib.metadata.version("accelerate")}
    return found


def headline(about: Mapping[str, Any]) -> str:
    """Hardware and versions in one line."""
    hardware, versions = about["hardware"], about["versions"]
    threads = f"{hardware['threads']} threads" if "threads" in hardware else f"{hardware['cpus']} processors"
    machine = hardware.get("gpu") or f"{hardware.get('cpu')}, {threads}"
    named = ("torch", "transformers", "peft", "accelerate", "ray")
    return f"{machine}; " + ", ".join(f"{name} {versions[name]}" for name in named if name in versions)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns, the first to the left."""
    every = [list(header), *map(list, rows)]
    first, *widths = (max(map(len, column)) for column in zip(*every, strict=True))
    line = "  ".join([f"{{:<{first}}}", *(f"{{:>{width}}}" for width in widths)])
    return "\n".join(line.format(*row).rstrip() for row in every)


def add_out(parser: Any) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (default benchmarks/results)")


def keep(script: str, result: Mapping[str, Any], folder: Path | None, *, smoke: bool = False) -> None:
    """Appends a run's result as one JSON line; a smoke test's only where a folder is asked for."""
    if smoke and folder is None:
        return
    folder = folder or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{script}.jsonl").open("a") as file:
        file.write(json.dumps(result, sort_keys=True, allow_nan=False) + "\n")
    print(f"kept in {folder.name}/{script}.jsonl")
