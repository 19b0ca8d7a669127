"""Machines made of Linux namespaces: each has its own root folder, processes, network, host name, sshd and user.

The root folder is an overlay over this machine's root: what a machine writes goes into a tmpfs of its own, and goes
away with it. All machines hang on one bridge that lies in a namespace, too. So this machine's network does not change,
no machine reaches anything else, and nothing is left when the processes have ended, however that happens.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

GATEWAY = "10.77.0.1"  # the bridge's address
USER = "ubuntu"
_PROGRAMS = ("ip", "sshd", "ssh", "ssh-keygen", "rsync", "sudo", "git", "tmux", "unshare", "nsenter", "setpriv")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SEARCH_PATH = f"{os.environ.get('PATH', '')}:{_PATH}"
# A machine gets its own device files. The real ones are never mounted there, so that nothing can remove them.
_BOOT = r"""
set -e
mount --make-rprivate /
mount -t tmpfs -o size=6g,mode=755 tmpfs {folder}
mkdir {folder}/upper {folder}/work {folder}/root
R={folder}/root
mount -t overlay overlay -o lowerdir=/,upperdir={folder}/upper,workdir={folder}/work $R
mount -t proc proc $R/proc
mount -t sysfs sysfs $R/sys
mount -t tmpfs -o mode=755 tmpfs $R/dev
mknod -m 666 $R/dev/null c 1 3
mknod -m 666 $R/dev/zero c 1 5
mknod -m 666 $R/dev/full c 1 7
mknod -m 666 $R/dev/random c 1 8
mknod -m 666 $R/dev/urandom c 1 9
mknod -m 666 $R/dev/tty c 5 0
mkdir $R/dev/pts $R/dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts $R/dev/pts
ln -s pts/ptmx $R/dev/ptmx
ln -s /proc/self/fd $R/dev/fd
ln -s /proc/self/fd/0 $R/dev/stdin
ln -s /proc/self/fd/1 $R/dev/stdout
ln -s /proc/self/fd/2 $R/dev/stderr
mount -t tmpfs -o size=8g,mode=1777 tmpfs $R/dev/shm
mount -t tmpfs -o mode=755 tmpfs $R/run
mount -t tmpfs -o mode=1777 tmpfs $R/tmp
mkdir -p $R/home/{user}
mount -t tmpfs -o mode=755 tmpfs $R/home/{user}
for path in {visible}; do
    mkdir -p "$R$path"
    mount --bind -o ro "$path" "$R$path"
done
mount -t tmpfs -o mode=755 tmpfs $R/srv
mkdir -p $R/run/sshd $R/{shared_mount}
[ -z "{shared}" ] || mount --bind {shared} $R/{shared_mount}
hostname {name}
exec chroot $R /bin/sh -c {init}
"""
_INIT = r"""
set -e
printf '127.0.0.1 localhost\n{ip} {name}\n' > /etc/hosts
for folder in {parents}; do chmod o+x "$folder"; done
id {user} >/dev/null 2>&1 || useradd --password '*' --no-create-home --home-dir /home/{user} --shell /bin/bash {user}
mkdir -p /home/{user}/.ssh
cp /etc/skel/.bashrc /etc/skel/.profile /home/{user}/
printf '%s\n' {public_key} > /home/{user}/.ssh/authorized_keys
chmod 700 /home/{user} /home/{user}/.ssh
chown -R {user}: /home/{user}
{sudo}
rm -f /etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
/usr/sbin/sshd -o UsePAM=no -o PasswordAuthentication=no
while :; do sleep 3600 & wait $!; done
"""


def missing_programs() -> list[str]:
    """Return which of the programs that these machines need are not installed here."""
    return [name for name in _PROGRAMS if not shutil.which(name, path=_SEARCH_PATH)]


def find_obstacle() -> str:
    """Return why this machine cannot make such machines, or an empty text if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux, to make machines of namespaces"
    if missing := missing_programs():
        return f"needs the programs {', '.join(missing)}"
    return ""


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process that ends when this one does, even if this one is killed."""
    with log.open("wb") as file:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8"},
            start_new_session=True,
        )


def _check(command: list[str], **options: object) -> str:
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)  # type: ignore[call-overload]
    if process.returncode:
        raise RuntimeError(f"{shlex.join(command)}: exit code {process.returncode}: {process.stdout}{process.stderr}")
    return process.stdout


def wait_until(condition, what: str, seconds: float = 60, every: float = 0.2) -> None:
    """Wait until a condition is true; fail if it is not after some seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(every)


