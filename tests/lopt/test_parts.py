"""How examples are divided: classes without rows, classes with few rows, one file that is divided, and bad rows."""

from __future__ import annotations

import collections
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopt import backbones, data, tasks, train
from lopt.config import TrialConfig
from lopt.data import prepare_data
from lopt.encoding import Example
from lopt.examples import _reported_ids, load_split
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

ONE_FILE = {"train": None, "report": None, "data": "all.csv"}


def rows(**counts):
    """Return `counts` rows of each class. Their texts differ and have 13 to 18 bytes."""
    return [{"text": f"{name} number {i:05d}", "label": name} for name, count in counts.items() for i in range(count)]


def toml_text(entries):
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in entries.items())


@pytest.fixture
def write_task(tmp_path):
    """A function that writes a task folder and returns the configuration of a trial on it."""

    def write_task(train_rows, test_rows=None, *, toml=(), **settings):
        task_folder = tmp_path / "letters"
        task_folder.mkdir(exist_ok=True)
        entries = {name: value for name, value in {**ENTRIES, **dict(toml)}.items() if value is not None}
        (task_folder / "task.toml").write_text(toml_text(entries))
        if "train" in entries:
            write_rows(task_folder / "train.csv", train_rows)
            write_rows(task_folder / "test.csv", test_rows or rows(a=4, b=4, c=4))
        else:
            write_rows(task_folder / entries["data"], train_rows)
        # All three cache what they read from files.
        for function in (data._load_splits, data._draw_and_tokenise, data._prepare_from_cache_key):
            function.cache_clear()
        trial = {"method": "lopt1", "backbone": "tiny", "length": 2, "rank": 1, "max_steps": 2, "eval_every": 1}
        return TrialConfig(**{**trial, "task": str(task_folder), "precision": "fp32", **settings})

    return write_task


def prepare_on_tiny(config):
    return prepare_data(config, backbones.load("tiny", "fp32"))


def refusal(config):
    """Return the one line with which preparing the data of a trial is refused."""
    with pytest.raises(ValueError) as caught:
        prepare_on_tiny(config)
    return one_line(caught)


# --- a class without rows to train on ---------------------------------------------------------------------------------


def test_a_class_lost_to_limits_of_tokens_is_named_with_its_counts(write_task):
    long = [{**row, "text": row["text"] * 5} for row in rows(b=40)]
    config = write_task([*rows(a=40, c=30), *long], train_max_tokens=40)
    line = refusal(config)
    assert line == (
        "train_max_tokens = 40 leaves no row of b to train on; b had 40 rows in train.csv, 36 after the hold-out: "
        "set a wider limit, or remove it"
    )
    assert np.bincount(prepare_on_tiny(config.replace(train_max_tokens=None)).train.labels).tolist() == [36, 36, 27]
    both_limits = config.replace(train_min_tokens=60, train_max_tokens=99)
    assert "train_min_tokens = 60 and train_max_tokens = 99 leave no row of a, c to train on" in refusal(both_limits)
    assert "a had 40 rows in train.csv, 36 after the hold-out; c had 30 rows in train.csv, 27 after" in refusal(
        both_limits
    )


def test_shots_do_not_hide_a_class_without_rows(write_task):
    long = [{**row, "text": row["text"] * 5} for row in rows(b=40)]
    config = write_task([*rows(a=40, c=30), *long], train_max_tokens=40, shots=2)
    assert "train_max_tokens = 40 leaves no row of b to train on" in refusal(config)


def test_a_declared_class_that_never_occurs_is_refused(write_task):
    config = write_task(rows(a=20, b=20))
    assert refusal(config).endswith("has no row of c: add such rows, or leave the class out of the task")
    assert "c" in refusal(config.replace(shots=3))


def test_a_class_whose_only_row_is_held_out_is_refused(write_task):
    config = write_task(rows(a=1, b=1, c=1))
    assert "the hold-out leaves no row of" in refusal(config)
    assert np.bincount(prepare_on_tiny(config.replace(holdout="validation")).train.labels).tolist() == [1, 1, 1]


