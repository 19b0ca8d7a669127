"""The title and the order of each method: those that the method declares, else defaults."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from analysis import published
from lopt import registry

if TYPE_CHECKING:
    from lopt import methods

_DEFAULT_PLACE = 1000  # the place of a method that declares none
FULL_PROMPT = "prompt_tuning"  # the method that smaller prompts are compared with


@cache
def find_method(method: str) -> methods.Method | published.Method | None:
    """Return the method that this program has or a publication describes; None for any other name."""
    try:
        plugins = registry.plugins("lopt.methods")
    except (Exception, SystemExit):  # one broken method file must not keep the results from being shown
        plugins = {}
    return plugins.get(method) or published.METHODS.get(method)


def method_label(method: str) -> str:
    return str(getattr(find_method(method), "title", method))


def sorted_methods(names: Iterable[str]) -> list[str]:
    """Return each method once, sorted by the place that it declares, then by name."""
    return sorted(set(names), key=lambda name: (getattr(find_method(name), "place", _DEFAULT_PLACE), name))
