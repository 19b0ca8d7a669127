"""The front and the budgets against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.cells import Cell, groups
from analysis.frontier import accuracies, best_within, budgets, hypervolume, membership, pareto, reference_of
from analysis.load import load
from analysis.notes import notes
from analysis.records import row
from analysis.stats import estimate

points = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 6).map(lambda k: k / 6)), max_size=14)


def beats(a, b):
    return a[0] <= b[0] and a[1] >= b[1] and a != b


@given(points)
def test_front_equals_brute_force(found):
    front = pareto(found)
    assert set(front) == {i for i, p in enumerate(found) if not any(beats(q, p) for q in found)}
    assert [found[i] for i in front] == sorted(found[i] for i in front)


@given(st.data())
def test_membership_is_how_many_of_the_draws_have_a_cell_on_their_front(data):
    cells, draws = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 5))
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=cells, max_size=cells))
    rates = st.lists(st.integers(0, 4).map(lambda k: k / 4), min_size=cells, max_size=cells)
    rows = data.draw(st.lists(rates, min_size=draws, max_size=draws))
    fronts = [pareto(list(zip(sizes, row, strict=True))) for row in rows]
    expected = [sum(cell in front for front in fronts) / draws for cell in range(cells)]
    assert membership(sizes, np.array(rows)) == pytest.approx(expected)


@given(st.integers(1, 10**6), st.integers(0, 10**6))
def test_budgets_are_round_and_span_the_sizes(smallest, more):
    found = budgets(smallest, smallest + more)
    assert found == sorted(set(found))
    assert found[0] >= smallest and found[-1] >= smallest + more
    assert all(str(b)[0] in "125" and set(str(b)[1:]) <= {"0"} for b in found)


def test_what_selects_is_the_metric_of_the_trials(store):
    """By macro-F1 the cell, the trial and the reference are others than by accuracy; the optimism stays one of
    accuracies."""
    s = store()

    def confirm(rank, test, accuracy, macro_f1, **more):
        seen = [{"step": 50, "selection_accuracy": accuracy, "selection_macro_f1": macro_f1, "top_class_share": 0.6}]
        return s.confirm("lopt1", 10, rank, test, selection_accuracy=accuracy, evaluations=seen,
                         config__metric="macro_f1", **more)  # fmt: skip

    confirm(1, 0.70, 0.90, 0.40)
    confirm(2, 0.60, 0.80, 0.70, config__seed=1)
    better = confirm(2, 0.50, 0.70, 0.80, config__seed=2)
    results = load([s.write()])
    (group,) = groups(results)
    best = best_within(group.confirmed, 10**6)
    assert best.rank == 2
    assert best.selection_score == pytest.approx(0.75)
    assert best.selection_accuracy == pytest.approx(0.75)
    assert group.find("lopt1", 10, 1).selection_score == 0.40
    assert best.best_trial.key == better["key"]
    (said,) = [text for text in notes(results, [group]) if "macro-F1" in text]
    assert "selected by macro-F1" in said
    s.confirm("lopt1", 10, 5, 0.9)
    results = load([s.path])
    assert any("cannot be compared" in text for text in notes(results, groups(results)))


def test_best_within_goes_by_selection_accuracy_never_by_test(store):
    s = store()
    s.confirm("lopt1", 10, 1, 0.95, selection_accuracy=0.70)  # better on the test split: must not count
    s.confirm("lopt1", 10, 2, 0.80, selection_accuracy=0.85)
    s.confirm("prompt_tuning", 10, None, 0.90, selection_accuracy=0.85)
    cells = groups(load([s.write()]))[0].confirmed
    assert best_within(cells, 585) is None
    assert best_within(cells, 586).label == "LoPT-1 n=10 r=1"
    for budget in (1172, 5760, 10**9):  # equal on selection: the smaller
        assert best_within(cells, budget).label == "LoPT-1 n=10 r=2"


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 8)), min_size=1, max_size=8, unique_by=lambda p: p[0]))
def test_best_within_equals_brute_force(made):
    cells = []
    for size, score in made:
        config = {"method": "lopt1", "backbone": "b", "task": "t", "rank": size}
        record = {"schema_version": 1, "key": str(size), "phase": "confirm", "status": "complete", "config": config}
        trial = row(record | {"test_accuracy": 0.5, "test_n": 9, "selection_accuracy": score / 8})
        cells.append(
            Cell(
                name=str(size), method="lopt1", length=1, rank=size, trainable_parameters=size, planned=True,
                trials=(trial,), confirmed=(trial,), lost=0, accuracy=estimate([0.5], 9),
            )
        )  # fmt: skip
    for budget in range(11):
        found = best_within(cells, budget)
        usable = [(score, -size) for size, score in made if size <= budget]
        assert (found and found.trainable_parameters) == (-max(usable)[1] if usable else None)


def test_front_and_hypervolume_equal_optunas_on_two_hundred_sets():
    from optuna._hypervolume import compute_hypervolume
    from optuna.study._multi_objective import _is_pareto_front

    draw = np.random.default_rng(0)
    for _ in range(200):
        many = int(draw.integers(1, 30))
        found = list(zip(2.0 ** draw.integers(5, 18, many), draw.integers(40, 100, many) / 100, strict=True))
        losses = np.array([[np.log2(n), -a] for n, a in found])
        on_front = _is_pareto_front(losses, assume_unique_lexsorted=False)
        assert set(pareto(found)) == set(np.flatnonzero(on_front))
        reference = 2.0**16, 0.5
        inside = losses[(losses[:, 0] < 16) & (losses[:, 1] < -0.5)]
        expected = compute_hypervolume(inside, np.array([16.0, -0.5])) if len(inside) else 0.0
        assert hypervolume(found, reference) == pytest.approx(expected)


def run(store, draw, rates, *, seeds=3, n=400, **options):
    s = store(test_n=n, **options)
    difficulty = draw.random(n)
    for (method, length, rank), rate in rates.items():
        for seed in range(seeds):
            record = s.confirm(method, length, rank, 0.0, config__seed=seed, selection_accuracy=rate)
            s.predict(record, difficulty < rate + draw.normal(0, 0.02, n))
    return s.write()


RATES = {("lopt1", 10, 1): 0.7, ("lopt1", 10, 2): 0.8, ("lopt1", 10, 5): 0.795, ("prompt_tuning", 10, None): 0.9}


def test_how_often_a_cell_is_on_the_frontier(store):
    (group,) = groups(load([run(store, np.random.default_rng(0), RATES)]))
    drawn = accuracies(group.confirmed, draws=500)
    assert drawn.shape == (500, 4)
    np.testing.assert_allclose(drawn.mean(0), [c.accuracy.mean for c in group.confirmed], atol=0.01)
    shares = membership([c.trainable_parameters for c in group.confirmed], drawn)
    assert shares[0] == shares[1] == shares[3] == 1.0, "the smallest is always on it; others are far apart"
    assert 0 < shares[2] < 0.6, "as good as a smaller one: rarely"
    assert reference_of(group) == (2 * 5760, 0.58) or reference_of(group)[0] == 2 * 5760


def test_without_predictions_each_cells_own_interval_is_drawn_from(store):
    s = store()
    for rank, accuracy in ((1, 0.8), (2, 0.81)):
        s.confirm("lopt1", 10, rank, accuracy)
    (group,) = groups(load([s.write()]))
    drawn = accuracies(group.confirmed, draws=4000)
    np.testing.assert_allclose(drawn.mean(0), [0.8, 0.81], atol=0.003)
    half = (group.confirmed[0].accuracy.high - group.confirmed[0].accuracy.low) / 2
    assert drawn[:, 0].std() == pytest.approx(half / 1.96, rel=0.1)
