"""The frontier and the budgets, compared with brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.cells import Cell, groups
from analysis.frontier import (
    best_within,
    draw_accuracies,
    draw_mean_scores,
    drawn_hypervolumes,
    frontier_shares,
    hypervolume,
    hypervolume_reference,
    interval_from_draws,
    is_near_zero,
    pareto_indices,
    round_budgets,
)
from analysis.load import load
from analysis.notes import notes
from analysis.records import trial_from_record
from analysis.stats import estimate
from analysis.tables import frontier as frontier_table

point_lists = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 6).map(lambda k: k / 6)), max_size=14)


def beats(a, b):
    return a[0] <= b[0] and a[1] >= b[1] and a != b


@given(point_lists)
def test_front_equals_brute_force(points):
    front = pareto_indices(points)
    assert set(front) == {i for i, point in enumerate(points) if not any(beats(other, point) for other in points)}
    assert [points[i] for i in front] == sorted(points[i] for i in front)


@given(st.data())
def test_membership_is_the_share_of_draws_with_the_cell_on_their_front(data):
    cells, draws = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 5))
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=cells, max_size=cells))
    cell_accuracies = st.lists(st.integers(0, 4).map(lambda k: k / 4), min_size=cells, max_size=cells)
    accuracies_DC = data.draw(st.lists(cell_accuracies, min_size=draws, max_size=draws))
    fronts = [pareto_indices(list(zip(sizes, accuracies_C, strict=True))) for accuracies_C in accuracies_DC]
    expected = [sum(cell in front for front in fronts) / draws for cell in range(cells)]
    assert frontier_shares(sizes, np.array(accuracies_DC)) == pytest.approx(expected)
    no_prompt = data.draw(st.integers(0, 4)) / 4
    fronts = [
        {i for i in pareto_indices([(0, no_prompt), *zip(sizes, accuracies_C, strict=True)]) if i}
        for accuracies_C in accuracies_DC
    ]
    expected = [sum(cell + 1 in front for front in fronts) / draws for cell in range(cells)]
    assert frontier_shares(sizes, np.array(accuracies_DC), no_prompt) == pytest.approx(expected)
    corner = 8.0, no_prompt
    volumes = [hypervolume(list(zip(sizes, accuracies_C, strict=True)), corner) for accuracies_C in accuracies_DC]
    assert drawn_hypervolumes(sizes, np.array(accuracies_DC), corner) == pytest.approx(volumes)


@given(st.integers(1, 10**6), st.integers(0, 10**6))
def test_budgets_are_round_and_span_the_sizes(smallest, more):
    budgets = round_budgets(smallest, smallest + more)
    assert budgets == sorted(set(budgets))
    assert budgets[0] >= smallest and budgets[-1] >= smallest + more
    assert all(str(budget)[0] in "125" and set(str(budget)[1:]) <= {"0"} for budget in budgets)


def test_cells_and_trials_are_selected_by_the_metric_of_the_trials(store):
    """Macro-F1 selects another cell and another trial than accuracy would. `selection_accuracy` stays an accuracy."""
    run = store()

    def confirm(rank, test, accuracy, macro_f1, **changes):
        evaluations = [
            {"step": 50, "selection_accuracy": accuracy, "selection_macro_f1": macro_f1, "top_class_share": 0.6}
        ]
        return run.confirm("lopt1", 10, rank, test, selection_accuracy=accuracy, evaluations=evaluations,
                         config__metric="macro_f1", **changes)  # fmt: skip

    confirm(1, 0.70, 0.90, 0.40)
    confirm(2, 0.60, 0.80, 0.70, config__seed=1)
    better = confirm(2, 0.50, 0.70, 0.80, config__seed=2)
    results = load([run.write()])
    (group,) = groups(results)
    best_cell = best_within(group.confirmed_cells, 10**6)
    assert best_cell.rank == 2
    assert best_cell.selection_score == pytest.approx(0.75)
    assert best_cell.selection_accuracy == pytest.approx(0.75)
    assert group.find("lopt1", 10, 1).selection_score == 0.40
    assert best_cell.best_trial.key == better["key"]
    (note,) = [note for note in notes(results, [group]) if "macro-F1" in note]
    assert "selected by macro-F1" in note
    run.confirm("lopt1", 10, 5, 0.9)
    results = load([run.path])
    assert any("cannot be compared" in note for note in notes(results, groups(results)))


def test_best_within_uses_selection_accuracy_never_test_accuracy(store):
    run = store()
    run.confirm("lopt1", 10, 1, 0.95, selection_accuracy=0.70)  # better on the test split, which must not count
    run.confirm("lopt1", 10, 2, 0.80, selection_accuracy=0.85)
    run.confirm("prompt_tuning", 10, None, 0.90, selection_accuracy=0.85)
    cells = groups(load([run.write()]))[0].confirmed_cells
    assert best_within(cells, 585) is None
    assert best_within(cells, 586).label == "LoPT-1 n=10 r=1"
    for budget in (1172, 5760, 10**9):  # of two that are equal on selection, the smaller
        assert best_within(cells, budget).label == "LoPT-1 n=10 r=2"


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 8)), min_size=1, max_size=8, unique_by=lambda pair: pair[0])
)
def test_best_within_equals_brute_force(sizes_and_scores):
    cells = []
    for size, score in sizes_and_scores:
        config = {"method": "lopt1", "backbone": "b", "task": "t", "rank": size}
        record = {"schema_version": 1, "key": str(size), "phase": "confirm", "status": "complete", "config": config}
        trial = trial_from_record(record | {"test_accuracy": 0.5, "test_n": 9, "selection_accuracy": score / 8})
        cells.append(
            Cell(
                name=str(size), method="lopt1", length=1, rank=size, trainable_parameters=size, is_planned=True,
                trials=(trial,), confirmed_trials=(trial,), lost_seed_count=0, accuracy=estimate([0.5], 9),
            )
        )  # fmt: skip
    for budget in range(11):
        cell = best_within(cells, budget)
        candidates = [(score, -size) for size, score in sizes_and_scores if size <= budget]
        assert (cell and cell.trainable_parameters) == (-max(candidates)[1] if candidates else None)


def test_front_and_hypervolume_equal_optunas_on_two_hundred_sets():
    from optuna._hypervolume import compute_hypervolume
    from optuna.study._multi_objective import _is_pareto_front

    generator = np.random.default_rng(0)
    for _ in range(200):
        size = int(generator.integers(1, 30))
        parameters, accuracy = 2.0 ** generator.integers(5, 18, size), generator.integers(40, 100, size) / 100
        points = list(zip(parameters, accuracy, strict=True))
        losses = np.array([[np.log2(parameters), -accuracy] for parameters, accuracy in points])
        on_front = _is_pareto_front(losses, assume_unique_lexsorted=False)
        assert set(pareto_indices(points)) == set(np.flatnonzero(on_front))
        reference = 2.0**16, 0.5
        inside = losses[(losses[:, 0] < 16) & (losses[:, 1] < -0.5)]
        expected = compute_hypervolume(inside, np.array([16.0, -0.5])) if len(inside) else 0.0
        assert hypervolume(points, reference) == pytest.approx(expected)


def write_run(store, generator, accuracies, *, seeds=3, n=400, **options):
    """Write a run of cells with these accuracies, by (method, length, rank). The cells share their examples."""
    run = store(test_n=n, **options)
    difficulty = generator.random(n)
    for (method, length, rank), accuracy in accuracies.items():
        for seed in range(seeds):
            record = run.confirm(method, length, rank, 0.0, config__seed=seed, selection_accuracy=accuracy)
            run.predict(record, difficulty < accuracy + generator.normal(0, 0.02, n))
    return run.write()


ACCURACIES = {("lopt1", 10, 1): 0.7, ("lopt1", 10, 2): 0.8, ("lopt1", 10, 5): 0.795, ("prompt_tuning", 10, None): 0.9}


def test_shares_on_the_frontier(store):
    (group,) = groups(load([write_run(store, np.random.default_rng(0), ACCURACIES)]))
    drawn_accuracies = draw_accuracies(group.confirmed_cells, draw_count=500)
    assert drawn_accuracies.shape == (500, 4)
    expected = [cell.accuracy.mean for cell in group.confirmed_cells]
    np.testing.assert_allclose(drawn_accuracies.mean(0), expected, atol=0.01)
    shares = frontier_shares([cell.trainable_parameters for cell in group.confirmed_cells], drawn_accuracies)
    assert shares[0] == shares[1] == shares[3] == 1.0, "the smallest is always on the frontier, two are far above it"
    assert 0 < shares[2] < 0.6, "a cell that is only as good as a smaller one is rarely on the frontier"
    assert hypervolume_reference(group) == (2 * 5760, 0.58) or hypervolume_reference(group)[0] == 2 * 5760


def test_without_predictions_accuracies_are_drawn_from_seeds_and_examples(store):
    run = store(test_n=5000)
    for rank, accuracy in ((1, 0.8), (2, 0.81)):
        for seed in range(4):
            run.confirm("lopt1", 10, rank, accuracy + 0.01 * seed, config__seed=seed)
    (group,) = groups(load([run.write()]))
    drawn_accuracies = draw_accuracies(group.confirmed_cells, draw_count=20_000)
    np.testing.assert_allclose(np.median(drawn_accuracies, axis=0), [0.815, 0.825], atol=0.001)
    seed_variance = 4.5 / 2.5 * (0.01**2 * 5 / 3) / 4  # t of 4.5 degrees of freedom has the variance 4.5 / 2.5
    assert drawn_accuracies[:, 0].var() == pytest.approx(seed_variance + 0.815 * 0.185 / 5000, rel=0.2)


def test_one_seed_has_no_draws_and_no_share(store):
    run = store()
    for rank, seeds in ((1, 3), (2, 1), (5, 3)):
        for seed in range(seeds):
            run.confirm("lopt1", 10, rank, 0.7 + rank / 50 + seed / 100, config__seed=seed)
    (group,) = groups(load([run.write()]))
    with pytest.raises(ValueError, match="r=2: need two confirmed seeds"):
        draw_accuracies(group.confirmed_cells)
    info = frontier_table.compute(group)
    assert [row.frontier_shares[0] is None for row in info.rows] == [False, True, False]
    assert info.hypervolume_interval is None
    text = " ".join(frontier_table.render(info).notes)
    assert "Cells with one seed have no share (–)" in text and "unknown: LoPT-1 n=10 r=2." in text


def test_a_cell_that_is_not_above_no_prompt_is_not_on_the_frontier(store):
    run = store()
    for rank, accuracy in ((1, 0.5), (2, 0.9)):  # without a prompt, the accuracy is 58 %
        for seed in range(3):
            run.confirm("lopt1", 10, rank, accuracy + seed / 1000, config__seed=seed)
    (group,) = groups(load([run.write()]))
    (row,) = frontier_table.compute(group).rows
    assert row.cell.rank == 2 and row.is_on_frontier and row.frontier_shares[0] == 1.0


def test_cells_that_agree_on_few_examples_are_not_certain():
    scores = [np.ones((3, 56)), np.ones((3, 56))]
    shares = frontier_shares([1, 2], draw_mean_scores(scores, np.random.default_rng(0)))
    assert 0.4 < shares[1] < 0.6


def test_the_frontier_table_compares_each_method_with_prompt_tuning(store):
    (group,) = groups(load([write_run(store, np.random.default_rng(0), ACCURACIES)]))
    info = frontier_table.compute(group)
    ends = info.hypervolume_interval
    assert ends.low < ends.value == info.hypervolume < ends.high
    gain = info.gains["lopt1"]
    expected = hypervolume(
        [(cell.trainable_parameters, cell.accuracy.mean) for cell in group.confirmed_cells[:3]], info.reference
    ) - hypervolume([(5760, group.confirmed_cells[3].accuracy.mean)], info.reference)
    assert gain.value == pytest.approx(expected) and gain.low < gain.value < gain.high
    assert "minus that of prompt tuning's cells: LoPT-1 +" in " ".join(frontier_table.render(info).notes)


def test_a_cell_with_one_seed_still_beats_larger_ones(store):
    """The second cell is far below the first, which has one seed: it is not on the frontier in any draw."""
    run = store()
    for rank, accuracy, seeds in ((1, 0.7, 1), (2, 0.6, 3), (5, 0.9, 3)):
        for seed in range(seeds):
            run.confirm("lopt1", 10, rank, accuracy + seed / 1000, config__seed=seed)
    for has_baseline in (True, False):
        (group,) = groups(load([run.write(baselines=has_baseline)]))
        (run.path / "baselines.json").unlink(missing_ok=True)
        rows = frontier_table.compute(group).rows
        assert [(row.cell.rank, row.is_on_frontier) for row in rows] == [(1, True), (5, True)]
        assert rows[0].frontier_shares[0] is None and rows[1].frontier_shares[0] == 1.0


@pytest.mark.parametrize("accuracies", [(0.581, 0.581, 0.581), (0.575, 0.58, 0.585)])
def test_intervals_of_hypervolumes_near_zero_contain_the_truth(accuracies):
    """Plain reflection contains it in 79 to 87 % of cases."""
    sizes, reference, repeats, held = [586.0, 1172.0, 2930.0], (11520.0, 0.58), 80, 0
    truth = hypervolume(list(zip(sizes, accuracies, strict=True)), reference)
    for seed in range(repeats):
        generator = np.random.default_rng(seed)
        scores = [
            np.array([generator.random(600) < accuracy + generator.normal(0, 0.01) for _ in range(3)], dtype=float)
            for accuracy in accuracies
        ]
        draws = drawn_hypervolumes(sizes, draw_mean_scores(scores, generator, 200), reference)
        value = hypervolume([(size, matrix.mean()) for size, matrix in zip(sizes, scores, strict=True)], reference)
        ends = interval_from_draws(value, draws, (0.0, 5.0), is_reflected=not is_near_zero(draws))
        assert ends is None or ends.low >= 0
        held += ends is not None and ends.low <= truth <= ends.high
    assert held / repeats >= 0.93


def test_hypervolumes_stay_in_their_limits_and_intervals_have_a_width(store):
    (group,) = groups(load([write_run(store, np.random.default_rng(0), dict.fromkeys(ACCURACIES, 0.57), seeds=2)]))
    info = frontier_table.compute(group)
    assert info.hypervolume_interval is None or info.hypervolume_interval.low >= 0
    assert interval_from_draws(0.0, np.zeros(9)) is None
    assert interval_from_draws(0.1, np.array([0.0, 9.0]), (0.0, 5.0), is_reflected=False).high == 5
