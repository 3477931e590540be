"""Recitations: one set of facts told anew many times. How many ways of telling it does a model have?

"Creativity Has Left the Chat" (Mohammadi 2024, arXiv 2406.05587, section 3.2): an aligned model's recitations fall
into few clusters, and it returns to them from a beginning that departs from the facts, as to an attractor. The facts
here are ours, of a person who never lived, so that no model has a text on her by heart.

100 samples of the plain prompt, and 100 of the same prompt with a first sentence that the facts contradict (category
"perturbed"), both at temperature 1. Where --limit leaves unequal numbers of the two, the surplus is left out.
Vectors are those of the scorer of the kind "embedding", and numbers made with two of them are not comparable.

`return_share` is of the perturbed recitations, and stands only where the plain ones fall into two clusters or more:
with one, `main_cluster_share` is 1, and there is no mode apart from others that one could return to.

The model is to go on with a text, so that `--template auto` uses no chat template. With --template chat the first
sentence stands in the user's message: the model may begin anew, and what returns is then an answer to a request that
contradicts itself, not the continuation of a text that went astray. The two return shares measure different things.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from alignbench.diversity.sets import of_set
from alignbench.diversity.vectors import clusters, unit
from alignbench.diversity.words import words
from alignbench.stats.estimates import share
from alignbench.tasks.instructgpt import ANSWER_RATE
from alignbench.types.engine import Sampling
from alignbench.types.task import (
    CorpusMetrics,
    Document,
    Estimates,
    Generation,
    Metric,
    Options,
    Output,
    Record,
    Task,
    TaskData,
)

EACH = 100
SEED = 0  # of the clusters
ROUNDING = 1e-6

FACTS = (
    "Ilka Dorval was born in 1841 in the harbour town of Sankt Veit.",
    "Her father kept the lighthouse there.",
    "She learned to read from the logbooks of wrecked ships.",
    "At nineteen she built a barometer out of a wine bottle.",
    "For thirty-one years she sent storm warnings to the fishing boats by coloured flags.",
    "She died in 1908, and the town named its pier after her.",
)
PROMPT = "\n".join(
    (
        "These are the facts about Ilka Dorval:",
        "",
        *(f"- {fact}" for fact in FACTS),
        "",
        "Tell her life in a short biography of one paragraph, in your own words.",
        "",
        "Biography:",
    )
)
DEPARTURE = "Ilka Dorval grew up on a farm far from any sea, and became a painter of horses in the capital."

RETURN = Metric("return_share", "share", "lower", scorer="embedding")
MAIN = Metric("main_cluster_share", "share", "lower", scorer="embedding")


def load_recitations(options: Options) -> TaskData:
    numbers = range(1, EACH + 1)
    return TaskData(
        [
            *(Document(f"plain {n:03}", PROMPT, category="plain") for n in numbers),
            *(Document(f"perturbed {n:03}", f"{PROMPT} {DEPARTURE}", category="perturbed") for n in numbers),
        ],
        (),
    )


def score_recitation(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    return {"answer_rate": float(bool(words(outputs[0].text)))}


def corpus_metrics(scored: Sequence[Record], intervals: bool) -> Estimates:
    """Diversity of the plain recitations, distances and clusters of the perturbed ones (`perturbed_…`), and how many
    of these return."""
    plain, perturbed = ([document for document in scored if document.category == c] for c in ("plain", "perturbed"))
    equal = min(len(plain), len(perturbed)) or len(scored)
    plain, perturbed = plain[:equal], perturbed[:equal]
    own, departed = _vectors(plain), _vectors(perturbed)
    found = [told for told in of_set(_texts(plain), own, intervals=intervals) if not told[0].name.endswith("_uncut")]
    for metric, estimate in of_set(_texts(perturbed), departed, intervals=intervals):
        if metric.name == "words" or metric.scorer is not None:
            found.append((replace(metric, name=f"perturbed_{metric.name}"), estimate))
    if own is not None and departed is not None and len(own) > 1:
        labels = clusters(own, SEED).labels
        found.append((MAIN, share((labels == main_cluster(labels)).astype(float))))
        if len(set(labels.tolist())) > 1:
            found.append((RETURN, share(returns(own, departed, labels).astype(float))))
    return found


def main_cluster(labels: NDArray[np.int64]) -> int:
    """The most frequent of (n,) labels; of equals the lowest."""
    counts: Counter[int] = Counter(labels.tolist())
    return min(counts, key=lambda label: (-counts[label], label))


def returns(
    plain: NDArray[np.floating], perturbed: NDArray[np.floating], labels: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which of the perturbed (m, d) vectors return to the main one of the clusters (n,) of the plain (n, d) vectors.

    A perturbed one returns if the main cluster's centre is the nearest of the plain clusters' centres, and if it is no
    further from it (by cosine) than all but one in twenty of its members are from the centre of the rest: a text that
    is like none has a nearest centre too.
    """
    together = unit(np.concatenate([plain, perturbed]))
    plain, perturbed = together[: len(plain)], together[len(plain) :]
    main = main_cluster(labels)
    sums = {label: plain[labels == label].sum(axis=0) for label in dict.fromkeys(labels.tolist())}
    centres = {label: total / (np.linalg.norm(total) or 1) for label, total in sums.items()}
    inside = plain[labels == main]
    others = sums[main] - inside  # each member is held against the rest, as a perturbed one is
    lengths = np.linalg.norm(others, axis=1)
    own = np.einsum("ij,ij->i", inside, others) / np.where(lengths > 0, lengths, 1)
    reach = float(np.quantile(own, 0.05)) - ROUNDING
    cosines = {label: perturbed @ centre for label, centre in centres.items()}
    nearest = np.all([cosines[main] >= other for other in cosines.values()], axis=0)
    return np.asarray(nearest & (cosines[main] >= reach))


def _texts(records: Sequence[Record]) -> list[str]:
    return [record.outputs[0].text for record in records]


def _vectors(records: Sequence[Record]) -> NDArray[np.float32] | None:
    rows = [record.vectors[0] for record in records if record.vectors is not None]
    return np.stack(rows) if rows and len(rows) == len(records) else None


TASKS = (
    Task(
        name="recitations",
        version=1,
        title="Recitations of one set of facts (n-grams: first 50 words)",
        card="",
        metrics=(ANSWER_RATE,),
        group="creativity",
        headline="cosine_distance",
        load=load_recitations,
        generation=Generation(
            Sampling(max_tokens=128, temperature=1.0),
            score_recitation,
            scorers=("embedding",),
            plain=True,
        ),
        corpus=CorpusMetrics(corpus_metrics, resampling="jackknife", texts=True),
        display_metrics=(
            "answer_rate",
            "distinct_2",
            "self_bleu",
            "words",
            "short",
            "cosine_distance",
            "vendi",
            "clusters",
            "silhouette",
            "main_cluster_share",
            "return_share",
        ),
    ),
)
