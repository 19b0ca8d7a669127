"""The titles and the order of the methods, as the methods declare them, with defaults for the others."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from analysis import published
from lopt import registry

if TYPE_CHECKING:
    from lopt import methods

_DEFAULT_SORT_ORDER = 1000  # for a method that does not declare its own
FULL_PROMPT = "prompt_tuning"  # the method that smaller prompts are compared with


@cache
def find_method(method: str) -> methods.Method | published.Method | None:
    """Return this method of the program or of a publication, or None if neither has one with this name."""
    try:
        plugins = registry.plugins("lopt.methods")
    except (Exception, SystemExit):  # a broken file of a method must not prevent a report
        plugins = {}
    return plugins.get(method) or published.METHODS.get(method)


def method_label(method: str) -> str:
    return str(getattr(find_method(method), "title", method))


def sorted_methods(names: Iterable[str]) -> list[str]:
    """Return each method once, sorted by the `sort_order` that it declares, then by name."""
    return sorted(set(names), key=lambda name: (getattr(find_method(name), "sort_order", _DEFAULT_SORT_ORDER), name))
