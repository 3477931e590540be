"""Test whether a model can be scored on prefix trees, before the first batch.

With ALiBi, state-space models, and models that ignore a 4-D mask or position ids, a tree gives other numbers than
padded rows. Sliding windows and local attention do so only for sequences longer than the window (`attention_span`).
"""

from __future__ import annotations

import inspect

import numpy as np
import torch

from alignbench.errors import AlignbenchError
from alignbench.models.causal_lm import tolerance
from alignbench.models.encode import Tokens
from alignbench.models.local.forward import Forward, Prefix
from alignbench.models.local.tree import Tree, chain, grow_trees


def why_no_tree(forward: Forward, tokens: Tokens) -> str | None:
    """None if a small tree of these tokens gives the log-probabilities of padded rows, or else the reason.

    The tree has a cached prefix, a branch, and a second branch below it, like those of real batches. Raises
    AlignbenchError if the model attends to the tokens that it should predict.
    """
    model_type = forward.model.config.model_type
    tokens = np.resize(tokens, 12)
    prefix, trunk, a, b = tokens[:3], tokens[3:6], tokens[6:9], tokens[9:]
    first, second = np.concatenate([prefix, trunk, a]), np.concatenate([prefix, trunk, a[:1], b])
    probes = [first, second, np.concatenate([prefix, b, a])]
    distinct = list({probe.tobytes(): probe for probe in probes}.values())

    def logprobs(batch: list[Tree], skip: int, cached: Prefix | None) -> list[torch.Tensor]:
        """Of each probe: (tokens after the prefix, vocabulary), in nats."""
        paths = {s: (row, path[len(prefix) - skip :]) for row, t in enumerate(batch) for s, path in t.paths.items()}
        cells = [(row, int(node)) for row, path in paths.values() for node in path]
        found = torch.log_softmax(forward.logits(batch, cells, cached).float(), -1)
        parts = torch.split(found, [len(path) for _, path in paths.values()])
        return [part for _, part in sorted(zip(paths, parts, strict=True), key=lambda pair: pair[0])]

    def difference(one: torch.Tensor, other: torch.Tensor) -> float:
        return float((one - other).abs().mean())

    plain = logprobs([chain(i, probe) for i, probe in enumerate(distinct)], 0, None)
    if np.array_equal(distinct[0], first) and len(distinct) > 1 and np.array_equal(distinct[1], second):
        # whole distributions, since a leak may not affect the probabilities of these few tokens
        leak = difference(plain[0][:3], plain[1][:3])
        if leak > tolerance(forward.model):
            raise AlignbenchError(
                f"{model_type} is not a causal language model: it attends to later tokens (log-probabilities of a "
                f"prefix change by {leak:.2g} nats with the text after it)"
            )
    if "position_ids" not in inspect.signature(forward.model.forward).parameters:
        return f"{model_type} takes no position ids"
    try:
        trees = grow_trees(dict(enumerate(distinct)), len(prefix))
        found = logprobs(trees, len(prefix), forward.prefix(prefix))
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        return f"{model_type} does not support a tree mask ({type(error).__name__})"
    worst = max(map(difference, found, plain))
    if worst > tolerance(forward.model):  # NaN on both sides is no difference
        return f"{model_type} does not support a tree mask (log-probabilities differ by {worst:.2g} nats)"
    return None
