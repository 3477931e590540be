"""Run folders, tables of labels and training folders with synthetic values for the tests of the report."""

import json
import math
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from unittest import mock

import audit_runs
import numpy as np
from audit_runs import OUTPUT, N, around, shares, weights_of, write_run
from cases import cases

import reports.evidence
from alignbench.runs.read import read_runs
from alignbench.scorers.embeddings import HashedEmbedder
from alignbench.tasks import find_task
from reports.evidence import Evidence, System, gather

BASE = [("base", "base")]
SFT = [*BASE, ("sft", "sft")]
DATA = cases("report")
NASTY, NAMES, NATIONS, WORDS = (DATA[name] for name in ("nasty", "names", "nations", "words"))
MARKUP, ARABIC, LONG = DATA["texts"]["markup"], DATA["texts"]["arabic"], "word" * 25_000
TEXTS = (*DATA["texts"].values(), LONG)
HASHED = {"kind": "embedding", "name": "hashed", "revision": HashedEmbedder().revision}
TEXTBLOB = {"kind": "sentiment", "name": "textblob", "revision": "0.20.1"}
JUDGE = {"kind": "preference", "name": "reward:judge", "revision": "1" * 12}
AGAINST_BASE = {"baseline": {"name": "base"}}
PROMPT_TOXICITIES = [row / N for row in range(N)]


def model(out, name, *tasks, lineage=(), stage="", intervals=False, **fields):
    """Write a run whose name may be any text. stage: of the last training, None for a model without a recipe; fields:
    of run.json; intervals: also of the metrics of diversity, which take longer than everything else here"""
    with mock.patch.object(audit_runs, "find_task", find_task if intervals else _find_task_without_intervals):
        path = write_run(out, name.replace("/", ""), *tasks, lineage=lineage)
    run = json.loads((path / "run.json").read_text())
    run["model"]["name"] = name
    if stage is not None:
        run["lineage"] = run["lineage"] or [{"stage": "base", "name": name, "weights_sha256": weights_of(name)}]
        run["lineage"][-1]["stage"] = stage or run["lineage"][-1]["stage"]
    (path / "run.json").write_text(json.dumps(run | fields))
    return path


def _find_task_without_intervals(name):
    task = find_task(name)
    if task.corpus is None or name == "win_rate":
        return task
    compute = task.corpus.compute
    return replace(task, corpus=replace(task.corpus, compute=lambda records, _: compute(records, False)))


def ppo(beta=0.02, gamma=0.0, episodes=512):
    return {"rewards": ["r"], "kl": 5.0, "beta": beta, "gamma": gamma, "episodes": episodes}


def evidence_of(*folders):
    """Evidence without an audit."""
    runs = read_runs([str(folder) for folder in folders], Path())
    return Evidence(tuple(System(run.name, run, run.tasks) for run in runs))


def gather_once(*paths):
    """Evidence with a single audit, without the tasks whose corpus metrics take long."""
    compare = partial(reports.evidence.compare_with, tasks=("hellaswag", "rte", "drop", "crows_pairs", "win_rate"))
    with mock.patch.multiple(reports.evidence, MOST_REFERENCES=0, compare_with=compare):
        return gather(list(paths))


def tax_tasks(skill, few=False):
    """Tasks with a tax. few: also RTE with 10 examples."""
    tasks = [
        ("hellaswag", {"acc": shares(0.4 + skill), "acc_norm": shares(0.45 + skill)}, {}),
        ("rte", {"acc": shares(0.6 - skill)}, {}),
        ("drop", {"f1": around(0.3 + skill), "em": shares(0.2)}, {}),
    ]
    return [*tasks, ("rte", {"acc": shares(0.7 - skill)}, {"shots": 10})] if few else tasks


def contest(rate, baseline="sft-large"):
    """Win rates of exactly this value; lengths are independent of who wins."""
    differences = np.random.default_rng(3).normal(size=N).round(3) * 50
    values = {"win_rate": shares(rate), "length_difference": differences.tolist(), "words": [30.0] * N}
    values |= {"baseline_words": [20.0] * N, "longer": shares(0.7), "agrees_with_longer": shares(0.8)}
    values |= {"position_consistency": shares(0.9)}
    versus = {"name": baseline, "folder": "answers-1", "template": "none"}
    sha256 = f"{baseline:0<64}"[:64]
    return "win_rate", values, {"scorers": [JUDGE], "baseline": versus, "documents_sha256": sha256}


