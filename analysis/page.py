"""The page of a report: the tables and figures of each group, their files, and the text around them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis import notes, render
from analysis.card import Card, make_card
from analysis.cells import Group, groups
from analysis.headline import Headline, headline
from analysis.load import Results, declaration_warnings
from analysis.power_text import power_sentences
from analysis.provenance import provenance
from analysis.records import grouped
from analysis.registry import PLUGIN_ERRORS, Missing, PlotSpec, TableSpec, error_line, scan
from analysis.render import Table


@dataclass(frozen=True, kw_only=True)
class Item:
    """A table or a figure, ready for a page.

    Attributes:
        stem: the name of the item's files without the ending.
        published: whether the item shows published numbers.
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
    """The part of the page about one group.

    `power` says what the design can decide. `missing` says which tables and figures cannot be made, and why.
    """

    group: Group
    headline: Headline
    card: Card
    power: tuple[str, ...]
    items: tuple[Item, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What spans all tasks of one backbone, and so several sections: the answer of each section, and tables."""

    title: str
    answers: tuple[str, ...]
    items: tuple[Item, ...]


def write_report(results: Results, out: Path) -> tuple[list[Section], list[str]]:
    """Write the report of `results` under `out`.

    Returns:
        The sections, and the errors of the tables and plots that are left out, each in one line.

    Raises:
        OSError: a file cannot be written.
    """
    all_groups = groups(results)
    table_errors: dict[str, str] = {}
    plot_errors: dict[str, str] = {}
    tables = scan("analysis.tables", TableSpec, table_errors)
    plots = scan("analysis.plots", PlotSpec, plot_errors)
    writer = _Writer(out=out, errors=[*table_errors.values(), *plot_errors.values()])
    _clear_folder(out / "tables", ("md", "csv", "tex"), [*tables, *table_errors])
    _clear_folder(out / "figures", ("svg", "pdf", "png", "csv"), [*plots, *plot_errors])
    specs: list[TableSpec | PlotSpec] = [*tables.values(), *plots.values()]
    specs.sort(key=lambda spec: spec.place)
    groups_by_backbone = grouped(all_groups, lambda group: (group.backbone, group.shots))
    suffixes = _file_name_suffixes([(group.backbone_name, group.task_name, _shots_text(group)) for group in all_groups])
    overview_suffixes = _file_name_suffixes(
        [(task_groups[0].backbone_name, _shots_text(task_groups[0])) for task_groups in groups_by_backbone.values()]
    )
    commands = {run.path_text: provenance(run).command for run in results.runs}
    sections = [
        _make_section(group, groups_by_backbone[group.backbone, group.shots], specs, writer, suffix, commands)
        for group, suffix in zip(all_groups, suffixes, strict=True)
    ]
    overviews = [
        _make_overview([section for section in sections if section.group in task_groups], tables, writer, suffix)
        for task_groups, suffix in zip(groups_by_backbone.values(), overview_suffixes, strict=True)
        if len(task_groups) > 1
    ]
    errors = [*dict.fromkeys(writer.errors)]
    error_warnings = [f"Left out, because it failed: {error}" for error in errors]
    items = chain(*(section.items for section in sections), *(overview.items for overview in overviews))
    context = {
        "title": ", ".join(run.name for run in results.runs),
        "overviews": overviews,
        "sections": sections,
        "warnings": [
            *declaration_warnings(results),
            *notes.warnings(results, all_groups),
            *error_warnings,
        ],
        "failures": notes.failures(all_groups),
        "stuck_trials": notes.stuck_trials(all_groups),
        "notes": [*notes.notes(results, all_groups)],
        "caveats": notes.caveats(all_groups, any(item.published for item in items)),
        "provenance": [provenance(run) for run in results.runs],
    }
    write_pages("report", context, out)
    return sections, errors


def _clear_folder(folder: Path, endings: Sequence[str], spec_names: Sequence[str]) -> None:
    """Make the folder, and delete the files of an earlier report, because it may have had more groups."""
    folder.mkdir(parents=True, exist_ok=True)
    for spec_name in spec_names:
        for ending in endings:
            for file in (folder / f"{spec_name}.{ending}", *folder.glob(f"{spec_name}--*.{ending}")):
                file.unlink(missing_ok=True)


def write_pages(name: str, context: Mapping[str, object], out: Path) -> None:
    """Write `name`.html and `name`.md from their templates."""
    templates = FileSystemLoader(Path(__file__).parent / "templates")
    for page_name, autoescape in ((f"{name}.html", True), (f"{name}.md", False)):
        environment = Environment(
            loader=templates, autoescape=autoescape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters |= {"table_html": render.html, "table_md": render.markdown}
        environment.filters |= {"md": render.markdown_text, "code": render.markdown_code, "unbroken": render.keep_units}
        (out / page_name).write_text(environment.get_template(f"{page_name}.j2").render(context), encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class _Writer:
    """Makes tables and figures, and writes their files under `out`. `errors` gets a line for each that fails."""

    out: Path
    errors: list[str]

    def make_item(self, spec: TableSpec | PlotSpec, subject: Group | Sequence[Group], suffix: str) -> Item | Missing:
        """Make a table or figure and write its files. If it fails, return Missing and add the error to `errors`."""
        stem = f"{spec.name}{suffix}"
        package, folder = ("tables", "tables") if isinstance(spec, TableSpec) else ("plots", "figures")
        try:
            info = spec.info(subject)  # type: ignore[arg-type]
            if isinstance(info, Missing):
                return info
            item, files = (
                _render_table(spec, info, stem) if isinstance(spec, TableSpec) else _draw_figure(spec, info, stem)
            )
        except PLUGIN_ERRORS as error:
            self.errors.append(error_line(error, f"analysis/{package}/{spec.name}.py"))
            return Missing("it failed, as said at the top")
        for ending, content in files.items():
            (self.out / folder / f"{stem}.{ending}").write_bytes(content)
        return item


def _make_section(
    group: Group,
    task_groups: Sequence[Group],
    specs: Sequence[TableSpec | PlotSpec],
    writer: _Writer,
    suffix: str,
    commands: Mapping[str, str],
) -> Section:
    """Make the section of a group.

    Args:
        task_groups: the groups of all tasks with the same backbone and number of shots. If there are several, the
            tables that span tasks are in an overview and not in the section.
    """
    items, missing_texts = [], []
    for spec in specs:
        spans_tasks = isinstance(spec, TableSpec) and spec.across
        if spans_tasks and len(task_groups) > 1:
            continue
        item = writer.make_item(spec, task_groups if spans_tasks else group, suffix)
        if isinstance(item, Item):
            items.append(item)
        elif not item.quiet:
            missing_texts.append(f"{spec.title.rstrip('?')}: {item.reason}.")
    group_headline = headline(group)
    return Section(
        group=group,
        headline=group_headline,
        card=make_card(group, group_headline, commands),
        power=tuple(power_sentences(group)),
        items=tuple(items),
        missing=tuple(missing_texts),
    )


def _make_overview(sections: Sequence[Section], tables: dict[str, TableSpec], writer: _Writer, suffix: str) -> Overview:
    """Make what spans these sections, which are all tasks of one backbone with one number of shots."""
    groups_of_tasks = [section.group for section in sections]
    items = [writer.make_item(spec, groups_of_tasks, suffix) for spec in tables.values() if spec.across]
    first_group = groups_of_tasks[0]
    title = f"All tasks with {first_group.backbone_title}" + (
        f" ({_shots_text(first_group)})" if first_group.shots else ""
    )
    return Overview(
        title=title,
        answers=tuple(f"{section.group.task_title}: {section.headline.short_answer}." for section in sections),
        items=tuple(item for item in items if isinstance(item, Item)),
    )


def _render_table(spec: TableSpec, info: object, stem: str) -> tuple[Item, dict[str, bytes]]:
    """Return a table, and the contents of its files by their endings."""
    table = spec.render(info)
    if not isinstance(table, Table):
        raise TypeError(f"render returned {type(table).__name__}, not a Table")
    if not isinstance(table.caption, str):
        raise TypeError(f"the table's caption is {type(table.caption).__name__}, not a text")
    render.html(table)  # a table that cannot be written to the page has to fail now
    contents = {"md": render.markdown(table), "csv": render.csv(table), "tex": render.latex(table)}
    item = Item(stem=stem, title=spec.title, table=table, published=spec.published)
    return item, {ending: text.encode() for ending, text in contents.items()}


def _draw_figure(spec: PlotSpec, info: object, stem: str) -> tuple[Item, dict[str, bytes]]:
    """Return a figure, and the contents of its files by their endings."""
    from matplotlib import rc_context  # imported here, because it is slow and --help does not need it
    from matplotlib.figure import Figure

    from analysis import style

    with rc_context():  # settings of one plot must not change other plots
        figure = spec.draw(info)
    if not isinstance(figure, Figure):
        raise TypeError(f"draw returned {type(figure).__name__}, not a Figure")
    caption = spec.caption(info)
    if not isinstance(caption, str):
        raise TypeError(f"caption returned {type(caption).__name__}, not a text")
    files = {"csv": render.rows_csv(spec.data(info)).encode(), **style.figure_files(figure)}
    svg = style.inline_svg(files["svg"].decode(), stem, caption)
    return Item(stem=stem, title=spec.title, svg=svg, caption=caption), files


def _shots_text(group: Group) -> str:
    return f"{group.shots}-shot" if group.shots else ""


def _file_name_suffixes(names: Sequence[tuple[str, ...]]) -> list[str]:
    """Return a suffix of file names for each group or overview. The name of a group or overview is a tuple of parts.

    All suffixes differ. If there is only one name, its suffix is empty.
    """
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
