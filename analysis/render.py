"""A small typed table, which is rendered as Markdown, CSV, LaTeX (booktabs) and HTML. All texts are escaped."""

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
    """One column of a table."""

    title: str  # the head that a reader sees: a plain term, with its unit
    csv_name: str = ""  # the column's name in a CSV file, where it is not the title
    text: Callable[[Any], str] = str  # writes this column's text for a row, for `Table.from_rows`
    align: Literal["left", "right"] = "right"
    code: bool = False  # whether the texts are code, which is set in a monospaced font
    once: bool = False  # whether a text that repeats the one above it is left out, except in CSV


def number_columns(*titles: str) -> tuple[Column, ...]:
    """Return a column of numbers for each title."""
    return tuple(Column(title=title) for title in titles)


# Parts of a column's title. The no-break spaces keep each part on one line.
INTERVAL_TITLE = "[95\u00a0%\u00a0interval]"


def score_title(score_name: str) -> str:
    """Return the title of a column of test scores, where `interval` writes the texts."""
    return f"test {score_name}, % {INTERVAL_TITLE} (N\u00a0seeds)"


def score_column(score_name: str, text: Callable[[Any], str]) -> Column:
    """Return the column of test scores. `text` has to write them with `interval`, as the title says."""
    return Column(title=score_title(score_name), csv_name="test % [95 % CI] (N)", text=text)


def parameters_column(text: Callable[[Any], str]) -> Column:
    """Return the column of trainable parameters."""
    return Column(title="trainable parameters", csv_name="params", text=text)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of plain texts, which each renderer escapes for its own format."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]  # for each row, one text for each column
    notes: tuple[str, ...] = ()  # sentences under the table; empty ones are dropped
    bold: frozenset[tuple[int, int]] = field(default_factory=frozenset)  # (row, column) of results that stand out

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), (row, self.columns)
        object.__setattr__(self, "notes", tuple(filter(None, self.notes)))

    @classmethod
    def from_rows(cls, rows: Iterable[Any], *, columns: tuple[Column, ...], **fields: Any) -> Table:
        """Return a table with a line for each row, whose cells are what the columns' `text` functions write."""
        texts = tuple(tuple(column.text(row) for column in columns) for row in rows)
        return cls(columns=columns, rows=texts, **fields)


# [ and * are in braces, because directly after the end of a row LaTeX would read them as arguments of that end.
_LATEX_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "[": "{[}", "*": "{*}", '"': r"\textquotedbl{}", "Δ": r"$\Delta$", "×": r"$\times$",
    "±": r"$\pm$", "≤": r"$\leq$", "≥": r"$\geq$", "²": r"$^2$", "·": r"$\cdot$", "−": "$-$", "–": "--", "—": "---",
    "…": r"\ldots{}",
}  # fmt: skip


def markdown_text(text: str) -> str:
    """Escape a text so that Markdown shows it as it is, in a line or in a table's cell."""
    text = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", text)


def markdown_code(text: str) -> str:
    """Return a text as code within a line. The fence around it is longer than any row of backticks in the text."""
    text = " ".join(str(text).split())
    if "\\|" in text:  # in a table's cell, a code span cannot hold a backslash before a pipe
        return f"<code>{markdown_text(text)}</code>"
    text = text.replace("|", "\\|")
    fence = "`" * (max((len(backticks) for backticks in re.findall("`+", text)), default=0) + 1)
    padding = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{padding}{text}{padding}{fence}" if text else ""


def with_minus_signs(text: str) -> str:
    """Replace the hyphen before a negative number by a minus sign, for readers. Data files keep the hyphen."""
    return re.sub(r"(^|[\s(\[])-(?=\d)", "\\1−", text)


def latex_text(text: str) -> str:
    """Escape a text for LaTeX."""
    one_line = with_minus_signs(" ".join(str(text).split()))
    return "".join(_LATEX_ESCAPES.get(letter, letter) for letter in one_line if letter.isprintable())


