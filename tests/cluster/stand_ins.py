"""What the machines of these tests have in place of what would need the internet, a package index or a kernel's NFS.

    python3 -m venv, pip install   make an environment that borrows the packages of the tests' own environment
    apt-get                        installs nothing
    exportfs, mount -t nfs4        share a folder of this machine, and refuse an address that the export does not name

Each call is written to /var/log/stand-ins, one line a call. If the file /etc/fail-pip exists, pip fails.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.cluster.machines import Machine

LOG = "/var/log/stand-ins"
_LOG_CALL = f'echo "$(basename "$0") $*" >> {LOG}\n'

_PYTHON = """#!/bin/bash
[ "$1 $2" = "-m venv" ] || exec {python} "$@"
{python} -m venv --without-pip "$3" || exit
printf '%s\\n' {packages} > "$3"/lib/python{version}/site-packages/borrowed.pth
cp /usr/local/lib/stand-in-pip "$3/bin/pip"
"""
_PIP = """#!/bin/bash
{log_call}
if [ -e /etc/fail-pip ]; then echo "ERROR: No matching distribution found for torch==9.9.9" >&2; exit 1; fi
[ -f constraints.txt ] && [ -f pyproject.toml ] || {{ echo "pip: no project here" >&2; exit 1; }}
bin=$(dirname "$0")
pwd > "$bin"/../lib/python{version}/site-packages/project.pth
printf '#!%s\\nimport sys\\nfrom ray.scripts.scripts import main\\nsys.exit(main())\\n' "$bin/python" > "$bin/ray"
chmod +x "$bin/ray"
"""
_EXPORTFS = """#!/bin/bash
{log_call}
chown --reference=/srv/lopt /srv/shared-store
cp -a /srv/lopt/. /srv/shared-store/
mountpoint -q /srv/lopt || /usr/bin/mount --bind /srv/shared-store /srv/lopt
cat /etc/exports.d/*.exports > /srv/shared-store/.exports
"""
_MOUNT = """#!/bin/bash
[ "$1 $2" = "-t nfs4" ] || exec /usr/bin/mount "$@"
{log_call}
{python} - <<'END' || {{ echo "mount.nfs4: access denied by server while mounting ${{@: -2:1}}" >&2; exit 32; }}
import ipaddress, pathlib, re
clients = re.findall(r"([0-9./]+)\\(", pathlib.Path("/srv/shared-store/.exports").read_text())
assert any(ipaddress.ip_address("{ip}") in ipaddress.ip_network(client) for client in clients), clients
END
exec /usr/bin/mount --bind /srv/shared-store "${{@: -1}}"
"""


def install(machine: Machine) -> None:
    """Write the stand-ins into a machine."""
    base = f"{sys.base_prefix}/bin/python3"
    packages = " ".join(f"'{path}'" for path in sys.path if path.endswith("-packages"))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    values = {"python": base, "packages": packages, "version": version, "log_call": _LOG_CALL, "ip": machine.ip}
    scripts = {
        "local/bin/python3": _PYTHON,
        "local/lib/stand-in-pip": _PIP,
        "local/sbin/apt-get": "#!/bin/bash\n{log_call}",
        "local/sbin/exportfs": _EXPORTFS,
        "local/sbin/mount": _MOUNT,
    }
    for name, text in scripts.items():
        path = machine.root / "usr" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(**values))
        path.chmod(0o755)
    log = machine.root / LOG.lstrip("/")
    log.touch()
    log.chmod(0o666)


def calls(machine: Machine, program: str) -> list[str]:
    """Return the calls of one stand-in on a machine, each as a line."""
    lines = (machine.root / LOG.lstrip("/")).read_text().splitlines()
    return [line for line in lines if line.split()[0] == program]


def fail_installs(machine: Machine) -> None:
    """Let every later `pip install` on the machine fail."""
    Path(machine.root / "etc/fail-pip").touch()
