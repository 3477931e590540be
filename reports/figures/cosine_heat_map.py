"""How alike outputs are within a model and between models: cosines of their vectors, as a matrix in blocks."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from alignbench.diversity.semantic import clusters, unit
from reports.drawing import Drawing
from reports.evidence import Evidence
from reports.names import short_names
from reports.outputs import written
from reports.style import FAINT, new_figure, plain

TITLE = "Similarity of outputs"
SOURCE = "2406.05587, section 3.2"
EACH, MOST = 60, 1200  # outputs of a system, and of all


def draw(evidence: Evidence) -> list[Drawing]:
    """One cell a pair of outputs, one block a pair of models."""
    found = written(evidence, each=EACH, most=MOST, category="plain")
    count = len(found.systems)
    size = len(found.systems[0].ids)
    ordered = []
    with threadpool_limits(1):  # sums of several threads differ in their last digits
        for own in found.systems:
            rows = unit(own.vectors)
            ordered.append(rows[np.argsort(clusters(rows).labels, kind="stable")])
        width = max(rows.shape[1] for rows in ordered)  # silent outputs have a direction of their own
        together = np.concatenate([np.pad(rows, ((0, 0), (0, width - rows.shape[1]))) for rows in ordered])
        cosines = np.clip((together @ together.T).astype(np.float64), -1, 1)
    table = _blocks(cosines, [own.system.name for own in found.systems], found.task)
    figure, axes = new_figure(5.3)
    apart = cosines[~np.eye(len(cosines), dtype=bool)]
    low, high = np.quantile(apart, [0.01, 0.99]).tolist()
    image = axes.imshow(cosines, cmap="cividis", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
    middles = (np.arange(count) + 0.5) * size - 0.5
    for edge in np.arange(1, count) * size - 0.5:
        axes.axhline(edge, color="white", linewidth=1)
        axes.axvline(edge, color="white", linewidth=1)
    for (row, column), value in np.ndenumerate(table["mean"].to_numpy().reshape(count, count)):
        axes.text(
            middles[column], middles[row], f"{value:.2f}".replace("0.", ".", 1), ha="center", va="center", fontsize=8,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.85, "linewidth": 0},
        )  # fmt: skip
    numbers = [str(place + 1) for place in range(count)]
    names = short_names([own.system.name for own in found.systems], 24)
    axes.set_yticks(middles, list(names.values()))
    for middle, number in zip(middles, numbers, strict=True):  # apart from names that read from right to left
        axes.annotate(
            number, (0, middle), xycoords=("axes fraction", "data"), xytext=(-5, 0), textcoords="offset points",
            ha="right", va="center", annotation_clip=False,
        )  # fmt: skip
    axes.set_xticks(middles, numbers)
    axes.tick_params(length=0)
    axes.tick_params(axis="y", pad=12 + 6 * len(str(count)))
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.6, aspect=40, pad=0.02, extend="both")
    bar.set_label("cosine of two outputs", fontsize=8.5)
    bar.outline.set(edgecolor=FAINT, linewidth=0.5)
    figure.draw_without_rendering()  # the layout of a square beside long names settles at the second drawing
    caption = (
        f"One cell a pair of outputs, {size} of each model, by model and then by cluster; numbers are the means of "
        "blocks, without the pairs of an output with itself, of this sample and so without intervals. "
        f"{found.notes} Colours end at the 1st and the 99th percentile."
    )
    return [Drawing("cosine_heat_map", f"{TITLE}: {found.task}", SOURCE, figure, table, caption, _told(table))]


def _blocks(cosines: NDArray[np.float64], names: list[str], task: str) -> pd.DataFrame:
    size = len(cosines) // len(names)
    rows = []
    for i, first in enumerate(names):
        for j, other in enumerate(names):
            block = cosines[i * size : (i + 1) * size, j * size : (j + 1) * size]
            pairs = size * (size - 1) if i == j else size * size
            total = float(block.sum()) - (float(np.trace(block)) if i == j else 0.0)
            rows.append(
                {"system": first, "other": other, "task": task, "mean": total / pairs, "outputs": size,
                 "pairs": pairs // 2 if i == j else pairs}
            )  # fmt: skip
    return pd.DataFrame(rows)


def _told(table: pd.DataFrame) -> str:
    inside = table[table.system == table.other].sort_values("mean", ascending=False, kind="stable")
    told = "; ".join(f"{plain(row.system)} {row['mean']:.2f}" for _, row in inside.iterrows())
    text = f"Mean cosine between outputs of one model, from the most alike: {told}."
    between = table[table.system < table.other]
    if len(between):
        text += f" Between models: {between['mean'].min():.2f} to {between['mean'].max():.2f}."
    return text
