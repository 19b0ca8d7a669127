"""A user adds a method, task, backbone, space, table, plot, tracker, sampler or stopping rule with one new file, and
edits nothing else."""

from __future__ import annotations

import importlib
import sys
import textwrap

import pytest

from lopt import registry
from sweeps.run import main

METHOD = '''
    """One row that is repeated: X = 1 x."""

    from typing import ClassVar

    from lopt.initial import constant, uniform
    from lopt.methods import Factor, PromptMethod


    class Repeated(PromptMethod):
        name = "repeated"
        title = "Repeated row"
        colour = "#aa3377"
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
                label_words=(" great", " bad"), cut_column="number", load=rows)
'''

SPACE = '''
    """One cell."""

    from sweeps.space import Cell, Space, Spec, learning_rates


    def build(profile):
        search, recipe = learning_rates("repeated")
        cell = Cell(name="repeated", fixed={"method": "repeated", "length": 3}, search=search, first=(recipe,))
        base = {"task": "parity", "backbone": "smaller", "batch_size": 8, "max_steps": 4, "eval_every": 2,
                "precision": "fp32"}
        return Space(name="one_cell", title="One cell", profile=profile, base=base, grid=lambda axes: (cell,), trials=2,
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


BACKBONE = '''
    """The tiny model under another name."""

    from lopt.backbones.tiny import SPEC as tiny


    class Smaller:
        name = "smaller"
        known = {"smaller": tiny.known["tiny"]}

        def load(self, name, precision):
            return tiny.load("tiny", precision)

        def revision(self, name):
            return tiny.revision("tiny")


    SPEC = Smaller()
'''

PLOT = '''
    """One bar: the number of trials."""

    from matplotlib.figure import Figure

    from analysis.registry import PlotSpec


    def draw(count):
        figure = Figure()
        figure.subplots().bar(["trials"], [count])
        return figure


    SPEC = PlotSpec(name="bars", title="Bars of trials", info=lambda group: len(group.trials), draw=draw,
                    caption=lambda count: f"{count} trials.", data=lambda count: [{"trials": count}], place=1)
'''

TRACKER = '''
    """A line for each trial that has ended."""

    from sweeps.trackers import Tracker


    class Lines(Tracker):
        name = "lines"

        def on_ended(self, job, record):
            with (self.store.folder / "lines.txt").open("a") as file:
                file.write(f"{job.phase} {record.status}\\n")


    SPEC = Lines
'''

SAMPLER = '''
    """Random points from another seed."""

    from sweeps.samplers import Sampler


    def make(needs):
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=needs.seed + 17)


    SPEC = Sampler(name="other", make=make)
'''

STOPPING = '''
    """Every trial except the first stops at the end of its grace period."""

    from sweeps.stopping import StoppingRule


    class Strict(StoppingRule):
        name = "strict"
        first = None

        def report(self, key, step, score):
            self.first = self.first or key
            return step >= self.grace_steps and key != self.first

        def forget(self, key):
            pass


    SPEC = Strict
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A function `plugin(package, name, source)` that adds one file to a package for the duration of a test."""
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


def test_each_plugin_is_one_file_and_appears_everywhere(plugin, tmp_path, capsys):
    plugin("lopt.methods", "repeated", METHOD)
    plugin("lopt.tasks", "parity", TASK)
    plugin("sweeps.spaces", "one_cell", SPACE)
    plugin("analysis.tables", "counted", TABLE)
    plugin("analysis.plots", "bars", PLOT)
    plugin("lopt.backbones", "smaller", BACKBONE)
    plugin("sweeps.trackers", "lines", TRACKER)
    plugin("sweeps.samplers", "other", SAMPLER)
    plugin("sweeps.stopping", "strict", STOPPING)

    assert main(["--help"]) == 0
    help_text = capsys.readouterr().out
    assert "one_cell" in help_text and "lines" in help_text
    for setting, suggestion in (("method=repeted", "repeated"), ("task=paritty", "parity"), ("sampler=othr", "other"),
                         ("stopping=strikt", "strict")):  # fmt: skip
        space = "search" if setting.startswith("method") else "ablation"
        assert main(["--space", space, "--set", setting, "--dry-run"]) == 2
        assert f"Did you mean '{suggestion}'" in capsys.readouterr().err

    options = ["--set", "sampler=other", "--set", "stopping=strict", "--track", "lines"]
    assert main(["--space", "one_cell", "--out", str(tmp_path / "out"), "--local-mode", *options]) == 0
    printed = capsys.readouterr().out
    assert "Parity (parity)" in printed and "smaller (d = 32" in printed and "strict in each cell" in printed
    assert "32" in next(line for line in printed.splitlines() if line.strip().startswith("repeated "))
    run = tmp_path / "out" / "one_cell-paper"
    assert (run / "lines.txt").read_text().split("\n") == ["search complete", "search stopped", "confirm complete", ""]

    from analysis.report import main as report

    assert report([str(run)]) == 0
    assert (run / "report" / "tables" / "counted.csv").read_text().splitlines()[-1] == "3"
    page = (run / "report" / "report.html").read_text()
    assert "Trials counted" in page and "3 trials." in page
    assert page.index("Bars of trials") < page.index("Trials counted"), "the plot asks for the first place"
    assert "Repeated row" in (run / "report" / "report.md").read_text()
    from analysis.style import method_style

    assert method_style("repeated")[0] == "#aa3377", "the method's own colour"


@pytest.mark.parametrize("package", ["analysis.tables", "lopt.methods"])
def test_an_underscored_module_is_not_a_plugin(plugin, package):
    from analysis.registry import TableSpec, scan

    plugin(package, "_helper", "VALUE = 1")
    assert "_helper" not in (scan(package, TableSpec) if package == "analysis.tables" else registry.plugins(package))


def test_a_plugin_without_a_spec_is_refused_by_name(plugin):
    plugin("lopt.methods", "unfinished", "VALUE = 1")
    with pytest.raises(ValueError, match=r"lopt\.methods\.unfinished has no SPEC"):
        registry.plugins("lopt.methods")


def test_plugins_of_a_test_do_not_stay():
    from lopt import methods, tasks
    from sweeps import spaces

    assert "repeated" not in methods.names()
    assert "parity" not in tasks.names()
    assert "one_cell" not in spaces.names()


def test_the_module_names_that_older_methods_import_still_work():
    from lopt import initial, methods
    from lopt.methods import _initial, _prompt

    assert (_prompt.PromptMethod, _prompt.Factor) == (methods.PromptMethod, methods.Factor)
    assert (_initial.uniform, _initial.constant) == (initial.uniform, initial.constant)
