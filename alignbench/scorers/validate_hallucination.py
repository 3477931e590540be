"""Entailment scorers against people's judgements of summaries: FRANK and the XSum annotations.

Beside each scorer stand reference rows: the metrics whose outputs the authors published, judged in the same way. Where
the articles are not at hand, the reference rows are all there is, and a line says what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from alignbench.data import load, read_card
from alignbench.data.load import data_folder, local_files
from alignbench.errors import AlignbenchError
from alignbench.progress import Progress
from alignbench.scorers.agreement import auc, balanced_accuracy, pearson, pearson_within, spearman
from alignbench.scorers.validate import Finding, draw, scores_of
from alignbench.types.scorer import Item, Scorer, ScorerIdentity

FRANK_SPLIT = "test"  # the authors' own: valid is for tuning
FRANK_METRICS = ("FactCC", "QAGS", "FEQA", "Dep Entail", "BertScore P Art", "Rouge 2")
PROBABILITIES = ("FactCC", "QAGS", "Dep Entail", "Entailment")  # metrics for which .5 is a threshold
XSUM_METRICS = ("Entailment", "BERTScore", "R2")
XSUM_SYSTEMS = {"bert_withckpt": "BERTS2S", "bert_nockpt": "TranS2S", "tconvs2s": "TConvS2S", "ptgen": "PtGen"}

T = TypeVar("T")
Key = tuple[str, str]  # article, system


@dataclass(frozen=True)
class Judged:
    """A summary as people judged it. factual: 0 (all of it wrong) to 1; faithful: no hallucination in it."""

    key: Key
    data: str
    factual: float
    faithful: bool


@dataclass(frozen=True)
class Answer:
    """What a metric said of a summary: higher is more faithful; `accepted` where it has a threshold."""

    value: float
    accepted: bool | None


@dataclass(frozen=True)
class Benchmark:
    """Judged summaries, what published metrics said of them, their texts, and why there are no texts."""

    name: str
    judged: list[Judged]
    published: dict[str, dict[Key, Answer]]
    texts: dict[Key, Item]
    missing: str | None


def validate_hallucination(
    scorers: Sequence[Scorer],
    *,
    data_dir: Path | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> tuple[list[Finding], list[str]]:
    """Findings on the reference metrics and each scorer, and a line for each data set whose articles are missing.

    limit: so many summaries of either data set, drawn with a fixed seed.
    """
    progress = progress or Progress()
    findings = []
    benchmarks = [_frank(data_dir, limit), _xsum(data_dir, limit)]
    for benchmark in benchmarks:
        for metric, published in benchmark.published.items():
            findings += _agreement(f"{metric} (published)", benchmark.judged, published)
        known = [one for one in benchmark.judged if one.key in benchmark.texts]
        for scorer in scorers if known else ():
            items = [benchmark.texts[one.key] for one in known]
            found = scores_of(scorer, items, f"{scorer.name}, {benchmark.name}", progress)
            answers = {one.key: _answer(numbers) for one, numbers in zip(known, found, strict=True)}
            findings += _agreement(str(ScorerIdentity.of(scorer)), known, answers)
    return findings, [benchmark.missing for benchmark in benchmarks if benchmark.missing is not None]


def _answer(numbers: dict[str, float]) -> Answer:
    """`support` is a model's; without one, ROUGE-2 precision ranks what novel numbers and names decide."""
    accepted = numbers["flagged"] == 0
    value = numbers.get("support", numbers.get("rouge2_precision", float(accepted)))
    return Answer(value, accepted)


def _agreement(name: str, judged: Sequence[Judged], answers: Mapping[Key, Answer]) -> list[Finding]:
    findings = []
    for data in dict.fromkeys(one.data for one in judged):
        both = [(one, answers[one.key]) for one in judged if one.data == data and one.key in answers]
        if not both:
            continue
        faithful = [one.faithful for one, _ in both]
        factual = [one.factual for one, _ in both]
        values = [answer.value for _, answer in both]
        accepted = [answer.accepted for _, answer in both if answer.accepted is not None]
        numbers = {
            "AUC": auc(faithful, values),
            "balanced accuracy": balanced_accuracy(faithful, accepted) if accepted else None,
            "Pearson": pearson(factual, values),
            "Pearson within systems": pearson_within(factual, values, [one.key[1] for one, _ in both]),
            "Spearman": spearman(factual, values),
        }
        findings += [Finding(name, data, metric, value, len(both)) for metric, value in numbers.items()]
    return findings


