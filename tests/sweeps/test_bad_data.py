"""Data of a user: either all rows count as they are labelled, or one line of error names the first bad row."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tempfile
from pathlib import Path

import pandas
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lopt import data, examples, tasks
from lopt.config import TrialConfig
from lopt.rows import read_rows
from sweeps.results.store import Store
from sweeps.run import main
from tests.bad_input import error_line, fixed, outcome, refused, run_command, texts

TASK_SETTINGS = {
    "columns": ["text"],
    "classes": ["bug", "other"],
    "template": "{text} It was",
    "label_words": [" bad", " great"],
    "train": "train.jsonl",
    "report": "test.jsonl",
}
SPACE_FILE = (
    "from sweeps.space import Cell, Space, Spec\n"
    "def build(profile):\n"
    "    cell = Cell(name='one', fixed={'method': 'prompt_tuning', 'length': 2}, search={})\n"
    "    return Space(name='one', title='One trial', profile=profile, grid=lambda axes: (cell,), trials=1,\n"
    "        base={'task': 'toy', 'backbone': 'tiny', 'max_steps': 1, 'eval_every': 1, 'precision': 'fp32'},\n"
    "        confirm_seeds=1, grace_steps=1)\n"
    "SPEC = Spec('one', build)\n"
)
TRAIN_ROWS = [{"text": f"line {i}", "label": i % 2} for i in range(8)]
TEST_ROWS = [{"text": f"other {i}", "label": (i // 2) % 2} for i in range(5)]


def jsonl_bytes(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet_bytes(rows) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def csv_bytes(rows) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


@pytest.fixture
def make_task(tmp_path):
    """Return a function that makes a task folder and returns the arguments of a sweep on it.

    The function takes changed entries of task.toml, and the bytes of the files `train` and `report`.
    """

    def make(toml=(), **files):
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        entries = {**TASK_SETTINGS, **dict(toml)}
        (folder / "task.toml").write_text(
            "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in entries.items()),
            encoding="utf-8",
        )
        for name, default in (("train", TRAIN_ROWS), ("report", TEST_ROWS)):
            (folder / entries[name]).write_bytes(files.get(name, jsonl_bytes(default)))
        (folder / "one.py").write_text(SPACE_FILE)
        out = folder / "results"
        return [
            "--space", str(folder / "one.py"), "--local-mode", "--out", str(out), "--name", "run", "--set",
            f"task={folder}",
        ]  # fmt: skip

    return make


def check_all_rows_scored(argv, labels):
    """Run a sweep, check that each row of the reported split counts with its own class, and return a confirm trial."""
    code, _, err = run_command(main, *argv)
    assert (code, err) == (0, "")
    out = argv[argv.index("--out") + 1]
    record = next(record for record in Store(out, "run").records() if record.phase == "confirm")
    predictions = pandas.read_parquet(Path(out) / "run" / "predictions" / f"{record.key}.parquet")
    assert predictions.gold.tolist() == list(labels)
    assert predictions.example_id.tolist() == list(range(len(labels)))
    assert record.test_n == len(labels)
    assert record.test_accuracy == (predictions.gold == predictions.predicted).mean()
    assert json.loads((Path(out) / "run" / "manifest.json").read_text())["status"] == "complete"
    return record


def run_refused(argv):
    """Run a sweep that is refused because of its data, after the plan was printed; return code and output."""
    code, out, err = run_command(main, *argv)
    assert not (Path(argv[argv.index("--out") + 1]) / "run" / "trials").exists(), "no trial has been written"
    return code, out, err


def task_folder(argv):
    return Path(argv[-1].removeprefix("task="))


def test_the_unchanged_task_folder_is_valid(make_task):
    record = check_all_rows_scored(make_task(), [row["label"] for row in TEST_ROWS])
    assert record.protocol.endswith("reported on test.jsonl")


# --- any labels and texts --------------------------------------------------------------------------------------------

CLASSES = ["bug", "other", "None", "one", "nan"]
WORDS = [" bad", " great", " yes", " no", " maybe"]
labels = st.sampled_from([0, 1, 2, 3, 4, "0", "4", "bug", " other ", "None", "nan", "1.0", "04"]) | st.sampled_from(
    [None, True, 5, -1, 1.0, 0.5, float("nan"), "", "Bug", "5", "-1", "bugs", "٣", "9" * 5000, {}]
)
short_texts = texts.filter(lambda text: len(text) < 99) | st.just("plain")


def class_number(label):
    """Return the number of the class that a label in a row of JSON names; None if it names none."""
    if isinstance(label, bool) or not isinstance(label, int | float | str):
        return None
    if isinstance(label, str) and label.strip() in CLASSES:
        return CLASSES.index(label.strip())
    try:
        number = float(label)
    except ValueError:
        return None
    return int(number) if number in range(len(CLASSES)) else None


def is_readable(text):
    try:
        return bool(text.encode() and text.strip())
    except UnicodeEncodeError:
        return False


@fixed(150)
@given(rows=st.lists(st.tuples(short_texts, labels), min_size=1, max_size=4))
@example(rows=[("a", None)])
@example(rows=[("\ud800", 0)])
@example(rows=[("a", "9" * 5000)])
def test_rows_count_as_labelled_or_the_first_bad_one_is_named(make_task, rows):
    content = jsonl_bytes({"text": text, "label": label} for text, label in rows)
    argv = make_task({"classes": CLASSES, "label_words": WORDS}, report=content)
    task = tasks.get(str(task_folder(argv)))
    bad_rows = [i for i, (text, label) in enumerate(rows) if not is_readable(text) or class_number(label) is None]
    if bad_rows:
        with pytest.raises(ValueError, match=rf"test\.jsonl, row {bad_rows[0]}: `(text|label)` is "):
            examples.load_split(task, "test.jsonl")
    else:
        loaded = [(row.text_by_column["text"], row.class_number) for row in examples.load_split(task, "test.jsonl")]
        assert loaded == [(text.strip(), class_number(label)) for text, label in rows]


@fixed(12)
@given(rows=st.lists(st.tuples(short_texts, labels), min_size=1, max_size=3))
def test_the_command_scores_all_rows_or_names_the_first_bad_one(make_task, rows):
    content = jsonl_bytes({"text": text, "label": label} for text, label in rows)
    train = [{"text": f"line {i}", "label": i % len(CLASSES)} for i in range(20)]
    argv = make_task({"classes": CLASSES, "label_words": WORDS}, train=jsonl_bytes(train), report=content)
    bad_rows = [i for i, (text, label) in enumerate(rows) if not is_readable(text) or class_number(label) is None]
    if bad_rows:
        assert f"test.jsonl, row {bad_rows[0]}: " in error_line(*run_refused(argv))
    else:
        check_all_rows_scored(argv, [class_number(label) for _, label in rows])


# --- damaged files ---------------------------------------------------------------------------------------------------


@fixed(80)
@given(place=st.floats(0, 1), change=st.sampled_from(["cut", "flip", "zero", "insert"]), bits=st.integers(1, 255))
def test_a_damaged_parquet_file_is_read_or_named(tmp_path, place, change, bits):
    intact = parquet_bytes([{"text": f"text {i}", "label": i % 2} for i in range(20)])
    position = min(int(place * len(intact)), len(intact) - 1)
    path = tmp_path / "a.parquet"
    path.write_bytes(
        {
            "cut": intact[:position],
            "flip": intact[:position] + bytes([intact[position] ^ bits]) + intact[position + 1 :],
            "zero": intact[:position] + bytes(min(40, len(intact) - position)) + intact[position + 40 :],
            "insert": intact[:position] + bytes([bits]) + intact[position:],
        }[change]
    )
    rows, error = outcome(lambda: read_rows(path))
    assert rows or str(path) in error


@fixed(80)
@given(content=st.binary(max_size=40) | texts.map(lambda text: text.encode("utf-8", "surrogatepass")),
       suffix=st.sampled_from(["csv", "jsonl", "parquet"]), has_header=st.booleans())  # fmt: skip
def test_a_file_of_any_bytes_is_read_or_named(tmp_path, content, suffix, has_header):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes((b"text,label\n" if has_header and suffix == "csv" else b"") + content)
    rows, error = outcome(lambda: read_rows(path))
    assert str(path) in error if error else all(isinstance(row, dict) for row in rows)


DEEP_JSON = b"[" * 100_000


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("test.jsonl", DEEP_JSON, ["line 1 cannot be used"]),
        ("test.jsonl", b'{"text": "a", "label": ' + b"9" * 5000 + b"}", ["line 1 cannot be used"]),
        ("test.jsonl", b'{"text": "a", "label": NaN}', ["`label` is nan", "0 to 1 (bug, other)"]),
        ("test.jsonl", b'{"text": "a", "label": null}', ["`label` is None"]),
        ("test.jsonl", b'{"text": "a", "text": "b", "label": 0}', ["line 1", "two columns 'text'"]),
        ("test.jsonl", b'{"text": "\\ud83d", "label": 0}', ["row 0: `text` is '\\ud83d'"]),
        ("test.jsonl", b'{"text": ["' + b"x" * 10**7 + b'"], "label": 0}', ["row 0: `text` is ['xxx"]),
        ("test.jsonl", '{"text": "é", "label": 0}'.encode("latin-1"), ["not text in UTF-8"]),
        ("test.jsonl", '{"text": "a", "label": 0}'.encode("utf-16"), ["not text in UTF-8"]),
        ("test.csv", b"text,text,label\na,b,0\n", ["two columns 'text'"]),
        ("test.csv", b"text,label\n" + "é,0\n".encode("latin-1"), ["not a CSV file in UTF-8"]),
        ("test.csv", "text,label\na,0\n".encode("utf-16"), ["not a CSV file in UTF-8"]),
        ("test.csv", b'text,label\n"a,0\nb,1\n', ["not a CSV file"]),
        ("test.csv", b"text,label\na,\n", ["row 0: `label` is ''"]),
        ("test.csv", b"a,0\nb,1\n", ["has no column 'text'", "it has a, 0"]),
        ("test.parquet", parquet_bytes([{"text": b"\xff", "label": 0}]), ["row 0: `text` is b'\\xff'"]),
        ("test.parquet", parquet_bytes([{"text": "a", "label": 0}, {"text": None, "label": 0}]),
         ["row 1: `text` is None"]),
        ("test.parquet", parquet_bytes([{"text": "a", "label": 0.0}, {"text": "b"}]), ["row 1: `label` is None"]),
        ("test.parquet", parquet_bytes([{"text": {"a": "b"}, "label": 0}]), ["row 0: `text` is {'a': 'b'}"]),
        ("test.parquet", parquet_bytes([{"label": 0}]), ["has no column 'text'", "it has label"]),
        ("test.parquet", parquet_bytes(TEST_ROWS)[:-9], ["not a Parquet file", "copy it again"]),
        ("test.parquet", jsonl_bytes(TEST_ROWS), ["not a Parquet file", "copy it again"]),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_with_one_line_before_any_trial(make_task, name, content, words):
    argv = make_task({"report": name}, report=content)
    line = error_line(*run_refused(argv))
    for word in (name, *words):
        assert word in line


@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_or_two_training_rows_are_refused_and_three_are_enough(make_task, count):
    argv = make_task(train=jsonl_bytes(TRAIN_ROWS[:count]))
    if count == 1:
        assert "leave no example to train on: give more rows" in error_line(*run_refused(argv))
    elif count == 2:  # one row is held out to select on, and its class has no other row
        assert "the hold-out leaves no row of bug to train on" in error_line(*run_refused(argv))
        assert run_command(main, *argv, "--set", "holdout=validation")[0] == 0
    else:
        check_all_rows_scored(argv, [row["label"] for row in TEST_ROWS])


def test_one_reported_row_cannot_be_halved(make_task):
    argv = [*make_task(report=jsonl_bytes(TEST_ROWS[:1])), "--set", "holdout=validation"]
    assert "leave no example to select on: give more rows" in error_line(*run_refused(argv))
    check_all_rows_scored(make_task(report=jsonl_bytes(TEST_ROWS[:1])), [TEST_ROWS[0]["label"]])


def test_training_rows_of_one_class_are_refused(make_task):
    argv = make_task(train=jsonl_bytes({**row, "label": 1} for row in TRAIN_ROWS))
    assert "all 8 rows of train.jsonl" in error_line(*run_refused(argv))
    check_all_rows_scored(make_task(report=jsonl_bytes({**row, "label": 1} for row in TEST_ROWS)), [1] * 5)


def test_reported_texts_that_are_trained_on_are_counted(make_task):
    record = check_all_rows_scored(
        make_task(report=jsonl_bytes([*TRAIN_ROWS[:3], *TEST_ROWS])), [0, 1, 0, *(row["label"] for row in TEST_ROWS)]
    )
    assert record.protocol.endswith("reported on test.jsonl, 3 of which also stand in train.jsonl")


def test_the_same_file_for_train_and_report_is_refused(make_task):
    argv = make_task({"report": "./train.jsonl"})
    refused(main, *argv, words=["`train` and `report` are both", "not trained on"])


@pytest.mark.parametrize(
    ("name", "to_bytes"),
    [("long.jsonl", jsonl_bytes), ("long.csv", csv_bytes), ("long.parquet", parquet_bytes)],
)
def test_a_very_long_text_is_cut(make_task, name, to_bytes):
    rows = [{"text": "word " * 80_000, "label": 1}, *TEST_ROWS]
    record = check_all_rows_scored(
        make_task({"report": name}, report=to_bytes(rows)), [1, *(row["label"] for row in TEST_ROWS)]
    )
    assert record.truncated["test"] == 1


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ({"classes": [" bug", "bug"]}, ["class ' bug' begins or ends with white space"]),
        ({"title": "a\nb"}, ["`title` is 'a\\nb'", "one line"]),
        ({"template": "{text} {body}"}, ["names {body}", "valid fields: {text}, {mask}"]),
        ({"label_words": [" ", " great"]}, ["label_words is [' ', ' great']", "give 2"]),
        ({"label_words": [" bad", " badly"]}, None),  # the tiny model tells all words apart
        ({"label_words": [" xa", " xb"]}, None),
        ({"label_words": [" bad", " großartig"]}, None),
    ],
    ids=str,
)
def test_entries_of_task_toml_are_accepted_or_refused(make_task, toml, words):
    argv = make_task(toml)
    if words is None:
        assert run_command(main, *argv)[0] == 0
    else:
        refused(main, *argv, words=words)


@pytest.mark.parametrize(
    "content", [b"columns = " + b"[" * 50_000, b"a = " + b"9" * 5000, b"\0", b"title = '\xff'", b"[[["]
)
def test_a_task_toml_that_cannot_be_read_is_refused(make_task, content):
    argv = make_task()
    (task_folder(argv) / "task.toml").write_bytes(content)
    refused(main, *argv, words=["task.toml", "cannot be read"])


def test_a_file_name_that_no_system_allows_is_refused(make_task):
    argv = make_task()
    toml = task_folder(argv) / "task.toml"
    toml.write_text(toml.read_text().replace("test.jsonl", "x" * 5000 + ".csv"))
    assert "does not exist" in error_line(*run_refused(argv))


def test_a_file_that_was_removed_is_named_and_the_run_is_kept(make_task):
    argv = make_task()
    check_all_rows_scored(argv, [row["label"] for row in TEST_ROWS])
    trial_files = task_folder(argv) / "results" / "run" / "trials"
    before = {path: path.read_bytes() for path in trial_files.iterdir()}
    (task_folder(argv) / "test.jsonl").unlink()
    data._load_splits.cache_clear()
    assert "test.jsonl does not exist" in error_line(*run_command(main, *argv, "--seeds", "2"))
    assert {path: path.read_bytes() for path in trial_files.iterdir()} == before
    shutil.rmtree(task_folder(argv))


def test_texts_without_tokens_are_refused():
    from lopt.encoding import Example, encode, encode_whole

    def tokenizer(texts, **_):
        return {"input_ids": [[] for _ in texts] if isinstance(texts, list) else [], "offset_mapping": []}

    config = TrialConfig(method="prompt_tuning", task="toy", backbone="tiny", length=2)
    task = tasks.get("toy")
    for encode_text in (
        lambda: encode_whole(tokenizer, task, config.template, [Example(0, {"text": "\u200b"}, 0)]),
        lambda: encode(tokenizer, task, config.template, {"text": "\u200b"}, 9),
    ):
        with pytest.raises(ValueError, match="finds no token in"):
            encode_text()


def test_a_token_limit_that_removes_a_class_is_refused_before_the_first_trial(make_task):
    long_rows = [{"text": "word " * 30 + str(i), "label": 1} for i in range(20)]
    argv = make_task(train=jsonl_bytes([*({"text": f"line {i}", "label": 0} for i in range(20)), *long_rows]))
    line = error_line(*run_refused([*argv, "--set", "train_max_tokens=40"]))
    assert "train_max_tokens = 40 leaves no row of other to train on; there were 20 rows in train.jsonl" in line
    check_all_rows_scored(argv, [row["label"] for row in TEST_ROWS])


def test_one_data_file_is_split_and_its_bad_rows_are_skipped(make_task):
    rows = [*TRAIN_ROWS, {"text": None, "label": 0}, {"text": "fine", "label": "no class"}, *TRAIN_ROWS[:2]]
    argv = make_task({"train": "all.jsonl", "bad_rows": "skip"}, train=jsonl_bytes(rows))
    toml = task_folder(argv) / "task.toml"
    toml.write_text(toml.read_text().replace('train = "all.jsonl"\nreport = "test.jsonl"', 'data = "all.jsonl"'))
    code, out, err = run_command(main, *argv)
    assert (code, err) == (0, "")
    assert "note       2 of 12 rows of all.jsonl skipped, which lack text or a class" in out
    records = Store(argv[argv.index("--out") + 1], "run").records()
    (record,) = [record for record in records if record.phase == "confirm"]
    assert record.test_split == "20 % of all.jsonl"
    assert "also stand in" not in record.protocol, "rows of equal text are all in the same split"
