"""A table or plot that fails, a user's own or a built-in one, is named and left out; the rest of the report stands."""

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
def tabled(**changes):
    parts = {"info": lambda group: 1, "render": lambda info: table()}
    return TableSpec(name="mine", title="My table", **(parts | changes))
def bad_text(info):
    figure = Figure()
    figure.text(0, 0, "$\\\\nonsense{$")
    return figure
"""

PLOTS = {
    "import": ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
    "syntax": ("def (", "SyntaxError"),
    "exit at import": ("sys.exit(3)", "SystemExit: 3"),
    "no SPEC": ("", "needs SPEC = PlotSpec(name='mine', ...)"),
    "SPEC of tables": ("SPEC = tabled()", "needs SPEC = PlotSpec"),
    "title": ("SPEC = plot(); object.__setattr__(SPEC, 'title', 5)", "has the title 5"),
    "place": ("SPEC = plot(place='first')", "has the place 'first', which is not a whole number"),
    "info": ("SPEC = plot(info=boom)", "RuntimeError: two lines"),
    "info exits": ("SPEC = plot(info=lambda group: sys.exit('gone'))", "SystemExit: gone"),
    "draw": ("SPEC = plot(draw=boom)", "RuntimeError: two lines"),
    "draws nothing": ("SPEC = plot(draw=lambda info: None)", "TypeError: draw gives NoneType, not a Figure"),
    "file": ("SPEC = plot(draw=lambda info: open('/no/such/file'))", "FileNotFoundError"),
    "system": ("def bad(info): raise OSError('x')\nSPEC = plot(draw=bad)", "OSError: x"),
    "matplotlib": ("SPEC = plot(draw=bad_text)", "ValueError"),
    "caption": ("SPEC = plot(caption=boom)", "RuntimeError: two lines"),
    "caption of another type": ("SPEC = plot(caption=lambda info: None)", "caption gives NoneType, not a text"),
    "data": ("SPEC = plot(data=lambda info: 5)", "TypeError"),
    "recursion": ("def deep(info): return deep(info)\nSPEC = plot(draw=deep)", "RecursionError"),
}
TABLES = {
    "import": ("import nowhere_at_all", "ModuleNotFoundError"),
    "info": ("SPEC = tabled(info=boom)", "RuntimeError: two lines"),
    "info over tasks": ("SPEC = tabled(info=boom, across=True)", "RuntimeError: two lines"),
    "render": ("SPEC = tabled(render=boom)", "RuntimeError: two lines"),
    "no table": ("SPEC = tabled(render=lambda info: [])", "render gives list, not a Table"),
    "numbers": ("SPEC = tabled(render=lambda info: table(rows=((1,),)))", "Error"),
    "more cells than columns": ("SPEC = tabled(render=lambda info: table(rows=(('1', '2'),)))", "AssertionError"),
    "note": ("SPEC = tabled(render=lambda info: table(notes=(5,)))", "Error"),
    "caption": ("SPEC = tabled(render=lambda info: table(caption=None))", "Error"),
}
CASES = [("plots", name) for name in PLOTS] + [("tables", name) for name in TABLES]


@pytest.fixture
def small(store):
    s = store(cells=[("lopt1", 10, 1)])
    s.confirm("lopt1", 10, 1, 0.8)
    return s.write()


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Writes a plugin of the user's own: `plugin("plots", "SPEC = ...")`."""

    def write(kind, code):
        folder = tmp_path / "analysis" / kind
        folder.mkdir(parents=True)
        (folder / "mine.py").write_text(HEAD + code)
        package = getattr(analysis, kind)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])

    yield write
    for kind in ("plots", "tables"):
        sys.modules.pop(f"analysis.{kind}.mine", None)


def report(run, out, capsys):
    code = main([str(run), "--out", str(out)])
    said = capsys.readouterr()
    return code, (out / "report.html").read_text(), (out / "report.md").read_text(), said.out, said.err


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_what_fails_is_named_and_left_out(small, tmp_path, capsys, plugin, kind, name):
    code, reason = (PLOTS if kind == "plots" else TABLES)[name]
    plugin(kind, code)
    out = tmp_path / "out"
    for folder, ending in (("figures", "png"), ("tables", "md")):
        (out / folder).mkdir(parents=True)
        (out / folder / f"mine.{ending}").write_text("of an earlier report")
    code, page, markdown, said, errors = report(small, out, capsys)
    assert code == 0 and "report: " in said
    (line,) = errors.splitlines()
    assert line.startswith(f"report: left out, because it failed: analysis/{kind}/mine.py") and reason in line
    assert "Left out, because it failed: analysis/" in page and "Left out, because it failed" in markdown
    assert "All cells" in page and "All cells" in markdown and (out / "tables" / "cells.md").is_file()
    assert not [*out.glob(f"{'figures' if kind == 'plots' else 'tables'}/mine*")], "no file of it"


def test_the_line_of_the_plugin_is_said(small, tmp_path, capsys, plugin):
    plugin("plots", "\ndef draw(info):\n    return 1 / 0\nSPEC = plot(draw=draw)\n")
    at = (HEAD + "\n\n").count("\n") + 1
    assert f"analysis/plots/mine.py, line {at}: ZeroDivisionError" in report(small, tmp_path / "out", capsys)[-1]


