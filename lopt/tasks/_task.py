"""What a task is: columns, classes, a template and label words."""

import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from reprlib import repr as shortened
from typing import Any

from lopt import backbones

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Division:
    """How one file becomes two splits: of each class this share of the rows is reported on, chosen by their texts."""

    file: str
    share: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Task:
    """A classification task read through label words.

    columns: text columns, as the hub names them. classes: label i is classes[i]. template: `{column}` fields; the label
    is read after its last token, or where `{mask}` stands. causal_template: for causal models, where the papers give a
    template for T5 only; it ends in a cue, since such a model reads the label after the last token. label_words: one a
    class, with the leading space that makes them the form the model sees in running text. cut: the column that loses
    text when an input is too long. train, report: names of the splits trained on and reported on. hub: arguments of
    `datasets.load_dataset`. report_size: rows of the official reported split. load: rows of a split, for tasks that are
    not on the hub. label: the column of the class; its values are the number of the class, or its name. divided: the
    one file that both splits are parts of. bad_rows: whether a row without text, or of no class, is an error ("refuse")
    or left out ("skip").
    """

    name: str
    title: str
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    template: str
    label_words: tuple[str, ...]
    cut: str
    causal_template: str | None = None
    label: str = "label"
    train: str = "train"
    report: str = "validation"
    report_size: int | None = None
    hub: tuple[str, ...] = ()
    load: Callable[[str], Iterable[Row]] | None = None
    divided: Division | None = None
    bad_rows: str = "refuse"

    def template_for(self, backbone: str) -> str:
        """The default template for a backbone's kind."""
        if self.causal_template is None:
            return self.template
        return self.template if backbones.facts(backbone).seq2seq else self.causal_template

    def check_verbalizer(self, template: str | None, label_words: tuple[str, ...]) -> None:
        """Raises ValueError when a template field is no column, or the label words do not match the classes."""
        if not isinstance(template, str) or not in_utf8(template):
            raise ValueError(f"template is {template!r}; give text in UTF-8 with {self._fields()}")
        try:
            parsed = [part for part in string.Formatter().parse(template) if part[1] is not None]
        except ValueError as error:
            reason = f"cannot be read ({error})"
            raise ValueError(f"template {template!r} {reason}; give text with {self._fields()}") from None
        fields = [name for _, name, _, _ in parsed]
        if any(spec or conversion for _, _, spec, conversion in parsed):
            raise ValueError(f"template {template!r} formats a field; plain fields are valid: {self._fields()}")
        if fields.count("mask") > 1:
            raise ValueError(f"template {template!r} names {{mask}} twice; once is valid")
        for name in fields:
            if name not in (*self.columns, "mask"):
                raise ValueError(f"template {template!r} names {{{name}}}, which {self.name} has not; {self._fields()}")
        if self.cut not in fields:
            raise ValueError(f"template {template!r} leaves out {{{self.cut}}}, the text itself")
        if template.count("{" + self.cut + "}") > 1:  # {{text}}, which stands for itself, would be taken for the field
            raise ValueError(f"template {template!r} names {{{self.cut}}} twice; once is valid")
        fine = all(isinstance(word, str) and word.strip() and in_utf8(word) for word in label_words)
        if len(label_words) != len(self.classes) or not fine:
            raise ValueError(
                f"label_words is {shortened(list(label_words))}; give {len(self.classes)}, one for each of "
                f"{', '.join(self.classes[:6])}{', …' * (len(self.classes) > 6)}"
            )
        if len(set(label_words)) != len(label_words):
            twice = next(word for word in label_words if label_words.count(word) > 1)
            raise ValueError(
                f"label_words is {shortened(list(label_words))}; two classes cannot share a word, and {twice!r} stands "
                "there twice"
            )

    def _fields(self) -> str:
        return "valid fields: " + ", ".join(f"{{{name}}}" for name in (*self.columns, "mask"))


def in_utf8(text: str) -> bool:
    """Whether a text has no half characters, which no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
