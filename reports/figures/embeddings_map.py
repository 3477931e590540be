"""What models wrote, as points: a t-SNE map of the outputs' vectors, by model, with the vectors' clusters."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from alignbench.diversity.semantic import clusters, unit
from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence
from reports.names import short_names
from reports.outputs import written
from reports.style import FAINT, INK, looks, new_figure, plain

TITLE = "Map of outputs"
SOURCE = "2406.05587, section 3.2"
MOST = 1500  # points
LEAST_DISTINCT = 3
APART = 0.07  # of the map's width, between two labels
CHANGED = "perturbed"  # recitations from a first sentence that contradicts the facts


def draw(evidence: Evidence) -> list[Drawing]:
    """One point an output; equal numbers a model."""
    from sklearn.manifold import TSNE

    found = written(evidence, each=MOST, most=MOST)
    vectors = unit(np.concatenate([own.vectors for own in found.systems]))
    if len(np.unique(vectors, axis=0)) < LEAST_DISTINCT:  # t-SNE starts from two principal components
        raise NoDataError(f"the outputs have fewer than {LEAST_DISTINCT} different vectors")
    n = len(vectors)
    perplexity = min(30.0, (n - 1) / 3)
    with threadpool_limits(1):  # sums of several threads differ in their last digits
        groups = clusters(vectors)
        places = TSNE(perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(vectors + 0.0)
    table = pd.DataFrame(
        {
            "system": [own.system.name for own in found.systems for _ in own.ids],
            "task": found.task,
            "document": [i for own in found.systems for i in own.ids],
            "category": [category for own in found.systems for category in own.categories],
            "x": places[:, 0], "y": places[:, 1],
            "cluster": groups.labels + 1,
        }
    )  # fmt: skip
    changed = bool((table.category == CHANGED).any())
    look = looks([system.name for system in evidence.systems])
    names = short_names([own.system.name for own in found.systems], 24)
    figure, axes = new_figure(max(4.2, 0.7 + 0.2 * (len(found.systems) + 2 * changed)))
    marks: dict[str, Artist] = {}  # given by hand, for a legend leaves out names that begin with "_"
    for name, own in table.groupby("system", sort=False):
        style = look[str(name)]
        for hollow in (False, True):
            part = own[(own.category == CHANGED) == hollow]
            axes.scatter(
                part.x, part.y, s=20 if n < 600 else 12, marker=style.marker, alpha=0.75,
                linewidths=0.7 if hollow else 0.3,
                facecolors="none" if hollow else style.colour, edgecolors=style.colour if hollow else "white",
            )  # fmt: skip
        marks[names[str(name)]] = axes.scatter([], [], s=28, marker=style.marker, color=style.colour)
    if changed:
        marks["from the facts"] = axes.scatter([], [], s=28, color=FAINT)
        marks["beginning changed"] = axes.scatter([], [], s=28, facecolors="none", edgecolors=FAINT)
    if groups.count > 1:
        for cluster, (x, y) in _label_places(places, groups.labels).items():
            axes.annotate(
                str(cluster + 1), (x, y), ha="center", va="center", fontsize=8.5, fontweight="bold", color=INK,
                bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": INK, "linewidth": 0.8},
            )  # fmt: skip
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    for spine in axes.spines.values():
        spine.set(visible=True, color="#cccccc")
    figure.legend(
        list(marks.values()), list(marks), loc="outside right upper", fontsize=8.5, handletextpad=0.3, borderpad=0
    )  # fmt: skip
    told = _clusters_told(table, groups.count)
    shapes = " Hollow: recitations that go on from a first sentence against the facts." if changed else ""
    caption = (
        f"One point an output.{shapes} {found.notes} t-SNE (perplexity {perplexity:.0f}): neighbours are alike; "
        "distances between groups, their sizes and the axes have no meaning. "
    )
    caption += (
        f"Numbers: the {groups.count} clusters of the vectors themselves (k-means, mean silhouette "
        f"{groups.silhouette:.2f}), which the map may tear apart."
        if groups.count > 1
        else "The vectors fall into one cluster: no division is better than that of a cloud without groups."
    )
    return [Drawing("embeddings_map", f"{TITLE}: {found.task}", SOURCE, figure, table, caption, told)]


def _clusters_told(table: pd.DataFrame, count: int) -> str:
    if count < 2:
        return f"All {len(table)} outputs are in one cluster."
    parts = []
    for cluster, own in table.groupby("cluster"):
        names = Counter(own.system.tolist())
        name, most = min(names.items(), key=lambda pair: (-pair[1], pair[0]))
        parts.append(f"{cluster}: {len(own)} outputs, {most / len(own):.0%} of them by {plain(name)}")
    return f"{count} clusters. {'; '.join(parts)}."


def _label_places(places: NDArray[np.floating], labels: NDArray[np.int64]) -> dict[int, tuple[float, float]]:
    """Where each cluster's number stands: its point nearest to its median that is not too near to another number."""
    apart = APART * float(np.ptp(places, axis=0).max())
    taken: list[NDArray[np.floating]] = []
    found = {}
    for cluster in sorted(set(labels.tolist()), key=lambda c: (int((labels == c).sum()), c)):  # small ones first
        own = places[labels == cluster]
        order = np.argsort(np.linalg.norm(own - np.median(own, axis=0), axis=1), kind="stable")
        free = [i for i in order.tolist() if all(np.linalg.norm(own[i] - other) >= apart for other in taken)]
        place = own[free[0] if free else int(order[0])]
        taken.append(place)
        found[cluster] = (float(place[0]), float(place[1]))
    return found
