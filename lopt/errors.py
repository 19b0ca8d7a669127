"""What a command says of an error: one line on standard error."""

import argparse
import importlib
import os
import sys
from typing import Any, NoReturn

from lopt.exit_codes import USAGE_ERROR

_HEAD, _TAIL = 700, 290  # characters kept of a long line: what came is at its beginning, how to mend it at its end


def one_line(error: object) -> str:
    """An error's text in one line that cannot steer a terminal; of a very long one the middle is left out."""
    text = "".join(c if c.isprintable() else "·" for c in " ".join(str(error).split()))
    if len(text) <= _HEAD + _TAIL + 3:
        return text
    tail = text[-_TAIL:]
    words = tail.partition(" ")[2]
    return f"{cut_short(text, _HEAD)} {words if len(words) > _TAIL // 2 else tail}"


def reader_has_gone() -> None:
    """After a BrokenPipeError (`| head` has seen enough, the terminal is closed): what is printed from now on goes
    nowhere, so that neither the next line nor Python's exit complains."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Parser(argparse.ArgumentParser):
    """argparse, without the lines of usage above its error."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"error: {one_line(message)}; see {self.prog} --help\n")


def imported(module: str, need: str) -> Any:
    """A module of a package that may be missing; ValueError then says how to get it, after what needs it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise ValueError(f"{need} the package {package}: pip install {package}") from None


def cut_short(text: str, most: int = 200) -> str:
    """A text of at most so many characters, which ends with a whole word wherever words are of usual length."""
    if len(text) <= most:
        return text
    head = text[: most - 2]
    words = head.rsplit(None, 1)[0] if not text[most - 2].isspace() else head
    return f"{(words if len(words) > most // 2 else head).rstrip()} …"


def short_repr(value: object) -> str:
    """A value of somebody's file as Python writes it, a long one cut short."""
    return repr(cut_short(value, 60)) if isinstance(value, str) else cut_short(repr(value), 60)


def reason_of(error: BaseException) -> str:
    """What another library says of its error: the first line, cut short; the error's name where it says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return cut_short(" ".join(lines[0].split()))


def shortened(text: str, room: int) -> str:
    """A text in so many characters, its end left out."""
    return text if len(text) <= room else f"{text[: room - 1]}…"
