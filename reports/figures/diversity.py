"""Diversity: outputs for the same prompts as vectors (a t-SNE map, and the cosines within and between systems), and the
entropy before each token, in bits (2406.05587, sections 3.1 and 3.2, figure 11)."""

import math
from collections.abc import Iterator, Mapping, Sequence
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
from alignbench.runs.read import TaskRun
from alignbench.stats import estimates
from alignbench.types.engine import TOP
from reports.chart import Panel, histogram_rows, line_panels
from reports.drawing import WORDS, Drawing, NoDataError, describe, rows_of
from reports.evidence import Evidence, System, point_of, scorer_of
from reports.style import FAINT, INK, SMALL, new_figure, plain, wrapped_names

TASKS = ("recitations", "diversity_across", "answers", "diversity")  # the first with enough outputs is used
LEAST = 10  # outputs of a system
MAP_POINTS, LEAST_DISTINCT = 1500, 3
EACH, MOST = 60, 1200  # outputs in the heat map, of a system and in total
APART = 0.07  # of the map's width, between the numbers of two clusters
PERTURBED = "perturbed"  # category of recitations whose first sentence contradicts the facts
ENTROPY_TASKS = WORDS["token_entropy"]
KINDS = {  # attribute of a record -> metric, name
    "entropies": ("entropy", "whole vocabulary"),
    "top_entropies": ("top5_entropy", f"the {TOP} most likely tokens"),
}
BINS = 40
FEWEST = 20  # texts that reach a position
MOST_POINTS = 64  # of a curve: in longer texts, a point is the mean of neighbouring positions
Vectors = NDArray[np.floating]
Texts = dict[str, list[tuple[str, NDArray[np.float64]]]]  # kind -> (group, bits of each token) of each text with any
Entropies = tuple[System, TaskRun, Texts, int]


