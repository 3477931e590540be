"""Measured process: score one case with lm-evaluation-harness and write what came out as JSON.

Runs in an environment of its own, which holds lm-eval and not alignbench.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()  # before the imports, which are part of a run

import argparse  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from lm_eval import simple_evaluate  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from scoring_cases import LM_EVAL_METRICS, mean_metrics, read_case  # noqa: E402
from scoring_rate import measure_gflops  # noqa: E402


class TimedHFLM(HFLM):  # type: ignore[misc]
    """lm-eval's transformers model with a clock around its scoring and a count of the tokens it computes."""

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--case", type=Path, required=True, help="folder that scoring.py has written")
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    case = read_case(args.case)
    lm = TimedHFLM(pretrained=args.model, dtype=args.dtype, batch_size=args.batch_size, device="cpu")

    warm_up_started = time.perf_counter()
    with torch.inference_mode():
        lm.model(torch.arange(1, 9)[None])
    warm_up = time.perf_counter() - warm_up_started

    results = simple_evaluate(
        model=lm,
        tasks=[f"bench_{task}" for task in case],
        task_manager=TaskManager(include_path=str(args.case)),
        log_samples=True,
        bootstrap_iters=0,
    )
    whole = time.perf_counter() - STARTED - warm_up

    samples = {task: sorted(results["samples"][f"bench_{task}"], key=lambda s: s["doc_id"]) for task in case}
    logprobs = {
        task: [[logprob for logprob, _ in sample["filtered_resps"]] for sample in of_task]
        for task, of_task in samples.items()
    }
    metrics = mean_metrics(case, logprobs)
    reported = {}
    for task, means in metrics.items():
        found = results["results"][f"bench_{task}"]
        reported[task] = {name: found[LM_EVAL_METRICS.get(name, name) + ",none"] for name in means}
    report = {
        "seconds": lm.seconds,
        "whole_seconds": whole,
        "logprobs": logprobs,
        "requests": {task: [sample["arguments"] for sample in of_task] for task, of_task in samples.items()},
        "metrics": metrics,
        "reported": reported,
        "tokens": {"computed": lm.tokens_computed},
        "all_requests": lm.requests,
        "batch_size": args.batch_size,
        "gflops": measure_gflops(lm.model),
        "threads": torch.get_num_threads(),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    args.output.write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main()
