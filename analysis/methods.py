"""What each method is called and how it is drawn: as it says of itself, else by a rule."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from analysis import published
from lopt import registry

if TYPE_CHECKING:
    from lopt import methods

_LAST = 1000  # as of a method that states no place
FULL_PROMPT = "prompt_tuning"  # the method that smaller prompts are set against


@cache
def described(method: str) -> methods.Method | published.Method | None:
    """What is known of a method; None of one that is neither here nor published."""
    try:
        known = registry.plugins("lopt.methods")
    except (Exception, SystemExit):  # of another method's file, which is no reason to show no results
        known = {}
    return known.get(method) or published.METHODS.get(method)


def method_label(method: str) -> str:
    return str(getattr(described(method), "title", method))


def in_order(names: Iterable[str]) -> list[str]:
    """Each method once: by the places that they give themselves, those of one place by name."""
    return sorted(set(names), key=lambda name: (getattr(described(name), "place", _LAST), name))
