"""A sweep that is killed again and again, beside the same one left alone: python benchmarks/chaos.py [--seed 0]

Twenty-four trials (`twenty_four.py`) on two nodes of one processor. At random numbers of steps done, `kill -9` hits in
turn the driver, a worker, a trial's process, the keeper and the raylet of the second node. The same command goes on
after each death of the driver; a new node takes the place of the dead one.

In the end every trial must have finished exactly once, none may have gone back behind a checkpoint, and every record
must be that of the run left alone: trials that train alone bit for bit, those that share a pass, which adds in another
order when others join or leave it, within a tolerance. Only times differ. Everything is seen from outside: the
checkpoints, the records, the command's output and its processes. Exit code 1 where anything else was seen.
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
from lopt.records import MEASURED
from sweeps.results import checkpoint_file
from sweeps.results.store import Store

ROOT = Path(__file__).resolve().parent.parent
DRIVER, RAYLET = "driver", "second raylet"
TITLES = {"worker": "ray::Worker", "trial's process": "ray::ImplicitFunc", "keeper": "ray::Keeper"}
VICTIMS = (DRIVER, *TITLES, RAYLET)
TOLERANCE = 1e-3  # of losses and accuracies of trials that share a pass, fp32
_SAID = re.compile(r"\| (search|confirm) (.+), lr \S+: (continues at step|begins anew) ?([\d,]*)")
_POLL_S, _STUCK_S = 0.1, 300.0


class Watch:
    """A run's trials as they are seen from outside.

    Attributes:
        steps: of each trial, as the last checkpoint or record says. faults: what must not have happened.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: dict[str, int] = {}
        self.faults: list[str] = []
        self._began: dict[str, str] = {}  # a trial that begins again says another time
        self._files: dict[str, tuple[int, int]] = {}

    def look(self) -> int:
        """Takes down what is there; steps of all trials."""
        for path in checkpoint_file.newest(self.folder / "checkpoints").values():
            with contextlib.suppress(FileNotFoundError):
                described = checkpoint.describe(path)
                self._saw(described["key"], described["step"], described["started_at"])
        for path in (self.folder / "trials").glob("*.json"):
            status = path.stat()
            file = status.st_ino, status.st_mtime_ns
            if path.name not in self._files:
                record = json.loads(path.read_text())
                self._saw(record["key"], record["steps"], record["started_at"])
            elif self._files[path.name] != file:
                self.faults.append(f"record {path.name} was written again")
            self._files[path.name] = file
        return sum(self.steps.values())

    def _saw(self, key: str, step: int, began: str) -> None:
        if step < self.steps.get(key, 0):
            self.faults.append(f"trial {key} went back from step {self.steps[key]} to {step}")
        if self._began.setdefault(key, began) != began:
            self.faults.append(f"trial {key} had a checkpoint and began again")
        self.steps[key], self._began[key] = step, began


