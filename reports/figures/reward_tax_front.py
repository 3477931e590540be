"""Reward against alignment tax over checkpoints, and the front that none of them is beaten on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from alignbench.audit.audit import Checkpoint, Front
from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence
from reports.style import FAINT, INK, LABEL, looks, new_figure, plain

TITLE = "Reward and tax"
SHADE = "#f1f1f1"
# where a name may stand about its mark: steps to the right and upwards, the nearest first
RINGS = (9, 16, 26, 40, 58, 80, 110, 145, 185)  # points
SIDES = ((0.8, 0.8), (0.8, -0.8), (-0.8, 0.8), (-0.8, -0.8), (1, 0), (-1, 0), (0, 1), (0, -1), (0.4, 0.9),
         (0.4, -0.9), (-0.4, 0.9), (-0.4, -0.9))  # fmt: skip
Side = Literal["left", "center", "right"]
ANCHORS: dict[Side, float] = {"left": 0.0, "center": 0.5, "right": 1.0}
OUTSIDE = 10  # how bad it is to leave the axes, a pixel of a name's height
LINE = 0.3  # how bad it is to cross a line, where to meet a name or a mark is 1


def draw(evidence: Evidence) -> list[Drawing]:
    """One point a checkpoint; up and to the left is better."""
    audit = evidence.audit
    if audit is None or audit.front is None:
        why = [note for note in (audit.notes if audit else ()) if note.startswith("no front")]
        raise NoDataError(why[0] if why else "no win rate beside tasks that a tax is measured on")
    front = audit.front
    # as the others are coloured; a checkpoint that is no system of the report cannot be in its audit
    look = looks([system.name for system in evidence.systems] + [point.name for point in front.points])
    figure, axes = new_figure(4.2 if len(front.points) <= 8 else 5.2)
    for point in front.points:
        own = look[point.name]
        if point.tax_low is not None and point.tax_high is not None:
            axes.plot([point.tax_low, point.tax_high], [point.reward] * 2, color=own.colour, linewidth=1, alpha=0.7)
        if point.reward_low is not None and point.reward_high is not None:
            axes.plot([point.tax] * 2, [point.reward_low, point.reward_high], color=own.colour, linewidth=1, alpha=0.7)
        axes.plot(
            [point.tax], [point.reward], linestyle="", marker=own.marker, color=own.colour, markersize=7, zorder=4,
            markerfacecolor=own.colour if point.on_front else "white", markeredgewidth=1.4,
        )  # fmt: skip
    axes.margins(0.12)
    axes.set_xlabel(f"alignment tax against {plain(front.reference, 22)}, % of the range  (← better)")
    axes.set_ylabel(f"{front.reward.replace('_', ' ').replace('win rate.win rate', 'win rate')}  (better →)")
    axes.grid()
    _steps(axes, front)
    _names(axes, [(point.tax, point.reward, point.name, look[point.name].colour) for point in front.points])
    table = pd.DataFrame(
        [
            {
                "system": point.name,
                "reward": point.reward,
                "reward_low": point.reward_low,
                "reward_high": point.reward_high,
                "tax": point.tax,
                "tax_low": point.tax_low,
                "tax_high": point.tax_high,
                "on_front": point.on_front,
                "by_definition": point.by_definition,
            }
            for point in front.points
        ]
    )
    return [Drawing("reward_tax_front", TITLE, "", figure, table, _caption(front), _told(front))]


def _steps(axes: Axes, front: Front) -> None:
    """The edge of what is beaten, that area in grey, and the corner that it is measured from, where it is in sight."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    reward, tax = front.reference_point
    in_sight = left <= tax <= right + (right - left) / 2 and bottom - (top - bottom) / 2 <= reward <= top
    if in_sight:
        right, bottom = max(right, tax + (right - left) * 0.05), min(bottom, reward - (top - bottom) * 0.05)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_autoscale_on(False)
    edge_x, edge_y = (tax, reward) if in_sight else (right, bottom)
    best = sorted((point for point in front.points if point.on_front), key=lambda point: (point.tax, point.reward))
    x = [best[0].tax, *(point.tax for point in best), max(edge_x, best[-1].tax)]
    y = [min(edge_y, best[0].reward), *(point.reward for point in best), best[-1].reward]
    axes.plot(x, y, drawstyle="steps-post", color=FAINT, linewidth=1.2, zorder=2)
    axes.fill_between(x, y, edge_y, step="post", color=SHADE, linewidth=0, zorder=0)
    if in_sight:
        axes.plot([tax], [reward], linestyle="", marker="+", color=INK, markersize=9, zorder=4)


