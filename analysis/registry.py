"""Find the tables and plots: every module of their packages has a `SPEC` and is known by its file name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from traceback import extract_tb
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from analysis.cells import Group
from analysis.render import Table
from lopt.errors import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, object]  # one row of a figure's data: a number or a text for each column
Spec = TypeVar("Spec", "TableSpec", "PlotSpec")
Line = TypeVar("Line")


@dataclass(frozen=True)
class Missing:
    """Why a table or figure cannot be made from these data, for the reader. A quiet reason is not shown."""

    reason: str
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class Info(Generic[Line]):
    """The content of a table or figure that has one line, bar or point for each of its rows and nothing else."""

    group: Group
    rows: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """A table. `info` computes its content as typed rows; `render` only lays it out.

    Attributes:
        info: takes a Group, or a sequence of them if `across`; returns the table's own info object, or Missing.
        across: whether the table spans tasks. Its `info` then takes all groups of one backbone and number of shots.
        published: whether it shows published numbers. The page then lists what to know about them.
        place: order on the page, low first.
    """

    name: str
    title: str
    info: Callable[[Any], Any]
    render: Callable[[Any], Table]
    across: bool = False
    published: bool = False
    place: int = 1000


@dataclass(frozen=True, kw_only=True)
class PlotSpec:
    """A figure. `info` computes what it shows; `draw` and `caption` only present this, and `data` returns it as rows.

    `info` returns the figure's own info object, or Missing. `place` is its order among the tables and plots of a page,
    low first.
    """

    name: str
    title: str
    info: Callable[[Group], Any]
    draw: Callable[[Any], Figure]
    caption: Callable[[Any], str]
    data: Callable[[Any], list[Row]]
    place: int = 1000


PLUGIN_ERRORS = (Exception, SystemExit)  # what a plugin may raise without ending the report; Ctrl-C still ends it


def scan(package: str, kind: type[Spec], broken: dict[str, str] | None = None) -> dict[str, Spec]:
    """Return the specs of a package by name, which is the name of the module.

    Modules that start with `_` are helpers. To add a table or plot, add one file; no other file is edited.

    Args:
        package: "analysis.tables" or "analysis.plots".
        kind: the type of every `SPEC` in the package.
        broken: receives the modules that cannot be used, by name, with the reason in one line. Without it such a module
            raises.

    Raises:
        TypeError: a module has no `SPEC` of that type, or one with another name. A module's own errors pass through.
    """
    specs: dict[str, Spec] = {}
    for module in iter_modules(import_module(package).__path__):
        if module.name.startswith("_"):
            continue
        try:
            spec = getattr(import_module(f"{package}.{module.name}"), "SPEC", None)
            if not isinstance(spec, kind) or getattr(spec, "name", None) != module.name:
                raise TypeError(f"{package}.{module.name} needs SPEC = {kind.__name__}(name={module.name!r}, ...)")
            if not isinstance(spec.title, str):
                raise TypeError(f"{package}.{module.name} has the title {spec.title!r}, which is not a text")
            if not isinstance(spec.place, int):
                raise TypeError(f"{package}.{module.name} has the place {spec.place!r}, which is not a whole number")
            specs[module.name] = spec
        except PLUGIN_ERRORS as error:
            if broken is None:
                raise
            broken[module.name] = error_line(error, f"{package.replace('.', '/')}/{module.name}.py")
    return specs


def error_line(error: BaseException, file: str) -> str:
    """Return a plugin's error in one line, with the line of its file."""
    lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename.endswith(file)]
    return f"{file}{f', line {lines[-1]}' if lines else ''}: {type(error).__name__}: {one_line(error)}"
