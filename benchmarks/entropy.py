"""The cost of token entropies: the same requests and samples with and without them, as a ratio of CPU times.

    OMP_NUM_THREADS=1 python benchmarks/entropy.py CHECKPOINT --data-dir DIR [--passages 20] [--dtype float32]

The best of several interleaved rounds, in CPU seconds of this process, so that other work on the machine has little
effect.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import torch
from harness import arguments, interleave

from alignbench.models.checkpoint import find_checkpoint, load_engine
from alignbench.tasks import find_task
from alignbench.types.engine import Prompt, Request, Sampling
from alignbench.types.task import Options


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--passages", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    torch.set_num_threads(1)
    engine = load_engine(find_checkpoint(args.checkpoint), dtype=args.dtype, device="cpu", notify=print)
    documents = find_task("token_entropy").load(Options(data_dir=args.data_dir)).documents[: args.passages]
    plain = [Request("", document.choices[0]) for document in documents]
    with_entropies = [dataclasses.replace(request, entropies=True) for request in plain]
    prompts = [Prompt(document.id, document.choices[0][:200]) for document in documents]
    sampling = Sampling(max_tokens=32, temperature=1.0)
    with_top = dataclasses.replace(sampling, top_entropies=True)

    def cpu_seconds(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    for what, without, also in (
        ("scoring", lambda: list(engine.loglikelihood(plain)), lambda: list(engine.loglikelihood(with_entropies))),
        (
            "generation",
            lambda: list(engine.generate(prompts, sampling)),
            lambda: list(engine.generate(prompts, with_top)),
        ),
    ):
        without()  # includes the trial of the layout
        sides = {"without": lambda _, work=without: cpu_seconds(work), "with": lambda _, work=also: cpu_seconds(work)}
        rounds = list(interleave(sides, args.rounds))
        a, b = (min(found[side] for found in rounds) for side in sides)
        print(f"{what}: {a:.2f} s without, {b:.2f} s with entropies: {b / a:.3f} times")


if __name__ == "__main__":
    main()
