"""How undecided models are before a token: densities of token entropies, model by model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alignbench.stats import estimates
from alignbench.types.engine import TOP
from reports.drawing import Drawing, NoDataError
from reports.entropies import KINDS, TASKS, Entropies, entropies
from reports.evidence import Evidence, point_of
from reports.names import short_names
from reports.ridges import HEIGHT, draw_ridge, name_row
from reports.style import interval, looks, new_figure, plain

TITLE = "Token entropies"
SOURCE = "2406.05587, figure 11"
PANELS = {"entropies": "whole vocabulary", "top_entropies": f"the {TOP} likeliest tokens"}
BINS = 40


def draw(evidence: Evidence) -> list[Drawing]:
    """One drawing a task, one row a system, one column a kind of entropy."""
    drawings = []
    for task in TASKS:
        found = entropies(evidence, task)
        if found:
            drawings.append(_drawing(evidence, task, found))
    if not drawings:
        raise NoDataError("no run has the entropies of tokens (tasks token_entropy, token_entropy_on_policy)")
    return drawings


def _drawing(evidence: Evidence, task: str, found: list[Entropies]) -> Drawing:
    look = looks([system.name for system in evidence.systems])
    kinds = [kind for kind in PANELS if any(own.texts[kind] for own in found)]
    figure, grid = new_figure(
        0.75 + HEIGHT * len(found), rows=len(found), columns=len(kinds), sharex="col", sharey="col", squeeze=False
    )
    names = short_names([own.system.name for own in found], 22)
    tables = []
    for column, kind in enumerate(kinds):
        edges = _edges(kind, found)
        rows = [_row(own, kind, edges) for own in found]
        ghost = rows[0]["density"]
        for place, (axes, own, row) in enumerate(zip(grid[:, column], found, rows, strict=True)):
            style = look[own.system.name]
            if row["density"] is None:
                axes.text(0.5, 0.4, "not told", transform=axes.transAxes, ha="center", fontsize=8)
                axes.set(yticks=[])
            else:
                draw_ridge(axes, edges, row["density"], style, row["mean"], ghost if place else None)
                value, low, high = row["mean"]
                text = f"mean {value:.2f} {interval(low, high, 2)}"
                axes.set_title(text, loc="right", fontsize=8, fontweight="normal", pad=2)
                tables.append(_table(own, task, kind, edges, row))
            if column == 0:
                name_row(axes, names[own.system.name], style.colour)
        most = max(float(row["density"].max()) for row in rows if row["density"] is not None)
        grid[0, column].set_ylim(0, 1.05 * most)
        grid[-1, column].set_xlabel(f"bits, {PANELS[kind]}")
    table = pd.concat(tables, ignore_index=True)
    n = sorted({len(own.texts["entropies"]) for own in found})
    caption = [
        f"Density of the entropy before each token, {TASKS[task]}, {'–'.join(map(str, dict.fromkeys((n[0], n[-1]))))} "
        "texts a model. Each text counts as one, however long it is. Black line: mean over texts; grey band: its 95 % "
        "interval."
    ]
    if "top_entropies" in kinds:
        caption.append(f"Right: over the {TOP} likeliest tokens, renormalised: at most {math.log2(TOP):.2f} bits.")
    if len(found) > 1:
        caption.append(f"Dotted: {plain(found[0].system.name)} again. Tokenizers that differ make tokens that do.")
    if missing := [f"{plain(own.system.name)} {own.missing}" for own in found if own.missing]:
        caption.append(f"Texts without entropies, left out: {', '.join(missing)}.")
    means = table[table.kind == "entropy"].groupby("system", sort=False)["mean"].first()
    told = "; ".join(f"{plain(str(name))} {value:.2f}" for name, value in means.items())
    alt = f"Mean entropy in bits on {TASKS[task]}: {told}."
    if len(means) > 1:
        alt += f" Lowest: {plain(str(means.idxmin()))}; highest: {plain(str(means.idxmax()))}."
    name = f"{task}_histogram"
    return Drawing(name, f"{TITLE}: {TASKS[task].split(',')[0]}", SOURCE, figure, table, " ".join(caption), alt)


def _edges(kind: str, found: list[Entropies]) -> NDArray[np.float64]:
    """(BINS + 1,) shared edges from 0 to the most that may occur, or that occurs."""
    if kind == "top_entropies":
        return np.linspace(0, math.log2(TOP), BINS + 1)
    most = max(float(np.nanmax(bits)) for own in found for _, bits in own.texts[kind])
    return np.linspace(0, max(math.ceil(most), 1), BINS + 1)


def _row(own: Entropies, kind: str, edges: NDArray[np.float64]) -> dict[str, Any]:
    texts = [(group, bits[np.isfinite(bits)]) for group, bits in own.texts[kind]]
    if not texts:
        return {"density": None}
    values = np.clip(np.concatenate([bits for _, bits in texts]), edges[0], edges[-1])
    weights = np.concatenate([np.full(len(bits), 1 / len(bits) / len(texts)) for _, bits in texts])
    density = np.histogram(values, edges, weights=weights)[0] / np.diff(edges)
    point = point_of(own.system, own.task, KINDS[kind])
    found = point.metric if point else estimates.mean([float(bits.mean()) for _, bits in texts], [g for g, _ in texts])
    return {
        "density": density, "mean": (found.value, found.low, found.high), "texts": len(texts), "tokens": len(values)
    }  # fmt: skip


def _table(own: Entropies, task: str, kind: str, edges: NDArray[np.float64], row: dict[str, Any]) -> pd.DataFrame:
    mean, low, high = row["mean"]
    return pd.DataFrame(
        {
            "system": own.system.name, "task": task, "kind": KINDS[kind], "bits_low": edges[:-1],
            "bits_high": edges[1:], "density": row["density"], "mean": mean, "mean_low": low, "mean_high": high,
            "texts": row["texts"], "tokens": row["tokens"],
        }
    )  # fmt: skip
