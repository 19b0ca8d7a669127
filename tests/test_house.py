"""Rules of the code base: which modules may import which, how long a file may be, and that names say something."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("lopt", "sweeps", "analysis")
MAX_LINES = 350
# The only file that may use a private name of Ray, which has no public name for its check of cluster files.
PRIVATE_NAMES_OF_RAY = "tests/test_cluster_yaml.py"


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for package in (*PACKAGES, "benchmarks") for path in (ROOT / package).rglob("*.py")}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def imported_modules(tree):
    """Names of the modules that a module imports anywhere: at the top, in functions, and for types only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in FILES else node.module


IMPORTS = {name: sorted({*imported_modules(tree)} - {name}) for name, tree in TREES.items()}


def package_of(module):
    return module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]


def test_imports_of_every_kind_are_seen():
    assert "sweeps.search.turns" in IMPORTS["sweeps.forecast.simulate"]
    assert "sweeps.space" in IMPORTS["sweeps.samplers.cma_es"], "an import for types only"
    assert "sweeps.supervisor" in IMPORTS["sweeps.sweep"], "an import in a function"


def test_only_on_ray_imports_ray():
    """Benchmarks are an exception, because they compare with plain Ray."""
    importers = {name for name, modules in IMPORTS.items() if any(m.partition(".")[0] == "ray" for m in modules)}
    importers = {name for name in importers if not name.startswith("benchmarks.")}
    assert importers and all(name.startswith("sweeps.on_ray.") for name in importers), importers


@pytest.mark.parametrize(
    "package", ["planning", "search", "work", "results", "forecast", "samplers", "stopping", "trackers"]
)
def test_no_other_package_of_sweeps_imports_on_ray(package):
    """`planning` also imports no search, work or results, and `results` imports no other package of sweeps/."""
    modules = [name for name in FILES if name.startswith(f"sweeps.{package}")]
    assert modules
    forbidden = {"sweeps.on_ray"}
    forbidden |= {"planning": {"sweeps.search", "sweeps.work", "sweeps.results"}}.get(package, set())
    forbidden |= {"results": {"sweeps.planning", "sweeps.search", "sweeps.work", "sweeps.forecast"}}.get(package, set())

    def is_forbidden(module):
        return any(module == name or module.startswith(f"{name}.") for name in forbidden)

    assert not [(name, module) for name in modules for module in IMPORTS[name] if is_forbidden(module)]


def without_leaves(graph):
    """Remove the nodes that lead to no other node until none is left. The remaining nodes lead into a circle."""
    remaining = dict(graph)
    while leaves := [name for name, targets in remaining.items() if not targets & remaining.keys()]:
        for name in leaves:
            del remaining[name]
    return remaining


def test_no_file_is_in_a_circle_of_imports():
    graph = {name: {module for module in imports if module in FILES} for name, imports in IMPORTS.items()}
    circles = without_leaves(graph)
    assert not circles, f"these import one another, or something that does: {sorted(circles)}"


def test_packages_of_sweeps_are_in_no_circle_of_imports():
    """Each package of sweeps/, and each file beside them, is one node."""

    def node(name):
        return ".".join(name.split(".")[:2])

    graph = {}
    for name, imports in IMPORTS.items():
        if name.startswith("sweeps."):
            graph.setdefault(node(name), set()).update(node(m) for m in imports if m.startswith("sweeps."))
    for name, targets in graph.items():
        targets.discard(name)
    circles = without_leaves(graph)
    assert not circles, f"these packages import one another: {circles}"


def test_underscored_modules_are_imported_by_their_own_package_only():
    violations = []
    for name, imports in IMPORTS.items():
        for module in imports:
            parts = module.split(".")
            if module in FILES and any(part.startswith("_") for part in parts):
                first_private = next(i for i, part in enumerate(parts) if part.startswith("_"))
                owner = ".".join(parts[:first_private])
                if package_of(name) != owner and not package_of(name).startswith(f"{owner}."):
                    violations.append((name, module))
    assert not violations


def private_attributes(tree):
    """Attributes with a leading underscore that are used on other objects than self and cls, and that the file itself
    does not define."""
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    defined |= {node.target.id for node in ast.walk(tree)
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not is_own and node.attr not in defined:
                yield node.attr


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("sweeps.")])
def test_no_private_name_of_ray_or_optuna_is_used(module):
    assert set(private_attributes(TREES[module])) <= {"_exit"}, "os._exit is public"


def test_private_names_of_ray_are_used_in_one_file_only():
    importers = {
        str(path.relative_to(ROOT))
        for folder in (*PACKAGES, "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        for module in imported_modules(ast.parse(path.read_text()))
        if module.partition(".")[0] == "ray" and any(part.startswith("_") for part in module.split("."))
    }
    assert importers <= {PRIVATE_NAMES_OF_RAY}, importers


@pytest.mark.parametrize("module", FILES)
def test_no_file_is_too_long(module):
    assert len(FILES[module].read_text().splitlines()) <= MAX_LINES


# Words that do not say what a thing is. A name is a noun that does, such as `record`.
EMPTY_WORDS = {"found", "made", "given", "each", "mine", "said", "shown", "own", "thing", "stuff"}


@pytest.mark.parametrize("module", sorted(TREES))
def test_no_name_is_an_empty_word(module):
    names = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
    assert not {name.strip("_") for name in names} & EMPTY_WORDS
