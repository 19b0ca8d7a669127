"""cluster/lab.yaml on three machines that are reached by SSH: `ray up`, a sweep, its results, `ray down`.

The user has no rights of an administrator there. Installing and the shared folder are stand-ins (stand_ins.py).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster import stand_ins
from tests.cluster.laptop import HOME, Laptop
from tests.cluster.machines import USER, Machine, Network, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
RESULTS = "/srv/shared-store/results"
SWEEP = f"cd ~/lopt-sweep && RAY_ADDRESS=auto python sweeps/run.py --space smoke --out {RESULTS}"


@dataclass
class Lab:
    laptop: Laptop
    head: Machine
    workers: list[Machine]
    file: str

    def count_cpus(self) -> int:
        """Return how many processors the cluster offers to trials."""
        status = self.laptop.ray("exec", self.file, "ray status").stdout
        offered = re.search(r"/([\d.]+) CPU", status)
        return int(float(offered[1])) if offered else 0


def trial_processes(machine: Machine) -> int:
    """Return how many processes of trials have run on a machine since Ray was started there. Ray's logs name them."""
    script = "cat /tmp/ray/session_latest/logs/worker-*.out | grep -c ':actor_name:ImplicitFunc'"
    return int(machine.run(script, check=False).stdout.split()[-1])


def raylets(machine: Machine) -> list[str]:
    return machine.run("pgrep -x raylet", check=False).stdout.split()


@pytest.fixture(scope="module")
def lab(network: Network, store: Path) -> Lab:
    head, *workers = (
        network.machine(name, f"10.77.0.{10 + number}", shared=store, sudo=False)
        for number, name in enumerate(("lab-head", "lab-1", "lab-2"))
    )
    for machine in (head, *workers):
        stand_ins.install(machine)
    laptop = Laptop(network)
    values = {"HEAD-REPLACE-ME": head.ip, "WORKER1-REPLACE-ME": workers[0].ip, "WORKER2-REPLACE-ME": workers[1].ip}
    values |= {"USER-REPLACE-ME": USER, "~/.ssh/lopt-lab": "~/.ssh/key"}
    lab = Lab(laptop, head, workers, laptop.write_cluster_file("cluster/lab.yaml", values))
    laptop.ray("up", "--yes", lab.file)
    wait_until(lambda: lab.count_cpus() > 0, "a worker has joined", 90, every=2)
    return lab


def test_every_worker_joins_and_the_head_offers_no_processor(lab: Lab) -> None:
    per_machine = int(lab.head.run("nproc").stdout)
    wait_until(lambda: lab.count_cpus() == 2 * per_machine, "both workers have joined", 60, every=2)


def test_a_sweep_has_one_record_a_trial_and_runs_on_workers(lab: Lab) -> None:
    sweep = lab.laptop.ray("exec", lab.file, SWEEP)
    assert "complete: 12 trials" in sweep.stdout
    lab.laptop.ray("rsync-down", lab.file, f"{RESULTS}/", f"{HOME}/results/")
    folder = lab.laptop.machine.root / HOME.lstrip("/") / "results/smoke-paper"
    records = [json.loads(path.read_text()) for path in (folder / "trials").glob("*.json")]
    assert len(records) == len({record["key"] for record in records}) == 12
    assert {record["status"] for record in records} <= {"complete", "stopped"}
    assert trial_processes(lab.head) == 0
    assert all(trial_processes(worker) for worker in lab.workers)


def test_setup_installs_again_only_if_the_versions_have_changed(lab: Lab) -> None:
    def installs() -> list[int]:
        return [len(stand_ins.calls(machine, "pip")) for machine in (lab.head, *lab.workers)]

    assert installs() == [1, 1, 1]
    lab.laptop.machine.run("echo >> ~/project/README.md")
    assert "Running setup commands" in lab.laptop.ray("up", "--yes", lab.file).stdout
    assert installs()[0] == 1
    lab.laptop.machine.run("echo '# changed' >> ~/project/constraints.txt")
    lab.laptop.ray("up", "--yes", lab.file)
    assert installs()[0] == 2
    wait_until(lambda: installs() == [2, 2, 2], "the workers have the new versions, too", 90, every=2)


def test_ray_down_ends_ray_on_every_machine(lab: Lab) -> None:
    wait_until(lambda: lab.count_cpus() > 0, "a worker has joined", 90, every=2)
    lab.laptop.ray("down", "--yes", lab.file)
    for machine in (lab.head, *lab.workers):
        wait_until(lambda: not raylets(machine), f"Ray has ended on {machine.name}", 90, every=2)  # noqa: B023
