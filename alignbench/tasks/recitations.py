"""Recitations: one set of facts told many times. How many ways of telling it does a model have?

"Creativity Has Left the Chat" (Mohammadi 2024, arXiv 2406.05587, section 3.2): an aligned model's recitations form few
clusters, and it returns to them, as to an attractor, from a beginning that departs from the facts.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from alignbench.diversity.lexical import words
from alignbench.diversity.semantic import clusters, unit
from alignbench.diversity.sets import of_set
from alignbench.stats.estimates import share
from alignbench.tasks.common import first_outputs
from alignbench.tasks.declare import PROMPTS, generation_task
from alignbench.types.task import CorpusMetrics, Document, Estimates, Metric, Options, Output, Record, TaskData

EACH = 100
SEED = 0  # of the clusters
ROUNDING = 1e-6

FACTS = tuple(PROMPTS["recitation_facts"])
PROMPT: str = PROMPTS["recitations"].format(facts="\n".join(f"- {fact}" for fact in FACTS))
DEPARTURE = PROMPTS["recitation_departure"]

MAIN, RETURN = (Metric(f"{n}_share", "proportion", "lower", scorer="embedding") for n in ("main_cluster", "return"))


def load_documents(options: Options) -> TaskData:
    prompts = {"plain": PROMPT, "perturbed": f"{PROMPT} {DEPARTURE}"}
    numbers = range(1, EACH + 1)
    return TaskData([Document(f"{c} {n:03}", p, category=c) for c, p in prompts.items() for n in numbers], ())


def score(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    return {"answer_rate": float(bool(words(outputs[0].text)))}


def corpus_metrics(records: Sequence[Record], intervals: bool) -> Estimates:
    """Diversity of the plain recitations, distances and clusters of the perturbed ones (`perturbed_…`), and the
    proportion of these that return, if the plain ones form at least two clusters."""
    plain, perturbed = ([record for record in records if record.category == c] for c in ("plain", "perturbed"))
    equal = min(len(plain), len(perturbed)) or len(records)
    texts, vectors = first_outputs(plain[:equal])
    other_texts, other_vectors = first_outputs(perturbed[:equal])
    found = [pair for pair in of_set(texts, vectors, intervals=intervals) if not pair[0].name.endswith("_uncut")]
    for metric, estimate in of_set(other_texts, other_vectors, intervals=intervals):
        if metric.name == "words" or metric.scorer is not None:
            found.append((replace(metric, name=f"perturbed_{metric.name}"), estimate))
    if vectors is not None and other_vectors is not None and len(vectors) > 1:
        labels = clusters(vectors, SEED).labels
        found.append((MAIN, share((labels == main_cluster(labels)).astype(float))))
        if len(set(labels.tolist())) > 1:
            found.append((RETURN, share(returns(vectors, other_vectors, labels).astype(float))))
    return found


def main_cluster(labels: NDArray[np.int64]) -> int:
    """The most frequent of (n,) labels, the lowest if several are."""
    values, counts = np.unique(labels, return_counts=True)
    return int(values[counts.argmax()])


def returns(
    plain: NDArray[np.floating], perturbed: NDArray[np.floating], labels: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """(m,): which of the (m, d) perturbed vectors return to the main one of the clusters (n,) of the (n, d) plain ones:
    its centre is the nearest, and not further (by cosine) than the 95 % nearest members are from the centre of the
    other members.
    """
    together = unit(np.concatenate([plain, perturbed]))
    plain, perturbed = together[: len(plain)], together[len(plain) :]
    main = main_cluster(labels)
    sums = {label: plain[labels == label].sum(axis=0) for label in dict.fromkeys(labels.tolist())}
    centres = {label: total / (np.linalg.norm(total) or 1) for label, total in sums.items()}
    inside = plain[labels == main]
    others = sums[main] - inside  # each member is compared with the others, as a perturbed vector is
    lengths = np.linalg.norm(others, axis=1)
    own = np.einsum("ij,ij->i", inside, others) / np.where(lengths > 0, lengths, 1)
    reach = float(np.quantile(own, 0.05)) - ROUNDING
    cosines = {label: perturbed @ centre for label, centre in centres.items()}
    nearest = np.all([cosines[main] >= other for other in cosines.values()], axis=0)
    return np.asarray(nearest & (cosines[main] >= reach))


_CORPUS = CorpusMetrics(corpus_metrics, resampling="jackknife", texts=True)
TASKS = (generation_task("recitations", load_documents, score, _CORPUS),)
