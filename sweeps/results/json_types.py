"""Checks of the values in a run's JSON files. The error names the value that has a wrong type."""

from typing import Any

_NUMBER = "a number"
_TYPE_NAMES = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: _NUMBER, float: _NUMBER}


def check_type(name: str, value: Any, *types: type) -> Any:
    """Check that a JSON value has one of these types, and return it.

    Args:
        name: What the error message calls the value.

    Raises:
        ValueError: The value has another type.
    """
    if isinstance(value, types) and (bool in types or not isinstance(value, bool)):
        return value
    valid_names = " or ".join(dict.fromkeys(_TYPE_NAMES[valid_type] for valid_type in types))
    raise ValueError(f"{name} is {_TYPE_NAMES.get(type(value), 'null')}, not {valid_names}")


def check_manifest(manifest: Any) -> None:
    """Check the values of a manifest. A value of a wrong type and an impossible value raise a ValueError."""
    check_type("a manifest", manifest, dict)
    for name, types in (("identity", (str,)), ("started_at", (str,)), ("elapsed_s", (int, float))):
        check_type(f"`{name}`", manifest.get(name, types[0]()), *types)
    if not 0 <= manifest.get("elapsed_s", 0) < 1e12:
        raise ValueError(f"`elapsed_s` is {manifest['elapsed_s']!r}"[:60])
    for key in check_type("`left_out`", manifest.get("left_out", []), list):
        check_type("an entry of `left_out`", key, str)
    space = check_type("`space`", manifest.get("space", {}), dict)
    check_type("`base` of its space", space.get("base", {}), dict)
    for cell in check_type("`cells` of its space", space.get("cells", []), list):
        check_type("`name` of a cell", check_type("a cell of its space", cell, dict).get("name", ""), str)
        check_type("`search` of a cell", cell.get("search", {}), dict)


def check_baselines(baselines: Any) -> None:
    """Check the values of baselines, as `check_manifest` does for a manifest."""
    for baseline in check_type("its content", baselines, list):
        for name in ("backbone", "task"):
            check_type(f"`{name}` of a baseline", check_type("a baseline", baseline, dict).get(name), str)


def check_audits(audits: Any) -> None:
    """Check the values of audits, as `check_manifest` does for a manifest."""
    for audit in check_type("its content", audits, dict).values():
        check_type("`step` of an audit", check_type("an audit", audit, dict).get("step"), int)
