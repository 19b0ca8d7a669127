"""The table of each method over all tasks."""

import json

import pytest

from analysis.cells import groups
from analysis.load import load
from analysis.registry import Missing
from analysis.tables import over_tasks

PAPER = {"backbone": "gpt2-large", "task": "sst2", "width": 1280}
PAPER |= {"test_split": "validation", "test_n": 872, "split_size": 872}


def test_over_tasks_needs_four_tasks_and_takes_the_best_size_on_each(store):
    paths = []
    for task, accuracy in (("sst2", 0.9), ("boolq", 0.5), ("rte", 0.7), ("wic", 0.6), ("cb", 0.8)):
        run = store(name=task, task=task)
        for rank, rank_accuracy in ((1, accuracy - 0.1), (2, accuracy)):
            run.confirm("lopt1", 10, rank, rank_accuracy, selection_accuracy=rank_accuracy)
        if task != "cb":
            run.confirm("ulpt", 10, 2, accuracy)
        paths.append(run.write())
    info = over_tasks.compute(groups(load(paths)))
    (row,) = info.rows
    assert "embedded" not in over_tasks.render(info).caption and "reference on" not in str(
        over_tasks.render(info).notes
    )
    assert row.normalised_mean is None and row.improvement is None, "there is no reference"
    assert row.mean_rank == 1
    assert row.trimmed_mean == pytest.approx(0.7) and row.mean == pytest.approx(0.7)
    assert row.parameter_range == (2 * (10 + 576),) * 2
    assert info.left_out_methods == ("ULPT",)
    assert "left out: ULPT" in " ".join(over_tasks.render(info).notes)
    assert isinstance(over_tasks.compute(groups(load(paths[:3]))), Missing)


def test_over_tasks_compares_with_the_full_prompt(store):
    paths = []
    for i, (task, accuracy) in enumerate((("sst2", 0.9), ("boolq", 0.8), ("rte", 0.7), ("wic", 0.75))):
        run = store(name=task, task=task)
        for seed in range(3):
            run.confirm("prompt_tuning", 10, None, accuracy + 0.01 * seed, config__seed=seed)
            run.confirm("lopt1", 10, 1, accuracy - 0.1 * (i == 0) + 0.01 * seed - 0.005, config__seed=seed)
        paths.append(run.write())
    info = over_tasks.compute(groups(load(paths)))
    full, small = info.rows
    assert full.method == "prompt_tuning" and full.improvement is None
    notes = " ".join(over_tasks.render(info).notes)
    assert "The reference on the tasks is full prompt tuning (n = 10, 5,760 parameters)." in notes
    assert full.normalised_mean.value == pytest.approx(1) == pytest.approx(full.normalised_mean.low)
    middle_tasks = [(accuracy - 0.005 + 0.01 - 0.51) / (accuracy + 0.01 - 0.51) for accuracy in (0.8, 0.75)]
    assert small.normalised_mean.value == pytest.approx(sum(middle_tasks) / 2, abs=0.01)
    assert small.normalised_mean.low < small.normalised_mean.value < small.normalised_mean.high
    assert small.improvement.value == pytest.approx((0 + 3 * 3 / 9) / 4)
    assert small.mean_rank.value == 2 and small.mean_rank.low < 2
    titles = [column.title for column in over_tasks.render(info).columns]
    assert any(title.startswith("trimmed mean") for title in titles) and not any("interquartile" in t for t in titles)


def test_over_tasks_names_the_declared_reference(store):
    paths = []
    for task in ("sst2", "boolq", "rte", "wic"):
        cells_of_run = [("prompt_tuning", 10, None), ("lopt1", 10, 1)]
        run = store(name=task, task=task, cells=cells_of_run)
        for cell in cells_of_run:
            run.confirm(*cell, 0.8)
        path = run.write()
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["space"]["reference"] = {"method": "lopt1"}
        (path / "manifest.json").write_text(json.dumps(manifest))
        paths.append(path)
    notes = " ".join(over_tasks.render(over_tasks.compute(groups(load(paths)))).notes)
    assert "The reference on the tasks is LoPT-1 (n = 10, r = 1, 586 parameters)." in notes
    assert "full prompt" not in notes
