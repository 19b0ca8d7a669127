"""What a run has shown so far, as HTML: the report's own answer, frontier and looks, from the same functions."""

from __future__ import annotations

from markupsafe import Markup, escape

from analysis import render, style
from analysis.cells import Group, groups
from analysis.headline import headline
from analysis.load import load
from analysis.plots import looks as looks_plot
from analysis.plots import pareto
from analysis.registry import PLUGIN_ERRORS, Missing, PlotSpec, TableSpec, error_line
from analysis.tables import frontier as frontier_table
from analysis.tables import looks as looks_table
from lopt.locations import Location

_SPECS: tuple[PlotSpec | TableSpec, ...] = (pareto.SPEC, frontier_table.SPEC, looks_plot.SPEC, looks_table.SPEC)


def answers_html(run: Location) -> str:
    """Return the answer of each group of cells, with its frontier and looks.

    Raises:
        ReportError: The manifest cannot be read.
    """
    return "".join(_group_html(group, index) for index, group in enumerate(groups(load([run]))))


def _group_html(group: Group, index: int) -> str:
    group_headline = headline(group)
    parts = [Markup('<div class="answer"><p>{}</p></div>').format(render.keep_units(group_headline.answer))]
    if group_headline.exploratory_warning:
        parts.append(Markup('<p class="banner" role="note">{}</p>').format(group_headline.exploratory_warning))
    for spec in _SPECS:
        try:
            parts.append(_item_html(spec, group, f"{spec.name}-{index}"))
        except PLUGIN_ERRORS as error:
            parts.append(Markup('<p class="banner">{}</p>').format(error_line(error, f"{spec.name}.py")))
    return "".join(parts)


def _item_html(spec: PlotSpec | TableSpec, group: Group, stem: str) -> Markup:
    info = spec.info(group)
    if isinstance(info, Missing):
        reason = (
            "" if info.quiet else Markup('<p class="notes">{}: {}.</p>').format(spec.title.rstrip("?"), info.reason)
        )
        return Markup(reason)
    if isinstance(spec, TableSpec):
        return Markup('<div class="card"><h3>{}</h3>{}</div>').format(spec.title, render.html(spec.render(info)))
    from matplotlib import rc_context

    with rc_context():
        figure = spec.draw(info)
        svg = style.inline_svg(style.figure_svg(figure).decode(), stem, caption := spec.caption(info))
    form = '<div class="card"><h3>{}</h3><figure><div class="scroll">{}</div><figcaption>{}</figcaption></figure></div>'
    return Markup(form).format(spec.title, svg, escape(caption))
