"""Runs whose task or model lies in another folder than before: what it holds decides, not where it lies."""

from __future__ import annotations

import json
import shutil

import pytest

from analysis.cells import groups
from analysis.load import load
from analysis.report import main as report
from lopt import backbones, data, load_prompt
from sweeps.results.store import Store
from sweeps.run import main
from tests.bad_input import called, refused
from tests.tiny_models import make_model, make_tokenizer

TOML = (
    'columns = ["text"]\nclasses = ["no", "yes"]\ntemplate = "{text} It was"\nlabel_words = [" bad", " great"]\n'
    'train = "train.csv"\nreport = "test.csv"\n'
)


@pytest.fixture
def mail(tmp_path):
    folder = tmp_path / "old" / "mail"
    folder.mkdir(parents=True)
    (folder / "task.toml").write_text(TOML)
    for name, count in (("train", 40), ("test", 12)):
        rows = "".join(f"{name} {i},{'yes' if i % 2 else 'no'}\n" for i in range(count))
        (folder / f"{name}.csv").write_text(f"text,label\n{rows}")
    return folder


@pytest.fixture
def moved(mail, tmp_path):
    """Moves the task; where it lies then."""

    def move():
        there = tmp_path / "new place" / "mail"
        there.parent.mkdir()
        mail.rename(there)
        return there

    return move


def command(task, out, *more):
    pairs = ("max_steps=2", "eval_every=2", "trials=2", f"task={task}")
    settings = [word for pair in pairs for word in ("--set", pair)]
    return ["--space", "smoke", "--local-mode", "--out", out, *settings, *more]


def swept(task, out, *more):
    code, said, error = called(main, *command(task, out, *more))
    assert error == ""
    return code, said


def keys(out, run="smoke-paper"):
    return {record.key for record in Store(out, run).records()}


def test_a_finished_run_is_known_in_another_place(mail, moved, tmp_path):
    out = tmp_path / "results"
    assert swept(mail, out)[0] == 0
    before = keys(out)
    for _ in range(2):
        code, said = swept(moved() if mail.exists() else tmp_path / "new place" / "mail", out)
        assert (code, "complete: 9 trials" in said, "confirm lopt" in said) == (0, True, False)
        assert "the space has changed" not in said
        assert keys(out) == before


@pytest.mark.parametrize("old_identity", [False, True])
def test_a_run_goes_on_in_another_place(mail, moved, tmp_path, old_identity):
    out = tmp_path / "results"
    assert swept(mail, out, "--max-trials", "4")[0] == 4
    before = keys(out)
    manifest = out / "smoke-paper" / "manifest.json"
    if old_identity:  # as versions wrote it in which the place counted
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "identity": "0123456789abcdef"}))
    code, said = swept(moved(), out)
    assert (code, "continuing run smoke-paper: 4 trials" in said) == (0, True)
    assert before < keys(out)
    assert len(keys(out)) == 9
    assert len(json.loads((out / "smoke-paper" / "baselines.json").read_text())) == 1
    assert {record.config["task"] for record in Store(out, "smoke-paper").records()} == {
        str(mail), str(tmp_path / "new place" / "mail"),
    }  # fmt: skip


def test_more_trials_in_another_place_continue(mail, moved, tmp_path):
    out = tmp_path / "results"
    assert swept(mail, out)[0] == 0
    code, said = swept(moved(), out, "--seeds", "2")
    assert (code, "continuing run smoke-paper: 9 trials" in said, "12 trials" in said) == (0, True, True)


def test_failed_trials_are_tried_again_in_another_place(mail, moved, tmp_path, monkeypatch):
    out = tmp_path / "results"
    from lopt.training import Trial

    def fails(self, *_, **__):
        raise RuntimeError("no luck")

    with monkeypatch.context() as broken:
        broken.setattr(Trial, "__next__", fails, raising=False)
        broken.setattr(Trial, "__iter__", fails)
        assert swept(mail, out, "--max-trials", "2")[0] in (3, 4)
    assert {record.status for record in Store(out, "smoke-paper").records()} == {"failed"}
    assert swept(moved(), out)[0] == 0
    assert {record.status for record in Store(out, "smoke-paper").records()} <= {"complete", "stopped"}


def test_other_rows_in_another_place_are_refused(mail, moved, tmp_path):
    out = tmp_path / "results"
    assert swept(mail, out)[0] == 0
    before = keys(out)
    there = moved()
    with (there / "train.csv").open("a") as file:
        file.write("one more,no\n")
    data._load.cache_clear()
    refused(main, *command(there, out), words=["holds trials of data revision", str(there), "--name"])
    assert keys(out) == before


