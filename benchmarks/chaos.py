"""A sweep that is killed again and again, compared with the same sweep undisturbed.

    python benchmarks/chaos.py [--seed 0]

Twenty-four trials (`twenty_four.py`) run on two nodes of one processor each. At random numbers of steps, `kill -9` hits
in turn the driver (the command itself), a worker, a trial's process, the keeper (it owns the workers), and the second
node's raylet (Ray's own process). When the driver has died, the same command is started again. A dead node is replaced.

In the end every trial must have finished exactly once, and no trial may have continued from an earlier step than that
of its last checkpoint. Every record must equal that of the undisturbed run, except for times: bit for bit if the trial
trained alone, and within a tolerance if it shared a pass, because a pass adds numbers in another order when trials join
or leave it. The benchmark observes everything from outside: the checkpoints, the records, the command's output and its
processes. The exit code is 1 if it observes a fault.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import psutil

from benchmarks import _common
from lopt import checkpoint
from lopt.records import MEASURED_FIELDS
from sweeps.results import checkpoint_file
from sweeps.results.store import Store

ROOT = Path(__file__).resolve().parent.parent
DRIVER, RAYLET = "driver", "second raylet"
TITLE_BY_VICTIM = {"worker": "ray::Worker", "trial's process": "ray::ImplicitFunc", "keeper": "ray::Keeper"}
VICTIMS = (DRIVER, *TITLE_BY_VICTIM, RAYLET)
TOLERANCE = 1e-3  # for losses and accuracies of trials that share a pass, in fp32
_RESUMED_TRIAL = re.compile(r"\| (search|confirm) (.+), lr \S+: (continues at step|starts over) ?([\d,]*)")
_POLL_S, _STUCK_S = 0.1, 300.0


class RunObserver:
    """Observes the trials of a run from outside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps_by_key: dict[str, int] = {}  # steps of each trial in its last checkpoint or its record
        self.faults: list[str] = []  # descriptions of what must not have happened
        self._start_time_by_key: dict[str, str] = {}  # a trial that starts over has another start time
        self._file_ids_by_name: dict[str, tuple[int, int]] = {}  # inode and write time of each record's file

    def observe(self) -> int:
        """Read the run's checkpoints and new records; return the steps of all trials together."""
        for path in checkpoint_file.newest_paths(self.folder / "checkpoints").values():
            with contextlib.suppress(FileNotFoundError):
                description = checkpoint.read_description(path)
                self._observe_trial(description["key"], description["step"], description["started_at"])
        for path in (self.folder / "trials").glob("*.json"):
            file_status = path.stat()
            record_file = file_status.st_ino, file_status.st_mtime_ns
            if path.name not in self._file_ids_by_name:
                record = json.loads(path.read_text())
                self._observe_trial(record["key"], record["steps"], record["started_at"])
            elif self._file_ids_by_name[path.name] != record_file:
                self.faults.append(f"record {path.name} was written again")
            self._file_ids_by_name[path.name] = record_file
        return sum(self.steps_by_key.values())

    def _observe_trial(self, key: str, step: int, started_at: str) -> None:
        if step < self.steps_by_key.get(key, 0):
            self.faults.append(f"trial {key} went back from step {self.steps_by_key[key]} to {step}")
        if self._start_time_by_key.setdefault(key, started_at) != started_at:
            self.faults.append(f"trial {key} had a checkpoint and started over")
        self.steps_by_key[key], self._start_time_by_key[key] = step, started_at


class TwoNodeCluster:
    """A Ray cluster of two nodes with one processor each, whose processes all descend from this process."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        self._second_node = self._cluster.add_node(num_cpus=1)
        self.address: str = self._cluster.address
        self._sweep_processes: set[psutil.Process] = set()

    def find_processes(self, *titles: str) -> list[psutil.Process]:
        """Return the processes whose title, which Ray sets, begins with one of these."""
        processes = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "".join(process.cmdline()[:1]).startswith(titles):
                    processes.append(process)
        self._sweep_processes.update(processes)
        return processes

    @property
    def second_raylet(self) -> psutil.Process:
        return psutil.Process(self._second_node.all_processes["raylet"][0].process.pid)

    def replace_second_node(self) -> None:
        self._cluster.remove_node(self._second_node, allow_graceful=False)
        self._second_node = self._cluster.add_node(num_cpus=1)

    def find_leftover_faults(self) -> list[str]:
        """Return a fault for each process of a sweep that is still alive, even if its raylet has died."""
        self.find_processes(*TITLE_BY_VICTIM.values())
        _, alive = psutil.wait_procs(self._sweep_processes, timeout=60)
        return [f"process {process.pid} is still there" for process in alive]

    def close(self) -> None:
        self._cluster.shutdown()


class Driver:
    """The sweep's command, with the lines that it prints and their times."""

    def __init__(self, command: list[str], address: str) -> None:
        self._command = command
        self._environment = {**os.environ, "RAY_ADDRESS": address, "PYTHONUNBUFFERED": "1"}
        self.lines: list[tuple[float, str]] = []
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._command, cwd=ROOT, env=self._environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, stream: Any) -> None:
        self.lines.extend((time.monotonic(), line.rstrip()) for line in stream)

    @property
    def output(self) -> str:
        return "\n".join(line for _, line in self.lines)

    def wait(self) -> int:
        """Wait until the command has ended; return its exit code."""
        exit_code = self.process.wait()
        self._reader.join()
        return exit_code


