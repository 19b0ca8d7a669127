"""The page of a report: its tables and figures, group by group, their files, and the text around them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis import notes, render
from analysis.cells import Group, groups
from analysis.headline import Headline, headline
from analysis.load import Results
from analysis.records import grouped
from analysis.registry import PLUGIN_ERRORS, Missing, PlotSpec, TableSpec, error_line, scan
from analysis.render import Table


@dataclass(frozen=True, kw_only=True)
class Item:
    """A table or a figure, ready for a page.

    `stem` is the name of its files without the ending. `published` is that of its `TableSpec`.
    """

    stem: str
    title: str
    table: Table | None = None
    svg: Markup | None = None
    caption: str = ""
    published: bool = False

    @property
    def heading(self) -> str:
        """The caption of a table if it begins with the title, else the title."""
        caption = self.table.caption if self.table else ""
        return caption if caption.startswith(self.title.rstrip("?")) else self.title


@dataclass(frozen=True, kw_only=True)
class Section:
    """One group: a backbone on a task."""

    group: Group
    headline: Headline
    items: tuple[Item, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Overview:
    """Tables that span several sections: over all tasks of one backbone."""

    title: str
    items: tuple[Item, ...]


def write_report(results: Results, out: Path) -> tuple[list[Section], list[str]]:
    """Write the report of `results` under `out`.

    Returns:
        The sections, and a line for each table or plot that raised an error and is left out.

    Raises:
        OSError: a file cannot be written.
    """
    all_groups = groups(results)
    broken_tables: dict[str, str] = {}
    broken_plots: dict[str, str] = {}
    tables = scan("analysis.tables", TableSpec, broken_tables)
    plots = scan("analysis.plots", PlotSpec, broken_plots)
    writer = _Writer(out=out, faults=[*broken_tables.values(), *broken_plots.values()])
    _clear(out / "tables", ("md", "csv", "tex"), [*tables, *broken_tables])
    _clear(out / "figures", ("svg", "pdf", "png", "csv"), [*plots, *broken_plots])
    specs: list[TableSpec | PlotSpec] = [*tables.values(), *plots.values()]
    specs.sort(key=lambda spec: spec.place)
    families = grouped(all_groups, lambda group: (group.backbone, group.shots))
    group_suffixes = _suffixes([(group.backbone_name, group.task_name, _shots(group)) for group in all_groups])
    family_suffixes = _suffixes([(family[0].backbone_name, _shots(family[0])) for family in families.values()])
    sections = [
        _section(group, families[group.backbone, group.shots], specs, writer, suffix)
        for group, suffix in zip(all_groups, group_suffixes, strict=True)
    ]
    overviews = [
        _overview(family, tables, writer, suffix)
        for family, suffix in zip(families.values(), family_suffixes, strict=True)
        if len(family) > 1
    ]
    faults = [*dict.fromkeys(writer.faults)]
    left_out = [f"Left out, because it failed: {error}" for error in faults]
    items = chain(*(section.items for section in sections), *(overview.items for overview in overviews))
    context = {
        "title": ", ".join(run.name for run in results.runs),
        "overviews": [overview for overview in overviews if overview.items],
        "sections": sections,
        "warnings": [*notes.warnings(results, all_groups), *left_out],
        "failures": notes.failures(all_groups),
        "frozen": notes.stuck(all_groups),
        "notes": [*notes.notes(results, all_groups)],
        "caveats": notes.caveats(all_groups, any(item.published for item in items)),
        "provenance": [notes.provenance(run) for run in results.runs],
    }
    write_pages("report", context, out)
    return sections, faults


def _clear(folder: Path, endings: Sequence[str], names: Sequence[str]) -> None:
    """Make the folder, and delete the files of an earlier report, which may have had more groups."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for ending in endings:
            for file in (folder / f"{name}.{ending}", *folder.glob(f"{name}--*.{ending}")):
                file.unlink(missing_ok=True)


