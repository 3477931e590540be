"""Run folders with made-up values, written the way `alignbench evaluate` writes them, in milliseconds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from alignbench.runs.folder import open_run
from alignbench.runs.summary import kept, summarise
from alignbench.scorers.embeddings import HashedEmbedder
from alignbench.tasks import find_task

Values = Mapping[str, Sequence[float | None]]


def weights_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def write_run(
    out: Path,
    name: str,
    *tasks: tuple[str, Values] | tuple[str, Values, Mapping[str, Any]],
    lineage: Sequence[tuple[str, str]] = (),
    groups: Sequence[str | None] | None = None,
    dtype: str = "float32",
    weights: str | None = None,
    tokenizer: str = "t",
) -> Path:
    """A run of the model `name`: tasks are (task, metric -> a value a document), and what its task.json has otherwise.

    lineage: (stage, name) from the base on, without the model itself. None among the values is unscored.
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


def write_task(run: Any, name: str, values: Values, changes: Mapping[str, Any], groups: Any) -> None:
    task = find_task(name)
    n = len(next(iter(values.values())))
    changes = dict(changes)
    columns = changes.pop("columns", [{}] * n)
    texts = changes.pop("texts", None)
    finished = changes.pop("finished", True)
    identity: dict[str, Any] = {
        "task": name,
        "version": task.version,
        "shots": 0,
        "limit": None,
        "seed": 0,
        "data": [{"card": task.card, "split": "test", "source": "f", "revision": "r" * 40, "rows": n, "pinned": True}],
        "prefix": "",
        "n": n,
        "documents_sha256": "d" * 64,
    }
    if task.generation is None:
        identity["window"] = 128
    else:
        identity |= {
            "template": "none",
            "sampling": {"max_tokens": 5, "samples": 1},
            "scorers": [],
            "judged_with": {"sacrebleu": "2.6.0"},
        }
    identity |= changes
    folder = run.task(name, identity)
    records = []
    for row in range(n):
        own = {metric: column[row] for metric, column in values.items()}
        records.append(
            {
                "id": f"document {row}",
                "group": groups[row] if groups else None,
                "category": None,
                **own,
                **columns[row],
                **({"outputs": [{"text": texts[row], "unscored": None}]} if texts else {}),
                "chance": {},
                "unscored": "made up" if None in own.values() else None,
            }
        )
    folder.append(*records)
    if not finished:
        return
    scorers = {scorer["kind"]: f"{scorer['name']}@{scorer['revision']}" for scorer in identity.get("scorers", ())}
    summary = summarise(
        task,
        [kept(task, record) for record in records],
        shots=identity["shots"],
        limit=identity["limit"],
        seed=0,
        scorers=scorers,
        template=identity.get("template"),
        embedder=HashedEmbedder() if "embedding" in scorers else None,
    )
    folder.finish({record["id"]: number for number, record in enumerate(records)}, asdict(summary))


N = 120


def shares(p: float, n: int = N) -> list[float]:
    """Zeros and ones with exactly this share of ones, in one fixed order of documents."""
    order = np.random.default_rng(1).permutation(n)
    return [float(rank < round(p * n)) for rank in order]


def around(mean: float, n: int = N) -> list[float]:
    noise = np.random.default_rng(2).normal(size=n)
    return (mean + 0.05 * (noise - noise.mean())).tolist()


def rte(p: float) -> tuple[str, dict[str, list[float]]]:
    return "rte", {"acc": shares(p)}


def headline(audit, task: str, contrast: int = 0):
    (row,) = [row for row in audit.contrasts[contrast].rows if row.task == task and row.headline]
    return row


def headline_of(contrast):
    (row,) = [row for row in contrast.rows if row.headline]
    return row


def bleu_columns(right: int, words: int) -> dict[str, list[float]]:
    """Counts of a text of ten words, so many of which, in a row, are the reference's."""
    grams = [max(right - order, 0) for order in range(4)]
    return {
        "bleu_statistics": [*map(float, grams), 10.0, 9.0, 8.0, 7.0, 10.0, float(words)],
        "chrf_statistics": [50.0, 50.0, float(right)] * 6,
        "references_counted": [1.0],
    }
