"""A small typed table, rendered as Markdown, CSV, LaTeX (booktabs) and HTML, everything escaped."""

from __future__ import annotations

import csv as csv_module
import io
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from markupsafe import Markup, escape

from analysis.stats import Estimate


@dataclass(frozen=True, kw_only=True)
class Column:
    title: str
    text: Callable[[Any], str] = str  # what `Table.of` writes of a row
    align: Literal["left", "right"] = "right"
    code: bool = False
    once: bool = False  # a text that repeats the one above is not written again, save in CSV


def numbers(*titles: str) -> tuple[Column, ...]:
    """Columns of numbers."""
    return tuple(Column(title=title) for title in titles)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells are plain text; each renderer escapes them for its own format, and prints `bold` ones so. A note that is
    empty is none."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    bold: frozenset[tuple[int, int]] = field(default_factory=frozenset)  # (row, column) of results that stand out

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), (row, self.columns)
        object.__setattr__(self, "notes", tuple(filter(None, self.notes)))

    @classmethod
    def of(cls, rows: Iterable[Any], *, columns: tuple[Column, ...], **parts: Any) -> Table:
        """A line for each of these rows, of which every column has its `text`."""
        return cls(columns=columns, rows=tuple(tuple(c.text(row) for c in columns) for row in rows), **parts)


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after the end of a row, it and * would be read as arguments of that end
    "*": "{*}",
    '"': r"\textquotedbl{}",
    "Δ": r"$\Delta$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "²": r"$^2$",
    "·": r"$\cdot$",
    "−": "$-$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
}


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, in a line or in a table's cell."""
    text = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", text)


def markdown_code(text: str) -> str:
    """Code in a line; a text with backticks gets a longer fence."""
    text = " ".join(str(text).split()).replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}" if text else ""


def minus(text: str) -> str:
    """With a proper sign before a negative number, whose hyphen is for data."""
    return re.sub(r"(^|[\s(\[])-(?=\d)", "\\1−", text)


def latex_text(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in minus(" ".join(str(text).split())) if c.isprintable())


def _repeats(table: Table, number: int, column: int) -> bool:
    """Whether this cell only repeats the one above, in a column that says so."""
    rows = table.rows
    return table.columns[column].once and number > 0 and rows[number][column] == rows[number - 1][column]


def _shown(table: Table) -> list[list[str]]:
    return [["" if _repeats(table, i, j) else x for j, x in enumerate(row)] for i, row in enumerate(table.rows)]


