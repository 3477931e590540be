"""The forward pass: a batch of prefix trees through a stock transformers model.

The tree reaches the model as a 4-D attention mask and position ids, the shared prefix as key-value cache. The LM head
runs at the asked positions alone.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedModel

from alignbench.models import tree as trees
from alignbench.models.tree import Tokens, Tree

Cell = tuple[int, int]  # (row of the batch, node of its tree)


class Prefix:
    """Tokens that every sequence begins with, and their keys and values layer by layer, (1, heads, tokens, size)."""

    def __init__(self, tokens: Tokens, layers: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.tokens = tokens
        self.layers = layers

    def cache(self, rows: int) -> DynamicCache:
        """A throw-away cache for one batch: the model appends the batch's own keys to copies of these."""
        return DynamicCache(
            [(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in self.layers]
        )


class Forward:
    """A model in evaluation mode, and how many tokens it has computed (padding not counted)."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.device: torch.device = model.device
        self.tokens_computed = 0
        self.forget()

    def forget(self) -> None:
        """Drop the shared prefix: it was computed with weights that have changed."""
        self._prefix = Prefix(np.empty(0, np.int32), [])

    @torch.inference_mode()
    def logits(self, batch: list[Tree], cells: list[Cell], prefix: Prefix | None) -> torch.Tensor:
        """Logits, shape (cells, vocabulary), after the given (row, node) cells of a batch.

        prefix: the key-value cache that the trees stand on; None: the rows are plain sequences, right-padded,
        and reach the model as anyone would pass them.
        """
        width = max(len(t) for t in batch)
        tokens = np.zeros((len(batch), width), np.int64)
        for row, t in enumerate(batch):
            tokens[row, : len(t)] = t.tokens
        self.tokens_computed += sum(map(len, batch))
        arguments: dict[str, Any] = {"input_ids": self._tensor(tokens), "use_cache": False}
        if prefix is None:
            real = np.zeros((len(batch), width), np.int64)
            for row, t in enumerate(batch):
                real[row, : len(t)] = 1
            arguments["attention_mask"] = self._tensor(real)
        else:
            skip = len(prefix.tokens)
            positions = np.full((len(batch), width), skip, np.int64)
            for row, t in enumerate(batch):
                positions[row, : len(t)] += t.depths
            arguments["position_ids"] = self._tensor(positions)
            arguments["attention_mask"] = self._additive(trees.attention_mask(batch, width), skip)
            if skip:
                arguments["past_key_values"] = prefix.cache(rows=len(batch))
        with self._head_only_at(cells):
            logits: torch.Tensor = self.model(**arguments).logits
        return logits[0]

    def _additive(self, may_attend: NDArray[np.bool_], skip: int) -> torch.Tensor:
        """The mask in the form that every attention implementation adds to its scores: 0 or the lowest number."""
        rows, width, _ = may_attend.shape
        mask = torch.zeros((rows, 1, width, skip + width), dtype=self.model.dtype, device=self.device)
        blocked = torch.from_numpy(~may_attend).to(self.device)
        mask[:, 0, :, skip:].masked_fill_(blocked, torch.finfo(self.model.dtype).min)
        return mask

    def _head_only_at(self, cells: list[Cell]) -> AbstractContextManager[Any]:
        """While open, the LM head sees the given (row, position) cells alone, as one row of that many tokens."""
        rows = self._tensor(np.array([row for row, _ in cells], np.int64))
        columns = self._tensor(np.array([column for _, column in cells], np.int64))

        def pick(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return (arguments[0][rows, columns].unsqueeze(0), *arguments[1:])

        handle: AbstractContextManager[Any] = self.model.get_output_embeddings().register_forward_pre_hook(pick)
        return handle

    @torch.inference_mode()
    def prefix(self, tokens: Tokens) -> Prefix:
        """The key-value cache of the shared prefix; the last one is kept, since windows of a task share theirs."""
        if np.array_equal(tokens, self._prefix.tokens):
            return self._prefix
        if not len(tokens):
            return Prefix(tokens, [])
        self.tokens_computed += len(tokens)
        cache = DynamicCache()
        with self._head_only_at([(0, len(tokens) - 1)]):
            self.model(input_ids=self._tensor(tokens[None].astype(np.int64)), past_key_values=cache, use_cache=True)
        self._prefix = Prefix(tokens, [(layer.keys, layer.values) for layer in cache.layers])
        return self._prefix

    def _tensor(self, array: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)


@torch.inference_mode()
def target_logprobs(logits: torch.Tensor, rows: list[int], targets: list[int]) -> NDArray[np.float64]:
    """log softmax(logits)[row, target] for each pair, (pairs,) in nats.

    x − logsumexp(x) in fp32, a few rows at a time: nearer to fp64 than log_softmax over the whole, and what is
    worked on stays in the processor's cache. The logits are overwritten.
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