def _frank(data_dir: Path | None, limit: int | None) -> Benchmark:
    def judge(row: dict[str, Any]) -> tuple[Judged, bool]:
        factual = float(row["Factuality"])
        one = Judged((row["hash"], row["model_name"]), f"frank {row['dataset']}", factual, factual == 1.0)
        return one, row["split"] == FRANK_SPLIT

    def metrics(row: dict[str, Any]) -> tuple[Key, dict[str, float]]:
        return (row["hash"], row["model_name"]), {name: row[name] for name in FRANK_METRICS if row[name] is not None}

    def text(row: dict[str, Any]) -> tuple[Key, Item]:
        return (row["hash"], row["model_name"]), Item(row["summary"], source=row["article"])

    rows = load("frank", "human_annotations", judge, data_dir=data_dir).items
    judged = draw([one for one, belongs in rows if belongs], limit)
    outputs = load("frank", "baseline_metrics", metrics, data_dir=data_dir).items
    texts, missing = _articles("frank", "texts", text, data_dir)
    published = {name: _published(name, outputs) for name in FRANK_METRICS}
    return Benchmark("frank", judged, published, dict(texts), missing)


def _xsum(data_dir: Path | None, limit: int | None) -> Benchmark:
    def annotation(row: dict[str, Any]) -> tuple[Key, str, str, bool]:
        kind = row["hallucination_type"]
        if kind not in ("intrinsic", "extrinsic", "NULL"):
            raise ValueError(f"hallucination_type is {kind!r}")
        summary = row["summary"].replace("\\'", "'")
        return (row["bbcid"], row["system"]), row["worker_id"], summary, kind != "NULL"

    def metrics(row: dict[str, Any]) -> tuple[Key, dict[str, float]]:
        system, _, article = row["system_bbcid"].rpartition("_")
        return (article, XSUM_SYSTEMS[system]), {name: float(row[name]) for name in XSUM_METRICS}

    def article(row: dict[str, Any]) -> tuple[str, str]:
        return str(row["id"]), row["document"]

    rows = load("xsum_hallucination", "annotations", annotation, data_dir=data_dir).items
    marks: dict[Key, dict[str, bool]] = {}
    summaries = {}
    for key, worker, summary, marked in rows:
        workers = marks.setdefault(key, {})
        workers[worker] = workers.get(worker, False) or marked
        summaries[key] = summary
    judged = []
    for key, workers in marks.items():
        clean = 1 - float(np.mean(list(workers.values())))  # the share of annotators who marked nothing
        judged.append(Judged(key, "xsum", clean, clean >= 0.5))
    outputs = load("xsum_hallucination", "eval_scores", metrics, data_dir=data_dir).items
    articles, missing = _articles("xsum_hallucination", "articles", article, data_dir)
    documents = dict(articles)
    texts = {key: Item(summary, source=documents[key[0]]) for key, summary in summaries.items() if key[0] in documents}
    published = {name: _published(name, outputs) for name in XSUM_METRICS}
    return Benchmark("xsum", draw(judged, limit), published, texts, missing)


def _published(name: str, outputs: Sequence[tuple[Key, dict[str, float]]]) -> dict[Key, Answer]:
    has_threshold = name in PROBABILITIES
    return {key: Answer(row[name], row[name] >= 0.5 if has_threshold else None) for key, row in outputs if name in row}


def _articles(
    card_name: str, split: str, parse: Callable[[dict[str, Any]], T], data_dir: Path | None
) -> tuple[list[T], str | None]:
    """The rows of a split that may be absent: then none, and a line that says so. A faulty local file is an error."""
    card = read_card(card_name)
    here = local_files(card, split, data_folder(data_dir))
    try:
        return load(card_name, split, parse, data_dir=data_dir).items, None
    except AlignbenchError as error:
        if here:
            raise
        return [], f"scorers not run on {card_name}: {error} (from {card.homepage})"
