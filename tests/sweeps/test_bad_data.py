"""The user's own data, of every kind: all rows count as they are labelled, or one line names the row that cannot."""

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
from lopt.rows import rows_of
from sweeps.results.store import Store
from sweeps.run import main
from tests.bad_input import called, fixed, line_of, outcome, refused, texts

TOML = {
    "columns": ["text"],
    "classes": ["bug", "other"],
    "template": "{text} It was",
    "label_words": [" bad", " great"],
    "train": "train.jsonl",
    "report": "test.jsonl",
}
SPACE = (
    "from sweeps.space import Cell, Space, Spec\n"
    "def build(profile):\n"
    "    cell = Cell(name='one', fixed={'method': 'prompt_tuning', 'length': 2}, search={})\n"
    "    return Space(name='one', title='One trial', profile=profile, grid=lambda axes: (cell,), trials=1,\n"
    "        base={'task': 'toy', 'backbone': 'tiny', 'max_steps': 1, 'eval_every': 1, 'precision': 'fp32'},\n"
    "        confirm_seeds=1, grace_steps=1)\n"
    "SPEC = Spec('one', build)\n"
)
TRAIN = [{"text": f"line {i}", "label": i % 2} for i in range(8)]
TEST = [{"text": f"other {i}", "label": (i // 2) % 2} for i in range(5)]


def lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows) -> bytes:
    made = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), made)
    return made.getvalue()


