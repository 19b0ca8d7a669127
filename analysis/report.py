"""Turn runs into tables, figures and one page: `python analysis/report.py [RUN ...] [--out DIR]`.

RUN is a folder, a URL such as s3://bucket/results/RUN, or a name under results/; the default is the newest run, several
are pooled. Writes report.html (one file, no network), report.md, tables/*.{csv,md,tex} and figures/*.{svg,pdf,png,csv}
to --out (default: the first run's own report/; of a run at a URL, RUN-report/ here). A table or plot that fails is
named and left out. Exit codes: 0 done, 2 bad input.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from shlex import join, quote
from typing import TYPE_CHECKING

if __name__ == "__main__":  # as a script, python puts this folder first: put the repository's root there
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    import lopt.python_version  # noqa: F401  # first, for what follows cannot be read by an old Python

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis import compare, notes, render
from analysis.cells import Group, groups
from analysis.folders import Folders
from analysis.headline import Headline, headline
from analysis.load import Results, load
from analysis.noninferiority import MARGIN
from analysis.registry import RAISED, Missing, PlotSpec, TableSpec, fault, scan
from analysis.render import Table
from analysis.runs import ReportError, resolve
from lopt import commands
from lopt.errors import USAGE_ERROR, Parser, one_line, reader_has_gone
from lopt.places import Place, place, redacted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# the order of the page; plugins that are not named here come after these
_ORDER = (
    "pareto", "budget", "frontier", "forest", "noninferiority", "table3", "table1", "table2", "rank", "learning_rate",
    "curves", "audit", "cells", "cost", "efficiency", "importances",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Item:
    """A table or a figure, ready for a page; `stem` is its files' name."""

    stem: str
    title: str
    table: Table | None = None
    svg: Markup | None = None
    caption: str = ""

    @property
    def heading(self) -> str:
        """A table's whole caption where it says what the title does."""
        whole = self.table is not None and self.table.caption.startswith(self.title.rstrip("?"))
        return self.table.caption if self.table is not None and whole else self.title


