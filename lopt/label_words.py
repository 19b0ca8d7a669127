"""What a model reads of the label words: the first token of each, in the form that running text has after the template.

Everything here takes a bare `tokenizers.Tokenizer`, so that a plan can say it without loading a model.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from lopt import backbones

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WITHOUT_BLANKS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")  # scripts
_NAMED = 12  # words, at most, in a sentence
_CLOSING = ":;,.?!)"  # after these, and after letters and digits, running text has a blank


def notes(tokenizer: Tokenizer, template: str, words: Sequence[str]) -> list[str]:
    """What to know before these label words are used: of a word of several tokens only the first is scored; a word may
    stand in another form, with or without its blank, than running text would have after the template.

    Args:
        template: as the model reads it (`Backbone.complete`).
    """
    said = []
    readings = {word: _tokens(tokenizer, word) for word in words}
    scored = [f"{word!r} by {pieces[0]!r}" for word, (ids, pieces) in readings.items() if len(ids) > 1]
    if scored:
        more = f" and {len(scored) - _NAMED} more" if len(scored) > _NAMED else ""
        said.append(f"label words of several tokens are scored by the first alone: {', '.join(scored[:_NAMED])}{more}")
    fields = [(name, "a") for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    before = template.format(**dict(fields))
    likelier = {word: form for word in words if (form := _likelier(tokenizer, before, word)) is not None}
    if likelier:
        forms = [f"{form!r} is likelier than {word!r}" for word, form in likelier.items()]
        said.append(f"as running text goes on after this template, {', '.join(forms[:_NAMED])}")
    return said


def _likelier(tokenizer: Tokenizer, before: str, word: str) -> str | None:
    """The form of a word that running text has after `before`, where the model reads it otherwise than the word."""
    bare = word.lstrip()
    spaced = f" {bare}"
    first = {form: _tokens(tokenizer, form)[0][:1] for form in (bare, spaced)}
    if first[bare] == first[spaced]:  # as with T5: the tokenizer makes no difference
        return None
    if word == bare:
        follows = before[-1:].isalnum() or before[-1:] in tuple(_CLOSING)
        if not follows or unicodedata.name(bare[0], "").startswith(_WITHOUT_BLANKS):
            return None
        return spaced if _first_at(tokenizer, before + spaced, len(before) + 1) == first[spaced] else None
    if word != spaced:
        return None
    if before[-1:].isspace():  # there would be two blanks
        return bare
    # Alone in front, the blank may be a token of its own, where in running text it is one with the word.
    blank, letter = (_first_at(tokenizer, before + spaced, len(before) + i) for i in (0, 1))
    return bare if letter == first[bare] and blank != first[spaced] else None


def _tokens(tokenizer: Tokenizer, word: str) -> tuple[list[int], list[str]]:
    """Token ids of a word, and what each begins with or holds of it."""
    encoding = tokenizer.encode(word, add_special_tokens=False)
    begins = [0, *(end for _, end in encoding.offsets)]
    pieces = [word[begin:end] for begin, (_, end) in zip(begins, encoding.offsets, strict=False)]
    return encoding.ids, pieces


def _first_at(tokenizer: Tokenizer, text: str, place: int) -> list[int]:
    """The id of the token that holds the character at a place, alone in a list; none where there is no such token."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    return [i for i, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True) if begin <= place < end][:1]


def tokenizer_at_hand(backbone: str) -> Tokenizer | None:
    """The tokenizer of a local folder, or one that the hub's cache holds; None where there is none without loading a
    model."""
    try:
        path = _tokenizer_file(backbone)
        return None if path is None else _opened(path, path.stat().st_mtime_ns)
    except Exception:  # a damaged file, for which tokenizers raises plain Exception: loading the model will say so
        return None


@lru_cache(maxsize=2)
def _opened(path: Path, changed_ns: int) -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _tokenizer_file(backbone: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    from lopt.backbones import embedded
    from lopt.packages import cache_dir

    folder = backbones.local_folder(backbone)
    if backbone in embedded.SPEC.known:
        folder = next((cache_dir() / "models").glob(f"*{embedded.SHA256[:12]}"), None)
    if folder is not None:
        return folder / "tokenizer.json"
    cached = try_to_load_from_cache(backbone, "tokenizer.json")
    return Path(cached) if isinstance(cached, str) else None