@pytest.mark.parametrize(
    "changed", [TOML.replace("It was", "So it was"), TOML.replace('" bad", " great"', '" no", " yes"')]
)
@pytest.mark.parametrize("old_identity", [False, True])
def test_another_template_in_another_place_is_refused(mail, moved, tmp_path, changed, old_identity):
    out = tmp_path / "results"
    assert swept(mail, out, "--max-trials", "1")[0] == 4
    manifest = out / "smoke-paper" / "manifest.json"
    if old_identity:
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "identity": "0123456789abcdef"}))
    there = moved()
    (there / "task.toml").write_text(changed)
    refused(main, *command(there, out), words=["with other settings"])


def test_trials_are_reused_from_another_place(mail, moved, tmp_path):
    out = tmp_path / "results"
    assert swept(mail, out)[0] == 0
    there = moved()
    code, said = swept(there, out, "--name", "again", "--reuse")
    assert (code, "reused 9 of 9 trials" in said) == (0, True)
    assert keys(out, "again") == keys(out)
    assert {record.config["task"] for record in Store(out, "again").records()} == {str(there)}


def test_trials_are_reused_from_a_folder_that_was_renamed(mail, tmp_path):
    out = tmp_path / "results"
    assert swept(mail, out)[0] == 0
    there = mail.rename(tmp_path / "post")
    refused(main, *command(there, out), words=["task mail → post", "--name"])
    code, said = swept(there, out, "--name", "again", "--reuse")
    assert (code, "reused 9 of 9 trials" in said, "complete: 9 trials" in said) == (0, True, True)
    store, before = Store(out, "again"), Store(out, "smoke-paper")
    assert {record.config["task"] for record in store.records()} == {str(there)}
    accuracies = [
        sorted((r.config["method"], r.config["seed"], r.test_accuracy or 0) for r in of.records())
        for of in (store, before)
    ]
    assert accuracies[0] == accuracies[1]
    for record in store.records():
        if record.phase == "confirm":
            assert (store.folder / "predictions" / f"{record.key}.parquet").is_file()
            assert load_prompt(store.artifact(record.key)).predict(["warm"])
    with (there / "train.csv").open("a") as file:
        file.write("one more,no\n")
    for cache in (data._load, data._draw, data._prepare):
        cache.cache_clear()
    assert "none of the" in swept(there, out, "--name", "other", "--reuse")[1]


def test_a_model_in_another_place_is_known(mail, tmp_path):
    out, model = tmp_path / "results", tmp_path / "models" / "mine"
    make_model("llama").save_pretrained(model)
    make_tokenizer("llama").save_pretrained(model)
    assert called(main, *command(mail, out, "--set", f"backbone={model}"))[0] == 0
    before = keys(out)
    there = tmp_path / "elsewhere" / "mine"
    there.parent.mkdir()
    model.rename(there)
    backbones.load.cache_clear()
    code, said, _ = called(main, *command(mail, out, "--set", f"backbone={there}"))
    assert (code, "complete: 9 trials" in said, keys(out) == before) == (0, True, True)
    file = there / "config.json"
    file.write_text(file.read_text() + "\n")
    shutil.move(there, model)
    refused(main, *command(mail, out, "--set", f"backbone={model}"), words=["model revision"])


def test_a_report_has_one_group_for_a_task_that_moved(mail, moved, tmp_path):
    out = tmp_path / "results"
    assert swept(mail, out, "--max-trials", "7")[0] == 4
    there = moved()
    assert swept(there, out)[0] == 0
    assert called(report, out / "smoke-paper")[0] == 0
    results = load([out / "smoke-paper"])
    (group,) = groups(results)
    assert (group.task, len(group.cells), len(group.trials)) == (str(there), 3, 9)
    assert group.zero_shot_accuracy is not None
    other = shutil.copytree(there, tmp_path / "third" / "mail")
    assert swept(other, out, "--name", "same")[0] == 0
    with (other / "train.csv").open("a") as file:
        file.write("one more,no\n")
    for cache in (data._load, data._draw, data._prepare):
        cache.cache_clear()
    assert swept(other, out, "--name", "other")[0] == 0
    assert len(groups(load([out / "smoke-paper", out / "same"]))) == 1
    assert len(groups(load([out / "smoke-paper", out / "other"]))) == 2, "other rows are another task"


def test_a_report_of_a_finished_run_that_was_asked_for_again_elsewhere(mail, moved, tmp_path):
    out = tmp_path / "results"
    assert swept(mail, out)[0] == 0
    (before,) = groups(load([out / "smoke-paper"]))
    assert swept(moved(), out)[0] == 0
    (after,) = groups(load([out / "smoke-paper"]))
    assert [cell.name for cell in after.cells] == [cell.name for cell in before.cells]
    assert len(after.trials) == len(before.trials)
