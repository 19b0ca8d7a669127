"""Ray started by hand on two machines, as docs/cluster.md shows it, and what a sweep refuses there.

The store that is not shared, and the GPU that torch does not see, need no `ray up`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import stand_ins
from tests.cluster.laptop import HOME, copy_project
from tests.cluster.machines import USER, Machine, Network, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
SWEEP = "cd ~/lopt-sweep && RAY_ADDRESS=auto python sweeps/run.py --space smoke"


class Pair:
    """Two machines with the project installed, of which the first is Ray's head."""

    def __init__(self, network: Network, store: Path) -> None:
        self.head = network.machine("hand-head", "10.77.0.30", shared=store, sudo=False)
        self.worker = network.machine("hand-1", "10.77.0.31", shared=store, sudo=False)
        for machine in (self.head, self.worker):
            stand_ins.install(machine)
            copy_project(machine, f"{HOME}/lopt-sweep")
            machine.run("python3 -m venv ~/lopt-venv && cd ~/lopt-sweep && ~/lopt-venv/bin/pip install -e '.[cluster]'")
            machine.run("echo 'PATH=~/lopt-venv/bin:$PATH' >> ~/.profile; mkdir ~/.ray")
            (machine.root / HOME.lstrip("/") / ".ray/auth_token").write_text("0123456789abcdef" * 4)
            machine.run(f"chown -R {USER}: {HOME}/.ray", user="root")

    def start_head(self, *options: str) -> None:
        self.head.run(f"RAY_AUTH_MODE=token ray start --head --dashboard-host=127.0.0.1 {' '.join(options)}")

    def start_worker(self, *options: str) -> None:
        self.worker.run(f"RAY_AUTH_MODE=token ray start --address={self.head.ip}:6379 {' '.join(options)}")

    def sweep(self, options: str):
        return self.head.run(f"export RAY_AUTH_MODE=token; {SWEEP} {options}", check=False, timeout=180)

    def stop(self) -> None:
        for machine in (self.worker, self.head):
            machine.run("ray stop --force", check=False)


@pytest.fixture(scope="module")
def machines(network: Network, store: Path) -> Pair:
    return Pair(network, store)


@pytest.fixture
def pair(machines: Pair) -> Iterator[Pair]:
    """The two machines, on which Ray does not run yet."""
    yield machines
    machines.stop()


def refusal(process) -> str:
    """Return the only line of a refused command."""
    assert process.returncode == 2, process.stdout
    lines = [line for line in process.stdout.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, process.stdout
    assert "Traceback" not in process.stdout
    return lines[0]


def names_machine(line: str, machine: Machine) -> bool:
    return machine.ip in line or machine.name in line


def test_two_machines_share_a_sweep(pair: Pair) -> None:
    pair.start_head()
    pair.start_worker()
    steps = "--set max_steps=600 --set eval_every=50 --set grace_steps=600"  # else the first machine does them alone
    sweep = pair.sweep(f"--out /srv/shared-store/by-hand {steps}")
    assert sweep.returncode == 0, sweep.stdout
    records = [json.loads(path.read_text()) for path in pair.head.root.glob("srv/shared-store/by-hand/*/trials/*.json")]
    assert len({record["key"] for record in records}) == len(records) == 12
    nodes = {record["provenance"]["hardware"]["node"] for record in records}
    assert nodes == {pair.head.name, pair.worker.name}, "each machine has trained trials"


def test_a_store_that_a_node_does_not_share_is_refused_at_the_start(pair: Pair) -> None:
    pair.start_head("--num-cpus=0")
    pair.start_worker()
    line = refusal(pair.sweep(f"--out {HOME}/results"))
    assert names_machine(line, pair.worker)
    assert f"{HOME}/results" in line


def test_a_node_that_joins_late_without_the_store_ends_the_sweep(pair: Pair) -> None:
    """The first node, the head, sees the folder. The second joins when the sweep runs."""
    pair.start_head("--num-cpus=1")
    command = (
        f"export RAY_AUTH_MODE=token; {SWEEP} --out {HOME}/late --set max_steps=3000 --set trials=6 > ~/late.log 2>&1"
    )
    pair.head.run(f"rm -rf ~/late; nohup sh -c {command!r} > /dev/null 2>&1 & echo $! > ~/late.pid")
    wait_until(lambda: list(pair.head.root.glob(f"{HOME[1:]}/late/*/manifest.json")), "the sweep has begun", 90)
    time.sleep(5)
    pair.start_worker()
    sweep = pair.head.run("while kill -0 $(cat ~/late.pid) 2>/dev/null; do sleep 1; done; cat ~/late.log", timeout=200)
    (line,) = [line for line in sweep.stdout.splitlines() if line.startswith("error:")]
    assert names_machine(line, pair.worker)
    assert f"{HOME}/late" in line


def test_a_gpu_that_torch_does_not_see_is_refused_at_the_start(pair: Pair) -> None:
    pair.start_head("--num-cpus=0")
    pair.start_worker("--num-gpus=1")
    line = refusal(pair.sweep("--out /srv/shared-store/no-gpu"))
    assert names_machine(line, pair.worker)
    assert "reserved a GPU, torch sees none: driver or image" in line
