"""Run folders with synthetic values, in the format of `alignbench evaluate`, written in milliseconds."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from alignbench.runs.folder import RunFolder, open_run
from alignbench.runs.summary import summarise
from alignbench.scorers.embeddings import HashedEmbedder
from alignbench.tasks import find_task
from alignbench.types.record import Record
from alignbench.types.scorer import ScorerIdentity

Values = Mapping[str, Sequence[float | None]]
N = 120
OUTPUT = {"finish": "end", "tokens": [], "logprobs": [], "entropies": [], "unscored": None, "scores": {}}


def weights_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def write_run(
    out: Path, name: str, *tasks: tuple[Any, ...], lineage: Sequence[tuple[str, str]] = (),
    groups: Sequence[str | None] | None = None, dtype: str = "float32", weights: str | None = None,
    tokenizer: str = "t",
) -> Path:  # fmt: skip
    """Write a run of the model `name`. Each task: its name, metric -> value per document, and changes to its task.json.

    lineage: (stage, name) of each ancestor, the base model first. None among the values: unscored.
    """
    sha = weights or weights_of(name)
    model = {"name": name, "revision": None, "weights_sha256": sha, "tokenizer_sha256": tokenizer}
    identity = {"model": model, "engine": {"kind": "local", "dtype": dtype, "device": "cpu", "token_budget": "auto"}}
    ancestors = [{"stage": stage, "name": own, "weights_sha256": weights_of(own)} for stage, own in lineage]
    if lineage:
        ancestors.append({"stage": "ppo", "name": name, "weights_sha256": sha})
    with open_run(out, name, identity) as run:
        run.describe({**identity, "lineage": ancestors, "environment": {}})
        for task, values, *changes in tasks:
            write_task(run, task, values, dict(*changes), groups)
        return run.path


def write_task(run: RunFolder, name: str, values: Values, changes: dict[str, Any], groups: Any = None) -> None:
    """changes: fields of task.json, or one of
    columns: for each document, further fields of its line in documents.jsonl
    texts: the text of the output of each document
    finished: False leaves out result.json
    """
    task = find_task(name)
    n = len(next(iter(values.values())))
    columns, texts = changes.pop("columns", [{}] * n), changes.pop("texts", None)
    finished = changes.pop("finished", True)
    source = {"card": task.card, "split": "test", "source": "f", "revision": "r" * 40, "rows": n, "pinned": True}
    identity: dict[str, Any] = {"task": name, "version": task.version, "shots": 0, "limit": None, "seed": 0}
    identity |= {"data": [source], "prefix": "", "n": n, "documents_sha256": "d" * 64}
    if task.generation is None:
        identity["window"] = 128
    else:
        identity |= {"template": "none", "sampling": {"max_tokens": 5, "samples": 1}, "scorers": []}
        identity["judged_with"] = {"sacrebleu": "2.6.0"}
    identity |= changes
    records = []
    for row in range(n):
        metrics = {metric: column[row] for metric, column in values.items()}
        line = {"id": f"document {row}", "group": groups[row] if groups else None, "category": None, "prompt": ""}
        line |= {"target": {}, "chance": {}, "metrics": metrics, "outputs": [{"text": texts[row]}] if texts else []}
        line |= {"unscored": "synthetic" if None in metrics.values() else None, **columns[row]}
        line["outputs"] = [OUTPUT | output for output in line["outputs"]]
        records.append(Record.from_json(line))
    folder = run.create_task_folder(name, identity)
    folder.append(*records)
    if not finished:
        return
    scorers = {entry["kind"]: str(ScorerIdentity(**entry)) for entry in identity.get("scorers") or ()}
    embedder = HashedEmbedder() if "embedding" in scorers else None
    kept = [Record.slim(record.to_json(), keep_texts=task.keeps_texts) for record in records]
    settings = {name: identity.get(name) for name in ("shots", "limit", "template")}
    summary = summarise(task, kept, seed=0, scorers=scorers, embedder=embedder, **settings)
    folder.finish({record.id: number for number, record in enumerate(records)}, asdict(summary))


def add_metric(run: Path, task: str, **fields: Any) -> None:
    """Add to the result of a task a metric that is not in its records."""
    (file,) = run.glob(f"{task}-*/result.json")
    result = json.loads(file.read_text())
    result["metrics"].append(result["metrics"][0] | fields)
    file.write_text(json.dumps(result))


def shares(p: float, n: int = N) -> list[float]:
    """Zeros and ones with exactly this proportion of ones, in a fixed order of documents."""
    order = np.random.default_rng(1).permutation(n)
    return [float(rank < round(p * n)) for rank in order]


def around(mean: float, n: int = N) -> list[float]:
    """Values with exactly this mean."""
    noise = np.random.default_rng(round(1000 * abs(mean))).normal(size=n)  # differences are not all equal
    return (mean + 0.05 * (noise - noise.mean())).tolist()


def rte(p: float) -> tuple[str, dict[str, list[float]]]:
    return "rte", {"acc": shares(p)}


def headline_of(contrast, task: str | None = None):
    """The headline row of a task, or of the only task."""
    (row,) = [row for row in contrast.rows if row.headline and task in (None, row.task)]
    return row


def bleu_statistics(right: int, words: int) -> dict[str, Any]:
    """Statistics of a text of ten words whose first `right` words are those of the reference of `words` words."""
    grams = [float(max(right - order, 0)) for order in range(4)]
    counts = {"bleu_statistics": [*grams, 10.0, 9.0, 8.0, 7.0, 10.0, float(words)], "references_counted": [1.0]}
    return {"statistics": counts | {"chrf_statistics": [50.0, 50.0, float(right)] * 6}}
