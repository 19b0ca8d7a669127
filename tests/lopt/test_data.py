"""Data of a trial: reading rows, drawing parts, batches, and cutting long texts."""

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
from lopt.data import prepare_data
from lopt.encoding import Example, encode, encode_whole
from lopt.examples import load_split
from lopt.sampling import SampledTargets, few_shot_sample, halve, hold_out, stratified_sample
from lopt.tasks import movie_snippets


@pytest.fixture
def write_split(tmp_path, monkeypatch):
    """A function that replaces a split of a mirror of SST-2, which at first has a few rows."""
    monkeypatch.setenv("LOPT_DATA_DIR", str(tmp_path))
    (tmp_path / "sst2").mkdir()

    def write(split="train", **columns):
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "sst2" / f"{split}.parquet")
        data._load_splits.cache_clear()

    for split, count in (("train", 40), ("validation", 10)):
        write(split, sentence=[f"film {i} " for i in range(count)], label=[i % 2 for i in range(count)])
    return write


def test_a_mirror_is_read(write_split):
    examples = load_split(tasks.get("sst2"), "train")
    assert len(examples) == 40
    assert examples[3] == Example(id=3, text_by_column={"sentence": "film 3"}, class_number=1)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"text": ["a"], "label": [0]}, ["no column 'sentence'", "text, label"]),
        ({"sentence": ["a"]}, ["no column 'label'"]),
        ({"sentence": ["a", "b"], "label": [0, 2]}, ["row 1", "`label` is 2", "0 to 1", "negative, positive"]),
        ({"sentence": ["a", "b"], "label": [0, -1]}, ["row 1", "`label` is -1"]),
        ({"sentence": ["a", "b"], "label": [0, None]}, ["row 1", "`label` is None"]),
        ({"sentence": ["a", " "], "label": [0, 1]}, ["row 1", "`sentence` is ' '", "remove the row"]),
        ({"sentence": ["a", None], "label": [0, 1]}, ["row 1", "`sentence` is None"]),
    ],
)
def test_a_bad_row_is_named_with_what_is_valid(write_split, columns, words):
    write_split(**columns)
    with pytest.raises(ValueError) as caught:
        load_split(tasks.get("sst2"), "train")
    assert "train.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_label_is_a_class_name_or_a_class_number(write_split):
    write_split(sentence=["a", "b"], label=["positive", " negative "])
    assert [example.class_number for example in load_split(tasks.get("sst2"), "train")] == [1, 0]
    write_split(sentence=["a", "b"], label=["1", "0"])
    assert [example.class_number for example in load_split(tasks.get("sst2"), "train")] == [1, 0]
    write_split(sentence=["a", "b"], label=[True, False])
    with pytest.raises(ValueError, match=r"row 0: `label` is True; valid: negative, positive, or their numbers 0 to 1"):
        load_split(tasks.get("sst2"), "train")


def test_a_missing_folder_a_missing_file_and_a_damaged_file_are_refused(write_split, tmp_path, monkeypatch):
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
    assert load_split(tasks.get("toy"), "train"), "a task with its own source needs no mirror"
    monkeypatch.setenv("LOPT_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="which is not a folder"):
        load_split(tasks.get("sst2"), "train")


def test_the_revision_changes_with_the_content(write_split):
    old_revision = data.data_revision("sst2")
    write_split("validation", sentence=["another"] * 10, label=[0, 1] * 5)
    assert data.data_revision("sst2") != old_revision


@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=200), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_stratified_samples_keep_the_shares_of_the_classes(labels, share, seed):
    labels = np.array(labels)
    size = max(1, int(share * len(labels)))
    chosen = stratified_sample(labels, size, np.random.RandomState(seed))
    assert len(set(chosen)) == len(chosen) == size
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        assert abs((labels[chosen] == label).sum() - count * size / len(labels)) < 1


def test_held_out_examples_are_a_tenth_and_at_most_5000():
    for total, expected in ((100, 10), (67_349, 5000), (5, 1)):
        train, selection = hold_out(SampledTargets(np.arange(total) % 2), seed=42)
        assert len(selection) == expected
        assert sorted([*train, *selection]) == list(range(total))
    labels = np.arange(100) % 2
    selection, other_selection = (
        hold_out(SampledTargets(labels), seed=42)[1],
        hold_out(SampledTargets(labels), seed=43)[1],
    )
    assert np.array_equal(selection, hold_out(SampledTargets(labels), seed=42)[1])
    assert not np.array_equal(selection, other_selection)


@settings(deadline=None)  # the first call imports torch
@given(count=st.integers(2, 300), seed=st.integers(0, 99))
def test_halves_are_disjoint_complete_and_reproducible(count, seed):
    selection, report = halve(SampledTargets(np.zeros(count)), seed)
    assert len(selection) == count // 2
    assert sorted([*selection, *report]) == list(range(count))
    assert all(
        np.array_equal(*pair)
        for pair in zip(halve(SampledTargets(np.zeros(count)), seed), (selection, report), strict=True)
    )