def judged_truth(rate):
    scorers = [{"kind": kind, "name": f"lm:{kind}", "revision": "1"} for kind in ("truth", "info")]
    true = shares(rate)
    values = {"true": true, "true_and_info": [a * b for a, b in zip(true, reversed(shares(0.7)), strict=True)]}
    prompts = ("", "_instruction", "_qa_instruction")
    return [(f"truthfulqa_generation{prompt}", values, {"scorers": scorers}) for prompt in prompts]


def toxic(variant, mean, scorer="words"):
    name = "real_toxicity_instructgpt" + ("" if variant == "basic" else f"_{variant}")
    columns = [{"target": {"prompt_toxicity": own}, "outputs": [{"text": "text"}]} for own in PROMPT_TOXICITIES]
    values = {"toxicity_greedy": (mean * np.array(PROMPT_TOXICITIES)).tolist()}
    return name, values, {"columns": columns, "scorers": [{"kind": "toxicity", "name": scorer, "revision": "1"}]}


def bias(benchmark, entropy, stereotype=None):
    columns = [{"target": {"bls_pct_female": float(row), "occupation": f"job {row}"}} for row in range(N)]
    values = {"entropy": (entropy + 0.2 * np.sin(np.arange(N))).tolist()}
    values |= {"gender_gap": [0.0] * N} if benchmark.startswith("winogender") else {}
    values |= {} if stereotype is None else {"pct_stereotype": shares(stereotype)}
    return benchmark, values, {"columns": columns}


def personas(seed, n=60, narrow=1.0):
    """Personas in the format of the task. narrow: 1 is uniform, larger values favour the first names and nations."""
    random = np.random.default_rng(seed)

    def pick(values):
        return values[int(len(values) * random.random() ** narrow)]

    people = [
        {"name": [f"{pick(NAMES)} moreau"], "gender": [pick(("female", "male", "non-binary"))],
         "age": [str(18 + int(60 * random.random()))], "nationality": [pick(NATIONS)],
         "review": ["It makes coffee."], "probability": [None]}
        for _ in range(n)
    ]  # fmt: skip
    columns = [{"statistics": person, "outputs": [{"text": "Name: …"}]} for person in people]
    sentiment = np.clip(random.normal(0.1 * narrow, 0.3, n), -1, 1).round(3).tolist()
    values = {"parse_failure": [0.0] * n, "sentiment": sentiment}
    return "personas", values, {"columns": columns, "scorers": [TEXTBLOB]}


def recited(texts):
    """Recitations, every other one of a perturbed beginning."""
    kinds = [("plain", "perturbed")[row % 2] for row in range(len(texts))]
    columns = [{"category": kind, "outputs": [{"text": text}]} for kind, text in zip(kinds, texts, strict=True)]
    return "recitations", {"answer_rate": [1.0] * len(texts)}, {"columns": columns, "scorers": [HASHED]}


def recitations(seed, n=24, vocabulary=12, silent=0):
    """Texts of 30 words; the first `silent` are empty."""
    random = np.random.default_rng(seed)
    written = [" ".join(WORDS[int(vocabulary * random.random())] for _ in range(30)) for _ in range(n)]
    return recited([" "] * silent + written[silent:])


def on_policy(seed, n=25, tokens=12, scale=1.0):
    nats = (scale * np.random.default_rng(seed).gamma(2, 1, (n, tokens))).round(4)
    top = nats.clip(max=math.log(5)).tolist()
    columns = [
        {"outputs": [{"text": "text", "entropies": own, "top_entropies": capped}]}
        for own, capped in zip(nats.tolist(), top, strict=True)
    ]
    return "token_entropy_on_policy", {"entropy": (nats.mean(axis=1) / math.log(2)).tolist()}, {"columns": columns}


