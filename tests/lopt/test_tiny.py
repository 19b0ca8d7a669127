"""The tiny model can check any task, with any label words and any number of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopt import backbones, load_prompt, tasks, train
from lopt.config import TrialConfig
from lopt.tasks import Task
from sweeps.run import main
from tests.bad_input import fixed, refused, run_command

CLASS_COUNT = 30


@pytest.fixture(scope="module")
def tiny():
    return backbones.load("tiny", "fp32")


@pytest.fixture
def intents(tmp_path):
    """Return the folder of a task with thirty classes whose label words all begin with the same byte."""
    folder = tmp_path / "intents"
    folder.mkdir()
    classes = [f"intent {i}" for i in range(CLASS_COUNT)]
    words = [f" intent{i}" for i in range(CLASS_COUNT)]
    (folder / "task.toml").write_text(
        f'columns = ["text"]\nclasses = {json.dumps(classes)}\ntemplate = "{{text}} It was"\n'
        f'label_words = {json.dumps(words)}\ntrain = "train.csv"\nreport = "test.csv"\n'
    )
    for split, rows_per_class in (("train", 20), ("test", 2)):
        rows = "".join(f"text {i} {n},intent {i}\n" for n in range(rows_per_class) for i in range(CLASS_COUNT))
        (folder / f"{split}.csv").write_text(f"text,label\n{rows}")
    return folder


NOT_IN_TINY = ("stsb", "winogrande")  # number words


def test_label_words_of_the_built_in_tasks_keep_their_tokens(tiny):
    all_tasks = [tasks.get(name) for name in tasks.names() if name not in NOT_IN_TINY]
    words = {word for task in all_tasks for word in task.label_words}
    for word in words:
        assert len(tiny.tokenizer(word, add_special_tokens=False)["input_ids"]) == 1
    assert tiny.label_ids((" bad", " great")).tolist() == [259, 260]
    assert tiny.label_ids(("a", "bad")).tolist() == [
        tiny.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("a", "bad")
    ]


@fixed(60)
@given(words=st.lists(st.text(min_size=1, max_size=5).filter(str.strip), min_size=2, max_size=250, unique=True))
def test_any_label_words_can_be_told_apart(words):
    tiny = backbones.load("tiny", "fp32")
    words = [f" {word}" for word in words]
    try:
        Task(name="t", title="t", columns=("a",), classes=tuple(map(str, range(len(words)))), template="{a}",
             label_words=(), cut_column="a").check_verbalizer("{a}", tuple(words))  # fmt: skip
    except ValueError:
        return
    ids = tiny.label_ids(words).tolist()
    assert len(set(ids)) == len(words)
    assert 0 < min(ids) <= max(ids) < len(tiny.tokenizer)
    assert tiny.label_ids(words).tolist() == ids
    for word, label_id in zip(words, ids, strict=True):
        word_ids = tiny.tokenizer(word, add_special_tokens=False)["input_ids"]
        assert len(word_ids) > 1 or label_id == word_ids[0]


def test_more_words_than_tokens_are_refused_in_one_line(tiny):
    with pytest.raises(
        ValueError, match="268 tokens for label words, but there are 300 label words: give another backbone"
    ) as error:
        tiny.label_ids([f" w{i}" for i in range(300)])
    assert "\n" not in str(error.value)


def test_a_task_of_thirty_classes_passes_the_smoke_check(intents, tmp_path):
    code, out, err = run_command(
        main, "--space", "smoke", "--set", f"task={intents}", "--set", "trials=1", "--local-mode", "--out", tmp_path
    )
    assert (code, err) == (0, "")
    assert "0 failed" in out


def test_a_prompt_of_a_task_with_thirty_classes_predicts_one_of_them(intents, tmp_path):
    config = TrialConfig(
        method="prompt_tuning", task=str(intents), backbone="tiny", length=2, max_steps=2, eval_every=2,
        precision="fp32", options={"init": "label_words"},
    )  # fmt: skip
    record = train(config, artifact=tmp_path / "prompt")
    prompt = load_prompt(tmp_path / "prompt")
    assert prompt.evaluate().accuracy == record.test_accuracy
    (answer,) = prompt.predict(["text 3"])
    assert len(answer.probabilities) == CLASS_COUNT
    assert answer.label in answer.probabilities


def test_a_long_template_passes_the_smoke_check_on_the_long_model(intents, tmp_path):
    classes = ", ".join(f"intent {i}" for i in range(CLASS_COUNT))
    template = f"template=One of {classes}, and no other. {{text}} It was"
    argv = ["--space", "smoke", "--set", f"task={intents}", "--set", "trials=1", "--local-mode", "--out", tmp_path]
    error_line = run_command(main, *argv, "--set", template)[2]
    assert "leaves no room" in error_line
    assert run_command(main, *argv, "--set", template, "--set", "backbone=tiny-long", "--name", "long")[0] == 0
    short, long = (backbones.load(name, "fp32") for name in ("tiny", "tiny-long"))
    assert short.checksum() == long.checksum()
    assert (short.window, long.window) == (256, 2048)


def test_the_users_own_model_can_be_checked_too(intents, tmp_path):
    from tests.tiny_models import make_model, make_tokenizer

    make_model("gpt2").save_pretrained(tmp_path / "my-model")
    make_tokenizer("gpt2").save_pretrained(tmp_path / "my-model")
    argv = ["--space", "smoke", "--set", f"backbone={tmp_path / 'my-model'}", "--set", "trials=1", "--local-mode"]
    assert run_command(main, *argv, "--out", tmp_path)[0] == 0
    code, _, err = run_command(main, *argv, "--set", f"task={intents}", "--name", "other", "--out", tmp_path)
    assert code == 2
    assert "share their first token" in err
    assert err.count("intent") < 10, "the message lists some of the thirty words only"


def test_many_label_words_are_shortened_in_messages(intents, tmp_path):
    for words in ("a,b", ",".join([" x"] * CLASS_COUNT)):
        line = refused(main, "--space", "smoke", "--set", f"task={intents}", "--set", f"label_words={words}")
        assert len(line) < 400