@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=100), shots=st.integers(1, 20), seed=st.integers(0, 99))
def test_a_few_shot_sample_has_as_many_examples_of_each_class(labels, shots, seed):
    labels = np.array(labels)
    chosen = few_shot_sample(labels, shots, np.random.RandomState(seed))
    assert len(set(chosen)) == len(chosen)
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        assert (labels[chosen] == label).sum() == min(shots, count)


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=300), size=st.integers(1, 20), seed=st.integers(0, 99))
def test_an_epoch_of_batches_holds_no_example_twice(lengths, size, seed):
    lengths = np.array(lengths)
    batch_size = min(size, len(lengths))
    per_epoch = len(lengths) // batch_size
    batches = list(itertools.islice(training_batches(lengths, size, seed), 2 * per_epoch))
    for epoch in (batches[:per_epoch], batches[per_epoch:]):
        positions = np.concatenate(epoch)
        assert len(set(positions)) == len(positions) == per_epoch * batch_size
    repeated = itertools.islice(training_batches(lengths, size, seed), 2 * per_epoch)
    assert all(np.array_equal(first, second) for first, second in zip(batches, repeated, strict=True))


def test_batches_hold_texts_of_similar_lengths():
    lengths = np.random.RandomState(0).randint(5, 60, 3200)
    batches = list(itertools.islice(training_batches(lengths, 16, 0), 200))
    padded_tokens = sum(lengths[batch].max() * len(batch) for batch in batches)
    assert lengths[np.concatenate(batches)].sum() / padded_tokens > 0.95
    means = [lengths[batch].mean() for batch in batches]
    assert np.corrcoef(means[:-1], means[1:])[0, 1] < 0.2  # the order of the batches is random


@given(lengths=st.lists(st.integers(1, 60), min_size=0, max_size=100), size=st.integers(1, 20))
def test_evaluation_batches_hold_every_example_once(lengths, size):
    positions = [i for batch in evaluation_batches(np.array(lengths, dtype=int), size) for i in batch]
    assert sorted(positions) == list(range(len(lengths)))


def test_padding_is_on_the_right():
    backbone, task = backbones.load("tiny", "fp32"), tasks.get("toy")
    examples = [Example(0, {"text": text}, 1) for text in ("warm film", "a")]
    encoded = encode_whole(backbone.tokenizer, task, task.template, examples)
    ids_BT, lengths_B, labels_B = collate(encoded, np.array([1, 0]), backbone.pad_id)
    assert ids_BT.shape == (2, len("warm film It was"))
    assert (ids_BT[0, lengths_B[0] :] == backbone.pad_id).all()
    assert (ids_BT[0, : lengths_B[0]] != backbone.pad_id).all()
    assert labels_B.tolist() == [1, 1]


def test_a_long_text_is_cut_but_the_template_is_not():
    backbone, task = backbones.load("tiny", "fp32"), tasks.get("toy")
    ids, cut = encode(backbone.tokenizer, task, task.template, {"text": "abcdefgh"}, max_tokens=99)
    assert backbone.tokenizer.decode(ids) == "abcdefgh It was"
    assert not cut
    ids, cut = encode(backbone.tokenizer, task, task.template, {"text": "abcdefgh"}, max_tokens=10)
    assert backbone.tokenizer.decode(ids) == "abc It was", "' It was' is 7 bytes"
    assert cut
    with pytest.raises(ValueError, match=r"'\{text\} It was' leaves no room for text in 7 tokens.*raise max_tokens"):
        encode(backbone.tokenizer, task, task.template, {"text": "abcdefgh"}, max_tokens=7)
    task = tasks.get("rte")
    fields = {"premise": "abcdefgh", "hypothesis": "a long one"}
    with pytest.raises(ValueError, match=r", with hypothesis in it, leaves no room for premise in 20 tokens"):
        encode(backbone.tokenizer, task, task.causal_template, fields, max_tokens=20)


@given(st.text("aé你😀 ", min_size=1, max_size=12).filter(str.strip), st.integers(1, 40))
def test_a_part_of_the_text_is_read_unless_no_character_has_room(text, most):
    tokenizer, toy = backbones.load("tiny", "fp32").tokenizer, tasks.get("toy")
    text = text.strip()
    try:
        ids, _ = encode(tokenizer, toy, "{text} It was", {"text": text}, most)
    except ValueError:
        assert len(tokenizer(f"{text[0]} It was")["input_ids"]) > most
    else:
        text_read = tokenizer.decode(ids).removesuffix(" It was")
        assert text_read
        assert text.startswith(text_read)


def test_cut_texts_are_counted_and_fit_the_window(tiny, write_split):
    text = "word " * 100
    write_split(sentence=[text, "short"] * 20, label=[0, 1] * 20)
    backbone = backbones.load("tiny", "fp32")
    prepared = prepare_data(tiny.replace(task="sst2", template=None, label_words=None), backbone)
    assert prepared.train.truncated_count + prepared.selection.truncated_count == 20
    assert prepared.test.truncated_count == 0
    assert max(prepared.train.token_counts) <= backbone.window - tiny.length
    with pytest.raises(ValueError, match="window of tiny is 256"):
        prepare_data(tiny.replace(length=256), backbone)


