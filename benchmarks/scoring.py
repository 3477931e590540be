"""Score the same requests with alignbench and with lm-evaluation-harness: first equality, then speed.

Each measurement is a fresh process of one thread (scoring_sides.py); the two take turns. README.md says what is
measured.
"""

import math
from argparse import Namespace
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from harness import Report, compare_sides, find_lm_eval, lm_eval_arguments, medians, print_table, run_cases, run_side
from scoring_sides import CASES, CONTINUOUS, LM_EVAL_METRICS, Document, document_metrics, mean_metrics, write_case

# Largest difference of a choice's log-probability in fp32: relative, and in nats
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 5e-5, 1e-3


def main() -> None:
    parser = lm_eval_arguments(__doc__, CASES)
    parser.add_argument("--reference-choices", type=int, default=40, help="choices to score in fp64 too; 0: none")
    args = parser.parse_args()
    # the README's table
    print_table(row_of(name, args.dtype, case) for name, case in run_cases(args, run_case)["cases"].items())


def run_case(name: str, folder: Path, args: Namespace) -> Report:
    """Equality in every pair of runs, then the fp64 reference, then medians. Stops if the sides do not agree."""
    count = args.number or CASES[name].documents
    tasks = CASES[name].build(args.data, count, args.seed)
    write_case(tasks, folder, find_lm_eval(args.peer_python))
    case = {task.name: task.documents for task in tasks}

    def run(side: str, number: int = 0, **options: Any) -> Any:
        return run_side(args, "scoring_sides.py", side, folder, **options)

    ways = {"lm_eval": list(map(str, args.batch_sizes or [CASES[name].batch_size]))}
    summary, reports = compare_sides(run, ways, args.pairs, partial(compare, case, args.dtype))
    if not summary["passed"]:
        return summary
    choices = args.reference_choices
    reference = run("reference", dtype="float64", choices=choices) if choices else []
    return summary | {"documents": count} | summarise(reports, reference)


# Equality


def compare(case: dict[str, list[Document]], dtype: str, ours: Report, peers: Mapping[str, Report]) -> Report:
    """The same requests, the same decisions in each document, and log-probabilities within the tolerances.

    In bfloat16 the two round differently: only the requests and lm-eval's own metrics can be the same.
    """
    peer = peers["lm_eval"]
    requests = {task: [[[d.context, c] for c in d.continuations] for d in ds] for task, ds in case.items()}
    relative = absolute = 0.0
    unscored, differing = 0, []
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
    means = {side: mean_metrics(case, report["logprobs"]) for side, report in (("ours", ours), ("lm_eval", peer))}
    metrics = {}
    for name in means["ours"]:
        task, metric = name.split("/")
        reported = peer["reported"][task][f"{LM_EVAL_METRICS.get(metric, metric)},none"]
        metrics[name] = {side: of_side[name] for side, of_side in means.items()} | {"reported": reported}
    follows = all(abs(m["lm_eval"] - m["reported"]) < 1e-9 for m in metrics.values())
    checks = {
        "the same requests": requests == peer["requests"],
        "every choice scored": unscored == 0,
        "lm-eval's metrics follow from its log-probabilities": follows,
    }
    if dtype == "float32":
        close = all(abs(m["ours"] - m["lm_eval"]) <= ABSOLUTE_TOLERANCE for m in metrics.values())
        checks |= {
            "the same decision in every document": not differing,
            "the same metrics": close,
            f"relative difference within {RELATIVE_TOLERANCE:g}": relative <= RELATIVE_TOLERANCE,
            f"absolute difference within {ABSOLUTE_TOLERANCE:g}": absolute <= ABSOLUTE_TOLERANCE,
        }
    lines = [f"{n}: " + ", ".join(f"{side} {x:.6f}" for side, x in values.items()) for n, values in metrics.items()]
    lines.append(f"log-probabilities differ by at most {relative:.2g} (relative), {absolute:.2g} nats")
    lines.append(f"decisions differ in {len(differing)} documents")
    found = {"checks": checks, "lines": lines, "metrics": metrics, "differing": differing}
    return found | {"max_relative": relative, "max_absolute": absolute}


# Speed


def summarise(reports: Mapping[str, list[Report]], reference: list[Any]) -> Report:
    """Medians, their ratio, both relative to the arithmetic floor of the tokens that our tree computes, fp64 errors."""
    first = reports["ours"][0]
    gflops = max(report["gflops"] for runs in reports.values() for report in runs)
    floor = first["tokens"]["computed"] * 2 * first["parameters"] / (gflops * 1e9)
    sides: Report = {}
    for side, runs in reports.items():
        scores = runs[0]["logprobs"]
        errors = [abs(scores[task][document][choice] - exact) for task, document, choice, exact in reference]
        sides[side] = medians(runs, "seconds", "whole_seconds", "load_before", "peak_gib") | {
            "tokens": runs[0]["tokens"],
            "repeats_identical": all(report["logprobs"] == scores for report in runs),
            "fp64_error": {"mean": fmean(errors), "max": max(errors)} if errors else None,
        }
        sides[side]["times_floor"] = sides[side]["seconds"] / floor
    own, peer = sides["ours"], sides["lm_eval"]
    ratios = {f"{n}ratio": peer[f"{n}seconds"] / own[f"{n}seconds"] for n in ("", "whole_")}
    print(f"  floor {floor:.2f} s at {gflops:.0f} GFLOP/s; lm-eval ÷ ours {ratios['ratio']:.2f}")
    about = {key: first[key] for key in ("unique_requests", "model", "weights_sha256", "layout", "notes")}
    return sides | ratios | about | {"floor_seconds": floor, "gflops": gflops}


def row_of(name: str, dtype: str, case: Report) -> dict[str, object]:
    ours, peer = case["ours"], case["lm_eval"]
    errors = [side["fp64_error"] for side in (peer, ours)]
    relative, absolute = (max(e[key] for e in case["equality"]) for key in ("max_relative", "max_absolute"))
    return {
        "case": name,
        "dtype": dtype,
        "distinct requests": f"{case['unique_requests']:,}",
        "lm-eval": f"{peer['seconds']:.1f} s (batch {case['ways']['lm_eval']})",
        "ours": f"{ours['seconds']:.2f} s",
        "ratio": f"{case['ratio']:.2f}×",
        "ratio of whole runs": f"{case['whole_ratio']:.2f}×",
        "times the floor: lm-eval, ours": f"{peer['times_floor']:.2f}, {ours['times_floor']:.2f}",
        "largest difference: relative, nats": f"{relative:.1e}, {absolute:.1e}",
        "mean error against fp64: lm-eval, ours": ", ".join(f"{e['mean']:.1e}" if e else "–" for e in errors),
    }


if __name__ == "__main__":
    main()