@dataclass(frozen=True, kw_only=True)
class Section:
    """One group: a backbone on a task."""

    group: Group
    headline: Headline
    items: tuple[Item, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What spans several sections: tables over all tasks of one backbone."""

    title: str
    items: tuple[Item, ...]


def build(results: Results, out: Path) -> tuple[list[Section], list[str]]:
    """Write the report of `results` under `out`.

    Returns:
        Its sections, and the tables and plots that raised and are left out, a line each.
    """
    found = groups(results)
    broken_tables: dict[str, str] = {}
    broken_plots: dict[str, str] = {}
    tables = scan("analysis.tables", TableSpec, broken_tables)
    plots = scan("analysis.plots", PlotSpec, broken_plots)
    faults = [*broken_tables.values(), *broken_plots.values()]
    for folder, suffixes, specs in (
        (out / "tables", ("md", "csv", "tex"), [*tables, *broken_tables]),
        (out / "figures", ("svg", "pdf", "png", "csv"), [*plots, *broken_plots]),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        for name in specs:  # of an earlier report that had more
            for suffix in suffixes:
                for old in (folder / f"{name}.{suffix}", *folder.glob(f"{name}--*.{suffix}")):
                    old.unlink(missing_ok=True)
    families: dict[tuple[str, int | None], list[Group]] = {}
    for group in found:
        families.setdefault((group.backbone, group.shots), []).append(group)
    of_groups = _suffixes([(group.backbone_name, group.task_name, _shots(group)) for group in found])
    of_families = _suffixes([(family[0].backbone_name, _shots(family[0])) for family in families.values()])
    sections = [
        _section(group, families[group.backbone, group.shots], _ordered(tables, plots), out, suffix, faults)
        for group, suffix in zip(found, of_groups, strict=True)
    ]
    overviews = [
        _overview(family, tables, out, suffix, faults)
        for family, suffix in zip(families.values(), of_families, strict=True)
        if len(family) > 1
    ]
    faults = [*dict.fromkeys(faults)]
    left_out = [f"Left out, because it failed: {text}" for text in faults]
    items = chain(*(section.items for section in sections), *(overview.items for overview in overviews))
    names = {item.stem.partition("--")[0] for item in items}
    context = {
        "title": ", ".join(run.name for run in results.runs),
        "overviews": [overview for overview in overviews if overview.items],
        "sections": sections,
        "warnings": [*notes.warnings(results, found), *left_out],
        "failures": notes.failures(found),
        "frozen": notes.frozen(found),
        "notes": notes.notes(results, found),
        "caveats": notes.caveats(found, names),
        "provenance": [notes.provenance(run) for run in results.runs],
    }
    _write_pages("report", context, out)
    return sections, faults


def _write_pages(name: str, context: Mapping[str, object], out: Path) -> None:
    """`name`.html and `name`.md from their templates."""
    templates = FileSystemLoader(Path(__file__).parent / "templates")
    for page, escape in ((f"{name}.html", True), (f"{name}.md", False)):
        env = Environment(
            loader=templates, autoescape=escape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        env.filters |= {"table_html": render.html, "table_md": render.markdown}
        env.filters |= {"md": render.markdown_text, "code": render.markdown_code, "unbroken": render.unbroken}
        (out / page).write_text(env.get_template(f"{page}.j2").render(context), encoding="utf-8")


def _ordered(tables: dict[str, TableSpec], plots: dict[str, PlotSpec]) -> list[TableSpec | PlotSpec]:
    specs: list[TableSpec | PlotSpec] = [*tables.values(), *plots.values()]
    return sorted(specs, key=lambda spec: _ORDER.index(spec.name) if spec.name in _ORDER else len(_ORDER))


def _section(
    group: Group,
    family: Sequence[Group],
    specs: Sequence[TableSpec | PlotSpec],
    out: Path,
    suffix: str,
    faults: list[str],
) -> Section:
    """`family`: all groups of its backbone; what spans several of them is not the section's, but an overview's."""
    items, missing = [], []
    for spec in specs:
        across = isinstance(spec, TableSpec) and spec.across
        if across and len(family) > 1:
            continue
        item = _item(spec, family if across else group, out, suffix, faults)
        if isinstance(item, Item):
            items.append(item)
        elif not item.quiet:
            missing.append(f"{spec.title}: {item.reason}.")
    return Section(group=group, headline=headline(group), items=tuple(items), missing=tuple(missing))


def _overview(
    family: Sequence[Group], tables: dict[str, TableSpec], out: Path, suffix: str, faults: list[str]
) -> Overview:
    made = [_item(spec, family, out, suffix, faults) for spec in tables.values() if spec.across]
    title = f"All tasks with {family[0].backbone_name}" + (f" ({_shots(family[0])})" if family[0].shots else "")
    return Overview(title=title, items=tuple(item for item in made if isinstance(item, Item)))


def _item(
    spec: TableSpec | PlotSpec, subject: Group | Sequence[Group], out: Path, suffix: str, faults: list[str]
) -> Item | Missing:
    """A table or figure, its files written; one that fails is left out, and noted in `faults`.

    Raises:
        OSError: a file cannot be written.
    """
    kind, stem = "tables" if isinstance(spec, TableSpec) else "plots", f"{spec.name}{suffix}"
    folder = out / ("tables" if isinstance(spec, TableSpec) else "figures")
    try:
        info = spec.info(subject)  # type: ignore[arg-type]
        if isinstance(info, Missing):
            return info
        if isinstance(spec, TableSpec):
            item, texts = _table(spec, info, stem)
        else:
            figure, caption, rows = _figure(spec, info)
    except RAISED as error:
        faults.append(fault(error, f"analysis/{kind}/{spec.name}.py"))
        return Missing("it failed, as said at the top")
    if isinstance(spec, PlotSpec):
        from analysis import style  # matplotlib, which --help can do without

        try:
            style.save(figure, folder / stem)  # draws it, which may fail, too
        except OSError:
            raise
        except RAISED as error:
            for ending in ("svg", "pdf", "png"):
                (folder / f"{stem}.{ending}").unlink(missing_ok=True)
            faults.append(fault(error, f"analysis/{kind}/{spec.name}.py"))
            return Missing("it failed, as said at the top")
        svg = style.inline_svg((folder / f"{stem}.svg").read_text(encoding="utf-8"), stem, caption)
        item, texts = Item(stem=stem, title=spec.title, svg=svg, caption=caption), {"csv": rows}
    for ending, text in texts.items():
        (folder / f"{stem}.{ending}").write_text(text, encoding="utf-8")
    return item


def _table(spec: TableSpec, info: object, stem: str) -> tuple[Item, dict[str, str]]:
    """A table, and the text of each of its files."""
    table = spec.render(info)
    if not isinstance(table, Table):
        raise TypeError(f"render gives {type(table).__name__}, not a Table")
    if not isinstance(table.caption, str):
        raise TypeError(f"the table's caption is {type(table.caption).__name__}, not a text")
    render.html(table)  # the page is written later: what it cannot hold is to be known now
    texts = {"md": render.markdown(table), "csv": render.csv(table), "tex": render.latex(table)}
    return Item(stem=stem, title=spec.title, table=table), texts


def _figure(spec: PlotSpec, info: object) -> "tuple[Figure, str, str]":
    """A figure, its caption, and its data as CSV."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context():  # what a plot sets is its own
        figure = spec.draw(info)
    if not isinstance(figure, Figure):
        raise TypeError(f"draw gives {type(figure).__name__}, not a Figure")
    caption = spec.caption(info)
    if not isinstance(caption, str):
        raise TypeError(f"caption gives {type(caption).__name__}, not a text")
    return figure, caption, render.rows_csv(spec.data(info))


def _shots(group: Group) -> str:
    return f"{group.shots}-shot" if group.shots else ""


def _suffixes(names: Sequence[tuple[str, ...]]) -> list[str]:
    """What each adds to its files' names: nothing when it is the only one, and never what another adds."""
    if len(names) == 1:
        return [""]
    found: list[str] = []
    for parts in names:
        own = "".join(f"--{_slug(part)}" for part in parts if part)
        tries = chain([own], (f"{own}-{again}" for again in count(2)))
        found.append(next(suffix for suffix in tries if suffix not in found))
    return found


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "other"


def summary(results: Results, sections: Sequence[Section], out: Path) -> str:
    lines = [*notes.warnings(results, [section.group for section in sections])]
    for section in sections:
        lines.append(section.headline.answer)
        lines += [section.headline.exploratory] if section.headline.exploratory else []
        best = section.headline.best
        if best:
            text = f"best cell by selection accuracy: {best.label} ({best.trainable_parameters:,} parameters)"
            lines.append(f"{text}, test {render.interval(best.accuracy)}")
    return "\n".join([*lines, f"report: {quote(str(out / 'report.html'))}"])


def _out(given: str | None, run: Place) -> Path:
    """Where the report is written, which is always a folder."""
    found = place(given) if given else run / "report"
    if isinstance(found, Path):
        return found
    if given:
        raise ReportError(f"--out {found}: a report is written to a folder; give one, and copy it from there")
    return Path(f"{run.name}-report")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the files are written before anything is printed
        reader_has_gone()
        return 1


def _run(argv: Sequence[str] | None) -> int:
    parser = Parser(prog=commands.line("report").removeprefix("python "), description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="a folder, a URL, or a name under --results; default: the newest"
    )
    parser.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="two runs beside each other; writes compare.md and compare.html"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="where to write (default: report/ in the first run; RUN-report/ for a URL)"
    )
    parser.add_argument("--results", default="results", help="the folder or URL of all runs (default: results)")
    parser.add_argument(
        "--margin", type=_margin, default=MARGIN, metavar="PP",
        help="percentage points within which a smaller prompt counts as good as the full one (default 1); choose it "
        "before you see results",
    )  # fmt: skip
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:  # argparse prints its one line itself
        return int(stop.code or 0)
    if arguments.compare and arguments.runs:
        print(f"report: --compare takes its two runs itself; leave out {join(arguments.runs)}", file=sys.stderr)
        return 2
    try:
        try:
            if arguments.compare:
                return _compare(arguments)
            paths = resolve(arguments.runs, place(arguments.results))
            results = load(paths, arguments.margin)
            out = _out(arguments.out, paths[0])
        except (ReportError, BrokenPipeError):
            raise
        except (OSError, ValueError) as error:  # of a URL that is none, or cannot be reached
            raise ReportError(redacted(" ".join(str(error).split()))) from None
        try:
            sections, faults = build(results, out)
        except OSError as error:
            raise ReportError(f"cannot write to {out} ({error.strerror}): give another folder with --out") from None
    except ReportError as error:
        print(f"report: {one_line(error)}", file=sys.stderr)
        return USAGE_ERROR
    for text in faults:
        print(f"report: left out, because it failed: {text}", file=sys.stderr)
    print(summary(results, sections, out))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    paths = [resolve([name], place(arguments.results))[0] for name in arguments.compare]
    if paths[0].resolve() == paths[1].resolve():
        raise ReportError(f"--compare {join(arguments.compare)} names one run twice: give two")
    folders = Folders()  # the same for both: a folder may have lain elsewhere for one of them
    both = [load([path], arguments.margin, folders) for path in paths]
    names = (both[0].runs[0].name, both[1].runs[0].name)
    if names[0] == names[1]:
        names = (both[0].runs[0].shown, both[1].runs[0].shown)
    found = compare.compare(groups(both[0]), groups(both[1]), names)
    made = [compare.table(each) for each in found]
    warnings = [f"{name}: {text}" for name, each in zip(names, both, strict=True) for text in
                notes.warnings(each, groups(each))]  # fmt: skip
    out = _out(arguments.out, paths[0])
    context = {"title": f"{names[0]} and {names[1]}", "tables": made, "warnings": warnings}
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write_pages("compare", context, out)
    except OSError as error:
        raise ReportError(f"cannot write to {out} ({error.strerror}): give another folder with --out") from None
    print("\n".join([*warnings, *map(render.markdown, made), f"comparison: {quote(str(out / 'compare.html'))}"]))
    return 0


def _margin(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 100:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no margin; give percentage points above 0 and below 100, such as 1"
        )
    return value / 100


if __name__ == "__main__":
    sys.exit(main())
