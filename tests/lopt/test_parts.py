"""Every class is trained on, or one line says why not; few rows of one are said; one file is divided; bad rows."""

from __future__ import annotations

import collections
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopt import backbones, data, tasks, train
from lopt.config import TrialConfig
from lopt.data import prepare
from lopt.encoding import Example
from lopt.examples import _reported, load_split
from lopt.tasks import Division
from tests.lopt.test_folder_task import one_line, write_rows

ENTRIES = {
    "columns": ["text"],
    "classes": ["a", "b", "c"],
    "template": "{text} It was",
    "label_words": [" bad", " great", " yes"],
    "train": "train.csv",
    "report": "test.csv",
}

ONE = {"train": None, "report": None, "data": "all.csv"}


def rows(**counts):
    """So many rows of each class, of different texts of 13 to 18 bytes."""
    return [{"text": f"{name} number {i:05d}", "label": name} for name, n in counts.items() for i in range(n)]


@pytest.fixture
def folder(tmp_path):
    """A function that writes a task folder and gives a trial on it."""

    def made(train_rows, test_rows=None, *, toml=(), **settings):
        where = tmp_path / "letters"
        where.mkdir(exist_ok=True)
        entries = {name: value for name, value in {**ENTRIES, **dict(toml)}.items() if value is not None}
        (where / "task.toml").write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in entries.items()))
        if "train" in entries:
            write_rows(where / "train.csv", train_rows)
            write_rows(where / "test.csv", test_rows or rows(a=4, b=4, c=4))
        else:
            write_rows(where / entries["data"], train_rows)
        for kept in (data._load, data._draw, data._prepare):  # a process reads a file once
            kept.cache_clear()
        trial = {"method": "lopt1", "backbone": "tiny", "length": 2, "rank": 1, "max_steps": 2, "eval_every": 1}
        return TrialConfig(**{**trial, "task": str(where), "precision": "fp32", **settings})

    return made


def prepared(config):
    return prepare(config, backbones.load("tiny", "fp32"))


def refusal(config):
    with pytest.raises(ValueError) as caught:
        prepared(config)
    return one_line(caught)


# --- a class without rows to train on --------------------------------------------------------------------------------


def test_a_class_that_limits_of_tokens_take_away_is_named_with_its_counts(folder):
    long = [{**row, "text": row["text"] * 5} for row in rows(b=40)]
    config = folder([*rows(a=40, c=30), *long], train_max_tokens=40)
    line = refusal(config)
    assert line == (
        "train_max_tokens = 40 leaves no row of b to train on; there were 40 rows in train.csv, 36 after the hold-out: "
        "give another limit, or none"
    )
    assert np.bincount(prepared(config.replace(train_max_tokens=None)).train.labels).tolist() == [36, 36, 27]
    both = config.replace(train_min_tokens=60, train_max_tokens=99)
    assert "train_min_tokens = 60 and train_max_tokens = 99 leaves no row of a, c to train on" in refusal(both)
    assert "there were 40 and 30 rows in train.csv, 36 and 27 after the hold-out" in refusal(both)


def test_shots_do_not_hide_a_class_that_is_gone(folder):
    long = [{**row, "text": row["text"] * 5} for row in rows(b=40)]
    config = folder([*rows(a=40, c=30), *long], train_max_tokens=40, shots=2)
    assert "train_max_tokens = 40 leaves no row of b to train on" in refusal(config)


def test_a_declared_class_that_never_occurs(folder):
    config = folder(rows(a=20, b=20))
    assert refusal(config).endswith("has no row of c: give rows of it, or leave the class out of the task")
    assert "c" in refusal(config.replace(shots=3))


def test_a_class_whose_only_row_is_held_out(folder):
    config = folder(rows(a=1, b=1, c=1))
    assert "the hold-out leaves no row of" in refusal(config)
    assert np.bincount(prepared(config.replace(holdout="validation")).train.labels).tolist() == [1, 1, 1]


def test_a_subset_that_is_smaller_than_the_classes(folder):
    config = folder(rows(a=50, b=50, c=3), train_examples=5)
    assert "train_examples = 5 leaves no row of c to train on; there were 3 rows in train.csv" in refusal(config)
    assert prepared(config.replace(train_examples=60)).train.labels.tolist().count(2) > 0


def test_a_class_whose_rows_are_all_bad(folder):
    bad = [{"text": " ", "label": "c"}] * 5
    config = folder([*rows(a=20, b=20), *bad], toml={"bad_rows": "skip"})
    assert refusal(config) == (
        'bad_rows = "skip" leaves no row of c to train on; there were 5 rows in train.csv: mend its rows'
    )


