"""`--set key=value`: a space with other values, lists or ranges."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lopt import backbones, methods, tasks
from lopt.config import FIELDS, TrialConfig
from lopt.ranges import Choice, Range, Real, Whole
from lopt.registry import nearest
from sweeps.planning.check_space import check_space
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
    check_space(space)
    return space


def with_seeds(space: Space, seeds: int | None) -> Space:
    """The space with another number of confirm seeds; None leaves it."""
    return space if seeds is None else dataclasses.replace(space, confirm_seeds=seeds)


def _with_setting(space: Space, key: str, text: str) -> Space:
    names = {name for cell in space.cells for name in cell.search}
    method, dot, field = key.rpartition(".")
    if dot and key not in names and field in names and _methods(space) == {method}:
        key = field  # --set method=lora came first: what is searched is then LoRA's own
    own = {f"{name}.{option}" for name in _methods(space) & {*methods.names()} for option in methods.get(name).OPTIONS}
    valid = sorted({*FIELDS, *methods.options(), *SPACE_FIELDS, *space.axes, *names} - _NEVER)
    if key not in valid and key not in own:
        raise ValueError(f"unknown key {key!r} in --set; valid: {', '.join(valid)}.{nearest(key, valid)}")
    if key in SPACE_FIELDS:
        value: Any = text.strip() if key in ("sampler", "stopping") else _value(text)
        return dataclasses.replace(space, **{key: value})
    if key in ("template", "label_words"):  # text that may hold commas or look like a number
        value = tuple(text.split(",")) if key == "label_words" else text
        return dataclasses.replace(space, base={**space.base, key: value})
    _refuse_foreign_option(space, key)
    values = tuple(_placed(key, _value(part)) for part in text.split(","))
    if None in values and (key in space.axes or len(values) > 1):
        raise ValueError(f"{key} is {text!r}; a list holds no empty value and no none")
    if key in space.axes and _ends(text):
        raise ValueError(
            f"{key} is {text!r}, a range; it is an axis of space {space.name}: give a list, as in {key}=1,2"
        )
    if key in space.axes:
        return dataclasses.replace(space, axes={**space.axes, key: values})
    ranges = [cell.search[name] for cell in space.cells for name in _names(cell, key)]
    if ":" in text and any(_of_numbers(searched) for searched in ranges):
        return _with_search(space, key, partial(_range, key, text))
    if any(key in cell.fixed for cell in space.cells):
        raise ValueError(
            f"{key} is fixed by the cells of space {space.name}. --set takes {_open(space)}; a space file of your own "
            "can have other cells (docs/your-own.md)"
        )
    if key not in ("task", "backbone") and _ends(text):
        raise ValueError(
            f"{key} is {text!r}, a range, but space {space.name} does not search it: give one value. --set takes "
            f"{_open(space)}; a space file of your own can search {key} (docs/your-own.md)"
        )
    if len(values) == 1:
        fixed = _without_search(space, key, values[0]) if ranges else space
        return dataclasses.replace(fixed, base={**fixed.base, key: values[0]})
    if ranges:
        return _with_search(space, key, lambda name, before: _made(key, Choice, values))
    lists = sorted({*space.axes, *names})
    raise ValueError(
        f"{key} takes one value in space {space.name}, not {text!r}; lists are valid for {', '.join(lists)}"
    )


def _open(space: Space) -> str:
    """What of a space `--set` can change, in words."""
    names = {name for cell in space.cells for name in cell.search}
    taken = names.union(space.axes, *(cell.fixed for cell in space.cells))
    free = [name for name in ("max_steps", "batch_size", "placement", "backbone", "task") if name not in taken]
    parts = [
        ("lists for its axes", sorted(space.axes)),
        ("lists and ranges for what it searches", sorted(names)),
        ("one value for other fields", [*free[:3], "…"]),
    ]
    return ", ".join(f"{what} ({', '.join(some)})" for what, some in parts if some)


_NEVER = {"options", "seed", "data_revision", "model_revision"}


def _names(cell: Cell, key: str) -> list[str]:
    """The searched names that a key stands for: `lora.rank` for itself, `rank` for every method's."""
    return [key] if key in cell.search else [] if "." in key else searched(cell, key)


def _methods(space: Space) -> set[str]:
    """All methods that a space's trials may have."""
    fixed = (values["method"] for values in (space.base, *(c.fixed for c in space.cells)) if "method" in values)
    choices = (cell.search.get("method") for cell in space.cells)
    return {*map(str, fixed), *(str(v) for choice in choices if isinstance(choice, Choice) for v in choice.values)}


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
    marker, built_in = ("task.toml", tasks.names()) if key == "task" else ("config.json", backbones.names())
    path = Path(os.path.expanduser(value))
    return str(path.resolve()) if value not in built_in and os.path.isfile(path / marker) else value


def _ends(text: str) -> list[Any]:
    """The two numbers of `low:high`; empty where the text is something else."""
    ends = [_value(part) for part in text.split(":")]
    return ends if len(ends) == 2 and all(isinstance(end, int | float) for end in ends) else []


def _of_numbers(searched: Range) -> bool:
    return not isinstance(searched, Choice) or all(isinstance(v, int | float) for v in searched.values)


def _range(key: str, text: str, name: str, before: Range) -> Range:
    """Another range of a searched name, of the kind and the scale of the one before.

    A list says no scale: it becomes what the method's own range is, else logarithmic where that is possible.
    """
    ends = _ends(text)
    if not ends:
        raise ValueError(f"{key} is {text!r}; a range is low:high, as in learning_rate=0.01:0.5")
    log = ends[0] > 0 and _is_log(name) if isinstance(before, Choice) else before.log
    if log and ends[0] <= 0:
        raise ValueError(f"{key} is {text!r}, but it is searched on a logarithmic scale ({before}): give low above 0")
    return _made(key, Real if _is_real(name, before) else Whole, *ends, log)


def _is_log(name: str) -> bool:
    """Whether the methods search a name on a logarithmic scale; `lora.rank` asks LoRA alone."""
    method, _, field = name.rpartition(".")
    asked = [method] if method in methods.names() else methods.names()
    ranges = (methods.get(each).ranges.get(field) for each in asked)
    return all(usual.log for usual in ranges if isinstance(usual, Real | Whole))


def _is_real(name: str, before: Range) -> bool:
    """Whether a searched name takes real numbers; a list of whole ones does not say so."""
    if not isinstance(before, Choice):
        return isinstance(before, Real)
    field = name.rpartition(".")[2]
    if field in FIELDS:
        return "float" in str(TrialConfig.__dataclass_fields__[field].type)
    defaults = [methods.get(each).OPTIONS.get(field) for each in methods.names()]
    return any(isinstance(value, float) for value in (*defaults, *before.values))


def _made(key: str, kind: Callable[..., Range], *values: Any) -> Range:
    try:
        return kind(*values)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _with_search(space: Space, key: str, range_of: Callable[[str, Range], Range]) -> Space:
    """The space with other ranges of a searched name; `range_of` makes each of the one before."""

    def change(cell: Cell) -> Cell:
        ranges = {name: range_of(name, cell.search[name]) for name in _names(cell, key)}
        search = {**cell.search, **ranges}
        first = tuple(p for p in cell.first if all(p.get(name) is None or p[name] in r for name, r in ranges.items()))
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
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
