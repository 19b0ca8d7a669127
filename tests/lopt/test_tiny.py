"""The tiny model checks any task: whatever its label words, and however many."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopt import backbones, load_prompt, tasks, train
from lopt.config import TrialConfig
from lopt.tasks import Task
from sweeps.run import main
from tests.bad_input import called, fixed, refused

COUNT = 30


@pytest.fixture(scope="module")
def tiny():
    return backbones.load("tiny", "fp32")


@pytest.fixture
def intents(tmp_path):
    """A folder of thirty classes whose words all begin with the same byte."""
    folder = tmp_path / "intents"
    folder.mkdir()
    names = [f"intent {i}" for i in range(COUNT)]
    (folder / "task.toml").write_text(
        f'columns = ["text"]\nclasses = {json.dumps(names)}\ntemplate = "{{text}} It was"\n'
        f'label_words = {json.dumps([f" intent{i}" for i in range(COUNT)])}\ntrain = "train.csv"\nreport = "test.csv"\n'
    )
    for file, each in (("train", 20), ("test", 2)):
        rows = "".join(f"text {i} {n},intent {i}\n" for n in range(each) for i in range(COUNT))
        (folder / f"{file}.csv").write_text(f"text,label\n{rows}")
    return folder


def test_words_of_the_built_in_tasks_have_the_tokens_that_they_had(tiny):
    words = {word for name in tasks.names() for word in tasks.get(name).label_words}
    for word in words:
        assert len(tiny.tokenizer(word, add_special_tokens=False)["input_ids"]) == 1
    assert tiny.label_ids((" bad", " great")).tolist() == [259, 260]
    assert tiny.label_ids(("a", "bad")).tolist() == [
        tiny.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("a", "bad")
    ]


@fixed(60)
@given(words=st.lists(st.text(min_size=1, max_size=5).filter(str.strip), min_size=2, max_size=250, unique=True))
def test_any_words_are_told_apart(words):
    tiny = backbones.load("tiny", "fp32")
    words = [f" {word}" for word in words]
    try:
        Task(name="t", title="t", columns=("a",), classes=tuple(map(str, range(len(words)))), template="{a}",
             label_words=(), cut="a").check_verbalizer("{a}", tuple(words))  # fmt: skip
    except ValueError:
        return
    ids = tiny.label_ids(words).tolist()
    assert len(set(ids)) == len(words)
    assert 0 < min(ids) <= max(ids) < len(tiny.tokenizer)
    assert tiny.label_ids(words).tolist() == ids
    for word, found in zip(words, ids, strict=True):
        pieces = tiny.tokenizer(word, add_special_tokens=False)["input_ids"]
        assert len(pieces) > 1 or found == pieces[0]


def test_more_words_than_tokens_is_one_line(tiny):
    with pytest.raises(ValueError, match="268 tokens for label words, and there are 300: give another one") as caught:
        tiny.label_ids([f" w{i}" for i in range(300)])
    assert "\n" not in str(caught.value)


def test_a_task_of_thirty_classes_passes_the_smoke_check(intents, tmp_path):
    code, out, err = called(
        main, "--space", "smoke", "--set", f"task={intents}", "--set", "trials=1", "--local-mode", "--out", tmp_path
    )
    assert (code, err) == (0, "")
    assert "0 failed" in out


def test_its_prompt_predicts_one_of_the_classes(intents, tmp_path):
    config = TrialConfig(
        method="prompt_tuning", task=str(intents), backbone="tiny", length=2, max_steps=2, eval_every=2,
        precision="fp32", options={"init": "label_words"},
    )  # fmt: skip
    record = train(config, artifact=tmp_path / "prompt")
    prompt = load_prompt(tmp_path / "prompt")
    assert prompt.evaluate().accuracy == record.test_accuracy
    (answer,) = prompt.predict(["text 3"])
    assert len(answer.probabilities) == COUNT
    assert answer.label in answer.probabilities


def test_a_long_template_passes_the_smoke_check_on_the_long_model(intents, tmp_path):
    classes = ", ".join(f"intent {i}" for i in range(COUNT))
    template = f"template=One of {classes}, and no other. {{text}} It was"
    argv = ["--space", "smoke", "--set", f"task={intents}", "--set", "trials=1", "--local-mode", "--out", tmp_path]
    refused_line = called(main, *argv, "--set", template)[2]
    assert "leaves no room" in refused_line
    assert called(main, *argv, "--set", template, "--set", "backbone=tiny-long", "--name", "long")[0] == 0
    short, long = (backbones.load(name, "fp32") for name in ("tiny", "tiny-long"))
    assert short.checksum() == long.checksum()
    assert (short.window, long.window) == (256, 2048)


def test_the_users_own_model_can_be_checked_too(intents, tmp_path):
    from tests.tiny_models import make_model, make_tokenizer

    make_model("gpt2").save_pretrained(tmp_path / "mine")
    make_tokenizer("gpt2").save_pretrained(tmp_path / "mine")
    argv = ["--space", "smoke", "--set", f"backbone={tmp_path / 'mine'}", "--set", "trials=1", "--local-mode"]
    assert called(main, *argv, "--out", tmp_path)[0] == 0
    code, _, err = called(main, *argv, "--set", f"task={intents}", "--name", "other", "--out", tmp_path)
    assert code == 2
    assert "share their first token" in err
    assert err.count("intent") < 10, "of thirty words some are shown"


def test_many_label_words_are_shortened_in_messages(intents, tmp_path):
    for words in ("a,b", ",".join([" x"] * COUNT)):
        line = refused(main, "--space", "smoke", "--set", f"task={intents}", "--set", f"label_words={words}")
        assert len(line) < 400
