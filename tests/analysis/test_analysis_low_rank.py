"""Is a trained full prompt low-rank? The figure, its data and the sentence of the answer."""

from __future__ import annotations

import csv
import json
from statistics import fmean

import pytest

from analysis.cells import groups
from analysis.headline import headline
from analysis.load import load
from analysis.low_rank import full_prompt_ranks
from analysis.plots import low_rank as plot
from analysis.registry import Missing
from analysis.report import main
from analysis.stats import estimate

ACCURACIES = (0.80, 0.84, 0.82)
LOSSES = {1: 0.2, 2: 0.1, 5: 0.05}


def full_prompt_run(store, cells=(("prompt_tuning", 10, None),), seeds=3, **options):
    """A run of these cells. The full prompts are cut."""
    run = store(cells=list(cells), **options)
    for method, length, rank in cells:
        for seed in range(seeds):
            record = run.confirm(method, length, rank, ACCURACIES[seed], config__seed=seed)
            if method == "prompt_tuning":
                run.cut(record, LOSSES)
    return run


def group_of(run):
    (group,) = groups(load([run.write()]))
    return group


def sentence_of(group):
    sentences = [text for text in headline(group).details if text.startswith("Is the prompt low-rank?")]
    assert len(sentences) <= 1
    return sentences[0] if sentences else None


def test_the_sentence_has_the_numbers_of_the_files(store):
    run = full_prompt_run(store, [("prompt_tuning", 10, None), ("lopt1", 10, 2), ("lopt1", 10, 3), ("lopt1", 20, 5)])
    group = group_of(run)
    contents = [json.loads(path.read_text()) for path in (run.path / "low_rank").iterdir()]
    before, after = (fmean(content[name] for content in contents) for name in ("initial_stable_rank", "stable_rank"))
    cut = estimate([accuracy - 0.1 for accuracy in ACCURACIES], run.test_n)
    text = sentence_of(group)
    assert (
        f"(3 seeds) have a stable rank of {after:.1f} on average, against {before:.1f} before training; 10 is" in text
    )
    assert f"Cut to rank 2 after training, they reach 72.0 % [{100 * cut.low:.1f}, {100 * cut.high:.1f}]" in text
    assert "and uncut 82.0 % [" in text
    assert "LoPT-1 of the same length, trained at rank 2, reaches 82.0 % [" in text, "no cut has LoPT-1's rank 3"


def test_without_lopt1_the_highest_cut_is_named(store):
    text = sentence_of(group_of(full_prompt_run(store, [("prompt_tuning", 10, None), ("lopt1", 20, 5)], seeds=1)))
    assert "The trained prompt of Prompt tuning n=10 (1 seed) has a stable rank" in text
    assert "Cut to rank 5 after training, it reaches 75.0 %" in text
    assert "No LoPT-1 of the same length is confirmed at rank 5." in text


def test_the_full_prompt_with_the_most_lopt1_cells_comes_first(store):
    cells = [("prompt_tuning", n, None) for n in (10, 20, 30)] + [("lopt1", 20, 2), ("lopt1", 10, 1), ("lopt1", 10, 2)]
    entries = full_prompt_ranks(group_of(full_prompt_run(store, cells)))
    assert [entry.length for entry in entries] == [10, 20, 30]
    assert [rank for rank, _ in entries[0].factored_accuracies] == [1, 2]
    entries = full_prompt_ranks(group_of(full_prompt_run(store, cells[:3], name="other")))
    assert [entry.length for entry in entries] == [30, 20, 10], "else the one with the most parameters"


def test_seeds_without_a_file_are_counted(store):
    run = full_prompt_run(store)
    next((run.path / "low_rank").iterdir()).unlink()
    group = group_of(run)
    assert "(2 of 3 seeds)" in sentence_of(group)
    info = plot.compute(group)
    assert "2 of 3 seeds" in plot.caption(info)
    assert {accuracy.seeds for _, accuracy in info.entry.cut_accuracies} == {2}


def test_without_files_there_is_neither_figure_nor_sentence(store):
    run = store(cells=[("prompt_tuning", 10, None)])
    run.confirm("prompt_tuning", 10, None, 0.8)
    group = group_of(run)
    assert isinstance(plot.compute(group), Missing) and sentence_of(group) is None


def test_a_prompt_of_one_row_cannot_be_cut(store):
    run = store(cells=[("prompt_tuning", 1, None)])
    run.cut(run.confirm("prompt_tuning", 1, None, 0.8), {})
    assert isinstance(plot.compute(group_of(run)), Missing)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"", b"[1]", b"[" * 100_000, None])
