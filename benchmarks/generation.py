"""Continue the same prompts with alignbench, lm-evaluation-harness and transformers: first equality, then speed.

Each measurement is a fresh process of one thread (generation_sides.py); the sides take turns. README.md says what is
measured.
"""

import json
import math
import sys
from argparse import Namespace
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import fmean, variance
from typing import Any

from generation_cases import CASES, Work, write_case
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

# Sampled: mean log-probabilities of two sides may be this many standard errors apart (by chance: 1 in 16,000); fp32
# log-probabilities and entropies that we report, in nats; probability mass above a token of the nucleus, beyond p
STANDARD_ERRORS, NATS, MASS = 4.0, 1e-3, 1e-4


def main() -> None:
    args = lm_eval_arguments(__doc__, CASES).parse_args()
    find_lm_eval(args.peer_python)
    print_results(run_cases(args, run_case))


def run_case(name: str, folder: Path, args: Namespace) -> Report:
    """The ways to run the peers, then interleaved runs with equality after each. Stops if the sides do not agree."""
    case = CASES[name]
    work = case.build(args.data, args.number or case.prompts, args.seed)
    write_case(work, folder)

    def run(side: str, number: int = 0, way: str | None = None) -> Report:
        peer = side == "lm_eval"
        python = args.peer_python if peer else sys.executable
        options = {"model": args.model.resolve(), "dtype": args.dtype, "seed": args.seed + number, "way": way}
        return run_side(python, "generation_sides.py", side, folder, peer=peer, **options)  # type: ignore[no-any-return]

    ways = {"lm_eval": [str(size) for size in args.batch_sizes or [case.batch_size]], "hf": case.hf}
    tried = {side: {way: run(side, way=way) for way in of if len(of) > 1} for side, of in ways.items()}
    best = {
        side: min(of, key=lambda way: tried[side].get(way, {}).get("seconds", 0)) for side, of in ways.items() if of
    }
    sides = {side: partial(run, side, way=best.get(side)) for side in ("ours", *best)}
    reports: dict[str, list[Report]] = {side: [] for side in sides}
    equality: list[Report] = []
    for runs in interleave(sides, args.pairs):
        for side, report in runs.items():
            reports[side].append(report)
        peers = {side: runs[side] for side in best}
        if not equality:  # what was tried must agree, too
            peers |= {f"{side} {way}": r for side, of in tried.items() for way, r in of.items() if way != best[side]}
        equality.append(compare(work, runs["ours"], peers, args.dtype))
        if len(equality) == 1 or not equality[-1]["passed"]:
            print_equality(equality[-1])
        if not equality[-1]["passed"]:
            return {"passed": False, "equality": equality}
    seconds = {side: {way: r["seconds"] for way, r in of.items()} for side, of in tried.items()}
    summary: Report = {"passed": True, "equality": equality, "ways": best, "seconds_by_way": seconds}
    if work.sampled:
        samples = {side: [report["tokens"] for report in of_side] for side, of_side in reports.items()}
        (folder / "samples.json").write_text(json.dumps(samples), encoding="utf-8")
        found = compare_samples(work, reports["ours"], run("reference"), args.dtype)
        print_equality(found)
        summary |= {"samples": found, "passed": found["passed"]}
    return summary | summarise(reports)


# Equality


def compare(work: Work, ours: Report, peers: Mapping[str, Report], dtype: str) -> Report:
    """The same prompts and the same greedy continuations, which in bfloat16 are only counted."""
    own = ours["greedy"] if work.sampled else [group[0] for group in ours["tokens"]]
    checks = {"every prompt continued": not ours["unscored"]}
    agreeing, differing = {}, []
    for side, peer in peers.items():
        theirs = peer["greedy"] if work.sampled else [group[0] for group in peer["tokens"]]
        same = 0
        for number, (a, b) in enumerate(zip(own, theirs, strict=True)):
            # a peer continues after the stop until its batch is finished
            is_same = list(a) == b[: len(a)] and (work.sampled or ours["texts"][number] == peer["texts"][number])
            same += is_same
            if not is_same:
                differing.append({"side": side, "prompt": number, "ours": list(a), "theirs": b[: len(a)]})
        agreeing[side] = same
        checks[f"{side}: the same number of prompt tokens"] = peer["prompt_tokens"] == ours["prompt_tokens"]
        if dtype == "float32":
            checks[f"{side}: the same greedy continuations"] = same == len(own)
    for side, report in {"ours": ours, **peers}.items() if work.sampled else ():
        lengths = {len(tokens) for group in report["tokens"] for tokens in group}
        shape = (lengths, {len(group) for group in report["tokens"]})
        checks[f"{side}: {work.samples} samples of {work.max_tokens} tokens"] = shape == (
            {work.max_tokens},
            {work.samples},
        )
    found = {"checks": checks, "continuations": len(own), "agreeing": agreeing, "differing": differing}
    return found | {"passed": all(checks.values())}