def test_a_subset_that_leaves_a_class_out_is_refused(write_task):
    config = write_task(rows(a=50, b=50, c=3), train_examples=5)
    assert "train_examples = 5 leaves no row of c to train on; c had 3 rows in train.csv" in refusal(config)
    assert prepare_on_tiny(config.replace(train_examples=60)).train.labels.tolist().count(2) > 0


def test_a_class_whose_rows_are_all_bad_is_refused(write_task):
    bad = [{"text": " ", "label": "c"}] * 5
    config = write_task([*rows(a=20, b=20), *bad], toml={"bad_rows": "skip"})
    assert refusal(config) == (
        'bad_rows = "skip" leaves no row of c to train on; c had 5 rows in train.csv: fix the skipped rows'
    )


def test_a_class_whose_rows_are_all_bad_in_one_divided_file_is_refused(write_task):
    bad = [{"text": " ", "label": "c"}] * 5
    config = write_task([*rows(a=20, b=20), *bad], toml={**ONE_FILE, "bad_rows": "skip"})
    assert refusal(config) == (
        'bad_rows = "skip" leaves no row of c to train on; c had 5 rows in all.csv: fix the skipped rows'
    )
    config = write_task(rows(a=20, b=20), toml=ONE_FILE)
    assert refusal(config).startswith("all.csv of task ")
    config = write_task(rows(a=20, b=20, c=1), toml=ONE_FILE)
    assert "(only 1 of c)" in prepare_on_tiny(config).protocol
    assert "(none of c)" in prepare_on_tiny(config).protocol


def test_training_refuses_a_class_without_rows_before_it_begins(write_task):
    with pytest.raises(ValueError, match="has no row of c"):
        train(write_task(rows(a=20, b=20)))


# --- few rows of a class ----------------------------------------------------------------------------------------------


def test_few_rows_of_a_class_are_noted(write_task):
    config = write_task(rows(a=40, b=40, c=5))
    prepared_data = prepare_on_tiny(config)
    assert "trained on 77 of 77 (only 5 of c) training examples" in prepared_data.protocol
    assert "there are few rows of some classes to train on: 5 of c" in data.plan_notes(config)
    assert train(config).protocol == prepared_data.protocol
    assert "only" not in prepare_on_tiny(write_task(rows(a=40, b=40, c=9))).protocol


def test_a_class_with_fewer_rows_than_shots_is_noted(write_task):
    config = write_task(rows(a=40, b=40, c=5), shots=16)
    assert "(16 of each class; only 5 of c)" in prepare_on_tiny(config).protocol
    assert "there are few rows of some classes to train on: 5 of c" in data.plan_notes(config)
    for shots in (1, 2, 3):
        assert f"({shots} of each class) training" in prepare_on_tiny(config.replace(shots=shots)).protocol
        assert not [note for note in data.plan_notes(config.replace(shots=shots)) if "to train on" in note]


def test_selection_texts_that_are_also_trained_on_are_counted(write_task):
    prepared_data = prepare_on_tiny(write_task([*rows(a=40, b=40, c=40), *rows(a=40, b=40, c=40)]))  # each text twice
    trained_on = {tuple(ids) for ids in prepared_data.train.token_ids}
    count = sum(tuple(ids) in trained_on for ids in prepared_data.selection.token_ids)
    assert count > 0
    assert f"10 %)), {count} of which are also trained on, trained on" in prepared_data.protocol
    assert "also trained on" not in prepare_on_tiny(write_task(rows(a=40, b=40, c=40))).protocol


def test_a_class_that_is_not_selected_or_reported_on_is_noted(write_task):
    config = write_task(rows(a=40, b=40, c=5), rows(a=4, b=4), selection_examples=2)
    prepared_data = prepare_on_tiny(config)
    assert set(prepared_data.selection.labels) == {0, 1}
    assert "selected on 2 (none of c) of 8 examples" in prepared_data.protocol
    assert "reported on test.csv (none of c)" in prepared_data.protocol
    notes = data.plan_notes(config)
    assert "there is no row of c to select on, so that the scores say nothing about it" in notes
    assert "there is no row of c to report on, so that the scores say nothing about it" in notes