def test_a_damaged_file_is_named_and_left_out(store, tmp_path, capsys, content):
    run = full_prompt_run(store)
    first, second = sorted((run.path / "low_rank").iterdir())[:2]
    first.write_bytes(second.read_bytes() if content is None else content)  # the file of another trial
    assert main([str(run.write()), "--out", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert f"1 file could not be read and is left out: {run.name}/low_rank/{first.name}: " in captured.out
    assert "(2 of 3 seeds)" in (tmp_path / "out" / "report.md").read_text()


def test_the_data_file_holds_every_value(store, tmp_path):
    run = full_prompt_run(store, [("prompt_tuning", 10, None), ("lopt1", 10, 2)])
    assert main([str(run.write()), "--out", str(tmp_path)]) == 0
    with (tmp_path / "figures" / "low_rank.csv").open() as file:
        rows = list(csv.DictReader(file))
    for content in (json.loads(path.read_text()) for path in (run.path / "low_rank").iterdir()):
        for prompt, name in (("trained", "singular_values"), ("initial", "initial_singular_values")):
            values = [float(r["singular_value"]) for r in rows if (r["prompt"], r["trial"]) == (prompt, content["key"])]
            assert values == pytest.approx(content[name], rel=1e-5)
    assert {(r["prompt"], r["rank"]): round(float(r["test_percent"]), 6) for r in rows if r["test_percent"]} == {
        ("whole", ""): 82.0, ("cut", "1"): 62.0, ("cut", "2"): 72.0, ("cut", "5"): 77.0, ("lopt1", "2"): 82.0,
    }  # fmt: skip


@pytest.mark.parametrize("cells", [[("prompt_tuning", 100, None)], [("prompt_tuning", 2, None), ("lopt1", 2, 1)]])
def test_the_figure_shows_both_panels(store, cells):
    run = store(cells=cells)
    for method, length, rank in cells:
        record = run.confirm(method, length, rank, 0.8)
        if method == "prompt_tuning":
            run.cut(record, {1: 0.3})
    figure = plot.draw(plot.compute(group_of(run)))
    left, right = figure.axes
    trained, initial = sorted((line.get_ydata() for line in left.lines), key=sum)
    assert len(trained) == len(initial) == cells[0][1] and trained[0] == initial[0] == 1.0
    assert any(list(line.get_ydata()) == [pytest.approx(50)] for line in right.lines), "the cut prompt"


def change_file(run, index, change):
    """Change the content of one file."""
    path = sorted((run.path / "low_rank").iterdir())[index]
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path.name


def test_only_ranks_that_all_seeds_have_are_shown_beside_the_same_seeds_uncut(store):
    run = full_prompt_run(store)
    change_file(run, 0, lambda content: content["cuts"].pop())
    text = sentence_of(group_of(run))
    assert "Cut to rank 2 after training, they reach 72.0 %" in text and "uncut 82.0 %" in text
    seed_0 = next(trial.key for trial in group_of(run).trials if trial.seed == 0)
    (run.path / "low_rank" / f"{seed_0}.json").unlink()
    group = group_of(run)
    entry = plot.compute(group).entry
    assert entry.uncut_accuracy.mean == pytest.approx(0.83) and entry.uncut_accuracy.seeds == 2
    assert "uncut 83.0 %" in sentence_of(group) and "the same 2 of 3 seeds" in plot.caption(plot.compute(group))


@pytest.mark.parametrize("name", ["singular_values", "test_n"])
def test_a_file_that_does_not_fit_its_trial_is_named_and_left_out(store, name):
    def change(content):
        if name == "test_n":
            content["cuts"] = [cut | {"test_n": 5} for cut in content["cuts"]]
            return
        values = [3.0, 2.0, 1.0, 1.0, 1.0]
        rank = sum((value / 3) ** 2 for value in values)
        content |= {"singular_values": values, "initial_singular_values": values}
        content |= {"stable_rank": rank, "initial_stable_rank": rank}

    run = full_prompt_run(store)
    file_name = change_file(run, 1, change)
    group = group_of(run)
    text, caption = sentence_of(group), plot.caption(plot.compute(group))
    assert "(2 of 3 seeds)" in text
    for words in (text, caption):
        assert words.endswith(f"is not that of the trial: low_rank/{file_name}.")
    assert plot.draw(plot.compute(group))


def test_a_stable_rank_that_its_singular_values_do_not_have_is_damage(store):
    run = full_prompt_run(store)
    file_name = change_file(run, 0, lambda content: content.update(stable_rank=7.0))
    results = load([run.write()])
    assert any(file_name in text and "`stable_rank` is 7" in text for text in results.unreadable_files)
