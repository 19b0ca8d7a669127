"""The benchmark tasks with the real tokenizers and data sets. Each test skips if these are absent.

`golden/templates.txt` shows the inputs of the models. After changing a template, rewrite the file and look at the diff:

    LOPT_REWRITE_GOLDEN=1 python -m pytest tests/lopt/test_tasks.py -k golden; git diff tests/lopt/golden
"""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from lopt import tasks
from lopt.config import TrialConfig
from lopt.data import prepare_data
from lopt.encoding import Example, encode, encode_whole, render
from lopt.examples import load_split

GOLDEN = Path(__file__).parent / "golden" / "templates.txt"
MODELS = {"gpt2": "gpt2", "t5": "t5-base"}
# These rows have the form of the data sets', but are made up, because the licences do not allow copies.
MADE_UP_EXAMPLES = {
    "sst2": {"sentence": "a slow start , but the last half hour is a joy"},
    "ag_news": {
        "text": "Harbour City wins the cup: A late goal settled a dull final on Sunday, its captain's last match."
    },
    "boolq": {
        "question": "can you row from the mill to the sea",
        "passage": "The river Elm is 40 km long. Below the mill it is tidal, and boats can pass to the sea.",
    },
    "rte": {"premise": "Ann Miller opened the new library in May.", "hypothesis": "The library is old."},
    "wic": {
        "word": "bank",
        "sentence1": "We sat on the bank of the river.",
        "sentence2": "She works at a bank in town.",
    },
    "cb": {
        "premise": "A: Do they grow tea here? B: I doubt that anyone does, it is too cold.",
        "hypothesis": "someone grows tea here",
    },
}
SPLIT_SIZES = {  # of the training split and the reported split
    "sst2": (67_349, 872),
    "ag_news": (54_971, 7_600),
    "boolq": (9_427, 3_270),
    "rte": (2_490, 277),
    "wic": (5_428, 638),
    "cb": (250, 56),
}
HALF_SIZES = {"boolq": (1635, 1635), "rte": (138, 139), "wic": (319, 319), "cb": (28, 28)}


@pytest.fixture(scope="module")
def backbones(shared):
    """GPT-2 and T5 with their real tokenizers and vocabularies, and narrow random weights."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

    from lopt.backbones.causal import CausalBackbone
    from lopt.backbones.seq2seq import Seq2SeqBackbone

    gpt2 = GPT2Config(n_embd=8, n_layer=1, n_head=1)
    t5 = T5Config(
        vocab_size=32128,
        d_model=8,
        d_kv=8,
        d_ff=8,
        num_layers=1,
        num_heads=1,
        decoder_start_token_id=0,
        n_positions=512,
    )
    backbones = {}
    for name, backbone_class, model in (
        ("gpt2", CausalBackbone, GPT2LMHeadModel(gpt2)),
        ("t5", Seq2SeqBackbone, T5ForConditionalGeneration(t5)),
    ):
        tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers" / MODELS[name])
        backbones[name] = backbone_class(name, "narrow and random", model, tokenizer)
    return backbones


@pytest.fixture
def real_data(shared, monkeypatch):
    monkeypatch.setenv("LOPT_DATA_DIR", str(shared / "data"))


def default_template(backbones, model, task):
    """Return the task's default template for a model, in the form that the model reads."""
    return backbones[model].fill_template(task.template_for(MODELS[model]))


# --- templates and tokens ---------------------------------------------------------------------------------------------


def golden_text(backbones) -> str:
    """Return the text of `golden/templates.txt`."""
    lines = [
        "What the models are given: each benchmark task's default template on a made-up example, as the tokenizers of",
        "GPT-2 and T5 read it (their signs for a space are Ġ and ▁), and each label word with its id. GPT-2's label is",
        "read after the last token; T5's at the second step of its decoder, which is given <pad> <extra_id_0>.",
        "After a change of a template, rewrite this file and look at what changed:",
        "    LOPT_REWRITE_GOLDEN=1 python -m pytest tests/lopt/test_tasks.py -k golden; git diff tests/lopt/golden",
    ]
    for name, fields in MADE_UP_EXAMPLES.items():
        task = tasks.get(name)
        lines += ["", "", f"{task.title} ({name}): {', '.join(task.classes)}"]
        lines += [f"    {column}: {text}" for column, text in fields.items()]
        for model, backbone in backbones.items():
            template = default_template(backbones, model, task)
            token_ids = encode_whole(backbone.tokenizer, task, template, [Example(0, fields, 0)]).token_ids[0]
            label_ids = backbone.label_ids(task.label_words).tolist()
            words = "   ".join(f"{word!r} {i}" for word, i in zip(task.label_words, label_ids, strict=True))
            for title, text in (
                ("text", render(task, template, fields)[0]),
                ("tokens", " ".join(backbone.tokenizer.convert_ids_to_tokens(token_ids))),
                ("ids", " ".join(map(str, token_ids))),
                ("words", words),
            ):
                head = f"  {model if title == 'text' else '':<6}{title:<8}"
                lines += textwrap.wrap(
                    text, 120, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
                )
    return "\n".join(lines) + "\n"