def test_a_class_whose_rows_are_all_bad_in_one_file(folder):
    bad = [{"text": " ", "label": "c"}] * 5
    config = folder([*rows(a=20, b=20), *bad], toml={**ONE, "bad_rows": "skip"})
    assert refusal(config) == (
        'bad_rows = "skip" leaves no row of c to train on; there were 5 rows in all.csv: mend its rows'
    )
    config = folder(rows(a=20, b=20), toml=ONE)
    assert refusal(config).startswith("all.csv of task ")
    config = folder(rows(a=20, b=20, c=1), toml=ONE)
    assert "(only 1 of c)" in prepared(config).protocol
    assert "(none of c)" in prepared(config).protocol


def test_training_refuses_before_it_begins(folder):
    with pytest.raises(ValueError, match="has no row of c"):
        train(folder(rows(a=20, b=20)))


# --- few rows of a class ---------------------------------------------------------------------------------------------


def test_few_rows_of_a_class_are_said(folder):
    config = folder(rows(a=40, b=40, c=5))
    found = prepared(config)
    assert "trained on 77 of 77 (only 5 of c) training examples" in found.protocol
    assert "only 5 of c to train on" in data.notes(config)
    assert train(config).protocol == found.protocol
    assert "only" not in prepared(folder(rows(a=40, b=40, c=9))).protocol


def test_shots_beyond_what_a_class_has_are_said(folder):
    config = folder(rows(a=40, b=40, c=5), shots=16)
    assert "(16 of each class; only 5 of c)" in prepared(config).protocol
    assert "only 5 of c to train on" in data.notes(config)
    for shots in (1, 2, 3):
        assert f"({shots} of each class) training" in prepared(config.replace(shots=shots)).protocol
        assert not [note for note in data.notes(config.replace(shots=shots)) if "to train on" in note]


def test_texts_that_are_selected_on_and_trained_on_are_counted(folder):
    found = prepared(folder([*rows(a=40, b=40, c=40), *rows(a=40, b=40, c=40)]))  # each text twice
    trained_on = {tuple(ids) for ids in found.train.token_ids}
    count = sum(tuple(ids) in trained_on for ids in found.selection.token_ids)
    assert count > 0
    assert f"10 %)), {count} of which are also trained on, trained on" in found.protocol
    assert "also trained on" not in prepared(folder(rows(a=40, b=40, c=40))).protocol


def test_a_class_that_is_not_selected_or_reported_on_is_said(folder):
    config = folder(rows(a=40, b=40, c=5), rows(a=4, b=4), selection_examples=2)
    found = prepared(config)
    assert set(found.selection.labels) == {0, 1}
    assert "selected on 2 (none of c) of 8 examples" in found.protocol
    assert "reported on test.csv (none of c)" in found.protocol
    said = data.notes(config)
    assert "none of c to select on: the accuracy there says nothing of it" in said
    assert "none of c to report on: the accuracy there says nothing of it" in said


def test_the_benchmarks_built_in_say_nothing_of_it(tiny):
    for shots in (None, 1, 2, 16):
        assert "only" not in prepared(tiny.replace(shots=shots)).protocol
        assert "none" not in prepared(tiny.replace(shots=shots)).protocol


# --- one file --------------------------------------------------------------------------------------------------------


def test_one_file_is_divided_class_by_class(folder):
    config = folder(rows(a=50, b=30, c=20), toml={**ONE, "report_share": 0.2})
    task = tasks.get(config.task)
    training, reported = load_split(task, task.train), load_split(task, task.report)
    assert sorted(e.id for e in [*training, *reported]) == list(range(100))
    assert np.bincount([e.label for e in reported]).tolist() == [10, 6, 4]
    found = prepared(config)
    assert found.report_split == "20 % of all.csv"
    assert "held out of the other 80 % of all.csv" in found.protocol
    assert "all.csv divided by its texts (report_share 0.2, split_seed 0, stratified, equal texts together)" in (
        found.protocol
    )
    record = train(config)
    assert (record.test_n, record.test_split) == (20, "20 % of all.csv")
    assert "also stand in" not in record.protocol


@pytest.mark.parametrize("share", [0.5, 0.5 + 1e-9, 1e-9, 1 - 1e-9])
def test_what_is_reported_is_never_trained_on_whatever_the_share(folder, share):
    config = folder(rows(a=40, b=40, c=20), toml={**ONE, "report_share": share}, holdout="validation")
    task, found = tasks.get(config.task), prepared(config)
    training, reported = load_split(task, task.train), load_split(task, task.report)
    assert sorted(e.id for e in [*training, *reported]) == list(range(100))
    assert not set(found.train.example_ids) & {*found.selection.example_ids, *found.test.example_ids}
    assert "also stand in" not in found.protocol


