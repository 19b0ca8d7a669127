"""Turn runs into tables, figures and one page: `python analysis/report.py [RUN ...] [--out DIR]`.

RUN is a folder or a name under results/; the default is the newest run, several are pooled. Writes
report.html (one file, no network), report.md, tables/*.{csv,md,tex} and figures/*.{svg,pdf,png} to
--out (default: the first run's own report/). Exit codes: 0 done, 2 bad input.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # as a script, python puts this folder first: put the repository's root there
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis import notes, render, style
from analysis.cells import Group, groups
from analysis.headline import Headline, headline
from analysis.load import ReportError, Results, load, resolve
from analysis.registry import Missing, PlotSpec, TableSpec, scan
from analysis.render import Table

# the order of the page; plugins that are not named here come after these
_ORDER = ("pareto", "budget", "table3", "table1", "rank", "learning_rate", "curves", "cells")


@dataclass(frozen=True, kw_only=True)
class Item:
    """A table or a figure, ready for a page; `stem` is its files' name."""

    stem: str
    title: str
    table: Table | None = None
    svg: Markup | None = None
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One (backbone, task)."""

    group: Group
    headline: Headline
    items: tuple[Item, ...]
    missing: tuple[str, ...]


def build(results: Results, out: Path) -> list[Section]:
    """Write the report of `results` under `out`."""
    found = groups(results)
    tables, plots = scan("analysis.tables", TableSpec), scan("analysis.plots", PlotSpec)
    for folder, suffixes, specs in (
        (out / "tables", ("md", "csv", "tex"), [*tables]),
        (out / "figures", ("svg", "pdf", "png"), [*plots]),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        for name in specs:  # of an earlier report that had more
            for suffix in suffixes:
                for old in (folder / f"{name}.{suffix}", *folder.glob(f"{name}--*.{suffix}")):
                    old.unlink(missing_ok=True)
    sections = [_section(group, tables, plots, out, len(found) > 1) for group in found]
    context = {
        "title": ", ".join(run.name for run in results.runs),
        "sections": sections,
        "warnings": notes.warnings(results, found),
        "failures": notes.failures(results.trials),
        "frozen": notes.frozen(results.trials),
        "notes": notes.notes(results, found),
        "caveats": notes.caveats(),
        "provenance": [notes.provenance(run) for run in results.runs],
    }
    templates = FileSystemLoader(Path(__file__).parent / "templates")
    for name, escape in (("report.html", True), ("report.md", False)):
        env = Environment(
            loader=templates, autoescape=escape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        env.filters |= {"table_html": render.html, "table_md": render.markdown}
        env.filters |= {"md": render.markdown_text, "code": render.markdown_code, "unbroken": render.unbroken}
        (out / name).write_text(env.get_template(f"{name}.j2").render(context), encoding="utf-8")
    return sections


def _section(
    group: Group, tables: dict[str, TableSpec], plots: dict[str, PlotSpec], out: Path, several: bool
) -> Section:
    suffix = f"--{_slug(group.backbone)}--{_slug(group.task)}" if several else ""
    items, missing = [], []
    names = [*(n for n in _ORDER if n in tables or n in plots), *(n for n in (*tables, *plots) if n not in _ORDER)]
    for name in names:
        spec: TableSpec | PlotSpec = tables[name] if name in tables else plots[name]
        info = spec.info(group)
        if isinstance(info, Missing):
            if not info.quiet:
                missing.append(f"{spec.title}: {info.reason}.")
        elif isinstance(spec, TableSpec):
            items.append(_table(spec, spec.render(info), out / "tables", f"{name}{suffix}"))
        else:
            items.append(_figure(spec, info, out / "figures", f"{name}{suffix}"))
    return Section(group=group, headline=headline(group), items=tuple(items), missing=tuple(missing))


def _table(spec: TableSpec, table: Table, folder: Path, stem: str) -> Item:
    for suffix, text in (("md", render.markdown(table)), ("csv", render.csv(table)), ("tex", render.latex(table))):
        (folder / f"{stem}.{suffix}").write_text(text, encoding="utf-8")
    return Item(stem=stem, title=spec.title, table=table)


def _figure(spec: PlotSpec, info: object, folder: Path, stem: str) -> Item:
    style.save(spec.draw(info), folder / stem)
    caption = spec.caption(info)
    svg = style.inline_svg((folder / f"{stem}.svg").read_text(encoding="utf-8"), stem, caption)
    return Item(stem=stem, title=spec.title, svg=svg, caption=caption)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "other"


def summary(results: Results, sections: Sequence[Section], out: Path) -> str:
    lines = [*notes.warnings(results, groups(results))]
    for section in sections:
        lines.append(section.headline.answer)
        lines += [section.headline.exploratory] if section.headline.exploratory else []
        if best := section.headline.best:
            text = f"best cell by selection accuracy: {best.label} ({best.trainable_parameters:,} parameters)"
            lines.append(f"{text}, test {render.interval(best.accuracy)}")
    return "\n".join([*lines, f"report: {out / 'report.html'}"])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="analysis/report.py", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="a folder or a name under --results; default: the newest"
    )
    parser.add_argument("--out", type=Path, help="where to write (default: report/ in the first run)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the folder of runs (default: results)")
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:  # argparse prints its one line itself
        return int(stop.code or 0)
    try:
        paths = resolve(arguments.runs, arguments.results)
        results = load(paths)
        out = arguments.out or paths[0] / "report"
        try:
            sections = build(results, out)
        except OSError as error:
            raise ReportError(f"cannot write to {out} ({error.strerror}): give another folder with --out") from None
    except ReportError as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    print(summary(results, sections, out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
