"""What token entropies cost: the same requests and the same samples with and without them, as a ratio of CPU times.

    OMP_NUM_THREADS=1 python benchmarks/entropy.py CHECKPOINT --data-dir DIR [--passages 20] [--dtype float32]

The best of several alternating rounds, in CPU seconds of this process, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import torch

from alignbench.models.checkpoint import find_checkpoint, load_engine
from alignbench.tasks import find_task
from alignbench.types.engine import Prompt, Request, Sampling
from alignbench.types.task import Options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--passages", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = find_checkpoint(given.checkpoint)
    engine = load_engine(checkpoint, dtype=given.dtype, device="cpu", token_budget=None, notify=print)
    documents = find_task("token_entropy").load(Options(data_dir=given.data_dir)).documents[: given.passages]
    plain = [Request("", document.choices[0]) for document in documents]
    described = [dataclasses.replace(request, entropies=True) for request in plain]
    prompts = [Prompt(document.id, document.choices[0][:200]) for document in documents]
    sampling = Sampling(max_tokens=32, temperature=1.0)
    with_top = dataclasses.replace(sampling, top_entropies=True)
    compare(
        "scoring",
        given.rounds,
        lambda: list(engine.loglikelihood(plain)),
        lambda: list(engine.loglikelihood(described)),
    )
    compare(
        "writing",
        given.rounds,
        lambda: list(engine.generate(prompts, sampling)),
        lambda: list(engine.generate(prompts, with_top)),
    )


def compare(what: str, rounds: int, without: Callable[[], object], with_them: Callable[[], object]) -> None:
    """Print the CPU seconds of both and their ratio."""
    without()  # the trial of the layout
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for own, work in zip(times, (without, with_them), strict=True):
            start = time.process_time()
            work()
            own.append(time.process_time() - start)
    plain, described = map(min, times)
    print(f"{what}: {plain:.2f} s without, {described:.2f} s with entropies: {described / plain:.3f} times")


if __name__ == "__main__":
    main()
