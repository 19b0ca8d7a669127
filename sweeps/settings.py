"""`--set key=value`: a space with other values, lists or ranges."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lopt import backbones, methods, tasks
from lopt.config import FIELDS
from lopt.ranges import Choice, Range, Real, Whole
from lopt.registry import nearest
from sweeps.space import SPACE_FIELDS, Cell, Space, searched


def with_settings(space: Space, settings: Mapping[str, str]) -> Space:
    """The space with `--set key=value` applied, in their order.

    A list (`rank=1,2,5`) replaces the values of an axis, or becomes the choice of a searched field; one value fixes
    it; `low:high` is the range of a searched number. Other fields take one value.

    Raises:
        ValueError: an unknown key (naming the nearest), a value of the wrong kind, a list where one value goes.
    """
    for key, text in settings.items():
        if not text.strip():
            raise ValueError(f"--set {key}= gives no value; give one, or none for what is done without it")
        space = _with_setting(space, key, text)
    space.check()
    return space


def with_seeds(space: Space, seeds: int | None) -> Space:
    """The space with another number of confirm seeds; None leaves it."""
    return space if seeds is None else dataclasses.replace(space, confirm_seeds=seeds)


def _with_setting(space: Space, key: str, text: str) -> Space:
    names = {name for cell in space.cells for name in cell.search}
    own = {f"{name}.{option}" for name in _methods(space) & {*methods.names()} for option in methods.get(name).OPTIONS}
    valid = sorted({*FIELDS, *methods.options(), *SPACE_FIELDS, *space.axes, *names} - _NEVER)
    if key not in valid and key not in own:
        raise ValueError(f"unknown key {key!r} in --set; valid: {', '.join(valid)}.{nearest(key, valid)}")
    if key in SPACE_FIELDS:
        return dataclasses.replace(space, **{key: _value(text)})
    if key in ("template", "label_words"):  # text that may hold commas or look like a number
        value: Any = tuple(text.split(",")) if key == "label_words" else text
        return dataclasses.replace(space, base={**space.base, key: value})
    _refuse_foreign_option(space, key)
    values = tuple(_placed(key, _value(part)) for part in text.split(","))
    if None in values and (key in space.axes or len(values) > 1):
        raise ValueError(f"{key} is {text!r}; a list holds no empty value and no none")
    if key in space.axes:
        return dataclasses.replace(space, axes={**space.axes, key: values})
    is_searched = any(_names(cell, key) for cell in space.cells)
    if is_searched and ":" in text:
        return _with_range(space, key, _range(key, text))
    if any(key in cell.fixed for cell in space.cells):
        raise ValueError(f"{key} is fixed by the cells of space {space.name}; set a field that it leaves open")
    if len(values) == 1:
        fixed = _without_search(space, key, values[0]) if is_searched else space
        return dataclasses.replace(fixed, base={**fixed.base, key: values[0]})
    if is_searched:
        return _with_range(space, key, _made(key, Choice, values))
    lists = sorted({*space.axes, *names})
    raise ValueError(
        f"{key} takes one value in space {space.name}, not {text!r}; lists are valid for {', '.join(lists)}"
    )


_NEVER = {"options", "seed", "data_revision", "model_revision"}


def _names(cell: Cell, key: str) -> list[str]:
    """The searched names that a key stands for: `lora.rank` for itself, `rank` for every method's."""
    return [key] if key in cell.search else [] if "." in key else searched(cell, key)


def _methods(space: Space) -> set[str]:
    """All methods that a space's trials may have."""
    found = {str(space.base["method"])} if "method" in space.base else set()
    for cell in space.cells:
        made = cell.search.get("method")
        found |= {str(v) for v in made.values} if isinstance(made, Choice) else set()
        found |= {str(cell.fixed["method"])} if "method" in cell.fixed else set()
    return found


def _refuse_foreign_option(space: Space, key: str) -> None:
    """An option goes to the methods that have it; one at least must."""
    if key in methods.options() and key not in FIELDS:
        present = sorted(_methods(space))
        if not any(key in methods.get(name).OPTIONS for name in present if name in methods.names()):
            owners = ", ".join(name for name in methods.names() if key in methods.get(name).OPTIONS)
            raise ValueError(f"{key} is an option of {owners}; space {space.name} runs {', '.join(present)}")


def _placed(key: str, value: Any) -> Any:
    """A folder of the user's as an absolute path, for workers run elsewhere; other values as they are."""
    if key not in ("task", "backbone") or not isinstance(value, str):
        return value
    marker = {"task": "task.toml", "backbone": "config.json"}[key]
    path = Path(os.path.expanduser(value))
    built_in = tasks.names() if key == "task" else backbones.names()
    return str(path.resolve()) if value not in built_in and os.path.isfile(path / marker) else value


def _range(key: str, text: str) -> Range:
    parts = [_value(part) for part in text.split(":")]
    if len(parts) != 2 or not all(isinstance(p, int | float) for p in parts):
        raise ValueError(f"{key} is {text!r}; a range is low:high, as in learning_rate=0.01:0.5")
    return _made(key, Real if key.endswith("learning_rate") else Whole, *parts, True)


def _made(key: str, kind: Callable[..., Range], *values: Any) -> Range:
    try:
        return kind(*values)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _with_range(space: Space, key: str, made: Range) -> Space:
    def change(cell: Cell) -> Cell:
        names = _names(cell, key)
        search = {**cell.search, **dict.fromkeys(names, made)}
        first = tuple(p for p in cell.first if all(p.get(name) is None or p[name] in made for name in names))
        return dataclasses.replace(cell, search=search, first=first)

    return _map_cells(space, change)


def _without_search(space: Space, key: str, value: Any) -> Space:
    """The space with a searched field fixed. With the method fixed, its own ranges are the only ones."""

    def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
        if key != "method":
            return dict(values)
        mine = f"{value}."
        return {n.removeprefix(mine): v for n, v in values.items() if "." not in n or n.startswith(mine)}

    def change(cell: Cell) -> Cell:
        names = _names(cell, key)
        search = renamed({name: r for name, r in cell.search.items() if name not in names})
        points = (p for p in cell.first if key != "method" or p.get(key, value) == value)
        first = tuple(renamed({name: v for name, v in point.items() if name not in names}) for point in points)
        return dataclasses.replace(cell, search=search, first=tuple(p for p in first if p))

    return _map_cells(space, change)


def _map_cells(space: Space, change: Callable[[Cell], Cell]) -> Space:
    grid = space.grid
    return dataclasses.replace(space, grid=lambda axes: tuple(change(cell) for cell in grid(axes)))


def _value(text: str) -> Any:
    text = text.strip()
    if text.lower() in ("none", ""):
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
