"""The answer with which a report begins."""

from analysis.cells import groups
from analysis.headline import headline
from analysis.load import load


def test_where_no_smaller_prompt_is_enough_the_answer_says_so(store):
    s = store(cells=[("prompt_tuning", 10, None), ("lopt1", 10, 1), ("lopt2", 10, 5)])
    for seed in range(3):
        s.confirm("prompt_tuning", 10, None, 0.9, config__seed=seed)
        s.confirm("lopt1", 10, 1, 0.7, config__seed=seed)
        s.confirm("lopt2", 10, 4, 0.8, config__seed=seed)
    (group,) = groups(load([s.write()]))
    answer = headline(group).answer
    assert (
        "no smaller prompt comes within 1 pp of full prompt tuning on the selection data. The closest: LoPT-2" in answer
    )
    assert "LoPT-2 n=10 r=4 (4,608 parameters) reaches 80.0 % on the test examples, 10.0 pp below" in answer
    assert "with 1.2× fewer parameters" in answer


def test_the_answer_goes_by_the_margin_that_was_declared(store):
    s = store(cells=[])
    s.confirm("prompt_tuning", 10, None, 0.90)
    s.confirm("lopt1", 10, 1, 0.86)
    path = s.write()
    said = headline(groups(load([path], margin=0.05))[0])
    assert "no smaller prompt" not in said.answer and any("within 5 pp" in text for text in said.details)
    assert "no smaller prompt comes within 1 pp" in headline(groups(load([path]))[0]).answer
    assert any("128 held-out training examples, of which one is 0.78 pp" in text for text in said.details)
