"""Place the labels of points near their points, and away from lines, error bars and each other."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis import style

Box = tuple[float, float, float, float]  # left, bottom, right and top, in points (1/72 inch)

_FONT_SIZE, _LETTER_WIDTH_PT, _LABEL_HEIGHT_PT = 8, 4.7, 9.0
# Gaps between the middle of a point and the edge of its label. All but the first need a leader: a line between the two.
_GAPS_PT = (7.0, 14.0, 22.0, 32.0, 44.0)
# Angles from a point to its label, in sixteenths of a turn: first to the right (0), then to the left (8).
_SIXTEENTHS = (0, 8, 1, 15, 7, 9, 2, 14, 6, 10, 4, 12, 3, 13, 5, 11)
_DIRECTIONS = [math.tau * sixteenths / 16 for sixteenths in _SIXTEENTHS]
# Each place for a label has costs. The label is put where their sum is lowest.
_HIDDEN_LABEL_COST, _OUTSIDE_COST, _DISTANCE_COST = 100.0, 50.0, 0.12  # the last is for each 1/72 inch from the point
_OTHER_SIDE_COST = 4.0  # for the name of a horizontal line (`draw_level`) that is not on the wanted side
MARKER_COST, LINE_COST, BAR_COST = 20.0, 1.5, 0.5  # for hiding a marker, 2 pt of a line, 2 pt of a bar


class Labels:
    """The labels in one `Axes`. The limits of these axes must not change any more.

    First say what the labels must not hide (`keep_off`, `keep_off_line`), then place the labels one by one. Lengths are
    in points (pt, 1/72 inch).
    """

    def __init__(self, axes: Axes) -> None:
        self._axes = axes
        axes.get_xlim(), axes.get_ylim()  # this makes matplotlib compute the limits of the axes
        self._points_per_pixel = 72 / axes.figure.dpi
        (self._left, self._bottom), (self._right, self._top) = axes.bbox.get_points() * self._points_per_pixel
        self._obstacles: list[np.ndarray] = [np.empty((0, 3))]  # rows of x, y and the cost of hiding it
        self._label_boxes: list[Box] = []

    def _to_positions_pt(self, points: Sequence[tuple[float, float]]) -> np.ndarray:
        """Convert positions from data coordinates to points (1/72 inch) from the lower left corner of the figure."""
        return np.asarray(self._axes.transData.transform(points)) * self._points_per_pixel

    def keep_off(self, points: Sequence[tuple[float, float]], cost: float) -> None:
        """Add points, in data coordinates, that labels should not hide. `cost` is for each point."""
        if points:
            positions_pt = self._to_positions_pt(points)
            self._obstacles.append(np.column_stack([positions_pt, np.full(len(positions_pt), cost)]))

    def keep_off_line(self, points: Sequence[tuple[float, float]], cost: float) -> None:
        """Add a line through points, in data coordinates, that labels should not hide. `cost` is for each 2 pt."""
        for start, end in pairwise(self._to_positions_pt(points)):
            position_count = max(2, math.ceil(math.dist(start, end) / 2))
            positions_pt = start + np.linspace(0, 1, position_count)[:, None] * (end - start)
            self._obstacles.append(np.column_stack([positions_pt, np.full(position_count, cost)]))

    def _hiding_cost(self, box: Box) -> float:
        """Return the cost of everything that a text in this box would hide."""
        (left, bottom, right, top), obstacles = box, np.concatenate(self._obstacles)
        x, y, costs = obstacles.T
        is_hidden = (x > left - 2) & (x < right + 2) & (y > bottom - 1) & (y < top + 1)
        hidden_labels = [
            label_box
            for label_box in self._label_boxes
            if left < label_box[2] and right > label_box[0] and bottom < label_box[3] and top > label_box[1]
        ]
        return float(costs[is_hidden].sum()) + _HIDDEN_LABEL_COST * len(hidden_labels)

    def draw_level(self, y: float, name: str, *, prefer_below: bool = False) -> None:
        """Draw a dashed horizontal line at the height `y` (in data coordinates), with its name where it hides least.

        The name is above the line (below the line if `prefer_below`), unless it hides much less on the other side.
        """
        self._axes.axhline(y, color=style.MUTED, linestyle=(0, (4, 3)), linewidth=0.9, zorder=1)
        y_pt, text_width_pt = self._to_positions_pt([(self._axes.get_xlim()[0], y)])[0][1], _LETTER_WIDTH_PT * len(name)
        free_width_pt = self._right - self._left - 12 - text_width_pt
        candidates = [
            (self._left + 6 + free_width_pt * share, y_pt - 2 - _LABEL_HEIGHT_PT if is_below else y_pt + 2, is_below)
            for is_below in (prefer_below, not prefer_below)
            for share in (0, 1, 0.25, 0.75, 0.5)
        ]

        def cost(candidate: tuple[float, float, bool]) -> float:
            left, bottom, is_below = candidate
            box = (left, bottom, left + text_width_pt, bottom + _LABEL_HEIGHT_PT)
            return self._hiding_cost(box) + _OTHER_SIDE_COST * (is_below is not prefer_below)

        left, bottom, is_below = min(candidates, key=cost)
        self._label_boxes.append((left, bottom, left + text_width_pt, bottom + _LABEL_HEIGHT_PT))
        self.keep_off_line([(end, y) for end in self._axes.get_xlim()], LINE_COST)
        self._axes.annotate(
            name,
            (0, y),
            xycoords=("axes fraction", "data"),
            xytext=(left - self._left, -3 if is_below else 3),
            textcoords="offset points",
            va="top" if is_below else "bottom",
            color=style.MUTED,
            fontsize=_FONT_SIZE,
            path_effects=style.halo(),
        )

    def draw_levels(self, levels: Sequence[tuple[float, str]]) -> None:
        """Draw several levels, each given as (height, name). The lowest of them has its name below the line."""
        for i, (y, name) in enumerate(sorted(levels)):
            self.draw_level(y, name, prefer_below=i == 0 and len(levels) > 1)

    def place(self, point: tuple[float, float], text: str, leader_colour: str) -> None:
        """Write a point's label where it hides least. A label that is farther away gets a leader line."""
        (x_pt, y_pt), text_width_pt = self._to_positions_pt([point])[0], _LETTER_WIDTH_PT * len(text)
        obstacles = np.concatenate(self._obstacles)
        other_obstacles = obstacles[np.hypot(*(obstacles[:, :2] - (x_pt, y_pt)).T) > 0.5]  # all but the point itself

        def label_box(gap_pt: float, direction: float) -> Box:
            middle_x = x_pt + math.cos(direction) * (gap_pt + text_width_pt / 2)
            middle_y = y_pt + math.sin(direction) * (gap_pt + _LABEL_HEIGHT_PT / 2)
            return (
                middle_x - text_width_pt / 2,
                middle_y - _LABEL_HEIGHT_PT / 2,
                middle_x + text_width_pt / 2,
                middle_y + _LABEL_HEIGHT_PT / 2,
            )

        def cost(gap_pt: float, direction: float) -> float:
            left, bottom, right, top = box = label_box(gap_pt, direction)
            total_cost = self._hiding_cost(box) + _DISTANCE_COST * gap_pt
            is_outside = left < self._left or right > self._right or bottom < self._bottom or top > self._top
            if gap_pt > _GAPS_PT[0]:  # the leader line may cross markers
                leader_end = (x_pt + math.cos(direction) * gap_pt, y_pt + math.sin(direction) * gap_pt)
                for share in (0.4, 0.7, 1.0):
                    leader_position = x_pt + share * (leader_end[0] - x_pt), y_pt + share * (leader_end[1] - y_pt)
                    is_near = np.hypot(*(other_obstacles[:, :2] - leader_position).T) < 3
                    total_cost += MARKER_COST / 2 * float((other_obstacles[is_near, 2] == MARKER_COST).sum())
            return total_cost + _OUTSIDE_COST * is_outside

        candidates = [(gap_pt, direction) for gap_pt in _GAPS_PT for direction in _DIRECTIONS]
        gap_pt, direction = min(candidates, key=lambda candidate: cost(*candidate))
        left, bottom, right, top = box = label_box(gap_pt, direction)
        self._label_boxes.append(box)
        leader: dict[str, Any] = {
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
            xytext=((left + right) / 2 - x_pt, (bottom + top) / 2 - y_pt),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=_FONT_SIZE,
            color=style.INK,
            zorder=8,
            path_effects=style.halo(1.8),
            arrowprops=leader if gap_pt > _GAPS_PT[0] else None,
        )
