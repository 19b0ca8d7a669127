"""A table or plot that fails is named and left out, and the rest of the report remains, also for a user's plugin."""

from __future__ import annotations

import re
import sys

import pytest

import analysis.plots
import analysis.tables
import lopt.methods
from analysis import methods
from analysis.registry import PlotSpec, scan
from analysis.report import main
from analysis.tables import cells
from lopt import registry

HEAD = """
import sys
from matplotlib.figure import Figure
from analysis.registry import PlotSpec, TableSpec
from analysis.render import Column, Table

def good_plot(info): return Figure()
def boom(*anything): raise RuntimeError("two\\nlines")
def table(**changes):
    return Table(**({"caption": "c", "columns": (Column(title="a"),), "rows": (("1",),)} | changes))
def plot(**changes):
    parts = {"info": lambda group: 1, "draw": good_plot, "caption": lambda info: "mine", "data": lambda info: [{}]}
    return PlotSpec(name="mine", title="My plot", **(parts | changes))
def table_spec(**changes):
    parts = {"info": lambda group: 1, "render": lambda info: table()}
    return TableSpec(name="mine", title="My table", **(parts | changes))
def bad_text(info):
    figure = Figure()
    figure.text(0, 0, "$\\\\nonsense{$")
    return figure
"""

# For each fault, the code of a plugin and what the message says.
PLOTS = {
    "import": ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
    "syntax": ("def (", "SyntaxError"),
    "exit at import": ("sys.exit(3)", "SystemExit: 3"),
    "no SPEC": ("", "needs SPEC = PlotSpec(name='mine', ...)"),
    "SPEC of tables": ("SPEC = table_spec()", "needs SPEC = PlotSpec"),
    "title": ("SPEC = plot(); object.__setattr__(SPEC, 'title', 5)", "has the title 5"),
    "place": ("SPEC = plot(place='first')", "has the place 'first', which is not a whole number"),
    "info": ("SPEC = plot(info=boom)", "RuntimeError: two lines"),
    "info exits": ("SPEC = plot(info=lambda group: sys.exit('gone'))", "SystemExit: gone"),
    "draw": ("SPEC = plot(draw=boom)", "RuntimeError: two lines"),
    "draws nothing": ("SPEC = plot(draw=lambda info: None)", "TypeError: draw returned NoneType, not a Figure"),
    "file": ("SPEC = plot(draw=lambda info: open('/no/such/file'))", "FileNotFoundError"),
    "system": ("def bad(info): raise OSError('x')\nSPEC = plot(draw=bad)", "OSError: x"),
    "matplotlib": ("SPEC = plot(draw=bad_text)", "ValueError"),
    "caption": ("SPEC = plot(caption=boom)", "RuntimeError: two lines"),
    "caption of another type": ("SPEC = plot(caption=lambda info: None)", "caption returned NoneType, not a text"),
    "data": ("SPEC = plot(data=lambda info: 5)", "TypeError"),
    "recursion": ("def deep(info): return deep(info)\nSPEC = plot(draw=deep)", "RecursionError"),
}
TABLES = {
    "import": ("import nowhere_at_all", "ModuleNotFoundError"),
    "info": ("SPEC = table_spec(info=boom)", "RuntimeError: two lines"),
    "info over tasks": ("SPEC = table_spec(info=boom, across=True)", "RuntimeError: two lines"),
    "render": ("SPEC = table_spec(render=boom)", "RuntimeError: two lines"),
    "no table": ("SPEC = table_spec(render=lambda info: [])", "render returned list, not a Table"),
    "numbers": ("SPEC = table_spec(render=lambda info: table(rows=((1,),)))", "Error"),
    "more cells than columns": ("SPEC = table_spec(render=lambda info: table(rows=(('1', '2'),)))", "AssertionError"),
    "note": ("SPEC = table_spec(render=lambda info: table(notes=(5,)))", "Error"),
    "caption": ("SPEC = table_spec(render=lambda info: table(caption=None))", "Error"),
}
CASES = [("plots", name) for name in PLOTS] + [("tables", name) for name in TABLES]


@pytest.fixture
def small(store):
    """The path of a run with one confirmed cell."""
    run = store(cells=[("lopt1", 10, 1)])
    run.confirm("lopt1", 10, 1, 0.8)
    return run.write()


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A function that writes a user's plugin: `plugin("plots", "SPEC = ...")`."""

    def write(kind, code):
        folder = tmp_path / "analysis" / kind
        folder.mkdir(parents=True)
        (folder / "mine.py").write_text(HEAD + code)
        package = getattr(analysis, kind)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])

    yield write
    for kind in ("plots", "tables"):
        sys.modules.pop(f"analysis.{kind}.mine", None)


def report(path, out, capsys):
    """Write a report; return the exit code, the page, the Markdown, and what was printed to stdout and stderr."""
    exit_code = main([str(path), "--out", str(out)])
    printed = capsys.readouterr()
    return exit_code, (out / "report.html").read_text(), (out / "report.md").read_text(), printed.out, printed.err


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_plugin_that_fails_is_named_and_left_out(small, tmp_path, capsys, plugin, kind, name):
    code, reason = (PLOTS if kind == "plots" else TABLES)[name]
    plugin(kind, code)
    out = tmp_path / "out"
    for folder, ending in (("figures", "png"), ("tables", "md")):
        (out / folder).mkdir(parents=True)
        (out / folder / f"mine.{ending}").write_text("of an earlier report")
    exit_code, page, markdown, output, errors = report(small, out, capsys)
    assert exit_code == 0 and "report: " in output
    (line,) = errors.splitlines()
    assert line.startswith(f"report: left out, because it failed: analysis/{kind}/mine.py") and reason in line
    assert "Left out, because it failed: analysis/" in page and "Left out, because it failed" in markdown
    assert "All cells" in page and "All cells" in markdown and (out / "tables" / "cells.md").is_file()
    assert not [*out.glob(f"{'figures' if kind == 'plots' else 'tables'}/mine*")], "it leaves no file"


