"""The card: one short sentence, and commands that exist."""

import ast
import shlex

import pytest

from analysis.card import make_card
from analysis.cells import groups
from analysis.headline import headline
from analysis.load import load
from lopt.__main__ import main as lopt_command
from tests.analysis.simulated import simulated_run

SENTENCE_WORDS = 20


def card_of(path, command="python sweeps/run.py --space ablation"):
    (group,) = groups(load([path]))
    result = headline(group)
    return make_card(group, result, {str(path): command}), result


@pytest.fixture
def smaller(store):
    """A run in which a smaller cell is clearly as good as the reference."""
    return simulated_run(store, [0.05, 0.0], seeds=6, n=20_000, spread=0.0005, only_these_cells=True)


def test_it_names_the_recommended_cell_with_its_numbers(smaller):
    card, result = card_of(smaller)
    facts = dict(card.facts)
    cell = result.recommendation.cell
    assert result.recommendation.outcome == "smaller cell" and card.cell is cell
    assert card.sentence.startswith(f"Use {cell.label}: 4.9 times fewer parameters")
    assert facts["Trainable parameters"] == f"{cell.trainable_parameters:,}" == "1,172"
    assert f"{100 * cell.accuracy.mean:.1f} %" in facts["Test accuracy"]
    assert "pp" in facts["Difference from the reference"] and "6 seeds" in facts["How sure"]


def test_its_code_is_python_and_commands_that_exist(smaller, capsys):
    card, result = card_of(smaller)
    key = result.recommendation.cell.best_trial.key
    texts = dict(card.code)
    ast.parse(texts["Load and predict in Python"])
    assert f"artifacts/{key}" in texts["Load and predict in Python"]
    for name in ("Predict from the command line", "Export for PEFT"):
        assert lopt_command(shlex.split(texts[name])[3:]) == 2, "the folder is missing, but the command is valid"
        assert key in capsys.readouterr().err
    assert texts["Repeat the run"] == "python sweeps/run.py --space ablation"
    assert "not there" in card.warning
    (smaller / "artifacts" / key).mkdir(parents=True)
    assert card_of(smaller)[0].warning == ""


def undecided(store):
    return simulated_run(store, [0.01], seeds=3, n=300, only_these_cells=True)


def worse(store):
    return simulated_run(store, [0.2], seeds=6, n=5000, only_these_cells=True)


def untested(store):
    run = store(cells=[("prompt_tuning", 10, None), ("lopt1", 10, 1)])
    run.confirm("prompt_tuning", 10, None, 0.9)
    run.confirm("lopt1", 10, 1, 0.9)
    return run.write()


def nothing_confirmed(store):
    run = store()
    run.search("lopt1", 10, 1)
    return run.write()


def reference_pending(store):
    run = store(cells=[("prompt_tuning", 10, None), ("lopt1", 10, 1)])
    run.confirm("lopt1", 10, 1, 0.9)
    return run.write()


def nothing_smaller(store):
    run = store(cells=[("prompt_tuning", 10, None)])
    run.confirm("prompt_tuning", 10, None, 0.9)
    return run.write()


@pytest.mark.parametrize(
    ("make", "outcome"),
    [
        (undecided, "reference"),
        (worse, "reference"),
        (untested, "untested"),
        (nothing_confirmed, "nothing confirmed"),
        (reference_pending, "reference pending"),
        (nothing_smaller, "nothing smaller"),
    ],
)
def test_the_sentence_has_at_most_twenty_words_and_promises_nothing_that_is_not_shown(store, make, outcome):
    card, result = card_of(make(store))
    assert result.recommendation.outcome == outcome
    assert len(card.sentence.split()) <= SENTENCE_WORDS
    assert ("Nothing can be recommended" in card.sentence) == (card.cell is None) == (outcome != "reference")
    assert ("What would decide it" in dict(card.facts)) == (card.cell is None or make is undecided)
    assert "{" not in " ".join(value for _, value in card.facts)
    assert "Repeat the run" in dict(card.code)
