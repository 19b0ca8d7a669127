"""Checks of label words: which token of a word is scored, and whether the word needs a leading space.

Everything here takes a plain `tokenizers.Tokenizer`, so that a plan can show these notes without loading a model.
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

_SCRIPTS_WITHOUT_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
_MAX_WORDS = 12  # words that one note lists
_FOLLOWED_BY_SPACE = ":;,.?!)"  # in running text a space follows these, as it follows letters and digits


def label_word_notes(tokenizer: Tokenizer, template: str, words: Sequence[str]) -> list[str]:
    """Return what a user should know before using these label words.

    One note lists the words of several tokens, because only their first token is scored. Another lists the words whose
    other form, with or without a leading space, would normally follow this template.

    Args:
        template: the template as the model reads it (`Backbone.fill_template`).
    """
    word_notes = []
    tokens_by_word = {word: _tokenise(tokenizer, word) for word in words}
    partly_scored = [f"{word!r} by {pieces[0]!r}" for word, (ids, pieces) in tokens_by_word.items() if len(ids) > 1]
    if partly_scored:
        more_text = f" and {len(partly_scored) - _MAX_WORDS} more" if len(partly_scored) > _MAX_WORDS else ""
        word_notes.append(
            "label words of several tokens are scored by their first token only: "
            f"{', '.join(partly_scored[:_MAX_WORDS])}{more_text}"
        )
    fields = {name: "a" for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    text_before = template.format(**fields)
    likelier_form_by_word = {
        word: form for word in words if (form := _likelier_form(tokenizer, text_before, word)) is not None
    }
    if likelier_form_by_word:
        comparisons = [f"{form!r} rather than {word!r}" for word, form in likelier_form_by_word.items()]
        word_notes.append(f"after this template, text normally goes on with {', '.join(comparisons[:_MAX_WORDS])}")
    return word_notes


def _likelier_form(tokenizer: Tokenizer, text_before: str, word: str) -> str | None:
    """Return the other form of a word, with or without a leading space, if running text has it after `text_before`.

    Return None if `word` itself has the likelier form, or if the model reads both forms alike.
    """
    bare_form = word.lstrip()
    spaced_form = f" {bare_form}"
    first_ids = {form: _tokenise(tokenizer, form)[0][:1] for form in (bare_form, spaced_form)}
    if first_ids[bare_form] == first_ids[spaced_form]:  # the tokenizer reads both forms alike, as T5's does
        return None
    if word == bare_form:
        needs_space = text_before[-1:].isalnum() or text_before[-1:] in tuple(_FOLLOWED_BY_SPACE)
        if not needs_space or unicodedata.name(bare_form[0], "").startswith(_SCRIPTS_WITHOUT_SPACES):
            return None
        letter_position = len(text_before) + 1
        ids_in_text = _ids_at(tokenizer, text_before + spaced_form, letter_position)
        return spaced_form if ids_in_text == first_ids[spaced_form] else None
    if word != spaced_form:
        return None
    if text_before[-1:].isspace():  # the spaced form would give two spaces
        return bare_form
    # At the start of a text the space may be a token of its own, while in running text it is one token with the word.
    space_ids, letter_ids = (_ids_at(tokenizer, text_before + spaced_form, len(text_before) + i) for i in (0, 1))
    return bare_form if letter_ids == first_ids[bare_form] and space_ids != first_ids[spaced_form] else None


def _tokenise(tokenizer: Tokenizer, word: str) -> tuple[list[int], list[str]]:
    """Return the token ids of a word, and the piece of the word that each token covers."""
    encoding = tokenizer.encode(word, add_special_tokens=False)
    starts = [0, *(end for _, end in encoding.offsets)]
    pieces = [word[start:end] for start, (_, end) in zip(starts, encoding.offsets, strict=False)]
    return encoding.ids, pieces


def _ids_at(tokenizer: Tokenizer, text: str, position: int) -> list[int]:
    """Return a list with the id of the token that covers the character at `position`, or an empty list."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    pairs = zip(encoding.ids, encoding.offsets, strict=True)
    return [token_id for token_id, (start, end) in pairs if start <= position < end][:1]


def local_tokenizer(backbone: str) -> Tokenizer | None:
    """Return a backbone's tokenizer from a local folder or the hub's cache, or None if neither has it.

    No model is loaded and nothing is downloaded.
    """
    try:
        path = _tokenizer_file(backbone)
        return None if path is None else _load_tokenizer(path, path.stat().st_mtime_ns)
    except Exception:  # for a damaged file tokenizers raises plain Exception; loading the model will report it
        return None


@lru_cache(maxsize=2)
def _load_tokenizer(path: Path, modified_ns: int) -> Tokenizer:
    """Load the tokenizer of a file. `modified_ns`, the time of its last change, makes the cache read a changed file."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _tokenizer_file(backbone: str) -> Path | None:
    """Return the path of a backbone's tokenizer.json in a local folder or the hub's cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    from lopt.backbones import embedded
    from lopt.packages import cache_dir

    folder = backbones.local_folder(backbone)
    if backbone in embedded.SPEC.known:
        folder = next((cache_dir() / "models").glob(f"*{embedded.SHA256[:12]}"), None)
    if folder is not None:
        return folder / "tokenizer.json"
    cached_file = try_to_load_from_cache(backbone, "tokenizer.json")
    return Path(cached_file) if isinstance(cached_file, str) else None
