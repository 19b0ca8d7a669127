"""cluster.yaml against a stand-in for EC2: from `ray up` to `ray down`, with a lost worker and a failed set-up.

Not real here: EC2 itself (moto), the image, the installation, NFS (a bind mount), and the GPUs. The workers offer a
GPU that PyTorch does not see, so trials train on processors (LOPT_DEVICE=cpu). At most two workers start.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.ec2 import HEAD_KEY, Ec2, user_config
from tests.cluster.laptop import HOME, ROOT, Laptop
from tests.cluster.machines import Network, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(480)]
REFUSED_SWEEP = "cd ~/lopt-sweep && RAY_ADDRESS=auto python sweeps/run.py --space smoke --out /srv/lopt/results"
SWEEP = REFUSED_SWEEP.replace("RAY_ADDRESS", "LOPT_DEVICE=cpu RAY_ADDRESS") + " --trials-per-gpu 4"
# The command that docs/cluster.md gives.
FAILURES = "grep -aE 'ERR|failed' /tmp/ray/session_latest/logs/monitor.out | tail"
LONG = " --set max_steps=400 --set eval_every=20 --set grace_steps=400 --set trials=6"
RECORDS = "home/ubuntu/fetched/smoke-paper/trials"


@dataclass
class Cloud:
    ec2: Ec2
    laptop: Laptop
    file: str
    store: Path

    def status(self) -> str:
        return self.laptop.ray("exec", self.file, "ray status").stdout

    def wait_for_workers(self, count: int) -> None:
        wait_until(lambda: len(self.ec2.running("worker")) == count, f"{count} workers run", 120, every=1)


@pytest.fixture(scope="module")
def cloud(network: Network, store: Path) -> Iterator[Cloud]:
    ec2 = Ec2(network, store)
    laptop = Laptop(network, user_config())
    values = {
        "sg-REPLACE-ME": ec2.ready["group"],
        "ami-REPLACE-ME": ec2.ready["image"],
        "# IamInstanceProfile": "IamInstanceProfile",
        "\nmax_workers: 8": "\nmax_workers: 2",
    }
    cloud = Cloud(ec2, laptop, laptop.write_cluster_file("cluster.yaml", values), store)
    laptop.ray("up", "--yes", cloud.file)
    yield cloud
    ec2.close()


def policy_actions(title: str) -> set[str]:
    """Return the actions of the policy under a title of docs/cluster.md."""
    text = (ROOT / "docs/cluster.md").read_text(encoding="utf-8").partition(f"**{title}**")[2]
    policy, _ = json.JSONDecoder().raw_decode(text[text.index("{") :])
    return {action for statement in policy["Statement"] for action in statement["Action"]}


def test_the_store_is_exported_to_the_addresses_of_the_vpc(cloud: Cloud) -> None:
    export = cloud.ec2.head().run("cat /etc/exports.d/lopt.exports").stdout
    assert re.fullmatch(r"/srv/lopt 172\.31\.0\.0/16\(rw,sync,\S+,anonuid=(\d+),anongid=\d+\)\n", export)
    assert not (cloud.ec2.head().root / "etc/exports").exists()


def test_a_worker_starts_when_a_trial_needs_it_and_is_refused_without_a_usable_gpu(cloud: Cloud) -> None:
    assert not cloud.ec2.running("worker")
    sweep = cloud.laptop.ray("exec", cloud.file, REFUSED_SWEEP, check=False)
    assert sweep.returncode != 0
    assert "waiting until the cluster has room for 1 GPU" in sweep.stdout
    assert "reserved a GPU, torch sees none: driver or image" in sweep.stdout
    assert len(cloud.ec2.running("worker")) == 1


def test_every_trial_has_one_record_although_a_worker_is_lost(cloud: Cloud) -> None:
    folder = cloud.store / "results/smoke-paper/trials"
    log = cloud.ec2.network.folder / "sweep.log"
    with cloud.laptop.start_ray("exec", cloud.file, SWEEP + LONG, log=log) as sweep:
        wait_until(lambda: len(list(folder.glob("*.json"))) >= 2, f"two trials are over: {log}", 200)
        cloud.wait_for_workers(2)  # more trials wait than one GPU has room for
        lost = cloud.ec2.running("worker")[0]
        cloud.ec2.terminate(lost)
        assert len(list(folder.glob("*.json"))) < 21, "the worker is lost before the sweep is over"
        assert sweep.wait(timeout=240) == 0, log.read_text()
    assert "complete: 21 trials" in log.read_text()
    cloud.laptop.ray("rsync-down", cloud.file, "/srv/lopt/results/", f"{HOME}/fetched/")
    records = [json.loads(path.read_text()) for path in (cloud.laptop.machine.root / RECORDS).glob("*.json")]
    assert len({record["key"] for record in records}) == len(records) == 21
    assert {record["status"] for record in records} <= {"complete", "stopped"}


def test_a_sweep_can_be_submitted_as_a_job(cloud: Cloud) -> None:
    log = cloud.ec2.network.folder / "dashboard.log"
    forward = cloud.laptop.start_ray("dashboard", cloud.file, log=log)
    try:
        ask = "curl --silent --output /dev/null http://127.0.0.1:8265"
        wait_until(lambda: cloud.laptop.machine.run(ask, check=False).returncode == 0, f"the dashboard: {log}", 60, 1)
        job = ["job", "submit", "--address", "http://127.0.0.1:8265", "--", "bash", "-c", f"{SWEEP} --name job"]
        assert "succeeded" in cloud.laptop.ray(*job).stdout
        without_token = cloud.laptop.ray(*job, check=False, without_token=True)
        assert without_token.returncode != 0
    finally:
        forward.kill()
        forward.wait()


def test_the_head_is_on_demand_and_the_workers_are_spot_instances(cloud: Cloud) -> None:
    (head,) = cloud.ec2.running("head")
    kinds = {name: instance["InstanceLifecycle"] for name, instance in cloud.ec2.instances.items()}
    assert kinds.pop(head) is None
    assert len(kinds) >= 2 and set(kinds.values()) == {"spot"}


def test_a_failed_setup_is_named_by_the_sweep_that_waits(cloud: Cloud) -> None:
    """`ray status` shows only that the worker is pending. `ray monitor` shows the log of the autoscaler."""
    cloud.ec2.installs_fail = True
    for worker in cloud.ec2.running("worker"):
        cloud.ec2.terminate(worker)
    sweep = cloud.laptop.ray("exec", cloud.file, SWEEP + " --name waits --max-wait 100s", check=False)
    assert sweep.returncode != 0
    (line,) = [line for line in sweep.stdout.splitlines() if line.startswith("error:")]
    assert (
        "no room for 1 GPU within 2 minutes: the set-up of a machine has failed: ERROR: No matching distribution"
        in line
    )
    logs = cloud.laptop.ray("exec", cloud.file, FAILURES).stdout
    assert "ERROR: No matching distribution found for torch==9.9.9" in logs
    assert "New status: update-failed" in logs


def test_the_documented_policies_allow_what_is_called(cloud: Cloud) -> None:
    assert not [call for call in cloud.ec2.failures if call["status"] >= 500]
    assert cloud.ec2.actions[HEAD_KEY] <= policy_actions("Policy of the head's role")
    assert cloud.ec2.actions["UBUNTUKEY"] <= policy_actions("Policy of the user who calls `ray up`")


def test_ray_down_ends_every_instance(cloud: Cloud) -> None:
    cloud.laptop.ray("down", "--yes", cloud.file)
    wait_until(lambda: not cloud.ec2.running("head") and not cloud.ec2.running("worker"), "no instance is running", 30)
