"""KL divergence of a model from a base model, on the model's own samples: how far training has moved it.

At each position of a sample the divergence of the two distributions of the next token is computed over the whole
vocabulary, so that only the positions are random (Rao-Blackwellised, as in arXiv 2504.10637). The log-ratio of the
sampled tokens, whose expectation is the same, is reported beside it.
"""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from alignbench.errors import AlignbenchError
from alignbench.tasks.declare import generation_task
from alignbench.tasks.token_entropy import POSITIONS, load_instructions
from alignbench.types.record import Document, Output
from alignbench.types.task import Task

KL = "kl"


def check_sampling(task: Task) -> None:
    """Raise AlignbenchError unless the task samples from the model's own distribution."""
    sampling = task.generation.sampling if task.generation else None
    if sampling and (sampling.temperature, sampling.top_p, sampling.top_k) != (1, 1, 0):
        raise AlignbenchError(f"task {KL}: samples are of temperature 1 without top_p and top_k; leave these settings")


def numbers_of(exact: NDArray[np.float64], sampled: NDArray[np.float64]) -> dict[str, float]:
    """What a record keeps of one sample. exact, sampled: (tokens,) in nats

    kl, kl_sampled: sums over the tokens; kl_9_16, …: means over the positions that the sample reaches
    """
    found = {"kl": float(exact.sum()), "kl_sampled": float(sampled.sum()), "tokens": float(len(exact))}
    for first, last in POSITIONS:
        if len(exact) >= first:
            name = f"kl_{first}" if first == last else f"kl_{first}_{last}"
            found[name] = float(exact[first - 1 : last].mean())
    return found


def score_samples(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    """Means over the samples; a range of positions over those that reach it. kl_per_token: of all their tokens"""
    numbers = [output.scores.get(KL, {}) for output in outputs]
    # unscored: the metrics that every sample has
    means = dict.fromkeys(("kl", "kl_sampled", "tokens"), math.nan)
    for name in dict.fromkeys(name for own in numbers for name in own):
        means[name] = float(np.mean([own[name] for own in numbers if name in own]))
    return means | {"kl_per_token": means["kl"] / means["tokens"]}


TASKS = (generation_task(KL, partial(load_instructions, KL), score_samples),)
