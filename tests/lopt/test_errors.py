"""Errors are reported in one line of whole words."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lopt.errors import cut_after_word, first_line_of_error, to_one_line
from tests.bad_input import fixed

ROOT = Path(__file__).resolve().parents[2]
words = st.lists(st.text("abcdefghij", min_size=1, max_size=12), min_size=1, max_size=400).map(" ".join)


@given(words, st.integers(40, 300))
@fixed(100)
def test_a_text_is_cut_between_words(text, most):
    cut_text = cut_after_word(text, most)
    assert len(cut_text) <= most
    if cut_text != text:
        assert cut_text.endswith(" …")
        assert text.startswith(cut_text[:-1]), "the last word is whole"
        assert len(cut_text) > most // 2


@given(st.text(max_size=3000))
@fixed(100)
def test_any_text_becomes_one_line_of_limited_length(text):
    assert len(to_one_line(text)) <= 1000
    assert len(to_one_line(text).splitlines()) <= 1


def test_both_ends_of_a_long_line_are_kept_in_whole_words():
    line = to_one_line(" ".join(f"word{number}" for number in range(1000)))
    head, _, tail = line.partition(" … ")
    assert all(re.fullmatch(r"word\d+", word) for word in (*head.split(), *tail.split()))
    assert head.endswith("word" + head.rpartition("word")[2]) and tail.endswith("word999")
    assert len(to_one_line("x" * 5000)) <= 1000


def test_the_reason_is_the_first_line_or_the_type_of_the_error():
    assert first_line_of_error(ValueError("no such file\nand a lot\nmore")) == "no such file"
    assert first_line_of_error(KeyError()) == "KeyError"
    assert first_line_of_error(ValueError(" ".join(["word"] * 100))).endswith("word …")


def test_no_message_is_cut_at_a_number_of_characters():
    """A slice such as `[:160]` would cut words, which `cut_after_word` does not."""
    for package in ("lopt", "sweeps", "analysis"):
        for file in (ROOT / package).rglob("*.py"):
            for line in file.read_text(encoding="utf-8").splitlines():
                assert not re.search(r"(split\(\)\)|message|error\)|reason|__name__\]\)\[0\]\)?)\[:\d+\]", line), (
                    file,
                    line,
                )