def _embedded(
    evidence: Evidence, *, each: int, most: int, category: str | None = None
) -> tuple[pd.DataFrame, Vectors, dict[str, Any]] | None:
    """Return equally many, evenly spaced outputs of each system: a table, their vectors (n, d) of length 1, and facts
    for the texts; None if no system has LEAST outputs. The embedder is that of the audit, otherwise the hashed one.

    each, most: limits for a system and in total; category: of recitations, only these
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
        lost = known[known.text.isna()].groupby("system", sort=False).size()
        facts = {"each": each, "embedder": embedder, "least": LEAST, "absent": [*counts[counts < LEAST].index]}
        facts |= {"lost": lost.to_dict(), "missing_embedder": used["name"] if used and used["name"] != HASHED else ""}
        return table.drop(columns="text"), unit(embedder.embed(table.text.tolist())), facts
    return None


def embeddings_map(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a point per output, equally many of each system."""
    from sklearn.manifold import TSNE

    found = _embedded(evidence, each=MAP_POINTS, most=MAP_POINTS)
    if found is None:
        return
    table, vectors, facts = found
    if len(np.unique(vectors, axis=0)) < LEAST_DISTINCT:  # t-SNE starts from two principal components
        raise NoDataError(f"the outputs have fewer than {LEAST_DISTINCT} different vectors")
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    with threadpool_limits(1):  # sums of several threads differ in their last digits
        groups = clusters(vectors)
        places = TSNE(perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(vectors + 0.0)
    table = table.assign(x=places[:, 0], y=places[:, 1], cluster=groups.labels + 1)
    perturbed = table.category == PERTURBED
    names, looks = wrapped_names(dict.fromkeys(table.system), 24), evidence.looks()
    figure, axes = new_figure(max(4.2, 0.7 + 0.2 * (len("\n".join(names.values()).split("\n")) + 2 * perturbed.any())))
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
    facts |= {"perplexity": perplexity, "perturbed": perturbed.any(), "clusters": groups}
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
        axes.text(taken[-1][0], taken[-1][1], str(cluster + 1), bbox=box, **style)


def cosine_heat_map(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a cell per pair of outputs, a block per pair of systems."""
    found = _embedded(evidence, each=EACH, most=MOST, category="plain")
    if found is None:
        return
    outputs, vectors, facts = found
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
    axes.set_yticks(middles, [f"{name}  {n}" for n, name in enumerate(wrapped_names(systems, 24).values(), 1)])
    axes.set_xticks(middles, [str(n + 1) for n in range(len(systems))])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.6, aspect=40, pad=0.02, extend="both")
    bar.set_label("cosine of two outputs", fontsize=8.5)
    bar.outline.set(edgecolor=FAINT, linewidth=0.5)
    figure.draw_without_rendering()  # the layout of a square beside long names settles at the second drawing
    inside = table[table.system == table.other].sort_values("mean", ascending=False, kind="stable")
    between = table[table.system < table.other]["mean"]
    yield describe("cosine_heat_map", figure, table, inside=inside, between=between, **facts)


def _entropies(evidence: Evidence, task: str) -> Iterator[Entropies]:
    """Yield the systems with entropies on the task, and the number of their texts without any."""
    for system, folder in evidence.runs(task):
        texts: Texts = {kind: [] for kind in KINDS}
        missing = 0
        for record in folder.records():
            for kind in KINDS:
                generated = [getattr(output, kind) for output in record.outputs]
                for nats in generated or getattr(record, kind) or [()]:
                    bits = np.array([np.nan if own is None else own for own in nats or ()], np.float64) / math.log(2)
                    if np.isfinite(bits).any():
                        texts[kind].append((record.group or record.id, bits))
                    else:
                        missing += kind == "entropies"
        if texts["entropies"]:
            yield system, folder, texts, missing


def entropy_histogram(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a figure per task, a row per system, a column per kind of entropy."""
    for task, title in ENTROPY_TASKS.items():
        found = list(_entropies(evidence, task))
        if not found:
            continue
        most = max(float(np.nanmax(bits)) for _, _, texts, _ in found for _, bits in texts["entropies"])
        ends = {"entropies": max(math.ceil(most), 1), "top_entropies": math.log2(TOP)}
        table = pd.concat(
            [_density(*own[:3], kind, np.linspace(0, ends[kind], BINS + 1))
             for kind in KINDS for own in found if own[2][kind]],
            ignore_index=True,
        )  # fmt: skip
        parts = {f"bits, {name}": table[table.kind == kind] for kind, name in KINDS.values() if kind in set(table.kind)}
        words = "mean {mean:.2f} [{mean_low:.2f}, {mean_high:.2f}]"
        rows, bins = rows_of(evidence, table), ("bits_low", "bits_high")
        figure = histogram_rows(parts, rows, bins=bins, height="density", words=words)
        yield describe(
            "token_entropy", figure, table, name=f"{task}_histogram", task=title, kinds=len(parts), top=TOP,
            texts=[len(texts["entropies"]) for _, _, texts, _ in found], bits=math.log2(TOP),
            means=table[table.kind == "entropy"].drop_duplicates("system").rename(columns={"mean": "value"}),
            missing=[f"{plain(system.name)} {missing}" for system, _, _, missing in found if missing],
        )  # fmt: skip


def _density(system: System, task: TaskRun, texts: Texts, kind: str, edges: NDArray[np.float64]) -> pd.DataFrame:
    every = [bits[np.isfinite(bits)] for _, bits in texts[kind]]
    values = np.clip(np.concatenate(every), edges[0], edges[-1])
    weights = np.concatenate([np.full(len(bits), 1 / len(bits) / len(every)) for bits in every])
    point = point_of(system, task, KINDS[kind][0])
    groups = [group for group, _ in texts[kind]]
    mean = point.metric if point else estimates.mean([float(bits.mean()) for bits in every], groups)
    return pd.DataFrame({
        "system": system.name, "task": task.task, "kind": KINDS[kind][0], "bits_low": edges[:-1],
        "bits_high": edges[1:], "density": np.histogram(values, edges, weights=weights)[0] / np.diff(edges),
        "mean": mean.value, "mean_low": mean.low, "mean_high": mean.high, "texts": len(every), "tokens": len(values),
    })  # fmt: skip


def entropy_curve(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a panel per task, a line with a band per system; the right axis is the branching factor, 2 to the power of
    the entropy (Yang and Holtzman 2025, arXiv 2506.17871)."""
    texts = {
        task: {system.name: own["entropies"] for system, _, own, _ in _entropies(evidence, task)}
        for task in ENTROPY_TASKS
    }
    table = pd.DataFrame(row for task, own in texts.items() for row in by_position(own, task, "entropy_bits"))
    if table.empty:
        return
    table.insert(5, "branching_factor", 2.0**table.entropy_bits)
    drawn = table.assign(middle=(table.first_token + table.last_token) / 2, value=table.entropy_bits)
    panels = [Panel(ENTROPY_TASKS[str(task)].capitalize(), own) for task, own in drawn.groupby("task", sort=False)]
    figure = line_panels(
        panels, rows_of(evidence, table), x="middle", line="system", label="position of the token", columns=1,
        height=2.4, band=True, zero=True,
    )  # fmt: skip
    for axes in list(figure.axes):
        axes.set_ylabel("entropy, bits")
        beside = axes.secondary_yaxis("right", functions=(np.exp2, lambda n: np.log2(np.maximum(n, 1e-9))))
        ends = np.arange(0, math.floor(axes.get_ylim()[1]) + 1)
        beside.set_yticks(2.0**ends, [f"{2 ** int(own)}" for own in ends])
        beside.set_ylabel("branching factor")
    together = [
        f"{width} positions per point on {ENTROPY_TASKS[str(task)]}"
        for task, own in table.groupby("task", sort=False)
        if (width := int((own.last_token - own.first_token).max()) + 1) > 1
    ]
    facts = {"together": together, "fewest": FEWEST, "tasks": ENTROPY_TASKS, "drawn": drawn}
    yield describe("token_entropy_curve", figure, table, **facts)


def by_position(
    systems: Mapping[str, Sequence[tuple[str, NDArray[np.float64]]]], task: str, quantity: str
) -> Iterator[dict[str, Any]]:
    """Yield a point of each system for each group of positions, of the same width for all systems: the mean over texts
    of the mean over each text's tokens there. systems: name -> (group, a number per token) of each text"""
    lengths = [sorted((len(values) for _, values in texts), reverse=True) for texts in systems.values()]
    most = max((own[FEWEST - 1] for own in lengths if len(own) >= FEWEST), default=0)
    width = max(1, -(-most // MOST_POINTS))
    for system, texts in systems.items():
        for start in range(0, most, width):
            parts = [(group, values[start : start + width]) for group, values in texts]
            known = [(group, float(np.nanmean(values))) for group, values in parts if np.isfinite(values).any()]
            if len(known) < FEWEST:
                break
            groups, means = zip(*known, strict=True)
            mean = estimates.mean(means, groups, (0, None))
            yield {
                "system": system, "task": task, "first_token": start + 1, "last_token": start + width,
                quantity: mean.value, "low": mean.low, "high": mean.high, "texts": mean.n, "clusters": mean.clusters,
            }  # fmt: skip