def test_a_built_in_task_has_no_note_of_few_rows(tiny):
    for shots in (None, 1, 2, 16):
        assert "only" not in prepare_on_tiny(tiny.replace(shots=shots)).protocol
        assert "none" not in prepare_on_tiny(tiny.replace(shots=shots)).protocol


# --- one file ---------------------------------------------------------------------------------------------------------


def test_one_file_is_divided_in_each_class(write_task):
    config = write_task(rows(a=50, b=30, c=20), toml={**ONE_FILE, "report_share": 0.2})
    task = tasks.get(config.task)
    training, reported = load_split(task, task.train), load_split(task, task.report)
    assert sorted(example.id for example in [*training, *reported]) == list(range(100))
    assert np.bincount([example.class_number for example in reported]).tolist() == [10, 6, 4]
    prepared_data = prepare_on_tiny(config)
    assert prepared_data.report_split == "20 % of all.csv"
    assert "held out of the other 80 % of all.csv" in prepared_data.protocol
    assert "all.csv divided by its texts (report_share 0.2, split_seed 0, stratified, equal texts together)" in (
        prepared_data.protocol
    )
    record = train(config)
    assert (record.test_n, record.test_split) == (20, "20 % of all.csv")
    assert "also stand in" not in record.protocol


@pytest.mark.parametrize("share", [0.5, 0.5 + 1e-9, 1e-9, 1 - 1e-9])
def test_reported_rows_are_never_trained_on_whatever_the_share(write_task, share):
    config = write_task(rows(a=40, b=40, c=20), toml={**ONE_FILE, "report_share": share}, holdout="validation")
    task, prepared_data = tasks.get(config.task), prepare_on_tiny(config)
    training, reported = load_split(task, task.train), load_split(task, task.report)
    assert sorted(example.id for example in [*training, *reported]) == list(range(100))
    assert not set(prepared_data.train.example_ids) & {
        *prepared_data.selection.example_ids,
        *prepared_data.test.example_ids,
    }
    assert "also stand in" not in prepared_data.protocol


def test_the_division_depends_on_the_content_and_the_seed_alone(write_task):
    def reported_texts(config):
        task = tasks.get(config.task)
        return {example.text_by_column["text"] for example in load_split(task, task.report)}

    def revision(**changes):
        return data.data_revision(write_task(file_rows, toml={**ONE_FILE, **changes}).task)

    file_rows = rows(a=50, b=30, c=20)
    config = write_task(file_rows, toml=ONE_FILE)
    texts, default_revision = reported_texts(config), data.data_revision(config.task)
    assert reported_texts(write_task(file_rows[::-1], toml=ONE_FILE)) == texts, "the order of rows does not matter"
    assert reported_texts(write_task(file_rows, toml={**ONE_FILE, "split_seed": 1})) != texts
    assert revision(split_seed=1) != default_revision
    assert revision(report_share=0.3) != default_revision
    assert revision(report_share=0.2, split_seed=0) == default_revision


labelled_texts = st.lists(
    st.tuples(st.sampled_from(["x", "X!", "y", "z z", "z  z", "w", ":)", ":("]), st.integers(0, 2))
)


@given(labelled_texts, st.sampled_from([0.01, 0.2, 0.5, 0.99]), st.integers(0, 3))
def test_equal_texts_are_never_on_both_sides(texts, share, seed):
    examples = [Example(i, {"text": text}, label) for i, (text, label) in enumerate(texts)]
    reported_ids = _reported_ids(examples, Division(file="all.csv", share=share, seed=seed))
    sides = collections.defaultdict(set)
    for example in examples:
        normalised = example.text_by_column["text"].lower().replace("!", "").replace(" ", "")
        sides[normalised].add(example.id in reported_ids)
    assert all(len(side) == 1 for side in sides.values())