class Nodes:
    """Ray on two nodes of one processor each; all its processes are below this one."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        self._second = self._cluster.add_node(num_cpus=1)
        self.address: str = self._cluster.address
        self._of_sweeps: set[psutil.Process] = set()

    def find(self, *titles: str) -> list[psutil.Process]:
        """Processes whose title, which Ray sets, begins with one of these."""
        found = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "".join(process.cmdline()[:1]).startswith(titles):
                    found.append(process)
        self._of_sweeps.update(found)
        return found

    @property
    def raylet(self) -> psutil.Process:
        return psutil.Process(self._second.all_processes["raylet"][0].process.pid)

    def replace_second(self) -> None:
        self._cluster.remove_node(self._second, allow_graceful=False)
        self._second = self._cluster.add_node(num_cpus=1)

    def left(self) -> list[str]:
        """Processes of sweeps that live on, also where their raylet has died."""
        self.find(*TITLES.values())
        _, alive = psutil.wait_procs(self._of_sweeps, timeout=60)
        return [f"process {process.pid} is still there" for process in alive]

    def close(self) -> None:
        self._cluster.shutdown()


class Driver:
    """The command, and its lines with the time they came."""

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
    def said(self) -> str:
        return "\n".join(line for _, line in self.lines)

    def end(self) -> int:
        code = self.process.wait()
        self._reader.join()
        return code


@dataclass(kw_only=True)
class Kill:
    """One kill, and what came of it up to the next.

    at_steps: of all trials when it struck. back_s: until the last of the trials that it hit went on. trials_back: how
    many went on from a checkpoint. repeated: most steps that they made twice, since a checkpoint is as old as the last
    evaluation.
    """

    victim: str
    at_steps: int
    at_s: float
    back_s: float = 0.0
    trials_back: int = 0
    repeated: int = 0
    known: dict[str, int]  # steps that checkpoints held


def disturb(
    nodes: Nodes, driver: Driver, watch: Watch, moments: list[int], draw: random.Random
) -> tuple[list[Kill], int]:
    """Kills at each moment, then waits for the end; the kills and the command's exit code."""
    kills: list[Kill] = []
    for moment, victim in zip(moments, itertools.cycle(VICTIMS), strict=False):
        before, since = watch.look(), time.monotonic()
        while True:
            time.sleep(_POLL_S)
            if driver.process.poll() is not None:
                return kills, driver.end()
            done = watch.look()
            if time.monotonic() - since > _STUCK_S and done == before:
                watch.faults.append(f"nothing went on after kill {len(kills)}")
                driver.process.kill()
                driver.end()
                return kills, -1
            # Three deaths without a step between would rightly end a trial.
            if done < moment or done == before:
                continue
            if victim == DRIVER:
                process = psutil.Process(driver.process.pid)
            elif victim == RAYLET:
                nodes.find(*TITLES.values())  # so that `nodes.left` knows of those below it
                process = nodes.raylet
            elif found := nodes.find(TITLES[victim]):
                process = draw.choice(sorted(found, key=lambda each: each.pid))
            else:
                continue
            break
        kills.append(Kill(victim=victim, at_steps=done, at_s=time.monotonic(), known=dict(watch.steps)))
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
        print(f"kill {len(kills)}: {victim} at step {done:,}", file=sys.stderr, flush=True)
        if victim == DRIVER:
            driver.end()
            driver.start()
        elif victim == RAYLET:
            nodes.replace_second()
    return kills, wait_for_end(driver, watch)


def wait_for_end(driver: Driver, watch: Watch) -> int:
    while driver.process.poll() is None:
        watch.look()
        time.sleep(_POLL_S)
    watch.look()
    return driver.end()


def attribute(kills: list[Kill], driver: Driver, keys: Mapping[tuple[str, str], str], eval_every: int) -> Iterator[str]:
    """Adds to each kill what the command said until the next one; yields what it must not have said."""
    for at, line in driver.lines:
        said, kill = _SAID.search(line), next((k for k in reversed(kills) if k.at_s <= at), None)
        if said is None or kill is None:
            continue
        phase, cell, what, step = said.groups()
        if what == "begins anew":
            yield line
            continue
        reached, known = int(step.replace(",", "")), kill.known.get(keys.get((phase, cell), ""), 0)
        if reached < known:
            yield f"{phase} {cell} continued at step {reached} with a checkpoint at {known}"
        kill.trials_back += 1
        kill.repeated += max(0, known - reached) + eval_every - 1
        kill.back_s = at - kill.at_s


