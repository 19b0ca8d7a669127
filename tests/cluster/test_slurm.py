"""cluster/slurm.sbatch in a made-up Slurm of two nodes on this machine. slurm_site.sh describes it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from tests.processes import usual_signals

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(__file__).with_name("slurm_site.sh")
# A trial lasts longer than the start of a process on the second node. Otherwise Ray Tune gives all trials to the first.
LONG_TRIALS = ("--set", "max_steps=600", "--set", "eval_every=50", "--set", "grace_steps=600", "--set", "trials=6")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "unshare", "nsenter", "ip")
SWEEP = ("--space", "smoke", "--set", "precision=fp64")

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


class Site:
    """A running made-up Slurm. `folder` is shared by its machines, and `first_process` is that of its login node."""

    def __init__(self, folder: Path, first_process: psutil.Process) -> None:
        self.folder = folder
        self.first_process = first_process

    def call(self, *command: str, check: bool = True, folder: str | Path = ROOT) -> str:
        """Return what a command prints on the login node."""
        enter = ["nsenter", f"--target={self.first_process.pid}", "--mount", "--uts", "--ipc", "--net", "--pid"]
        environment = {**os.environ, "SLURM_CONF": f"{self.folder}/etc/slurm.conf", "VENV": sys.prefix}
        done = subprocess.run(
            [*enter, f"--wd={folder}", *command], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done.stdout

    def submit(self, *options: str, sweep: tuple[str, ...], folder: str | Path = ROOT) -> str:
        """Submit a sweep, and return the number of its job."""
        log = f"--output={self.folder}/%j.log"
        out = f"--out={self.folder}/results"
        script = str(ROOT / "cluster/slurm.sbatch")
        return self.call("sbatch", "--parsable", log, *options, script, *sweep, out, folder=folder).strip()

    def log(self, job: str) -> str:
        file = self.folder / f"{job}.log"
        return file.read_text() if file.exists() else ""

    def field(self, job: str, name: str) -> str:
        """Return one field of what Slurm says about a job."""
        fields = dict(part.split("=", 1) for part in self.call("scontrol", "show", "job", job).split() if "=" in part)
        return fields[name]

    def command_lines(self, text: str) -> list[tuple[str, str]]:
        """Return the node and the command line of each process of the nodes whose command line contains `text`."""
        lines = []
        for slurmd in self.first_process.children(recursive=True):
            node = _arguments(slurmd)[-1]
            if _arguments(slurmd)[0] == "slurmd":
                machine = psutil.Process(slurmd.ppid())  # the first process of this node
                lines += [(node, " ".join(_arguments(child))) for child in machine.children(recursive=True)]
        return [(node, line) for node, line in lines if text in line]

    def nodes_with(self, text: str) -> set[str]:
        return {node for node, _ in self.command_lines(text)}

    def wait_for(self, condition, job: str, seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"the condition did not become true in {seconds} s:\n{self.log(job)}"
            time.sleep(0.5)

    def finish(self, job: str) -> tuple[str, str]:
        """Wait for the end of a job that may be queued again. Return its state and its exit code."""

        def is_over() -> bool:
            state = self.field(job, "JobState")
            if state == "PENDING" and self.field(job, "Restarts") != "0":
                self.call("scontrol", "update", f"JobId={job}", "StartTime=now")  # else Slurm waits for two minutes
            return state not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")

        self.wait_for(is_over, job, seconds=600)
        return self.field(job, "JobState"), self.field(job, "ExitCode")

    def records(self, run: str) -> list[Path]:
        return sorted((self.folder / "results" / run / "trials").glob("*.json"))


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() or [""]
    except psutil.Error:  # the process has just ended
        return [""]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    missing = [name for name in PROGRAMS if not shutil.which(name)] + ["root"] * (os.geteuid() != 0)
    if missing:
        pytest.skip(f"needs root and the programs {', '.join(PROGRAMS)}; missing here: {', '.join(missing)}")
    namespaces = ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
    bridge = subprocess.run([*namespaces, "ip", "link", "add", "name", "bridge", "type", "bridge"], capture_output=True)
    if bridge.returncode:
        pytest.skip(f"a network of its own cannot be made here: {bridge.stderr.decode().strip()}")
    folder = tmp_path_factory.mktemp("slurm")
    with usual_signals(), (folder / "site.log").open("w") as log:
        process = subprocess.Popen([*namespaces, "bash", SITE, folder, ROOT], stdout=log, stderr=log)
    try:
        end = time.monotonic() + 60
        while not (first_processes := psutil.Process(process.pid).children()):
            time.sleep(0.1)
        site = Site(folder, first_processes[0])
        while site.call("sinfo", "--noheader", "--format=%T %D", check=False).split() != ["idle", "2"]:
            logs = [folder / "site.log", *folder.glob("log/*")]
            assert time.monotonic() < end, "\n".join(log.read_text() for log in logs if log.exists())
            time.sleep(0.5)
        yield site
    finally:
        process.kill()  # all processes of the site end with this one, and with them its mounts and its network
        process.wait()


def test_all_nodes_work_and_a_job_whose_time_is_over_continues(site):
    out_of_time = ("--nodes=2", "--cpus-per-task=2", "--time=30", "--signal=B:USR1@60")
    job = site.submit(*out_of_time, sweep=(*SWEEP, *LONG_TRIALS, "--name", "long"))
    site.wait_for(lambda: site.nodes_with("ray::Worker") == {"node1", "node2"}, job)
    site.wait_for(lambda: site.records("long"), job, seconds=600)
    # Slurm now sends the signal of the time limit at its next look, which is at most 30 seconds away.
    minutes = int(site.field(job, "RunTime").split(":")[1]) + 2
    site.call("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")
    site.wait_for(lambda: site.field(job, "Restarts") == "1", job)
    earlier = {file: file.stat().st_mtime_ns for file in site.records("long")}
    assert 0 < len(earlier) < 21, site.log(job)
    site.call("scontrol", "update", f"JobId={job}", "TimeLimit=30")

    assert site.finish(job) == ("COMPLETED", "0:0"), site.log(job)
    assert site.field(job, "Restarts") == "1"
    assert "continues at step" in site.log(job)
    records = [json.loads(file.read_text()) for file in site.records("long")]
    assert Counter(record["phase"] for record in records) == {"search": 18, "confirm": 3}
    assert {record["status"] for record in records} == {"complete"}
    assert {record["provenance"]["hardware"]["node"] for record in records} == {"node1", "node2"}
    assert len({record["key"] for record in records}) == 21
    assert {file: file.stat().st_mtime_ns for file in earlier} == earlier, "a finished trial ran again"


def test_two_jobs_on_the_same_nodes_do_not_disturb_each_other(site):
    options = ("--nodes=2", "--cpus-per-task=1", "--time=30")
    jobs = [site.submit(*options, sweep=(*SWEEP, "--set", "trials=2", "--name", name)) for name in ("one", "two")]
    assert [site.finish(job) for job in jobs] == [("COMPLETED", "0:0")] * 2, site.log(jobs[0]) + site.log(jobs[1])
    assert [len(site.records(name)) for name in ("one", "two")] == [9, 9]


def test_one_node_offers_what_slurm_gave(site):
    job = site.submit("--nodes=1", "--cpus-per-task=3", "--gpus-per-node=1", "--time=30", sweep=SWEEP)
    site.wait_for(lambda: site.nodes_with("raylet/raylet --raylet"), job)
    ((_, raylet),) = site.command_lines("raylet/raylet --raylet")
    assert ",CPU,3," in raylet and ",GPU,1," in raylet
    assert site.finish(job) == ("FAILED", "2:0")
    assert "PyTorch sees none" in site.log(job).splitlines()[-1], "the GPU is made up"


def test_one_node_completes_a_sweep_and_the_exit_code_of_the_sweep_is_that_of_the_job(site):
    jobs = [site.submit("--nodes=1", "--time=30", sweep=("--space", space, *SWEEP[2:])) for space in ("smoke", "none")]
    assert [site.finish(job) for job in jobs] == [("COMPLETED", "0:0"), ("FAILED", "2:0")], site.log(jobs[0])
    assert len(site.records("smoke-paper")) == 12
    assert "unknown space 'none'" in site.log(jobs[1]).splitlines()[-1]


def test_a_cancelled_job_does_not_come_back(site):
    job = site.submit(
        "--nodes=2", "--cpus-per-task=2", "--time=30", sweep=(*SWEEP, *LONG_TRIALS, "--name", "cancelled")
    )
    site.wait_for(lambda: site.nodes_with("ray::Worker"), job)
    site.call("scancel", job)
    assert site.finish(job)[0] == "CANCELLED"
    assert site.field(job, "Restarts") == "0"
    site.wait_for(lambda: not site.nodes_with("ray"), job)


def test_a_job_that_is_submitted_elsewhere_says_what_to_do(site):
    job = site.submit("--nodes=1", "--chdir=/", sweep=SWEEP, folder="/")
    assert site.finish(job) == ("FAILED", "2:0")
    assert site.log(job) == "slurm.sbatch: / has no sweeps/run.py: call sbatch from the repository's root\n"
