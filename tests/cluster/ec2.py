"""EC2 for these tests: a machine for every instance that Ray launches, until the instance is terminated."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.cluster import stand_ins
from tests.cluster.machines import GATEWAY, USER, Machine, Network, wait_until

REGION = "us-west-2"
PORT = 5000
METADATA = "169.254.169.254"
ROLE = "lopt-head"  # the name of the head's role and of its instance profile, as in cluster.yaml
HEAD_KEY = "HEADKEY"  # the access key that the head's role gets; the user's own differs
ROOT = Path(__file__).resolve().parents[2]
SERVER = Path(__file__).with_name("ec2_server.py")
ENDPOINT = f"http://{GATEWAY}:{PORT}"


class Ec2:
    """The instances and the calls so far.

    Attributes:
        instances: What EC2 says of each instance, by its id.
        machines: The machine of each instance that has been running.
        actions: The actions that each access key has called.
        failures: The calls that EC2 has refused.
        installs_fail: Whether `pip install` fails on machines that start from now on.
    """

    def __init__(self, network: Network, store: Path) -> None:
        self.network, self._store = network, store
        self.instances: dict[str, dict[str, Any]] = {}
        self.machines: dict[str, Machine] = {}
        self.actions: defaultdict[str, set[str]] = defaultdict(set)
        self.failures: list[dict[str, Any]] = []
        self.installs_fail = False
        self.ready: dict[str, str] = {}
        network.ip("address", "add", f"{METADATA}/32", "dev", "lopt0")
        packages = os.pathsep.join([str(ROOT), *(path for path in sys.path if path.endswith("-packages"))])
        self._process = subprocess.Popen(
            network.inside("setpriv", "--pdeathsig", "KILL", sys.executable, str(SERVER), GATEWAY),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(network.folder / "ec2.log").open("w"),
            text=True,
            env={**os.environ, "PYTHONPATH": packages, "NO_PROXY": "*"},
        )
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        wait_until(lambda: self.ready, "the stand-in for EC2 has started", 60)

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            if "ready" in event:
                self.ready = event["ready"]
            elif "call" in event:
                self.actions[event["call"]["key"]].add(event["call"]["action"])
                if event["call"]["status"] >= 400:
                    self.failures.append(event["call"])
            elif event["instance"]["state"] == "running":
                self._boot(event["instance"])
            else:
                self.instances[event["instance"]["id"]]["state"] = "terminated"
                self.machines[event["instance"]["id"]].kill()

    def _boot(self, instance: dict[str, Any]) -> None:
        name = instance["id"][-8:]
        machine = self.network.machine(name, instance["ip"], public_ip=instance["PublicIpAddress"], shared=self._store)
        stand_ins.install(machine)
        if self.installs_fail:
            stand_ins.fail_installs(machine)
        # On AWS, the image's first boot writes the instance's key there.
        machine.run(f"echo {shlex.quote(instance['public_key'])} >> ~/.ssh/authorized_keys")
        # boto3 has to find this EC2. The credentials come from the metadata service, as on AWS.
        machine.run(
            f"mkdir ~/.aws && printf '[default]\\nregion = {REGION}\\nendpoint_url = {ENDPOINT}\\n' > ~/.aws/config"
        )
        self.instances[instance["id"]], self.machines[instance["id"]] = instance, machine

    def running(self, kind: str) -> list[str]:
        """Return the ids of the running instances of a kind: head or worker."""
        return [
            name
            for name, instance in list(self.instances.items())
            if instance["state"] == "running" and instance["tags"].get("ray-node-type") == kind
        ]

    def head(self) -> Machine:
        (name,) = self.running("head")
        return self.machines[name]

    def terminate(self, instance: str) -> None:
        """Take an instance away, as AWS takes a spot instance."""
        assert self._process.stdin is not None
        print(json.dumps({"terminate": instance}), file=self._process.stdin, flush=True)
        wait_until(lambda: self.instances[instance]["state"] == "terminated", f"{instance} is terminated")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join(timeout=30)


def user_config() -> dict[str, str]:
    """Return the environment variables of a user who has an account there."""
    return {
        "AWS_ENDPOINT_URL": ENDPOINT,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": f"{USER.upper()}KEY",
        "AWS_SECRET_ACCESS_KEY": "s",
    }
