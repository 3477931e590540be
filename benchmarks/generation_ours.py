"""Measured process: continue one case's prompts with alignbench's local engine and write what came out as JSON."""

from __future__ import annotations

import time

STARTED = time.perf_counter()  # before the imports, which are part of a run

import argparse  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
from generation_cases import Work, read_case  # noqa: E402
from scoring_rate import measure_gflops  # noqa: E402

from alignbench.models.checkpoint import find_checkpoint, load_engine  # noqa: E402
from alignbench.models.local import LocalEngine  # noqa: E402
from alignbench.models.local import engine as local_engine  # noqa: E402
from alignbench.types.engine import Completion, Prompt, Sampling  # noqa: E402


def write(engine: LocalEngine, work: Work, sampled: bool, seed: int) -> list[tuple[Completion, ...]]:
    """The continuations of each prompt."""
    prompts = [Prompt(str(number), text) for number, text in enumerate(work.prompts)]
    stop = (work.stop,) if work.stop else ()
    if sampled:
        sampling = Sampling(work.max_tokens, work.samples, temperature=1.0, top_p=work.top_p, stop=stop)
    else:
        sampling = Sampling(work.max_tokens, stop=stop)
    answers = dict(engine.generate(prompts, sampling, seed=seed))
    return [answers[number] for number in range(len(prompts))]


def without_end_tokens() -> None:
    """The end-of-sequence token becomes one like any other, as `eos_token_id = None` does for transformers."""
    local_engine.end_tokens = lambda model, tokenizer: frozenset()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--case", type=Path, required=True, help="folder that generation.py has written")
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    work = read_case(args.case)
    notes: list[str] = []
    checkpoint = find_checkpoint(args.model)
    engine = load_engine(checkpoint, dtype=args.dtype, device="cpu", notify=notes.append)
    if work.stop is None:
        without_end_tokens()

    warm_up_started = time.perf_counter()
    with torch.inference_mode():
        engine.model(torch.arange(1, 9)[None])
    warm_up = time.perf_counter() - warm_up_started

    started = time.perf_counter()
    completions = write(engine, work, work.sampled, args.seed)
    seconds = time.perf_counter() - started
    whole = time.perf_counter() - STARTED - warm_up
    did = engine.work()
    report = {
        "seconds": seconds,
        "whole_seconds": whole,
        "texts": [[completion.text for completion in group] for group in completions],
        "tokens": [[completion.tokens for completion in group] for group in completions],
        "finishes": [[completion.finish for completion in group] for group in completions],
        "unscored": sum(completion.unscored is not None for group in completions for completion in group),
        "prompt_tokens": sum(map(len, engine.encoder.tokenizer(work.prompts)["input_ids"])),
        "tokens_computed": did["tokens_computed"],
        "layout": did["layout"],
        "notes": notes,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "threads": torch.get_num_threads(),
        "gflops": measure_gflops(engine.model),
        "model": checkpoint.name,
        "weights_sha256": checkpoint.weights_sha256,
    }
    if work.sampled:
        report["logprobs"] = [[completion.logprobs for completion in group] for group in completions]
        report["entropies"] = [[completion.entropies for completion in group] for group in completions]
        report["greedy"] = [group[0].tokens for group in write(engine, work, sampled=False, seed=args.seed)]
    args.output.write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main()
