"""Find the plugins of a package: every module in it that has a `SPEC`, by file name."""

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

Row = Mapping[str, object]  # of a figure's data: a number or a text a column
Spec = TypeVar("Spec", "TableSpec", "PlotSpec")
Line = TypeVar("Line")


@dataclass(frozen=True)
class Missing:
    """Why a table or figure cannot be made of these data, for the reader; a quiet one is not worth saying."""

    reason: str
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class Info(Generic[Line]):
    """What a table or figure says that has nothing but a line, bar or point for each of its rows."""

    group: Group
    rows: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """`info` computes what the table says, as typed rows; `render` only lays it out.

    `across`: a table over tasks, whose `info` takes all groups of one backbone (and shots) together. `published`: it
    shows published numbers, with which the page says what to know of them. `place`: on the page, low first.
    """

    name: str
    title: str
    info: Callable[[Any], Any]  # of a Group, or of a sequence of them: its own info object, or Missing
    render: Callable[[Any], Table]
    across: bool = False
    published: bool = False
    place: int = 1000


@dataclass(frozen=True, kw_only=True)
class PlotSpec:
    """`info` computes what the figure shows; `draw` and `caption` only present it, and `data` gives it as rows.

    `place`: on the page, among tables and plots, low first.
    """

    name: str
    title: str
    info: Callable[[Group], Any]  # its own info object, or Missing
    draw: Callable[[Any], Figure]
    caption: Callable[[Any], str]
    data: Callable[[Any], list[Row]]
    place: int = 1000


RAISED = (Exception, SystemExit)  # whatever a plugin raises, or ends the program with; Ctrl-C still ends it


def scan(package: str, kind: type[Spec], broken: dict[str, str] | None = None) -> dict[str, Spec]:
    """The specs of a package by name, which is their file's; modules that start with `_` are helpers. A new table or
    plot is a new file, and no other is edited.

    Args:
        package: "analysis.tables" or "analysis.plots". kind: what a `SPEC` must be there. broken: gets the modules that
            cannot be used, by name, with the reason in one line; without it they raise.

    Raises:
        TypeError: a module without a `SPEC` of that kind, or with one of another name. Whatever a module raises.
    """
    found: dict[str, Spec] = {}
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
            found[module.name] = spec
        except RAISED as error:
            if broken is None:
                raise
            broken[module.name] = fault(error, f"{package.replace('.', '/')}/{module.name}.py")
    return found


def fault(error: BaseException, file: str) -> str:
    """What a plugin raised, in one line, and at which line of its file."""
    lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename.endswith(file)]
    return f"{file}{f', line {lines[-1]}' if lines else ''}: {type(error).__name__}: {one_line(error)}"