def _is_repeat(table: Table, i: int, j: int) -> bool:
    """Whether the cell in row i and column j repeats the cell above it, in a column with `once`."""
    return table.columns[j].once and i > 0 and table.rows[i][j] == table.rows[i - 1][j]


def _without_repeats(table: Table) -> list[list[str]]:
    """Return the texts of the rows. A repeat in a column with `once` becomes an empty text."""
    return [["" if _is_repeat(table, i, j) else text for j, text in enumerate(row)] for i, row in enumerate(table.rows)]


def markdown(table: Table, caption: bool = True) -> str:
    """Return the table as Markdown. `caption` is False where a heading above the table says the same."""

    def format_line(cells: list[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    def format_cell(text: str, i: int, j: int) -> str:
        escaped = markdown_code(text) if table.columns[j].code else markdown_text(with_minus_signs(text))
        return f"**{escaped}**" if (i, j) in table.bold and escaped else escaped

    lines = [f"**{markdown_text(table.caption)}**", ""] if caption else []
    lines += [format_line([markdown_text(column.title) for column in table.columns])]
    lines += [format_line(["---:" if column.align == "right" else ":---" for column in table.columns])]
    lines += [
        format_line([format_cell(text, i, j) for j, text in enumerate(row)])
        for i, row in enumerate(_without_repeats(table))
    ]
    lines += [""] + [f"- {markdown_text(with_minus_signs(note))}" for note in table.notes]
    return "\n".join(lines).rstrip() + "\n"


def csv(table: Table) -> str:
    """Return the table as CSV, without caption and notes."""
    buffer = io.StringIO()
    writer = csv_module.writer(buffer, lineterminator="\n")
    writer.writerow([column.csv_name or column.title for column in table.columns])
    writer.writerows(table.rows)
    return buffer.getvalue()


_NUMBER = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?")

_LONGEST_LINE = 25  # in letters; a longer cell is broken into lines
_WORD_LIST = re.compile(r"[a-z ]+(, [a-z ]+)+")  # the page breaks a list of words into lines, however short it is

# Widths in letters of LaTeX's \footnotesize: a line of an article's text, the space between two columns, and the least
# width of a heading or of a column whose texts are broken into lines.
_LINE_WIDTH, _GAP_WIDTH, _LEAST_WIDTH = 81, 1.5, 12
_CODE_BREAK, _LATEX_BREAK = re.compile(r"(?<=[/_(-])(?=\w)"), r"\\allowbreak{}"  # where LaTeX may break code, and how


def latex(table: Table) -> str:
    """Return the table as a `table` environment of LaTeX.

    It needs the packages booktabs, siunitx, graphicx and, for quotes, T1 fonts. A column that holds only numbers is an
    S column of siunitx, so that the author's settings for numbers apply to it. Long texts are broken into lines. A
    table that is still wider than the document's text is shrunk to the width of that text.
    """
    rows = _without_repeats(table)
    widths = _widths(table, rows)
    texts_by_column = list(zip(*rows, strict=True)) or [()] * len(table.columns)
    formats = [_number_format(texts, column) for texts, column in zip(texts_by_column, table.columns, strict=True)]

    def format_cell(text: str, i: int, j: int) -> str:
        is_number = bool(formats[j] and _NUMBER.fullmatch(text))
        is_bold = bool((i, j) in table.bold and text)
        if is_number:
            return r"\bfseries " * is_bold + text.replace(",", "")
        content = latex_text(text)
        if table.columns[j].code and text:
            content = rf"\texttt{{{_CODE_BREAK.sub(_LATEX_BREAK, content)}}}"
        content = rf"\textbf{{{content}}}" if is_bold else content
        return f"{{{content}}}" if formats[j] else content

    def format_heading(column: Column, texts: Sequence[str], number_format: str) -> str:
        lines = textwrap.wrap(
            column.title, max(_LEAST_WIDTH, *map(len, texts), 0), break_long_words=False, break_on_hyphens=False
        )
        title = r" \\ ".join(map(latex_text, lines))
        if len(lines) > 1:
            title = rf"\begin{{tabular}}[b]{{@{{}}{column.align[0]}@{{}}}}{title}\end{{tabular}}"
        return f"{{{title}}}" if number_format else title

    def column_specifier(column: Column, number_format: str, width: int | None) -> str:
        if width is None:
            return number_format or column.align[0]
        ragged_side = "right" if column.align == "left" else "left"
        return rf">{{\ragged{ragged_side}\arraybackslash}}p{{{width / 2:g}em}}"

    specifiers = "".join(map(column_specifier, table.columns, formats, widths))
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{latex_text(table.caption)}}}"]
    lines += [r"\footnotesize", r"\setlength{\tabcolsep}{3pt}", r"\begin{lrbox}{0}"]
    lines += [rf"\begin{{tabular}}{{{specifiers}}}", r"\toprule"]
    lines += [" & ".join(map(format_heading, table.columns, texts_by_column, formats)) + r" \\", r"\midrule"]
    lines += [" & ".join(format_cell(text, i, j) for j, text in enumerate(row)) + r" \\" for i, row in enumerate(rows)]
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{lrbox}"]
    lines += [r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi"]
    lines += [rf"\par\smallskip{{\raggedright {latex_text(note)}\par}}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _widths(table: Table, rows: Sequence[Sequence[str]]) -> list[int | None]:
    """Return the width of each column in letters; None for a column whose texts are not broken into lines.

    The columns with long texts share what the other columns leave of a line of the document.
    """
    widths: list[int | None] = [None] * len(table.columns)
    max_lengths = [max((len(row[j]) for row in rows), default=0) for j in range(len(table.columns))]
    long_columns = [j for j, length in enumerate(max_lengths) if length > _LONGEST_LINE]
    other_width = sum(max(_LEAST_WIDTH / 2, length) for j, length in enumerate(max_lengths) if j not in long_columns)
    room_width = _LINE_WIDTH - other_width - _GAP_WIDTH * len(table.columns)
    for j in long_columns:
        word_break = _CODE_BREAK if table.columns[j].code else re.compile(r"\s+")
        words = [word for row in rows for word in word_break.split(row[j])]
        widths[j] = max(_LEAST_WIDTH, *map(len, words), min(max_lengths[j], int(room_width / len(long_columns))))
    return widths


def _number_format(texts: Sequence[str], column: Column) -> str:
    """Return the S column of siunitx that fits these numbers, or an empty text for a column with other texts."""
    numbers = [number for text in texts if (number := _NUMBER.fullmatch(text))]
    other_texts = {text for text in texts if not _NUMBER.fullmatch(text)}
    if column.align == "left" or not numbers or other_texts - {"", "–"}:
        return ""
    sign = "+" if any(number[1] for number in numbers) else ""
    digit_count = max(len(number[2].replace(",", "")) for number in numbers)
    decimal_count = max(len(number[3] or ".") - 1 for number in numbers)
    return f"S[table-format={sign}{digit_count}.{decimal_count}]"


# The least widths, in letters, to which the page may break a heading and a column of texts.
_LEAST_HEADING_WIDTH, _LEAST_TEXT_WIDTH = 10, 20


def html(table: Table, caption: bool = True) -> Markup:
    """Return the table as HTML.

    A click on a head sorts the table, unless some rows belong together. `caption` is False where a heading above the
    table says the same.
    """
    is_sortable = len(table.rows) > 1 and not any(column.once for column in table.columns)

    def format_head(column: Column, j: int) -> str:
        title = str(escape(column.title))
        content = f'<button type="button">{title}</button>' if is_sortable else title
        width = min(len(column.title), _LEAST_HEADING_WIDTH)
        if column.align == "left":
            width = max(width, min(max((len(row[j]) for row in table.rows), default=0), _LEAST_TEXT_WIDTH))
        return f'<th scope="col" class="{column.align}" style="min-width: {width}ch">{content}</th>'

    def format_cell(text: str, i: int, j: int) -> str:
        column = table.columns[j]
        content = f"<code>{escape(text)}</code>" if column.code and text else str(escape(with_minus_signs(text)))
        content = f"<strong>{content}</strong>" if (i, j) in table.bold and text else content
        may_break = len(text) > _LONGEST_LINE or _WORD_LIST.fullmatch(text)
        long_class = " long" if may_break and not column.code else ""
        return f'<td class="{column.align}{long_class}">{content}</td>'

    continued_class = ' class="more"'
    rows_html = "\n".join(
        f"<tr{continued_class * _is_continued(table, i)}>"
        f"{''.join(format_cell(text, i, j) for j, text in enumerate(row))}</tr>"
        for i, row in enumerate(_without_repeats(table))
    )
    notes_html = "".join(f"<li>{escape(keep_units(with_minus_signs(note)))}</li>" for note in table.notes)
    notes_html = f'<ul class="notes">{notes_html}</ul>' if notes_html else ""
    escaped_caption, table_class = escape(table.caption), ' class="sortable"' if is_sortable else ""
    heads_html = "".join(format_head(column, j) for j, column in enumerate(table.columns))
    return Markup(
        (f'<p class="caption">{escaped_caption}</p>\n' if caption else "")
        + f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped_caption}">'
        f"<table{table_class}><thead><tr>{heads_html}</tr></thead>\n"
        f"<tbody>{rows_html}</tbody></table></div>\n{notes_html}"
    )


def _is_continued(table: Table, i: int) -> bool:
    """Whether the next row continues row i, because it repeats a text of row i in a column with `once`."""
    return i + 1 < len(table.rows) and any(_is_repeat(table, i + 1, j) for j in range(len(table.columns)))


def keep_units(text: str) -> str:
    """Keep each number and its unit on one line."""
    return re.sub(r"(?<=\d) (?=%|pp)", "\u00a0", text)


def percent(fraction: float | None) -> str:
    """Write a fraction in percent with one decimal, or a dash for None."""
    return "–" if fraction is None else f"{100 * fraction:.1f}"


def bounds(estimate: Estimate) -> str:
    """Write the ends of an estimate's interval as `[low, high]`, in percent."""
    return f"[{percent(estimate.low)}, {percent(estimate.high)}]"


def duration(seconds: float) -> str:
    """Write a duration in its two largest units, such as "1 h 2 min". Less than a minute is written in seconds."""
    hours, minutes, rest_s = int(seconds) // 3600, int(seconds) // 60 % 60, int(seconds) % 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest_s} s" if minutes else f"{rest_s} s"


def interval(estimate: Estimate | None, missing: str = "not run") -> str:
    """Write an estimate as `mean [low, high] (N)`, in percent with N seeds. None is written as `missing`."""
    return f"{percent(estimate.mean)} {bounds(estimate)} ({estimate.seeds})" if estimate else missing


def data_columns(estimate: Estimate) -> dict[str, float]:
    """Return an estimate as values by column name, for a figure's CSV file."""
    fractions = {"test_percent": estimate.mean, "low_percent": estimate.low, "high_percent": estimate.high}
    counts = {"seeds": estimate.seeds, "test_n": estimate.test_n}
    return {name: 100 * fraction for name, fraction in fractions.items()} | counts


def rows_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Return the rows of a figure's data as CSV, with a column for every name in any row."""
    buffer = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv_module.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()} for row in rows
    )
    return buffer.getvalue()


def count(number: int | None) -> str:
    """Write a whole number with commas, or a dash for None."""
    return "–" if number is None else f"{number:,}"


def change(number: float, base: float) -> str:
    """Write the relative change from one parameter count (`base`) to another (`number`). It is the paper's Δ."""
    return f"{100 * (number - base) / base:+.2f} %" if number != base else "0 %"


def number(value: float | None) -> str:
    """Write a number with three significant digits, or a dash for None."""
    return "–" if value is None else f"{value:.3g}"
