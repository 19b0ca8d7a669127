"""Runs whose task or model has moved to another folder. A folder is recognised by its content, not by its place."""

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
from tests.bad_input import refused, run_command
from tests.tiny_models import make_model, make_tokenizer

TOML = (
    'columns = ["text"]\nclasses = ["no", "yes"]\ntemplate = "{text} It was"\nlabel_words = [" bad", " great"]\n'
    'train = "train.csv"\nreport = "test.csv"\n'
)


@pytest.fixture
def mail_folder(tmp_path):
    """Return the folder of a task."""
    folder = tmp_path / "old" / "mail"
    folder.mkdir(parents=True)
    (folder / "task.toml").write_text(TOML)
    for name, count in (("train", 40), ("test", 12)):
        rows = "".join(f"{name} {i},{'yes' if i % 2 else 'no'}\n" for i in range(count))
        (folder / f"{name}.csv").write_text(f"text,label\n{rows}")
    return folder


@pytest.fixture
def move_mail(mail_folder, tmp_path):
    """Return a function that moves the task and returns its new folder."""

    def move():
        new_folder = tmp_path / "new place" / "mail"
        new_folder.parent.mkdir()
        mail_folder.rename(new_folder)
        return new_folder

    return move


def command(task, out, *options):
    pairs = ("max_steps=2", "eval_every=2", "trials=2", f"task={task}")
    settings = [word for pair in pairs for word in ("--set", pair)]
    return ["--space", "smoke", "--local-mode", "--out", out, *settings, *options]


def sweep(task, out, *options):
    """Run a sweep and return its exit code and output."""
    code, output, error = run_command(main, *command(task, out, *options))
    assert error == ""
    return code, output


def add_row(task):
    with (task / "train.csv").open("a") as file:
        file.write("one more,no\n")


def clear_caches():
    for cache in (data._load_splits, data._draw_and_tokenise, data._prepare_from_cache_key):
        cache.cache_clear()


def keys(out, run="smoke-paper"):
    return {record.key for record in Store(out, run).records()}


def test_a_finished_run_is_recognised_after_its_task_moved(mail_folder, move_mail, tmp_path):
    out = tmp_path / "results"
    assert sweep(mail_folder, out)[0] == 0
    before = keys(out)
    for _ in range(2):
        code, output = sweep(move_mail() if mail_folder.exists() else tmp_path / "new place" / "mail", out)
        assert (code, "complete: 9 trials" in output, "confirm lopt" in output) == (0, True, False)
        assert "the space has changed" not in output
        assert keys(out) == before


@pytest.mark.parametrize("old_identity", [False, True])
def test_an_unfinished_run_goes_on_after_its_task_moved(mail_folder, move_mail, tmp_path, old_identity):
    out = tmp_path / "results"
    assert sweep(mail_folder, out, "--max-trials", "4")[0] == 4
    before = keys(out)
    manifest = out / "smoke-paper" / "manifest.json"
    if old_identity:  # as earlier versions wrote it, which included the place
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "identity": "0123456789abcdef"}))
    code, output = sweep(move_mail(), out)
    assert (code, "continuing run smoke-paper: 4 trials" in output) == (0, True)
    assert before < keys(out)
    assert len(keys(out)) == 9
    assert len(json.loads((out / "smoke-paper" / "baselines.json").read_text())) == 1
    assert {record.config["task"] for record in Store(out, "smoke-paper").records()} == {
        str(mail_folder), str(tmp_path / "new place" / "mail"),
    }  # fmt: skip


def test_more_seeds_continue_a_run_after_its_task_moved(mail_folder, move_mail, tmp_path):
    out = tmp_path / "results"
    assert sweep(mail_folder, out)[0] == 0
    code, output = sweep(move_mail(), out, "--seeds", "2")
    assert (code, "continuing run smoke-paper: 9 trials" in output, "12 trials" in output) == (0, True, True)


def test_failed_trials_are_tried_again_after_their_task_moved(mail_folder, move_mail, tmp_path, monkeypatch):
    out = tmp_path / "results"
    from lopt.training import Trial

    def fail(self, *_, **__):
        raise RuntimeError("broken on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "__next__", fail, raising=False)
        patch.setattr(Trial, "__iter__", fail)
        assert sweep(mail_folder, out, "--max-trials", "2")[0] in (3, 4)
    assert {record.status for record in Store(out, "smoke-paper").records()} == {"failed"}
    assert sweep(move_mail(), out)[0] == 0
    assert {record.status for record in Store(out, "smoke-paper").records()} <= {"complete", "stopped"}


def test_a_moved_task_with_other_rows_is_refused(mail_folder, move_mail, tmp_path):
    out = tmp_path / "results"
    assert sweep(mail_folder, out)[0] == 0
    before = keys(out)
    new_folder = move_mail()
    add_row(new_folder)
    data._load_splits.cache_clear()
    refused(main, *command(new_folder, out), words=["was trained on data revision", str(new_folder), "--name"])
    assert keys(out) == before


@pytest.mark.parametrize(
    "changed_toml", [TOML.replace("It was", "So it was"), TOML.replace('" bad", " great"', '" no", " yes"')]
)
@pytest.mark.parametrize("old_identity", [False, True])
def test_a_moved_task_with_other_settings_is_refused(mail_folder, move_mail, tmp_path, changed_toml, old_identity):
    out = tmp_path / "results"
    assert sweep(mail_folder, out, "--max-trials", "1")[0] == 4
    manifest = out / "smoke-paper" / "manifest.json"
    if old_identity:
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "identity": "0123456789abcdef"}))
    new_folder = move_mail()
    (new_folder / "task.toml").write_text(changed_toml)
    refused(main, *command(new_folder, out), words=["with other settings"])