class Network:
    """A bridge in a network namespace of its own, and a key pair that opens every machine on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.machines: dict[str, Machine] = {}
        self.key = folder / "key"
        _check(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)])
        # unshare without --fork runs `sleep` itself: the process is the one that holds the namespace.
        self.process = _start(["unshare", "--net", "sleep", "infinity"], folder / "network.log")
        here = os.readlink("/proc/self/ns/net")
        wait_until(lambda: self._namespace() not in (here, ""), "the network namespace")
        self.ip("link", "set", "lo", "up")
        self.ip("link", "add", "lopt0", "type", "bridge")
        self.ip("address", "add", f"{GATEWAY}/16", "dev", "lopt0")
        self.ip("link", "set", "lopt0", "up")
        settings = ("ip_forward=1", "conf.all.send_redirects=0", "conf.lopt0.send_redirects=0")
        for setting in settings:
            name, _, value = setting.partition("=")
            path = f"/proc/sys/net/ipv4/{name.replace('.', '/')}"
            _check(self.inside("sh", "-c", f"echo {value} > {path}"))

    def _namespace(self) -> str:
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/{self.process.pid}/ns/net")
        return ""

    def inside(self, *command: str) -> list[str]:
        """Return a command that runs in the network of the bridge."""
        return ["nsenter", f"--net=/proc/{self.process.pid}/ns/net", *command]

    def ip(self, *words: str) -> None:
        _check(self.inside("ip", *words))

    def machine(self, name: str, ip: str, *, public_ip: str = "", shared: Path | None = None, sudo: bool = True):
        """Start a machine. `shared` is a folder that it sees as /srv/shared-store."""
        self.machines[name] = Machine(self, name, ip, public_ip=public_ip, shared=shared, sudo=sudo)
        return self.machines[name]

    def close(self) -> None:
        for machine in self.machines.values():
            machine.kill()
        self.process.kill()
        self.process.wait()


class Machine:
    """One machine. `root` is its root folder as this machine sees it."""

    def __init__(
        self,
        network: Network,
        name: str,
        ip: str,
        *,
        public_ip: str = "",
        shared: Path | None = None,
        sudo: bool = True,
    ) -> None:
        self.network, self.name, self.ip, self.public_ip = network, name, ip, public_ip
        folder = network.folder / name
        folder.mkdir()
        public_key = network.key.with_suffix(".pub").read_text().strip()
        sudoers = f"echo '{USER} ALL=(ALL) NOPASSWD:ALL' > /etc/sudoers.d/90-{USER}; chmod 440 /etc/sudoers.d/90-{USER}"
        values = {"ip": ip, "name": name, "user": USER, "public_key": shlex.quote(public_key)}
        init = _INIT.format(**values, sudo=sudoers if sudo else "", parents=shlex.join(_closed_parents()))
        boot = _BOOT.format(
            folder=folder, name=name, shared=shared or "", shared_mount="srv/shared-store", init=shlex.quote(init),
            user=USER, visible=shlex.join(str(path) for path in _used_paths() if path.is_relative_to("/tmp")),
        )  # fmt: skip
        self.log = network.folder / f"{name}.log"
        namespaces = ["--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child"]
        self.process = _start(["unshare", *namespaces, "sh", "-c", boot], self.log)
        wait_until(lambda: self._find_init() is not None, f"the machine {name}: {self.log.read_text()}")
        self.init = self._find_init()
        self._connect()
        wait_until(self._is_up, f"sshd on {name}: {self.log.read_text()}")

    def _find_init(self) -> int | None:
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            return int(children[0]) if children else None
        return None

    def _connect(self) -> None:
        port = f"v{self.init}"
        ip = self.network.ip
        ip(
            "link",
            "add",
            port,
            "mtu",
            "1400",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "mtu",
            "1400",
            "netns",
            str(self.init),
        )
        ip("link", "set", port, "master", "lopt0", "up")
        inside = ["nsenter", f"--net=/proc/{self.init}/ns/net", "ip"]
        _check([*inside, "link", "set", "lo", "up"])
        _check([*inside, "link", "set", "eth0", "up"])
        for address in filter(None, (self.ip, self.public_ip)):
            _check([*inside, "address", "add", f"{address}/32", "dev", "eth0"])
            ip("route", "replace", f"{address}/32", "dev", "lopt0")
        _check([*inside, "route", "add", "default", "via", GATEWAY, "dev", "eth0", "onlink", "src", self.ip])

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self.init}/root")

    def _is_up(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"the machine {self.name} has ended: {self.log.read_text()}")
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=2", "BatchMode=yes")
        words = [word for option in options for word in ("-o", option)]
        ssh = ["ssh", "-i", str(self.network.key), *words, f"{USER}@{self.ip}", "true"]
        return subprocess.run(self.network.inside(*ssh), capture_output=True, check=False).returncode == 0

    def command(self, script: str, *, user: str = USER) -> list[str]:
        """Return a command that runs a script in a login shell on the machine."""
        shell = ["env", "-i", f"PATH={_PATH}", "TERM=dumb", "LANG=C.UTF-8"]
        enter = ["nsenter", f"--target={self.init}", "--mount", "--pid", "--net", "--uts", "--ipc", "--root", "--wd=/"]
        return [*enter, *shell, "su", "--login", user, "--command", script]

    def run(self, script: str, *, user: str = USER, check: bool = True, timeout: float = 120):
        """Run a script on the machine and return the finished process, with what it printed in `stdout`."""
        process = subprocess.Popen(
            self.command(script, user=user),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            raise AssertionError(f"{script}: not over after {timeout:g} s:\n{output}") from None
        assert not check or process.returncode == 0, f"{script}: exit code {process.returncode}:\n{output}"
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def kill(self) -> None:
        """Cut the machine off, as if its power failed."""
        with contextlib.suppress(ProcessLookupError, TypeError):
            os.kill(self.init, signal.SIGKILL)
        self.process.kill()
        self.process.wait()


def _used_paths() -> set[Path]:
    """Return the folders that each machine reads: this Python, its packages, and the project."""
    packages = {Path(path) for path in sys.path if path.endswith("-packages")}
    return {Path(sys.base_prefix), *packages, Path(__file__).resolve().parents[2]}


def _closed_parents() -> list[str]:
    """Return the folders on the way to these paths that only their owner may enter."""
    parents = {parent for path in _used_paths() for parent in (path, *path.parents) if parent.is_dir()}
    return sorted(str(parent) for parent in parents if not parent.stat().st_mode & 0o001)


@contextlib.contextmanager
def network(folder: Path) -> Iterator[Network]:
    """A network whose machines all end with the context."""
    new_network = Network(folder)
    try:
        yield new_network
    finally:
        new_network.close()
