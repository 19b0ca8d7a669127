"""How the user types the commands: as files in a checkout, or as programs where the package is installed."""

import shlex
from pathlib import Path

_CHECKOUT_COMMANDS = {
    "sweep": ("python", "sweeps/run.py"),
    "report": ("python", "analysis/report.py"),
    "lopt": ("python", "-m", "lopt"),
}
_INSTALLED_COMMANDS = {"sweep": ("lopt-sweep",), "report": ("lopt-report",), "lopt": ("lopt",)}
_ROOT = Path(__file__).resolve().parent.parent


def command_words(command: str, *arguments: object) -> list[str]:
    """Return the words of a command line. `command` is "sweep", "report" or "lopt"."""
    words_by_command = _CHECKOUT_COMMANDS if (_ROOT / "pyproject.toml").is_file() else _INSTALLED_COMMANDS
    return [*words_by_command[command], *map(str, arguments)]


def command_line(command: str, *arguments: object) -> str:
    """Return a command as one line for a shell. Words with blanks are quoted."""
    return shlex.join(command_words(command, *arguments))
