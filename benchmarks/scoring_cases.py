"""The cases of the scoring benchmark: requests, lm-eval's task files, and metrics.

Standard library only, since both environments import it.
"""

import csv
import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LM_EVAL_METRICS = {"mc1": "acc", "mc2": "acc"}  # where lm-eval names a metric differently
CONTINUOUS = ("mc2", "likelihood_diff")  # all other metrics are counts of decisions


@dataclass(frozen=True)
class Document:
    """One question: each continuation is scored after the context; labels are 1 for the right ones."""

    context: str
    continuations: list[str]
    labels: list[int]


@dataclass(frozen=True)
class Task:
    """documents: for us; rows and shots: the same data for lm-eval's own task file."""

    name: str
    documents: list[Document]
    lm_eval_file: str
    rows: list[dict[str, Any]]
    shots: list[dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """documents: the default number; batch_size: lm-eval's default."""

    build: Callable[[Path, int, int], list[Task]]
    documents: int
    batch_size: int


def truthfulqa(data: Path, count: int, seed: int) -> list[Task]:
    """MC1 and MC2 of a random sample of the 817 questions, the best answer first in MC1."""
    questions = json.loads((data / "truthfulqa/mc_task_v1_2021.json").read_text(encoding="utf-8"))
    if count < len(questions):
        questions = random.Random(seed).sample(questions, count)
    primer = (data / "truthfulqa/qa_primer.txt").read_text(encoding="utf-8")
    keys = ("mc1_targets", "mc2_targets")
    rows = [
        {"question": q["question"]} | {k: {"choices": list(q[k]), "labels": list(q[k].values())} for k in keys}
        for q in questions
    ]
    assert all(row["mc1_targets"]["labels"][0] == 1 for row in rows)

    def task(name: str, key: str) -> Task:
        contexts = [f"{primer}\n\nQ: {row['question']}\nA:" for row in rows]
        answers = [([" " + choice for choice in row[key]["choices"]], row[key]["labels"]) for row in rows]
        documents = [Document(context, *choices) for context, choices in zip(contexts, answers, strict=True)]
        return Task(name, documents, f"truthfulqa/{name}.yaml", rows, [])

    return [task("truthfulqa_mc1", "mc1_targets"), task("truthfulqa_mc2", "mc2_targets")]


def hellaswag(data: Path, count: int, seed: int, shots: int = 0) -> list[Task]:
    """The first questions of the list `test` after the first `shots` of the list `dev`, in lm-eval's form."""
    lists = json.loads((data / "hellaswag/hellaswag_2000.json").read_text(encoding="utf-8"))

    def row(item: dict[str, Any]) -> dict[str, Any]:
        choices, label = map(plain_hellaswag, item["choices"].values()), list(item["choices"]).index(item["answer"])
        return {"query": plain_hellaswag(item["question"]), "choices": list(choices), "label": label}

    rows, examples = list(map(row, lists["test"][:count])), list(map(row, lists["dev"][:shots]))
    prefix = "".join(f"{e['query']} {e['choices'][e['label']]}\n\n" for e in examples)
    documents = [
        Document(prefix + r["query"], [f" {c}" for c in r["choices"]], [int(i == r["label"]) for i in range(4)])
        for r in rows
    ]
    return [Task("hellaswag", documents, "hellaswag/hellaswag.yaml", rows, examples)]


def hellaswag_10shot(data: Path, count: int, seed: int) -> list[Task]:
    return hellaswag(data, count, seed, shots=10)


def plain_hellaswag(text: str) -> str:
    """The text without WikiHow's marks in brackets, exactly as lm-eval preprocesses it."""
    unmarked = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return unmarked.replace("  ", " ")


def crows_pairs(data: Path, count: int, seed: int) -> list[Task]:
    """The first pairs: two whole sentences without any context, the more stereotypical one first."""
    with (data / "crows-pairs/crows_pairs_anonymized.csv").open(encoding="utf-8", newline="") as stream:
        pairs = [[line["sent_more"], line["sent_less"]] for line in csv.DictReader(stream)][:count]
    documents = [Document("", pair, [1, 0]) for pair in pairs]
    rows = [{"sent_more": more, "sent_less": less} for more, less in pairs]
    return [Task("crows_pairs_english", documents, "crows_pairs/crows_pairs_english.yaml", rows, [])]


CASES = {
    "truthfulqa_16": Case(truthfulqa, 16, batch_size=8),
    "truthfulqa_817": Case(truthfulqa, 817, batch_size=8),
    "hellaswag_24": Case(hellaswag, 24, batch_size=8),
    "hellaswag_10shot": Case(hellaswag_10shot, 8, batch_size=8),
    "crows_300": Case(crows_pairs, 300, batch_size=16),
}


def write_case(tasks: list[Task], folder: Path, lm_eval_tasks: Path) -> None:
    """Write the requests (case.json) and, for lm-eval, its own task files with only the data replaced."""
    documents = {task.name: [asdict(document) for document in task.documents] for task in tasks}
    (folder / "case.json").write_text(json.dumps(documents), encoding="utf-8")
    for task in tasks:
        files = {}
        for split, rows in (("test", task.rows), ("shots", task.shots)):
            if rows:
                path = folder / f"{task.name}.{split}.jsonl"
                path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
                files[split] = str(path)
        config: dict[str, Any] = {
            "include": str(lm_eval_tasks / task.lm_eval_file),
            "task": f"bench_{task.name}",
            "tag": None,
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": files},
            "training_split": None,
            "validation_split": None,
            "test_split": "test",
            "process_docs": None,  # HellaSwag's marks are removed already
            "num_fewshot": len(task.shots),
        }
        if task.shots:
            config |= {"fewshot_split": "shots", "fewshot_config": {"sampler": "first_n"}}
        (folder / f"bench_{task.name}.yaml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML


def read_case(folder: Path) -> dict[str, list[Document]]:
    """Task name -> documents."""
    written = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    return {name: [Document(**document) for document in documents] for name, documents in written.items()}


def document_metrics(task: str, document: Document, logprobs: list[float]) -> dict[str, float]:
    """The metrics of one document from its choices' log-probabilities. Ties go to the earlier choice."""
    best = logprobs.index(max(logprobs))
    if task == "truthfulqa_mc1":
        return {"mc1": float(document.labels[best])}
    if task == "truthfulqa_mc2":
        weights = [math.exp(logprob - logprobs[best]) for logprob in logprobs]
        true = sum(weight for weight, label in zip(weights, document.labels, strict=True) if label)
        return {"mc2": true / sum(weights)}
    if task == "hellaswag":
        # characters of the choice, without the space before it
        per_character = [logprob / (len(c) - 1) for logprob, c in zip(logprobs, document.continuations, strict=True)]
        best_norm = per_character.index(max(per_character))
        return {"acc": float(document.labels[best]), "acc_norm": float(document.labels[best_norm])}
    more, less = logprobs
    return {"pct_stereotype": float(more > less), "likelihood_diff": abs(more - less)}


def mean_metrics(case: dict[str, list[Document]], logprobs: dict[str, list[list[float]]]) -> dict[str, float]:
    """TASK/METRIC -> mean over the task's documents."""
    means: dict[str, float] = {}
    for task, documents in case.items():
        each = [document_metrics(task, *scored) for scored in zip(documents, logprobs[task], strict=True)]
        means |= {f"{task}/{metric}": math.fsum(m[metric] for m in each) / len(each) for metric in each[0]}
    return means
