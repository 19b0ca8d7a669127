"""Trained prompts are used where the folders of the task and the model of their training do not exist."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from lopt import TrialConfig, backbones, load_prompt, train
from lopt.__main__ import main
from lopt.backbones import _names
from lopt.fingerprint import model_fingerprint
from tests.bad_input import refused, run_command
from tests.tiny_models import make_model, make_tokenizer

TOML = (
    'title = "Mail"\ncolumns = ["subject", "body"]\nclasses = ["no", "yes"]\nlabel = "answer"\ncut = "body"\n'
    'template = "{subject}: {body} It was"\nlabel_words = [" bad", " great"]\n'
    'train = "train.csv"\nreport = "test.csv"\n'
)
INPUT = json.dumps({"subject": "Hello", "body": "warm " * 20})


def make_task(folder):
    folder.mkdir(parents=True)
    (folder / "task.toml").write_text(TOML)
    for name, count in (("train", 40), ("test", 12)):
        rows = "".join(f"s{i},body {i},{'yes' if i % 2 else 'no'}\n" for i in range(count))
        (folder / f"{name}.csv").write_text(f"subject,body,answer\n{rows}")
    return folder


def make_backbone(folder):
    make_model("llama").save_pretrained(folder)
    make_tokenizer("llama").save_pretrained(folder)
    return folder


def train_prompt(task, backbone, out, **more):
    config = TrialConfig(
        **{
            "method": "lopt1", "task": str(task), "backbone": str(backbone), "length": 3, "rank": 2, "batch_size": 8,
            "max_steps": 2, "eval_every": 2, "precision": "fp32", **more,
        }
    )  # fmt: skip
    return train(config, artifact=out)


def predict(prompt, *more):
    code, out, err = run_command(main, "predict", "--prompt", prompt, "--text", INPUT, "--json", *more)
    assert (code, err) == (0, "")
    return json.loads(out)


@pytest.fixture
def mail(tmp_path):
    return make_task(tmp_path / "mail")


# --- the task --------------------------------------------------------------------------------------------------------


def test_a_prompt_predicts_without_the_folder_of_its_task(mail, tmp_path):
    train_prompt(mail, "tiny", tmp_path / "prompt")
    before = predict(tmp_path / "prompt")
    shutil.rmtree(mail)
    assert predict(tmp_path / "prompt") == before
    prompt = load_prompt(tmp_path / "prompt")
    assert (prompt.task.title, prompt.task.columns, prompt.task.classes, prompt.task.cut_column) == (
        "Mail", ("subject", "body"), ("no", "yes"), "body",
    )  # fmt: skip
    prompt.save(tmp_path / "again")
    assert predict(tmp_path / "again") == before


@pytest.mark.parametrize(
    "changed",
    [
        TOML.replace('["no", "yes"]', '["yes", "no"]'),
        TOML.replace('["no", "yes"]', '["never", "ever"]'),
        TOML.replace('cut = "body"', 'cut = "subject"'),
        TOML.replace('template = "{subject}: {body} It was"', 'template = "{body} {subject}"'),
        TOML.replace('[" bad", " great"]', '[" great", " bad"]'),
        "damaged = [",
    ],
)
def test_a_changed_task_changes_no_prediction(mail, tmp_path, changed):
    train_prompt(mail, "tiny", tmp_path / "prompt")
    before = predict(tmp_path / "prompt")
    (mail / "task.toml").write_text(changed)
    assert predict(tmp_path / "prompt") == before


def test_scoring_again_needs_the_rows_of_the_task(mail, tmp_path):
    record = train_prompt(mail, "tiny", tmp_path / "prompt")
    assert load_prompt(tmp_path / "prompt").evaluate().accuracy == record.test_accuracy
    (mail / "task.toml").write_text(TOML.replace('["no", "yes"]', '["yes", "no"]'))
    with pytest.raises(ValueError, match=r"trained with `classes` \('no', 'yes'\)"):
        load_prompt(tmp_path / "prompt").evaluate()
    shutil.rmtree(mail)
    with pytest.raises(ValueError, match=r"without the rows of its task: task '.*mail' is not a folder"):
        load_prompt(tmp_path / "prompt").evaluate()


def test_an_older_prompt_without_its_task_uses_the_installed_one(mail, tmp_path):
    train_prompt(mail, "tiny", tmp_path / "prompt")
    before = predict(tmp_path / "prompt")
    description = json.loads((tmp_path / "prompt" / "prompt.json").read_text())
    del description["task"]
    (tmp_path / "prompt" / "prompt.json").write_text(json.dumps({**description, "format": 1}))
    assert predict(tmp_path / "prompt") == before
    (mail / "task.toml").write_text(TOML.replace('["no", "yes"]', '["yes", "no"]'))
    refused(main, "predict", "--prompt", tmp_path / "prompt", "--text", INPUT, words=["['no', 'yes']", "restore"])
    shutil.rmtree(mail)
    refused(main, "predict", "--prompt", tmp_path / "prompt", "--text", INPUT, words=["not a folder with a task.toml"])


@pytest.mark.parametrize(
    "change",
    [{"task": None}, {"task": {}}, {"task": {"title": "a", "columns": ["text"], "cut": "body"}},
     {"classes": ["no"]}, {"classes": None}, {"classes": ["no", "no"]},
     {"task": {"title": 1, "columns": ["subject", "body"], "cut": "body"}},
     {"task": {"title": "a", "columns": ["other", "body"], "cut": "body"}}],
)  # fmt: skip
def test_an_incomplete_task_in_a_prompt_is_refused_in_one_line(mail, tmp_path, change):
    train_prompt(mail, "tiny", tmp_path / "prompt")
    file = tmp_path / "prompt" / "prompt.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    refused(main, "predict", "--prompt", tmp_path / "prompt", "--text", INPUT)


# --- the model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lopt1", "lora"])
def test_a_moved_model_is_used_when_its_folder_is_given(mail, tmp_path, method):
    if method == "lora":
        pytest.importorskip("peft")
    model = make_backbone(tmp_path / "models" / "mine")
    train_prompt(mail, model, tmp_path / "prompt", method=method, length=3 if method == "lopt1" else None)
    before = predict(tmp_path / "prompt")
    moved = tmp_path / "other" / "renamed"
    moved.parent.mkdir()
    model.rename(moved)
    backbones.load.cache_clear()
    shutil.rmtree(mail)
    refused(main, "predict", "--prompt", tmp_path / "prompt", "--text", INPUT, words=[str(model), "--backbone FOLDER"])
    assert predict(tmp_path / "prompt", "--backbone", moved) == before
    (answer,) = load_prompt(tmp_path / "prompt", backbone=moved).predict([json.loads(INPUT)])
    assert answer.label == before["label"]


def test_a_moved_model_is_found_by_its_name_in_the_mirror(mail, tmp_path, monkeypatch):
    model = make_backbone(tmp_path / "models" / "mine")
    train_prompt(mail, model, tmp_path / "prompt")
    before = predict(tmp_path / "prompt")
    (tmp_path / "mirror").mkdir()
    model.rename(tmp_path / "mirror" / "mine")
    backbones.load.cache_clear()
    monkeypatch.setenv("LOPT_MODEL_DIR", str(tmp_path / "mirror"))
    assert predict(tmp_path / "prompt") == before


def test_another_model_is_refused(mail, tmp_path):
    model = make_backbone(tmp_path / "mine")
    train_prompt(mail, model, tmp_path / "prompt")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    backbones.load.cache_clear()
    line = refused(main, "predict", "--prompt", tmp_path / "prompt", "--text", INPUT, "--backbone", model)
    assert "its revision here is" in line
    refused(main, "predict", "--prompt", tmp_path / "prompt", "--text", INPUT, "--backbone", tmp_path / "nowhere")


def test_a_trial_runs_again_with_moved_folders(mail, tmp_path):
    model = make_backbone(tmp_path / "models" / "mine")
    record = train_prompt(mail, model, tmp_path / "prompt")
    (tmp_path / "record.json").write_text(json.dumps(record.to_dict()))
    (tmp_path / "there").mkdir()
    mail.rename(tmp_path / "there" / "mail")
    model.rename(tmp_path / "there" / "mine")
    backbones.load.cache_clear()
    refused(main, "run", "--config", tmp_path / "record.json", words=["mail", "is not there", "--task FOLDER"])
    code, out, err = run_command(
        main, "run", "--config", tmp_path / "record.json", "--task", tmp_path / "there" / "mail", "--backbone",
        tmp_path / "there" / "mine",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "equal to its record"


def test_the_same_weights_in_other_files_are_the_same_model(mail, tmp_path, monkeypatch):
    """For example, training used the folder of a mirror, and this machine has the model in the hub's cache."""
    model = make_backbone(tmp_path / "mirror" / "someone" / "model")
    monkeypatch.setenv("LOPT_MODEL_DIR", str(tmp_path / "mirror"))
    record = train_prompt(mail, "someone/model", tmp_path / "prompt")
    assert record.config["model_revision"].startswith("sha256:")
    before = predict(tmp_path / "prompt")
    accuracy = load_prompt(tmp_path / "prompt").evaluate().accuracy
    monkeypatch.delenv("LOPT_MODEL_DIR")
    commit = tmp_path / "hub" / "models--someone--model" / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    commit.parent.mkdir(parents=True)
    model.rename(commit)
    (commit / "notes.txt").write_text("an additional file")
    backbones.load.cache_clear()
    _names._read_facts.cache_clear()
    assert predict(tmp_path / "prompt", "--backbone", commit) == before
    other = make_model("llama")
    with torch.no_grad():
        other.model.layers[1].mlp.down_proj.weight.mul_(1.01)
    other.save_pretrained(commit)
    backbones.load.cache_clear()
    line = refused(main, "predict", "--prompt", tmp_path / "prompt", "--text", INPUT, "--backbone", commit)
    assert "its revision here is" in line
    assert accuracy == record.test_accuracy


def test_a_fingerprint_depends_on_the_weights_and_the_tokenizer_alone(tmp_path):
    original = backbones.load(str(make_backbone(tmp_path / "original")), "fp32")
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    (tmp_path / "copy" / "more.json").write_text("{}")
    copy = backbones.load(str(tmp_path / "copy"), "fp32")
    assert original.revision != copy.revision
    assert model_fingerprint(original) == model_fingerprint(copy)
    assert model_fingerprint(original) != model_fingerprint(backbones.load(str(tmp_path / "copy"), "fp64"))
    copy.tokenizer.add_tokens(["brown fox"])
    assert model_fingerprint(original) != model_fingerprint(copy)
