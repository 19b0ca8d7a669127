"""Two rules for special tokens.

If a user's text spells out a special token, it is read as ordinary text. The input of a causal model ends with its
template, so no special token comes after it.
"""

import copy
import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from lopt.types import Tokenizer

Span = tuple[int, int]
_RESERVED = "\uffff"  # a character that Unicode keeps out of texts


def without_end_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer that appends no special tokens: `tokenizer` itself if it appends none, else a changed copy.

    The label is read from a causal model after the last token of the template. After `</s>` the model would begin a new
    text. Special tokens in front, such as BOS, stay.
    """
    import tokenizers

    before_ids, after_ids = _ids_around(tokenizer)
    if not after_ids:
        return tokenizer
    token_names = tokenizer.convert_ids_to_tokens(before_ids)
    text_entries = [{"Sequence": {"id": side, "type_id": 0}} for side in "AB"]
    state = {
        "type": "TemplateProcessing",
        "single": [*({"SpecialToken": {"id": name, "type_id": 0}} for name in token_names), text_entries[0]],
        "pair": text_entries,
        "special_tokens": {
            name: {"id": name, "ids": [token_id], "tokens": [name]}
            for name, token_id in zip(token_names, before_ids, strict=True)
        },
    }
    changed_tokenizer = copy.deepcopy(tokenizer)
    processor = tokenizers.processors.TemplateProcessing(single="$A", special_tokens=[])
    # The state is set as JSON, because the constructor would split a token with a colon into two.
    processor.__setstate__(json.dumps(state).encode())
    changed_tokenizer.backend_tokenizer.post_processor = processor
    return changed_tokenizer


def end_tokens(tokenizer: Tokenizer) -> list[str]:
    """Return the special tokens that a tokenizer appends to every text."""
    return [str(tokenizer.convert_ids_to_tokens(token_id)) for token_id in _ids_around(tokenizer)[1]]


def _ids_around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the ids of the special tokens that a tokenizer puts before and after every text."""
    import tokenizers

    # The text between them is one token of a made-up vocabulary. In the tokenizer's own one, no fixed text is sure
    # to have a token: a vocabulary of amino acids, for example, may have none for "a".
    encoding = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")).encode("a")
    processor = tokenizer.backend_tokenizer.post_processor
    if processor is not None:
        encoding = processor.process(encoding)
    ids, special_mask = encoding.ids, encoding.special_tokens_mask
    text_start, text_end = special_mask.index(0), len(special_mask) - special_mask[::-1].index(0)
    return ids[:text_start], ids[text_end:]


@lru_cache(maxsize=8)
def special_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the ids of all special tokens."""
    return frozenset(token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special)


def encode_as_text(
    tokenizer: Tokenizer, text: str, column_spans: Sequence[Span]
) -> tuple[list[int], list[Span]] | None:
    """Return the token ids of a filled template, and the span of `text` that each token stands for.

    Only the template's own special tokens are read as special. The result is None if the tokenizer's own reading is
    right, because the columns spell out no special token. It is also None if the tokenizer cannot be copied.

    Args:
        text: the filled template.
        column_spans: the span of characters that each column takes up in `text`.
    """
    plain_tokenizer = _without_special_tokens(tokenizer)
    if plain_tokenizer is None:
        return None
    template_matches = [
        match
        for match in _special_pattern(tokenizer).finditer(text)
        if all(match.end() <= start or match.start() >= end for start, end in column_spans)
    ]
    # The whole text is encoded at once, after the template's special tokens get their names in `plain_tokenizer`.
    # Encoding piece by piece would differ if the tokenizer reads the first word of a text differently from a word after
    # a special token (Metaspace with prepend_scheme "first").
    special_positions = [match.start(str(match.lastgroup)) for match in template_matches]
    piece_spans = list(zip([0, *special_positions], [*special_positions, len(text)], strict=True))
    renamed_text = _RESERVED.join(text[start:end] for start, end in piece_spans)
    encoding = plain_tokenizer.encode(renamed_text, add_special_tokens=False)
    if encoding.ids == tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids:
        return None
    before_ids, after_ids = _ids_around(tokenizer)
    reserved_positions = [position + number for number, position in enumerate(special_positions)]  # in `renamed_text`
    # In `renamed_text`, each reserved character has shifted all that follows by one. Here the spans are shifted back.
    spans = [
        (start - bisect_left(reserved_positions, start), end - bisect_left(reserved_positions, end))
        for start, end in encoding.offsets
    ]
    ids, offsets = [*before_ids, *encoding.ids], [(0, 0)] * len(before_ids) + spans
    return ids + after_ids, offsets + [(0, 0)] * len(after_ids)


@lru_cache(maxsize=8)
def _special_pattern(tokenizer: Tokenizer) -> re.Pattern[str]:
    """Return a pattern for any special token and the blanks that it absorbs. Each token's group is named by its id."""
    special_tokens = {token_id: token for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    longest_first = sorted(special_tokens.items(), key=lambda item: -len(item[1].content))
    blank_patterns = {True: r"\s*", False: ""}
    return re.compile(
        "|".join(
            f"{blank_patterns[token.lstrip]}(?P<t{token_id}>{re.escape(token.content)}){blank_patterns[token.rstrip]}"
            for token_id, token in longest_first
        )
    )


@lru_cache(maxsize=4)
def _without_special_tokens(tokenizer: Tokenizer) -> Any:
    """Return a copy of the tokenizer's backend that finds no special token in a text, or None if it cannot be copied.

    The option `encode_special_tokens` of a tokenizer is not enough, because the vocabularies of SentencePiece hold
    `</s>` as an ordinary word. So each special token gets a new name, which begins with `_RESERVED`.
    """
    import tokenizers

    try:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
    except Exception:  # a tokenizer with steps in Python has no JSON; the library raises plain Exception
        return None
    model_state = state["model"]
    special_names = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}

    def new_name(name: str) -> str:
        return f"{_RESERVED}{name}" if name in special_names else name

    vocabulary: Any = model_state["vocab"]
    if isinstance(vocabulary, dict):
        model_state["vocab"] = {new_name(name): number for name, number in vocabulary.items()}
    else:
        model_state["vocab"] = [[new_name(name), score] for name, score in vocabulary]
    if "merges" in model_state:  # a merge must not name a token that no longer exists under its old name
        pairs = (tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model_state["merges"])
        model_state["merges"] = [pair for pair in pairs if special_names.isdisjoint((*pair, "".join(pair)))]
    if model_state.get("unk_token"):
        model_state["unk_token"] = new_name(model_state["unk_token"])
    for token in state["added_tokens"]:
        token["content"] = new_name(token["content"])
    plain_tokenizer = tokenizers.Tokenizer.from_str(json.dumps(state))
    plain_tokenizer.no_padding()
    plain_tokenizer.no_truncation()
    return plain_tokenizer