def shared_text(seed, n=25, tokens=130):
    nats = np.random.default_rng(seed).gamma(2, 1, (n, tokens)).round(4)
    columns = [{"choices": ["text"], "entropies": [own.tolist()], "top_entropies": [[0.5] * tokens]} for own in nats]
    return "token_entropy", {"entropy": (nats.mean(axis=1) / math.log(2)).tolist()}, {"columns": columns}


def rte(rate, n=N):
    values = shares(rate, n)
    question = {"choices": [" yes", " no"], "tokens": [1, 1], "target": {"label": 0}}
    columns = [
        {**question, "prompt": f"Question {row}. Is it so?", "category": ("even", "odd")[row % 2],
         "logprobs": [-1.5, -2.5] if value else [-2.5, -1.5]}
        for row, value in enumerate(values)
    ]  # fmt: skip
    return "rte", {"acc": values}, {"columns": columns}


def squad(rate, texts, n=N):
    """Three generated answers per document; f1 is zero or one."""
    columns = [
        {"prompt": f"Context {row}. Capital?", **wrote(texts[row % len(texts)], f"second {row}", f"third {row}")}
        for row in range(n)
    ]
    return "squad2", {"f1": shares(rate, n), "words": [float(row) for row in range(n)]}, {"columns": columns}


def wrote(*texts, **output):
    """Columns of a document with generated texts. output: fields of each output."""
    tokens = {"tokens": [1, 2, 3], "logprobs": [-0.25, -0.5, -0.75], "entropies": [0.1, 0.2, 0.3]}
    return {"outputs": [OUTPUT | tokens | {"text": text} | output for text in texts], "references": ["Paris"]}


def write_nasty_texts(out):
    """base, sft, ppo: ppo has a gain on rte and a loss on squad2; its texts could break a page."""
    base = write_run(out, "base", rte(0.5), squad(0.7, ["Paris", "London"]))
    sft = write_run(out, "sft", rte(0.55), squad(0.65, ["Paris is it"]), lineage=BASE)
    return [base, sft, write_run(out, "ppo", rte(0.8), squad(0.4, TEXTS), lineage=SFT)]


def labels(models, labelers=3, prompts=12, flags=("sexual",)):
    """The lines of a table of labels."""
    draw, lines = np.random.default_rng(0), []
    for prompt, labeler in product((f"prompt {number}" for number in range(prompts)), range(labelers)):
        for own, rank in zip(models, draw.permutation(len(models)) + 1, strict=True):
            who = {"labeler": f"labeler {labeler}", "group": "training" if labeler % 2 else "held-out"}
            what = {"prompt_id": prompt, "prompt": prompt, "model": own, "output": f"{own} says {prompt}"}
            said = {"rank": int(rank), "likert": int(draw.integers(1, 8))}
            said |= {"flags": {flag: bool(draw.random() < 0.3) for flag in flags}}
            lines.append(json.dumps(what | who | said) + "\n")
    return "".join(lines)


def training(folder, stage, lines, config="seed: 0\n"):
    """Write a training folder; stage: "" for one that is not finished."""
    (folder / "final").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.yaml").write_text(config)
    if stage:
        (folder / "final" / "recipe.json").write_text(json.dumps({"stage": stage}))
    return folder


def iterations(count):
    more = {"response_tokens": 30.0}
    return [{"step": n, "score": 0.1 * n, "kl": 0.2 * n, "entropy": 2 - 0.01 * n, **more} for n in range(1, count + 1)]


def every_task(number, diversity=True):
    """Tasks for all figures, or without those of diversity; `number` changes the values."""
    better = 0.3 + 0.04 * number
    diverse = [
        personas(number, narrow=1 + number / 4), recitations(number, vocabulary=12 - number % 9),
        on_policy(number, scale=1 / (1 + number / 6)), shared_text(number),
    ]  # fmt: skip
    return [
        contest(better), *judged_truth(better), *tax_tasks(0.05 * (number % 4), few=True),
        *(toxic(variant, 0.7 - 0.03 * number) for variant in ("basic", "respectful", "biased")),
        *(bias(f"{name}{variant}", 0.5) for name in ("winogender", "crows_pairs") for variant in ("", "_biased")),
        *(diverse if diversity else ()),
    ]  # fmt: skip
