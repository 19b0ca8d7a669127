"""The mark of the cell to use, which is the same in every figure: a ring around its point."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis import style
from analysis.cells import Cell, Group
from analysis.recommendation import recommend

CAPTION = "The ring marks the cell to use."
_RING: dict[str, Any] = {"marker": "o", "mfc": "none", "mec": style.INK, "mew": 1.5, "markersize": 13}


def cell_to_use(group: Group) -> Cell | None:
    """Return the cell that the answer tells the reader to use; None if nothing can be recommended."""
    return recommend(group).cell_to_use


def draw_ring(axes: Axes, x: float, y: float) -> None:
    axes.plot([x], [y], linestyle="", zorder=7.5, **_RING)


def ring_handle() -> Line2D:
    return Line2D([], [], linestyle="", label="use this", **{**_RING, "markersize": 9})
