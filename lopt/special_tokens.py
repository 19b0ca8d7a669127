"""Special tokens: a text that spells one out stays text, and what a causal model reads ends with its template."""

import copy
import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from lopt.types import Tokenizer

Span = tuple[int, int]
_NOWHERE = "\uffff"  # Unicode promises that no text holds this character


def without_end(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer itself, or a copy that appends no special tokens where it does: a causal model reads the label
    after the last token of the template, and after `</s>` it would begin another text. Those in front, BOS, stay."""
    import tokenizers

    before, after = _around(tokenizer)
    if not after:
        return tokenizer
    names = tokenizer.convert_ids_to_tokens(before)
    text = [{"Sequence": {"id": side, "type_id": 0}} for side in "AB"]
    state = {
        "type": "TemplateProcessing",
        "single": [*({"SpecialToken": {"id": name, "type_id": 0}} for name in names), text[0]],
        "pair": text,
        "special_tokens": {n: {"id": n, "ids": [i], "tokens": [n]} for n, i in zip(names, before, strict=True)},
    }
    shortened = copy.deepcopy(tokenizer)
    processor = tokenizers.processors.TemplateProcessing(single="$A", special_tokens=[])
    processor.__setstate__(json.dumps(state).encode())  # its arguments would take a token with a colon for two
    shortened.backend_tokenizer.post_processor = processor
    return shortened


def end_of(tokenizer: Tokenizer) -> list[str]:
    """The special tokens that a tokenizer appends to every text."""
    return [str(tokenizer.convert_ids_to_tokens(i)) for i in _around(tokenizer)[1]]


def _around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Ids of the special tokens that a tokenizer puts before and after every text."""
    import tokenizers

    # A token of our own: a text might have none, such as an "a" in a vocabulary of amino acids.
    reading = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")).encode("a")
    processor = tokenizer.backend_tokenizer.post_processor
    if processor is not None:
        reading = processor.process(reading)
    ids, mask = reading.ids, reading.special_tokens_mask
    first, last = mask.index(0), len(mask) - mask[::-1].index(0)
    return ids[:first], ids[last:]


@lru_cache(maxsize=8)
def ids_of(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids of all special tokens."""
    return frozenset(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)


def as_text(tokenizer: Tokenizer, text: str, inserted: Sequence[Span]) -> tuple[list[int], list[Span]] | None:
    """Token ids and offsets of a filled template, where special tokens are those of the template alone; None when the
    columns spell out no special token, so that the tokenizer's own reading is right.

    text: the template with the columns in it. inserted: the spans of the columns.
    """
    plain = _plain(tokenizer)
    if plain is None:
        return None
    own = [m for m in _pattern(tokenizer).finditer(text) if all(m.end() <= a or m.start() >= b for a, b in inserted)]
    # In one piece, with those of the template under their other names: a tokenizer may read a text's first word
    # otherwise than one after a special token (Metaspace with prepend_scheme "first").
    places = [m.start(str(m.lastgroup)) for m in own]
    cuts = list(zip([0, *places], [*places, len(text)], strict=True))
    encoding = plain.encode(_NOWHERE.join(text[a:b] for a, b in cuts), add_special_tokens=False)
    if encoding.ids == tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids:
        return None
    before, after = _around(tokenizer)
    added = [place + number for number, place in enumerate(places)]  # characters that the text does not have
    spans = [(a - bisect_left(added, a), b - bisect_left(added, b)) for a, b in encoding.offsets]
    ids, offsets = [*before, *encoding.ids], [(0, 0)] * len(before) + spans
    return ids + list(after), offsets + [(0, 0)] * len(after)


@lru_cache(maxsize=8)
def _pattern(tokenizer: Tokenizer) -> re.Pattern[str]:
    """Any special token, with the blanks that it takes in; its group is named by its id."""
    tokens = {i: token for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    longest_first = sorted(tokens.items(), key=lambda item: -len(item[1].content))
    blanks = {True: r"\s*", False: ""}
    return re.compile(
        "|".join(f"{blanks[t.lstrip]}(?P<t{i}>{re.escape(t.content)}){blanks[t.rstrip]}" for i, t in longest_first)
    )


@lru_cache(maxsize=4)
def _plain(tokenizer: Tokenizer) -> Any:
    """A copy of the tokenizer's backend that finds no special token in a text; None where it cannot be copied.

    To have it skip them (`encode_special_tokens`) is not enough: the vocabularies of SentencePiece hold `</s>` as a
    word like any other. So each is renamed to what no text holds.
    """
    import tokenizers

    try:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
    except Exception:  # it has steps in Python; tokenizers raises plain Exception
        return None
    model, special = state["model"], {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}

    def renamed(name: str) -> str:
        return f"{_NOWHERE}{name}" if name in special else name

    vocabulary: Any = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {renamed(name): number for name, number in vocabulary.items()}
    else:
        model["vocab"] = [[renamed(name), score] for name, score in vocabulary]
    if "merges" in model:  # a merge of what is renamed would lead nowhere
        pairs = (tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"])
        model["merges"] = [pair for pair in pairs if special.isdisjoint((*pair, "".join(pair)))]
    if model.get("unk_token"):
        model["unk_token"] = renamed(model["unk_token"])
    for token in state["added_tokens"]:
        token["content"] = renamed(token["content"])
    plain = tokenizers.Tokenizer.from_str(json.dumps(state))
    plain.no_padding()
    plain.no_truncation()
    return plain
