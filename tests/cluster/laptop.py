"""The user's own machine: a fresh clone of the project, a token, and the command `ray`."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.machines import USER, Machine, Network

ROOT = Path(__file__).resolve().parents[2]
HOME = f"/home/{USER}"
PROJECT = f"{HOME}/project"
_RAY = "import sys; from ray.scripts.scripts import main; sys.exit(main())"


class Laptop:
    """A machine from which the tests call `ray`. It has the project as git would clone it, with today's changes."""

    def __init__(self, network: Network, environment: Mapping[str, str] | None = None) -> None:
        self.machine: Machine = network.machine("laptop", "10.77.0.2")
        home = self.machine.root / HOME.lstrip("/")
        for name in ("key", "key.pub"):
            (home / ".ssh" / name).write_bytes((network.folder / name).read_bytes())
            (home / ".ssh" / name).chmod(0o600)
        copy_project(self.machine, PROJECT)
        (home / ".ray").mkdir()
        (home / ".ray/auth_token").write_text("0123456789abcdef" * 4)
        self.machine.run(f"chown -R {USER}: {HOME}", user="root")
        packages = ":".join(path for path in sys.path if path.endswith("-packages"))
        values = {
            "PYTHONPATH": packages,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            **(environment or {}),
        }
        exports = "; ".join(f"export {name}={shlex.quote(value)}" for name, value in values.items())
        self._prefix = f"cd {PROJECT} && {exports}; "
        self._python = f"{sys.base_prefix}/bin/python3"

    def ray_script(self, *words: str, without_token: bool = False) -> str:
        """Return a shell script that calls `ray` as the user would."""
        mode = "export RAY_AUTH_MODE=disabled; " if without_token else ""
        style = ["--log-style=pretty"] if words[0] in ("up", "down", "exec", "submit") else []
        arguments = shlex.join([words[0], *style, *words[1:]])
        return f"{self._prefix} {mode} exec {self._python} -c {shlex.quote(_RAY)} {arguments}"

    def ray(
        self, *words: str, check: bool = True, timeout: float = 240, without_token: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Call `ray` and return the finished process, without colours in its output."""
        process = self.machine.run(self.ray_script(*words, without_token=without_token), check=check, timeout=timeout)
        process.stdout = re.sub(r"\x1b\[[0-9;]*m", "", process.stdout).replace("\r", "")
        return process

    def start_ray(self, *words: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a call of `ray` that goes on while the test does something else."""
        with log.open("wb") as file:
            return subprocess.Popen(
                self.machine.command(self.ray_script(*words)),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def write_cluster_file(self, name: str, replacements: Mapping[str, str]) -> str:
        """Fill in a cluster file of the project as its user must, and return the name of the new file.

        Raises:
            AssertionError: The file lacks a text that is to be replaced, or a placeholder is left.
        """
        text = (ROOT / name).read_text(encoding="utf-8")
        for old, new in replacements.items():
            assert old in text, f"{name} has no {old}"
            text = text.replace(old, new)
        commands = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        assert "REPLACE-ME" not in commands
        self.machine.run(f"mkdir -p {HOME}/files")
        path = f"{HOME}/files/{Path(name).name}"
        (self.machine.root / path.lstrip("/")).write_text(text, encoding="utf-8")
        return path


def copy_project(machine: Machine, target: str) -> None:
    """Clone the project into a folder of a machine, and copy the working tree's changes."""
    machine.run(f"git clone --quiet --depth=1 file://{ROOT} {target}", user="root")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    copy = f"rsync --archive --from0 --files-from=- --ignore-missing-args {ROOT}/ {target}/; chown -R {USER}: {target}"
    subprocess.run(machine.command(copy, user="root"), input=listed, check=True, timeout=60)