def markdown(table: Table, caption: bool = True) -> str:
    """Without its caption where a heading above says it."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    def cell(text: str, i: int, j: int) -> str:
        shown = markdown_code(text) if table.columns[j].code else markdown_text(minus(text))
        return f"**{shown}**" if (i, j) in table.bold and shown else shown

    lines = [f"**{markdown_text(table.caption)}**", ""] if caption else []
    lines += [line([markdown_text(c.title) for c in table.columns])]
    lines += [line(["---:" if c.align == "right" else ":---" for c in table.columns])]
    lines += [line([cell(text, i, j) for j, text in enumerate(row)]) for i, row in enumerate(_shown(table))]
    lines += [""] + [f"- {markdown_text(minus(note))}" for note in table.notes]
    return "\n".join(lines).rstrip() + "\n"


def csv(table: Table) -> str:
    out = io.StringIO()
    writer = csv_module.writer(out, lineterminator="\n")
    writer.writerow([c.title for c in table.columns])
    writer.writerows(table.rows)
    return out.getvalue()


_NUMBER = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?")

_WHOLE = 25  # letters of a cell that is not broken into lines
_WORDS = re.compile(r"[a-z]+(, [a-z]+)+")  # a list of words, which the page breaks however short it is

# In letters of LaTeX's \footnotesize: a line of an article's text, the space between two columns, and the fewest to
# which a column of broken texts or a heading is set.
_LINE, _GAP, _NARROW = 81, 1.5, 12
_BREAKS, _BREAK = re.compile(r"(?<=[/_(-])(?=\w)"), r"\\allowbreak{}"  # where code may be broken, and how


def latex(table: Table) -> str:
    """A `table` environment; needs the packages booktabs, siunitx, graphicx and, for quotes, T1 fonts.

    A column of numbers alone is an S column of siunitx, so that the author's settings for numbers hold for it.
    Long texts are broken into lines; what is wider than the text of the document all the same is shrunk to its width.
    """
    shown = _shown(table)
    widths = _widths(table, shown)
    columns = list(zip(*shown, strict=True)) or [()] * len(table.columns)
    formats = [_table_format(texts, column) for texts, column in zip(columns, table.columns, strict=True)]

    def cell(text: str, i: int, j: int) -> str:
        number = _NUMBER.fullmatch(text) if formats[j] else None
        bold = bool((i, j) in table.bold and text)
        if number:
            return r"\bfseries " * bold + text.replace(",", "")
        inner = latex_text(text)
        if table.columns[j].code and text:
            inner = rf"\texttt{{{_BREAKS.sub(_BREAK, inner)}}}"
        inner = rf"\textbf{{{inner}}}" if bold else inner
        return f"{{{inner}}}" if formats[j] else inner

    def heading(column: Column, texts: Sequence[str], format: str) -> str:
        lines = textwrap.wrap(
            column.title, max(_NARROW, *map(len, texts), 0), break_long_words=False, break_on_hyphens=False
        )
        title = r" \\ ".join(map(latex_text, lines))
        if len(lines) > 1:
            title = rf"\begin{{tabular}}[b]{{@{{}}{column.align[0]}@{{}}}}{title}\end{{tabular}}"
        return f"{{{title}}}" if format else title

    def letter(column: Column, format: str, width: int | None) -> str:
        if width is None:
            return format or column.align[0]
        ragged = "right" if column.align == "left" else "left"
        return rf">{{\ragged{ragged}\arraybackslash}}p{{{width / 2:g}em}}"

    letters = "".join(map(letter, table.columns, formats, widths))
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{latex_text(table.caption)}}}"]
    lines += [r"\footnotesize", r"\setlength{\tabcolsep}{3pt}", r"\begin{lrbox}{0}"]
    lines += [rf"\begin{{tabular}}{{{letters}}}", r"\toprule"]
    lines += [" & ".join(map(heading, table.columns, columns, formats)) + r" \\", r"\midrule"]
    lines += [" & ".join(cell(x, i, j) for j, x in enumerate(row)) + r" \\" for i, row in enumerate(shown)]
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{lrbox}"]
    lines += [r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi"]
    lines += [rf"\par\smallskip{{\raggedright {latex_text(note)}\par}}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _widths(table: Table, shown: Sequence[Sequence[str]]) -> list[int | None]:
    """Letters in a line of the columns that are broken into lines, which share what the others leave of the text's
    width; None for these others."""
    found: list[int | None] = [None] * len(table.columns)
    longest = [max((len(row[j]) for row in shown), default=0) for j in range(len(table.columns))]
    long = [j for j, letters in enumerate(longest) if letters > _WHOLE]
    others = sum(max(_NARROW / 2, letters) for j, letters in enumerate(longest) if j not in long)
    room = _LINE - others - _GAP * len(table.columns)
    for j in long:
        apart = _BREAKS if table.columns[j].code else re.compile(r"\s+")
        words = [word for row in shown for word in apart.split(row[j])]
        found[j] = max(_NARROW, *map(len, words), min(longest[j], int(room / len(long))))
    return found


def _table_format(texts: Sequence[str], column: Column) -> str:
    """The S column of siunitx that these numbers want; empty for a column of other texts."""
    numbers = [found for text in texts if (found := _NUMBER.fullmatch(text))]
    others = {text for text in texts if not _NUMBER.fullmatch(text)}
    if column.align == "left" or not numbers or others - {"", "–"}:
        return ""
    sign = "+" if any(found[1] for found in numbers) else ""
    whole = max(len(found[2].replace(",", "")) for found in numbers)
    decimals = max(len(found[3] or ".") - 1 for found in numbers)
    return f"S[table-format={sign}{whole}.{decimals}]"


_HEADING, _TEXT = 10, 20  # letters to which a heading, and a column of texts, may be narrowed by breaking its lines


def html(table: Table, caption: bool = True) -> Markup:
    """A table whose heads sort it, unless rows belong together; without its caption where a heading above says it."""
    sortable = len(table.rows) > 1 and not any(column.once for column in table.columns)

    def head(column: Column, j: int) -> str:
        title = str(escape(column.title))
        inner = f'<button type="button">{title}</button>' if sortable else title
        narrow = min(len(column.title), _HEADING)
        if column.align == "left":
            narrow = max(narrow, min(max((len(row[j]) for row in table.rows), default=0), _TEXT))
        return f'<th scope="col" class="{column.align}" style="min-width: {narrow}ch">{inner}</th>'

    def cell(text: str, i: int, j: int) -> str:
        column = table.columns[j]
        inner = f"<code>{escape(text)}</code>" if column.code and text else str(escape(minus(text)))
        inner = f"<strong>{inner}</strong>" if (i, j) in table.bold and text else inner
        breaks = len(text) > _WHOLE or _WORDS.fullmatch(text)
        long = " long" if breaks and not column.code else ""
        return f'<td class="{column.align}{long}">{inner}</td>'

    more = ' class="more"'
    body = "\n".join(
        f"<tr{more * _continues(table, i)}>{''.join(cell(x, i, j) for j, x in enumerate(row))}</tr>"
        for i, row in enumerate(_shown(table))
    )
    notes = "".join(f"<li>{escape(unbroken(minus(note)))}</li>" for note in table.notes)
    notes = f'<ul class="notes">{notes}</ul>' if notes else ""
    label, kind = escape(table.caption), ' class="sortable"' if sortable else ""
    return Markup(
        (f'<p class="caption">{label}</p>\n' if caption else "")
        + f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f"<table{kind}><thead><tr>{''.join(head(column, j) for j, column in enumerate(table.columns))}</tr></thead>\n"
        f"<tbody>{body}</tbody></table></div>\n{notes}"
    )


def _continues(table: Table, number: int) -> bool:
    """Whether the next row belongs to this one: it repeats a text of it."""
    columns = range(len(table.columns))
    return number + 1 < len(table.rows) and any(_repeats(table, number + 1, j) for j in columns)


def unbroken(text: str) -> str:
    """Keep a number and its unit on one line."""
    return re.sub(r"(?<=\d) (?=%|pp)", "\u00a0", text)


def percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.1f}"


def bounds(estimate: Estimate) -> str:
    """[low, high], in percent."""
    return f"[{percent(estimate.low)}, {percent(estimate.high)}]"


def duration(seconds: float) -> str:
    """In its two largest units, such as 1 h 2 min; less than a minute in seconds."""
    hours, minutes, rest = int(seconds) // 3600, int(seconds) // 60 % 60, int(seconds) % 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def interval(estimate: Estimate | None, missing: str = "not run") -> str:
    """Mean [low, high] (N), in percent."""
    return f"{percent(estimate.mean)} {bounds(estimate)} ({estimate.seeds})" if estimate else missing


def percents(estimate: Estimate) -> dict[str, float]:
    """An estimate as columns of a figure's data."""
    found = {"test_percent": estimate.mean, "low_percent": estimate.low, "high_percent": estimate.high}
    return {name: 100 * value for name, value in found.items()} | {"seeds": estimate.seeds, "test_n": estimate.test_n}


def rows_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of a figure's data, a column for every name that any of them has."""
    out = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv_module.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({n: f"{v:.6g}" if isinstance(v, float) else v for n, v in row.items()} for row in rows)
    return out.getvalue()


def count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def change(number: float, base: float) -> str:
    """Relative change of a parameter count, as the paper's Δ."""
    return f"{100 * (number - base) / base:+.2f} %" if number != base else "0 %"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
