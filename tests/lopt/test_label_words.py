"""Notes on label words: which token is scored, and which form running text has."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lopt import backbones, data, tasks, train
from lopt.backbones.causal import CausalBackbone
from lopt.label_words import label_word_notes, local_tokenizer
from lopt.tasks import Task
from sweeps.run import main
from tests.bad_input import run_command
from tests.lopt.test_folder_task import ROWS, write_rows, write_toml
from tests.tiny_models import make_model, make_tokenizer

TEMPLATE = "{text} It was"


def merged_vocabulary(characters, pieces):
    """Return a vocabulary of characters and pieces, and the merges that lead to the pieces."""
    vocabulary = {}
    for character in characters:
        vocabulary.setdefault(character, len(vocabulary))
    merges = []
    for piece in pieces:
        for end in range(2, len(piece) + 1):
            if piece[:end] not in vocabulary:
                vocabulary[piece[:end]] = len(vocabulary)
                merges.append((piece[: end - 1], piece[end - 1]))
    return vocabulary, merges


def byte_level_tokenizer():
    """Return a tokenizer like GPT-2's, where a blank belongs to the word after it."""
    pieces = ["Ġgreat", "great", "Ġbad", "bad", "Ġnot", "not"]
    vocabulary, merges = merged_vocabulary(sorted(pre_tokenizers.ByteLevel.alphabet()), pieces)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentencepiece_tokenizer():
    """Return a tokenizer like Llama 2's, which puts a blank before every text. A label word needs no other blank."""
    characters = ["<unk>", "▁", *"abcdefghijklmnopqrstuvwxyzIT. "]
    vocabulary, merges = merged_vocabulary(characters, ("▁great", "▁bad", "▁was", "▁It"))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


# --- which token is scored --------------------------------------------------------------------------------------------


def test_a_word_of_several_tokens_is_noted_with_the_token_that_is_scored():
    (note,) = label_word_notes(byte_level_tokenizer(), TEMPLATE, (" not great", " bad"))
    assert note == "label words of several tokens are scored by their first token only: ' not great' by ' not'"
    assert label_word_notes(byte_level_tokenizer(), TEMPLATE, (" great", " bad")) == []


def test_only_the_first_dozen_words_are_named():
    (note,) = label_word_notes(byte_level_tokenizer(), TEMPLATE, tuple(f" not {i}" for i in range(20)))
    assert note.endswith("' not 11' by ' not' and 8 more")


# --- which form running text has --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "words", "likelier"),
    [
        (TEMPLATE, ("great", "bad"), {"great": " great", "bad": " bad"}),
        (TEMPLATE, (" great", "bad"), {"bad": " bad"}),
        ("{text}", ("great", "bad"), {"great": " great", "bad": " bad"}),
        ("{text} Answer:", ("great", "bad"), {"great": " great", "bad": " bad"}),
        ("{text}\n", (" great", "bad"), {" great": "great"}),
        ("{text} It was ", (" great", " bad"), {" great": "great", " bad": "bad"}),
        (TEMPLATE, (" great", " bad"), {}),
        ("{text} It was ", ("great", "bad"), {}),
        ("{text}\n", ("great", "bad"), {}),
        ('{text} It was "', ("great", "bad"), {}),
        ("{text} (", ("great", "bad"), {}),
        ("{text} <|im_start|>assistant\n", ("great", "bad"), {}),
        ("{text}這是", ("好", "坏"), {}),
        ("{text} It was", (" 好", " 坏"), {}),
    ],
)
def test_a_word_is_noted_if_running_text_has_its_other_form(template, words, likelier):
    form_notes = [note for note in label_word_notes(byte_level_tokenizer(), template, words) if "rather than" in note]
    forms = ", ".join(f"{form!r} rather than {word!r}" for word, form in likelier.items())
    assert form_notes == ([f"after this template, text normally goes on with {forms}"] if likelier else [])


def test_a_word_is_noted_if_its_leading_blank_would_be_a_token_of_its_own():
    tokenizer = sentencepiece_tokenizer()
    assert tokenizer.encode("x It was great").tokens[-1] == "▁great"
    assert tokenizer.encode(" great").tokens == ["▁", "▁great"]
    last_note = label_word_notes(tokenizer, TEMPLATE, (" great", "bad"))[-1]
    assert last_note == "after this template, text normally goes on with 'great' rather than ' great'"
    assert label_word_notes(tokenizer, TEMPLATE, ("great", "bad")) == []