def _names(axes: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Each name beside its mark, where it meets no other name and no mark; tied to it by a hair line where far."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    dot = figure.dpi / 72
    inside = axes.get_window_extent()
    places = [axes.transData.transform((x, y)) for x, y, _, _ in points]
    taken = [Bbox.from_bounds(x - 5 * dot, y - 5 * dot, 10 * dot, 10 * dot) for x, y in places]
    lines = [box for line in axes.get_lines() for box in _segments(line, 3 * dot)]
    for (x, y, name, colour), place in zip(points, places, strict=True):
        measured = axes.text(0, 0, plain(name), fontsize=LABEL)
        width, height = measured.get_window_extent().width, LABEL * 1.3 * dot
        measured.remove()
        best: tuple[float, float, float, Side, Bbox] | None = None
        for far, right, up, side in _spots():
            start = place[0] + right * dot - width * ANCHORS[side]
            box = Bbox.from_bounds(start, place[1] + up * dot - height / 2, width, height)
            out = max(inside.x0 - box.x0, box.x1 - inside.x1, inside.y0 - box.y0, box.y1 - inside.y1, 0.0)
            cost = _shared(box, taken) + LINE * _shared(box, lines) + OUTSIDE * out * height + far * dot
            if best is None or cost < best[0]:
                best = (cost, right, up, side, box)
        assert best is not None
        _, right, up, side, box = best
        arrow: dict[str, Any] = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4}
        arrow["relpos"] = (ANCHORS[side], 0.5)
        note = axes.annotate(
            plain(name), (x, y), xytext=(right, up), textcoords="offset points", fontsize=LABEL, color=colour, ha=side,
            va="center", annotation_clip=False, zorder=5, path_effects=[withStroke(linewidth=2.5, foreground="white")],
            arrowprops=arrow if max(abs(right), abs(up)) > RINGS[1] else None,
        )  # fmt: skip
        note.set_in_layout(False)
        taken.append(box)


def _segments(line: Line2D, width: float) -> Iterator[Bbox]:
    """The level and upright parts of a line, as boxes of that width in pixels."""
    points = [(float(x), float(y)) for x, y in line.get_transform().transform(line.get_xydata())]
    if line.get_drawstyle() == "steps-post":
        corners = [(after[0], before[1]) for before, after in pairwise(points)]
        points = [spot for pair in zip(points, corners, strict=False) for spot in pair] + points[-1:]
    for (x0, y0), (x1, y1) in pairwise(points):
        yield Bbox.from_extents(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)).padded(width / 2)


def _spots() -> Iterator[tuple[float, float, float, Side]]:
    for far in RINGS:
        for right, up in SIDES:
            yield far, right * far, up * far, "left" if right > 0 else "right" if right < 0 else "center"


def _shared(box: Bbox, others: Sequence[Bbox]) -> float:
    """Square pixels that a box has in common with others."""
    found = 0.0
    for other in others:
        wide = min(box.x1, other.x1) - max(box.x0, other.x0)
        high = min(box.y1, other.y1) - max(box.y0, other.y0)
        found += max(wide, 0.0) * max(high, 0.0)
    return found


def _caption(front: Front) -> str:
    reward, tax = front.reference_point
    given = [point.name for point in front.points if point.by_definition]
    return (
        f"One mark a checkpoint: its {front.reward} and its mean tax against {plain(front.reference, 60)} over groups "
        f"of {len(front.tasks)} tasks ({', '.join(front.tasks)}); bars are 95 % intervals. Filled marks are on the "
        "front (the step line): no other has at least their reward for at most their tax. Grey is what the front "
        f"beats; from the reference point (reward {reward:g}, tax {tax:g} %; {front.why}) it has a hypervolume of "
        f"{front.hypervolume:.4g}."
        + (f" The reward of {', '.join(plain(name, 60) for name in given)} is ½ by definition." if given else "")
    )


def _told(front: Front) -> str:
    def told(point: Checkpoint) -> str:
        return f"{plain(point.name, 60)} (reward {point.reward:.3f}, tax {point.tax:.1f} %)"

    on = [told(point) for point in front.points if point.on_front]
    off = [told(point) for point in front.points if not point.on_front]
    return f"On the front: {', '.join(on)}." + (f" Beaten: {', '.join(off)}." if off else "")