def compare_samples(work: Work, ours: list[Report], judged: Report, dtype: str) -> Report:
    """Compare the distributions of the samples: mean log-probability of a sampled token, and the nucleus.

    judged: side -> run -> prompt -> sample -> token -> (log-probability, mass above, entropy), by the stock model.
    Means are over prompts of means over samples; one observation is the mean over a sample's tokens.
    """
    means, errors, above = {}, {}, {}
    for side, runs in judged.items():
        of_prompt = [
            [fmean(token[0] for token in sample) for run in runs for sample in run[prompt]]
            for prompt in range(len(work.prompts))
        ]
        means[side] = fmean(map(fmean, of_prompt))
        errors[side] = math.sqrt(sum(variance(values) / len(values) for values in of_prompt)) / len(of_prompt)
        above[side] = max(token[1] for run in runs for prompt in run for sample in prompt for token in sample)
    distances = {s: (means[s] - means["ours"]) / math.hypot(errors[s], errors["ours"]) for s in judged if s != "ours"}
    error = max(
        abs(value - token[column])
        for key, column in (("logprobs", 0), ("entropies", 2))
        for run, judged_run in zip(ours, judged["ours"], strict=True)
        for group, judged_group in zip(run[key], judged_run, strict=True)
        for values, tokens in zip(group, judged_group, strict=True)
        for value, token in zip(values, tokens, strict=True)
    )
    checks = {
        f"{side}: mean log-probability within {STANDARD_ERRORS:g} standard errors of ours": abs(z) <= STANDARD_ERRORS
        for side, z in distances.items()
    }
    if dtype == "float32":
        checks |= {f"{side}: all tokens in the nucleus": mass < work.top_p + MASS for side, mass in above.items()}
        checks[f"our log-probabilities and entropies within {NATS:g} nats"] = error <= NATS
    found = {"mean_logprob": means, "standard_error": errors, "standard_errors_apart": distances}
    found |= {"largest_mass_above": above, "largest_error_of_ours": error}
    return {"passed": all(checks.values()), "checks": checks} | found


def print_equality(equality: Report) -> None:
    print_checks(equality["checks"])
    for side, same in equality.get("agreeing", {}).items():
        print(f"  {side}: {same} of {equality['continuations']} greedy continuations are the same as ours")
    for side, mean in equality.get("mean_logprob", {}).items():
        print(
            f"  {side}: {mean:.4f} nats per sampled token (standard error {equality['standard_error'][side]:.4f}), "
            f"mass above at most {equality['largest_mass_above'][side]:.4f}"
        )
    print(end="", flush=True)


# Speed


def summarise(reports: dict[str, list[Report]]) -> Report:
    names = ("seconds", "whole_seconds", "gflops", "load_before", "peak_gib", "tokens_computed")
    sides = {side: medians(runs, *names) for side, runs in reports.items()}
    first, own, peers = reports["ours"][0], sides["ours"], [side for side in sides if side != "ours"]
    finishes = {kind: sum(group.count(kind) for group in first["finishes"]) for kind in ("stop", "end", "length")}
    written = sum(len(tokens) for group in first["tokens"] for tokens in group)
    print(f"  {first['prompt_tokens']} prompt tokens, {written} generated, {finishes}")
    found: dict[str, Any] = {"sides": sides, "written": written, "finishes": finishes}
    for name, key in (("ratio", "seconds"), ("whole_ratio", "whole_seconds")):
        found[name] = {side: sides[side][key] / own[key] for side in peers}
    print("  " + ", ".join(f"{side} ÷ ours {ratio:.2f}" for side, ratio in found["ratio"].items()), flush=True)
    return found | {key: first[key] for key in ("prompt_tokens", "layout", "notes", "model", "weights_sha256")}


def print_results(results: Report) -> None:
    """The README's table, one row per case."""
    header = ["case", "dtype", "tokens: prompts, generated", "lm-eval", "transformers", "ours", "lm-eval ÷ ours"]
    rows = []
    for name, case in results["cases"].items():
        sides, ways, agreeing = case["sides"], case["ways"], case["equality"][0]["agreeing"]
        cells = {side: f"{sides[side]['seconds']:.1f} s ({way})" for side, way in ways.items()}
        rows.append(
            [
                name,
                results["settings"]["dtype"],
                f"{case['prompt_tokens']:,}, {case['written']:,}",
                cells["lm_eval"],
                cells.get("hf", "–"),
                f"{sides['ours']['seconds']:.2f} s",
                f"{case['ratio']['lm_eval']:.2f}×",
                f"{case['ratio']['hf']:.2f}×" if "hf" in sides else "–",
                f"{case['whole_ratio']['lm_eval']:.2f}×",
                f"{min(agreeing[side] for side in ways)} of {case['equality'][0]['continuations']}",
            ]
        )
    print_table([*header, "transformers ÷ ours", "lm-eval ÷ ours, whole runs", "equal"], rows)


if __name__ == "__main__":
    main()
