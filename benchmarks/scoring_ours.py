"""Measured process: score one case with alignbench's local engine and write what came out as JSON."""

from __future__ import annotations

import time

STARTED = time.perf_counter()  # before the imports, which are part of a run

import argparse  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
from scoring_cases import mean_metrics, read_case  # noqa: E402
from scoring_rate import measure_gflops  # noqa: E402

from alignbench.models.checkpoint import find_checkpoint, load_engine  # noqa: E402
from alignbench.types.engine import Request  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--case", type=Path, required=True, help="folder that scoring.py has written")
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    case = read_case(args.case)
    notes: list[str] = []
    checkpoint = find_checkpoint(args.model)
    engine = load_engine(checkpoint, dtype=args.dtype, device="cpu", notify=notes.append)

    warm_up_started = time.perf_counter()
    with torch.inference_mode():
        engine.model(torch.arange(1, 9)[None])
    warm_up = time.perf_counter() - warm_up_started

    scoring_started = time.perf_counter()
    requests = {
        task: [[Request(d.context, continuation) for continuation in d.continuations] for d in documents]
        for task, documents in case.items()
    }
    unique = list(dict.fromkeys(r for documents in requests.values() for rs in documents for r in rs))
    answers = {unique[index]: answer for index, answer in engine.loglikelihood(unique)}
    seconds = time.perf_counter() - scoring_started

    logprobs = {
        task: [[answers[request].logprob for request in rs] for rs in documents] for task, documents in requests.items()
    }
    metrics = mean_metrics(case, logprobs)
    whole = time.perf_counter() - STARTED - warm_up
    tokens = {"asked": engine.tokens_asked, "computed": engine.tokens_computed}
    report = {
        "seconds": seconds,
        "whole_seconds": whole,
        "logprobs": logprobs,
        "metrics": metrics,
        "tokens": tokens
        | {"longest": max(len(e.tokens) for e in engine.encoder.pairs(unique) if not isinstance(e, str))},
        "unique_requests": len(unique),
        "layout": engine.layout,
        "notes": notes,
        "parameters": engine.model.num_parameters(),
        "vocabulary": engine.model.config.vocab_size,
        "gflops": measure_gflops(engine.model),
        "threads": torch.get_num_threads(),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "model": checkpoint.name,
        "weights_sha256": checkpoint.weights_sha256,
    }
    args.output.write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main()
