"""The front and the budgets against brute force."""

from hypothesis import given
from hypothesis import strategies as st

from analysis.cells import Cell, groups
from analysis.frontier import best_within, budgets, pareto
from analysis.load import load
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


@given(st.integers(1, 10**6), st.integers(0, 10**6))
def test_budgets_are_round_and_span_the_sizes(smallest, more):
    found = budgets(smallest, smallest + more)
    assert found == sorted(set(found))
    assert found[0] >= smallest and found[-1] >= smallest + more
    assert all(str(b)[0] in "125" and set(str(b)[1:]) <= {"0"} for b in found)


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