def test_trials_of_a_moved_task_are_reused(mail_folder, move_mail, tmp_path):
    out = tmp_path / "results"
    assert sweep(mail_folder, out)[0] == 0
    new_folder = move_mail()
    code, output = sweep(new_folder, out, "--name", "again", "--reuse")
    assert (code, "reused 9 of 9 trials" in output) == (0, True)
    assert keys(out, "again") == keys(out)
    assert {record.config["task"] for record in Store(out, "again").records()} == {str(new_folder)}


def test_trials_of_a_renamed_task_are_reused(mail_folder, tmp_path):
    out = tmp_path / "results"
    assert sweep(mail_folder, out)[0] == 0
    new_folder = mail_folder.rename(tmp_path / "post")
    refused(main, *command(new_folder, out), words=["task mail → post", "--name"])
    code, output = sweep(new_folder, out, "--name", "again", "--reuse")
    assert (code, "reused 9 of 9 trials" in output, "complete: 9 trials" in output) == (0, True, True)
    store, earlier_store = Store(out, "again"), Store(out, "smoke-paper")
    assert {record.config["task"] for record in store.records()} == {str(new_folder)}
    accuracies = [
        sorted((r.config["method"], r.config["seed"], r.test_accuracy or 0) for r in any_store.records())
        for any_store in (store, earlier_store)
    ]
    assert accuracies[0] == accuracies[1]
    for record in store.records():
        if record.phase == "confirm":
            assert (store.folder / "predictions" / f"{record.key}.parquet").is_file()
            assert load_prompt(store.artifact_folder(record.key)).predict(["warm"])
    add_row(new_folder)
    clear_caches()
    assert "none of the" in sweep(new_folder, out, "--name", "other", "--reuse")[1]


def test_a_moved_model_is_recognised(mail_folder, tmp_path):
    out, model = tmp_path / "results", tmp_path / "models" / "tiny-llama"
    make_model("llama").save_pretrained(model)
    make_tokenizer("llama").save_pretrained(model)
    assert run_command(main, *command(mail_folder, out, "--set", f"backbone={model}"))[0] == 0
    before = keys(out)
    new_folder = tmp_path / "elsewhere" / "tiny-llama"
    new_folder.parent.mkdir()
    model.rename(new_folder)
    backbones.load.cache_clear()
    code, output, _ = run_command(main, *command(mail_folder, out, "--set", f"backbone={new_folder}"))
    assert (code, "complete: 9 trials" in output, keys(out) == before) == (0, True, True)
    file = new_folder / "config.json"
    file.write_text(file.read_text() + "\n")
    shutil.move(new_folder, model)
    refused(main, *command(mail_folder, out, "--set", f"backbone={model}"), words=["model revision"])


def test_a_report_has_one_group_for_a_task_that_moved(mail_folder, move_mail, tmp_path):
    out = tmp_path / "results"
    assert sweep(mail_folder, out, "--max-trials", "7")[0] == 4
    new_folder = move_mail()
    assert sweep(new_folder, out)[0] == 0
    assert run_command(report, out / "smoke-paper")[0] == 0
    results = load([out / "smoke-paper"])
    (group,) = groups(results)
    assert (group.task, len(group.cells), len(group.trials)) == (str(new_folder), 3, 9)
    assert group.zero_shot_accuracy is not None
    copy = shutil.copytree(new_folder, tmp_path / "third" / "mail")
    assert sweep(copy, out, "--name", "same")[0] == 0
    add_row(copy)
    clear_caches()
    assert sweep(copy, out, "--name", "other")[0] == 0
    assert len(groups(load([out / "smoke-paper", out / "same"]))) == 1
    assert len(groups(load([out / "smoke-paper", out / "other"]))) == 2, "with other rows, it is another task"


def test_a_report_stays_the_same_after_the_task_of_its_run_moved(mail_folder, move_mail, tmp_path):
    out = tmp_path / "results"
    assert sweep(mail_folder, out)[0] == 0
    (before,) = groups(load([out / "smoke-paper"]))
    assert sweep(move_mail(), out)[0] == 0
    (after,) = groups(load([out / "smoke-paper"]))
    assert [cell.name for cell in after.cells] == [cell.name for cell in before.cells]
    assert len(after.trials) == len(before.trials)
