"""Histograms one below the other, on bins that all share: one row a system."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reports.style import FAINT, INK, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEIGHT = 0.72  # inches of a row


def draw_ridge(
    axes: Axes,
    edges: NDArray[np.float64],
    heights: NDArray[np.float64],
    look: Look,
    mean: tuple[float, float | None, float | None] | None,
    ghost: NDArray[np.float64] | None = None,
) -> None:
    """A histogram as an outline with a light fill, its mean as a line with its interval as a grey band.

    edges: (bins + 1,); heights: (bins,); mean: value, low and high; ghost: (bins,) another histogram, as a dotted
    outline to compare with
    """
    axes.stairs(heights, edges, fill=True, color=look.colour, alpha=0.22)
    axes.stairs(heights, edges, color=look.colour, linewidth=1.3)
    if ghost is not None:
        axes.stairs(ghost, edges, color=FAINT, linewidth=0.9, linestyle=(0, (1, 1)))
    if mean is not None:
        value, low, high = mean
        if low is not None and high is not None:
            axes.axvspan(low, high, color=INK, alpha=0.16, linewidth=0)
        axes.axvline(value, color=INK, linewidth=1.1)
    axes.set(yticks=[], xlim=(float(edges[0]), float(edges[-1])), ylim=(0, None))
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def name_row(axes: Axes, name: str, colour: str) -> None:
    """The system's name to the left of its row, with a stroke in its colour."""
    from matplotlib.transforms import offset_copy

    axes.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=10, fontsize=8.5)
    beside = offset_copy(axes.transAxes, axes.get_figure(root=True), x=-5, units="points")
    axes.plot([0, 0], [0.03, 0.9], transform=beside, color=colour, linewidth=4, clip_on=False, solid_capstyle="butt")
