"""The answer at the top of a report."""

from analysis.cells import groups
from analysis.headline import headline
from analysis.load import load


def test_the_answer_says_so_if_no_smaller_prompt_is_enough(store):
    run = store(cells=[("prompt_tuning", 10, None), ("lopt1", 10, 1), ("lopt2", 10, 5)])
    for seed in range(3):
        run.confirm("prompt_tuning", 10, None, 0.9, config__seed=seed)
        run.confirm("lopt1", 10, 1, 0.7, config__seed=seed)
        run.confirm("lopt2", 10, 4, 0.8, config__seed=seed)
    (group,) = groups(load([run.write()]))
    answer = headline(group).answer
    assert "no smaller prompt comes within 1 pp of full prompt tuning on the held-out data. The closest is LoPT-2" in (
        answer
    )
    assert "LoPT-2 n=10 r=4 (4,608 parameters). It reaches 80.0 % on the test examples, 10.0 pp below" in answer
    assert "with 1.2× fewer parameters" in answer


def test_the_answer_uses_the_declared_margin(store):
    run = store(cells=[])
    run.confirm("prompt_tuning", 10, None, 0.90)
    run.confirm("lopt1", 10, 1, 0.86)
    path = run.write()
    with_margin = headline(groups(load([path], margin=0.05))[0])
    assert "no smaller prompt" not in with_margin.answer
    assert any("within 5 pp" in detail for detail in with_margin.details)
    assert "no smaller prompt comes within 1 pp" in headline(groups(load([path]))[0]).answer
    examples = "128 held-out training examples, each of which counts for 0.78 pp"
    assert any(examples in detail for detail in with_margin.details)


def test_a_cell_larger_than_the_full_prompt_is_not_called_the_smallest_that_is_enough(store):
    """No smaller cell is confirmed, and the best cell is the larger one."""
    run = store(cells=[("prompt_tuning", 10, None), ("dept", 20, 5)])
    for seed in range(3):
        run.confirm("prompt_tuning", 10, None, 0.8, config__seed=seed)
        run.confirm("dept", 20, 5, 0.9, config__seed=seed)
    (group,) = groups(load([run.write()]))
    details = " ".join(headline(group).details)
    assert "no smaller cell is confirmed" in headline(group).answer
    assert "smallest cell" not in details
    assert "DePT n=20 r=5 was chosen on" in details and "There, it is the best cell." in details