def test_words_whose_first_token_is_the_same_blank_are_refused_with_a_remedy():
    special_tokens = {"unk_token": "<unk>", "pad_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=sentencepiece_tokenizer(), **special_tokens)
    backbone = CausalBackbone("model", "test", make_model("llama"), tokenizer)
    with pytest.raises(ValueError, match=r"share their first token .*leave out the leading space"):
        backbone.label_ids((" great", " bad"))
    assert len(backbone.label_ids(("great", "bad"))) == 2


def test_the_built_in_tasks_have_no_notes(shared):
    folder = shared / "tokenizers"
    tokenizers = {name: Tokenizer.from_file(str(folder / name / "tokenizer.json")) for name in ("gpt2", "t5-base")}
    tokenizers["tiny"] = make_tokenizer("llama").backend_tokenizer
    if (embedded := local_tokenizer("embedded")) is not None:
        tokenizers["embedded"] = embedded
    for name in tasks.names():
        task: Task = tasks.get(name)
        for model, tokenizer in tokenizers.items():
            if model == "tiny" and name in ("stsb", "winogrande"):
                continue  # it has no tokens for number words
            template = task.template if model == "t5-base" else task.causal_template or task.template
            filled_template = template.replace("{mask}", "").rstrip()
            assert label_word_notes(tokenizer, filled_template, task.label_words) == [], (name, model)


# --- where the notes are shown ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A task folder whose label words have faults for the model beside it."""
    task_folder = tmp_path / "tickets"
    task_folder.mkdir()
    write_toml(task_folder, label_words=[" not great", "bad"])
    write_rows(task_folder / "train.csv", ROWS)
    write_rows(task_folder / "test.csv", ROWS[:12])
    make_model("llama").save_pretrained(tmp_path / "model")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level_tokenizer(), pad_token="!", eos_token="!")
    tokenizer.save_pretrained(tmp_path / "model")
    return task_folder


EXPECTED_NOTES = (
    "label words of several tokens are scored by their first token only: ' not great' by ' not'",
    "after this template, text normally goes on with ' bad' rather than 'bad'",
)


def test_the_protocol_of_a_record_ends_with_the_notes(folder, tiny):
    record = train(
        tiny.replace(task=str(folder), template=None, label_words=None, backbone=str(folder.parent / "model"))
    )
    assert record.protocol.endswith("; ".join(EXPECTED_NOTES))


def test_a_plan_shows_the_notes_without_network_or_weights(folder):
    (folder.parent / "model" / "model.safetensors").unlink()
    settings = [f"task={folder}", f"backbone={folder.parent / 'model'}"]
    argv = ["--space", "smoke", "--dry-run", *(word for setting in settings for word in ("--set", setting))]
    code, out, _ = run_command(main, *argv)
    assert code == 0
    for note in EXPECTED_NOTES:
        assert f"  note       {note}\n" in out
    _, plan_json, _ = run_command(main, *argv, "--json")
    assert json.loads(plan_json)["notes"] == list(EXPECTED_NOTES)


def test_a_plan_notes_classes_with_few_rows_and_needs_no_rows(folder):
    argv = ["--space", "smoke", "--dry-run", "--set", f"task={folder}"]
    write_rows(folder / "train.csv", [row for row in ROWS if row["queue"] == "money"][:4] + ROWS[:1])
    _, out, _ = run_command(main, *argv, "--set", "holdout=validation")
    assert "  note       there are few rows of some classes to train on: 4 of money, 1 of errors\n" in out
    data._load_splits.cache_clear()
    (folder / "train.csv").unlink()
    code, out, _ = run_command(main, *argv)
    assert code == 0
    assert "train.csv does not exist" in out


def test_a_damaged_tokenizer_gives_no_note_because_loading_the_model_reports_it(folder):
    (folder.parent / "model" / "tokenizer.json").write_text("{")
    assert local_tokenizer(str(folder.parent / "model")) is None
    assert local_tokenizer("gpt2") is None
    assert backbones.facts("gpt2").width == 768