@dataclass(kw_only=True)
class Kill:
    """One kill and its consequences up to the next kill."""

    victim: str
    at_steps: int  # steps of all trials together at the time of the kill
    at_s: float
    back_s: float = 0.0  # time until all trials that it interrupted had continued
    trials_back: int = 0  # number of trials that continued from a checkpoint
    repeated: int = 0  # at most so many steps were done twice, because the last checkpoint is of the last evaluation
    saved_steps: dict[str, int]  # steps of each trial in its last checkpoint, by key


def disturb(
    cluster: TwoNodeCluster, driver: Driver, observer: RunObserver, kill_steps: list[int], generator: random.Random
) -> tuple[list[Kill], int]:
    """Kill a process at each of these numbers of steps, then wait for the end.

    Returns:
        The kills and the command's exit code.
    """
    kills: list[Kill] = []
    for kill_step, victim in zip(kill_steps, itertools.cycle(VICTIMS), strict=False):
        steps_before, last_kill_s = observer.observe(), time.monotonic()
        while True:
            time.sleep(_POLL_S)
            if driver.process.poll() is not None:
                return kills, driver.wait()
            steps = observer.observe()
            if time.monotonic() - last_kill_s > _STUCK_S and steps == steps_before:
                observer.faults.append(f"no trial continued after kill {len(kills)}")
                driver.process.kill()
                driver.wait()
                return kills, -1
            # There must be new steps since the last kill, because a trial that dies three times at one step fails.
            if steps < kill_step or steps == steps_before:
                continue
            if victim == DRIVER:
                process = psutil.Process(driver.process.pid)
            elif victim == RAYLET:
                cluster.find_processes(*TITLE_BY_VICTIM.values())  # for `find_leftover_faults`
                process = cluster.second_raylet
            elif processes := cluster.find_processes(TITLE_BY_VICTIM[victim]):
                process = generator.choice(sorted(processes, key=lambda process: process.pid))
            else:
                continue
            break
        kills.append(Kill(victim=victim, at_steps=steps, at_s=time.monotonic(), saved_steps={**observer.steps_by_key}))
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
        print(f"kill {len(kills)}: {victim} at step {steps:,}", file=sys.stderr, flush=True)
        if victim == DRIVER:
            driver.wait()
            driver.start()
        elif victim == RAYLET:
            cluster.replace_second_node()
    return kills, wait_for_end(driver, observer)


def wait_for_end(driver: Driver, observer: RunObserver) -> int:
    while driver.process.poll() is None:
        observer.observe()
        time.sleep(_POLL_S)
    observer.observe()
    return driver.wait()


def attribute_output(
    kills: list[Kill], driver: Driver, trial_keys: Mapping[tuple[str, str], str], eval_every: int
) -> Iterator[str]:
    """Add to each kill what the command printed about resumed trials until the next kill; yield faults."""
    for time_s, line in driver.lines:
        match, kill = _RESUMED_TRIAL.search(line), next((kill for kill in reversed(kills) if kill.at_s <= time_s), None)
        if match is None or kill is None:
            continue
        phase, cell, action, step = match.groups()
        if action == "starts over":
            yield line
            continue
        resumed_at, saved_step = int(step.replace(",", "")), kill.saved_steps.get(trial_keys.get((phase, cell), ""), 0)
        if resumed_at < saved_step:
            yield f"{phase} {cell} continued at step {resumed_at} although it had a checkpoint at step {saved_step}"
        kill.trials_back += 1
        kill.repeated += max(0, saved_step - resumed_at) + eval_every - 1
        kill.back_s = time_s - kill.at_s