def write_pages(name: str, context: Mapping[str, object], out: Path) -> None:
    """Write `name`.html and `name`.md from their templates."""
    templates = FileSystemLoader(Path(__file__).parent / "templates")
    for page, autoescape in ((f"{name}.html", True), (f"{name}.md", False)):
        env = Environment(
            loader=templates, autoescape=autoescape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        env.filters |= {"table_html": render.html, "table_md": render.markdown}
        env.filters |= {"md": render.markdown_text, "code": render.markdown_code, "unbroken": render.keep_units}
        (out / page).write_text(env.get_template(f"{page}.j2").render(context), encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class _Writer:
    """Makes tables and figures, and writes their files under `out`. `faults` gets a line for each that fails."""

    out: Path
    faults: list[str]

    def make_item(self, spec: TableSpec | PlotSpec, subject: Group | Sequence[Group], suffix: str) -> Item | Missing:
        """Make a table or figure and write its files. One that fails is Missing, and its error is added to `faults`."""
        stem = f"{spec.name}{suffix}"
        package, folder = ("tables", "tables") if isinstance(spec, TableSpec) else ("plots", "figures")
        try:
            info = spec.info(subject)  # type: ignore[arg-type]
            if isinstance(info, Missing):
                return info
            item, files = _table(spec, info, stem) if isinstance(spec, TableSpec) else _figure(spec, info, stem)
        except PLUGIN_ERRORS as error:
            self.faults.append(error_line(error, f"analysis/{package}/{spec.name}.py"))
            return Missing("it failed, as said at the top")
        for ending, content in files.items():
            (self.out / folder / f"{stem}.{ending}").write_bytes(content)
        return item


def _section(
    group: Group, family: Sequence[Group], specs: Sequence[TableSpec | PlotSpec], writer: _Writer, suffix: str
) -> Section:
    """Make the section of a group. `family` are all groups of its backbone; if there are several, the tables that span
    them belong to an overview."""
    items, missing = [], []
    for spec in specs:
        is_across = isinstance(spec, TableSpec) and spec.across
        if is_across and len(family) > 1:
            continue
        item = writer.make_item(spec, family if is_across else group, suffix)
        if isinstance(item, Item):
            items.append(item)
        elif not item.quiet:
            missing.append(f"{spec.title}: {item.reason}.")
    return Section(group=group, headline=headline(group), items=tuple(items), missing=tuple(missing))


def _overview(family: Sequence[Group], tables: dict[str, TableSpec], writer: _Writer, suffix: str) -> Overview:
    items = [writer.make_item(spec, family, suffix) for spec in tables.values() if spec.across]
    title = f"All tasks with {family[0].backbone_name}" + (f" ({_shots(family[0])})" if family[0].shots else "")
    return Overview(title=title, items=tuple(item for item in items if isinstance(item, Item)))


def _table(spec: TableSpec, info: object, stem: str) -> tuple[Item, dict[str, bytes]]:
    """Return a table, and the content of its files by ending."""
    table = spec.render(info)
    if not isinstance(table, Table):
        raise TypeError(f"render gives {type(table).__name__}, not a Table")
    if not isinstance(table.caption, str):
        raise TypeError(f"the table's caption is {type(table.caption).__name__}, not a text")
    render.html(table)  # the page is written later, but a table that it cannot hold has to fail now
    contents = {"md": render.markdown(table), "csv": render.csv(table), "tex": render.latex(table)}
    item = Item(stem=stem, title=spec.title, table=table, published=spec.published)
    return item, {ending: text.encode() for ending, text in contents.items()}


def _figure(spec: PlotSpec, info: object, stem: str) -> tuple[Item, dict[str, bytes]]:
    """Return a figure, and the content of its files by ending."""
    from matplotlib import rc_context  # slow to import: --help does without it
    from matplotlib.figure import Figure

    from analysis import style

    with rc_context():  # settings that a plot makes must not reach other plots
        figure = spec.draw(info)
    if not isinstance(figure, Figure):
        raise TypeError(f"draw gives {type(figure).__name__}, not a Figure")
    caption = spec.caption(info)
    if not isinstance(caption, str):
        raise TypeError(f"caption gives {type(caption).__name__}, not a text")
    files = {"csv": render.rows_csv(spec.data(info)).encode(), **style.files(figure)}
    svg = style.inline_svg(files["svg"].decode(), stem, caption)
    return Item(stem=stem, title=spec.title, svg=svg, caption=caption), files


def _shots(group: Group) -> str:
    return f"{group.shots}-shot" if group.shots else ""


def _suffixes(names: Sequence[tuple[str, ...]]) -> list[str]:
    """Return a suffix of file names for each of these names, no two the same. A single name needs none."""
    if len(names) == 1:
        return [""]
    suffixes: list[str] = []
    for parts in names:
        suffix = "".join(f"--{_slug(part)}" for part in parts if part)
        candidates = chain([suffix], (f"{suffix}-{number}" for number in count(2)))
        suffixes.append(next(candidate for candidate in candidates if candidate not in suffixes))
    return suffixes


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "other"
