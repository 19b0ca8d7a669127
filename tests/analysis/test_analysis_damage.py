"""A damaged store, hostile texts and wrong arguments give a report of what can be read, or one line and exit 2."""

from __future__ import annotations

import copy
import csv
import html.parser
import io
import json
import re
import shutil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from analysis import render
from analysis.render import Column, Table
from analysis.report import main
from tests.bad_input import error_line, fixed, refused, run_command, texts

JSON = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([10**400, 2**63, 0.5, 1e308]), texts,
    st.just([]), st.just({}), st.just([None]), st.just({"a": 1}), st.floats(allow_nan=True),
)  # fmt: skip


@pytest.fixture
def small_run(store):
    """One cell with a search trial and a confirmed one. That is too few for most figures, which would take long."""
    run = store(cells=[("lopt1", 10, 1)])
    evaluations = [{"step": 10, "selection_accuracy": 0.5, "top_class_share": 0.6}]
    run.search("lopt1", 10, 1, evaluations=evaluations)
    run.confirm("lopt1", 10, 1, 0.8, evaluations=evaluations)
    return run.write()


def value_paths(value, path=()):
    """Yield the paths of all values in a JSON value."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from value_paths(inner, (*path, key))


def with_value(original, path, value):
    """Return a copy of a JSON value in which the value at this path is another one."""
    if not path:
        return value
    changed = copy.deepcopy(original)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return changed


@fixed(80)
@given(data=st.data(), value=JSON)
def test_any_value_anywhere_in_the_store_gives_a_report_or_one_line(small_run, tmp_path, data, value):
    run = tmp_path / "copy"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(small_run, run)
    files = sorted(run.rglob("*.json"))
    file = data.draw(st.sampled_from(files).map(lambda path: path.relative_to(run)))
    original = json.loads((run / file).read_text())
    changed = with_value(original, data.draw(st.sampled_from(list(value_paths(original)))), value)
    (run / file).write_text(json.dumps(changed))
    code, out, err = run_command(main, str(run), "--out", str(tmp_path / "out"))
    if code:
        assert file.name == "manifest.json"
        assert "manifest.json" in error_line(code, out, err)
    else:
        page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        assert err == "", "a table or a figure failed"
        assert "<svg" not in page or "</svg>" in page
        if file.parent.name == "trials" and not isinstance(changed, dict):
            assert "1 record could not be read" in page and file.name in page


def test_hostile_texts_everywhere_are_escaped(small_run, tmp_path):
    """Every text of a record and of the manifest contains lone surrogates, control characters and markup."""
    hostile = "\ud800\x1b</script><script>alert(1)</script>\n| `x` $y$ \\input{z} [*] \u202e"

    def make_hostile(value, name=""):
        if isinstance(value, dict):
            return {key: make_hostile(inner, key) for key, inner in value.items()}
        if isinstance(value, list):
            return [make_hostile(item) for item in value]
        return hostile if isinstance(value, str) and name not in ("key", "phase", "status") else value

    for file in small_run.rglob("*.json"):
        file.write_text(json.dumps(make_hostile(json.loads(file.read_text()))))
    code, out, err = run_command(main, str(small_run), "--out", str(tmp_path / "out"))
    assert (code, err) == (0, "")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("<script") == 2 and "<script>alert" not in page and "\x1b" not in page and "\ufffd" in page
    out.encode()
    for path in (tmp_path / "out" / "tables").glob("*.tex"):
        assert r"\input" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", b"[" * 100_000),
        ("manifest.json", b"\xff"),
        ("manifest.json", b""),
        ("manifest.json", b"5"),
        ("manifest.json", b'{"schema_version": 1, "space": {}, "provenance": []}'),
        ("manifest.json", b'{"schema_version": 1, "space": {}, "provenance": {"hardware": 5}}'),
    ],
)
def test_a_damaged_manifest_is_refused(small_run, tmp_path, name, content):
    (small_run / name).write_bytes(content)
    refused(
        main, small_run, "--out", tmp_path / "out", words=["manifest.json cannot be read", "repeat the sweep's command"]
    )


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"", b"5", b"[1]", b'{"a": ' + b"9" * 5000 + b"}"])
def test_damaged_records_and_baselines_are_named(small_run, tmp_path, content):
    (small_run / "trials" / "0123456789abcdef.json").write_bytes(content)
    (small_run / "baselines.json").write_bytes(content)
    (small_run / "trials" / "folder.json").mkdir()
    code, out, err = run_command(main, small_run, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "3 records could not be read" in out and "baselines.json" in out and "0123456789abcdef.json" in out


def test_damaged_tables_are_not_read(small_run, tmp_path):
    (small_run / "trials.parquet").write_bytes(b"PAR1")
    (small_run / "predictions").mkdir()
    (small_run / "predictions" / "0123456789abcdef.parquet").write_bytes(b"PAR1")
    assert run_command(main, small_run, "--out", tmp_path / "out")[0] == 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nowhere"], ["no run 'nowhere'", "manifest.json"]),
        (["x" * 5000], ["no run 'xxx"]),
        (["a\0b"], ["no run 'a\\x00b'"]),
        (["\ud800"], ["no run '\\ud800'"]),
        (["a\nb"], ["no run 'a\\nb'"]),
        (["--results", "nowhere"], ["no runs under nowhere", "sweeps/run.py"]),
        (["--results", __file__], ["no runs under"]),
        (["--what"], ["unrecognized arguments: --what", "--help"]),
        (["--out"], ["--out", "expected one argument"]),
    ],
)
def test_wrong_arguments_are_refused(argv, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(main, *argv, words=words)


def test_folders_that_are_not_runs_are_refused(small_run, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(main, tmp_path / "empty", words=["no run", "manifest.json"])
    (small_run / "manifest.json").unlink()
    refused(main, small_run, words=["no run", "manifest.json"])
    (small_run / "manifest.json").mkdir()
    refused(main, small_run, words=["no run", "manifest.json"])


def test_an_out_that_is_a_file_is_refused(small_run, tmp_path):
    (tmp_path / "file").write_text("kept")
    refused(main, small_run, "--out", tmp_path / "file", words=["cannot write", "--out"])
    assert (tmp_path / "file").read_text() == "kept"


# --- rendering -------------------------------------------------------------------------------------------------------

cell_texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20) | st.sampled_from(
    ["|", "a|b", "`", "``x`", "\\", "\\|", "[x]", "*", "**b**", "<b>", "&amp;", "%", "$x$", "#", "_a_", "~", "^", "{}",
     "\\input{x}", "=1+1", "- a", "\u2028", "]]>", '"', "'"]
)  # fmt: skip


def two_column_table(first, second, code):
    columns = (Column(title=first, align="left", code=code), Column(title=second))
    return Table(caption=second, columns=columns, rows=((first, second), (second, first)), notes=(first,))


class TableParser(html.parser.HTMLParser):
    """Collects the tags of a page, and the text of its table cells."""

    def __init__(self):
        super().__init__()
        self.tags, self.cells, self.is_in_cell = [], [], False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "td":
            self.cells.append("")
            self.is_in_cell = True

    def handle_data(self, data):
        if self.is_in_cell:
            self.cells[-1] += data

    def handle_endtag(self, tag):
        self.is_in_cell = self.is_in_cell and tag != "td"


@fixed(150)
@given(first=cell_texts, second=cell_texts, code=st.booleans())
@example(first="a\\|b", second="c", code=True)
def test_every_text_stays_a_text_in_every_format(first, second, code):
    table = two_column_table(first, second, code)

    page = TableParser()
    page.feed(str(render.html(table)))
    assert set(page.tags) <= {"p", "div", "table", "thead", "tbody", "tr", "th", "td", "code", "ul", "li", "button"}
    assert [cell.strip() for cell in page.cells] == [cell.strip() for cell in (first, second, second, first)]

    csv_rows = list(csv.reader(io.StringIO(render.csv(table), newline="")))
    assert csv_rows[1:] == [[first, second], [second, first]]

    rows = [line for line in render.markdown(table).split("\n") if line.startswith("| ")]
    assert len(rows) == 4
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows} == {3}

    latex = render.latex(table)
    body = latex[latex.index(r"\midrule") + 8 : latex.index(r"\bottomrule")].strip("\n").split("\n")
    assert len(body) == 2
    for line in body:
        assert line.endswith(r" \\")
        line = re.sub(r"(^|& )\{(–|--)?\}", r"\1", line)  # a text in a column of numbers is in braces
        bare = re.sub(r"\\(?:[\\{}&%$#_]|[a-zA-Z]+(?:\{\})?)|\$\^2\$|\$\\[a-z]+\$|\$-\$", "", line)
        assert bare.count("&") == 1, line
        assert not set(bare) & set("%#_~^"), line
        assert not line.startswith(("[", "*")), "LaTeX would take it as an argument of the end of the row before"
        assert r"\input" not in line


@fixed(60)
@given(value=texts)
def test_any_text_is_rendered_in_one_line(value):
    for render_text in (render.markdown_text, render.markdown_code, render.latex_text):
        assert "\n" not in render_text(value)
