"""What it costs to be watched: the page of 1,000 running trials, and the writing of their evaluations.

    python benchmarks/watch.py [--trials 1000] [--seconds 60]

All trials report every two seconds, and a stand-in for an open page asks for what is new every two seconds. Printed are
the share of a core that the page's process takes, and the processor time that an evaluation takes in the sweep's thread
and in the thread that writes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import psutil

from benchmarks import _common
from lopt.records import utc_now
from sweeps.background import BackgroundCalls
from sweeps.results.running_files import RunningFiles

_INTERVAL_S = 2.0
_WARM_UP_S = 10.0  # the first reading takes all trials at once


def write_evaluations(files: RunningFiles, keys: list[str], ended: threading.Event, costs: dict[str, float]) -> None:
    """Report an evaluation of every trial every two seconds, and note the processor time that it takes."""
    writing_s = [0.0]

    def flush() -> None:
        began_s = time.thread_time()
        files.flush()
        writing_s[0] += time.thread_time() - began_s

    background = BackgroundCalls("the writer", after_calls=flush)
    step = count = 0
    posting_s = 0.0
    while not ended.is_set():
        step += 10
        began_at = time.monotonic()
        for number, key in enumerate(keys):
            began_s = time.thread_time()
            score = 0.5 + 0.4 * (1 - 1 / (1 + step / (100 + number % 97)))
            evaluation = {"step": step, "selection_accuracy": score, "selection_loss": 0.5, "train_loss": 0.5,
                          "top_class_share": 0.5, "wall_time_s": step / 5, "score": score}  # fmt: skip
            background.post(partial(files.add, key, {"evaluation": evaluation, "device": "node:0"}))
            posting_s += time.thread_time() - began_s
            count += 1
        ended.wait(max(0.0, _INTERVAL_S - (time.monotonic() - began_at)))
    background.close()
    costs |= {"sweep_us": 1e6 * posting_s / count, "writer_us": 1e6 * writing_s[0] / count}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    _common.add_out_option(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lopt-") as folder:
        files, keys = RunningFiles(Path(folder) / "running"), [f"{n:016x}" for n in range(arguments.trials)]
        for number, key in enumerate(keys):
            cell = f"lopt1 n={number % 24}"
            config = {"method": "lopt1", "length": 4, "rank": 2, "learning_rate": 0.3, "seed": 0, "max_steps": 5000}
            names = {"key": key, "phase": "search", "cell": cell, "stratum": cell, "started_at": utc_now()}
            files.begin(key, {**names, "config": config})
        files.flush()
        command = [sys.executable, "analysis/report.py", f"{folder}/", "--watch", "--port", "0"]
        root = Path(__file__).resolve().parent.parent
        page = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env=os.environ)
        assert page.stdout is not None
        url = page.stdout.readline().split()[-1]
        ended, costs = threading.Event(), dict[str, float]()
        writer = threading.Thread(target=write_evaluations, args=(files, keys, ended, costs))
        writer.start()
        process, session, version, sizes = psutil.Process(page.pid), "", 0, []
        try:
            began_at, measured_from, processor_s = time.monotonic(), 0.0, 0.0
            while time.monotonic() - began_at < _WARM_UP_S + arguments.seconds:
                with urllib.request.urlopen(f"{url}state?session={session}&since={version}") as response:
                    content = response.read()
                state = json.loads(content)
                session, version = state["session"], state["version"]
                if not measured_from and time.monotonic() - began_at > _WARM_UP_S:
                    measured_from, processor_s = time.monotonic(), sum(process.cpu_times()[:2])
                sizes.append(len(content))
                time.sleep(_INTERVAL_S)
            used_s = sum(process.cpu_times()[:2]) - processor_s
            share = used_s / (time.monotonic() - measured_from)
        finally:
            ended.set()
            writer.join()
            page.terminate()
            page.wait()
        result = {
            "core_share": share,
            "changed_rows": len(state["rows"]),
            "largest_answer_bytes": max(sizes[1:]),
            **{f"evaluation_{name}": cost for name, cost in costs.items()},
        }
    print(f"{arguments.trials:,} running trials: the page takes {100 * share:.1f} % of a core")
    print(f"  its last answer had {result['changed_rows']:,} changed rows; the largest {max(sizes[1:]) / 1e3:,.0f} kB")
    print(f"  an evaluation takes {costs['sweep_us']:.0f} µs in the sweep's thread")
    print(f"  and {costs['writer_us']:.0f} µs in the thread that writes")
    settings = {"trials": arguments.trials, "seconds": arguments.seconds}
    _common.save_result("watch", {**_common.run_context(), "settings": settings, **result}, arguments.out)


if __name__ == "__main__":
    main()