def table(rows) -> bytes:
    made = io.StringIO(newline="")
    writer = csv.DictWriter(made, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return made.getvalue().encode()


@pytest.fixture
def folder(tmp_path):
    """A function that makes a task folder, its files as bytes, and gives the arguments of a sweep on it."""

    def made(toml=(), **files):
        where = Path(tempfile.mkdtemp(dir=tmp_path))
        entries = {**TOML, **dict(toml)}
        (where / "task.toml").write_text(
            "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in entries.items()),
            encoding="utf-8",
        )
        for name, default in (("train", TRAIN), ("report", TEST)):
            (where / entries[name]).write_bytes(files.get(name, lines(default)))
        (where / "one.py").write_text(SPACE)
        out = where / "results"
        return [
            "--space", str(where / "one.py"), "--local-mode", "--out", str(out), "--name", "it", "--set",
            f"task={where}",
        ]  # fmt: skip

    return made


def scored(argv, labels):
    """Of a sweep that ran: each row of the reported split counts, under its own class."""
    code, _, err = called(main, *argv)
    assert (code, err) == (0, "")
    out = argv[argv.index("--out") + 1]
    confirmed = [record for record in Store(out, "it").records() if record.phase == "confirm"]
    found = pandas.read_parquet(Path(out) / "it" / "predictions" / f"{confirmed[0].key}.parquet")
    assert found.gold.tolist() == list(labels)
    assert found.example_id.tolist() == list(range(len(labels)))
    assert confirmed[0].test_n == len(labels)
    assert confirmed[0].test_accuracy == (found.gold == found.predicted).mean()
    assert json.loads((Path(out) / "it" / "manifest.json").read_text())["status"] == "complete"
    return confirmed[0]


def test_the_folder_that_the_others_spoil(folder):
    record = scored(folder(), [row["label"] for row in TEST])
    assert record.protocol.endswith("reported on test.jsonl")


# --- any labels and texts --------------------------------------------------------------------------------------------

CLASSES = ["bug", "other", "None", "one", "nan"]
WORDS = [" bad", " great", " yes", " no", " maybe"]
labels = st.sampled_from([0, 1, 2, 3, 4, "0", "4", "bug", " other ", "None", "nan", "1.0", "04"]) | st.sampled_from(
    [None, True, 5, -1, 1.0, 0.5, float("nan"), "", "Bug", "5", "-1", "bugs", "٣", "9" * 5000, {}]
)
some = texts.filter(lambda text: len(text) < 99) | st.just("plain")


def meant(label):
    """The number of the class that a label of a row of JSON names; None for none."""
    if isinstance(label, bool) or not isinstance(label, int | float | str):
        return None
    if isinstance(label, str) and label.strip() in CLASSES:
        return CLASSES.index(label.strip())
    try:
        number = float(label)
    except ValueError:
        return None
    return int(number) if number in range(len(CLASSES)) else None


def readable(text):
    try:
        return bool(text.encode() and text.strip())
    except UnicodeEncodeError:
        return False


@fixed(150)
@given(
    rows=st.lists(
        st.tuples(texts.filter(lambda text: len(text) < 99) | st.just("plain"), labels), min_size=1, max_size=4
    )
)
@example(rows=[("a", None)])
@example(rows=[("\ud800", 0)])
@example(rows=[("a", "9" * 5000)])
def test_rows_count_as_labelled_or_the_first_bad_one_is_named(folder, rows):
    content = lines({"text": text, "label": label} for text, label in rows)
    task = tasks.get(folder({"classes": CLASSES, "label_words": WORDS}, report=content)[-1].removeprefix("task="))
    bad = [i for i, (text, label) in enumerate(rows) if not readable(text) or meant(label) is None]
    if bad:
        with pytest.raises(ValueError, match=rf"test\.jsonl, row {bad[0]}: (text|label) is "):
            examples.load_split(task, "test.jsonl")
    else:
        found = examples.load_split(task, "test.jsonl")
        assert [(e.fields["text"], e.label) for e in found] == [(t.strip(), meant(label)) for t, label in rows]


@fixed(12)
@given(rows=st.lists(st.tuples(some, labels), min_size=1, max_size=3))
def test_the_command_says_the_same(folder, rows):
    content = lines({"text": text, "label": label} for text, label in rows)
    train = [{"text": f"line {i}", "label": i % len(CLASSES)} for i in range(20)]
    argv = folder({"classes": CLASSES, "label_words": WORDS}, train=lines(train), report=content)
    bad = [i for i, (text, label) in enumerate(rows) if not readable(text) or meant(label) is None]
    if bad:
        assert f"test.jsonl, row {bad[0]}: " in line_of(*told(argv))
    else:
        scored(argv, [meant(label) for _, label in rows])


def told(argv):
    """A refusal that comes with the data, when the plan is printed already."""
    code, out, err = called(main, *argv)
    assert not (Path(argv[argv.index("--out") + 1]) / "it" / "trials").exists(), "nothing is written"
    return code, out, err


# --- damaged files ---------------------------------------------------------------------------------------------------


@fixed(80)
@given(place=st.floats(0, 1), change=st.sampled_from(["cut", "flip", "zero", "insert"]), bits=st.integers(1, 255))
def test_a_damaged_parquet_file(tmp_path, place, change, bits):
    whole = parquet([{"text": f"text {i}", "label": i % 2} for i in range(20)])
    at = min(int(place * len(whole)), len(whole) - 1)
    path = tmp_path / "a.parquet"
    path.write_bytes(
        {
            "cut": whole[:at],
            "flip": whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :],
            "zero": whole[:at] + bytes(min(40, len(whole) - at)) + whole[at + 40 :],
            "insert": whole[:at] + bytes([bits]) + whole[at:],
        }[change]
    )
    rows, error = outcome(lambda: rows_of(path))
    assert rows or str(path) in error


@fixed(80)
@given(content=st.binary(max_size=40) | texts.map(lambda text: text.encode("utf-8", "surrogatepass")),
       suffix=st.sampled_from(["csv", "jsonl", "parquet"]), head=st.booleans())  # fmt: skip