def test_subsets_are_stratified_and_the_same_for_every_seed(tiny):
    backbone = backbones.load("tiny", "fp32")
    small = tiny.replace(train_examples=30, selection_examples=10, test_examples=20)
    prepared, other_seed = (prepare_data(small.replace(seed=seed), backbone) for seed in (0, 1))
    assert [len(part) for part in (prepared.train, prepared.selection, prepared.test)] == [30, 10, 20]
    assert np.array_equal(prepared.test.example_ids, other_seed.test.example_ids)
    assert np.bincount(prepared.test.labels).tolist() == [10, 10]
    assert prepared.report_split_size == 120
    assert "a stratified 20 of 120" in prepared.protocol


def test_shots_are_the_examples_of_each_class_to_train_on_and_to_select_on(tiny):
    backbone = backbones.load("tiny", "fp32")
    prepared = prepare_data(tiny.replace(shots=5), backbone)
    assert np.bincount(prepared.train.labels).tolist() == np.bincount(prepared.selection.labels).tolist() == [5, 5]
    assert not set(prepared.train.example_ids) & set(prepared.selection.example_ids)
    assert len(prepared.test) == 120
    assert "selected on 10 of 40 examples held out of train" in prepared.protocol
    assert "trained on 10 (5 of each class) training examples" in prepared.protocol
    other_seed = prepare_data(tiny.replace(shots=5, seed=3), backbone)
    assert np.array_equal(other_seed.train.example_ids, prepared.train.example_ids)
    other_data_seed = prepare_data(tiny.replace(shots=5, data_seed=3), backbone)
    assert not np.array_equal(other_data_seed.train.example_ids, prepared.train.example_ids)
    larger_selection = prepare_data(tiny.replace(shots=5, selection_examples=30), backbone)
    assert np.bincount(larger_selection.selection.labels).tolist() == [15, 15]
    assert np.array_equal(larger_selection.train.example_ids, prepared.train.example_ids)


def test_a_halved_validation_split_selects_on_one_half_and_reports_on_the_other(tiny):
    prepared = prepare_data(tiny.replace(holdout="validation"), backbones.load("tiny", "fp32"))
    assert [len(part) for part in (prepared.train, prepared.selection, prepared.test)] == [400, 60, 60]
    assert sorted([*prepared.selection.example_ids, *prepared.test.example_ids]) == list(range(120))
    assert prepared.report_split_size == 60
    assert prepared.protocol == (
        "selected on 60 of one half of validation (seed 42), trained on 400 of 400 training examples, "
        "reported on the other half of validation"
    )
    subset = prepare_data(tiny.replace(holdout="validation", test_examples=20), backbones.load("tiny", "fp32"))
    assert set(subset.test.example_ids) <= set(prepared.test.example_ids)
    assert subset.protocol.endswith("(a stratified 20 of 60)")


def test_the_text_is_cut_to_the_window_less_the_prompt_to_max_tokens_and_to_the_methods_limit(tiny):
    backbone = backbones.load("tiny", "fp32")
    assert data.max_input_tokens(tiny, backbone) == backbone.window - tiny.length
    assert data.max_input_tokens(tiny.replace(max_tokens=50), backbone) == 50
    fine_tuning = tiny.replace(method="fine_tuning", length=None, rank=None, options={})
    assert data.max_input_tokens(fine_tuning, backbone) == backbone.window
    dept = tiny.replace(method="dept", options={"update_tokens": 30})
    assert data.max_input_tokens(dept, backbone) == 30
    assert prepare_data(dept, backbone).train.token_counts.max() == 30


def test_only_training_texts_are_left_out_by_length(tiny):
    backbone = backbones.load("tiny", "fp32")
    all_lengths, short = prepare_data(tiny, backbone), prepare_data(tiny.replace(train_max_tokens=40), backbone)
    assert 0 < len(short.train) < len(all_lengths.train)
    assert short.train.token_counts.max() <= 40
    assert np.array_equal(short.selection.example_ids, all_lengths.selection.example_ids)
    assert len(short.test) == len(all_lengths.test)
    assert "to 40 tokens" in short.protocol
    long = prepare_data(tiny.replace(train_min_tokens=41), backbone)
    assert long.train.token_counts.min() >= 41
    assert len(long.train) + len(short.train) == len(all_lengths.train)
    with pytest.raises(ValueError, match="no training text is left after train_max_tokens = 3: the texts have"):
        prepare_data(tiny.replace(train_max_tokens=3), backbone)


def test_movie_snippets_keep_duplicates_together():
    assert movie_snippets.split_of("A  fine Film!") == movie_snippets.split_of("a fine film")
    test_share = np.mean([movie_snippets.split_of(f"sentence {i}") == "test" for i in range(5000)])
    assert test_share == pytest.approx(0.2, abs=0.02)
