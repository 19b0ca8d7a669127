"""The card at the top of a section: what to use, how good it is, how sure that is, and the lines that load it."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from analysis.answer_text import MIN_SEEDS, difference_text, listed, margin_text
from analysis.cells import Cell, Group
from analysis.comparisons import Comparison, declared_text
from analysis.headline import Headline
from analysis.noninferiority import KIND_LEVEL
from analysis.power_text import power_sentences
from analysis.recommendation import Outcome, Recommendation
from analysis.render import bounds, percent
from lopt.locations import to_location

_NOTHING: Mapping[Outcome, tuple[str, str]] = {  # the sentence, and what would decide it
    "nothing confirmed": (
        "Nothing can be recommended yet: no trial is confirmed.",
        "Confirmed seeds of the reference and of a smaller cell. The command below continues the run.",
    ),
    "reference pending": (
        "Nothing can be recommended yet: the reference is not confirmed.",
        "Confirmed seeds of the reference. The command below continues the run.",
    ),
    "no reference": ("Nothing can be recommended: no cell is the declared reference.", "A cell with {declared}."),
    "no prompt": (
        "Use no prompt: no confirmed cell is shown to be above the model without one.",
        "More seeds, more test examples, or longer training.",
    ),
    "weak reference": (
        "Nothing can be recommended: the reference is not above the model without a prompt.",
        "A reference that is trained better, for example for longer or with more search trials.",
    ),
    "nothing smaller": (
        "Nothing can be recommended: no confirmed cell is smaller than the reference.",
        "Confirmed seeds of a smaller cell.",
    ),
    "untested": ("Nothing can be recommended yet: no test of the smaller cells is possible.", "A test. {missing}"),
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a reader has to know first.

    Attributes:
        sentence: the answer in at most twenty words.
        facts: pairs of a label and a value.
        code: pairs of a label and a text to copy.
        warning: why the code cannot be run, or an empty text.
        cell: the cell to use; None if nothing can be recommended.
    """

    sentence: str
    facts: tuple[tuple[str, str], ...]
    code: tuple[tuple[str, str], ...]
    warning: str
    cell: Cell | None


def make_card(group: Group, headline: Headline, commands: Mapping[str, str]) -> Card:
    """Make the card of a group.

    Args:
        commands: the command of each run, by the run's path as in `Trial.run`.
    """
    recommendation = headline.recommendation
    cell = recommendation.cell_to_use
    run = next((trial.run for trial in (cell or group).trials), "")
    command = commands.get(run) or next(iter(commands.values()), "")
    repeat = (("Repeat the run", command),) if command else ()
    if cell is None:
        sentence, decides = _NOTHING.get(recommendation.outcome, _NOTHING["nothing confirmed"])
        decides = decides.format(
            declared=declared_text(group), missing=_as_sentence(recommendation.missing_reason or "")
        ).strip()
        facts = (("What would decide it", decides), *_best_fact(group, headline))
        return Card(sentence=sentence, facts=facts, code=repeat, warning="", cell=None)
    code, warning = _loading(cell)
    return Card(
        sentence=_sentence(group, recommendation, cell),
        facts=_facts(group, recommendation, cell),
        code=(*code, *repeat),
        warning=warning,
        cell=cell,
    )


def _sentence(group: Group, recommendation: Recommendation, cell: Cell) -> str:
    if recommendation.outcome == "smaller cell" and recommendation.reference:
        ratio = (recommendation.reference.trainable_parameters or 1) / (cell.trainable_parameters or 1)
        ratio_text = f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}" if ratio >= 1.1 else f"{ratio:.2f}"
        return (
            f"Use {cell.label}: {ratio_text} times fewer parameters, shown as good as the reference within "
            f"{margin_text(group)}."
        )
    if recommendation.undecided or recommendation.untested:
        return f"Use the reference, {cell.label}, for now: whether a smaller cell is as good is not decided."
    if recommendation.as_good:
        return f"Use the reference, {cell.label}: no smaller cell is both as good and above no prompt."
    return f"Use the reference, {cell.label}: every tested smaller cell is worse by more than {margin_text(group)}."


