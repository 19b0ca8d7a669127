from __future__ import annotations

import itertools

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lopt import backbones, data, tasks
from lopt.batches import collate, evaluation_batches, training_batches
from lopt.data import prepare
from lopt.encoding import Example, encode, encode_all
from lopt.examples import load_split
from lopt.parts import few, halve, hold_out, stratified
from lopt.tasks import movie_snippets


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror of SST-2 with a few rows; `write(columns)` replaces its training split."""
    monkeypatch.setenv("LOPT_DATA_DIR", str(tmp_path))
    (tmp_path / "sst2").mkdir()

    def write(split="train", **columns):
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "sst2" / f"{split}.parquet")
        data._load.cache_clear()

    for split, count in (("train", 40), ("validation", 10)):
        write(split, sentence=[f"film {i} " for i in range(count)], label=[i % 2 for i in range(count)])
    return write


def test_reads_a_mirror(mirror):
    examples = load_split(tasks.get("sst2"), "train")
    assert len(examples) == 40
    assert examples[3] == Example(id=3, fields={"sentence": "film 3"}, label=1)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"text": ["a"], "label": [0]}, ["no column 'sentence'", "text, label"]),
        ({"sentence": ["a"]}, ["no column 'label'"]),
        ({"sentence": ["a", "b"], "label": [0, 2]}, ["row 1", "label is 2", "0 to 1", "negative, positive"]),
        ({"sentence": ["a", "b"], "label": [0, -1]}, ["row 1", "label is -1"]),
        ({"sentence": ["a", "b"], "label": [0, None]}, ["row 1", "label is None"]),
        ({"sentence": ["a", " "], "label": [0, 1]}, ["row 1", "sentence is ' '", "take the row out"]),
        ({"sentence": ["a", None], "label": [0, 1]}, ["row 1", "sentence is None"]),
    ],
)
def test_bad_rows_are_named(mirror, columns, words):
    mirror(**columns)
    with pytest.raises(ValueError) as caught:
        load_split(tasks.get("sst2"), "train")
    assert "train.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_class_is_named_or_numbered(mirror):
    mirror(sentence=["a", "b"], label=["positive", " negative "])
    assert [e.label for e in load_split(tasks.get("sst2"), "train")] == [1, 0]
    mirror(sentence=["a", "b"], label=["1", "0"])
    assert [e.label for e in load_split(tasks.get("sst2"), "train")] == [1, 0]
    mirror(sentence=["a", "b"], label=[True, False])
    with pytest.raises(ValueError, match=r"row 0: label is True; valid: 0 to 1 \(negative, positive\)"):
        load_split(tasks.get("sst2"), "train")


def test_missing_folder_file_and_damaged_file(mirror, tmp_path, monkeypatch):
    (tmp_path / "sst2" / "train.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(ValueError, match=r"train\.parquet is not a Parquet file"):
        load_split(tasks.get("sst2"), "train")
    (tmp_path / "ag_news").mkdir()
    with pytest.raises(ValueError, match=r"ag_news/train\.parquet does not exist; LOPT_DATA_DIR holds sst2/"):
        load_split(tasks.get("ag_news"), "train")
    (tmp_path / "ag_news").rmdir()
    with pytest.raises(
        ValueError, match=r"hub data set .*cannot be loaded.*set LOPT_DATA_DIR.*ag_news/train"
    ) as caught:
        load_split(tasks.get("ag_news"), "train")
    assert "\n" not in str(caught.value)
    assert load_split(tasks.get("toy"), "train"), "a task of its own source needs no mirror"
    monkeypatch.setenv("LOPT_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="which is not a folder"):
        load_split(tasks.get("sst2"), "train")


def test_the_revision_follows_the_content(mirror):
    before = data.data_revision("sst2")
    mirror("validation", sentence=["another"] * 10, label=[0, 1] * 5)
    assert data.data_revision("sst2") != before


@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=200), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_stratified_samples_keep_the_shares(labels, share, seed):
    labels = np.array(labels)
    size = max(1, int(share * len(labels)))
    chosen = stratified(labels, size, np.random.RandomState(seed))
    assert len(set(chosen)) == len(chosen) == size
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        assert abs((labels[chosen] == label).sum() - count * size / len(labels)) < 1


def test_held_out_examples_are_a_tenth_and_at_most_5000():
    for total, expected in ((100, 10), (67_349, 5000), (5, 1)):
        train, selection = hold_out(np.arange(total) % 2, seed=42)
        assert len(selection) == expected
        assert sorted([*train, *selection]) == list(range(total))
    again, other = hold_out(np.arange(100) % 2, seed=42)[1], hold_out(np.arange(100) % 2, seed=43)[1]
    assert np.array_equal(again, hold_out(np.arange(100) % 2, seed=42)[1])
    assert not np.array_equal(again, other)


@settings(deadline=None)  # the first call imports torch
@given(count=st.integers(2, 300), seed=st.integers(0, 99))
def test_halves_are_disjoint_whole_and_fixed(count, seed):
    selection, report = halve(count, seed)
    assert len(selection) == count // 2
    assert sorted([*selection, *report]) == list(range(count))
    assert all(np.array_equal(a, b) for a, b in zip(halve(count, seed), (selection, report), strict=True))


@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=100), shots=st.integers(1, 20), seed=st.integers(0, 99))
def test_few_examples_of_each_class(labels, shots, seed):
    labels = np.array(labels)
    chosen = few(labels, shots, np.random.RandomState(seed))
    assert len(set(chosen)) == len(chosen)
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        assert (labels[chosen] == label).sum() == min(shots, count)


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=300), size=st.integers(1, 20), seed=st.integers(0, 99))
def test_an_epoch_of_batches_shows_no_example_twice(lengths, size, seed):
    lengths = np.array(lengths)
    full = min(size, len(lengths))
    an_epoch = len(lengths) // full
    batches = list(itertools.islice(training_batches(lengths, size, seed), 2 * an_epoch))
    for epoch in (batches[:an_epoch], batches[an_epoch:]):
        shown = np.concatenate(epoch)
        assert len(set(shown)) == len(shown) == an_epoch * full
    again = itertools.islice(training_batches(lengths, size, seed), 2 * an_epoch)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


def test_batches_hold_texts_of_about_one_length():
    lengths = np.random.RandomState(0).randint(5, 60, 3200)
    batches = list(itertools.islice(training_batches(lengths, 16, 0), 200))
    padded = sum(lengths[b].max() * len(b) for b in batches)
    assert lengths[np.concatenate(batches)].sum() / padded > 0.95
    means = [lengths[b].mean() for b in batches]
    assert np.corrcoef(means[:-1], means[1:])[0, 1] < 0.2  # their order is random


@given(lengths=st.lists(st.integers(1, 60), min_size=0, max_size=100), size=st.integers(1, 20))
def test_evaluation_shows_every_example_once(lengths, size):
    shown = [i for batch in evaluation_batches(np.array(lengths, dtype=int), size) for i in batch]
    assert sorted(shown) == list(range(len(lengths)))


def test_padding_is_on_the_right():
    backbone, task = backbones.load("tiny", "fp32"), tasks.get("toy")
    examples = [Example(0, {"text": text}, 1) for text in ("warm film", "a")]
    encoded = encode_all(backbone.tokenizer, task, task.template, examples)
    ids_BT, lengths_B, labels_B = collate(encoded, np.array([1, 0]), backbone.pad_id)
    assert ids_BT.shape == (2, len("warm film It was"))
    assert (ids_BT[0, lengths_B[0] :] == backbone.pad_id).all()
    assert (ids_BT[0, : lengths_B[0]] != backbone.pad_id).all()
    assert labels_B.tolist() == [1, 1]


def test_a_long_text_is_cut_and_the_template_is_not():
    backbone, task = backbones.load("tiny", "fp32"), tasks.get("toy")
    whole, cut = encode(backbone.tokenizer, task, task.template, {"text": "abcdefgh"}, most=99)
    assert backbone.tokenizer.decode(whole) == "abcdefgh It was"
    assert not cut
    ids, cut = encode(backbone.tokenizer, task, task.template, {"text": "abcdefgh"}, most=10)  # " It was" is 7 bytes
    assert backbone.tokenizer.decode(ids) == "abc It was"
    assert cut
    with pytest.raises(ValueError, match=r"'\{text\} It was' leaves no room for text in 7 tokens.*raise max_tokens"):
        encode(backbone.tokenizer, task, task.template, {"text": "abcdefgh"}, most=7)
    task = tasks.get("rte")
    pair = {"premise": "abcdefgh", "hypothesis": "a long one"}
    with pytest.raises(ValueError, match=r", with hypothesis in it, leaves no room for premise in 20 tokens"):
        encode(backbone.tokenizer, task, task.causal_template, pair, most=20)


@given(st.text("aé你😀 ", min_size=1, max_size=12).filter(str.strip), st.integers(1, 40))
def test_of_a_text_something_is_read_or_there_is_no_room_for_it(text, most):
    tokenizer, toy = backbones.load("tiny", "fp32").tokenizer, tasks.get("toy")
    text = text.strip()
    try:
        ids, _ = encode(tokenizer, toy, "{text} It was", {"text": text}, most)
    except ValueError:
        assert len(tokenizer(f"{text[0]} It was")["input_ids"]) > most
    else:
        read = tokenizer.decode(ids).removesuffix(" It was")
        assert read
        assert text.startswith(read)


def test_cut_texts_are_counted_and_fit_the_window(tiny, mirror):
    text = "word " * 100
    mirror(sentence=[text, "short"] * 20, label=[0, 1] * 20)
    backbone = backbones.load("tiny", "fp32")
    ready = prepare(tiny.replace(task="sst2", template=None, label_words=None), backbone)
    assert ready.train.truncated + ready.selection.truncated == 20
    assert ready.test.truncated == 0
    assert max(ready.train.lengths) <= backbone.window - tiny.length
    with pytest.raises(ValueError, match="window of tiny is 256"):
        prepare(tiny.replace(length=256), backbone)


def test_subsets_are_stratified_and_the_same_for_every_seed(tiny):
    backbone = backbones.load("tiny", "fp32")
    small = tiny.replace(train_examples=30, selection_examples=10, test_examples=20)
    one, two = (prepare(small.replace(seed=seed), backbone) for seed in (0, 1))
    assert [len(part) for part in (one.train, one.selection, one.test)] == [30, 10, 20]
    assert np.array_equal(one.test.example_ids, two.test.example_ids)
    assert np.bincount(one.test.labels).tolist() == [10, 10]
    assert one.report_size == 120
    assert "a stratified 20 of 120" in one.protocol


def test_few_shots_train_and_select_on_as_many_of_each_class(tiny):
    backbone = backbones.load("tiny", "fp32")
    found = prepare(tiny.replace(shots=5), backbone)
    assert np.bincount(found.train.labels).tolist() == np.bincount(found.selection.labels).tolist() == [5, 5]
    assert not set(found.train.example_ids) & set(found.selection.example_ids)
    assert len(found.test) == 120
    assert "selected on 10 of 40 examples held out of train" in found.protocol
    assert "trained on 10 (5 of each class) training examples" in found.protocol
    again = prepare(tiny.replace(shots=5, seed=3), backbone)
    assert np.array_equal(again.train.example_ids, found.train.example_ids)
    other = prepare(tiny.replace(shots=5, data_seed=3), backbone)
    assert not np.array_equal(other.train.example_ids, found.train.example_ids)
    said = prepare(tiny.replace(shots=5, selection_examples=30), backbone)
    assert np.bincount(said.selection.labels).tolist() == [15, 15]
    assert np.array_equal(said.train.example_ids, found.train.example_ids)


def test_a_halved_validation_split_selects_on_one_half_and_reports_on_the_other(tiny):
    found = prepare(tiny.replace(holdout="validation"), backbones.load("tiny", "fp32"))
    assert [len(part) for part in (found.train, found.selection, found.test)] == [400, 60, 60]
    assert sorted([*found.selection.example_ids, *found.test.example_ids]) == list(range(120))
    assert found.report_size == 60
    assert found.protocol == (
        "selected on 60 of one half of validation (seed 42), trained on 400 of 400 training examples, "
        "reported on the other half of validation"
    )
    cut = prepare(tiny.replace(holdout="validation", test_examples=20), backbones.load("tiny", "fp32"))
    assert set(cut.test.example_ids) <= set(found.test.example_ids)
    assert cut.protocol.endswith("(a stratified 20 of 60)")


def test_the_text_is_cut_to_the_window_less_the_prompt_to_max_tokens_and_to_what_the_method_reads(tiny):
    backbone = backbones.load("tiny", "fp32")
    assert data.most_tokens(tiny, backbone) == backbone.window - tiny.length
    assert data.most_tokens(tiny.replace(max_tokens=50), backbone) == 50
    tuned = tiny.replace(method="fine_tuning", length=None, rank=None, options={})
    assert data.most_tokens(tuned, backbone) == backbone.window
    dept = tiny.replace(method="dept", options={"update_tokens": 30})
    assert data.most_tokens(dept, backbone) == 30
    assert prepare(dept, backbone).train.lengths.max() == 30


def test_training_texts_can_be_left_out_by_length_but_no_others(tiny):
    backbone = backbones.load("tiny", "fp32")
    whole, short = prepare(tiny, backbone), prepare(tiny.replace(train_max_tokens=40), backbone)
    assert 0 < len(short.train) < len(whole.train)
    assert short.train.lengths.max() <= 40
    assert np.array_equal(short.selection.example_ids, whole.selection.example_ids)
    assert len(short.test) == len(whole.test)
    assert "to 40 tokens" in short.protocol
    long = prepare(tiny.replace(train_min_tokens=41), backbone)
    assert long.train.lengths.min() >= 41
    assert len(long.train) + len(short.train) == len(whole.train)
    with pytest.raises(ValueError, match="train_max_tokens 3, but the training texts have"):
        prepare(tiny.replace(train_max_tokens=3), backbone)


def test_movie_snippets_keep_duplicates_together():
    assert movie_snippets.split_of("A  fine Film!") == movie_snippets.split_of("a fine film")
    share = np.mean([movie_snippets.split_of(f"sentence {i}") == "test" for i in range(5000)])
    assert share == pytest.approx(0.2, abs=0.02)
