"""KL divergence of a model from a base model, on the model's own samples: how far training has moved it.

At each position of a sample the divergence of the two distributions of the next token is computed over the whole
vocabulary, so that only the positions are random (Rao-Blackwellised, as in arXiv 2504.10637). The log-ratio of the
sampled tokens, whose expectation is the same, is reported beside it.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from alignbench.data.load import Row
from alignbench.errors import AlignbenchError
from alignbench.tasks.common import load_documents, load_prompts, parse_instruction
from alignbench.tasks.declare import generation_task
from alignbench.tasks.token_entropy import DOCUMENTS, POSITIONS, evenly, suffix_of
from alignbench.types.record import Document, Output
from alignbench.types.task import Options, Task, TaskData

KL = "kl"


def check_sampling(task: Task) -> None:
    """Raise AlignbenchError unless the task samples from the model's own distribution."""
    sampling = task.generation.sampling if task.generation else None
    if sampling and (sampling.temperature, sampling.top_p, sampling.top_k) != (1, 1, 0):
        raise AlignbenchError(f"task {KL}: samples are of temperature 1 without top_p and top_k; leave these settings")


def load_instructions(options: Options) -> TaskData:
    """100 of Self-Instruct's 252 at even distances, in two categories: with and without an input; or all of the user's
    file."""
    if options.prompts is not None:
        return load_prompts(KL, options)
    data = load_documents("self_instruct", "user_oriented", _with_category, options)
    return replace(data, documents=evenly(data.documents, DOCUMENTS))


def _with_category(row: Row) -> Document:
    given = bool(row["instances"][0]["input"].strip())
    return replace(parse_instruction(row), category="with an input" if given else "without an input")


def numbers_of(output: Output) -> dict[str, float]:
    """Numbers of one sample in nats; none if it was not compared.

    kl, kl_sampled: sums over the tokens; kl_9_16, …: means over the positions that the sample reaches
    """
    if not output.divergences:
        return {}
    found = {"kl": sum(output.divergences), "kl_sampled": sum(output.log_ratios)}
    found |= {"tokens": float(len(output.divergences))}
    for first, last in POSITIONS:
        if reached := output.divergences[first - 1 : last]:
            found[f"kl{suffix_of(first, last)}"] = float(np.mean(reached))
    return found


def score_samples(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    """Means over the samples; a range of positions over those that reach it. kl_per_token: of all their tokens

    NaN if a sample was not compared."""
    numbers = list(map(numbers_of, outputs))
    # unscored: the metrics that every sample has
    means = dict.fromkeys(("kl", "kl_sampled", "tokens"), math.nan)
    for name in dict.fromkeys(name for own in numbers for name in own):
        means[name] = float(np.mean([own[name] for own in numbers if name in own])) if all(numbers) else math.nan
    return means | {"kl_per_token": means["kl"] / means["tokens"]}


TASKS = (generation_task(KL, load_instructions, score_samples),)