@pytest.mark.parametrize(
    ("kind", "code", "shown"), [("plots", "SPEC = plot()", "My plot"), ("tables", "SPEC = tabled()", "My table")]
)
def test_what_works_is_shown(small, tmp_path, capsys, plugin, kind, code, shown):
    plugin(kind, code)
    _, page, markdown, _, errors = report(small, tmp_path / "out", capsys)
    assert errors == "" and shown in page and shown in markdown


@pytest.mark.parametrize(("place", "before"), [("", ["budget", "cells"]), (", place=25", ["budget"])])
@pytest.mark.parametrize("kind", ["plots", "tables"])
def test_what_is_added_says_its_place(small, tmp_path, capsys, plugin, kind, place, before):
    plugin(kind, f"SPEC = {'plot(' if kind == 'plots' else 'tabled('}{place.removeprefix(', ')})")
    _, page, _, _, _ = report(small, tmp_path / "out", capsys)
    shown = re.findall(r'class="card" id="([a-z_]+)"', page)
    at = shown.index("mine")
    assert [name for name in ("budget", "cells") if name in shown[:at]] == before


METHOD = """
from lopt.methods.prompt_tuning import PromptTuning

class Mine(PromptTuning):
    name, title, colour, marker, place = "mine", "My own", "#123456", "h", 15

SPEC = Mine()
"""


@pytest.fixture
def method(tmp_path, monkeypatch):
    """A method of the user's own, "mine", in a file of its own."""

    def forget():
        registry.plugins.cache_clear()
        methods.described.cache_clear()
        sys.modules.pop("lopt.methods.mine", None)

    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "mine.py").write_text(METHOD)
    monkeypatch.setattr(lopt.methods, "__path__", [*lopt.methods.__path__, str(tmp_path / "methods")])
    forget()
    yield tmp_path / "methods" / "mine.py"
    forget()


def of_three_methods(store):
    s = store(cells=[])
    for name, accuracy in (("prompt_tuning", 0.8), ("lopt1", 0.7), ("mine", 0.9)):
        s.confirm(name, 10, 1, accuracy)
    return s.write()


def test_a_method_in_one_file_is_shown_with_its_title_colour_and_place(store, tmp_path, capsys, method):
    _, page, markdown, _, errors = report(of_three_methods(store), tmp_path / "out", capsys)
    assert errors == "" and "My own n=10 r=1" in page and "My own n=10 r=1" in markdown
    assert methods.in_order(["lopt1", "mine", "prompt_tuning"]) == ["prompt_tuning", "mine", "lopt1"]
    assert "#123456" in (tmp_path / "out" / "figures" / "pareto.svg").read_text()


def test_a_method_that_cannot_be_read_costs_titles_alone(store, tmp_path, capsys, method):
    method.write_text("import nowhere_at_all")
    code, _, markdown, _, errors = report(of_three_methods(store), tmp_path / "out", capsys)
    assert code == 0 and errors == "" and "mine n=10 r=1" in markdown


def test_a_plot_keeps_its_settings_to_itself(small, tmp_path, capsys, plugin):
    import matplotlib

    plugin(
        "plots",
        "import matplotlib as m\ndef draw(info):\n    m.rcParams['font.size'] = 77\n    boom()\nSPEC = plot(draw=draw)",
    )
    report(small, tmp_path / "out", capsys)
    assert matplotlib.rcParams["font.size"] != 77


def test_a_built_in_table_that_fails_costs_only_itself(small, tmp_path, capsys, monkeypatch):
    def boom(info):
        raise KeyError("gone")

    monkeypatch.setattr(
        cells, "SPEC", cells.TableSpec(name="cells", title="All cells", info=cells.compute, render=boom)
    )
    code, page, _, _, errors = report(small, tmp_path / "out", capsys)
    assert code == 0 and "analysis/tables/cells.py" in errors and "KeyError: &#39;gone&#39;" in page
    assert "What to use within a budget" in page


def test_one_that_fails_on_several_tasks_is_named_once(store, tmp_path, capsys, plugin):
    plugin("plots", "SPEC = plot(draw=boom)")
    s = store(cells=[("lopt1", 10, 1)])
    for task in ("one", "two"):
        s.confirm("lopt1", 10, 1, 0.8, config__task=task)
    _, page, _, _, errors = report(s.write(), tmp_path / "out", capsys)
    assert len(errors.splitlines()) == 1 and page.count("Left out, because it failed") == 1
    assert page.count("it failed, as said at the top") >= 2


def test_ctrl_c_still_ends_it(small, tmp_path, plugin):
    plugin("plots", "def stop(info): raise KeyboardInterrupt\nSPEC = plot(draw=stop)")
    with pytest.raises(KeyboardInterrupt):
        main([str(small), "--out", str(tmp_path / "out")])


def test_a_scan_by_itself_raises(plugin):
    plugin("plots", "import nowhere_at_all")
    with pytest.raises(ModuleNotFoundError):
        scan("analysis.plots", PlotSpec)
