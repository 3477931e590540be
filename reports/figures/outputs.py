"""What systems generate for the same prompts, as vectors: a t-SNE map, and the cosines within and between systems."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from alignbench.audit.references import HASHED, embedder_of
from alignbench.diversity.semantic import clusters, unit
from reports.drawing import Drawing, NoDataError, describe
from reports.evidence import Evidence, scorer_of
from reports.style import FAINT, INK, SMALL, new_figure, plain, short_names

TASKS = ("recitations", "diversity_across", "answers", "diversity")  # the first with enough outputs is used
LEAST = 10  # outputs of a system
MAP_POINTS, LEAST_DISTINCT = 1500, 3
EACH, MOST = 60, 1200  # outputs in the heat map, of a system and in total
APART = 0.07  # of the map's width, between the numbers of two clusters
PERTURBED = "perturbed"  # category of recitations whose first sentence contradicts the facts
Vectors = NDArray[np.floating]


def _embedded(
    evidence: Evidence, *, each: int, most: int, category: str | None = None
) -> tuple[pd.DataFrame, Vectors, str] | None:
    """Return equally many, evenly spaced outputs of each system: a table, their vectors (n, d) of length 1, and notes;
    None if no system has LEAST outputs.

    each, most: limits for a system and in total; category: of recitations, only these
    The embedder is that of the audit, otherwise the hashed one.
    """
    from alignbench.scorers.embeddings import HashedEmbedder

    for task in TASKS:
        runs = evidence.runs(task)
        every = pd.DataFrame(
            (
                (system.name, task, record.id, record.category, output.text if output and not output.unscored else None)
                for system, folder in runs
                for record in folder.records()
                if category is None or task != "recitations" or record.category == category
                for output in [next(iter(record.outputs), None)]
            ),
            columns=["system", "task", "document", "category", "text"],
        )
        counts = every.groupby("system", sort=False).text.count()
        enough = counts[counts >= LEAST]
        if enough.empty:
            continue
        each = min(each, max(1, most // len(enough)), enough.min())
        known = every[every.system.isin(enough.index)]
        generated = known.dropna(subset=["text"]).groupby("system", sort=False)
        table = pd.concat(
            [own.iloc[[(2 * rank + 1) * len(own) // (2 * each) for rank in range(each)]] for _, own in generated],
            ignore_index=True,
        )
        folder = next(folder for system, folder in runs if system.name == enough.index[0])
        used, embedder = scorer_of(folder, "embedding"), embedder_of(folder) or HashedEmbedder()
        words = f"{embedder.name}@{embedder.revision}, which compares wording, not meaning"
        if used is not None and used["name"] != HASHED:
            words += f" (the embedder of the runs, {plain(str(used['name']), 40)}, is not available)"
        notes = f"{each} outputs of each system on {task}; vectors by {words}."
        if absent := [plain(name) for name in counts[counts < LEAST].index]:
            notes += f" Left out, with fewer than {LEAST} outputs: {', '.join(absent)}."
        lost = known.groupby("system", sort=False).text.apply(lambda texts: texts.isna().sum())
        if missing := [f"{plain(name)} {number}" for name, number in lost.items() if number]:
            notes += f" Not generated, left out: {', '.join(missing)}."
        return table.drop(columns="text"), unit(embedder.embed(table.text.tolist())), notes
    return None


def embeddings_map(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a point per output, equally many of each system."""
    from sklearn.manifold import TSNE

    found = _embedded(evidence, each=MAP_POINTS, most=MAP_POINTS)
    if found is None:
        return
    table, vectors, notes = found
    if len(np.unique(vectors, axis=0)) < LEAST_DISTINCT:  # t-SNE starts from two principal components
        raise NoDataError(f"the outputs have fewer than {LEAST_DISTINCT} different vectors")
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    with threadpool_limits(1):  # sums of several threads differ in their last digits
        groups = clusters(vectors)
        places = TSNE(perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(vectors + 0.0)
    table = table.assign(x=places[:, 0], y=places[:, 1], cluster=groups.labels + 1)
    perturbed = table.category == PERTURBED
    names, looks = short_names(list(dict.fromkeys(table.system)), 24), evidence.looks()
    figure, axes = new_figure(max(4.2, 0.7 + 0.2 * (len(names) + 2 * perturbed.any())))
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
    facts = {"notes": notes, "perplexity": perplexity, "perturbed": perturbed.any(), "clusters": groups}
    yield describe("embeddings_map", figure, table, **facts)


def _number_clusters(axes: Axes, places: Vectors, labels: NDArray[np.int64]) -> None:
    """Write each cluster's number at its point nearest to its median that is not too near to another number."""
    apart = APART * float(np.ptp(places, axis=0).max())
    taken: list[Vectors] = []
    for cluster in sorted(set(labels.tolist()), key=lambda c: (int((labels == c).sum()), c)):  # small ones first
        own = places[labels == cluster]
        order = np.argsort(np.linalg.norm(own - np.median(own, axis=0), axis=1), kind="stable").tolist()
        free = [i for i in order if all(np.linalg.norm(own[i] - other) >= apart for other in taken)]
        taken.append(own[(free or order)[0]])
        box: dict[str, Any] = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": INK, "linewidth": 0.8}
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontweight": "bold", "fontsize": SMALL}
        axes.text(*taken[-1], str(cluster + 1), bbox=box, **style)


def cosine_heat_map(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a cell per pair of outputs, a block per pair of systems."""
    found = _embedded(evidence, each=EACH, most=MOST, category="plain")
    if found is None:
        return
    outputs, vectors, notes = found
    systems = list(dict.fromkeys(outputs.system))
    size = len(outputs) // len(systems)
    blocks = vectors.reshape(len(systems), size, -1)
    with threadpool_limits(1):  # sums of several threads differ in their last digits
        together = np.concatenate([rows[np.argsort(clusters(rows).labels, kind="stable")] for rows in blocks])
        cosines = np.clip((together @ together.T).astype(np.float64), -1, 1)
    rows = []
    for (i, first), (j, other) in product(enumerate(systems), repeat=2):
        block = cosines[i * size : (i + 1) * size, j * size : (j + 1) * size]
        pairs = size * (size - 1) if i == j else size * size  # without pairs of an output with itself
        mean = (float(block.sum()) - (float(np.trace(block)) if i == j else 0.0)) / pairs
        counts = {"outputs": size, "pairs": pairs // 2 if i == j else pairs}
        rows.append({"system": first, "other": other, "task": outputs.task.iloc[0], "mean": mean, **counts})
    table = pd.DataFrame(rows)
    low, high = np.quantile(cosines[~np.eye(len(cosines), dtype=bool)], [0.01, 0.99]).tolist()
    figure, axes = new_figure(5.3)
    image = axes.imshow(cosines, cmap="cividis", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
    middles = (np.arange(len(systems)) + 0.5) * size - 0.5
    for edge in np.arange(1, len(systems)) * size - 0.5:
        axes.axhline(edge, color="white", linewidth=1)
        axes.axvline(edge, color="white", linewidth=1)
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.85, "linewidth": 0}
    for (y, x), value in zip(product(middles, repeat=2), table["mean"], strict=True):
        words = f"{value:.2f}".replace("0.", ".", 1)
        axes.text(x, y, words, ha="center", va="center", fontsize=SMALL, bbox=box)
    axes.set_yticks(middles, [f"{name}  {n}" for n, name in enumerate(short_names(systems, 24).values(), 1)])
    axes.set_xticks(middles, [str(n + 1) for n in range(len(systems))])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.6, aspect=40, pad=0.02, extend="both")
    bar.set_label("cosine of two outputs", fontsize=8.5)
    bar.outline.set(edgecolor=FAINT, linewidth=0.5)
    figure.draw_without_rendering()  # the layout of a square beside long names settles at the second drawing
    inside = table[table.system == table.other].sort_values("mean", ascending=False, kind="stable")
    between = table[table.system < table.other]["mean"]
    yield describe("cosine_heat_map", figure, table, notes=notes, inside=inside, between=between)
