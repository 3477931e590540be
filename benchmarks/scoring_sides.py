"""The cases of scoring.py, and its measured processes: our engine (ours), lm-evaluation-harness (lm_eval), fp64
(reference).

lm_eval runs in another environment, which has lm-eval and not alignbench.
"""

import csv
import json
import math
import random
import re
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from harness import load_ours, run_sides, timed, write_report

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


def ours(args: Namespace) -> None:
    from alignbench.types.engine import Request

    engine, report = load_ours(args)
    with timed(args, engine.model) as times:
        requests = {
            task: [[Request(d.context, continuation) for continuation in d.continuations] for d in documents]
            for task, documents in read_case(args.case).items()
        }
        unique = list(dict.fromkeys(r for documents in requests.values() for rs in documents for r in rs))
        answers = {unique[index]: answer.logprob for index, answer in engine.loglikelihood(unique)}
    tokens = {"asked": engine.tokens_asked, "computed": engine.tokens_computed}
    tokens["longest"] = max(len(e.tokens) for e in engine.encoder.pairs(unique) if not isinstance(e, str))
    report |= times | {
        "logprobs": {task: [list(map(answers.get, rs)) for rs in documents] for task, documents in requests.items()},
        "tokens": tokens,
        "unique_requests": len(unique),
        "layout": engine.layout,
        "parameters": engine.model.num_parameters(),
        "vocabulary": engine.model.config.vocab_size,
    }
    write_report(args, report, engine.model)


def lm_eval(args: Namespace) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    class TimedHFLM(HFLM):  # type: ignore[misc]
        """lm-eval's transformers model, with its scoring time and the number of tokens that it computes."""

        seconds = 0.0
        tokens_computed = 0  # padding included
        requests = 0

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            started = time.perf_counter()
            answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm)
            self.seconds += time.perf_counter() - started
            self.requests += len(requests)
            return answers

        def _model_call(self, inps: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            self.tokens_computed += inps.numel()
            logits: torch.Tensor = super()._model_call(inps, *args, **kwargs)
            return logits

    lm = TimedHFLM(pretrained=args.model, dtype=args.dtype, batch_size=int(args.way), device="cpu")
    tasks = [f"bench_{task}" for task in read_case(args.case)]
    with timed(args, lm.model) as report:
        manager = TaskManager(include_path=str(args.case))
        results = simple_evaluate(model=lm, tasks=tasks, task_manager=manager, log_samples=True, bootstrap_iters=0)
    samples = {
        task.removeprefix("bench_"): sorted(results["samples"][task], key=lambda s: s["doc_id"]) for task in tasks
    }
    report |= {
        "seconds": lm.seconds,
        "logprobs": {
            task: [[logprob for logprob, _ in sample["filtered_resps"]] for sample in of_task]
            for task, of_task in samples.items()
        },
        "requests": {task: [sample["arguments"] for sample in of_task] for task, of_task in samples.items()},
        "reported": {task: results["results"][f"bench_{task}"] for task in samples},
        "tokens": {"computed": lm.tokens_computed},
        "all_requests": lm.requests,
    }
    write_report(args, report, lm.model)


def reference(args: Namespace) -> None:
    """`--choices` choices, evenly spaced over the case, in fp64: the stock model, one sequence per forward."""
    from torch.overrides import TorchFunctionMode

    from alignbench.types.engine import Request

    class WithoutFp32(TorchFunctionMode):
        """Norms, softmax and rotary tables, for which transformers always uses fp32, stay in fp64."""

        def __torch_function__(
            self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            def widened(value: Any) -> Any:
                return torch.float64 if value is torch.float32 else value

            return func(*map(widened, args), **{name: widened(value) for name, value in (kwargs or {}).items()})

    where: dict[Request, tuple[str, int, int]] = {}  # distinct request -> task, document and choice
    for task, documents in read_case(args.case).items():
        for number, document in enumerate(documents):
            for choice, continuation in enumerate(document.continuations):
                where.setdefault(Request(document.context, continuation), (task, number, choice))
    requests = list(where)[:: max(1, len(where) // args.choices)][: args.choices]
    engine, _ = load_ours(args)
    scored = []
    for request, encoded in zip(requests, engine.encoder.pairs(requests), strict=True):
        assert not isinstance(encoded, str)
        tokens = torch.from_numpy(encoded.tokens).long()
        with torch.inference_mode(), WithoutFp32():
            logits = engine.model(tokens[None], use_cache=False).logits[0, encoded.context_length - 1 : -1]
            logprobs = torch.log_softmax(logits, -1)
        assert logprobs.dtype == torch.float64
        total = logprobs.gather(1, tokens[encoded.context_length :, None]).sum().item()
        scored.append([*where[request], total])
    write_report(args, scored)


if __name__ == "__main__":
    run_sides(__doc__, {"ours": ours, "lm_eval": lm_eval, "reference": reference}, way="lm_eval: batch size")
