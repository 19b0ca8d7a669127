"""Place the labels of points near their points, and away from lines, error bars and each other."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis import style

Box = tuple[float, float, float, float]  # left, bottom, right and top, in points (1/72 inch)

_FONT_SIZE, _LETTER_WIDTH_PT, _HEIGHT_PT = 8, 4.7, 9.0
_GAPS_PT = (7.0, 14.0, 22.0, 32.0, 44.0)  # from a point's middle to its label's edge; all but the first need a leader
_DIRECTIONS = [math.tau * k / 16 for k in (0, 8, 1, 15, 7, 9, 2, 14, 6, 10, 4, 12, 3, 13, 5, 11)]  # first right, left
# A label is put where the sum of its costs is lowest.
_HIDDEN_LABEL_COST, _OUTSIDE_COST, _DISTANCE_COST = 100.0, 50.0, 0.12  # the last is for each 1/72 inch from the point
_OTHER_SIDE_COST = 4.0  # of a level's name that is not on the wanted side of its line
MARKER_COST, LINE_COST, BAR_COST = 20.0, 1.5, 0.5  # of hiding a marker, 2 pt of a line, and 2 pt of an error bar


class Labels:
    """Labels of one axes, whose limits must stay as they are.

    First say what the labels must not hide (`keep_off`, `keep_off_line`), then place them one by one. Lengths are
    points (1/72 inch).
    """

    def __init__(self, axes: Axes) -> None:
        self._axes = axes
        axes.get_xlim(), axes.get_ylim()  # this makes matplotlib compute the limits of the axes
        self._points_per_pixel = 72 / axes.figure.dpi
        (self._left, self._bottom), (self._right, self._top) = axes.bbox.get_points() * self._points_per_pixel
        self._obstacles: list[np.ndarray] = [np.empty((0, 3))]  # rows of x, y and the cost of hiding it
        self._label_boxes: list[Box] = []

    def _to_points(self, points: Sequence[tuple[float, float]]) -> np.ndarray:
        """Convert positions from the axes' data coordinates to lengths of 1/72 inch, from the figure's lower left."""
        return np.asarray(self._axes.transData.transform(points)) * self._points_per_pixel

    def keep_off(self, points: Sequence[tuple[float, float]], cost: float) -> None:
        """Add points, in data coordinates, that labels should not hide. `cost` is for each point."""
        if points:
            positions = self._to_points(points)
            self._obstacles.append(np.column_stack([positions, np.full(len(positions), cost)]))

    def keep_off_line(self, points: Sequence[tuple[float, float]], cost: float) -> None:
        """Add a line through points, in data coordinates, that labels should not hide. `cost` is for each 2 pt."""
        for start, end in pairwise(self._to_points(points)):
            steps = max(2, math.ceil(math.dist(start, end) / 2))
            positions = start + np.linspace(0, 1, steps)[:, None] * (end - start)
            self._obstacles.append(np.column_stack([positions, np.full(steps, cost)]))

    def _hiding_cost(self, box: Box) -> float:
        """Return the cost of everything that a text in this box would hide."""
        (x0, y0, x1, y1), obstacles = box, np.concatenate(self._obstacles)
        x, y, costs = obstacles.T
        is_hidden = (x > x0 - 2) & (x < x1 + 2) & (y > y0 - 1) & (y < y1 + 1)
        hidden_labels = [
            label for label in self._label_boxes if x0 < label[2] and x1 > label[0] and y0 < label[3] and y1 > label[1]
        ]
        return float(costs[is_hidden].sum()) + _HIDDEN_LABEL_COST * len(hidden_labels)

    def draw_level(self, y: float, text: str, *, below: bool = False) -> None:
        """Draw a dashed horizontal line at this height, with its name where it hides least.

        The name is above the line (below it if `below`), unless it costs less on the other side.
        """
        self._axes.axhline(y, color=style.MUTED, linestyle=(0, (4, 3)), linewidth=0.9, zorder=1)
        height, width = self._to_points([(self._axes.get_xlim()[0], y)])[0][1], _LETTER_WIDTH_PT * len(text)
        span = self._right - self._left - 12 - width
        candidates = [
            (self._left + 6 + span * share, height - 2 - _HEIGHT_PT if is_below else height + 2, is_below)
            for is_below in (below, not below)
            for share in (0, 1, 0.25, 0.75, 0.5)
        ]

        def cost(candidate: tuple[float, float, bool]) -> float:
            left, bottom, is_below = candidate
            box = (left, bottom, left + width, bottom + _HEIGHT_PT)
            return self._hiding_cost(box) + _OTHER_SIDE_COST * (is_below is not below)

        left, bottom, is_below = min(candidates, key=cost)
        self._label_boxes.append((left, bottom, left + width, bottom + _HEIGHT_PT))
        self.keep_off_line([(end, y) for end in self._axes.get_xlim()], LINE_COST)
        self._axes.annotate(
            text,
            (0, y),
            xycoords=("axes fraction", "data"),
            xytext=(left - self._left, -3 if is_below else 3),
            textcoords="offset points",
            va="top" if is_below else "bottom",
            color=style.MUTED,
            fontsize=_FONT_SIZE,
            path_effects=style.halo(),
        )

    def draw_levels(self, lines: Sequence[tuple[float, str]]) -> None:
        """Draw several levels, each a (height, name). The name of the lowest is below its line."""
        for i, (y, text) in enumerate(sorted(lines)):
            self.draw_level(y, text, below=i == 0 and len(lines) > 1)

    def place(self, point: tuple[float, float], text: str, leader_colour: str) -> None:
        """Write a point's label where it hides least. A label that is farther away gets a leader line."""
        (x, y), width = self._to_points([point])[0], _LETTER_WIDTH_PT * len(text)
        obstacles = np.concatenate(self._obstacles)
        other_obstacles = obstacles[np.hypot(*(obstacles[:, :2] - (x, y)).T) > 0.5]  # all but the point itself

        def label_box(gap: float, direction: float) -> Box:
            middle_x = x + math.cos(direction) * (gap + width / 2)
            middle_y = y + math.sin(direction) * (gap + _HEIGHT_PT / 2)
            return middle_x - width / 2, middle_y - _HEIGHT_PT / 2, middle_x + width / 2, middle_y + _HEIGHT_PT / 2

        def cost(gap: float, direction: float) -> float:
            x0, y0, x1, y1 = box = label_box(gap, direction)
            total = self._hiding_cost(box) + _DISTANCE_COST * gap
            is_outside = x0 < self._left or x1 > self._right or y0 < self._bottom or y1 > self._top
            if gap > _GAPS_PT[0]:  # the leader line may cross markers
                end = (x + math.cos(direction) * gap, y + math.sin(direction) * gap)
                for share in (0.4, 0.7, 1.0):
                    on_leader = x + share * (end[0] - x), y + share * (end[1] - y)
                    is_near = np.hypot(*(other_obstacles[:, :2] - on_leader).T) < 3
                    total += MARKER_COST / 2 * float((other_obstacles[is_near, 2] == MARKER_COST).sum())
            return total + _OUTSIDE_COST * is_outside

        candidates = [(gap, direction) for gap in _GAPS_PT for direction in _DIRECTIONS]
        gap, direction = min(candidates, key=lambda candidate: cost(*candidate))
        x0, y0, x1, y1 = box = label_box(gap, direction)
        self._label_boxes.append(box)
        arrow: dict[str, Any] = {
            "arrowstyle": "-",
            "color": leader_colour,
            "linewidth": 0.7,
            "shrinkA": 0,
            "shrinkB": 3.5,
            "relpos": (0.5 - math.cos(direction) / 2, 0.5),
            "zorder": 5,
        }
        self._axes.annotate(
            text,
            point,
            xytext=((x0 + x1) / 2 - x, (y0 + y1) / 2 - y),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=_FONT_SIZE,
            color=style.INK,
            zorder=8,
            path_effects=style.halo(1.8),
            arrowprops=arrow if gap > _GAPS_PT[0] else None,
        )
