"""The forward pass for scoring: a batch of prefix trees through an unmodified transformers model, and a test of whether
the model supports them.

The tree is passed as a 4-D attention mask and position ids, the shared prefix as a key-value cache. The LM head runs
only at the positions whose logits are needed.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Prefix:
    """Tokens that every sequence begins with, and their keys and values per layer, (1, heads, tokens, size)."""

    tokens: Tokens
    layers: list[tuple[torch.Tensor, torch.Tensor]]

    def __len__(self) -> int:
        return len(self.tokens)

    def cache(self, rows: int) -> DynamicCache:
        """A temporary cache for one batch: the model appends the batch's own keys to copies of these."""
        return DynamicCache([(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in self.layers])


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
        width, skip = max(len(t) for t in batch), len(prefix or ())
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
            # as every attention implementation adds it to its scores: 0 or the lowest finite number
            mask = torch.zeros((len(batch), 1, width, skip + width), dtype=self.model.dtype, device=self.device)
            blocked = torch.from_numpy(~attention_mask(batch, width)).to(self.device)
            mask[:, 0, :, skip:].masked_fill_(blocked, torch.finfo(self.model.dtype).min)
            arguments["attention_mask"] = mask
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
    kind, limit = forward.model.config.model_type, tolerance(forward.model)
    tokens = np.resize(tokens, 12)
    prefix, trunk, a, b = np.split(tokens, 4)
    first, second = np.concatenate([prefix, trunk, a]), np.concatenate([prefix, trunk, a[:1], b])
    probes = [first, second, np.concatenate([prefix, b, a])]
    distinct = list({probe.tobytes(): probe for probe in probes}.values())

    def logprobs(batch: list[Tree], cached: Prefix | None) -> list[torch.Tensor]:
        """Of each probe: (tokens after the prefix, vocabulary), in nats."""
        skip = 0 if cached else len(prefix)
        paths = {probe: (row, path[skip:]) for row, t in enumerate(batch) for probe, path in t.paths.items()}
        cells = [(row, int(node)) for row, path in paths.values() for node in path]
        found = torch.log_softmax(forward.logits(batch, cells, cached).float(), -1)
        parts = dict(zip(paths, torch.split(found, [len(path) for _, path in paths.values()]), strict=True))
        return [parts[probe] for probe in range(len(distinct))]

    plain = logprobs([chain(i, probe) for i, probe in enumerate(distinct)], None)
    if not np.array_equal(first, second):
        # whole distributions, since a leak may not affect the probabilities of these few tokens
        leak = float((plain[0][:3] - plain[1][:3]).abs().mean())
        if leak > limit:
            raise AlignbenchError(
                f"{kind} is not a causal language model: it attends to later tokens (log-probabilities of a prefix "
                f"change by {leak:.2g} nats with the text after it)"
            )
    if "position_ids" not in inspect.signature(forward.model.forward).parameters:
        return f"{kind} takes no position ids"
    try:
        found = logprobs(grow_trees(dict(enumerate(distinct)), len(prefix)), forward.prefix(prefix))
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        return f"{kind} does not support a tree mask ({type(error).__name__})"
    worst = max(float((one - other).abs().mean()) for one, other in zip(found, plain, strict=True))
    if worst > limit:  # NaN on both sides is no difference
        return f"{kind} does not support a tree mask (log-probabilities differ by {worst:.2g} nats)"
    return None
