"""A small typed table, rendered as Markdown, CSV, LaTeX (booktabs) and HTML, everything escaped."""

from __future__ import annotations

import csv as csv_module
import io
import re
from dataclasses import dataclass
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
    """Cells are plain text; each renderer escapes them for its own format."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

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

    lines = [f"**{markdown_text(table.caption)}**", ""]
    lines += [line([markdown_text(c.title) for c in table.columns])]
    lines += [line(["---:" if c.align == "right" else ":---" for c in table.columns])]
    for row in _shown(table):
        lines.append(
            line([markdown_code(x) if c.code else markdown_text(x) for x, c in zip(row, table.columns, strict=True)])
        )
    lines += [""] + [f"- {markdown_text(note)}" for note in table.notes]
    return "\n".join(lines).rstrip() + "\n"


def csv(table: Table) -> str:
    out = io.StringIO()
    writer = csv_module.writer(out, lineterminator="\n")
    writer.writerow([c.title for c in table.columns])
    writer.writerows(table.rows)
    return out.getvalue()


def latex(table: Table) -> str:
    """A `table` environment; needs the packages booktabs and, for quotes, T1 fonts."""

    def cell(text: str, column: Column) -> str:
        return rf"\texttt{{{latex_text(text)}}}" if column.code and text else latex_text(text)

    lines = [r"\begin{table}", r"\centering", rf"\caption{{{latex_text(table.caption)}}}"]
    lines += [rf"\begin{{tabular}}{{{''.join(c.align[0] for c in table.columns)}}}", r"\toprule"]
    lines += [" & ".join(latex_text(c.title) for c in table.columns) + r" \\", r"\midrule"]
    lines += [" & ".join(cell(x, c) for x, c in zip(row, table.columns, strict=True)) + r" \\" for row in _shown(table)]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\smallskip{{\footnotesize {latex_text(note)}}}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def html(table: Table) -> Markup:
    def cells(tag: str, texts: list[str], header: bool) -> str:
        parts = []
        for text, column in zip(texts, table.columns, strict=True):
            scope = ' scope="col"' if header else ""
            inner = f"<code>{escape(text)}</code>" if column.code and not header and text else str(escape(text))
            parts.append(f'<{tag}{scope} class="{column.align}">{inner}</{tag}>')
        return f"<tr>{''.join(parts)}</tr>"

    head = cells("th", [c.title for c in table.columns], True)
    body = "\n".join(
        cells("td", row, False).replace("<tr>", '<tr class="more">' if _continues(table, i) else "<tr>", 1)
        for i, row in enumerate(_shown(table))
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    return Markup(
        f'<p class="caption">{escape(table.caption)}</p>\n'
        f'<div class="scroll"><table aria-label="{escape(table.caption)}"><thead>{head}</thead>\n'
        f"<tbody>{body}</tbody></table></div>\n{f'<ul class=notes>{notes}</ul>' if notes else ''}"
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


def count(number: int | None, missing: str = "–") -> str:
    return missing if number is None else f"{number:,}"


def change(number: float, base: float) -> str:
    """Relative change of a parameter count, as the paper's Δ."""
    return f"{100 * (number - base) / base:+.2f} %" if number != base else "0 %"


def number(value: float | None, missing: str = "–") -> str:
    return missing if value is None else f"{value:.3g}"
