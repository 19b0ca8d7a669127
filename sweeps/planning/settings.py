"""What `--set key=value` does: it changes the values, lists and ranges of a space."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lopt import backbones, methods, tasks
from lopt.config import CONFIG_FIELDS, TrialConfig
from lopt.ranges import Choice, Range, Real, Whole
from lopt.registry import did_you_mean
from sweeps.planning.check_space import check_space
from sweeps.space import SPACE_FIELDS, Cell, Space, searched_names

REFUSED_FIELDS = {"options", "seed", "data_revision", "model_revision"}  # fields of TrialConfig that --set refuses


def with_settings(space: Space, settings: Mapping[str, str]) -> Space:
    """Return the space with every `--set key=value` applied, in their order.

    A list (`rank=1,2,5`) replaces the values of an axis, or the range of a searched field. `low:high` replaces the
    range of a searched number. One value fixes a searched field, or sets any other field.

    Raises:
        ValueError: The key is unknown (the message names the nearest), the value is of the wrong kind, or a list is
            given where only one value is valid.
    """
    for key, text in settings.items():
        if not text.strip():
            raise ValueError(f"--set {key}= has no value; give a value, or the word 'none' to unset the field")
        space = _with_setting(space, key, text)
    check_space(space)
    return space


def _with_setting(space: Space, key: str, text: str) -> Space:
    names_in_search = {name for cell in space.cells for name in cell.search}
    method, dot, field = key.rpartition(".")
    if dot and key not in names_in_search and field in names_in_search and _method_names(space) == {method}:
        key = field  # with one method only, as after --set method=lora, names of ranges have no prefix
    valid_keys = sorted(
        {*CONFIG_FIELDS, *methods.options(), *SPACE_FIELDS, *space.axes, *names_in_search} - REFUSED_FIELDS
    )
    if key not in valid_keys and key not in _options_with_prefix(space):
        raise ValueError(
            f"unknown key {key!r} in --set; valid: {', '.join(valid_keys)}.{did_you_mean(key, valid_keys)}"
        )
    if key in SPACE_FIELDS:
        value: Any = text.strip() if key in ("sampler", "stopping") else _parse_value(text)
        return dataclasses.replace(space, **{key: value})
    if key in ("template", "label_words"):  # texts, which may contain commas or look like numbers
        value = tuple(text.split(",")) if key == "label_words" else text
        return dataclasses.replace(space, base={**space.base, key: value})
    if len(text.strip().splitlines()) > 1:
        raise ValueError(f"{key} is {text!r}; give values in one line")
    _check_option_has_method(space, key)
    values = tuple(_absolute_folder(key, _parse_value(part)) for part in text.split(","))
    if None in values and (key in space.axes or len(values) > 1):
        raise ValueError(f"{key} is {text!r}; a list cannot contain an empty value or the word 'none'")
    if key in space.axes:
        return _with_axis(space, key, text, values)
    ranges = [cell.search[name] for cell in space.cells for name in _names_for_key(cell, key)]
    if ":" in text and any(_is_numeric(searched_range) for searched_range in ranges):
        return _with_ranges(space, key, partial(_new_range, key, text))
    if any(key in cell.fixed for cell in space.cells):
        raise ValueError(
            f"{key} is fixed by the cells of space {space.name}. --set takes {_valid_values_text(space)}. To "
            "have other cells, write a space file of your own (docs/your-own.md)"
        )
    if key not in ("task", "backbone") and _range_ends(text):
        raise ValueError(
            f"{key} is {text!r}, which is a range, but space {space.name} does not search {key}: give one value. --set "
            f"takes {_valid_values_text(space)}. To search {key}, write a space file of your own (docs/your-own.md)"
        )
    if len(values) == 1:
        new_space = _without_ranges(space, key, values[0]) if ranges else space
        return dataclasses.replace(new_space, base={**new_space.base, key: values[0]})
    if ranges:
        return _with_ranges(space, key, lambda name, old_range: _make_range(key, Choice, values))
    list_keys = sorted({*space.axes, *names_in_search})
    raise ValueError(
        f"{key} takes one value in space {space.name}, not {text!r}; lists are valid for {', '.join(list_keys)}"
    )


def _with_axis(space: Space, key: str, text: str, values: tuple[Any, ...]) -> Space:
    """Return the space with other values of an axis."""
    if _range_ends(text):
        raise ValueError(
            f"{key} is {text!r}, which is a range, but {key} is an axis of space {space.name}: give a list, as in "
            f"{key}=1,2"
        )
    return dataclasses.replace(space, axes={**space.axes, key: values})


def _valid_values_text(space: Space) -> str:
    """Return what `--set` takes for the fields of a space, in words."""
    names_in_search = {name for cell in space.cells for name in cell.search}
    names_in_cells = names_in_search.union(space.axes, *(cell.fixed for cell in space.cells))
    common_names = ("max_steps", "batch_size", "placement", "backbone", "task")
    other_names = [name for name in common_names if name not in names_in_cells]
    names_by_kind = {
        "a list for an axis": sorted(space.axes),
        "a list or a range for a searched field": sorted(names_in_search),
        "one value for any other field": [*other_names[:3], "…"],
    }
    return "; ".join(f"{kind} ({', '.join(names)})" for kind, names in names_by_kind.items() if names)


def _names_for_key(cell: Cell, key: str) -> list[str]:
    """Return the searched names that a key stands for. `lora.rank` is one name; `rank` may stand for several."""
    if key in cell.search:
        return [key]
    return [] if "." in key else searched_names(cell, key)


def _method_names(space: Space) -> set[str]:
    """Return the names of all methods that the trials of a space may have."""
    fixed_settings = (space.base, *(cell.fixed for cell in space.cells))
    fixed_methods = [values["method"] for values in fixed_settings if "method" in values]
    method_choices = [cell.search.get("method") for cell in space.cells]
    searched_methods = [value for choice in method_choices if isinstance(choice, Choice) for value in choice.values]
    return {str(name) for name in (*fixed_methods, *searched_methods)}


def _options_with_prefix(space: Space) -> set[str]:
    """Return the options of the space's methods, each with the name of its method, as in `lora.alpha`."""
    installed_methods = _method_names(space) & {*methods.names()}
    return {f"{method}.{option}" for method in installed_methods for option in methods.get(method).OPTIONS}


