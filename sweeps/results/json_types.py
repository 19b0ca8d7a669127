"""What a run's JSON files hold, checked: a file of another kind is said to be that, wherever it is read."""

from typing import Any

_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}


def as_kind(what: str, value: Any, *kinds: type) -> Any:
    """A JSON value that is of one of these kinds.

    Raises:
        ValueError: it is of another; says which.
    """
    if isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool)):
        return value
    wanted = " or ".join(dict.fromkeys(_KINDS[kind] for kind in kinds))
    raise ValueError(f"{what} is {_KINDS.get(type(value), 'null')}, not {wanted}")


def check_manifest(manifest: Any) -> None:
    as_kind("a manifest", manifest, dict)
    for name, kinds in (("identity", (str,)), ("started_at", (str,)), ("elapsed_s", (int, float))):
        as_kind(name, manifest.get(name, kinds[0]()), *kinds)
    if not 0 <= manifest.get("elapsed_s", 0) < 1e12:
        raise ValueError(f"elapsed_s is {manifest['elapsed_s']!r}"[:60])
    for key in as_kind("left_out", manifest.get("left_out", []), list):
        as_kind("one of left_out", key, str)
    space = as_kind("space", manifest.get("space", {}), dict)
    as_kind("base of its space", space.get("base", {}), dict)
    for cell in as_kind("cells of its space", space.get("cells", []), list):
        as_kind("name of a cell", as_kind("a cell of its space", cell, dict).get("name", ""), str)
        as_kind("search of a cell", cell.get("search", {}), dict)


def check_baselines(baselines: Any) -> None:
    for baseline in as_kind("what it holds", baselines, list):
        for name in ("backbone", "task"):
            as_kind(name, as_kind("a baseline", baseline, dict).get(name), str)


def check_audits(audits: Any) -> None:
    for audit in as_kind("what it holds", audits, dict).values():
        as_kind("step of an audit", as_kind("an audit", audit, dict).get("step"), int)
