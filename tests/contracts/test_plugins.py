"""A method, a task, a space and a table of one's own: one new file each, and nothing else is edited."""

from __future__ import annotations

import importlib
import sys
import textwrap

import pytest

from lopt import registry
from sweeps.run import main

METHOD = '''
    """One row, repeated: X = 1 x."""

    from typing import ClassVar

    from lopt.initial import constant, uniform
    from lopt.methods import Factor, PromptMethod


    class Repeated(PromptMethod):
        name = "repeated"
        title = "Repeated row"
        uses_rank = False

        def factors(self, shape):
            return {"x": Factor(shape=(1, shape.width), draw=uniform(0.5))} | {
                "one": Factor(shape=(shape.n, 1), draw=constant(1.0), trainable=False)
            }

        def closed_form(self, shape):
            return shape.width

        def prompt(self, tensors, options):
            return tensors["one"] @ tensors["x"]


    SPEC = Repeated()
'''

TASK = '''
    """Is a number even?"""

    from lopt.tasks import Task


    def rows(split):
        offset = 0 if split == "train" else 1000
        return [{"idx": i, "number": f"number {i + offset}", "label": i % 2} for i in range(60)]


    SPEC = Task(name="parity", title="Parity", columns=("number",), classes=("even", "odd"), template="{number} is",
                label_words=(" great", " bad"), cut="number", load=rows)
'''

SPACE = '''
    """One cell."""

    from sweeps.space import Cell, Space, Spec, learning_rates


    def build(profile):
        search, recipe = learning_rates("repeated")
        cell = Cell(name="repeated", fixed={"method": "repeated", "length": 3}, search=search, first=(recipe,))
        base = {"task": "parity", "backbone": "tiny", "batch_size": 8, "max_steps": 4, "eval_every": 2,
                "precision": "fp32"}
        return Space(name="one_cell", title="One cell", profile=profile, base=base, grid=lambda axes: (cell,), trials=1,
                     confirm_seeds=1, grace_steps=2)


    SPEC = Spec("one_cell", build)
'''

TABLE = '''
    """How many trials there are."""

    from analysis.registry import TableSpec
    from analysis.render import Column, Table

    SPEC = TableSpec(
        name="counted",
        title="Trials counted",
        info=lambda group: len(group.trials),
        render=lambda count: Table(caption="Trials counted", columns=(Column(title="trials"),), rows=((str(count),),)),
    )
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """`plugin(package, name, source)` puts one file into a package for the length of a test."""
    added = []

    def add(package, name, source):
        folder = tmp_path / package
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(textwrap.dedent(source))
        module = importlib.import_module(package)
        monkeypatch.setattr(module, "__path__", [*module.__path__, str(folder)])
        added.append(f"{package}.{name}")
        importlib.invalidate_caches()
        registry.plugins.cache_clear()

    yield add
    for name in added:
        sys.modules.pop(name, None)
        package, _, attribute = name.rpartition(".")
        if hasattr(sys.modules[package], attribute):
            delattr(sys.modules[package], attribute)
    registry.plugins.cache_clear()


def test_each_is_one_file_and_shows_up_everywhere(plugin, tmp_path, capsys):
    plugin("lopt.methods", "repeated", METHOD)
    plugin("lopt.tasks", "parity", TASK)
    plugin("sweeps.spaces", "one_cell", SPACE)
    plugin("analysis.tables", "counted", TABLE)

    assert main(["--help"]) == 0
    assert "one_cell" in capsys.readouterr().out
    for wrong, listed in (("method=repeted", "repeated"), ("task=paritty", "parity")):
        space = "search" if wrong.startswith("method") else "ablation"
        assert main(["--space", space, "--set", wrong, "--dry-run"]) == 2
        assert f"Did you mean '{listed}'" in capsys.readouterr().err

    assert main(["--space", "one_cell", "--out", str(tmp_path / "out"), "--local-mode"]) == 0
    printed = capsys.readouterr().out
    assert "Parity (parity)" in printed
    assert "32" in next(line for line in printed.splitlines() if line.strip().startswith("repeated "))

    from analysis.report import main as report

    assert report([str(tmp_path / "out" / "one_cell-paper")]) == 0
    folder = tmp_path / "out" / "one_cell-paper" / "report"
    assert (folder / "tables" / "counted.csv").read_text().splitlines()[-1] == "2"
    assert "Trials counted" in (folder / "report.html").read_text()
    assert "Repeated row" in (folder / "report.md").read_text()


@pytest.mark.parametrize("package", ["analysis.tables", "lopt.methods"])
def test_a_helper_beside_them_is_no_plugin(plugin, package):
    from analysis.registry import TableSpec, scan

    plugin(package, "_helper", "VALUE = 1")
    assert "_helper" not in (scan(package, TableSpec) if package == "analysis.tables" else registry.plugins(package))


def test_a_file_without_a_spec_is_named(plugin):
    plugin("lopt.methods", "unfinished", "VALUE = 1")
    with pytest.raises(ValueError, match=r"lopt\.methods\.unfinished has no SPEC"):
        registry.plugins("lopt.methods")


def test_nothing_of_it_stays():
    from lopt import methods, tasks
    from sweeps import spaces

    assert "repeated" not in methods.names()
    assert "parity" not in tasks.names()
    assert "one_cell" not in spaces.names()


def test_the_names_that_older_methods_import_are_the_same_objects():
    from lopt import initial, methods
    from lopt.methods import _initial, _prompt

    assert (_prompt.PromptMethod, _prompt.Factor) == (methods.PromptMethod, methods.Factor)
    assert (_initial.uniform, _initial.constant) == (initial.uniform, initial.constant)
