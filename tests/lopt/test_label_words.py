"""What is said of label words: which token is scored, and which form running text has."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lopt import backbones, data, tasks, train
from lopt.backbones.causal import CausalBackbone
from lopt.label_words import notes, tokenizer_at_hand
from lopt.tasks import Task
from sweeps.run import main
from tests.bad_input import called
from tests.lopt.test_folder_task import ROWS, write_rows, write_toml
from tests.tiny_models import make_model, make_tokenizer

MEANT = "{text} It was"


def with_blanks():
    """Words as GPT-2 has them, where a blank belongs to the word that follows."""
    pieces = ["Ġgreat", "great", "Ġbad", "bad", "Ġnot", "not"]
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for piece in pieces:
        for end in range(2, len(piece) + 1):
            if piece[:end] not in vocabulary:
                vocabulary[piece[:end]] = len(vocabulary)
                merges.append((piece[: end - 1], piece[end - 1]))
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def sentencepiece():
    """Words as Llama 2 has them: a blank is put before every text, so that one in front of a word is one too many."""
    vocabulary = {"<unk>": 0, "▁": 1}
    for letter in "abcdefghijklmnopqrstuvwxyzIT. ":
        vocabulary.setdefault(letter, len(vocabulary))
    merges = []
    for piece in ("▁great", "▁bad", "▁was", "▁It"):
        for end in range(2, len(piece) + 1):
            if piece[:end] not in vocabulary:
                vocabulary[piece[:end]] = len(vocabulary)
                merges.append((piece[: end - 1], piece[end - 1]))
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return made


# --- which token is scored -------------------------------------------------------------------------------------------


def test_a_word_of_several_tokens_is_said_with_the_one_that_is_scored():
    (said,) = notes(with_blanks(), MEANT, (" not great", " bad"))
    assert said == "label words of several tokens are scored by the first alone: ' not great' by ' not'"
    assert notes(with_blanks(), MEANT, (" great", " bad")) == []


def test_of_many_words_the_first_dozen_are_named():
    (said,) = notes(with_blanks(), MEANT, tuple(f" not {i}" for i in range(20)))
    assert said.endswith("' not 11' by ' not' and 8 more")


# --- which form running text has -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "words", "likelier"),
    [
        (MEANT, ("great", "bad"), {"great": " great", "bad": " bad"}),
        (MEANT, (" great", "bad"), {"bad": " bad"}),
        ("{text}", ("great", "bad"), {"great": " great", "bad": " bad"}),
        ("{text} Answer:", ("great", "bad"), {"great": " great", "bad": " bad"}),
        ("{text}\n", (" great", "bad"), {" great": "great"}),
        ("{text} It was ", (" great", " bad"), {" great": "great", " bad": "bad"}),
        (MEANT, (" great", " bad"), {}),
        ("{text} It was ", ("great", "bad"), {}),
        ("{text}\n", ("great", "bad"), {}),
        ('{text} It was "', ("great", "bad"), {}),
        ("{text} (", ("great", "bad"), {}),
        ("{text} <|im_start|>assistant\n", ("great", "bad"), {}),
        ("{text}這是", ("好", "坏"), {}),
        ("{text} It was", (" 好", " 坏"), {}),
    ],
)
def test_a_word_with_or_without_its_blank(template, words, likelier):
    said = [note for note in notes(with_blanks(), template, words) if "likelier" in note]
    forms = ", ".join(f"{form!r} is likelier than {word!r}" for word, form in likelier.items())
    assert said == ([f"as running text goes on after this template, {forms}"] if likelier else [])


def test_a_tokenizer_that_reads_the_blank_in_front_as_a_token():
    made = sentencepiece()
    assert made.encode("x It was great").tokens[-1] == "▁great"
    assert made.encode(" great").tokens == ["▁", "▁great"]
    said = notes(made, MEANT, (" great", "bad"))
    assert said[-1] == "as running text goes on after this template, 'great' is likelier than ' great'"
    assert notes(made, MEANT, ("great", "bad")) == []


def test_words_that_share_a_lone_blank_are_refused_with_the_way_out():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=sentencepiece(), unk_token="<unk>", pad_token="<unk>")
    backbone = CausalBackbone("mine", "test", make_model("llama"), tokenizer)
    with pytest.raises(ValueError, match=r"share their first token .*leave out the blank in front"):
        backbone.label_ids((" great", " bad"))
    assert len(backbone.label_ids(("great", "bad"))) == 2


def test_no_false_alarm_on_the_built_in_tasks(shared):
    folder = shared / "tokenizers"
    real = {name: Tokenizer.from_file(str(folder / name / "tokenizer.json")) for name in ("gpt2", "t5-base")}
    real["tiny"] = make_tokenizer("llama").backend_tokenizer
    if (embedded := tokenizer_at_hand("embedded")) is not None:
        real["embedded"] = embedded
    for name in tasks.names():
        task: Task = tasks.get(name)
        for model, tokenizer in real.items():
            template = task.template if model == "t5-base" else task.causal_template or task.template
            assert notes(tokenizer, template.replace("{mask}", "").rstrip(), task.label_words) == [], (name, model)


# --- where it is shown -----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A folder task and a model beside it, whose label words have faults."""
    made = tmp_path / "tickets"
    made.mkdir()
    write_toml(made, label_words=[" not great", "bad"])
    write_rows(made / "train.csv", ROWS)
    write_rows(made / "test.csv", ROWS[:12])
    make_model("llama").save_pretrained(tmp_path / "model")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=with_blanks(), pad_token="!", eos_token="!")
    tokenizer.save_pretrained(tmp_path / "model")
    return made


SAID = (
    "label words of several tokens are scored by the first alone: ' not great' by ' not'",
    "as running text goes on after this template, ' bad' is likelier than 'bad'",
)


def test_the_record_says_it(folder, tiny):
    record = train(
        tiny.replace(task=str(folder), template=None, label_words=None, backbone=str(folder.parent / "model"))
    )
    assert record.protocol.endswith("; ".join(SAID))


def test_the_plan_says_it_without_network_or_weights(folder):
    (folder.parent / "model" / "model.safetensors").unlink()
    settings = [f"task={folder}", f"backbone={folder.parent / 'model'}"]
    argv = ["--space", "smoke", "--dry-run", *(part for each in settings for part in ("--set", each))]
    code, out, _ = called(main, *argv)
    assert code == 0
    for said in SAID:
        assert f"  note       {said}\n" in out
    _, described, _ = called(main, *argv, "--json")
    assert json.loads(described)["notes"] == list(SAID)


def test_a_plan_says_what_is_missing_of_a_class_and_goes_on_without_rows(folder):
    argv = ["--space", "smoke", "--dry-run", "--set", f"task={folder}"]
    write_rows(folder / "train.csv", [row for row in ROWS if row["queue"] == "money"][:4] + ROWS[:1])
    _, out, _ = called(main, *argv, "--set", "holdout=validation")
    assert "  note       only 4 of money, 1 of errors to train on\n" in out
    data._load.cache_clear()
    (folder / "train.csv").unlink()
    code, out, _ = called(main, *argv)
    assert code == 0
    assert "train.csv does not exist" in out


def test_a_damaged_tokenizer_is_left_to_the_loading_of_the_model(folder):
    (folder.parent / "model" / "tokenizer.json").write_text("{")
    assert tokenizer_at_hand(str(folder.parent / "model")) is None
    assert tokenizer_at_hand("gpt2") is None
    assert backbones.facts("gpt2").width == 768
