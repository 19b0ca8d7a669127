"""The contract of every table and plot, and what the figures need."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import style
from analysis.cells import groups
from analysis.load import load
from analysis.registry import Missing, PlotSpec, TableSpec, scan
from analysis.render import Table
from analysis.style import spread

TABLES, PLOTS = scan("analysis.tables", TableSpec), scan("analysis.plots", PlotSpec)


@pytest.fixture(scope="module")
def full(full_run):
    return groups(load([full_run]))[0]


@pytest.fixture
def bare(store):
    return groups(load([store().write(status="running")]))[0]


@pytest.mark.parametrize("name", TABLES)
def test_table_contract(name, full, bare):
    spec = TABLES[name]
    for group in (full, bare):
        info = spec.info(group)
        assert info == spec.info(group)  # computed from the group alone
        if isinstance(info, Missing):
            assert info.reason
        else:
            table = spec.render(info)
            assert isinstance(table, Table) and table.rows and table.caption


@pytest.mark.parametrize("name", PLOTS)
def test_plot_contract(name, full, bare, tmp_path):
    spec = PLOTS[name]
    assert isinstance(spec.info(bare), Missing) and spec.info(bare).reason
    info = spec.info(full)
    assert re.search(r"interval|error bars", spec.caption(info)), "a caption says what the error bars are"
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        style.save(spec.draw(info), tmp_path / folder / name)
    for suffix in ("svg", "pdf", "png"):
        one, two = ((tmp_path / folder / f"{name}.{suffix}").read_bytes() for folder in ("one", "two"))
        assert one == two, f"{suffix} differs between two runs"
    text = (tmp_path / "one" / f"{name}.svg").read_text()
    assert "<dc:date>" not in text
    page = style.inline_svg(text, name, 'a "label" <x>')
    assert style.INK not in page and "var(--ink)" in page and "a &#34;label&#34; &lt;x&gt;" in page
    ids = set(re.findall(r'\bid="([^"]+)"', page))
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', page)) <= ids


def test_published_points_only_where_comparable(store, full):
    assert PLOTS["pareto"].info(full).published == ()
    s = store(backbone="gpt2-large", task="sst2", width=1280, test_split="validation", test_n=872, split_size=872)
    s.confirm("lopt1", 10, 1, 0.9)
    s.confirm("lopt1", 10, 2, 0.92)
    assert len(PLOTS["pareto"].info(groups(load([s.write()]))[0]).published) == 11  # table 3, and LoPT-2 of table 1


def test_hostile_names_draw(store):
    s = store(task=r"$\frac{", cells=[])
    for rank, accuracy in ((1, 0.6), (2, 0.9)):
        s.confirm(r"<b>$x_", 10, rank, accuracy)
    info = PLOTS["pareto"].info(groups(load([s.write()]))[0])
    PLOTS["pareto"].draw(info).canvas.draw()


@given(st.lists(st.floats(-1000, 1000), max_size=12), st.floats(0.1, 50))
def test_spread_sets_apart_in_order(positions, gap):
    found = spread(positions, gap)
    order = sorted(range(len(positions)), key=lambda i: (positions[i], i))
    moved = [found[i] for i in order]
    assert all(b - a >= gap - 1e-6 for a, b in pairwise(moved))
    assert sum(found) == pytest.approx(sum(positions), abs=1e-3)