def _facts(group: Group, recommendation: Recommendation, cell: Cell) -> tuple[tuple[str, str], ...]:
    assert cell.accuracy
    comparison = next((test for test in recommendation.as_good if test.cell is cell), None)
    loss = f"{difference_text(comparison)}" if comparison else "none, because it is the reference"
    facts = [
        ("Use this", cell.label),
        ("Trainable parameters", f"{cell.trainable_parameters:,}"),
        (f"Test {group.score_name}", f"{percent(cell.accuracy.mean)} %, 95 % interval {bounds(cell.accuracy)}"),
        ("Difference from the reference", loss),
        ("How sure", _certainty_text(group, recommendation, cell, comparison)),
    ]
    if not comparison and recommendation.undecided:
        labels = listed([test.cell.label for test in recommendation.undecided], 3)
        needed = [text for text in power_sentences(group) if " is undecided. " in text]
        facts.append(("What would decide it", " ".join([f"More seeds or test examples for {labels}.", *needed])))
    return tuple(facts)


def _certainty_text(group: Group, recommendation: Recommendation, cell: Cell, comparison: Comparison | None) -> str:
    seeds, examples = (cell.accuracy.seeds, cell.accuracy.test_n) if cell.accuracy else (0, 0)
    basis = f"{seeds} seed{'s' * (seeds != 1)} on {examples:,} test examples"
    warning = f"Exploratory: {basis} only." if seeds < MIN_SEEDS else f"It rests on {basis}."
    if comparison:
        return (
            f"{warning} The tests call a cell that is worse by more than {margin_text(group)} as good in at most "
            f"{100 * KIND_LEVEL:g} % of such runs."
        )
    if recommendation.undecided or recommendation.untested:
        return f"{warning} The data cannot tell yet whether fewer parameters are enough."
    return f"{warning} The tests call a good smaller cell worse in at most {100 * KIND_LEVEL:g} % of such runs."


def _loading(cell: Cell) -> tuple[tuple[tuple[str, str], ...], str]:
    """Return the lines that load, use and export the cell's prompt, and a warning if there is nothing to load."""
    trial = cell.best_trial
    if trial is None:
        return (), "No trial of this cell has a held-out score, so no seed is chosen."
    path = f"{trial.run}/artifacts/{trial.key}"
    quoted_path = shlex.quote(path)
    python = (
        "from lopt import load_prompt\n\n"
        f"prompt = load_prompt({json.dumps(path, ensure_ascii=False)})\n"
        'prompt.predict(["An input of the task."])'
    )
    code = [
        ("Load and predict in Python", python),
        ("Predict from the command line", f'python -m lopt predict --prompt {quoted_path} --text "An input."'),
    ]
    if (cell.config.get("options") or {}).get("placement", "prefix") == "prefix":  # PEFT puts a prompt before the text
        export = f"python -m lopt export --prompt {quoted_path} --to peft my-adapter"
        code.append(("Export for PEFT", export))
    exists = (to_location(trial.run) / "artifacts" / trial.key).is_dir()
    return tuple(code), "" if exists else "The folder of this prompt is not there now, so these lines load nothing yet."


def _best_fact(group: Group, headline: Headline) -> tuple[tuple[str, str], ...]:
    cell = headline.best_cell
    if cell is None or cell.accuracy is None:
        return ()
    text = (
        f"{cell.label}, {cell.trainable_parameters:,} parameters, test {group.score_name} "
        f"{percent(cell.accuracy.mean)} % {bounds(cell.accuracy)}, {cell.accuracy.seeds} "
        f"seed{'s' * (cell.accuracy.seeds != 1)}"
    )
    return (("Best by held-out score, untested", text),)


def _as_sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""
