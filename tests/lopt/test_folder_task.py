"""A task of the user's own: a folder with a task.toml and files of rows."""

from __future__ import annotations

import csv
import json
import re

import pyarrow
import pyarrow.parquet
import pytest

from lopt import data, load_prompt, tasks, train
from lopt.config import TrialConfig
from lopt.examples import load_split

ENTRIES = {
    "columns": ["subject", "body"],
    "label": "queue",
    "classes": ["money", "errors"],
    "template": "{subject}: {body} It was",
    "label_words": [" bad", " great"],
    "train": "train.csv",
    "report": "test.csv",
}
ROWS = [
    {"subject": f"Ticket {i}", "body": "charged twice, again" if i % 2 else 'it says "error"\nand stops', "queue": name}
    for i, name in enumerate(["errors", "money"] * 20)
]


def write_toml(folder, **changes):
    """Write a task.toml with `ENTRIES` and the changes given; None leaves an entry out."""
    entries = {name: value for name, value in {**ENTRIES, **changes}.items() if value is not None}
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in entries.items()]
    (folder / "task.toml").write_text("".join(lines), encoding="utf-8")


def write_rows(path, rows):
    """Write rows as Parquet, JSON lines or CSV, by the suffix of the path."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


@pytest.fixture
def folder(tmp_path):
    """A folder task of 40 training and 12 reported rows in CSV."""
    task_folder = tmp_path / "tickets"
    task_folder.mkdir()
    write_toml(task_folder)
    write_rows(task_folder / "train.csv", ROWS)
    write_rows(task_folder / "test.csv", ROWS[:12])
    return task_folder


def one_line(caught) -> str:
    """Return the message of a caught exception, which must be one line."""
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_rows_are_the_same_from_every_kind_of_file(folder, suffix):
    write_toml(folder, train=f"train.{suffix}")
    write_rows(folder / f"train.{suffix}", ROWS)
    examples = load_split(tasks.get(str(folder)), f"train.{suffix}")
    assert len(examples) == 40
    assert [example.class_number for example in examples[:4]] == [1, 0, 1, 0]
    assert dict(examples[0].text_by_column) == {"subject": "Ticket 0", "body": 'it says "error"\nand stops'}
    assert [example.id for example in examples] == list(range(40))


def test_optional_entries_have_defaults(folder):
    task = tasks.get(str(folder))
    assert (task.title, task.cut_column, task.name) == ("tickets", "body", str(folder))
    write_toml(folder, title="Support tickets", cut="subject", label=None)
    task = tasks.get(str(folder))
    assert (task.title, task.cut_column, task.label) == ("Support tickets", "subject", "label")


@pytest.mark.parametrize(
    ("classes", "labels", "suffix", "expected"),
    [
        (["money", "errors"], ["errors", "money", " errors "], "csv", [1, 0, 1]),
        (["money", "errors"], [1, 0, 1], "csv", [1, 0, 1]),
        (["money", "errors"], [1, 0, 1], "parquet", [1, 0, 1]),
        (["money", "errors"], [1, "money", 0], "jsonl", [1, 0, 0]),
        (["False", "True"], [True, False, True], "parquet", [1, 0, 1]),
        (["False", "True"], [True, False, True], "csv", [1, 0, 1]),
        (["false", "true"], [True, False, True], "jsonl", [1, 0, 1]),
        (["True", "False"], [True, False, True], "jsonl", [0, 1, 0]),
        (["1", "2", "3", "4", "5"], [5, 1, 3], "csv", [4, 0, 2]),
        (["1", "2", "3", "4", "5"], [5, 1, 3], "parquet", [4, 0, 2]),
        (["1", "2", "3", "4", "5"], ["5", "1", "3"], "jsonl", [4, 0, 2]),
        (["2", "1", "0"], [2, 0, 1], "csv", [0, 2, 1]),
        (["money", "errors"], [1.0, 0.0], "csv", [1, 0]),  # as pandas writes a column of whole numbers with a gap
        (["money", "errors"], [1.0, 0.0], "parquet", [1, 0]),
        (["1", "2", "3"], [3.0, 1.0], "csv", [2, 0]),
        (["1", "2", "3"], [3.0, 1.0], "jsonl", [2, 0]),
        (["1.0", "0.0"], [1.0, 0.0], "parquet", [0, 1]),
        (["1.0", "0.0"], [1, 0], "csv", [0, 1]),  # the file without a gap
        (["1.0", "0.0"], [1, 0], "parquet", [0, 1]),
        (["-1", "-0.5"], [-0.5, -1], "csv", [1, 0]),
        (["01", "1"], ["1", "01"], "jsonl", [1, 0]),
        (["12345678901234567890", "12345678901234567891"], ["12345678901234567891"], "csv", [1]),
    ],
)
def test_a_label_is_a_class_name_a_class_number_or_a_boolean(folder, classes, labels, suffix, expected):
    words = [f" word{i}" for i in range(len(classes))]
    write_toml(folder, classes=classes, label_words=words, train=f"labels.{suffix}")
    write_rows(folder / f"labels.{suffix}", [{"subject": "a", "body": "b", "queue": label} for label in labels])
    assert [example.class_number for example in load_split(tasks.get(str(folder)), f"labels.{suffix}")] == expected


@pytest.mark.parametrize(
    ("classes", "label"),
    [
        (["1", "2"], 0), (["1", "2", "3", "4", "5"], 0), (["0", "1"], 2), (["-1", "-2"], 1), (["0.5", "1.5"], 0),
        (["01", "1"], "1.0"),
    ],
)  # fmt: skip
def test_with_classes_named_by_numbers_a_number_is_never_a_position(folder, classes, label):
    write_toml(folder, classes=classes, label_words=[f" word{i}" for i in range(len(classes))])
    write_rows(folder / "train.csv", [{"subject": "a", "body": "b", "queue": value} for value in (classes[0], label)])
    with pytest.raises(ValueError) as caught:
        load_split(tasks.get(str(folder)), "train.csv")
    assert one_line(caught).endswith(f"train.csv, row 1: `queue` is '{label}'; valid: {', '.join(classes)}")


@pytest.mark.parametrize("label", [None, float("nan"), float("inf"), 0.5, -1.0, 2.0, True, [0], "0.5", "1e0"])
def test_a_label_that_is_neither_a_whole_number_nor_a_class_name_is_refused(folder, label):
    write_toml(folder, classes=["nan", "None"], train="train.jsonl")
    write_rows(folder / "train.jsonl", [{"subject": "a", "body": "b", "queue": value} for value in (0, label)])
    with pytest.raises(ValueError, match="1 of 2 rows cannot be used"):
        load_split(tasks.get(str(folder)), "train.jsonl")


def test_files_that_other_programs_write_are_read(folder):
    (folder / "train.csv").write_bytes(
        b'\xef\xbb\xbfsubject,body,queue\r\n\xc3\xa4,"b,\r\nc",money\r\n\r\nd,e,errors\r\n'
    )
    examples = load_split(tasks.get(str(folder)), "train.csv")
    assert [(example.text_by_column["subject"], example.class_number) for example in examples] == [("ä", 0), ("d", 1)]
    write_toml(folder, train="train.jsonl")
    row = {"subject": "one\u2028line\x85still", "body": "b", "queue": "money"}
    line = json.dumps(row, ensure_ascii=False)
    (folder / "train.jsonl").write_bytes(f"\ufeff{line}\r\n\r\n{line}".encode())
    examples = load_split(tasks.get(str(folder)), "train.jsonl")
    assert [example.text_by_column["subject"] for example in examples] == ["one\u2028line\x85still"] * 2


def test_a_mirror_of_the_benchmarks_does_not_hide_a_task_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LOPT_DATA_DIR", str(tmp_path))
    assert len(load_split(tasks.get(str(folder)), "train.csv")) == 40


def test_a_task_folder_is_found_by_any_form_of_its_path(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    expected = tasks.get(str(folder))
    for name in ("tickets", "./tickets", "./tickets/", "~/tickets", f"{folder}/../tickets"):
        assert tasks.get(name) == expected


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"columns": None}, ["lacks columns", "columns, classes, template, label_words, train, report"]),
        ({"train": None, "report": None}, ["lacks train, report"]),
        ({"colums": ["a"]}, ["unknown entry 'colums'", "valid: columns, ", "Did you mean 'columns'"]),
        ({"columns": "body"}, ["`columns` is 'body'", "a list of texts"]),
        ({"columns": []}, ["`columns` is []", "a list of texts"]),
        ({"columns": ["subject", 3]}, ["`columns` is ['subject', 3]", "a list of texts"]),
        ({"columns": ["body", "body"]}, ["`columns` is ['body', 'body']", "once"]),
        ({"columns": ["mask", "body"]}, ["column 'mask'", "rename it"]),
        ({"columns": ["0", "body"]}, ["column '0'", "rename it"]),
        ({"columns": ["mail.body", "body"]}, ["column 'mail.body'", "rename it", "[].!:"]),
        ({"classes": ["money"]}, ["`classes` is ['money']", "two or more"]),
        ({"classes": ["money", "money"]}, ["`classes` is ['money', 'money']", "once"]),
        ({"classes": [0, 1]}, ["`classes` is [0, 1]", "a list of texts"]),
        ({"template": ""}, ["`template` is ''", "give text"]),
        ({"template": 3}, ["`template` is 3", "give text"]),
        ({"template": "{text} It was"}, ["names {text}", "valid fields: {subject}, {body}, {mask}"]),
        ({"template": "{subject} It was"}, ["leaves out {body}"]),
        ({"template": "{body"}, ["cannot be read", "valid fields: {subject}, {body}, {mask}"]),
        ({"label_words": [" bad"]}, ["label_words is [' bad']", "give 2", "money, errors"]),
        ({"label_words": [" bad", " bad"]}, ["`label_words` is [' bad', ' bad']", "once"]),
        ({"label": 1}, ["`label` is 1", "give text"]),
        ({"label": "body"}, ["`label` is 'body'", "another column"]),
        ({"title": " "}, ["`title` is ' '", "one line of text"]),
        ({"cut": "text"}, ["`cut` is 'text'", "valid: subject, body"]),
        ({"report": "train.csv"}, ["`train` and `report` are both 'train.csv'", "not trained on"]),
    ],
    ids=lambda value: None if isinstance(value, list) else ", ".join(value),
)
def test_a_bad_entry_is_named_with_what_is_valid(folder, changes, words):
    write_toml(folder, **changes)
    with pytest.raises(ValueError) as caught:
        TrialConfig(method="lopt1", task=str(folder), backbone="tiny", rank=2)
    message = one_line(caught)
    for word in (str(folder / "task.toml"), *words):
        assert word in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"columns = [\n", ["cannot be read", "end of document"]),
        (b"columns", ["cannot be read", "Expected '='"]),
        (b"title = \xff", ["cannot be read", "utf-8"]),
    ],
)
def test_a_damaged_task_toml_is_named(folder, content, words):
    (folder / "task.toml").write_bytes(content)
    with pytest.raises(ValueError) as caught:
        tasks.get(str(folder))
    message = one_line(caught)
    for word in (str(folder / "task.toml"), *words):
        assert word in message


def test_a_folder_without_task_toml_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError) as caught:
            tasks.get(str(path))
        assert one_line(caught).startswith(
            f"task '{path}' is not a folder with a task.toml; that file must have columns, classes"
        )


def test_an_unknown_name_lists_the_built_in_tasks(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    with pytest.raises(ValueError, match=r"unknown task 'ticket'; valid: ag_news, boolq, ") as caught:
        tasks.get("ticket")
    one_line(caught)
    folder.rename(folder.with_name("toy"))
    assert tasks.get("toy").title == "Toy (made up)", "a folder hides no built-in task"
    assert tasks.get("./toy").title == "toy"


_HEAD = b"subject,body,queue\n"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train.csv", None, ["train.csv does not exist", "task.toml"]),
        ("train.txt", _HEAD, ["train.txt has the suffix .txt", "valid: .parquet, .csv, .jsonl"]),
        ("train", _HEAD, ["train has no suffix", "valid: .parquet, .csv, .jsonl"]),
        ("train.csv", b"", ["train.csv holds no rows"]),
        ("train.csv", _HEAD, ["train.csv holds no rows"]),
        ("train.jsonl", b"\n\n", ["train.jsonl holds no rows"]),
        ("train.csv", b"subject;queue\na;money\n", ["no column 'subject'", "subject;queue, separated by semicolons"]),
        ("train.csv", b"subject\tqueue\na\tmoney\n", ["separated by tabs: save the file with commas"]),
        ("train.csv", _HEAD + b"a,b,money\na,b\n", ["train.csv, line 3", "a different number of fields"]),
        ("train.csv", _HEAD + b'"a\na",b,money\n\na,b,money,4\n', ["train.csv, line 5", "different number of fields"]),
        ("train.csv", _HEAD + b'a,"b"b,money\n', ["train.csv is not a CSV file in UTF-8", "','"]),
        ("train.csv", _HEAD + b"\xe4,b,money\n", ["train.csv is not a CSV file in UTF-8", "0xe4"]),
        (
            "train.csv",
            _HEAD + b'a,b,1\n"a,b,1\na,b,0\n',
            ["(line 3: a quote in the row that begins on this line is not closed)"],
        ),
        ("train.csv", b'"subject,body,queue\na,b,1\n', ["UTF-8 (line 1: a quote"]),
        ("train.csv", _HEAD + b'"a\na",b,1\nc,"d"e,1\n', ["UTF-8 (line 4: ',' expected"]),
        ("train.csv", _HEAD + b"a,b,1\n\xe4,b,money\n", ["UTF-8 (line 3: byte 0xe4", "save the file as UTF-8"]),
        ("train.csv", (_HEAD + b"a,b,1\n").decode().encode("utf-16"), ["line 1", "UTF-16", "save the file as UTF-8"]),
        ("train.csv", (_HEAD + b"a,b,1\n").decode().encode("utf-16-le"), ["line 1 holds zero bytes", "save the file"]),
        ("train.csv", _HEAD + b"a,b,1\n\0\0\0\0", ["train.csv, line 3", "a different number of fields"]),
        (
            "train.jsonl",
            b'{"subject": "a"}\n{"subject": }\n',
            ["line 2 is not valid JSON (Expecting value at column 13)"],
        ),
        ("train.jsonl", b'{"a": "b"}\n{"subject": "\xff"}', ["train.jsonl is not text in UTF-8 (line 2: byte 0xff"]),
        ("train.jsonl", '{"a": 1}'.encode("utf-16-be"), ["train.jsonl, line 1 is not valid JSON (it holds zero bytes"]),
        ("train.csv", _HEAD + b"a,b,1\na,b,other\n", ["row 1: `queue` is 'other'", "0 to 1 (money, errors)"]),
        ("train.csv", _HEAD + b"a,b,2\n", ["train.csv, row 0: `queue` is '2'", "0 to 1 (money, errors)"]),
        ("train.csv", _HEAD + b"a, ,money\n", ["train.csv, row 0: `body` is ' '", "give text"]),
        ("train.jsonl", b'{"subject": "a"\n', ["train.jsonl, line 1 is not valid JSON"]),
        ("train.jsonl", b"[1, 2]\n", ["train.jsonl, line 1 is not a JSON object"]),
        ("train.jsonl", b'{"subject": "\xff"}', ["train.jsonl is not text in UTF-8", "0xff"]),
        (
            "train.jsonl",
            b'{"subject": "a", "body": "b", "queue": 0}\n{"subject": "a", "queue": 0}\n',
            ["train.jsonl, row 1 has no column 'body'", "it has subject, queue"],
        ),
        (
            "train.jsonl",
            b'{"subject": "a", "body": 5, "queue": 0}\n',
            ["train.jsonl, row 0: `body` is 5", "give text"],
        ),
        (
            "train.jsonl",
            b'{"subject": "a", "body": "b", "queue": true}\n',
            ["train.jsonl, row 0: `queue` is True", "0 to 1 (money, errors)"],
        ),
        ("train.parquet", b"PAR1 cut off", ["train.parquet is not a Parquet file", "copy it again"]),
    ],
)  # fmt: skip
def test_a_bad_file_is_named_with_what_is_valid(folder, name, content, words):
    write_toml(folder, train=name)
    (folder / "train.csv").unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError) as caught:
        data.data_revision(str(folder))
    message = one_line(caught)
    for word in words:
        assert word in message
    assert re.search(rf"tickets/{re.escape(name)}\b", message)


# --- training --------------------------------------------------------------------------------------------------------


def trial(folder, **changes):
    return TrialConfig(
        **{
            "method": "lopt1", "task": str(folder), "backbone": "tiny", "length": 4, "rank": 2, "batch_size": 8,
            "max_steps": 4, "eval_every": 2, "precision": "fp32", **changes,
        }
    )  # fmt: skip


def test_a_task_folder_trains_is_scored_and_predicts(folder, tmp_path):
    record = train(trial(folder), artifact=tmp_path / "prompt")
    assert record.status == "complete"
    assert (record.test_n, record.selection_n, record.test_split) == (12, 4, "test.csv")
    assert record.config["task"] == str(folder)
    assert record.protocol.endswith("reported on test.csv, 12 of which also stand in train.csv")
    prompt = load_prompt(tmp_path / "prompt")
    assert prompt.evaluate().accuracy == record.test_accuracy
    answers = prompt.predict(
        [{"subject": "Bill", "body": "charged twice"}, {"subject": "Crash", "body": "it stops " * 99}]
    )
    assert [answer.label in ("money", "errors") for answer in answers] == [True, True]
    assert all(list(answer.probabilities) == ["money", "errors"] for answer in answers)
    with pytest.raises(ValueError, match="subject"):
        prompt.predict(["one text, where two columns are needed"])


def test_a_change_of_task_toml_is_seen(folder):
    before = trial(folder)
    revision = data.data_revision(str(folder))
    assert before.template == "{subject}: {body} It was"
    write_toml(folder, template="{body} ({subject}) It was")
    after = trial(folder)
    assert after.template == "{body} ({subject}) It was"
    assert after.key != before.key
    assert data.data_revision(str(folder)) == revision, "the text is the same"

    write_toml(folder, classes=["errors", "money"])
    assert data.data_revision(str(folder)) != revision, "the same word now means another class"
    write_toml(folder, cut="subject")
    assert data.data_revision(str(folder)) != revision, "a long input now loses other text"
    write_rows(folder / "more.csv", [*ROWS, *ROWS])
    write_toml(folder, train="more.csv")
    record = train(trial(folder))
    assert record.selection_n == 8
    assert record.provenance["data_revision"] != revision


def test_equal_folders_in_two_locations_are_one_task(folder, tmp_path):
    copy = tmp_path / "elsewhere" / "tickets"
    copy.mkdir(parents=True)
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert data.data_revision(str(copy)) == data.data_revision(str(folder))
    record, record_of_copy = train(trial(folder)), train(trial(copy))
    assert record.key == record_of_copy.key
    assert record.test_loss == record_of_copy.test_loss