def test_the_division_is_of_the_content_and_the_seed(folder):
    def reported(config):
        task = tasks.get(config.task)
        return {e.fields["text"] for e in load_split(task, task.report)}

    some = rows(a=50, b=30, c=20)
    first = folder(some, toml=ONE)
    texts, revision = reported(first), data.data_revision(first.task)
    assert reported(folder(some[::-1], toml=ONE)) == texts, "the order of the rows does not matter"
    other = folder(some, toml={**ONE, "split_seed": 1})
    assert reported(other) != texts
    assert data.data_revision(other.task) != revision
    assert data.data_revision(folder(some, toml={**ONE, "report_share": 0.3}).task) != revision
    assert data.data_revision(folder(some, toml={**ONE, "report_share": 0.2, "split_seed": 0}).task) == revision


labelled = st.lists(st.tuples(st.sampled_from(["x", "X!", "y", "z z", "z  z", "w", ":)", ":("]), st.integers(0, 2)))


@given(labelled, st.sampled_from([0.01, 0.2, 0.5, 0.99]), st.integers(0, 3))
def test_equal_texts_are_never_on_both_sides(some, share, seed):
    examples = [Example(i, {"text": text}, label) for i, (text, label) in enumerate(some)]
    chosen = _reported(examples, Division(file="all.csv", share=share, seed=seed))
    sides = collections.defaultdict(set)
    for example in examples:
        alike = "".join(c for c in example.fields["text"].lower().replace("!", "") if c != " ")
        sides[alike].add(example.id in chosen)
    assert all(len(side) == 1 for side in sides.values())


@given(st.lists(st.integers(2, 40), min_size=1, max_size=4), st.floats(0.01, 0.99), st.integers(0, 9))
def test_each_class_is_on_both_sides_in_its_share(counts, share, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    examples = [Example(i, {"text": f"text {i}"}, int(label)) for i, label in enumerate(labels)]
    chosen = _reported(examples, Division(file="all.csv", share=share, seed=seed))
    for label, count in enumerate(counts):
        taken = sum(labels[i] == label for i in chosen)
        assert 0 < taken < count
        assert abs(taken - share * count) <= 1


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ({"data": "all.csv"}, ["data is the one file", "train names another"]),
        ({**ONE, "report": "test.csv"}, ["data is the one file", "report names another"]),
        ({"report_share": 0.2}, ["report_share", "there is no data"]),
        ({"split_seed": 3}, ["split_seed", "there is no data"]),
        ({**ONE, "report_share": 0}, ["report_share is 0", "above 0 and below 1"]),
        ({**ONE, "report_share": 1.0}, ["report_share is 1.0", "above 0 and below 1"]),
        ({**ONE, "report_share": True}, ["report_share is True", "above 0 and below 1"]),
        ({**ONE, "report_share": "0.2"}, ["report_share is '0.2'", "above 0 and below 1"]),
        ({**ONE, "split_seed": -1}, ["split_seed is -1", "a whole number"]),
        ({**ONE, "split_seed": 0.5}, ["split_seed is 0.5", "a whole number"]),
        ({**ONE, "data": 3}, ["data is 3", "give text"]),
        ({**ONE, "data": None}, ["lacks train, report", "or data, one file that is divided"]),
        ({"report": "train.csv"}, ["train and report are both 'train.csv'", "give data = 'train.csv'"]),
        ({"bad_rows": "drop"}, ["bad_rows is 'drop'", "valid: refuse, skip"]),
    ],
    ids=str,
)
def test_bad_entries_of_a_division(folder, toml, words):
    where = tasks.get(folder(rows(a=20, b=20, c=20)).task).name
    entries = {name: value for name, value in {**ENTRIES, **toml}.items() if value is not None}
    with open(f"{where}/task.toml", "w") as file:
        file.write("".join(f"{k} = {json.dumps(v)}\n" for k, v in entries.items()))
    with pytest.raises(ValueError) as caught:
        tasks.get(where)
    for word in words:
        assert word in one_line(caught)


# --- bad rows --------------------------------------------------------------------------------------------------------

BAD = [{"text": "", "label": "a"}, {"text": "fine", "label": "d"}, {"text": "fine", "label": ""}]


