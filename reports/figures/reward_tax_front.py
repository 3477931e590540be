"""Reward against alignment tax over checkpoints, and the Pareto front."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from alignbench.audit.audit import Front
from reports.drawing import Drawing, NoDataError, describe
from reports.evidence import Evidence
from reports.style import FAINT, INK, new_figure, plain, short_names

SHADE = "#f1f1f1"


def draw(evidence: Evidence) -> list[Drawing]:
    """Draw a point per checkpoint; better is up and to the left."""
    audit = evidence.audit
    if audit is None or audit.front is None:
        why = [note for note in (audit.notes if audit else ()) if note.startswith("no front")]
        raise NoDataError(why[0] if why else "no win rate together with tasks that have a tax")
    front = audit.front
    table = pd.DataFrame(asdict(point) for point in front.points).rename(columns={"name": "system"})
    look = evidence.looks(*table.system)
    names = short_names(list(table.system), 28)
    figure, axes = new_figure(max(4.0, 0.6 + 0.19 * len(table)))
    marks = []
    for row in table.itertuples():
        own = look[row.system]
        bar = {"color": own.colour, "linewidth": 1, "alpha": 0.7}
        axes.plot([row.tax_low, row.tax_high], [row.reward] * 2, **bar)
        axes.plot([row.tax] * 2, [row.reward_low, row.reward_high], **bar)
        inside = own.colour if row.on_front else "white"
        mark = {**own.mark, "markerfacecolor": inside, "markersize": 7, "markeredgewidth": 1.4, "linestyle": ""}
        axes.plot([row.tax], [row.reward], zorder=4, **mark)
        marks.append(Line2D([], [], label=names[row.system], **mark))
    figure.legend(handles=marks, loc="outside right upper")
    axes.margins(0.12)
    axes.set_xlabel(f"tax against {plain(front.reference, 18)}, % of range  (← better)")
    axes.set_ylabel(f"{front.reward.replace('_', ' ').replace('win rate.win rate', 'win rate')}  (better →)")
    axes.grid()
    _front(axes, front)
    return [describe("reward_tax_front", figure, table, front=front)]


def _front(axes: Axes, front: Front) -> None:
    """Draw the front as steps, the dominated area in grey, and the reference point of the hypervolume if it is near."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    reward, tax = front.reference_point
    near = left <= tax <= right + (right - left) / 2 and bottom - (top - bottom) / 2 <= reward <= top
    if near:
        right, bottom = max(right, tax + (right - left) * 0.05), min(bottom, reward - (top - bottom) * 0.05)
        axes.plot([tax], [reward], "+", color=INK, markersize=9, zorder=4)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    edge_x, edge_y = (tax, reward) if near else (right, bottom)
    best = sorted((point for point in front.points if point.on_front), key=lambda point: (point.tax, point.reward))
    x = [best[0].tax, *(point.tax for point in best), max(edge_x, best[-1].tax)]
    y = [min(edge_y, best[0].reward), *(point.reward for point in best), best[-1].reward]
    axes.plot(x, y, drawstyle="steps-post", color=FAINT, linewidth=1.2, zorder=2)
    axes.fill_between(x, y, edge_y, step="post", color=SHADE, linewidth=0, zorder=0)