def test_golden_templates_tokens_and_label_words(backbones):
    text = golden_text(backbones)
    if os.environ.get("LOPT_REWRITE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text, encoding="utf-8")
        pytest.skip(f"{GOLDEN.name} was written, not compared: see git diff")
    assert text.splitlines() == GOLDEN.read_text(encoding="utf-8").splitlines()


def test_made_up_examples_are_not_in_the_data_sets(real_data):
    for name, fields in MADE_UP_EXAMPLES.items():
        task = tasks.get(name)
        for split in (task.train, task.report):
            real_texts = {example.text_by_column[task.cut_column].lower() for example in load_split(task, split)}
            assert fields[task.cut_column].lower() not in real_texts, name


@pytest.mark.parametrize(
    ("model", "ids"),
    [
        ("gpt2", {" negative": 4633, " positive": 3967, " politics": 4819, " sports": 5701, " business": 1597,
                  " technology": 3037, " yes": 3763, " no": 645, " maybe": 3863}),
        ("t5", {" yes": 4273, " no": 150, " maybe": 2087, " negative": 2841, " positive": 1465}),
    ],
)  # fmt: skip
def test_label_words_are_the_papers_tokens(backbones, model, ids):
    tokenizer = backbones[model].tokenizer
    token_ids = {word: tokenizer(word, add_special_tokens=False)["input_ids"] for word in ids}
    assert token_ids == {word: [i] for word, i in ids.items()}
    assert backbones[model].label_ids(list(ids)).tolist() == list(ids.values())


def test_gpt2_reads_a_word_with_its_leading_space_as_another_token(backbones):
    tokenizer = backbones["gpt2"].tokenizer
    for word in {word for name in SPLIT_SIZES for word in tasks.get(name).label_words}:
        assert word.startswith(" ")
        assert tokenizer(word)["input_ids"][0] != tokenizer(word.strip())["input_ids"][0]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", SPLIT_SIZES)
def test_label_words_are_different_single_tokens(backbones, model, name):
    words = tasks.get(name).label_words
    assert len(set(backbones[model].label_ids(words).tolist())) == len(words)
    ids_of_words = backbones[model].tokenizer(list(words), add_special_tokens=False)["input_ids"]
    assert {len(ids) for ids in ids_of_words} == {1}


def test_words_that_share_their_first_token_are_refused(backbones):
    with pytest.raises(ValueError, match=r"share their first token for t5 \(.*' nope': \d+.*choose words that differ"):
        backbones["t5"].label_ids([" nope", " nopeless"])


@pytest.mark.parametrize("name", SPLIT_SIZES)
def test_t5s_sentinel_marks_the_label_position_and_begins_the_decoders_input(backbones, name):
    task, backbone = tasks.get(name), backbones["t5"]
    sentinel = backbone.tokenizer.get_vocab()["<extra_id_0>"]
    assert sentinel == 32099
    assert backbone._decoder_ids(2).tolist() == [[0, sentinel]] * 2
    template = default_template(backbones, "t5", task)
    ids = encode_whole(backbone.tokenizer, task, template, [Example(0, MADE_UP_EXAMPLES[name], 0)]).token_ids[0]
    assert ids.count(sentinel) == 1
    assert ids[-2:] == (sentinel, backbone.tokenizer.eos_token_id)


@pytest.mark.parametrize("name", SPLIT_SIZES)
def test_gpt2s_label_word_brings_its_own_space_after_the_template(backbones, name):
    task, backbone = tasks.get(name), backbones["gpt2"]
    template = default_template(backbones, "gpt2", task)
    assert "{mask}" not in template and template == template.rstrip()
    text = render(task, template, MADE_UP_EXAMPLES[name])[0]
    ids = backbone.tokenizer(text)["input_ids"]
    for word in task.label_words:
        assert backbone.tokenizer(text + word)["input_ids"] == [*ids, *backbone.tokenizer(word)["input_ids"]]


# --- real data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPLIT_SIZES)
def test_data_sets_load_completely(name, real_data):
    task = tasks.get(name)
    train, reported = load_split(task, task.train), load_split(task, task.report)
    assert (len(train), len(reported)) == SPLIT_SIZES[name]
    assert len(reported) == task.report_size
    for examples in (train, reported):
        assert {example.class_number for example in examples} == set(range(len(task.classes)))
        assert [example.id for example in examples] == list(range(len(examples)))
        assert all(example.text_by_column.keys() == set(task.columns) for example in examples)


@pytest.mark.parametrize(
    ("name", "counts"),
    [("sst2", [428, 444]), ("boolq", [1237, 2033]), ("rte", [146, 131]), ("wic", [319, 319]), ("cb", [23, 28, 5])],
)
def test_the_classes_of_the_reported_splits_have_their_known_sizes(name, counts, real_data):
    task = tasks.get(name)
    assert np.bincount([example.class_number for example in load_split(task, task.report)]).tolist() == counts


def trial(name, **changes):
    return TrialConfig(
        **{
            "method": "lopt1",
            "task": name,
            "backbone": "gpt2",
            "length": 20,
            "rank": 5,
            "train_examples": 50,
            **changes,
        }
    )


@pytest.mark.parametrize("name", HALF_SIZES)
def test_halves_of_validation_are_the_same_as_in_the_quoted_papers(name, backbones, real_data):
    data = prepare_data(trial(name, holdout="validation"), backbones["gpt2"])
    order = torch.randperm(SPLIT_SIZES[name][1], generator=torch.Generator().manual_seed(42)).tolist()
    half = SPLIT_SIZES[name][1] // 2
    assert sorted(data.selection.example_ids) == sorted(order[:half])
    assert sorted(data.test.example_ids) == sorted(order[half:])
    assert (len(data.selection), len(data.test)) == HALF_SIZES[name]
    assert data.report_split_size == HALF_SIZES[name][1]
    assert not set(data.selection.example_ids) & set(data.test.example_ids)
    assert "selected on" in data.protocol and "of one half of validation (seed 42)" in data.protocol
    assert data.protocol.endswith("reported on the other half of validation")


def test_a_class_with_fewer_examples_than_shots_gives_all_of_them_and_the_protocol_says_so(backbones, real_data):
    settings = {"train_examples": None, "holdout": "validation"}
    data = prepare_data(trial("cb", shots=20, **settings), backbones["gpt2"])
    assert np.bincount(data.train.labels).tolist() == [20, 20, 16]
    assert "trained on 56 (20 of each class; only 16 of neutral) training examples" in data.protocol

    all_selection = prepare_data(trial("cb", **settings), backbones["gpt2"]).selection
    few = prepare_data(trial("cb", shots=4, **settings), backbones["gpt2"])
    assert np.bincount(few.train.labels).tolist() == [4, 4, 4]
    assert "trained on 12 (4 of each class) training examples" in few.protocol
    expected = np.minimum(4, np.bincount(all_selection.labels, minlength=3))
    assert np.bincount(few.selection.labels, minlength=3).tolist() == expected.tolist()
    assert set(few.selection.example_ids) <= set(all_selection.example_ids)
    assert f"selected on {expected.sum()} of one half of validation" in few.protocol

    # Selection examples that are held out of the training split are missing for training.
    with_hold_out = prepare_data(trial("cb", train_examples=None, shots=16), backbones["gpt2"])
    neutral = np.bincount(with_hold_out.train.labels)[2]
    assert neutral < 16
    assert f"only {neutral} of neutral)" in with_hold_out.protocol


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("name", "most"), [("boolq", 64), ("rte", 64), ("cb", 96), ("wic", 64)])
def test_a_long_input_loses_only_the_end_of_its_passage(name, most, model, backbones, real_data):
    task, backbone = tasks.get(name), backbones[model]
    tokenizer, template = backbone.tokenizer, default_template(backbones, model, task)
    examples = load_split(task, task.report)[:600]
    cut_count = 0
    for example in examples:
        text, (start, end) = render(task, template, example.text_by_column)
        whole = tokenizer(text, return_offsets_mapping=True)
        pairs = list(zip(whole["input_ids"], whole["offset_mapping"], strict=True))
        before = [i for i, (first, stop) in pairs if first < stop <= start]
        after = [i for i, (first, stop) in pairs if first >= end or first == stop]
        ids, cut = encode(tokenizer, task, template, example.text_by_column, most)
        ids, cut_count = list(ids), cut_count + cut
        assert cut == (len(whole["input_ids"]) > most)
        if not cut:
            assert ids == whole["input_ids"]
            continue
        assert most - 12 <= len(ids) <= most, "no more is cut than necessary"
        assert ids[: len(before)] == before
        assert ids[len(ids) - len(after) :] == after
        passage = tokenizer.decode(whole["input_ids"][len(before) : len(whole["input_ids"]) - len(after)])
        remaining = tokenizer.decode(ids[len(before) : len(ids) - len(after)])
        assert remaining and passage.startswith(remaining)
        if model == "gpt2":  # GPT-2's tokens are bytes, so decoding gives the text itself
            cut_text = tokenizer.decode(ids)
            assert text.startswith(cut_text[: len(cut_text) - (len(text) - end)])
            assert cut_text.endswith(text[end:])
        else:
            assert tokenizer.convert_ids_to_tokens(ids)[-2:] == ["<extra_id_0>", "</s>"]
    assert cut_count > (100 if name in ("boolq", "rte") else 0)


@pytest.mark.parametrize("model", MODELS)
def test_the_cut_inputs_of_a_trial_are_counted(model, backbones, real_data):
    sizes = {"selection_examples": 50, "test_examples": 200}
    config = trial("boolq", backbone=MODELS[model], max_tokens=64, holdout="validation", **sizes)
    data = prepare_data(config, backbones[model])
    for part in (data.train, data.selection, data.test):
        assert part.token_counts.max() <= 64
    assert data.test.truncated_count > len(data.test) / 2
    uncut = prepare_data(config.replace(max_tokens=None), backbones[model])
    assert uncut.test.token_counts.max() <= backbones[model].window - 20
    assert uncut.test.truncated_count < 5
