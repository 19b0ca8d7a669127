"""Plugins: one module of a package, one `SPEC`. To be found a plugin needs no list."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache
from typing import Any


def nearest(name: object, valid: Iterable[str]) -> str:
    """' Did you mean …?' when a valid name is close to `name`, else ''."""
    close = difflib.get_close_matches(str(name), list(valid), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


@cache
def plugins(package: str) -> dict[str, Any]:
    """Every `SPEC` of the modules of `package` by its `name`, sorted; modules that start with `_` are helpers. Found
    once a process.

    Raises:
        ValueError: two modules have one name, or one has no `SPEC`.
        ImportError: the package or a module cannot be imported.
    """
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if module.name.startswith("_"):
            continue
        spec = getattr(importlib.import_module(f"{package}.{module.name}"), "SPEC", None)
        if spec is None:
            raise ValueError(f"{package}.{module.name} has no SPEC: give it one, or a name that begins with _")
        if spec.name in found:
            raise ValueError(f"two modules of {package} are both named {spec.name!r}: rename one of them")
        found[spec.name] = spec
    return dict(sorted(found.items()))


def find(package: str, name: object, kind: str) -> Any:
    """The `SPEC` named `name`.

    Raises:
        ValueError: unknown name; the message lists the valid ones and names the nearest.
    """
    specs = plugins(package)
    if not isinstance(name, str) or name not in specs:
        raise ValueError(f"unknown {kind} {name!r}; valid: {', '.join(specs)}.{nearest(name, specs)}")
    return specs[name]
