"""The rules of the house: who imports whom, and how long a file is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("lopt", "sweeps", "analysis")
LONGEST = 350
# Ray has no public name for its check of a cluster's file.
PRIVATE_OF_RAY = "tests/test_cluster_yaml.py"


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for package in (*PACKAGES, "benchmarks") for path in (ROOT / package).rglob("*.py")}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def imported(tree):
    """Names of the modules that a module imports anywhere in it: in functions, and for types alone, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in FILES else node.module


IMPORTS = {name: sorted({other for other in imported(tree) if other != name}) for name, tree in TREES.items()}


def package_of(module):
    return module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]


def test_the_rules_see_the_imports_of_the_tree():
    assert "sweeps.search.turns" in IMPORTS["sweeps.forecast.play"]
    assert "sweeps.space" in IMPORTS["sweeps.samplers.cma_es"], "one for types alone"
    assert "sweeps.supervisor" in IMPORTS["sweeps.sweep"], "one in a function"


def test_only_on_ray_imports_ray():
    """Benchmarks compare with Ray's own ways."""
    users = {n for n, others in IMPORTS.items() if any(other.partition(".")[0] == "ray" for other in others)}
    ours = {name for name in users if not name.startswith("benchmarks.")}
    assert ours and all(name.startswith("sweeps.on_ray.") for name in ours), ours


@pytest.mark.parametrize(
    "room", ["planning", "search", "work", "results", "forecast", "samplers", "stopping", "trackers"]
)
def test_no_other_room_knows_on_ray(room):
    """`planning` knows no search, and `results` knows nobody."""
    mine = [name for name in FILES if name.startswith(f"sweeps.{room}")]
    assert mine
    forbidden = {"sweeps.on_ray"}
    forbidden |= {"planning": {"sweeps.search", "sweeps.work", "sweeps.results"}}.get(room, set())
    forbidden |= {"results": {"sweeps.planning", "sweeps.search", "sweeps.work", "sweeps.forecast"}}.get(room, set())
    wrong = [(n, o) for n in mine for o in IMPORTS[n] if any(o == f or o.startswith(f"{f}.") for f in forbidden)]
    assert not wrong


def test_no_file_is_in_a_circle_of_imports():
    left = {name: {other for other in others if other in FILES} for name, others in IMPORTS.items()}
    while leaves := [name for name, others in left.items() if not others & left.keys()]:
        for name in leaves:
            del left[name]
    assert not left, f"these import one another, or something that does: {sorted(left)}"


def test_rooms_are_in_no_circle_of_imports():
    """The rooms of sweeps/, and the files beside them, each taken as one."""

    def room(name):
        return ".".join(name.split(".")[:2]) if name.startswith("sweeps.") else name.partition(".")[0]

    left = {}
    for name, others in IMPORTS.items():
        if name.startswith("sweeps."):
            left.setdefault(room(name), set()).update(room(o) for o in others if o.startswith("sweeps."))
    for name, others in left.items():
        others.discard(name)
    while leaves := [name for name, others in left.items() if not others & left.keys()]:
        for name in leaves:
            del left[name]
    assert not left, f"these rooms import one another: {left}"


def test_underscored_modules_belong_to_their_package():
    wrong = []
    for name, others in IMPORTS.items():
        for other in others:
            if other in FILES and any(part.startswith("_") for part in other.split(".")):
                parts = other.split(".")
                owner = ".".join(parts[: next(n for n, part in enumerate(parts) if part.startswith("_"))])
                if package_of(name) != owner and not package_of(name).startswith(f"{owner}."):
                    wrong.append((name, other))
    assert not wrong


def private_uses(tree):
    """Attributes with a leading underscore of anything but self, cls and what the file itself defines."""
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    defined |= {node.target.id for node in ast.walk(tree)
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not of_self and node.attr not in defined:
                yield node.attr


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("sweeps.")])
def test_no_private_name_of_ray_or_optuna_is_used(module):
    assert set(private_uses(TREES[module])) <= {"_exit"}, "os._exit is public"


def test_private_names_of_ray_stand_in_one_place():
    users = {
        str(path.relative_to(ROOT))
        for folder in (*PACKAGES, "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        for other in imported(ast.parse(path.read_text()))
        if other.partition(".")[0] == "ray" and any(part.startswith("_") for part in other.split("."))
    }
    assert users <= {PRIVATE_OF_RAY}, users


@pytest.mark.parametrize("module", FILES)
def test_no_file_is_too_long(module):
    assert len(FILES[module].read_text().splitlines()) <= LONGEST
