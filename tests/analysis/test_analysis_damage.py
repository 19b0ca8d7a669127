"""A damaged store, hostile texts and wrong arguments: a report of what can be read, or one line and exit 2."""

from __future__ import annotations

import copy
import csv
import html.parser
import io
import json
import re
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import render
from analysis.render import Column, Table
from analysis.report import main
from tests.bad_input import called, fixed, line_of, refused, texts

JSON = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([10**400, 2**63, 0.5, 1e308]), texts,
    st.just([]), st.just({}), st.just([None]), st.just({"a": 1}), st.floats(allow_nan=True),
)  # fmt: skip


@pytest.fixture
def small(store):
    """One cell with a search trial and a confirmed one: too few for most figures, which take long."""
    s = store(cells=[("lopt1", 10, 1)])
    once = {"evaluations": [{"step": 10, "selection_accuracy": 0.5, "top_class_share": 0.6}]}
    s.search("lopt1", 10, 1, **once)
    s.confirm("lopt1", 10, 1, 0.8, **once)
    return s.write()


def places(value, path=()):
    """The paths of all values of a JSON value."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


def with_value(whole, path, value):
    if not path:
        return value
    made = copy.deepcopy(whole)
    at = made
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return made


@fixed(80)
@given(data=st.data(), value=JSON)
def test_any_value_anywhere_in_the_store(small, tmp_path, data, value):
    run = tmp_path / "copy"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(small, run)
    files = sorted(run.rglob("*.json"))
    file = data.draw(st.sampled_from(files).map(lambda path: path.relative_to(run)))
    whole = json.loads((run / file).read_text())
    changed = with_value(whole, data.draw(st.sampled_from(list(places(whole)))), value)
    (run / file).write_text(json.dumps(changed))
    code, out, err = called(main, str(run), "--out", str(tmp_path / "out"))
    if code:
        assert file.name == "manifest.json"
        assert "manifest.json" in line_of(code, out, err)
    else:
        page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        assert err == "", "no table and no figure fails"
        assert "<svg" not in page or "</svg>" in page
        if file.parent.name == "trials" and not isinstance(changed, dict):
            assert "1 record could not be read" in page and file.name in page


def test_a_hostile_value_everywhere_at_once(small, tmp_path):
    """Texts with half characters, controls and markup in every text of a record and of the manifest."""
    bad = "\ud800\x1b</script><script>alert(1)</script>\n| `x` $y$ \\input{z} [*] \u202e"

    def spoiled(value, name=""):
        if isinstance(value, dict):
            return {key: spoiled(each, key) for key, each in value.items()}
        if isinstance(value, list):
            return [spoiled(each) for each in value]
        return bad if isinstance(value, str) and name not in ("key", "phase", "status") else value

    for file in small.rglob("*.json"):
        file.write_text(json.dumps(spoiled(json.loads(file.read_text()))))
    code, out, err = called(main, str(small), "--out", str(tmp_path / "out"))
    assert (code, err) == (0, "")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("<script") == 1 and "<script>alert" not in page and "\x1b" not in page and "\ufffd" in page
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
def test_a_damaged_manifest(small, tmp_path, name, content):
    (small / name).write_bytes(content)
    refused(
        main, small, "--out", tmp_path / "out", words=["manifest.json cannot be read", "repeat the sweep's command"]
    )


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"", b"5", b"[1]", b'{"a": ' + b"9" * 5000 + b"}"])
def test_damaged_records_and_baselines_are_named(small, tmp_path, content):
    (small / "trials" / "0123456789abcdef.json").write_bytes(content)
    (small / "baselines.json").write_bytes(content)
    (small / "trials" / "folder.json").mkdir()
    code, out, err = called(main, small, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "3 records could not be read" in out and "baselines.json" in out and "0123456789abcdef.json" in out


def test_damaged_tables_are_not_read(small, tmp_path):
    (small / "trials.parquet").write_bytes(b"PAR1")
    (small / "predictions").mkdir()
    (small / "predictions" / "0123456789abcdef.parquet").write_bytes(b"PAR1")
    assert called(main, small, "--out", tmp_path / "out")[0] == 0


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
def test_wrong_arguments(argv, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(main, *argv, words=words)


def test_folders_that_are_no_runs(small, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(main, tmp_path / "empty", words=["no run", "manifest.json"])
    (small / "manifest.json").unlink()
    refused(main, small, words=["no run", "manifest.json"])
    (small / "manifest.json").mkdir()
    refused(main, small, words=["no run", "manifest.json"])


def test_an_out_that_is_a_file(small, tmp_path):
    (tmp_path / "file").write_text("kept")
    refused(main, small, "--out", tmp_path / "file", words=["cannot write", "--out"])
    assert (tmp_path / "file").read_text() == "kept"


# --- rendering -------------------------------------------------------------------------------------------------------

cells = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20) | st.sampled_from(
    ["|", "a|b", "`", "``x`", "\\", "\\|", "[x]", "*", "**b**", "<b>", "&amp;", "%", "$x$", "#", "_a_", "~", "^", "{}",
     "\\input{x}", "=1+1", "- a", "\u2028", "]]>", '"', "'"]
)  # fmt: skip


def shown(first, second, code):
    columns = (Column(title=first, align="left", code=code), Column(title=second))
    return Table(caption=second, columns=columns, rows=((first, second), (second, first)), notes=(first,))


class Texts(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.cells, self.inside = [], [], False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "td":
            self.cells.append("")
            self.inside = True

    def handle_data(self, data):
        if self.inside:
            self.cells[-1] += data

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "td"


@fixed(150)
@given(first=cells, second=cells, code=st.booleans())
def test_every_text_is_a_text_in_every_form(first, second, code):
    table = shown(first, second, code)

    page = Texts()
    page.feed(str(render.html(table)))
    assert set(page.tags) <= {"p", "div", "table", "thead", "tbody", "tr", "th", "td", "code", "ul", "li", "button"}
    assert [c.strip() for c in page.cells] == [c.strip() for c in (first, second, second, first)]

    read = list(csv.reader(io.StringIO(render.csv(table), newline="")))
    assert read[1:] == [[first, second], [second, first]]

    rows = [line for line in render.markdown(table).split("\n") if line.startswith("| ")]
    assert len(rows) == 4
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows} == {3}

    latex = render.latex(table)
    body = latex[latex.index(r"\midrule") + 8 : latex.index(r"\bottomrule")].strip("\n").split("\n")
    assert len(body) == 2
    for line in body:
        assert line.endswith(r" \\")
        line = re.sub(r"(^|& )\{(–|--)?\}", r"\1", line)  # no number, in a column of numbers
        bare = re.sub(r"\\(?:[\\{}&%$#_]|[a-zA-Z]+(?:\{\})?)|\$\^2\$|\$\\[a-z]+\$|\$-\$", "", line)
        assert bare.count("&") == 1, line
        assert not set(bare) & set("%#_~^"), line
        assert not line.startswith(("[", "*")), "an argument of the end of the row before"
        assert r"\input" not in line


@fixed(60)
@given(value=texts)
def test_any_text_is_rendered(value):
    for form in (render.markdown_text, render.markdown_code, render.latex_text):
        assert "\n" not in form(value)