def _check_option_has_method(space: Space, key: str) -> None:
    """Raise ValueError on an option that no method of the space has."""
    if key in methods.options() and key not in CONFIG_FIELDS:
        space_methods = sorted(_method_names(space))
        methods_with_option = [name for name in methods.names() if key in methods.get(name).OPTIONS]
        if not set(methods_with_option) & set(space_methods):
            raise ValueError(
                f"{key} is an option of {', '.join(methods_with_option)}, but the methods of space {space.name} are "
                f"{', '.join(space_methods)}"
            )


def _absolute_folder(key: str, value: Any) -> Any:
    """Return the absolute path of a task or backbone folder, because workers run in other folders.

    Any other value is returned unchanged.
    """
    if key not in ("task", "backbone") or not isinstance(value, str):
        return value
    required_file, built_ins = ("task.toml", tasks.names()) if key == "task" else ("config.json", backbones.names())
    path = Path(os.path.expanduser(value))
    return str(path.resolve()) if value not in built_ins and os.path.isfile(path / required_file) else value


def _range_ends(text: str) -> list[Any]:
    """Return the two numbers of `low:high`; an empty list if the text is something else."""
    ends = [_parse_value(part) for part in text.split(":")]
    return ends if len(ends) == 2 and all(isinstance(end, int | float) for end in ends) else []


def _is_numeric(searched_range: Range) -> bool:
    if not isinstance(searched_range, Choice):
        return True
    return all(isinstance(value, int | float) for value in searched_range.values)