def differences(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Where two records differ but in time, and by how much: infinity for what is no number."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted({*one, *other} - set(MEASURED)):
            yield from differences(one.get(name), other.get(name), f"{path} {name}".strip())
    elif one != other:
        yield path, abs(one - other) if isinstance(one, float) and isinstance(other, float) else math.inf


def compare(found: Mapping[str, Any], whole: Mapping[str, Any]) -> tuple[list[str], float]:
    """What is wrong with the records of the disturbed run, and the largest difference within the tolerance."""
    from lopt.config import TrialConfig

    largest = 0.0
    faults = [f"trial {key} is lost" for key in sorted(set(whole) - set(found))]
    faults += [f"trial {key} is one too many" for key in sorted(set(found) - set(whole))]
    for key in sorted(set(found) & set(whole)):
        record = found[key].to_dict()
        tolerance = TOLERANCE if TrialConfig.from_dict(record["config"]).shares_backbone else 0.0
        if record["status"] != "complete":
            faults.append(f"trial {key} is {record['status']}: {record['error']}")
        for path, by in differences(record, whole[key].to_dict()):
            largest = max(largest, by if by <= tolerance else 0.0)
            if by > tolerance:
                faults.append(f"trial {key} ({record['cell']}, {record['phase']}): {path} differs by {by:g}")
    return faults, largest


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and of which one of several is hit")
    parser.add_argument("--steps", type=int, default=400, help="of a trial (default 400)")
    parser.add_argument("--quick", action="store_true", help="one kill of each kind, short trials")
    _common.add_out(parser)
    given = parser.parse_args(argv)
    if given.quick:
        given.kills, given.steps = len(VICTIMS), 100
    about, draw = _common.context(), random.Random(given.seed)
    print(_common.headline(about))
    with tempfile.TemporaryDirectory() as out, contextlib.closing(Nodes()) as nodes:
        command = [
            sys.executable, "sweeps/run.py", "--space", "benchmarks/twenty_four.py", "--out", out,
            "--set", f"max_steps={given.steps}", "--trials-per-gpu", "4", "--name",
        ]  # fmt: skip

        def records(run: str) -> dict[str, Any]:
            return {record.key: record for record in Store(out, run).records()}

        began = time.monotonic()
        driver = Driver([*command, "alone"], nodes.address)
        code = wait_for_end(driver, Watch(Path(out, "alone")))
        alone_s, whole = time.monotonic() - began, records("alone")
        if code:
            print(driver.said)
            return 1
        steps = sum(record.steps for record in whole.values())
        eval_every = next(iter(whole.values())).config["eval_every"]
        moments = sorted(draw.randrange(steps // 50, steps * 19 // 20) for _ in range(given.kills))

        began, watch = time.monotonic(), Watch(Path(out, "disturbed"))
        driver = Driver([*command, "disturbed"], nodes.address)
        kills, code = disturb(nodes, driver, watch, moments, draw)
        disturbed_s = time.monotonic() - began
        faults = list(watch.faults)
        if code:
            faults.append(f"the command ended with {code}: {driver.lines[-1:]}")
        if len(kills) < given.kills:
            faults.append(f"{len(kills)} kills in place of {given.kills}: over too soon")
        keys = {(record.phase, record.cell): key for key, record in whole.items()}
        faults += attribute(kills, driver, keys, eval_every)
        wrong, largest = compare(records("disturbed"), whole)
        faults += [*wrong, *nodes.left()]
        _, traceback, after = driver.said.partition("Traceback")
        if traceback:
            faults.append(f"the command printed {(traceback + after)[:4000]}")

    for kill in kills:
        kill.at_s -= began
    rows = [
        [str(number), f"{kill.at_steps:,}", f"{kill.at_s:.0f}", kill.victim, f"{kill.back_s:.1f}",
         str(kill.trials_back), str(kill.repeated)]
        for number, kill in enumerate(kills, start=1)
    ]  # fmt: skip
    header = ["kill", "at step", "at s", "victim", "s until all were back", "trials back", "steps repeated, at most"]
    print(_common.table(header, rows))
    print(f"\n{len(whole)} trials, {steps:,} steps: {alone_s:.0f} s alone, {disturbed_s:.0f} s with {len(kills)} kills")
    print(f"largest difference of trials that share a pass: {largest:.2g} (tolerance {TOLERANCE:g}); others: none")
    print(*(f"FAULT: {fault}\n" for fault in faults), sep="", end="")
    print(f"{len(faults)} faults" if faults else "every trial once, none begun again, all records equal")
    result = {
        "settings": {name: value for name, value in vars(given).items() if name != "out"},
        "kills": [{name: v for name, v in asdict(kill).items() if name != "known"} for kill in kills],
        "trials": len(whole), "steps": steps, "alone_s": alone_s, "disturbed_s": disturbed_s,
        "largest_difference": largest, "faults": faults,
    }  # fmt: skip
    _common.keep("chaos", {**about, **result}, given.out, smoke=given.quick)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
