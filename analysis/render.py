"""A small typed table, rendered as Markdown, CSV, LaTeX (booktabs) and HTML, everything escaped."""

from __future__ import annotations

import csv as csv_module
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup, escape

from analysis.stats import Estimate


@dataclass(frozen=True, kw_only=True)
class Column:
    title: str
    align: Literal["left", "right"] = "right"
    code: bool = False
    once: bool = False  # a text that repeats the one above is not written again, save in CSV


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells are plain text; each renderer escapes them for its own format, and prints `bold` ones so."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    bold: frozenset[tuple[int, int]] = field(default_factory=frozenset)  # (row, column) of results that stand out

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), (row, self.columns)


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


def latex_text(text: str) -> str:
    text = "".join(_LATEX.get(c, c) for c in " ".join(str(text).split()) if c.isprintable())
    return re.sub(r"(^|[\s(\[])-(?=\d)", r"\1$-$", text)


def _repeats(table: Table, number: int, column: int) -> bool:
    """Whether this cell only repeats the one above, in a column that says so."""
    rows = table.rows
    return table.columns[column].once and number > 0 and rows[number][column] == rows[number - 1][column]


def _shown(table: Table) -> list[list[str]]:
    return [["" if _repeats(table, i, j) else x for j, x in enumerate(row)] for i, row in enumerate(table.rows)]


def markdown(table: Table) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    def cell(text: str, i: int, j: int) -> str:
        shown = markdown_code(text) if table.columns[j].code else markdown_text(text)
        return f"**{shown}**" if (i, j) in table.bold and shown else shown

    lines = [f"**{markdown_text(table.caption)}**", ""]
    lines += [line([markdown_text(c.title) for c in table.columns])]
    lines += [line(["---:" if c.align == "right" else ":---" for c in table.columns])]
    lines += [line([cell(text, i, j) for j, text in enumerate(row)]) for i, row in enumerate(_shown(table))]
    lines += [""] + [f"- {markdown_text(note)}" for note in table.notes]
    return "\n".join(lines).rstrip() + "\n"


def csv(table: Table) -> str:
    out = io.StringIO()
    writer = csv_module.writer(out, lineterminator="\n")
    writer.writerow([c.title for c in table.columns])
    writer.writerows(table.rows)
    return out.getvalue()


_NUMBER = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?")


def latex(table: Table) -> str:
    """A `table` environment; needs the packages booktabs, siunitx and, for quotes, T1 fonts. A column of numbers alone
    is an S column of siunitx, so that the author's settings for numbers hold for it."""
    shown = _shown(table)
    formats = [_table_format([row[j] for row in shown], column) for j, column in enumerate(table.columns)]

    def cell(text: str, i: int, j: int) -> str:
        number = _NUMBER.fullmatch(text) if formats[j] else None
        if number:
            inner = text.replace(",", "")
        else:
            inner = latex_text(text)
            inner = rf"\texttt{{{inner}}}" if table.columns[j].code and text else inner
        inner = (
            (rf"\bfseries {inner}" if number else rf"\textbf{{{inner}}}") if (i, j) in table.bold and text else inner
        )
        return inner if number or not formats[j] else f"{{{inner}}}"

    def title(column: Column, format: str) -> str:
        return f"{{{latex_text(column.title)}}}" if format else latex_text(column.title)

    letters = "".join(f or c.align[0] for c, f in zip(table.columns, formats, strict=True))
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{latex_text(table.caption)}}}"]
    lines += [rf"\begin{{tabular}}{{{letters}}}", r"\toprule"]
    lines += [" & ".join(map(title, table.columns, formats)) + r" \\", r"\midrule"]
    lines += [" & ".join(cell(x, i, j) for j, x in enumerate(row)) + r" \\" for i, row in enumerate(shown)]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\smallskip{{\footnotesize {latex_text(note)}}}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _table_format(texts: Sequence[str], column: Column) -> str:
    """The S column of siunitx that these numbers want; empty for a column of other texts."""
    numbers = [found for text in texts if (found := _NUMBER.fullmatch(text))]
    if (
        column.align == "left"
        or not numbers
        or any(text not in ("", "–") for text in texts if not _NUMBER.fullmatch(text))
    ):
        return ""
    sign = "+" if any(found[1] for found in numbers) else ""
    whole = max(len(found[2].replace(",", "")) for found in numbers)
    decimals = max(len(found[3] or ".") - 1 for found in numbers)
    return f"S[table-format={sign}{whole}.{decimals}]"


_LONG = 30  # letters; more of them are broken into lines


def html(table: Table) -> Markup:
    """A table whose heads sort it, unless rows belong together."""
    sortable = len(table.rows) > 1 and not any(column.once for column in table.columns)

    def head(column: Column) -> str:
        title = str(escape(column.title))
        inner = f'<button type="button">{title}</button>' if sortable else title
        return f'<th scope="col" class="{column.align}">{inner}</th>'

    def cell(text: str, i: int, j: int) -> str:
        column = table.columns[j]
        inner = f"<code>{escape(text)}</code>" if column.code and text else str(escape(text))
        inner = f"<strong>{inner}</strong>" if (i, j) in table.bold and text else inner
        kind = f"{column.align} long" if column.align == "left" and len(text) > _LONG else column.align
        return f'<td class="{kind}">{inner}</td>'

    more = ' class="more"'
    rows = (
        f"<tr{more if _continues(table, i) else ''}>{''.join(cell(x, i, j) for j, x in enumerate(row))}</tr>"
        for i, row in enumerate(_shown(table))
    )
    body = "\n".join(rows)
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    notes = f'<ul class="notes">{notes}</ul>' if notes else ""
    label, kind = escape(table.caption), ' class="sortable"' if sortable else ""
    return Markup(
        f'<p class="caption">{label}</p>\n<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f"<table{kind}><thead><tr>{''.join(map(head, table.columns))}</tr></thead>\n"
        f"<tbody>{body}</tbody></table></div>\n{notes}"
    )


def _continues(table: Table, number: int) -> bool:
    """Whether the next row belongs to this one: it repeats a text of it."""
    following = number + 1
    return following < len(table.rows) and any(_repeats(table, following, j) for j in range(len(table.columns)))


def unbroken(text: str) -> str:
    """Keep a number and its unit on one line."""
    return re.sub(r"(?<=\d) (?=%|pp)", "\u00a0", text)


def percent(fraction: float | None, missing: str = "–") -> str:
    return missing if fraction is None else f"{100 * fraction:.1f}"


def clock(seconds: float) -> str:
    """h:mm:ss or m:ss."""
    hours, minutes, rest = int(seconds) // 3600, int(seconds) // 60 % 60, int(seconds) % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def interval(estimate: Estimate | None, missing: str = "not run") -> str:
    """Mean [low, high] (N), in percent."""
    if estimate is None:
        return missing
    low, high = percent(estimate.low), percent(estimate.high)
    return f"{percent(estimate.mean)} [{low}, {high}] ({estimate.seeds})"


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


def count(number: int | None, missing: str = "–") -> str:
    return missing if number is None else f"{number:,}"


def change(number: float, base: float) -> str:
    """Relative change of a parameter count, as the paper's Δ."""
    return f"{100 * (number - base) / base:+.2f} %" if number != base else "0 %"


def number(value: float | None, missing: str = "–") -> str:
    return missing if value is None else f"{value:.3g}"