@given(st.lists(st.integers(2, 40), min_size=1, max_size=4), st.floats(0.01, 0.99), st.integers(0, 9))
def test_each_class_is_divided_by_the_share(counts, share, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    examples = [Example(i, {"text": f"text {i}"}, int(label)) for i, label in enumerate(labels)]
    reported_ids = _reported_ids(examples, Division(file="all.csv", share=share, seed=seed))
    for label, count in enumerate(counts):
        taken = sum(labels[i] == label for i in reported_ids)
        assert 0 < taken < count
        assert abs(taken - share * count) <= 1


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ({"data": "all.csv"}, ["`data` names one file", "`train` names another"]),
        ({**ONE_FILE, "report": "test.csv"}, ["`data` names one file", "`report` names another"]),
        ({"report_share": 0.2}, ["report_share", "there is no entry `data`"]),
        ({"split_seed": 3}, ["split_seed", "there is no entry `data`"]),
        ({**ONE_FILE, "report_share": 0}, ["`report_share` is 0", "above 0 and below 1"]),
        ({**ONE_FILE, "report_share": 1.0}, ["`report_share` is 1.0", "above 0 and below 1"]),
        ({**ONE_FILE, "report_share": True}, ["`report_share` is True", "above 0 and below 1"]),
        ({**ONE_FILE, "report_share": "0.2"}, ["`report_share` is '0.2'", "above 0 and below 1"]),
        ({**ONE_FILE, "split_seed": -1}, ["`split_seed` is -1", "a whole number"]),
        ({**ONE_FILE, "split_seed": 0.5}, ["`split_seed` is 0.5", "a whole number"]),
        ({**ONE_FILE, "data": 3}, ["`data` is 3", "give text"]),
        ({**ONE_FILE, "data": None}, ["lacks train, report", "`data`: one file to divide"]),
        ({"report": "train.csv"}, ["`train` and `report` are both 'train.csv'", "give data = 'train.csv'"]),
        ({"bad_rows": "drop"}, ["`bad_rows` is 'drop'", "valid: refuse, skip"]),
    ],
    ids=str,
)
def test_a_bad_entry_of_a_division_is_named_with_what_is_valid(write_task, toml, words):
    task_folder = tasks.get(write_task(rows(a=20, b=20, c=20)).task).name
    entries = {name: value for name, value in {**ENTRIES, **toml}.items() if value is not None}
    with open(f"{task_folder}/task.toml", "w") as file:
        file.write(toml_text(entries))
    with pytest.raises(ValueError) as caught:
        tasks.get(task_folder)
    for word in words:
        assert word in one_line(caught)


# --- bad rows ---------------------------------------------------------------------------------------------------------

BAD_ROWS = [{"text": "", "label": "a"}, {"text": "fine", "label": "d"}, {"text": "fine", "label": ""}]


def test_bad_rows_are_counted_and_the_first_is_named(write_task):
    line = refusal(write_task([*rows(a=20, b=20, c=20), *BAD_ROWS]))
    assert line == (
        '3 of 63 rows cannot be used (bad_rows = "skip" in task.toml leaves them out); the first is '
        "letters/train.csv, row 60: `text` is ''; give text, or remove the row"
    )


def test_bad_rows_are_skipped_and_counted(write_task):
    good = rows(a=20, b=20, c=20)
    train_rows, test_rows = [good[0], *BAD_ROWS, *good[1:]], [*rows(a=2, b=2, c=2), *BAD_ROWS[1:]]
    config = write_task(train_rows, test_rows, toml={"bad_rows": "skip"})
    record = train(config)
    assert "3 of 63 rows of train.csv skipped, which lack text or a class" in record.protocol
    assert "2 of 8 rows of test.csv skipped, which lack text or a class" in record.protocol
    assert record.test_n == 6
    assert "3 of 63 rows of train.csv skipped, which lack text or a class" in data.plan_notes(config)
    task = tasks.get(config.task)
    assert [example.id for example in load_split(task, "train.csv")] == [0, *range(4, 63)], "rows keep their numbers"
    revision = data.data_revision(config.task)
    assert data.data_revision(write_task(good, rows(a=2, b=2, c=2)).task) == revision, "the same examples"


