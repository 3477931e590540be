"""Score the same requests with alignbench and with lm-evaluation-harness: first equality, then speed.

Each measurement is a fresh process of one thread (scoring_sides.py); the two take turns. README.md says what is
measured.
"""

import math
import sys
from argparse import Namespace
from pathlib import Path
from statistics import fmean
from typing import Any

from harness import (
    Report,
    find_lm_eval,
    interleave,
    lm_eval_arguments,
    medians,
    print_checks,
    print_table,
    run_cases,
    run_side,
)
from scoring_cases import CASES, CONTINUOUS, Document, document_metrics, read_case, write_case

# Largest difference of a choice's log-probability in fp32: relative, and in nats
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 5e-5, 1e-3


def main() -> None:
    parser = lm_eval_arguments(__doc__, CASES)
    parser.add_argument("--reference-choices", type=int, default=40, help="choices to score in fp64 too; 0: none")
    print_results(run_cases(parser.parse_args(), run_case))


def run_case(name: str, folder: Path, args: Namespace) -> Report:
    """Equality in every pair of runs, then the fp64 reference, then medians. Stops if the sides do not agree."""
    count, lm_eval_tasks = args.number or CASES[name].documents, find_lm_eval(args.peer_python)
    write_case(CASES[name].build(args.data, count, args.seed), folder, lm_eval_tasks)
    case = read_case(folder)

    def run(side: str, **options: Any) -> Any:
        peer = side == "lm_eval"
        python = args.peer_python if peer else sys.executable
        options |= {"model": args.model.resolve(), "dtype": args.dtype}
        return run_side(python, "scoring_sides.py", side, folder, peer=peer, **options)

    sizes = args.batch_sizes or [CASES[name].batch_size]
    tried = {size: run("lm_eval", batch_size=size)["seconds"] for size in sizes if len(sizes) > 1}
    batch_size = min(sizes, key=lambda size: tried.get(size, 0))
    sides = {"ours": lambda _: run("ours"), "lm_eval": lambda _: run("lm_eval", batch_size=batch_size)}
    ours, peers, equality = [], [], Report()
    for pair in interleave(sides, args.pairs):
        ours.append(pair["ours"])
        peers.append(pair["lm_eval"])
        found = compare(case, pair["ours"], pair["lm_eval"], args.dtype)
        if len(ours) == 1 or not found["passed"]:
            print_equality(found)
        if not found["passed"]:
            return {"passed": False, "equality": found}
        equality = found | {k: max(found[k], equality.get(k, 0)) for k in ("max_relative", "max_absolute")}
    reference = run("reference", choices=args.reference_choices) if args.reference_choices else []
    about = {"passed": True, "documents": count, "batch_size": batch_size, "seconds_by_batch_size": tried}
    return about | {"equality": equality} | summarise(ours, peers, reference)


# Equality


def compare(case: dict[str, list[Document]], ours: Report, peer: Report, dtype: str) -> Report:
    """The same requests, the same decisions in each document, and log-probabilities within the tolerances.

    In bfloat16 the two round differently: only the requests and lm-eval's own metrics can be the same.
    """
    requests = {task: [[[d.context, c] for c in d.continuations] for d in ds] for task, ds in case.items()}
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
        "the same requests": requests == peer["requests"],
        "every choice scored": unscored == 0,
        "lm-eval's metrics follow from its log-probabilities": all(
            abs(m["lm_eval"] - m["reported"]) < 1e-9 for m in metrics.values()
        ),
    }
    if dtype == "float32":
        close = all(abs(m["ours"] - m["lm_eval"]) <= ABSOLUTE_TOLERANCE for m in metrics.values())
        checks |= {
            "the same decision in every document": not differing,
            "the same metrics": close,
            f"relative difference within {RELATIVE_TOLERANCE:g}": relative <= RELATIVE_TOLERANCE,
            f"absolute difference within {ABSOLUTE_TOLERANCE:g}": absolute <= ABSOLUTE_TOLERANCE,
        }
    found = {"checks": checks, "metrics": metrics, "max_relative": relative, "max_absolute": absolute}
    return found | {"passed": all(checks.values()), "differing": differing}


def print_equality(equality: Report) -> None:
    print_checks(equality["checks"])
    for metric, values in equality["metrics"].items():
        print(f"  {metric}: " + ", ".join(f"{side} {value:.6f}" for side, value in values.items()))
    print(
        f"  log-probabilities differ by at most {equality['max_relative']:.2g} (relative), "
        f"{equality['max_absolute']:.2g} nats; decisions differ in {len(equality['differing'])} documents",
        flush=True,
    )


# Speed


def summarise(ours: list[Report], peers: list[Report], reference: list[Any]) -> Report:
    """Medians, their ratio, both relative to the arithmetic floor of the tokens that our tree computes, fp64 errors."""
    first = ours[0]
    gflops = max(report["gflops"] for report in ours + peers)
    floor = first["tokens"]["computed"] * 2 * first["parameters"] / (gflops * 1e9)
    sides: Report = {}
    for side, reports in (("ours", ours), ("lm_eval", peers)):
        scores = reports[0]["logprobs"]
        errors = [abs(scores[task][document][choice] - exact) for task, document, choice, exact in reference]
        sides[side] = medians(reports, "seconds", "whole_seconds", "load_before", "peak_gib") | {
            "tokens": reports[0]["tokens"],
            "repeats_identical": all(report["logprobs"] == scores for report in reports),
            "fp64_error": {"mean": fmean(errors), "max": max(errors)} if errors else None,
        }
        sides[side]["times_floor"] = sides[side]["seconds"] / floor
    own, peer = sides["ours"], sides["lm_eval"]
    print(f"  floor {floor:.2f} s at {gflops:.0f} GFLOP/s; lm-eval ÷ ours {peer['seconds'] / own['seconds']:.2f}")
    return sides | {
        "ratio": peer["seconds"] / own["seconds"],
        "whole_ratio": peer["whole_seconds"] / own["whole_seconds"],
        "floor_seconds": floor,
        "gflops": gflops,
        **{key: first[key] for key in ("unique_requests", "model", "weights_sha256", "layout", "notes")},
    }


def print_results(results: Report) -> None:
    """The README's table, one row per case."""
    header = ["case", "dtype", "distinct requests", "lm-eval", "ours", "ratio", "ratio of whole runs"]
    header += ["times the floor: lm-eval, ours", "largest difference: relative, nats"]
    rows = []
    for name, case in results["cases"].items():
        ours, peer, equality = case["ours"], case["lm_eval"], case["equality"]
        errors = [side["fp64_error"] for side in (peer, ours)]
        rows.append(
            [
                name,
                results["settings"]["dtype"],
                f"{case['unique_requests']:,}",
                f"{peer['seconds']:.1f} s (batch {case['batch_size']})",
                f"{ours['seconds']:.2f} s",
                f"{case['ratio']:.2f}×",
                f"{case['whole_ratio']:.2f}×",
                f"{peer['times_floor']:.2f}, {ours['times_floor']:.2f}",
                f"{equality['max_relative']:.1e}, {equality['max_absolute']:.1e}",
                f"{errors[0]['mean']:.1e}, {errors[1]['mean']:.1e}" if all(errors) else "–",
            ]
        )
    print_table([*header, "mean error against fp64: lm-eval, ours"], rows)


if __name__ == "__main__":
    main()
