"""The local engine: scores text with a transformers model, each token of a shared prefix once.

`LocalEngine.loglikelihood` reads top to bottom: encode, lay the token sequences out (tree.py), compute batch by
batch, add up. The model is the stock transformers model; the tree reaches it as a 4-D attention mask and position
ids, the shared prefix as key-value cache. A model that cannot follow such a mask is found out by `_follows_tree`
before the first batch and scored on padded rows, one sequence a row.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedModel

from alignbench.models import tree as trees
from alignbench.models.encode import Encoder
from alignbench.models.engine import Loglikelihood, Request
from alignbench.models.tree import Tokens, Tree

# Padded tokens of one batch. On a CPU, matrix products are at their full rate from 256 rows on, and more would
# only grow attention and the logits; on an accelerator the budget follows the free memory.
CPU_TOKENS, MOST_TOKENS = 512, 16_384
LARGEST_TREE = 2_048  # nodes: attention is quadratic in them
# A wrong mask moves log-probabilities by nats; rounding by less than this (nats a token, by precision).
AGREEMENT = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.25}


class LocalEngine:
    """Scores text with one transformers causal language model, held in memory.

    model: in evaluation mode, on its device
    encoder: the model's tokenizer
    window: the longest sequence that the model takes, in tokens (None: no limit)
    token_budget: padded tokens of one batch; found from the free memory if None
    notify: called with a line of text when something is worth telling (a fallback, a halved budget)
    follow_tree: False scores every sequence on a padded row of its own, which is the reference
    """

    def __init__(
        self,
        model: PreTrainedModel,
        encoder: Encoder,
        *,
        window: int | None = None,
        token_budget: int | None = None,
        notify: Callable[[str], None] | None = None,
        follow_tree: bool = True,
    ) -> None:
        self.model = model
        self.encoder = encoder
        self.window = window
        self.token_budget = token_budget or find_token_budget(model)
        self.notify = notify or (lambda _: None)
        self.tokens_asked = self.tokens_computed = 0  # of the requests, and of the trees that answered them
        self._tree_fits: bool | None = None if follow_tree else False
        self._prefix = _Prefix(np.empty(0, np.int32), [])
        self._attention_span = _attention_span(model)
        hidden = getattr(model.config.get_text_config(), "hidden_size", 1024)
        self._pairs_per_token = 6.0 * hidden

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def layout(self) -> str:
        """How the sequences scored so far were laid out: "prefix tree" or "padded rows"."""
        return "padded rows" if self._tree_fits is False else "prefix tree"

    def loglikelihood(
        self, requests: Sequence[Request], wanted: Collection[int] | None = None
    ) -> Iterator[tuple[int, Loglikelihood]]:
        """See `Engine.loglikelihood`. Requests that do not fit the window come back unscored."""
        wanted = set(range(len(requests)) if wanted is None else wanted)
        lines: dict[bytes, list[int]] = {}  # token ids -> the requests that spell them
        sequences: list[Tokens] = []
        contexts: dict[int, int] = {}
        for index, encoded in enumerate(self.encoder.pairs(requests)):
            if encoded is None:
                failure: str | None = "the tokenizer has no token that could begin an empty context"
            elif len(encoded.tokens) <= encoded.context_length:
                failure = "the continuation has no tokens"
            else:
                failure = self._too_long(len(encoded.tokens))
            if failure or encoded is None:
                if index in wanted:
                    yield index, Loglikelihood(float("nan"), 0, failure)
                continue
            contexts[index] = encoded.context_length
            self.tokens_asked += len(encoded.tokens)
            key = encoded.tokens.tobytes()
            if key not in lines:
                sequences.append(encoded.tokens)
            lines.setdefault(key, []).append(index)
        askers = list(lines.values())
        shortest = [min(contexts[index] for index in indices) for indices in askers]
        sought = {s for s, indices in enumerate(askers) if wanted.intersection(indices)}

        for scored in self._token_logprobs(sequences, shortest, sought):
            for sequence, logprobs in scored.items():
                for index in askers[sequence]:
                    if index in wanted:
                        tokens = len(sequences[sequence]) - contexts[index]
                        yield index, _total(logprobs, tokens)

    def next_token_logprobs(self, contexts: Sequence[str]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """See `Engine.next_token_logprobs`. A context that does not fit the window raises ValueError."""
        sequences: list[Tokens] = []
        askers: list[list[int]] = []
        lines: dict[bytes, int] = {}
        for index, tokens in enumerate(self.encoder.contexts(contexts)):
            if tokens is None:
                raise ValueError("the tokenizer has no token that could begin an empty context")
            if failure := self._too_long(len(tokens)):
                raise ValueError(f"context {index}: {failure}")
            if (key := tokens.tobytes()) not in lines:
                lines[key] = len(sequences)
                sequences.append(tokens)
                askers.append([index])
            else:
                askers[lines[key]].append(index)
        lengths = [len(tokens) for tokens in sequences]

        def last_position(batch: list[Tree], skip: int, cached: _Prefix | None) -> dict[int, Any]:
            cells = [(row, int(path[-1])) for row, t in enumerate(batch) for path in t.paths.values()]
            logits = self._logits(batch, cells, cached)
            logprobs = torch.log_softmax(logits.float(), dim=-1).cpu().numpy()
            return dict(zip((s for t in batch for s in t.paths), logprobs, strict=True))

        for found in self._computed(sequences, lengths, set(range(len(sequences))), last_position):
            for sequence, row in found.items():
                for index in askers[sequence]:
                    yield index, row

    # ---- from sequences to batches -------------------------------------------------------------------------

    def _token_logprobs(
        self, sequences: list[Tokens], contexts: list[int], sought: set[int]
    ) -> Iterator[dict[int, NDArray[np.float64]]]:
        """For each batch: sequence -> log-probabilities in nats of its tokens from its context's end on."""

        def score(batch: list[Tree], skip: int, cached: _Prefix | None) -> dict[int, NDArray[np.float64]]:
            positions: dict[tuple[int, int], int] = {}  # (row, node) -> which of the computed logits
            parents: list[int] = []
            targets: list[int] = []
            spans: dict[int, list[int]] = {}
            which: dict[tuple[int, int], int] = {}  # (row, node) -> which of the scored tokens
            for row, t in enumerate(batch):
                for sequence, path in t.paths.items():
                    spans[sequence] = []
                    first = contexts[sequence] - skip
                    for parent, node in zip(path[first - 1 :].tolist(), path[first:].tolist(), strict=False):
                        if (row, node) not in which:
                            which[row, node] = len(targets)
                            parents.append(positions.setdefault((row, parent), len(positions)))
                            targets.append(int(t.tokens[node]))
                        spans[sequence].append(which[row, node])
            logits = self._logits(batch, list(positions), cached)
            scores = _target_logprobs(logits, parents, targets)
            return {sequence: scores[span] for sequence, span in spans.items()}

        yield from self._computed(sequences, contexts, sought, score)

    def _computed(
        self,
        sequences: list[Tokens],
        contexts: list[int],
        sought: set[int],
        compute: Callable[[list[Tree], int, _Prefix | None], dict[int, Any]],
    ) -> Iterator[dict[int, Any]]:
        """Plan all the sequences, and compute the batches that hold a sought one."""
        if not sequences:
            return
        if self._tree_fits is None:
            self._tree_fits = self._follows_tree(sequences)
        use_tree = self._tree_fits and max(map(len, sequences)) <= self._attention_span
        if self._tree_fits and not use_tree:
            self.notify(
                f"sequences longer than the attention window of {self._attention_span} tokens: padded rows for them"
            )
        prefix = np.empty(0, np.int32)
        if use_tree:
            # The last context token stays in the tree, since its output predicts the first scored token.
            if len(sequences) > 1:
                prefix = trees.shared_prefix(sequences, min(contexts) - 1)
            forest = trees.grow_trees(
                sequences,
                len(prefix),
                pairs_per_token=self._pairs_per_token,
                largest=min(self.token_budget, LARGEST_TREE),
            )
        else:
            forest = [trees.chain(index, tokens) for index, tokens in enumerate(sequences)]
        overhead = self.token_budget // 32  # starting a batch costs about as much as these tokens
        cached: _Prefix | None = None
        for rows in trees.cut_into_batches([len(t) for t in forest], self.token_budget, overhead):
            batch = [forest[row] for row in rows]
            if not any(sought.intersection(t.paths) for t in batch):
                continue
            if use_tree and cached is None:
                cached = self._prefix = self._computed_prefix(prefix)
            yield from self._within_memory(batch, len(prefix), cached, sequences, compute)

    def _within_memory(
        self,
        batch: list[Tree],
        skip: int,
        cached: _Prefix | None,
        sequences: list[Tokens],
        compute: Callable[[list[Tree], int, _Prefix | None], dict[int, Any]],
    ) -> Iterator[dict[int, Any]]:
        """Compute a batch; where the device's memory does not hold it, its halves, and smaller ones from then on."""
        try:
            yield compute(batch, skip, cached)
            return
        except torch.OutOfMemoryError:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        if len(batch) > 1:
            halves = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
        else:
            members = list(batch[0].paths)
            if len(members) == 1:
                self.notify("one sequence alone is too long for the device's memory: unscored")
                yield {members[0]: None}
                return
            halves = []
            for part in (members[: len(members) // 2], members[len(members) // 2 :]):
                # the numbers of the sequences in the half are mapped back to those of the whole
                (half,) = trees.grow_trees(
                    [sequences[m] for m in part], skip, pairs_per_token=float("inf"), largest=2**30
                )
                paths = {part[i]: path for i, path in half.paths.items()}
                halves.append([Tree(half.tokens, half.depths, half.ends, paths)])
        if self.token_budget > 1:
            self.token_budget //= 2
            self.notify(f"out of memory: token budget halved to {self.token_budget}")
        for part_batch in halves:
            yield from self._within_memory(part_batch, skip, cached, sequences, compute)

    def _too_long(self, length: int) -> str | None:
        if self.window is not None and length > self.window:
            return f"{length} tokens do not fit the model's window of {self.window}"
        return None

    # ---- the model -----------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _logits(self, batch: list[Tree], cells: list[tuple[int, int]], prefix: _Prefix | None) -> torch.Tensor:
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

    def _head_only_at(self, cells: list[tuple[int, int]]) -> AbstractContextManager[Any]:
        """While open, the LM head sees the given (row, position) cells alone, as one row of that many tokens."""
        rows = self._tensor(np.array([row for row, _ in cells], np.int64))
        columns = self._tensor(np.array([column for _, column in cells], np.int64))

        def pick(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return (arguments[0][rows, columns].unsqueeze(0), *arguments[1:])

        handle: AbstractContextManager[Any] = self.model.get_output_embeddings().register_forward_pre_hook(pick)
        return handle

    @torch.inference_mode()
    def _computed_prefix(self, tokens: Tokens) -> _Prefix:
        """The key-value cache of the shared prefix; the last one is kept, since windows of a task share theirs."""
        if np.array_equal(tokens, self._prefix.tokens):
            return self._prefix
        if not len(tokens):
            return _Prefix(tokens, [])
        self.tokens_computed += len(tokens)
        cache = DynamicCache()
        with self._head_only_at([(0, len(tokens) - 1)]):
            self.model(input_ids=self._tensor(tokens[None].astype(np.int64)), past_key_values=cache, use_cache=True)
        return _Prefix(tokens, [(layer.keys, layer.values) for layer in cache.layers])

    def _tensor(self, array: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def _follows_tree(self, sequences: list[Tokens]) -> bool:
        """Does the model give a small tree of these very tokens the log-probabilities of the padded path?

        The tree has what real ones have: a cached prefix, a branching, a second branching below it.
        """
        if "position_ids" not in inspect.signature(self.model.forward).parameters:
            self.notify(f"{self.model.config.model_type} takes no position ids: padded rows, not a prefix tree")
            return False
        tokens = np.resize(max(sequences, key=len), 12)
        prefix, trunk, a, b = tokens[:3], tokens[3:6], tokens[6:9], tokens[9:]
        probes = [np.concatenate(parts) for parts in ((prefix, trunk, a), (prefix, trunk, a[:1], b), (prefix, b, a))]
        distinct = list({p.tobytes(): p for p in probes}.values())

        def scores(batch: list[Tree], skip: int, cached: _Prefix | None) -> dict[int, torch.Tensor]:
            paths = {s: (row, path[len(prefix) - skip :]) for row, t in enumerate(batch) for s, path in t.paths.items()}
            cells = [(row, int(node)) for row, path in paths.values() for node in path]
            logprobs = torch.log_softmax(self._logits(batch, cells, cached).float(), -1)
            return dict(zip(paths, torch.split(logprobs, [len(path) for _, path in paths.values()]), strict=True))

        plain = scores([trees.chain(i, p) for i, p in enumerate(distinct)], 0, None)
        try:
            cached = self._computed_prefix(prefix)
            grown = trees.grow_trees(distinct, len(prefix), pairs_per_token=float("inf"), largest=64)
            tree = scores(grown, len(prefix), cached)
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
            reason = f"{type(error).__name__}"
        else:
            # full distributions, so that a leak shows even where the sampled tokens do not feel it
            worst = max(float((tree[s] - plain[s]).abs().mean()) for s in plain)
            if not worst > AGREEMENT.get(self.model.dtype, 1e-3):  # NaN on both paths is no disagreement
                return True
            reason = f"log-probabilities differ by {worst:.2g} nats"
        self.notify(
            f"{self.model.config.model_type} does not follow a tree mask ({reason}): padded rows, not a prefix tree"
        )
        return False


class _Prefix:
    """Tokens that every sequence begins with, and their keys and values layer by layer, (1, heads, tokens, size)."""

    def __init__(self, tokens: Tokens, layers: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.tokens = tokens
        self.layers = layers

    def cache(self, rows: int) -> DynamicCache:
        """A throw-away cache for one batch: the model appends the batch's own keys to copies of these."""
        return DynamicCache(
            [(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in self.layers]
        )


@torch.inference_mode()
def _target_logprobs(logits: torch.Tensor, rows: list[int], targets: list[int]) -> NDArray[np.float64]:
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


def _total(logprobs: NDArray[np.float64] | None, tokens: int) -> Loglikelihood:
    """Add up the last `tokens` log-probabilities of a sequence."""
    if logprobs is None:
        return Loglikelihood(float("nan"), tokens, "out of the device's memory")
    total = float(logprobs[-tokens:].sum())
    if not np.isfinite(total):
        return Loglikelihood(float("nan"), tokens, f"the log-probability is {total}")
    return Loglikelihood(total, tokens)


def _attention_span(model: PreTrainedModel) -> float:
    """The shortest sliding window or chunk of any layer, in tokens: beyond it a tree mask would see too much."""
    config = model.config.get_text_config()
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None and not any("sliding" in t or "chunked" in t for t in layer_types):
        return float("inf")
    spans = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size", "window_size")]
    return float(min((span for span in spans if isinstance(span, int)), default=float("inf")))


def find_token_budget(model: PreTrainedModel) -> int:
    """Padded tokens that one batch may hold: fixed on a CPU, half of the free memory's worth on an accelerator."""
    if model.device.type == "cpu":
        return CPU_TOKENS
    if model.device.type == "cuda":
        free = torch.cuda.mem_get_info(model.device)[0]
    else:  # MPS
        free = torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    config = model.config.get_text_config()
    hidden = getattr(config, "hidden_size", 1024)
    # a token's logits in the model's precision and in fp32, its mask row, and some twenty hidden vectors
    per_token = config.vocab_size * (model.dtype.itemsize + 4) + LARGEST_TREE * 8 + 20 * hidden * 4
    return max(256, min(MOST_TOKENS, int(free * 0.5 / per_token) // 256 * 256))
