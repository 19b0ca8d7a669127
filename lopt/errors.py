"""How a command reports an error: one line on standard error."""

import argparse
import importlib
import os
import sys
from typing import Any, NoReturn

from lopt.exit_codes import USAGE_ERROR

# Characters kept of a long line. Its beginning says what was wrong, and its end how to mend it.
_HEAD, _TAIL = 700, 290


def one_line(error: object) -> str:
    """Return an error's text as one line without control characters; the middle of a very long text is left out."""
    text = "".join(c if c.isprintable() else "·" for c in " ".join(str(error).split()))
    if len(text) <= _HEAD + _TAIL + 3:
        return text
    tail = text[-_TAIL:]
    whole_words = tail.partition(" ")[2]
    return f"{cut_short(text, _HEAD)} {whole_words if len(whole_words) > _TAIL // 2 else tail}"


def discard_output() -> None:
    """Discard all further output, after a BrokenPipeError (`| head` has ended, or the terminal was closed).

    Otherwise the next print, or Python's exit, would complain.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Parser(argparse.ArgumentParser):
    """An argparse parser that reports an error without the lines of usage above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"error: {one_line(message)}; see {self.prog} --help\n")


def import_optional(module: str, need: str) -> Any:
    """Import and return a module of an optional package.

    Raises:
        ValueError: the package is not installed. The message begins with `need`, such as "export to PEFT needs".
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise ValueError(f"{need} the package {package}: pip install {package}") from None


def cut_short(text: str, most: int = 200) -> str:
    """Return a text cut to `most` characters. It ends with a whole word, unless its last word is very long."""
    if len(text) <= most:
        return text
    head = text[: most - 2]
    whole_words = head.rsplit(None, 1)[0] if not text[most - 2].isspace() else head
    return f"{(whole_words if len(whole_words) > most // 2 else head).rstrip()} …"


def short_repr(value: object) -> str:
    """Return the repr of a value from a user's file, cut to about 60 characters."""
    return repr(cut_short(value, 60)) if isinstance(value, str) else cut_short(repr(value), 60)


def first_line_of_error(error: BaseException) -> str:
    """Return the first line of another library's error, cut short, or the error's type when it has no text."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return cut_short(" ".join(lines[0].split()))


def truncate(text: str, room: int) -> str:
    """Return a text cut to `room` characters, with an ellipsis for the end that is left out."""
    return text if len(text) <= room else f"{text[: room - 1]}…"
