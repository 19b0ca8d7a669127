"""Trials a second of a sweep with many cheap trials, beside plain Ray Tune with OptunaSearch.

    python benchmarks/thousands.py [--trials 1000] [--rounds 1]

Our trials make two steps of a tiny model, are evaluated and leave records (`cheap.py`). The plain trials report twice
and compute nothing (`plain_thousands.py`). The first and the last tenth of the trials show whether the driver slows as
trials grow. The start of either side is not counted: the clock runs from the end of the first trial. 5,000 trials take
a quarter of an hour on two cores.
"""

import argparse
import json
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

import psutil

from benchmarks import _common

ROOT = Path(__file__).resolve().parent.parent
PLAIN, OURS = "plain Ray Tune", "ours"
_LOOK_S = 1.0  # how often the driver's memory is looked at


def run_driver(command: list[str]) -> int:
    """Run a Python command, and return the largest memory of its process in bytes; that of its children is left out.

    Raises:
        RuntimeError: The command failed; the message has its output.
    """
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=output, stderr=output)
        driver, most_bytes = psutil.Process(process.pid), 0
        while process.poll() is None:
            most_bytes = max(most_bytes, driver.memory_info().rss)
            time.sleep(_LOOK_S)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with exit code {process.returncode}:\n{output.read()}")
    return most_bytes


def run_plain_script(trial_count: int, concurrent_count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "ends.json"
        arguments = ["--trials", str(trial_count), "--concurrent", str(concurrent_count), "--out", str(out)]
        most_bytes = run_driver(["benchmarks/plain_thousands.py", *arguments])
        return summarise(json.loads(out.read_text()), most_bytes)


def run_our_sweep(trial_count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        options = ["--out", folder, "--name", "cheap", "--set", f"trials={trial_count}"]
        most_bytes = run_driver(["sweeps/run.py", "--space", "benchmarks/cheap.py", *options])
        paths = Path(folder, "cheap", "trials").glob("*.json")
        ends_s = [path.stat().st_mtime for path in paths if json.loads(path.read_text())["phase"] == "search"]
        return summarise(ends_s, most_bytes)


def summarise(ends_s: list[float], most_bytes: int) -> dict[str, Any]:
    """Return trials a second, overall and in the first and the last tenth, from the times at which trials ended."""
    ends_s = sorted(ends_s)
    tenth = max(1, len(ends_s) // 10)
    return {
        "trials": len(ends_s),
        "per_s": (len(ends_s) - 1) / (ends_s[-1] - ends_s[0]),
        "first_per_s": tenth / (ends_s[tenth] - ends_s[0]),
        "last_per_s": tenth / (ends_s[-1] - ends_s[-1 - tenth]),
        "driver_bytes": most_bytes,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--trials", type=int, default=1000, help="search trials (default 1000)")
    parser.add_argument("--rounds", type=int, default=1, help="sweeps of each contender (default 1)")
    parser.add_argument("--concurrent", type=int, default=5, help="trials at once of the plain script (default 5)")
    parser.add_argument("--quick", action="store_true", help="20 trials, only to test that the benchmark runs")
    _common.add_out_option(parser)
    options = parser.parse_args(argv)
    trial_count = 20 if options.quick else options.trials
    context = _common.run_context()
    print(_common.hardware_line(context))
    contenders = {
        PLAIN: partial(run_plain_script, trial_count, options.concurrent),
        OURS: partial(run_our_sweep, trial_count),
    }
    runs_by_name = _common.run_in_turns(contenders, options.rounds)
    rows = []
    for name, runs in runs_by_name.items():
        medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        rows.append([
            name, f"{medians['trials']:.0f}", f"{medians['per_s']:.1f}", f"{medians['first_per_s']:.1f}",
            f"{medians['last_per_s']:.1f}", f"{medians['driver_bytes'] / 1e6:.0f}",
        ])  # fmt: skip
    header = ["", "trials", "trials / s", "first tenth", "last tenth", "driver MB"]
    print(_common.format_table(header, rows))
    chosen_options = {name: value for name, value in vars(options).items() if name != "out"}
    result = {**context, "settings": chosen_options, "runs": runs_by_name}
    _common.save_result("thousands", result, options.out, is_smoke_test=options.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
