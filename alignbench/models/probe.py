"""Can this model be scored on a prefix tree? Found out by trying, before the first batch.

ALiBi, state-space models and models that ignore a 4-D mask or position ids give a tree other numbers than the padded
path does. Sliding windows and local attention do so only where a sequence is longer than the window: `attention_span`.
"""

from __future__ import annotations

import inspect

import numpy as np
import torch
from transformers import PreTrainedModel

from alignbench.errors import AlignbenchError
from alignbench.models import tree as trees
from alignbench.models.forward import Forward, Prefix
from alignbench.models.tree import Tokens, Tree

# A wrong mask moves log-probabilities by nats; rounding by less than this (nats, mean over the vocabulary).
AGREEMENT = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.25}


def why_no_tree(forward: Forward, tokens: Tokens) -> str | None:
    """None where a small tree of these tokens gets the log-probabilities of the padded path, or else the reason.

    The tree has what real ones have: a cached prefix, a branching, a second branching below it. Raises
    AlignbenchError where the model sees the tokens that it should predict.
    """
    model_type = forward.model.config.model_type
    tokens = np.resize(tokens, 12)
    prefix, trunk, a, b = tokens[:3], tokens[3:6], tokens[6:9], tokens[9:]
    first, second = np.concatenate([prefix, trunk, a]), np.concatenate([prefix, trunk, a[:1], b])
    probes = [first, second, np.concatenate([prefix, b, a])]
    distinct = list({probe.tobytes(): probe for probe in probes}.values())
    close = AGREEMENT.get(forward.model.dtype, 1e-3)

    def logprobs(batch: list[Tree], skip: int, cached: Prefix | None) -> list[torch.Tensor]:
        """Of each probe: (tokens after the prefix, vocabulary), in nats."""
        paths = {s: (row, path[len(prefix) - skip :]) for row, t in enumerate(batch) for s, path in t.paths.items()}
        cells = [(row, int(node)) for row, path in paths.values() for node in path]
        found = torch.log_softmax(forward.logits(batch, cells, cached).float(), -1)
        parts = torch.split(found, [len(path) for _, path in paths.values()])
        return [part for _, part in sorted(zip(paths, parts, strict=True), key=lambda pair: pair[0])]

    plain = logprobs([trees.chain(i, probe) for i, probe in enumerate(distinct)], 0, None)
    if np.array_equal(distinct[0], first) and len(distinct) > 1 and np.array_equal(distinct[1], second):
        # full distributions, so that a leak shows even where the tokens at hand do not feel it
        seen_ahead = float((plain[0][:3] - plain[1][:3]).abs().mean())
        if seen_ahead > close:
            raise AlignbenchError(
                f"{model_type} sees the tokens after the one it should predict (log-probabilities of a prefix move by "
                f"{seen_ahead:.2g} nats with what follows): it is no causal language model"
            )
    if "position_ids" not in inspect.signature(forward.model.forward).parameters:
        return f"{model_type} takes no position ids"
    try:
        grown = trees.grow_trees(distinct, len(prefix), pairs_per_token=float("inf"), largest=64)
        tree = logprobs(grown, len(prefix), forward.prefix(prefix))
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        return f"{model_type} does not follow a tree mask ({type(error).__name__})"
    worst = max(float((t - p).abs().mean()) for t, p in zip(tree, plain, strict=True))
    if worst > close:  # NaN on both paths is no disagreement
        return f"{model_type} does not follow a tree mask (log-probabilities differ by {worst:.2g} nats)"
    return None


def attention_span(model: PreTrainedModel) -> float:
    """The shortest sliding window or chunk of any layer, in tokens: beyond it a tree mask would see too much."""
    config = model.config.get_text_config()
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None and not any("sliding" in t or "chunked" in t for t in layer_types):
        return float("inf")
    spans = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size", "window_size")]
    return float(min((span for span in spans if isinstance(span, int)), default=float("inf")))
