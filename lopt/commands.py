"""The commands as they are typed here: files in a checkout, names of programs where the package is installed."""

import shlex
from pathlib import Path

_CHECKOUT = {
    "sweep": ("python", "sweeps/run.py"),
    "report": ("python", "analysis/report.py"),
    "lopt": ("python", "-m", "lopt"),
}
_INSTALLED = {"sweep": ("lopt-sweep",), "report": ("lopt-report",), "lopt": ("lopt",)}
_ROOT = Path(__file__).resolve().parent.parent


def words(command: str, *arguments: object) -> list[str]:
    """The words of a command line. command: "sweep", "report" or "lopt"."""
    names = _CHECKOUT if (_ROOT / "pyproject.toml").is_file() else _INSTALLED
    return [*names[command], *map(str, arguments)]


def line(command: str, *arguments: object) -> str:
    """The same as one line that a shell reads: what has blanks in it is quoted."""
    return shlex.join(words(command, *arguments))