def test_the_message_names_the_line_of_the_plugin(small, tmp_path, capsys, plugin):
    plugin("plots", "\ndef draw(info):\n    return 1 / 0\nSPEC = plot(draw=draw)\n")
    line = (HEAD + "\n\n").count("\n") + 1
    assert f"analysis/plots/mine.py, line {line}: ZeroDivisionError" in report(small, tmp_path / "out", capsys)[-1]


@pytest.mark.parametrize(
    ("kind", "code", "title"), [("plots", "SPEC = plot()", "My plot"), ("tables", "SPEC = table_spec()", "My table")]
)
def test_a_plugin_that_works_is_shown(small, tmp_path, capsys, plugin, kind, code, title):
    plugin(kind, code)
    _, page, markdown, _, errors = report(small, tmp_path / "out", capsys)
    assert errors == "" and title in page and title in markdown


@pytest.mark.parametrize(("place", "before"), [("", ["budget", "cells"]), (", place=25", ["budget"])])
@pytest.mark.parametrize("kind", ["plots", "tables"])
def test_a_plugin_is_shown_at_its_place(small, tmp_path, capsys, plugin, kind, place, before):
    plugin(kind, f"SPEC = {'plot(' if kind == 'plots' else 'table_spec('}{place.removeprefix(', ')})")
    _, page, _, _, _ = report(small, tmp_path / "out", capsys)
    names = re.findall(r'class="card" id="([a-z_]+)"', page)
    names_before = names[: names.index("mine")]
    assert [name for name in ("budget", "cells") if name in names_before] == before


METHOD = """
from lopt.methods.prompt_tuning import PromptTuning

class Mine(PromptTuning):
    name, title, colour, marker, sort_order = "mine", "My own", "#123456", "h", 15

SPEC = Mine()
"""


@pytest.fixture
def method(tmp_path, monkeypatch):
    """The file of a user's method, which is called "mine"."""

    def forget():
        registry.plugins.cache_clear()
        methods.find_method.cache_clear()
        sys.modules.pop("lopt.methods.mine", None)

    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "mine.py").write_text(METHOD)
    monkeypatch.setattr(lopt.methods, "__path__", [*lopt.methods.__path__, str(tmp_path / "methods")])
    forget()
    yield tmp_path / "methods" / "mine.py"
    forget()


def run_with_three_methods(store):
    run = store(cells=[])
    for name, accuracy in (("prompt_tuning", 0.8), ("lopt1", 0.7), ("mine", 0.9)):
        run.confirm(name, 10, 1, accuracy)
    return run.write()


def test_a_method_in_one_file_is_shown_with_its_title_colour_and_place(store, tmp_path, capsys, method):
    _, page, markdown, _, errors = report(run_with_three_methods(store), tmp_path / "out", capsys)
    assert errors == "" and "My own n=10 r=1" in page and "My own n=10 r=1" in markdown
    assert methods.sorted_methods(["lopt1", "mine", "prompt_tuning"]) == ["prompt_tuning", "mine", "lopt1"]
    assert "#123456" in (tmp_path / "out" / "figures" / "pareto.svg").read_text()


def test_a_method_that_cannot_be_imported_costs_only_the_titles(store, tmp_path, capsys, method):
    method.write_text("import nowhere_at_all")
    exit_code, _, markdown, _, errors = report(run_with_three_methods(store), tmp_path / "out", capsys)
    assert exit_code == 0 and errors == "" and "mine n=10 r=1" in markdown


def test_matplotlib_settings_of_a_plot_do_not_leak(small, tmp_path, capsys, plugin):
    import matplotlib

    draw = "def draw(info):\n    m.rcParams['font.size'] = 77\n    boom()\n"
    plugin("plots", f"import matplotlib as m\n{draw}SPEC = plot(draw=draw)")
    report(small, tmp_path / "out", capsys)
    assert matplotlib.rcParams["font.size"] != 77


def test_a_built_in_table_that_fails_costs_only_itself(small, tmp_path, capsys, monkeypatch):
    def boom(info):
        raise KeyError("gone")

    spec = cells.TableSpec(name="cells", title="All cells", info=cells.compute, render=boom)
    monkeypatch.setattr(cells, "SPEC", spec)
    exit_code, page, _, _, errors = report(small, tmp_path / "out", capsys)
    assert exit_code == 0 and "analysis/tables/cells.py" in errors and "KeyError: &#39;gone&#39;" in page
    assert "What to use within a budget" in page


def test_a_plot_that_fails_on_several_tasks_is_named_once(store, tmp_path, capsys, plugin):
    plugin("plots", "SPEC = plot(draw=boom)")
    run = store(cells=[("lopt1", 10, 1)])
    for task in ("one", "two"):
        run.confirm("lopt1", 10, 1, 0.8, config__task=task)
    _, page, _, _, errors = report(run.write(), tmp_path / "out", capsys)
    assert len(errors.splitlines()) == 1 and page.count("Left out, because it failed") == 1
    assert page.count("it failed, as said at the top") >= 2


def test_ctrl_c_still_ends_the_report(small, tmp_path, plugin):
    plugin("plots", "def stop(info): raise KeyboardInterrupt\nSPEC = plot(draw=stop)")
    with pytest.raises(KeyboardInterrupt):
        main([str(small), "--out", str(tmp_path / "out")])


def test_a_scan_without_a_dict_for_faults_raises(plugin):
    plugin("plots", "import nowhere_at_all")
    with pytest.raises(ModuleNotFoundError):
        scan("analysis.plots", PlotSpec)
