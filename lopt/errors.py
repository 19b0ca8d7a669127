"""Reports errors of commands, in one line on standard error, and shortens texts that are too long for a line."""

import argparse
import importlib
import os
import sys
from typing import Any, NoReturn

from lopt.exit_codes import USAGE_ERROR

# Characters kept at the two ends of a very long line. Its beginning says what was wrong, and its end how to fix it.
_HEAD_LENGTH, _TAIL_LENGTH = 700, 290


def to_one_line(error: object) -> str:
    """Return an error's text as one line without control characters, and without the middle if it is very long."""
    text = "".join(character if character.isprintable() else "·" for character in " ".join(str(error).split()))
    if len(text) <= _HEAD_LENGTH + _TAIL_LENGTH + 3:
        return text
    tail = text[-_TAIL_LENGTH:]
    whole_words = tail.partition(" ")[2]
    return f"{cut_after_word(text, _HEAD_LENGTH)} {whole_words if len(whole_words) > _TAIL_LENGTH // 2 else tail}"


def discard_output() -> None:
    """Discard all further output. Call this after a BrokenPipeError: `| head` has ended, or the terminal was closed.

    Otherwise the next print, or Python's exit, would fail with the same error.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Parser(argparse.ArgumentParser):
    """An argparse parser that reports an error in one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"error: {to_one_line(message)}; see {self.prog} --help\n")


def import_optional(module: str, message_start: str) -> Any:
    """Import and return a module of an optional package.

    Args:
        message_start: how the error message begins, such as "export to PEFT needs".

    Raises:
        ValueError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package_name = module.partition(".")[0]
        raise ValueError(f"{message_start} the package {package_name}: pip install {package_name}") from None


def cut_after_word(text: str, max_length: int = 200) -> str:
    """Return a text cut to `max_length` characters, after a whole word unless that word is very long."""
    if len(text) <= max_length:
        return text
    head = text[: max_length - 2]
    whole_words = head.rsplit(None, 1)[0] if not text[max_length - 2].isspace() else head
    return f"{(whole_words if len(whole_words) > max_length // 2 else head).rstrip()} …"


def short_repr(value: object) -> str:
    """Return the repr of a value from a user's file, cut to about 60 characters."""
    return repr(cut_after_word(value, 60)) if isinstance(value, str) else cut_after_word(repr(value), 60)


def first_line_of_error(error: BaseException) -> str:
    """Return the first line of another library's error, cut short, or the error's type when it has no text."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return cut_after_word(" ".join(lines[0].split()))


def cut_to_length(text: str, max_length: int) -> str:
    """Return a text cut to `max_length` characters, even within a word. An ellipsis stands for what was cut off."""
    return text if len(text) <= max_length else f"{text[: max_length - 1]}…"
