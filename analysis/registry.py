"""Find the tables and plots. Each of them is a module with a `SPEC`, and its name is the name of the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from traceback import extract_tb
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from analysis.cells import Group
from analysis.render import Table
from lopt.errors import to_one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, object]  # one row of a figure's data: a number or a text for each column
Spec = TypeVar("Spec", "TableSpec", "PlotSpec")
RowType = TypeVar("RowType")


@dataclass(frozen=True)
class Missing:
    """Why a table or figure cannot be made from these data. The report shows the reason unless `quiet` is true."""

    reason: str
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class Info(Generic[RowType]):
    """The content of a table or figure that consists of rows only. Each row becomes one line, bar or point."""

    group: Group
    rows: tuple[RowType, ...]


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """A table. `info` computes its content as typed rows; `render` only lays it out.

    Attributes:
        info: takes a Group, or a sequence of them if `across`; returns the table's own info object, or Missing.
        across: whether the table spans tasks. If so, its `info` takes all groups of one backbone and number of shots.
        published: whether the table shows published numbers. If so, the page says what to know about them.
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

    Attributes:
        info: takes a Group; returns the figure's own info object, or Missing.
        place: order on the page, among tables and plots, low first.
    """

    name: str
    title: str
    info: Callable[[Group], Any]
    draw: Callable[[Any], Figure]
    caption: Callable[[Any], str]
    data: Callable[[Any], list[Row]]
    place: int = 1000


PLUGIN_ERRORS = (Exception, SystemExit)  # a plugin that raises one of these is left out; Ctrl-C ends the report


def scan(package: str, spec_type: type[Spec], errors: dict[str, str] | None = None) -> dict[str, Spec]:
    """Return the specs of a package by name. The name of a spec is that of its module.

    Modules that start with `_` are helpers. To add a table or plot, add one file; no other file is edited.

    Args:
        package: "analysis.tables" or "analysis.plots".
        spec_type: the type of every `SPEC` in the package.
        errors: receives the error of each module that cannot be used, in one line, by the module's name. If it is None,
            the error is raised.

    Raises:
        TypeError: `errors` is None, and a module has no `SPEC` of that type, or its `SPEC` has another name. An error
            that the module itself raises is then not caught either.
    """
    specs: dict[str, Spec] = {}
    for module in iter_modules(import_module(package).__path__):
        if module.name.startswith("_"):
            continue
        try:
            spec = getattr(import_module(f"{package}.{module.name}"), "SPEC", None)
            if not isinstance(spec, spec_type) or getattr(spec, "name", None) != module.name:
                raise TypeError(f"{package}.{module.name} needs SPEC = {spec_type.__name__}(name={module.name!r}, ...)")
            if not isinstance(spec.title, str):
                raise TypeError(f"{package}.{module.name} has the title {spec.title!r}, which is not a text")
            if not isinstance(spec.place, int):
                raise TypeError(f"{package}.{module.name} has the place {spec.place!r}, which is not a whole number")
            specs[module.name] = spec
        except PLUGIN_ERRORS as error:
            if errors is None:
                raise
            errors[module.name] = error_line(error, f"{package.replace('.', '/')}/{module.name}.py")
    return specs


def error_line(error: BaseException, file: str) -> str:
    """Return a plugin's error as one line of text, with the plugin's file and the number of the line in it."""
    line_numbers = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename.endswith(file)]
    return f"{file}{f', line {line_numbers[-1]}' if line_numbers else ''}: {type(error).__name__}: {to_one_line(error)}"
