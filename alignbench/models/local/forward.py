"""The forward pass for scoring: a batch of prefix trees through an unmodified transformers model, and a test of whether
the model supports them.

The tree is passed as a 4-D attention mask and position ids, the shared prefix as a key-value cache. The LM head runs
only at the positions whose logits are needed.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedModel

from alignbench.errors import AlignbenchError
from alignbench.models.causal_lm import select_before_head, tolerance
from alignbench.models.encode import Tokens
from alignbench.models.local.tree import Tree, attention_mask, chain, grow_trees

Cell = tuple[int, int]  # (row of the batch, node of its tree)


class Prefix:
    """Tokens that every sequence begins with, and their keys and values per layer, (1, heads, tokens, size)."""

    def __init__(self, tokens: Tokens, layers: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.tokens = tokens
        self.layers = layers

    def cache(self, rows: int) -> DynamicCache:
        """A temporary cache for one batch: the model appends the batch's own keys to copies of these."""
        return DynamicCache(
            [(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in self.layers]
        )


class Forward:
    """A model in evaluation mode and the number of tokens it has computed, not counting padding."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.device: torch.device = model.device
        self.tokens_computed = 0
        self.clear()

    def clear(self) -> None:
        """Drop the cached prefix, after a change of the weights."""
        self._prefix = Prefix(np.empty(0, np.int32), [])

    @torch.inference_mode()
    def logits(self, batch: list[Tree], cells: list[Cell], prefix: Prefix | None) -> torch.Tensor:
        """Logits (cells, vocabulary) after the given (row, node) cells of a batch.

        prefix: key-value cache of the tokens before the trees; None: the rows are single sequences, padded on the
            right and passed without a mask of their own
        """
        width = max(len(t) for t in batch)
        skip = 0 if prefix is None else len(prefix.tokens)
        tokens, positions, used = (np.full((len(batch), width), fill, np.int64) for fill in (0, skip, 0))
        for row, t in enumerate(batch):
            tokens[row, : len(t)] = t.tokens
            positions[row, : len(t)] += t.depths
            used[row, : len(t)] = 1
        self.tokens_computed += sum(map(len, batch))
        arguments: dict[str, Any] = {"input_ids": self._tensor(tokens), "use_cache": False}
        if prefix is None:
            arguments["attention_mask"] = self._tensor(used)
        else:
            arguments["position_ids"] = self._tensor(positions)
            arguments["attention_mask"] = self._additive(attention_mask(batch, width), skip)
            if skip:
                arguments["past_key_values"] = prefix.cache(rows=len(batch))
        with self._head_at(cells):
            logits: torch.Tensor = self.model(**arguments).logits
        return logits[0]

    @torch.inference_mode()
    def prefix(self, tokens: Tokens) -> Prefix:
        """Key-value cache of the shared prefix. The last one is kept, since a task's windows often share it."""
        if np.array_equal(tokens, self._prefix.tokens):
            return self._prefix
        if not len(tokens):
            return Prefix(tokens, [])
        self.tokens_computed += len(tokens)
        cache = DynamicCache()
        with self._head_at([(0, len(tokens) - 1)]):
            self.model(input_ids=self._tensor(tokens[None].astype(np.int64)), past_key_values=cache, use_cache=True)
        self._prefix = Prefix(tokens, [(layer.keys, layer.values) for layer in cache.layers])
        return self._prefix

    def _additive(self, may_attend: NDArray[np.bool_], skip: int) -> torch.Tensor:
        """The mask as every attention implementation adds it to its scores: 0 or the lowest finite number."""
        rows, width, _ = may_attend.shape
        mask = torch.zeros((rows, 1, width, skip + width), dtype=self.model.dtype, device=self.device)
        blocked = torch.from_numpy(~may_attend).to(self.device)
        mask[:, 0, :, skip:].masked_fill_(blocked, torch.finfo(self.model.dtype).min)
        return mask

    def _head_at(self, cells: list[Cell]) -> AbstractContextManager[Any]:
        """While open, the LM head reads the given cells only, as one row of that many tokens."""
        rows, columns = self._tensor(np.array(cells, np.int64)).T
        return select_before_head(self.model, lambda hidden: hidden[rows, columns].unsqueeze(0))

    def _tensor(self, array: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)


@torch.inference_mode()
def target_logprobs(logits: torch.Tensor, rows: list[int], targets: list[int]) -> NDArray[np.float64]:
    """log softmax(logits)[row, target] for each pair, (pairs,) in nats. The logits are overwritten.

    x − logsumexp(x) in fp32, a few rows at a time: closer to fp64 than log_softmax over the whole tensor, and the
    intermediate values stay in the processor's cache.
    """
    row = torch.tensor(rows, device=logits.device)
    target = logits[row, torch.tensor(targets, device=logits.device)].float()
    chunk = max(1, (2**20 if logits.device.type == "cpu" else 2**28) // logits.shape[-1])
    normaliser = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    for start in range(0, len(logits), chunk):
        part = logits[start : start + chunk].float()
        highest = part.amax(-1, keepdim=True)
        normaliser[start : start + chunk] = part.sub_(highest).exp_().sum(-1).log_().add_(highest[:, 0])
    return (target - normaliser[row]).double().cpu().numpy()


def why_no_tree(forward: Forward, tokens: Tokens) -> str | None:
    """None if a small tree of these tokens gives the log-probabilities of padded rows, or else the reason.

    ALiBi, state-space models, and models that ignore a 4-D mask or position ids give others. Sliding windows and local
    attention do so only beyond their window (`attention_span`). The tree has a cached prefix, a branch, and a second
    branch below it, like those of real batches. Raises AlignbenchError if the model attends to later tokens.
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