def test_bad_rows_are_counted_and_the_first_is_named(folder):
    line = refusal(folder([*rows(a=20, b=20, c=20), *BAD]))
    assert line == (
        '3 of 63 rows cannot be used (bad_rows = "skip" in task.toml leaves them out); the first is '
        "letters/train.csv, row 60: text is ''; give text, or take the row out"
    )


def test_bad_rows_are_skipped_and_counted(folder):
    good = rows(a=20, b=20, c=20)
    config = folder([good[0], *BAD, *good[1:]], [*rows(a=2, b=2, c=2), *BAD[1:]], toml={"bad_rows": "skip"})
    record = train(config)
    assert "3 of 63 rows of train.csv skipped, which lack text or a class" in record.protocol
    assert "2 of 8 rows of test.csv skipped, which lack text or a class" in record.protocol
    assert record.test_n == 6
    assert "3 of 63 rows of train.csv skipped, which lack text or a class" in data.notes(config)
    task = tasks.get(config.task)
    assert [e.id for e in load_split(task, "train.csv")] == [0, *range(4, 63)], "rows keep their numbers"
    revision = data.data_revision(config.task)
    assert data.data_revision(folder(good, rows(a=2, b=2, c=2)).task) == revision, "the same examples"


def test_a_file_of_bad_rows_alone_is_refused(folder):
    line = refusal(folder(BAD, toml={"bad_rows": "skip"}))
    assert line.startswith("3 of 3 rows cannot be used; the first is letters/train.csv, row 0: text is ''")


def test_bad_rows_of_one_file_are_counted_once(folder):
    found = prepared(folder([*rows(a=20, b=20, c=20), *BAD], toml={**ONE, "bad_rows": "skip"}))
    assert found.protocol.count("3 of 63 rows of all.csv skipped") == 1


def test_rows_of_a_mirror_are_counted_too(tmp_path, monkeypatch, tiny):
    (tmp_path / "sst2").mkdir()
    some = [{"sentence": f"text {i}", "label": i % 2, "idx": i} for i in range(20)]
    write_rows(tmp_path / "sst2" / "train.parquet", [*some, {"sentence": "x", "label": -1, "idx": 20}] * 2)
    monkeypatch.setenv("LOPT_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError) as caught:
        load_split(tasks.get("sst2"), "train")
    assert one_line(caught).startswith("2 of 42 rows cannot be used; the first is ")
    assert "train.parquet, row 20: label is -1; valid: 0 to 1 (" in one_line(caught)


def test_multirc_with_its_three_empty_answers(shared, tmp_path):
    where = tmp_path / "multirc"
    where.mkdir()
    files = shared / "data" / "multirc"
    (where / "task.toml").write_text(
        'columns = ["paragraph", "question", "answer"]\nclasses = ["False", "True"]\nbad_rows = "refuse"\n'
        'template = "{paragraph} {question} {answer} Right?"\nlabel_words = [" no", " yes"]\ncut = "paragraph"\n'
        f'train = "{files}/train.parquet"\nreport = "{files}/validation.parquet"\n'
    )
    task = tasks.get(str(where))
    with pytest.raises(ValueError, match=r"^3 of 27,243 rows cannot be used .*, row \d+: answer is ''"):
        load_split(task, task.train)
    file = where / "task.toml"
    file.write_text(file.read_text().replace("refuse", "skip"))
    task = tasks.get(str(where))
    assert len(load_split(task, task.train)) == 27_240


# --- what loading says -----------------------------------------------------------------------------------------------


def test_an_unknown_task_says_that_a_folder_would_do_and_where_there_is_none(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as caught:
        tasks.get("mrpc")
    assert one_line(caught).startswith("unknown task 'mrpc'; valid: ag_news, boolq, cb, ")
    assert f"or a folder with a task.toml (there is no folder '{tmp_path}/mrpc')" in one_line(caught)
    with pytest.raises(ValueError, match=r"Did you mean 'boolq'\?"):
        tasks.get("boolk")


def test_a_long_text_is_not_cut_inside_a_word(folder):
    words = "several ordinary words that go on and on until there is no room left for any more of them at all"
    line = refusal(folder([*rows(a=20, b=20, c=20), {"text": "fine", "label": words}]))
    said = line.split("label is '")[1].split(" …'")[0]
    assert words.startswith(said + " ")
    assert len(said) > 30


def test_the_hubs_reason_is_not_cut_inside_a_word(monkeypatch):
    import datasets

    reason = "word " * 100

    def fails(*_, **__):
        raise OSError(reason)

    monkeypatch.setattr(datasets, "load_dataset", fails)
    with pytest.raises(ValueError, match=r"\((word )+…\); set LOPT_DATA_DIR"):
        load_split(tasks.get("sst2"), "train")