def test_any_bytes(tmp_path, content, suffix, head):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes((b"text,label\n" if head and suffix == "csv" else b"") + content)
    rows, error = outcome(lambda: rows_of(path))
    assert str(path) in error if error else all(isinstance(row, dict) for row in rows)


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("test.jsonl", DEEP, ["line 1 is not valid JSON"]),
        ("test.jsonl", b'{"text": "a", "label": ' + b"9" * 5000 + b"}", ["line 1 is not valid JSON"]),
        ("test.jsonl", b'{"text": "a", "label": NaN}', ["label is nan", "0 to 1 (bug, other)"]),
        ("test.jsonl", b'{"text": "a", "label": null}', ["label is None"]),
        ("test.jsonl", b'{"text": "a", "text": "b", "label": 0}', ["line 1", "two columns 'text'"]),
        ("test.jsonl", b'{"text": "\\ud83d", "label": 0}', ["row 0: text is '\\ud83d'"]),
        ("test.jsonl", b'{"text": ["' + b"x" * 10**7 + b'"], "label": 0}', ["row 0: text is ['xxx"]),
        ("test.jsonl", '{"text": "é", "label": 0}'.encode("latin-1"), ["not text in UTF-8"]),
        ("test.jsonl", '{"text": "a", "label": 0}'.encode("utf-16"), ["not text in UTF-8"]),
        ("test.csv", b"text,text,label\na,b,0\n", ["two columns 'text'"]),
        ("test.csv", b"text,label\n" + "é,0\n".encode("latin-1"), ["not a CSV file in UTF-8"]),
        ("test.csv", "text,label\na,0\n".encode("utf-16"), ["not a CSV file in UTF-8"]),
        ("test.csv", b'text,label\n"a,0\nb,1\n', ["not a CSV file"]),
        ("test.csv", b"text,label\na,\n", ["row 0: label is ''"]),
        ("test.csv", b"a,0\nb,1\n", ["has no column 'text'", "it has a, 0"]),
        ("test.parquet", parquet([{"text": b"\xff", "label": 0}]), ["row 0: text is b'\\xff'"]),
        ("test.parquet", parquet([{"text": "a", "label": 0}, {"text": None, "label": 0}]), ["row 1: text is None"]),
        ("test.parquet", parquet([{"text": "a", "label": 0.0}, {"text": "b"}]), ["row 1: label is None"]),
        ("test.parquet", parquet([{"text": {"a": "b"}, "label": 0}]), ["row 0: text is {'a': 'b'}"]),
        ("test.parquet", parquet([{"label": 0}]), ["has no column 'text'", "it has label"]),
        ("test.parquet", parquet(TEST)[:-9], ["not a Parquet file", "copy it again"]),
        ("test.parquet", lines(TEST), ["not a Parquet file", "copy it again"]),
    ],
)  # fmt: skip
def test_a_bad_file_is_one_line_and_nothing_is_lost(folder, name, content, words):
    argv = folder({"report": name}, report=content)
    line = line_of(*told(argv))
    for word in (name, *words):
        assert word in line


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(folder, rows):
    argv = folder(train=lines(TRAIN[:rows]))
    if rows == 1:
        assert "leave no example to train on: give more rows" in line_of(*told(argv))
    elif rows == 2:  # one is held out to select on, and with it a class
        assert "the hold-out leaves no row of bug to train on" in line_of(*told(argv))
        assert called(main, *argv, "--set", "holdout=validation")[0] == 0
    else:
        scored(argv, [row["label"] for row in TEST])


def test_one_reported_row_cannot_be_halved(folder):
    argv = [*folder(report=lines(TEST[:1])), "--set", "holdout=validation"]
    assert "leave no example to select on: give more rows" in line_of(*told(argv))
    scored(folder(report=lines(TEST[:1])), [TEST[0]["label"]])


def test_one_class_gives_nothing_to_learn(folder):
    argv = folder(train=lines({**row, "label": 1} for row in TRAIN))
    assert "all 8 rows of train.jsonl" in line_of(*told(argv))
    scored(folder(report=lines({**row, "label": 1} for row in TEST)), [1] * 5)


def test_reported_texts_that_are_trained_on_are_counted(folder):
    record = scored(folder(report=lines([*TRAIN[:3], *TEST])), [0, 1, 0, *(row["label"] for row in TEST)])
    assert record.protocol.endswith("reported on test.jsonl, 3 of which also stand in train.jsonl")


def test_one_file_under_two_names(folder):
    argv = folder({"report": "./train.jsonl"})
    refused(main, *argv, words=["train and report are both", "not trained on"])


