"""Continue the same prompts with alignbench, lm-evaluation-harness and transformers: first equality, then speed.

Each measurement is a fresh process of one thread (generation_sides.py); the sides take turns. README.md says what is
measured.
"""

import json
import math
from argparse import Namespace
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import fmean, variance
from typing import Any

from generation_sides import CASES, Work, write_case
from harness import (
    Report,
    compare_sides,
    find_lm_eval,
    lm_eval_arguments,
    medians,
    print_equality,
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
    # the README's table
    print_table(row_of(name, args.dtype, case) for name, case in run_cases(args, run_case)["cases"].items())


def run_case(name: str, folder: Path, args: Namespace) -> Report:
    """The ways to run the peers, then interleaved runs with equality after each. Stops if the sides do not agree."""
    case = CASES[name]
    work = case.build(args.data, args.number or case.prompts, args.seed)
    write_case(work, folder)

    def run(side: str, number: int = 0, **options: Any) -> Any:
        return run_side(args, "generation_sides.py", side, folder, seed=args.seed + number, **options)

    ways = {"lm_eval": list(map(str, args.batch_sizes or [case.batch_size])), "hf": case.hf}
    summary, reports = compare_sides(run, ways, args.pairs, partial(compare, work, args.dtype))
    if not summary["passed"]:
        return summary
    if work.sampled:
        samples = {side: [report["tokens"] for report in of_side] for side, of_side in reports.items()}
        (folder / "samples.json").write_text(json.dumps(samples), encoding="utf-8")
        found = compare_samples(work, args.dtype, reports["ours"], run("reference"))
        print_equality(found)
        summary |= {"samples": found, "passed": all(found["checks"].values())}
    return summary | summarise(reports)


# Equality


def compare(work: Work, dtype: str, ours: Report, peers: Mapping[str, Report]) -> Report:
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
        sizes = {(len(group), len(tokens)) for group in report["tokens"] for tokens in group}
        wanted = (work.samples, work.max_tokens)
        checks["{}: {} samples of {} tokens".format(side, *wanted)] = sizes == {wanted}
    lines = [f"{side}: {same} of {len(own)} greedy continuations are as ours" for side, same in agreeing.items()]
    found = {"checks": checks, "lines": lines, "continuations": len(own)}
    return found | {"agreeing": agreeing, "differing": differing}


def compare_samples(work: Work, dtype: str, ours: list[Report], judged: Report) -> Report:
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
    lines = [
        f"{s}: {means[s]:.4f} nats per sampled token (standard error {errors[s]:.4f}), mass above at most {mass:.4f}"
        for s, mass in above.items()
    ]
    found = {"mean_logprob": means, "standard_error": errors, "standard_errors_apart": distances}
    found |= {"largest_mass_above": above, "largest_error_of_ours": error}
    return found | {"checks": checks, "lines": lines}


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


def row_of(name: str, dtype: str, case: Report) -> dict[str, object]:
    sides, ways, agreeing = case["sides"], case["ways"], case["equality"][0]["agreeing"]
    cells = {side: f"{sides[side]['seconds']:.1f} s ({way})" for side, way in ways.items()}
    return {
        "case": name,
        "dtype": dtype,
        "tokens: prompts, generated": f"{case['prompt_tokens']:,}, {case['written']:,}",
        "lm-eval": cells["lm_eval"],
        "transformers": cells.get("hf", "–"),
        "ours": f"{sides['ours']['seconds']:.2f} s",
        "lm-eval ÷ ours": f"{case['ratio']['lm_eval']:.2f}×",
        "transformers ÷ ours": f"{case['ratio']['hf']:.2f}×" if "hf" in sides else "–",
        "lm-eval ÷ ours, whole runs": f"{case['whole_ratio']['lm_eval']:.2f}×",
        "equal": f"{min(agreeing[side] for side in ways)} of {case['equality'][0]['continuations']}",
    }


if __name__ == "__main__":
    main()
