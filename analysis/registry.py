"""Find the plugins of a package: every module in it that has a `SPEC`, by file name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, TypeVar

from analysis.cells import Group
from analysis.render import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, object]  # of a figure's data: a number or a text a column
Spec = TypeVar("Spec", "TableSpec", "PlotSpec")


@dataclass(frozen=True)
class Missing:
    """Why a table or figure cannot be made of these data, for the reader; a quiet one is not worth saying."""

    reason: str
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """`info` computes what the table says, as typed rows; `render` only lays it out.

    `across`: a table over tasks, whose `info` takes all groups of one backbone (and shots) together.
    """

    name: str
    title: str
    info: Callable[[Any], Any]  # of a Group, or of a sequence of them: its own info object, or Missing
    render: Callable[[Any], Table]
    across: bool = False


@dataclass(frozen=True, kw_only=True)
class PlotSpec:
    """`info` computes what the figure shows; `draw` and `caption` only present it, and `data` gives it as rows."""

    name: str
    title: str
    info: Callable[[Group], Any]  # its own info object, or Missing
    draw: Callable[[Any], Figure]
    caption: Callable[[Any], str]
    data: Callable[[Any], list[Row]]


def scan(package: str, kind: type[Spec]) -> dict[str, Spec]:
    """The specs of a package by name, which is their file's; modules that start with `_` are helpers. A new table or
    plot is a new file, and no other is edited.

    Args:
        package: "analysis.tables" or "analysis.plots". kind: what a `SPEC` must be there.

    Raises:
        TypeError: a module without a `SPEC` of that kind, or with one of another name.
    """
    found: dict[str, Spec] = {}
    for module in iter_modules(import_module(package).__path__):
        if module.name.startswith("_"):
            continue
        spec = getattr(import_module(f"{package}.{module.name}"), "SPEC", None)
        if not isinstance(spec, kind) or getattr(spec, "name", None) != module.name:
            raise TypeError(f"{package}.{module.name} needs SPEC = {kind.__name__}(name={module.name!r}, ...)")
        found[module.name] = spec
    return found