def _new_range(key: str, text: str, name: str, old_range: Range) -> Range:
    """Return the range that `low:high` gives for a searched name. Its kind and scale are those of the old range.

    A list has no scale. So if the old range is a list, the new range has the scale of the method's own range, or is
    logarithmic if the method has none. But if `low` is not above 0, a range that replaces a list is linear.
    """
    ends = _range_ends(text)
    if not ends:
        raise ValueError(f"{key} is {text!r}; give a range as low:high, as in learning_rate=0.01:0.5")
    low, high = ends
    is_logarithmic = low > 0 and _has_log_scale(name) if isinstance(old_range, Choice) else old_range.log
    if is_logarithmic and low <= 0:
        raise ValueError(
            f"{key} is {text!r}, but {key} is searched on a logarithmic scale ({old_range}): give a low end above 0"
        )
    return _make_range(key, Real if _takes_real_numbers(name, old_range) else Whole, low, high, is_logarithmic)


def _has_log_scale(name: str) -> bool:
    """Return whether the methods (for `lora.rank`, only LoRA) search a name on a logarithmic scale."""
    method, _, field = name.rpartition(".")
    method_names = [method] if method in methods.names() else methods.names()
    ranges = (methods.get(method_name).ranges.get(field) for method_name in method_names)
    return all(method_range.log for method_range in ranges if isinstance(method_range, Real | Whole))


def _takes_real_numbers(name: str, old_range: Range) -> bool:
    """Return whether a searched name takes real numbers. If its old range is a list, the type of the field decides."""
    if not isinstance(old_range, Choice):
        return isinstance(old_range, Real)
    field = name.rpartition(".")[2]
    if field in CONFIG_FIELDS:
        return "float" in str(TrialConfig.__dataclass_fields__[field].type)
    defaults = [methods.get(method_name).OPTIONS.get(field) for method_name in methods.names()]
    return any(isinstance(value, float) for value in (*defaults, *old_range.values))


def _make_range(key: str, range_class: Callable[..., Range], *arguments: Any) -> Range:
    """Return a range of this class. If the arguments are not valid, the error names the key."""
    try:
        return range_class(*arguments)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _with_ranges(space: Space, key: str, replace_range: Callable[[str, Range], Range]) -> Space:
    """Return the space with other ranges of a searched field.

    `replace_range` returns the new range of a searched name, given the name and its old range. First points outside the
    new ranges are dropped.
    """

    def with_new_ranges(cell: Cell) -> Cell:
        ranges = {name: replace_range(name, cell.search[name]) for name in _names_for_key(cell, key)}

        def is_inside(point: Mapping[str, Any]) -> bool:
            return all(point.get(name) is None or point[name] in values for name, values in ranges.items())

        first = tuple(point for point in cell.first if is_inside(point))
        return dataclasses.replace(cell, search={**cell.search, **ranges}, first=first)

    return _map_cells(space, with_new_ranges)


def _without_ranges(space: Space, key: str, fixed_value: Any) -> Space:
    """Return the space without the ranges of a field, which the caller fixes to `fixed_value`.

    If the field is the method, the ranges of other methods are removed, too, and the names of this method's ranges lose
    their prefix.
    """

    def without_prefix(values: Mapping[str, Any]) -> dict[str, Any]:
        if key != "method":
            return dict(values)
        prefix = f"{fixed_value}."
        return {
            name.removeprefix(prefix): value
            for name, value in values.items()
            if "." not in name or name.startswith(prefix)
        }

    def without_field(cell: Cell) -> Cell:
        fixed_names = _names_for_key(cell, key)

        def without_fixed_names(values: Mapping[str, Any]) -> dict[str, Any]:
            return without_prefix({name: value for name, value in values.items() if name not in fixed_names})

        points = [point for point in cell.first if key != "method" or point.get(key, fixed_value) == fixed_value]
        first = tuple(point for point in map(without_fixed_names, points) if point)
        return dataclasses.replace(cell, search=without_fixed_names(cell.search), first=first)

    return _map_cells(space, without_field)


def _map_cells(space: Space, change_cell: Callable[[Cell], Cell]) -> Space:
    """Return the space with every cell changed by a function."""
    grid = space.grid
    return dataclasses.replace(space, grid=lambda axes: tuple(change_cell(cell) for cell in grid(axes)))


def _parse_value(text: str) -> Any:
    """Return the number that a text gives, None for 'none' or an empty text, or else the text itself."""
    text = text.strip()
    if text.lower() in ("none", ""):
        return None
    for number_type in (int, float):
        with contextlib.suppress(ValueError):
            return number_type(text)
    return text
