"""Token ids on disk: the same with and without, whatever has become of the files."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os

import numpy as np
import pytest

from lopt import backbones, data, tasks, tokens
from lopt.data import prepare
from lopt.encoding import Example, cut_to, encode_all
from lopt.tokens import TokenIds

ROWS = [[1, 2, 3], [], [4]]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty cache that takes everything."""
    monkeypatch.setattr(tokens, "LEAST_CHARACTERS", 0)
    monkeypatch.setattr(tokens, "folder", lambda: tmp_path / "tokens")
    return tmp_path / "tokens"


@pytest.fixture(scope="module")
def tokenizer():
    return backbones.load("tiny", "fp32").tokenizer


def make(rows=ROWS):
    """What tokenises, and how often it was asked."""
    asked = []

    def rows_of():
        asked.append(1)
        return rows

    return rows_of, asked


def test_token_ids_are_a_sequence_of_tuples():
    ids = TokenIds.of(ROWS)
    assert list(ids) == [(1, 2, 3), (), (4,)]
    assert (ids[-1], ids[np.int64(0)], ids[1:]) == ((4,), (1, 2, 3), ((), (4,)))
    assert ids.lengths.tolist() == [3, 0, 1]
    assert all(type(each) is int for each in ids[0])
    assert not len(TokenIds.of([]))
    with pytest.raises(IndexError):
        ids[3]


def test_texts_are_tokenised_once(place, tokenizer):
    rows_of, asked = make()
    for _ in range(2):
        assert list(tokens.cached(tokenizer, ["a", "b"], rows_of)) == [(1, 2, 3), (), (4,)]
    assert len(asked) == 1
    assert [path.suffix for path in place.iterdir()] == [".npz"]


def test_other_texts_another_cut_or_another_tokenizer_are_other_files(place, tokenizer):
    from tests.tiny_models import make_tokenizer

    special = make_tokenizer("gpt2")
    special.split_special_tokens = not getattr(special, "split_special_tokens", False)
    for parts in (["ab"], ["a", "b"], ["b", "a"], ["a", "b", ""]):
        tokens.cached(tokenizer, parts, make()[0])
    for other in (make_tokenizer("t5"), special):
        tokens.cached(other, ["ab"], make()[0])
    assert len(list(place.iterdir())) == 6


@pytest.mark.parametrize("damage", ["empty", "short", "flipped", "other"])
def test_a_damaged_file_is_made_again(place, tokenizer, damage):
    rows_of, asked = make([[5] * 100])
    tokens.cached(tokenizer, ["a"], rows_of)
    (path,) = place.iterdir()
    good = path.read_bytes()
    middle = good.index(np.int32(5).tobytes() * 100) + 201
    bad = {"empty": b"", "short": good[:-50], "flipped": good[:middle] + b"\7" + good[middle + 1 :], "other": b"hello"}
    path.write_bytes(bad[damage])
    assert list(tokens.cached(tokenizer, ["a"], rows_of)) == [(5,) * 100]
    assert len(asked) == 2
    assert path.read_bytes() == good


def test_a_cache_that_cannot_be_written_is_done_without(place, tokenizer, monkeypatch):
    place.write_text("a file where the folder should be")
    assert list(tokens.cached(tokenizer, ["a"], make()[0])) == [(1, 2, 3), (), (4,)]
    place.unlink()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert list(tokens.cached(tokenizer, ["a"], make()[0])) == [(1, 2, 3), (), (4,)]
    assert not list(place.iterdir()), "no half-written file stays"

    monkeypatch.setattr(tokens, "folder", full)
    assert list(tokens.cached(tokenizer, ["a"], make()[0])) == [(1, 2, 3), (), (4,)]


def test_few_characters_and_tokenizers_with_steps_in_python_leave_no_file(place, tokenizer, monkeypatch):
    assert list(tokens.cached(object(), ["a"], make()[0])) == [(1, 2, 3), (), (4,)]  # type: ignore[arg-type]
    monkeypatch.setattr(tokens, "LEAST_CHARACTERS", 2)
    tokens.cached(tokenizer, ["a"], make()[0])
    assert not place.exists()


def test_the_files_used_longest_ago_go_first(place, tokenizer, monkeypatch):
    rows_of = make([[1] * 1000])[0]
    for number, part in enumerate("abc"):
        tokens.cached(tokenizer, [part], rows_of)
        newest = max(place.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (number, number))
    kept = {path.name for path in place.iterdir()}
    tokens.cached(tokenizer, ["a"], rows_of)  # used: now b is the oldest
    (oldest,) = (path.name for path in place.iterdir() if path.stat().st_mtime == 1)
    monkeypatch.setattr(tokens, "MOST_BYTES", sum(path.stat().st_size for path in place.iterdir()))
    tokens.cached(tokenizer, ["d"], rows_of)
    assert kept - {path.name for path in place.iterdir()} == {oldest}


def _fill(place):
    tokens.LEAST_CHARACTERS, tokens.folder = 0, lambda: place
    tokenizer = backbones.load("tiny", "fp32").tokenizer
    for number in range(30):
        assert list(tokens.cached(tokenizer, [str(number)], lambda: [[number] * 500])) == [(number,) * 500]  # noqa: B023


def test_many_processes_at_once(place):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill, args=(place,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(list(place.iterdir())) == 30


def test_splits_are_the_same_with_and_without_cut_or_whole(place, tiny):
    backbone = backbones.load("tiny", "fp32")
    found = []
    for least in (10**9, 0, 0):  # without; written; read
        tokens.LEAST_CHARACTERS = least
        for config in (tiny, tiny.replace(max_tokens=20), tiny.replace(train_max_tokens=40, train_examples=20)):
            for kept in (data._draw, data._prepare):
                kept.cache_clear()
            made = prepare(config, backbone)
            found.append([_plain(part) for part in (made.train, made.selection, made.test)] + [made.protocol])
    assert found[:3] == found[3:6] == found[6:]
    assert len(list(place.iterdir())) >= 6
    assert found[1][0]["truncated"] > 0


def test_the_text_that_is_cut_and_the_template_are_part_of_a_cut(place, tokenizer):
    task = tasks.get("toy")
    examples = [Example(0, {"text": "one two three four"}, 0)]
    for template in ("{text} it was", "{text} is it"):
        whole = encode_all(tokenizer, task, template, examples)
        for most in (12, 14):
            assert cut_to(whole, tokenizer, task, template, examples, most).lengths.max() <= most
    assert len(list(place.iterdir())) == 2 + 4


def _plain(encoded):
    described = {f.name: getattr(encoded, f.name) for f in dataclasses.fields(encoded)}
    return {
        **described,
        "token_ids": list(encoded.token_ids),
        "labels": encoded.labels.tolist(),
        "example_ids": encoded.example_ids.tolist(),
        "lengths": encoded.lengths.tolist(),
    }