def test_a_file_with_only_bad_rows_is_refused(write_task):
    line = refusal(write_task(BAD_ROWS, toml={"bad_rows": "skip"}))
    assert line.startswith("3 of 3 rows cannot be used; the first is letters/train.csv, row 0: `text` is ''")


def test_bad_rows_of_one_file_are_counted_once(write_task):
    config = write_task([*rows(a=20, b=20, c=20), *BAD_ROWS], toml={**ONE_FILE, "bad_rows": "skip"})
    assert prepare_on_tiny(config).protocol.count("3 of 63 rows of all.csv skipped") == 1


def test_bad_rows_of_a_mirror_are_counted(tmp_path, monkeypatch, tiny):
    (tmp_path / "sst2").mkdir()
    good = [{"sentence": f"text {i}", "label": i % 2, "idx": i} for i in range(20)]
    write_rows(tmp_path / "sst2" / "train.parquet", [*good, {"sentence": "x", "label": -1, "idx": 20}] * 2)
    monkeypatch.setenv("LOPT_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError) as caught:
        load_split(tasks.get("sst2"), "train")
    assert one_line(caught).startswith("2 of 42 rows cannot be used; the first is ")
    assert "train.parquet, row 20: `label` is -1; valid: " in one_line(caught)


def test_the_three_empty_answers_of_multirc_are_refused_or_skipped(shared, tmp_path):
    task_folder = tmp_path / "multirc"
    task_folder.mkdir()
    files = shared / "data" / "multirc"
    (task_folder / "task.toml").write_text(
        'columns = ["paragraph", "question", "answer"]\nclasses = ["False", "True"]\nbad_rows = "refuse"\n'
        'template = "{paragraph} {question} {answer} Right?"\nlabel_words = [" no", " yes"]\ncut = "paragraph"\n'
        f'train = "{files}/train.parquet"\nreport = "{files}/validation.parquet"\n'
    )
    task = tasks.get(str(task_folder))
    with pytest.raises(ValueError, match=r"^3 of 27,243 rows cannot be used .*, row \d+: `answer` is ''"):
        load_split(task, task.train)
    file = task_folder / "task.toml"
    file.write_text(file.read_text().replace("refuse", "skip"))
    task = tasks.get(str(task_folder))
    assert len(load_split(task, task.train)) == 27_240


# --- messages of loading ----------------------------------------------------------------------------------------------


def test_an_unknown_task_says_that_a_folder_is_valid_and_which_one_is_missing(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as caught:
        tasks.get("mrpc")
    assert one_line(caught).startswith("unknown task 'mrpc'; valid: ag_news, boolq, cb, ")
    assert f"or a folder with a task.toml (there is no folder '{tmp_path}/mrpc')" in one_line(caught)
    with pytest.raises(ValueError, match=r"Did you mean 'boolq'\?"):
        tasks.get("boolk")


def test_a_long_text_is_not_cut_inside_a_word(write_task):
    words = "several ordinary words that go on and on until there is no room left for any more of them at all"
    line = refusal(write_task([*rows(a=20, b=20, c=20), {"text": "fine", "label": words}]))
    shown_label = line.split("`label` is '")[1].split(" …'")[0]
    assert words.startswith(shown_label + " ")
    assert len(shown_label) > 30


def test_the_hubs_reason_is_not_cut_inside_a_word(monkeypatch):
    import datasets

    reason = "word " * 100

    def fail(*_, **__):
        raise OSError(reason)

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(ValueError, match=r"\((word )+…\); set LOPT_DATA_DIR"):
        load_split(tasks.get("sst2"), "train")
