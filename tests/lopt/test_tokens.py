"""The cache of token ids changes no result, whatever happens to its files."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os

import numpy as np
import pytest

from lopt import backbones, data, tasks, tokens
from lopt.data import prepare_data
from lopt.encoding import Example, cut_long_texts, encode_whole
from lopt.tokens import TokenIds

IDS = [[1, 2, 3], [], [4]]


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    """The folder of an empty cache that stores texts of any length."""
    monkeypatch.setattr(tokens, "MIN_CHARACTERS", 0)
    monkeypatch.setattr(tokens, "cache_folder", lambda: tmp_path / "tokens")
    return tmp_path / "tokens"


@pytest.fixture(scope="module")
def tokenizer():
    return backbones.load("tiny", "fp32").tokenizer


def make_tokenise(ids=IDS):
    """Return a function that returns `ids`, and a list with an entry for each of its calls."""
    calls = []

    def tokenise():
        calls.append(1)
        return ids

    return tokenise, calls


def test_token_ids_are_a_sequence_of_tuples():
    ids = TokenIds.from_lists(IDS)
    assert list(ids) == [(1, 2, 3), (), (4,)]
    assert (ids[-1], ids[np.int64(0)], ids[1:]) == ((4,), (1, 2, 3), ((), (4,)))
    assert ids.token_counts.tolist() == [3, 0, 1]
    assert all(type(token_id) is int for token_id in ids[0])
    assert not len(TokenIds.from_lists([]))
    with pytest.raises(IndexError):
        ids[3]


def test_texts_are_tokenised_once(cache_folder, tokenizer):
    tokenise, calls = make_tokenise()
    for _ in range(2):
        assert list(tokens.cached_token_ids(tokenizer, ["a", "b"], tokenise)) == [(1, 2, 3), (), (4,)]
    assert len(calls) == 1
    assert [path.suffix for path in cache_folder.iterdir()] == [".npz"]


def test_other_texts_and_other_tokenizers_have_other_files(cache_folder, tokenizer):
    from tests.tiny_models import make_tokenizer

    splits_special = make_tokenizer("gpt2")
    splits_special.split_special_tokens = not getattr(splits_special, "split_special_tokens", False)
    for parts in (["ab"], ["a", "b"], ["b", "a"], ["a", "b", ""]):
        tokens.cached_token_ids(tokenizer, parts, make_tokenise()[0])
    for other in (make_tokenizer("t5"), splits_special):
        tokens.cached_token_ids(other, ["ab"], make_tokenise()[0])
    assert len(list(cache_folder.iterdir())) == 6


@pytest.mark.parametrize("damage", ["empty", "short", "flipped", "other"])
def test_a_damaged_file_is_replaced(cache_folder, tokenizer, damage):
    tokenise, calls = make_tokenise([[5] * 100])
    tokens.cached_token_ids(tokenizer, ["a"], tokenise)
    (path,) = cache_folder.iterdir()
    good = path.read_bytes()
    middle = good.index(np.int32(5).tobytes() * 100) + 201
    bad = {"empty": b"", "short": good[:-50], "flipped": good[:middle] + b"\7" + good[middle + 1 :], "other": b"hello"}
    path.write_bytes(bad[damage])
    assert list(tokens.cached_token_ids(tokenizer, ["a"], tokenise)) == [(5,) * 100]
    assert len(calls) == 2
    assert path.read_bytes() == good


def test_a_cache_that_cannot_be_written_is_not_used(cache_folder, tokenizer, monkeypatch):
    cache_folder.write_text("a file where the folder should be")
    assert list(tokens.cached_token_ids(tokenizer, ["a"], make_tokenise()[0])) == [(1, 2, 3), (), (4,)]
    cache_folder.unlink()

    def raise_disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", raise_disk_full)
    assert list(tokens.cached_token_ids(tokenizer, ["a"], make_tokenise()[0])) == [(1, 2, 3), (), (4,)]
    assert not list(cache_folder.iterdir()), "no half-written file stays"

    monkeypatch.setattr(tokens, "cache_folder", raise_disk_full)
    assert list(tokens.cached_token_ids(tokenizer, ["a"], make_tokenise()[0])) == [(1, 2, 3), (), (4,)]


def test_few_characters_and_tokenizers_with_steps_in_python_are_not_cached(cache_folder, tokenizer, monkeypatch):
    assert list(tokens.cached_token_ids(object(), ["a"], make_tokenise()[0])) == [(1, 2, 3), (), (4,)]  # type: ignore[arg-type]
    monkeypatch.setattr(tokens, "MIN_CHARACTERS", 2)
    tokens.cached_token_ids(tokenizer, ["a"], make_tokenise()[0])
    assert not cache_folder.exists()


def test_the_least_recently_used_file_is_removed_first(cache_folder, tokenizer, monkeypatch):
    tokenise = make_tokenise([[1] * 1000])[0]
    for number, part in enumerate("abc"):
        tokens.cached_token_ids(tokenizer, [part], tokenise)
        newest = max(cache_folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (number, number))
    old_names = {path.name for path in cache_folder.iterdir()}
    tokens.cached_token_ids(tokenizer, ["a"], tokenise)  # this uses a, so b is now the oldest
    (oldest,) = (path.name for path in cache_folder.iterdir() if path.stat().st_mtime == 1)
    monkeypatch.setattr(tokens, "MAX_BYTES", sum(path.stat().st_size for path in cache_folder.iterdir()))
    tokens.cached_token_ids(tokenizer, ["d"], tokenise)
    assert old_names - {path.name for path in cache_folder.iterdir()} == {oldest}


def _fill_cache(cache_folder):
    tokens.MIN_CHARACTERS, tokens.cache_folder = 0, lambda: cache_folder
    tokenizer = backbones.load("tiny", "fp32").tokenizer
    for number in range(30):
        assert list(tokens.cached_token_ids(tokenizer, [str(number)], lambda: [[number] * 500])) == [(number,) * 500]  # noqa: B023


def test_many_processes_use_the_cache_at_once(cache_folder):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill_cache, args=(cache_folder,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(list(cache_folder.iterdir())) == 30


def test_prepared_data_is_the_same_with_and_without_the_cache(cache_folder, tiny):
    backbone = backbones.load("tiny", "fp32")
    results = []
    for min_characters in (10**9, 0, 0):  # not used, then written, then read
        tokens.MIN_CHARACTERS = min_characters
        for config in (tiny, tiny.replace(max_tokens=20), tiny.replace(train_max_tokens=40, train_examples=20)):
            for function in (data._draw_and_tokenise, data._prepare_from_cache_key):
                function.cache_clear()
            prepared = prepare_data(config, backbone)
            parts = (prepared.train, prepared.selection, prepared.test)
            results.append([_as_plain_values(part) for part in parts] + [prepared.protocol])
    assert results[:3] == results[3:6] == results[6:]
    assert len(list(cache_folder.iterdir())) >= 6
    assert results[1][0]["truncated_count"] > 0


def test_each_template_and_each_length_of_a_cut_text_has_its_file(cache_folder, tokenizer):
    task = tasks.get("toy")
    examples = [Example(0, {"text": "one two three four"}, 0)]
    for template in ("{text} it was", "{text} is it"):
        whole = encode_whole(tokenizer, task, template, examples)
        for most in (12, 14):
            assert cut_long_texts(whole, tokenizer, task, template, examples, most).token_counts.max() <= most
    assert len(list(cache_folder.iterdir())) == 2 + 4


def _as_plain_values(encoded):
    values = {field.name: getattr(encoded, field.name) for field in dataclasses.fields(encoded)}
    return {
        **values,
        "token_ids": list(encoded.token_ids),
        "labels": encoded.labels.tolist(),
        "example_ids": encoded.example_ids.tolist(),
        "lengths": encoded.token_counts.tolist(),
    }
