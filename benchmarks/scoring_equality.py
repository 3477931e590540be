"""Whether two reports of one case agree, and which of them is nearer to fp64."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

from scoring_cases import CONTINUOUS, Document, document_metrics

# Largest difference of a choice's log-probability in fp32: relative, and in nats
RELATIVE_GATE, ABSOLUTE_GATE = 5e-5, 1e-3
Report = dict[str, Any]


def compare(case: dict[str, list[Document]], ours: Report, peer: Report, dtype: str) -> Report:
    """The same requests, the same decisions in each document, and log-probabilities within the gates.

    In bfloat16 the two round differently: nothing but the requests and lm-eval's own metrics can be the same.
    """
    spelled = {task: [[[d.context, c] for c in d.continuations] for d in ds] for task, ds in case.items()}
    relative = absolute = 0.0
    unscored = 0
    differing = []
    for task, documents in case.items():
        for number, document in enumerate(documents):
            a, b = ours["logprobs"][task][number], peer["logprobs"][task][number]
            if not all(map(math.isfinite, a + b)):
                unscored += 1
                continue
            for x, y in zip(a, b, strict=True):
                absolute = max(absolute, abs(x - y))
                relative = max(relative, abs(x - y) / (abs(y) or 1e-9))
            in_a, in_b = (document_metrics(task, document, scores) for scores in (a, b))
            if any(in_a[metric] != in_b[metric] for metric in in_a if metric not in CONTINUOUS):
                differing.append({"task": task, "document": number, "ours": a, "lm_eval": b})
    metrics = {
        f"{task}/{metric}": {"ours": value, "lm_eval": peer["metrics"][task][metric], "reported": reported}
        for task, means in ours["metrics"].items()
        for metric, value in means.items()
        for reported in [peer["reported"][task][metric]]
    }
    checks = {
        "the same requests": spelled == peer["requests"],
        "every choice scored": unscored == 0,
        "lm-eval reports what its log-probabilities give": all(
            abs(m["lm_eval"] - m["reported"]) < 1e-9 for m in metrics.values()
        ),
    }
    if dtype == "float32":
        checks |= {
            "the same decision in every document": not differing,
            "the same metrics": all(abs(m["ours"] - m["lm_eval"]) <= ABSOLUTE_GATE for m in metrics.values()),
            f"relative difference within {RELATIVE_GATE:g}": relative <= RELATIVE_GATE,
            f"absolute difference within {ABSOLUTE_GATE:g}": absolute <= ABSOLUTE_GATE,
        }
    return {
        "passed": all(checks.values()),
        "checks": checks,
        "metrics": metrics,
        "max_relative": relative,
        "max_absolute": absolute,
        "differing": differing,
    }


def compare_with_fp64(reference: list[Any], ours: Report, peer: Report) -> Report:
    """Mean and largest error of both sides over the choices that were scored in fp64 too."""
    found: Report = {"choices": len(reference)}
    for side, report in (("ours", ours), ("lm_eval", peer)):
        scores = report["logprobs"]
        errors = [abs(scores[task][document][choice] - exact) for task, document, choice, exact in reference]
        found[side] = {"mean": fmean(errors), "max": max(errors)}
    found["nearer"] = min(("ours", "lm_eval"), key=lambda side: float(found[side]["mean"]))
    return found


def print_equality(equality: Report) -> None:
    for check, passed in equality["checks"].items():
        print(f"  {'ok    ' if passed else 'FAILED'} {check}")
    for metric, values in equality["metrics"].items():
        print(f"  {metric}: " + ", ".join(f"{side} {value:.6f}" for side, value in values.items()))
    print(
        f"  log-probabilities differ by at most {equality['max_relative']:.2g} (relative), "
        f"{equality['max_absolute']:.2g} nats; decisions differ in {len(equality['differing'])} documents",
        flush=True,
    )
