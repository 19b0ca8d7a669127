"""The class of all tasks. A task has text columns, classes, a template and label words."""

import reprlib
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lopt import backbones

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Division:
    """How one file is divided into the training split and the reported split.

    Attributes:
        file: path of the file in the task's folder.
        share: the share of each class's rows that is reported on, above 0 and below 1.
        seed: decides, together with a hash of the rows' texts, which rows are reported on.
    """

    file: str
    share: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Task:
    """A classification task whose classes are read as label words.

    Attributes:
        name: the NAME in `--set task=NAME`. For a task in a folder it is the folder's absolute path.
        columns: names of the text columns, as in the rows.
        classes: names of the classes. Class number i is classes[i].
        template: text with a field `{column}` for each column that is read. The label is read after its last token, or
            at `{mask}`.
        causal_template: the template for causal models, for tasks whose `template` was written for T5. It ends in a
            cue, because a causal model reads the label after the last token.
        label_words: one word for each class. Each begins with a space, as words in running text do.
        cut_column: the column that loses text when an input is too long.
        label: name of the column with the class, as a number or a name.
        train, report: names of two splits: the one that is trained on and the one that is reported on.
        report_size: number of rows of the official reported split.
        hub: the arguments of `datasets.load_dataset`, for tasks on the hub.
        load: function that returns the rows of a split, for tasks that are not on the hub.
        division: how one file is divided, for a task whose two splits are parts of one file.
        bad_rows: what a row without text or class leads to: "refuse" raises an error, "skip" leaves the row out.
        metric: name of the metric that selects trials, unless `--set metric=` names another one (`lopt.metrics`).
        reports: names of further metrics that records and the report give.
        groups: columns that say which rows belong together, for tasks whose rows are not independent. The first names
            the cluster, such as a paragraph; all of them name the group, such as a question about it. `column.field`
            is a field of a column.
        class_numbers: the number that each class stands for, in ascending order, if the label is a number. A row then
            has the class with the nearest number, and the prediction is the expected number over the classes.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    template: str
    label_words: tuple[str, ...]
    cut_column: str
    causal_template: str | None = None
    label: str = "label"
    train: str = "train"
    report: str = "validation"
    report_size: int | None = None
    hub: tuple[str, ...] = ()
    load: Callable[[str], Iterable[Row]] | None = None
    division: Division | None = None
    bad_rows: str = "refuse"
    metric: str = "accuracy"
    reports: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    class_numbers: tuple[float, ...] = ()

    def template_for(self, backbone: str) -> str:
        """Return the default template for a backbone. Causal models may have their own."""
        if self.causal_template is None:
            return self.template
        return self.template if backbones.facts(backbone).seq2seq else self.causal_template

    def check_verbalizer(self, template: str | None, label_words: tuple[str, ...]) -> None:
        """Raise ValueError if a template and label words do not fit the columns and classes of the task."""
        if not isinstance(template, str) or not is_utf8(template):
            raise ValueError(f"template is {template!r}; give text in UTF-8 with {self._valid_fields_text()}")
        try:
            parsed_fields = [part for part in string.Formatter().parse(template) if part[1] is not None]
        except ValueError as error:
            reason = f"cannot be read ({error})"
            raise ValueError(f"template {template!r} {reason}; give text with {self._valid_fields_text()}") from None
        if any(format_spec or conversion for _, _, format_spec, conversion in parsed_fields):
            raise ValueError(
                f"template {template!r} formats a field; only plain fields are allowed ({self._valid_fields_text()})"
            )
        field_names = [name for _, name, _, _ in parsed_fields]
        if field_names.count("mask") > 1:
            raise ValueError(f"template {template!r} names {{mask}} twice; name it once")
        for name in field_names:
            if name not in (*self.columns, "mask"):
                raise ValueError(
                    f"template {template!r} names {{{name}}}, which is not a column of {self.name}; "
                    f"{self._valid_fields_text()}"
                )
        if self.cut_column not in field_names:
            raise ValueError(
                f"template {template!r} leaves out {{{self.cut_column}}}, the text to be classified; add it"
            )
        # {{text}} is literal text, but cutting would take it for a field.
        if template.count("{" + self.cut_column + "}") > 1:
            raise ValueError(f"template {template!r} names {{{self.cut_column}}} twice; name it once")
        are_words = all(isinstance(word, str) and word.strip() and is_utf8(word) for word in label_words)
        if len(label_words) != len(self.classes) or not are_words:
            raise ValueError(
                f"label_words is {reprlib.repr(list(label_words))}; give {len(self.classes)} words, one for each of "
                f"{', '.join(self.classes[:6])}{', …' * (len(self.classes) > 6)}"
            )
        if len(set(label_words)) != len(label_words):
            repeated_word = next(word for word in label_words if label_words.count(word) > 1)
            raise ValueError(
                f"label_words is {reprlib.repr(list(label_words))}; two classes cannot share a word, and "
                f"{repeated_word!r} is there twice"
            )

    def _valid_fields_text(self) -> str:
        return "valid fields: " + ", ".join(f"{{{name}}}" for name in (*self.columns, "mask"))


def is_utf8(text: str) -> bool:
    """Return whether a text can be written in UTF-8. A lone surrogate cannot, and no tokenizer accepts it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