def find_differences(left: Any, right: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield where two records differ, apart from times, and by how much: infinity for values other than numbers."""
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)) and len(left) == len(right):
        left, right = dict(enumerate(left)), dict(enumerate(right))
    if isinstance(left, dict) and isinstance(right, dict):
        for name in sorted({*left, *right} - set(MEASURED_FIELDS)):
            yield from find_differences(left.get(name), right.get(name), f"{path} {name}".strip())
    elif left != right:
        yield path, abs(left - right) if isinstance(left, float) and isinstance(right, float) else math.inf


def compare_records(disturbed: Mapping[str, Any], undisturbed: Mapping[str, Any]) -> tuple[list[str], float]:
    """Return the faults of the disturbed run's records, and the largest difference within the tolerance."""
    from lopt.config import TrialConfig

    largest_difference = 0.0
    faults = [f"trial {key} is lost" for key in sorted(set(undisturbed) - set(disturbed))]
    faults += [f"trial {key} is not in the undisturbed run" for key in sorted(set(disturbed) - set(undisturbed))]
    for key in sorted(set(disturbed) & set(undisturbed)):
        record = disturbed[key].to_dict()
        tolerance = TOLERANCE if TrialConfig.from_dict(record["config"]).shares_backbone else 0.0
        if record["status"] != "complete":
            faults.append(f"trial {key} is {record['status']}: {record['error']}")
        for path, difference in find_differences(record, undisturbed[key].to_dict()):
            largest_difference = max(largest_difference, difference if difference <= tolerance else 0.0)
            if difference > tolerance:
                faults.append(f"trial {key} ({record['cell']}, {record['phase']}): {path} differs by {difference:g}")
    return faults, largest_difference


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="number of kills (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed that decides which processes are killed, and when")
    parser.add_argument("--steps", type=int, default=400, help="steps of a trial (default 400)")
    parser.add_argument("--quick", action="store_true", help="make one kill of each kind, with short trials")
    _common.add_out_option(parser)
    options = parser.parse_args(argv)
    if options.quick:
        options.kills, options.steps = len(VICTIMS), 100
    context, generator = _common.run_context(), random.Random(options.seed)
    print(_common.hardware_line(context))
    with tempfile.TemporaryDirectory() as out_folder, contextlib.closing(TwoNodeCluster()) as cluster:
        command = [
            sys.executable, "sweeps/run.py", "--space", "benchmarks/twenty_four.py", "--out", out_folder,
            "--set", f"max_steps={options.steps}", "--trials-per-gpu", "4", "--name",
        ]  # fmt: skip

        def read_records(run: str) -> dict[str, Any]:
            return {record.key: record for record in Store(out_folder, run).records()}

        began_s = time.monotonic()
        driver = Driver([*command, "undisturbed"], cluster.address)
        exit_code = wait_for_end(driver, RunObserver(Path(out_folder, "undisturbed")))
        undisturbed_s, undisturbed_records = time.monotonic() - began_s, read_records("undisturbed")
        if exit_code:
            print(driver.output)
            return 1
        steps = sum(record.steps for record in undisturbed_records.values())
        eval_every = next(iter(undisturbed_records.values())).config["eval_every"]
        kill_steps = sorted(generator.randrange(steps // 50, steps * 19 // 20) for _ in range(options.kills))

        began_s, observer = time.monotonic(), RunObserver(Path(out_folder, "disturbed"))
        driver = Driver([*command, "disturbed"], cluster.address)
        kills, exit_code = disturb(cluster, driver, observer, kill_steps, generator)
        disturbed_s = time.monotonic() - began_s
        faults = list(observer.faults)
        if exit_code:
            faults.append(f"the command ended with exit code {exit_code}: {driver.lines[-1:]}")
        if len(kills) < options.kills:
            faults.append(f"the sweep ended after {len(kills)} kills instead of {options.kills}")
        trial_keys = {(record.phase, record.cell): key for key, record in undisturbed_records.items()}
        faults += attribute_output(kills, driver, trial_keys, eval_every)
        record_faults, largest_difference = compare_records(read_records("disturbed"), undisturbed_records)
        faults += [*record_faults, *cluster.find_leftover_faults()]
        _, traceback, later_output = driver.output.partition("Traceback")
        if traceback:
            faults.append(f"the command printed {(traceback + later_output)[:4000]}")

    for kill in kills:
        kill.at_s -= began_s
    rows = [
        [str(number), f"{kill.at_steps:,}", f"{kill.at_s:.0f}", kill.victim, f"{kill.back_s:.1f}",
         str(kill.trials_back), str(kill.repeated)]
        for number, kill in enumerate(kills, start=1)
    ]  # fmt: skip
    header = ["kill", "at step", "at s", "victim", "s until all were back", "trials back", "steps repeated, at most"]
    print(_common.format_table(header, rows))
    print(f"\n{len(undisturbed_records)} trials, {steps:,} steps: {undisturbed_s:.0f} s undisturbed, "
          f"{disturbed_s:.0f} s with {len(kills)} kills")  # fmt: skip
    print(f"largest tolerated difference, for a shared pass: {largest_difference:.2g} (tolerance {TOLERANCE:g})")
    print(*(f"FAULT: {fault}\n" for fault in faults), sep="", end="")
    no_faults = "every trial finished once, none started over, and all records are equal"
    print(f"number of faults: {len(faults)}" if faults else no_faults)
    result = {
        "settings": {name: value for name, value in vars(options).items() if name != "out"},
        "kills": [{field: value for field, value in asdict(kill).items() if field != "saved_steps"} for kill in kills],
        "trials": len(undisturbed_records), "steps": steps, "alone_s": undisturbed_s, "disturbed_s": disturbed_s,
        "largest_difference": largest_difference, "faults": faults,
    }  # fmt: skip
    _common.save_result("chaos", {**context, **result}, options.out, is_smoke_test=options.quick)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
