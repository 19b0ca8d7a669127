"""The report of a run that adds seeds until it is decided."""

from __future__ import annotations

import json

import pytest

from analysis.cells import groups
from analysis.comparisons import comparisons, courses
from analysis.load import declaration_warnings, load
from analysis.looks_text import ending_sentences, look_sentence
from analysis.recommendation import recommend
from analysis.registry import Missing
from analysis.report import main
from analysis.tables import looks
from tests.analysis.simulated import simulated_run

DESIGN = {"margin": 0.02, "looks": [3, 5, 8], "times": [0.5, 0.75, 1.0]}


def run_with_looks(store, gaps, design=DESIGN, **options):
    """Write a simulated run, with the looks in its manifest."""
    path = simulated_run(store, gaps, only_these_cells=True, **options)
    file = path / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["space"] |= {"until_decided": design, "margin": design["margin"]}
    file.write_text(json.dumps(manifest))
    return path


def group_of(path, margin=None):
    (group,) = groups(load([path], margin))
    return group


def test_verdicts_are_those_of_the_looks(store):
    group = group_of(run_with_looks(store, [0.12, 0.0], seeds=8, n=2000, spread=0.002))
    results = courses(group)
    assert [course.outcome for course in results.all] == ["inferior", "non-inferior"]
    assert [comparison.verdict.outcome for comparison in comparisons(group)] == ["inferior", "non-inferior"]
    assert recommend(group).cell is results.all[1].cell
    (sentence,) = ending_sentences(group)
    assert sentence.startswith("Decided with 8 seeds of the reference: LoPT-1 (n = 10, r = 2")
    assert "no more seeds" in look_sentence(group)


def test_a_cell_is_decided_with_the_seeds_of_the_first_look(store):
    few = group_of(run_with_looks(store, [0.3], seeds=3, n=800, spread=0.002))
    verdict = comparisons(few)[0].verdict
    assert verdict.outcome == "inferior"
    assert courses(few).next_seeds is None


def test_an_unfinished_run_says_which_seeds_the_next_look_needs(store):
    group = group_of(run_with_looks(store, [0.01], seeds=4, n=2000, spread=0.02))
    assert courses(group).next_seeds == 5
    assert ending_sentences(group) == [
        "Not decided yet: the next look is at 5 seeds of the reference and LoPT-1 n=10 r=1."
    ]
    table = looks.render(looks.compute(group))
    assert len(table.rows) == 1 and "more seeds" in table.rows[0]


def test_a_cell_whose_search_failed_keeps_the_question_open(store):
    path = run_with_looks(store, [0.3], seeds=8, n=2000, spread=0.002, more_cells=[("lopt1", 30, 5)])
    store().search("lopt1", 30, 5, key="another", status="failed", selection_accuracy=None)
    group = group_of(path)
    assert courses(group).all[0].outcome == "inferior" and not courses(group).is_decided
    sentences = ending_sentences(group)
    assert sentences[0] == "Not decided with 8 seeds of the reference."
    assert "LoPT-1 n=30 r=5 is open: it has no confirmed trial." in sentences


@pytest.mark.parametrize("is_search_begun", [False, True])
def test_the_first_look_waits_for_cells_whose_first_seeds_are_still_to_come(store, is_search_begun):
    path = run_with_looks(store, [0.3], seeds=3, n=800, spread=0.002, more_cells=[("lopt1", 30, 5)])
    if is_search_begun:
        store().search("lopt1", 30, 5, key="another")
    group = group_of(path)
    assert not any(course.looks for course in courses(group).all)
    assert ending_sentences(group) == [
        "Not decided yet: the next look is at 3 seeds of the reference and LoPT-1 n=10 r=1, LoPT-1 n=30 r=5."
    ]


def test_a_larger_cell_may_be_as_good_while_a_smaller_one_is_open(store):
    group = group_of(run_with_looks(store, [0.02, 0.0], seeds=8, n=4000, spread=0.001))
    assert [course.outcome for course in courses(group).all] == ["undecided", "non-inferior"]
    first, second = ending_sentences(group)
    assert first.startswith("Decided in part, with 8 seeds of the reference: LoPT-1 (n = 10, r = 2")
    assert second.startswith("LoPT-1 n=10 r=1 is open after ")


def test_open_cells_say_why(store):
    group = group_of(run_with_looks(store, [0.02], seeds=8, n=60))
    (course,) = courses(group).all
    assert course.outcome == "undecided"
    first, second = ending_sentences(group)
    assert first == "Not decided with 8 seeds of the reference."
    assert {"examples": "alone cannot decide", "seeds": "unlikely", "most seeds": "has the most seeds"}[
        course.reason
    ] in second


def test_a_fixed_number_of_seeds_has_no_looks(store):
    group = group_of(simulated_run(store, [0.0]))
    assert courses(group) is None and ending_sentences(group) == []
    assert isinstance(looks.compute(group), Missing)


@pytest.mark.parametrize("pooled", [False, True])
def test_another_margin_or_pooled_runs_are_exploratory(store, tmp_path, pooled):
    path = run_with_looks(store, [0.05], seeds=3)
    paths = [path]
    if pooled:
        other = tmp_path / "other"
        other.mkdir()
        (other / "manifest.json").write_bytes((path / "manifest.json").read_bytes())
        paths.append(other)
    results = load(paths, None if pooled else 0.03)
    assert groups(results)[0].design is None
    assert "exploratory" in declaration_warnings(results)[-1]
    assert declaration_warnings(load([path])) == []


@pytest.mark.parametrize("design", [{"looks": [3]}, {"margin": 0.01, "looks": [5, 3], "times": [0.5, 1]}, 5])
def test_a_damaged_design_is_refused_in_one_line(store, capsys, design):
    path = run_with_looks(store, [0.05])
    file = path / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["space"]["until_decided"] = design
    file.write_text(json.dumps(manifest))
    assert main([str(path)]) == 2
    error = capsys.readouterr().err
    assert "manifest.json cannot be read" in error and len(error.strip().splitlines()) == 1


def test_the_page_shows_the_looks(store, capsys):
    path = run_with_looks(store, [0.12, 0.0], seeds=8, n=2000, spread=0.002)
    assert main([str(path)]) == 0
    page = (path / "report" / "report.md").read_text()
    assert "Looks until it is decided" in page
    assert "Decided with 8 seeds of the reference" in page
    assert "These levels hold for all looks" in page
    assert list((path / "report" / "figures").glob("*looks.svg"))
