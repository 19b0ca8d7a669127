"""Where the labels of points stand: beside their points, off lines, error bars and each other."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis import style

_FONT, _LETTER_PT, _HEIGHT_PT = 8, 4.7, 9.0
_GAPS_PT = (7.0, 14.0, 22.0, 32.0, 44.0)  # from a point's middle to its label's edge; from the second on with a leader
_TURNS = [math.tau * k / 16 for k in (0, 8, 1, 15, 7, 9, 2, 14, 6, 10, 4, 12, 3, 13, 5, 11)]  # right and left first
_HIDDEN, _OUTSIDE, _FARTHER = 100.0, 50.0, 0.12  # prices: of a hidden label, of leaving the axes, of a point's distance
_OTHER_SIDE = 4.0  # the price of a level's name on the other side of its line
MARKER, LINE, BAR = 20.0, 1.5, 0.5  # prices of what a label may hide: of a marker, of two points' length of a line


class Labels:
    """Labels of one axes, whose limits stay as they are.

    What they are to keep off is told before they are placed, one by one. Lengths are points (1/72 inch).
    """

    def __init__(self, axes: Axes) -> None:
        self._axes = axes
        axes.get_xlim(), axes.get_ylim()  # an axes finds its limits when it is asked for them
        self._to_points = 72 / axes.figure.dpi
        (self._left, self._foot), (self._right, self._top) = axes.bbox.get_points() * self._to_points
        self._seen: list[np.ndarray] = [np.empty((0, 3))]  # of each: x, y, price
        self._boxes: list[tuple[float, float, float, float]] = []

    def _at(self, points: Sequence[tuple[float, float]]) -> np.ndarray:
        return np.asarray(self._axes.transData.transform(points)) * self._to_points

    def keep_off(self, points: Sequence[tuple[float, float]], price: float) -> None:
        """Single points, in the axes' data."""
        if points:
            at = self._at(points)
            self._seen.append(np.column_stack([at, np.full(len(at), price)]))

    def keep_off_line(self, points: Sequence[tuple[float, float]], price: float) -> None:
        """A line through points, in the axes' data."""
        ends = self._at(points)
        for start, end in pairwise(ends):
            steps = max(2, math.ceil(math.dist(start, end) / 2))
            at = start + np.linspace(0, 1, steps)[:, None] * (end - start)
            self._seen.append(np.column_stack([at, np.full(steps, price)]))

    def _hidden(self, box: tuple[float, float, float, float]) -> float:
        """The price of all that a text in this box would hide."""
        (x0, y0, x1, y1), seen = box, np.concatenate(self._seen)
        hides = (seen[:, 0] > x0 - 2) & (seen[:, 0] < x1 + 2) & (seen[:, 1] > y0 - 1) & (seen[:, 1] < y1 + 1)
        labels = sum(x0 < b[2] and x1 > b[0] and y0 < b[3] and y1 > b[1] for b in self._boxes)
        return float(seen[hides, 2].sum()) + _HIDDEN * labels

    def level(self, y: float, text: str, *, below: bool = False) -> None:
        """A dashed line across at this height, named where the name hides least: at the left, at the right, between;
        below the line if told so, on its other side where that is freer."""
        self._axes.axhline(y, color=style.MUTED, linestyle=(0, (4, 3)), linewidth=0.9, zorder=1)
        height, width = self._at([(self._axes.get_xlim()[0], y)])[0][1], _LETTER_PT * len(text)
        span, asked = self._right - self._left - 12 - width, below
        places = [
            (self._left + 6 + span * share, height - 2 - _HEIGHT_PT if under else height + 2, under)
            for under in (below, not below)
            for share in (0, 1, 0.25, 0.75, 0.5)
        ]

        def price(place: tuple[float, float, bool]) -> float:
            x, y, under = place
            return self._hidden((x, y, x + width, y + _HEIGHT_PT)) + _OTHER_SIDE * (under is not asked)

        x0, y0, below = min(places, key=price)
        self._boxes.append((x0, y0, x0 + width, y0 + _HEIGHT_PT))
        self.keep_off_line([(end, y) for end in self._axes.get_xlim()], LINE)
        self._axes.annotate(
            text,
            (0, y),
            xycoords=("axes fraction", "data"),
            xytext=(x0 - self._left, -3 if below else 3),
            textcoords="offset points",
            va="top" if below else "bottom",
            color=style.MUTED,
            fontsize=_FONT,
            path_effects=style.halo(),
        )

    def levels(self, lines: Sequence[tuple[float, str]]) -> None:
        """Several; the lowest one's name stands below it."""
        for i, (y, text) in enumerate(sorted(lines)):
            self.level(y, text, below=i == 0 and len(lines) > 1)

    def place(self, point: tuple[float, float], text: str, leader: str) -> None:
        """Writes a point's label where it hides least; far from it, with a leader of that colour."""
        (x, y), width = self._at([point])[0], _LETTER_PT * len(text)
        others = np.concatenate(self._seen)
        others = others[np.hypot(*(others[:, :2] - (x, y)).T) > 0.5]  # not the point itself

        def box(gap: float, turn: float) -> tuple[float, float, float, float]:
            middle_x, middle_y = x + math.cos(turn) * (gap + width / 2), y + math.sin(turn) * (gap + _HEIGHT_PT / 2)
            return middle_x - width / 2, middle_y - _HEIGHT_PT / 2, middle_x + width / 2, middle_y + _HEIGHT_PT / 2

        def price(gap: float, turn: float) -> float:
            x0, y0, x1, y1 = edges = box(gap, turn)
            found = self._hidden(edges) + _FARTHER * gap
            outside = x0 < self._left or x1 > self._right or y0 < self._foot or y1 > self._top
            if gap > _GAPS_PT[0]:  # what the leader crosses
                near = (x + math.cos(turn) * gap, y + math.sin(turn) * gap)
                for share in (0.4, 0.7, 1.0):
                    on_way = x + share * (near[0] - x), y + share * (near[1] - y)
                    found += MARKER / 2 * float((others[np.hypot(*(others[:, :2] - on_way).T) < 3, 2] == MARKER).sum())
            return found + _OUTSIDE * outside

        gap, turn = min(((gap, turn) for gap in _GAPS_PT for turn in _TURNS), key=lambda way: price(*way))
        x0, y0, x1, y1 = box(gap, turn)
        self._boxes.append((x0, y0, x1, y1))
        look: dict[str, Any] = {"arrowstyle": "-", "color": leader, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3.5}
        self._axes.annotate(
            text,
            point,
            xytext=((x0 + x1) / 2 - x, (y0 + y1) / 2 - y),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=_FONT,
            color=style.INK,
            zorder=8,
            path_effects=style.halo(1.8),
            arrowprops=look | {"relpos": (0.5 - math.cos(turn) / 2, 0.5), "zorder": 5} if gap > _GAPS_PT[0] else None,
        )
