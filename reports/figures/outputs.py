"""What systems generate for the same prompts, as vectors: a t-SNE map, and the cosines within and between systems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from alignbench.audit.references import HASHED, embedder_of
from alignbench.runs.read import TaskRun
from alignbench.diversity.vectors import clusters, unit
from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence, System, scorer_of
from reports.style import FAINT, INK, SMALL, new_figure, plain, short_names

SOURCE = "2406.05587, section 3.2"
TASKS = ("recitations", "diversity_across", "answers", "diversity")  # the first with enough outputs is used
LEAST = 10  # outputs of a system
MAP_POINTS, LEAST_DISTINCT = 1500, 3
EACH, MOST = 60, 1200  # outputs in the heat map, of a system and in total
APART = 0.07  # of the map's width, between the numbers of two clusters
PERTURBED = "perturbed"  # category of recitations whose first sentence contradicts the facts


@dataclass(frozen=True)
class Outputs:
    """The first output for each document, of one system: ids, categories and vectors (n, d), in the task's order."""

    system: System
    ids: tuple[str, ...]
    categories: tuple[str | None, ...]
    vectors: NDArray[np.float32]


def _embedded(evidence: Evidence, *, each: int, most: int, category: str | None = None) -> tuple[str, list[Outputs], str]:
    """Return task, outputs and notes for the caption: equally many, evenly spaced outputs of each system.

    each, most: limits for a system and in total; category: of recitations, only these
    The embedder is that of the audit, otherwise the hashed one. Raises NoDataError if no system has LEAST outputs.
    """
    for task in TASKS:
        runs = [(system, folder, *_texts(folder, category)) for system, folder in evidence.runs(task)]
        enough = [run for run in runs if len(run[2]) >= LEAST]
        if not enough:
            continue
        each = min(each, max(1, most // len(enough)), *(len(texts) for _, _, texts, _ in enough))
        embedder, words = _embedder(enough[0][1])
        found = []
        for system, _, texts, _ in enough:
            chosen = [texts[(2 * rank + 1) * len(texts) // (2 * each)] for rank in range(each)]
            ids, categories, written = zip(*chosen, strict=True)
            found.append(Outputs(system, ids, categories, embedder.embed(list(written))))
        notes = f"{each} outputs of each system on {task}; vectors by {words}."
        if absent := [plain(system.name) for system, _, texts, _ in runs if len(texts) < LEAST]:
            notes += f" Left out, with fewer than {LEAST} outputs: {', '.join(absent)}."
        if missing := [f"{plain(system.name)} {lost}" for system, _, _, lost in enough if lost]:
            notes += f" Not generated, left out: {', '.join(missing)}."
        return task, found, notes
    raise NoDataError(f"no run has {LEAST} outputs of {', '.join(TASKS[:-1])} or {TASKS[-1]}")


def _texts(folder: TaskRun, category: str | None) -> tuple[list[tuple[str, str | None, str]], int]:
    """Return (id, category, text) of each document's first output, and how many were not generated."""
    found, lost = [], 0
    for record in folder.records():
        if category is None or folder.task != "recitations" or record.category == category:
            first = next(iter(record.outputs), None)
            if first is None or first.unscored:
                lost += 1
            else:
                found.append((str(record.id), record.category, first.text))
    return found, lost


def _embedder(folder: TaskRun) -> tuple[Any, str]:
    from alignbench.scorers.embeddings import HashedEmbedder

    used = scorer_of(folder, "embedding")
    embedder = embedder_of(folder) or HashedEmbedder()
    words = f"{embedder.name}@{embedder.revision}, which compares wording, not meaning"
    if used is not None and used["name"] != HASHED:
        words += f" (the embedder of the runs, {plain(str(used['name']), 40)}, is not available)"
    return embedder, words


def embeddings_map(evidence: Evidence) -> list[Drawing]:
    """Draw a point per output, equally many of each system."""
    from sklearn.manifold import TSNE

    task, found, notes = _embedded(evidence, each=MAP_POINTS, most=MAP_POINTS)
    vectors = unit(np.concatenate([own.vectors for own in found]))
    if len(np.unique(vectors, axis=0)) < LEAST_DISTINCT:  # t-SNE starts from two principal components
        raise NoDataError(f"the outputs have fewer than {LEAST_DISTINCT} different vectors")
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    with threadpool_limits(1):  # sums of several threads differ in their last digits
        groups = clusters(vectors)
        places = TSNE(perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(vectors + 0.0)
    table = pd.DataFrame(
        {
            "system": [own.system.name for own in found for _ in own.ids],
            "task": task,
            "document": [name for own in found for name in own.ids],
            "category": [category for own in found for category in own.categories],
            "x": places[:, 0], "y": places[:, 1],
            "cluster": groups.labels + 1,
        }
    )  # fmt: skip
    perturbed = table.category == PERTURBED
    names, looks = short_names([own.system.name for own in found], 24), evidence.looks()
    figure, axes = new_figure(max(4.2, 0.7 + 0.2 * (len(found) + 2 * perturbed.any())))
    marks = []
    for name, short in names.items():
        style = {**looks[name].mark, "linestyle": "", "markersize": 4.5, "alpha": 0.75}
        marks.append(Line2D([], [], label=short, **style))
        for hollow in (False, True):
            own = table[(table.system == name) & (perturbed == hollow)]
            axes.plot(own.x, own.y, **{**style, "markerfacecolor": "none" if hollow else looks[name].colour})
    if perturbed.any():
        grey: dict[str, Any] = {"marker": "o", "linestyle": "", "color": FAINT}
        marks.append(Line2D([], [], label="original beginning", **grey))
        marks.append(Line2D([], [], label="perturbed beginning", markerfacecolor="none", **grey))
    if groups.count > 1:
        _number_clusters(axes, places, groups.labels)
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set(visible=True, color="#cccccc")
    figure.legend(handles=marks, loc="outside right upper", handletextpad=0.3, borderpad=0)
    caption = (
        f"One point per output.{' Hollow: recitations that continue a perturbed first sentence.' * bool(perturbed.any())} "
        f"{notes} t-SNE (perplexity {perplexity:.0f}): neighbours are similar; distances between groups, their sizes and "
        "the axes have no meaning. "
    ) + (
        f"Numbers: the {groups.count} clusters of the vectors themselves (k-means, mean silhouette "
        f"{groups.silhouette:.2f}), which the map may split."
        if groups.count > 1
        else "The vectors form one cluster: no partition is better than that of a cloud without groups."
    )
    alt = _clusters(table) if groups.count > 1 else f"All {len(table)} outputs are in one cluster."
    return [Drawing("embeddings_map", f"Map of outputs: {task}", SOURCE, figure, table, caption, alt)]


def _clusters(table: pd.DataFrame) -> str:
    parts = []
    for cluster, own in table.groupby("cluster"):
        name, most = min(Counter(own.system).items(), key=lambda pair: (-pair[1], pair[0]))
        parts.append(f"{cluster}: {len(own)} outputs, {most / len(own):.0%} of them by {plain(name)}")
    return f"{len(parts)} clusters. {'; '.join(parts)}."


def _number_clusters(axes: Axes, places: NDArray[np.floating], labels: NDArray[np.int64]) -> None:
    """Write each cluster's number at its point nearest to its median that is not too near to another number."""
    apart = APART * float(np.ptp(places, axis=0).max())
    taken: list[NDArray[np.floating]] = []
    for cluster in sorted(set(labels.tolist()), key=lambda c: (int((labels == c).sum()), c)):  # small ones first
        own = places[labels == cluster]
        order = np.argsort(np.linalg.norm(own - np.median(own, axis=0), axis=1), kind="stable").tolist()
        free = [i for i in order if all(np.linalg.norm(own[i] - other) >= apart for other in taken)]
        taken.append(own[(free or order)[0]])
        box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": INK, "linewidth": 0.8}
        style = {"ha": "center", "va": "center", "fontweight": "bold", "fontsize": SMALL}
        axes.text(*taken[-1], str(cluster + 1), bbox=box, **style)


def cosine_heat_map(evidence: Evidence) -> list[Drawing]:
    """Draw a cell per pair of outputs, a block per pair of systems."""
    task, found, notes = _embedded(evidence, each=EACH, most=MOST, category="plain")
    systems, size = [own.system.name for own in found], len(found[0].ids)
    ordered = []
    with threadpool_limits(1):  # sums of several threads differ in their last digits
        for own in found:
            rows = unit(own.vectors)
            ordered.append(rows[np.argsort(clusters(rows).labels, kind="stable")])
        width = max(rows.shape[1] for rows in ordered)  # empty outputs have a dimension of their own
        together = np.concatenate([np.pad(rows, ((0, 0), (0, width - rows.shape[1]))) for rows in ordered])
        cosines = np.clip((together @ together.T).astype(np.float64), -1, 1)
    table = pd.DataFrame(_blocks(cosines, systems, task))
    apart = cosines[~np.eye(len(cosines), dtype=bool)]
    low, high = np.quantile(apart, [0.01, 0.99]).tolist()
    figure, axes = new_figure(5.3)
    image = axes.imshow(cosines, cmap="cividis", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
    middles = (np.arange(len(systems)) + 0.5) * size - 0.5
    for edge in np.arange(1, len(systems)) * size - 0.5:
        axes.axhline(edge, color="white", linewidth=1)
        axes.axvline(edge, color="white", linewidth=1)
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.85, "linewidth": 0}
    for place, value in enumerate(table["mean"]):
        row, column = divmod(place, len(systems))
        words = f"{value:.2f}".replace("0.", ".", 1)
        axes.text(middles[column], middles[row], words, ha="center", va="center", fontsize=SMALL, bbox=box)
    axes.set_yticks(middles, [f"{name}  {n}" for n, name in enumerate(short_names(systems, 24).values(), 1)])
    axes.set_xticks(middles, [str(n + 1) for n in range(len(systems))])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.6, aspect=40, pad=0.02, extend="both")
    bar.set_label("cosine of two outputs", fontsize=8.5)
    bar.outline.set(edgecolor=FAINT, linewidth=0.5)
    figure.draw_without_rendering()  # the layout of a square beside long names settles at the second drawing
    caption = (
        f"One cell per pair of outputs, {size} of each system, sorted by system and cluster. Numbers: means of the blocks "
        "without pairs of an output with itself; they describe this sample and have no intervals. "
        f"{notes} The colour scale ends at the 1st and the 99th percentile."
    )
    inside = table[table.system == table.other].sort_values("mean", ascending=False, kind="stable")
    words = "; ".join(f"{plain(row.system)} {row['mean']:.2f}" for _, row in inside.iterrows())
    alt = f"Mean cosine between outputs of one system, from the most similar: {words}."
    between = table[table.system < table.other]["mean"]
    alt += f" Between systems: {between.min():.2f} to {between.max():.2f}." if len(between) else ""
    return [Drawing("cosine_heat_map", f"Similarity of outputs: {task}", SOURCE, figure, table, caption, alt)]


def _blocks(cosines: NDArray[np.float64], names: list[str], task: str) -> Iterator[dict[str, Any]]:
    size = len(cosines) // len(names)
    for i, first in enumerate(names):
        for j, other in enumerate(names):
            block = cosines[i * size : (i + 1) * size, j * size : (j + 1) * size]
            pairs = size * (size - 1) if i == j else size * size
            total = float(block.sum()) - (float(np.trace(block)) if i == j else 0.0)
            counts = {"outputs": size, "pairs": pairs // 2 if i == j else pairs}
            yield {"system": first, "other": other, "task": task, "mean": total / pairs, **counts}
