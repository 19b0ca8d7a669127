"""What every table and plot must keep, and how the figures look."""

import json
import re
from dataclasses import replace
from itertools import combinations, pairwise, product

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis import published, style
from analysis.cells import groups
from analysis.group_sequential import SequentialDesign
from analysis.labels import MARKER_COST, Labels
from analysis.load import load
from analysis.plots.curves import learning_curve
from analysis.plots.importances import Importances
from analysis.registry import Info, Missing, PlotSpec, TableSpec, scan
from analysis.render import Table, csv
from analysis.style import move_apart
from lopt import methods
from tests.analysis.conftest import Store
from tests.analysis.simulated import simulated_run

TABLES, PLOTS = scan("analysis.tables", TableSpec), scan("analysis.plots", PlotSpec)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The group of a full run, with three seeds and predictions."""
    run = Store(root=tmp_path_factory.mktemp("plots") / "results")
    return groups(load([run.fill(seeds=3, predictions=True)]))[0]


@pytest.fixture(scope="module")
def with_looks(tmp_path_factory):
    """The group of a run that adds seeds until it is decided."""
    root = tmp_path_factory.mktemp("looks") / "results"
    run = simulated_run(lambda **settings: Store(root=root, **settings), [0.3, 0.0], only_these_cells=True)
    (group,) = groups(load([run]))
    return replace(group, design=SequentialDesign(margin=group.margin, looks=(3, 5), times=(0.6, 1.0)))


@pytest.fixture
def empty(store):
    """The group of a run without any trial."""
    return groups(load([store().write(status="running")]))[0]


@pytest.mark.parametrize("name", TABLES)
def test_every_table_keeps_the_contract(name, full, empty, with_looks):
    spec = TABLES[name]
    for group in (full, empty, with_looks):
        subject = (group,) if spec.across else group
        info = spec.info(subject)
        assert info == spec.info(subject)  # computed from the group alone
        if isinstance(info, Missing):
            assert info.reason
        else:
            table = spec.render(info)
            assert isinstance(table, Table) and table.rows and table.caption


@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_keeps_the_contract(name, full, empty, with_looks):
    spec = PLOTS[name]
    assert isinstance(spec.info(empty), Missing) and spec.info(empty).reason
    info = spec.info(with_looks if name == "looks" else full)
    assert re.search(r"interval|error bars", spec.caption(info)), "a caption says what the error bars are"
    files = style.figure_files(spec.draw(info))
    assert files == style.figure_files(spec.draw(info)), "the files of two runs are the same"
    assert {*files} == {"svg", "pdf", "png"}
    svg = files["svg"].decode()
    assert "<dc:date>" not in svg
    inline = style.inline_svg(svg, name, 'a "label" <x>')
    assert style.INK not in inline and "var(--ink)" in inline and "a &#34;label&#34; &lt;x&gt;" in inline
    ids = set(re.findall(r'\bid="([^"]+)"', inline))
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', inline)) <= ids


def test_the_frontier_shows_published_points_only_if_they_are_comparable(store, full):
    assert PLOTS["pareto"].info(full).published == ()
    run = store(backbone="gpt2-large", task="sst2", width=1280, test_split="validation", test_n=872, split_size=872)
    run.confirm("lopt1", 10, 1, 0.9)
    run.confirm("lopt1", 10, 2, 0.92)
    info = PLOTS["pareto"].info(groups(load([run.write()]))[0])
    assert len(info.published) == 11, "those of Table 3, and LoPT-2 of Table 1"


@pytest.fixture
def all_methods(store, table2_cells):
    """Table 2's six methods, ULPT and a plugin's, with 1,152 to 222,903,552 parameters, on SST-2 with T5-base."""
    other_cells = [("lora", None, 8), ("ulpt", 20, 16), ("ulpt", 20, 64), ("mine", None, 1)]
    run = store(
        backbone="t5-base", task="sst2", width=768, test_split="validation", cells=[*table2_cells, *other_cells]
    )
    run.test_n = run.split_size = 872
    for i, (method, length, rank) in enumerate(run.cells):
        for rate in (1e-5, 1e-3, 0.3):
            run.search(method, length, rank, config__learning_rate=rate, selection_accuracy=0.6 + 0.01 * i)
        run.confirm(method, length, rank, 0.9 + 0.004 * i)
    return groups(load([run.write()]))[0]


@pytest.mark.parametrize("name", {**TABLES, **PLOTS})
def test_every_method_is_shown(name, all_methods):
    if name in TABLES:
        spec = TABLES[name]
        info = spec.info((all_methods,) if spec.across else all_methods)
        if not isinstance(info, Missing):
            assert "None" not in csv(spec.render(info))
    else:
        info = PLOTS[name].info(all_methods)
        if isinstance(info, Missing):
            return
        figure = PLOTS[name].draw(info)
        figure.canvas.draw()
        texts = {text.get_text() for text in figure.findobj(Text)}
        assert not [text for text in texts if "None" in text]
        if name != "rank":  # it needs two ranks at one length
            assert texts >= {"Fine-tuning", "LoRA", "DePT", "LoPT-1", "LoPT-2", "ULPT", "Prompt tuning", "mine"}


def test_the_frontier_from_a_thousand_to_200_million_parameters(all_methods):
    info = PLOTS["pareto"].info(all_methods)
    assert {"LoRA r=8", "LoRA r=32", "Fine-tuning", "mine r=1", "n=40 r=45"} <= {p.label for p in info.points}
    assert {"bitfit", "adapter", "dpt"} <= {p.method for p in info.published}
    figure = PLOTS["pareto"].draw(info)
    figure.canvas.draw()
    axes = figure.axes[0]
    legend = axes.get_legend()
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    assert {"BitFit", "Adapter", "DPT"} <= {text.get_text() for text in legend.get_texts()}
    low, high = figure.axes[-1].get_xlim()
    ticks = [tick for tick in figure.axes[-1].get_xticklabels() if low <= tick.get_position()[0] <= high]
    assert {"10,000", "1M", "100M"} <= {tick.get_text() for tick in ticks}
    boxes = sorted((tick.get_window_extent().x0, tick.get_window_extent().x1) for tick in ticks)
    assert all(right[0] > left[1] for left, right in pairwise(boxes))


def test_known_methods_look_different():
    names = [*methods.names(), *published.METHODS]
    assert len({style.method_style(name) for name in names}) == len(names)
    assert {point.method for point in published.POINTS} <= set(names)
    assert style.method_style("mine") == style.method_style("mine") != style.method_style("yours")


def test_names_with_special_characters_are_drawn(store):
    run = store(task=r"$\frac{", cells=[])
    for rank, accuracy in ((1, 0.6), (2, 0.9)):
        run.confirm(r"<b>$x_", 10, rank, accuracy)
    info = PLOTS["pareto"].info(groups(load([run.write()]))[0])
    PLOTS["pareto"].draw(info).canvas.draw()


@given(st.lists(st.floats(-1000, 1000), max_size=12), st.floats(0.1, 50))
def test_spread_moves_positions_apart_and_keeps_their_order(positions, gap):
    moved = move_apart(positions, gap)
    order = sorted(range(len(positions)), key=lambda i: (positions[i], i))
    assert all(right - left >= gap - 1e-6 for left, right in pairwise([moved[i] for i in order]))
    assert sum(moved) == pytest.approx(sum(positions), abs=1e-3)


def test_the_efficiency_figure_shows_values_relative_to_the_reference(store):
    run = store(cells=[("prompt_tuning", 10, None), ("lopt1", 20, 1), ("lora", None, 8)])
    run.confirm("prompt_tuning", 10, None, 0.8, train_time_s=50.0, test_time_s=6.0, peak_memory_bytes=1000)
    run.confirm("lopt1", 20, 1, 0.8, train_time_s=90.0, test_time_s=12.0, config__seed=1)
    run.confirm("lopt1", 20, 1, 0.8, train_time_s=75.0, test_time_s=15.0, config__seed=2)
    run.confirm("lora", None, 8, 0.8, train_time_s=200.0, test_time_s=3.0)
    spec = PLOTS["efficiency"]
    info = spec.info(groups(load([run.write()]))[0])
    step, speed = info.panels  # memory is known only at one length
    assert step.values_with_length == {"prompt_tuning": {10: (1.0,)}, "lopt1": {20: (1.5, 1.8)}}
    assert step.values_without_length == {"lora": (4.0,)}
    assert speed.values_with_length == {"prompt_tuning": {10: (100.0,)}, "lopt1": {20: (40.0, 50.0)}}
    assert speed.values_without_length == {"lora": (200.0,)}
    assert "A dashed line is the median of a method without a prompt." in spec.caption(info)
    assert [row["value"] for row in spec.data(info) if row["method"] == "lopt1"] == [1.5, 1.8, 40.0, 50.0]


def test_importances_are_those_of_optuna(store):
    import optuna

    random = np.random.default_rng(0)
    run, study = store(cells=[("lopt1", 10, 1)]), optuna.create_study(direction="maximize")
    ranges = {
        "learning_rate": optuna.distributions.FloatDistribution(0.001, 1, log=True),
        "rank": optuna.distributions.IntDistribution(1, 8, log=True),
    }
    for number in range(30):
        rate = (0.001, 1.0)[number] if number < 2 else float(10 ** random.uniform(-3, 0))
        rank, accuracy = (1, 2, 5, 8)[number % 4], 0.9 - 0.1 * abs(np.log10(rate) + 1)
        run.search("lopt1", 10, rank, config__learning_rate=rate, selection_accuracy=accuracy, key=f"{number:02}")
        params = {"learning_rate": rate, "rank": rank}
        study.add_trial(optuna.create_trial(params=params, distributions=ranges, value=accuracy))
    spec = PLOTS["importances"]
    (row,) = spec.info(groups(load([run.write()]))[0]).rows
    expected = optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator())
    assert dict(row.shares) == {"learning rate": expected["learning_rate"], "rank r": expected["rank"]}
    assert row.shares[0][0] == "learning rate" and row.trial_count == 30


def test_each_importance_is_at_its_own_bar(full):
    """Methods share one axis, even if the order of their importances differs."""
    shares_by_method = {
        "lopt1": {"learning rate": 0.6, "rank r": 0.3, "length n": 0.1},
        "lopt2": {"length n": 0.7, "rank r": 0.2, "learning rate": 0.1},
        "prompt_tuning": {"length n": 0.8, "learning rate": 0.2},
    }
    rows = tuple(
        Importances(method=method, shares=tuple(shares.items()), trial_count=10)
        for method, shares in shares_by_method.items()
    )
    figure = PLOTS["importances"].draw(Info(group=full, rows=rows))
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    for axes, shares in zip(figure.axes, shares_by_method.values(), strict=True):
        labels = {names[round(text.xy[1])]: text.get_text() for text in axes.texts}
        bars = {names[round(bar.get_y() + bar.get_height() / 2)]: bar.get_width() for bar in axes.patches}
        for name in names:
            assert labels[name] == (f"{100 * shares[name]:.0f} %" if name in shares else "not searched")
            assert bars[name] == pytest.approx(100 * shares.get(name, 0))


def test_points_and_the_frontier_are_at_their_sizes(full):
    """Points may move by half a marker, so that cells of nearly equal size are apart. The frontier may not move."""
    info = PLOTS["pareto"].info(full)
    figure = PLOTS["pareto"].draw(info)
    figure.canvas.draw()
    axes = figure.axes[0]
    lines = [line.get_xydata() for line in axes.lines]
    for point in info.points:
        height = 100 * point.accuracy.mean
        markers = [xy for xy in lines if len(xy) == 1 and xy[0][1] == pytest.approx(height)]
        pixels = [
            axes.transData.transform([(marker[0][0], height), (point.parameters, height)])[:, 0] for marker in markers
        ]
        assert min(abs(drawn - exact) for drawn, exact in pixels) * 72 / figure.dpi <= 3.25
    frontier = [(point.parameters, 100 * point.accuracy.mean) for point in info.points if point.is_on_frontier]
    assert any(all(any(np.allclose(corner, point) for corner in xy) for point in frontier) for xy in lines)


@given(st.lists(st.tuples(st.floats(1, 9), st.floats(1, 9)), min_size=2, max_size=14))
@settings(max_examples=30, deadline=None)
def test_labels_hide_no_label_and_no_marker(points):
    with matplotlib.rc_context(style.RC_SETTINGS):
        axes = Figure(figsize=(7, 5)).add_axes((0.1, 0.1, 0.8, 0.8))
        axes.plot([0, 10], [0, 10])  # the limits are set by nothing else
        labels = Labels(axes)
        labels.keep_off(points, MARKER_COST)
        labels.draw_levels([(5.0, "no prompt 50.0 %"), (4.0, "majority class 40.0 %")])
        for point in points:
            labels.place(point, "n=20 r=5", style.INK)
        FigureCanvasAgg(axes.figure).draw()
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert not [box for box, other in combinations(boxes, 2) if box.padded(-2).overlaps(other.padded(-2))]
    markers = axes.transData.transform(points)
    assert not [box for box, (x, y) in product(boxes[2:], markers) if box.padded(-1).contains(x, y)]


@pytest.mark.parametrize("name", ["curves", "learning_rate"])
def test_a_legend_of_many_ranks_keeps_off_the_panels(store, name):
    cells = [(method, 20, rank) for method in ("lopt1", "lopt2") for rank in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24)]
    run = store(cells=cells)
    for rate in (0.1, 0.3):
        for cell in cells:
            run.search(*cell, config__learning_rate=rate, status="stopped" if rate < 0.2 else "complete")
    for cell in cells:
        run.confirm(*cell, 0.8)
    figure = PLOTS[name].draw(PLOTS[name].info(groups(load([run.write()]))[0]))
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 + 1
    titles = [axes._left_title.get_window_extent() for axes in figure.axes if axes.get_visible()]
    assert not any(box.overlaps(title) for title in titles)
    labels = {text.get_text() for text in legend.get_texts()}
    assert "r=24" in labels and (name == "curves" or {"ran to the end", "stopped early"} <= labels)


def test_lengths_and_ranks_have_the_colour_of_no_method():
    colours = {style.method_style(name)[0] for name in (*methods.names(), *published.METHODS)}
    styles = style.level_styles([None, 1, 2, 5, 10])
    assert not colours & {colour for level, (colour, _) in styles.items() if level is not None}
    assert len(set(styles.values())) == 5


@given(st.integers(2, 10**9), st.floats(1.5, 1e6))
def test_the_axis_of_sizes_has_whole_numbers(low, span):
    axes = Figure().add_subplot()
    style.log2_axis(axes, low, low * span)
    ticks = [tick for tick in axes.xaxis.get_major_locator()() if low <= tick <= low * span]
    assert all(tick == int(tick) for tick in ticks) and len(ticks) <= 11
    assert len({axes.xaxis.get_major_formatter()(tick, 0) for tick in ticks}) == len(ticks)


def test_a_trial_with_one_evaluation_is_in_the_learning_curves(store):
    run = store(cells=[("lopt1", 10, 1)])
    record = run.record("lopt1", 10, 1, status="stopped")
    run.put({**record, "evaluations": record["evaluations"][:1]})
    run.confirm("lopt1", 10, 1, 0.8)
    info = PLOTS["curves"].info(groups(load([run.write()]))[0])
    assert sorted(len(learning_curve(trial)) for trial in info.rows) == [1, 5]
    assert "The 1 other trial is grey" in PLOTS["curves"].caption(info)


def test_the_rank_figure_names_the_methods_that_it_leaves_out(store):
    run = store(cells=[("lopt1", 10, 1), ("lopt1", 10, 2), ("dept", 20, 4)])
    for cell in run.cells:
        run.confirm(*cell, 0.8)
    info = PLOTS["rank"].info(groups(load([run.write()]))[0])
    assert "Methods with a single rank at each length are left out: DePT." in PLOTS["rank"].caption(info)


def test_the_audit_figure_shows_who_passes_and_which_winner_would_be_lost(store):
    run, keys = store(cells=[("lopt1", 10, 1)]), []
    for number, (early, late) in enumerate([(0.6, 0.8), (0.7, 0.7), (0.4, 0.9)]):
        values = {"top_class_share": 0.6, "selection_loss": 0.5, "train_loss": 0.5}
        evaluations = [
            {"step": step, "selection_accuracy": accuracy, **values} for step, accuracy in ((10, early), (50, late))
        ]
        changes = {"evaluations": evaluations, "selection_accuracy": max(early, late)}
        keys.append(run.search("lopt1", 10, 1, key=str(number), **changes)["key"])
    run.search("lopt1", 10, 1, key="cut", status="stopped", steps=10, selection_accuracy=0.3)
    path = run.write()
    (path / "audits.json").write_text(json.dumps({keys[2]: {"step": 10, "selection_accuracy": 0.4}}))
    info = PLOTS["audit"].info(groups(load([path]))[0])
    assert info.rungs == (10,) and info.survival[""] == (0.5,) == info.survival["lopt1 n=10 r=1"]
    points = [(p.early_accuracy, p.final_accuracy, p.is_audited, p.is_false_kill) for p in info.points]
    assert points == [(0.6, 0.8, False, False), (0.7, 0.7, False, False), (0.4, 0.9, True, True)]
    caption = PLOTS["audit"].caption(info)
    assert "1 trial that it would have stopped ran to the end, and 1 of these won its cell" in caption


def test_a_figures_data_are_its_points(full):
    rows = PLOTS["pareto"].data(PLOTS["pareto"].info(full))
    *cell_rows, no_prompt_row = [row for row in rows if row["source"] == "this run"]
    assert (no_prompt_row["cell"], no_prompt_row["parameters"]) == ("no prompt", 0)
    assert no_prompt_row["test_percent"] == pytest.approx(58.0)
    for cell, row in zip(full.confirmed_cells, cell_rows, strict=True):
        assert (row["parameters"], row["seeds"]) == (cell.trainable_parameters, 3)
        assert row["low_percent"] < row["test_percent"] == 100 * cell.accuracy.mean < row["high_percent"]