@pytest.mark.parametrize("form", [lines, table, parquet])
def test_a_very_long_text_is_cut(folder, form):
    name = {lines: "long.jsonl", table: "long.csv", parquet: "long.parquet"}[form]
    rows = [{"text": "word " * 80_000, "label": 1}, *TEST]
    record = scored(folder({"report": name}, report=form(rows)), [1, *(row["label"] for row in TEST)])
    assert record.truncated["test"] == 1


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ({"classes": [" bug", "bug"]}, ["class ' bug' begins or ends with a blank"]),
        ({"title": "a\nb"}, ["title is 'a\\nb'", "one line"]),
        ({"template": "{text} {body}"}, ["names {body}", "valid fields: {text}, {mask}"]),
        ({"label_words": [" ", " great"]}, ["label_words is [' ', ' great']", "give 2"]),
        ({"label_words": [" bad", " badly"]}, None),  # the tiny model tells any words apart
        ({"label_words": [" xa", " xb"]}, None),
        ({"label_words": [" bad", " großartig"]}, None),
    ],
    ids=str,
)
def test_entries_of_a_task(folder, toml, words):
    argv = folder(toml)
    if words is None:
        assert called(main, *argv)[0] == 0
    else:
        refused(main, *argv, words=words)


@pytest.mark.parametrize(
    "content", [b"columns = " + b"[" * 50_000, b"a = " + b"9" * 5000, b"\0", b"title = '\xff'", b"[[["]
)
def test_a_task_toml_that_cannot_be_read(folder, content):
    argv = folder()
    (Path(argv[-1].removeprefix("task=")) / "task.toml").write_bytes(content)
    refused(main, *argv, words=["task.toml", "cannot be read"])


def test_files_with_names_that_no_system_takes(folder):
    argv = folder()
    toml = Path(argv[-1].removeprefix("task=")) / "task.toml"
    toml.write_text(toml.read_text().replace("test.jsonl", "x" * 5000 + ".csv"))
    assert "does not exist" in line_of(*told(argv))


def test_a_fallen_away_file_is_named_and_the_run_is_kept(folder):
    argv = folder()
    scored(argv, [row["label"] for row in TEST])
    where = Path(argv[-1].removeprefix("task="))
    before = {p: p.read_bytes() for p in (where / "results" / "it" / "trials").iterdir()}
    (where / "test.jsonl").unlink()
    data._load.cache_clear()
    assert "test.jsonl does not exist" in line_of(*called(main, *argv, "--seeds", "2"))
    assert {p: p.read_bytes() for p in (where / "results" / "it" / "trials").iterdir()} == before
    shutil.rmtree(where)


def test_tokenless_texts_are_refused(monkeypatch):
    from lopt.encoding import Example, encode, encode_all

    def tokenizer(texts, **_):
        return {"input_ids": [[] for _ in texts] if isinstance(texts, list) else [], "offset_mapping": []}

    config = TrialConfig(method="prompt_tuning", task="toy", backbone="tiny", length=2)
    task = tasks.get("toy")
    for attempt in (
        lambda: encode_all(tokenizer, task, config.template, [Example(0, {"text": "\u200b"}, 0)]),
        lambda: encode(tokenizer, task, config.template, {"text": "\u200b"}, 9),
    ):
        with pytest.raises(ValueError, match="finds no token in"):
            attempt()


def test_a_class_that_a_limit_takes_away_stops_the_sweep_before_its_first_trial(folder):
    long = [{"text": "word " * 30 + str(i), "label": 1} for i in range(20)]
    argv = folder(train=lines([*({"text": f"line {i}", "label": 0} for i in range(20)), *long]))
    line = line_of(*told([*argv, "--set", "train_max_tokens=40"]))
    assert "train_max_tokens = 40 leaves no row of other to train on; there were 20 rows in train.jsonl" in line
    scored(argv, [row["label"] for row in TEST])


def test_one_file_serves_for_both_and_its_bad_rows_are_left_out(folder):
    rows = [*TRAIN, {"text": None, "label": 0}, {"text": "fine", "label": "no class"}, *TRAIN[:2]]
    argv = folder({"train": "all.jsonl", "bad_rows": "skip"}, train=lines(rows))
    toml = Path(argv[-1].removeprefix("task=")) / "task.toml"
    toml.write_text(toml.read_text().replace('train = "all.jsonl"\nreport = "test.jsonl"', 'data = "all.jsonl"'))
    code, out, err = called(main, *argv)
    assert (code, err) == (0, "")
    assert "note       2 of 12 rows of all.jsonl skipped, which lack text or a class" in out
    (record,) = [r for r in Store(argv[argv.index("--out") + 1], "it").records() if r.phase == "confirm"]
    assert record.test_split == "20 % of all.jsonl"
    assert "also stand in" not in record.protocol, "equal texts are on one side"
