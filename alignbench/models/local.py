"""The local engine: scores and continues text with a transformers model, each token of a shared prefix once.

`LocalEngine.loglikelihood` reads top to bottom: encode, lay the token sequences out (tree.py), compute batch by
batch (forward.py), add up. A model that cannot follow a tree is found out before the first batch (probe.py) and scored
on padded rows, one sequence a row. `LocalEngine.generate` is in generate.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from alignbench.models import tree as trees
from alignbench.models.encode import Encoder
from alignbench.models.entropy import entropies
from alignbench.models.forward import Cell, Forward, Prefix, target_logprobs
from alignbench.models.generate import Writer
from alignbench.models.probe import attention_span, why_no_tree
from alignbench.models.tree import Tokens, Tree
from alignbench.types.engine import Completion, Loglikelihood, Prompt, Request, Sampling

# Padded tokens of one batch. On a CPU, matrix products are at their full rate from 256 rows on, and more would
# only grow attention and the logits; on an accelerator the budget follows the free memory.
CPU_TOKENS, MOST_TOKENS = 512, 16_384
LARGEST_TREE = 2_048  # nodes: attention is quadratic in them


@dataclass(frozen=True, slots=True)
class Scores:
    """Of a sequence's last tokens, in nats: their log-probabilities, and the entropies of the distributions that they
    were predicted from, of so many of them as anyone asked for."""

    logprobs: NDArray[np.float64]
    entropies: NDArray[np.float64]
    top_entropies: NDArray[np.float64]


class LocalEngine:
    """Scores and continues text with one transformers causal language model, held in memory.

    model: in evaluation mode, on its device
    encoder: the model's tokenizer
    window: the longest sequence that the model takes, in tokens (None: no limit)
    token_budget: padded tokens of one batch; found from the free memory if None
    notify: called with a line of text when something is worth telling (a fallback, a halved budget)
    follow_tree: False scores every sequence on a padded row of its own, which is the reference
    most_rows: samples that are generated at once; found from the free memory if None
    pack: False generates for one prompt at a time with the model's own cache, which is the reference
    """

    scores = True

    def __init__(
        self,
        model: PreTrainedModel,
        encoder: Encoder,
        *,
        window: int | None = None,
        token_budget: int | None = None,
        notify: Callable[[str], None] | None = None,
        follow_tree: bool = True,
        most_rows: int | None = None,
        pack: bool = True,
    ) -> None:
        self.model = model
        self.forward = Forward(model)
        self.encoder = encoder
        self.window = window
        self.token_budget = token_budget or find_token_budget(model)
        self.notify = notify or (lambda _: None)
        self.tokens_asked = 0  # of all the wanted requests; compare `tokens_computed`
        self.layout = "prefix tree"  # of the last sequences scored; else "padded rows"
        self._tree_fits: bool | None = None if follow_tree else False
        self._span = min(attention_span(model), window or float("inf"))
        self._vocabulary = model.get_input_embeddings().num_embeddings
        hidden = getattr(model.config.get_text_config(), "hidden_size", 1024)
        self._pairs_per_token = 6.0 * hidden
        self.chat_template = bool(encoder.tokenizer.chat_template)
        self._writer = Writer(
            model,
            encoder,
            window=window,
            token_budget=self.token_budget,
            notify=self.notify,
            most_rows=most_rows,
            pack=pack,
        )

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def vocabulary_sha256(self) -> str:
        """Of the tokens and their numbers. The tokenizer's files may be written in many ways; this is what they say."""
        vocabulary = self.encoder.tokenizer.get_vocab()
        lines = (f"{number} {token}\n" for number, token in sorted((n, t) for t, n in vocabulary.items()))
        return hashlib.sha256("".join(lines).encode("utf-8", errors="surrogatepass")).hexdigest()

    @property
    def tokens_computed(self) -> int:
        """Tokens that went through the model, padding not counted."""
        return self.forward.tokens_computed + self._writer.tokens_computed

    def weights_changed(self) -> None:
        """Forget what was computed with the old weights: for models that are trained between calls."""
        self.forward.forget()
        self._writer.generator.forget()

    def work(self) -> dict[str, int | str]:
        """See `Engine.work`. `tokens_asked` is what every request and continuation alone would have computed."""
        wrote = self._writer.tokens_generated > 0
        return {
            "tokens_asked": self.tokens_asked + self._writer.tokens_asked,
            "tokens_computed": self.tokens_computed,
            "tokens_generated": self._writer.tokens_generated,
            "layout": self._writer.layout if wrote and not self.tokens_asked else self.layout,
            "token_budget": str(self.token_budget),
        }

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int = 0, chat: bool = False
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """See `Engine.generate`. Prompts that do not fit the window come back unscored.

        Raises ValueError for a sampling that makes no sense, such as several samples at temperature 0.
        """
        return self._writer.generate(prompts, sampling, seed=seed, chat=chat)

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
            elif encoded.context_length == 0:
                failure = "the context has no tokens"
            elif len(encoded.tokens) <= encoded.context_length:
                failure = "the continuation has no tokens"
            else:
                failure = self._misfit(encoded.tokens, read=len(encoded.tokens) - 1)
            if failure or encoded is None:
                if index in wanted:
                    yield index, Loglikelihood(float("nan"), 0, failure)
                continue
            contexts[index] = encoded.context_length
            if index in wanted:
                self.tokens_asked += len(encoded.tokens) - 1
            key = encoded.tokens.tobytes()
            if key not in lines:
                sequences.append(encoded.tokens)
            lines.setdefault(key, []).append(index)
        askers = list(lines.values())
        shortest = [min(contexts[index] for index in indices) for indices in askers]
        sought = {s for s, indices in enumerate(askers) if wanted.intersection(indices)}
        # from where on the distributions are to be described, in the sequences where anyone asks for it
        described: dict[int, int] = {}
        for sequence, indices in enumerate(askers):
            if asking := [contexts[index] for index in indices if requests[index].entropies]:
                described[sequence] = min(asking)

        for scored in self._token_scores(sequences, shortest, described, sought):
            for sequence, scores in scored.items():
                for index in askers[sequence]:
                    if index in wanted:
                        tokens = len(sequences[sequence]) - contexts[index]
                        yield index, _total(scores, tokens, requests[index].entropies)

    def next_token_logprobs(self, contexts: Sequence[str]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """See `Engine.next_token_logprobs`. A context that does not fit the window raises ValueError."""
        sequences: list[Tokens] = []
        askers: list[list[int]] = []
        lines: dict[bytes, int] = {}
        for index, tokens in enumerate(self.encoder.contexts(contexts)):
            if tokens is None:
                raise ValueError("the tokenizer has no token that could begin an empty context")
            if failure := self._misfit(tokens, read=len(tokens)):
                raise ValueError(f"context {index}: {failure}")
            if (key := tokens.tobytes()) not in lines:
                lines[key] = len(sequences)
                sequences.append(tokens)
                askers.append([index])
            else:
                askers[lines[key]].append(index)
        lengths = [len(tokens) for tokens in sequences]

        def last_position(batch: list[Tree], skip: int, cached: Prefix | None) -> dict[int, Any]:
            cells = [(row, int(path[-1])) for row, t in enumerate(batch) for path in t.paths.values()]
            logits = self.forward.logits(batch, cells, cached)
            logprobs = torch.log_softmax(logits.float(), dim=-1).cpu().numpy()
            return dict(zip((s for t in batch for s in t.paths), logprobs, strict=True))

        for found in self._computed(sequences, lengths, set(range(len(sequences))), last_position):
            for sequence, row in found.items():
                if row is None:
                    raise ValueError(f"context {askers[sequence][0]}: out of the device's memory")
                for index in askers[sequence]:
                    yield index, row

    # ---- from sequences to batches -------------------------------------------------------------------------

    def _token_scores(
        self, sequences: list[Tokens], contexts: list[int], described: dict[int, int], sought: set[int]
    ) -> Iterator[dict[int, Scores | None]]:
        """For each batch: sequence -> the scores of its tokens from its context's end on; None where there are none.

        described: sequence -> from which token on its entropies are wanted
        A sequence's last token is predicted and predicts nothing, so it does not go through the model.
        """

        def score(batch: list[Tree], skip: int, cached: Prefix | None) -> dict[int, Scores]:
            cells: dict[Cell, int] = {}  # -> which of the computed logits
            pairs: dict[tuple[int, int], int] = {}  # (logits, target token) -> which of the scores
            spans: dict[int, list[int]] = {}
            measured: dict[int, int] = {}  # logits -> which of the entropies
            described_spans: dict[int, list[int]] = {}
            for row, t in enumerate(batch):
                for sequence, path in t.paths.items():
                    nodes = path[contexts[sequence] - 1 - skip :].tolist()
                    targets = sequences[sequence][contexts[sequence] :].tolist()
                    spans[sequence] = [
                        pairs.setdefault((cells.setdefault((row, node), len(cells)), target), len(pairs))
                        for node, target in zip(nodes, targets, strict=True)
                    ]
                    if sequence in described:
                        described_spans[sequence] = [
                            measured.setdefault(cells[row, node], len(measured))
                            for node in nodes[described[sequence] - contexts[sequence] :]
                        ]
            logits = self.forward.logits(batch, list(cells), cached)
            whole, top = entropies(logits, list(measured))
            logprobs = target_logprobs(logits, *map(list, zip(*pairs, strict=True)))
            found = {}
            for sequence, span in spans.items():
                own = described_spans.get(sequence, [])
                found[sequence] = Scores(logprobs[span], whole[own], top[own])
            return found

        yield from self._computed([tokens[:-1] for tokens in sequences], contexts, sought, score)

    def _computed(
        self,
        sequences: list[Tokens],
        contexts: list[int],
        sought: set[int],
        compute: Callable[[list[Tree], int, Prefix | None], dict[int, Any]],
    ) -> Iterator[dict[int, Any]]:
        """Plan all the sequences (what goes through the model), and compute the batches that hold a sought one."""
        if not sequences:
            return
        if self._tree_fits is None:
            reason = why_no_tree(self.forward, max(sequences, key=len))
            self._tree_fits = reason is None
            if reason:
                self.notify(f"{reason}: padded rows, not a prefix tree")
        use_tree = self._tree_fits and max(map(len, sequences)) <= self._span
        if self._tree_fits and not use_tree:
            self.notify(f"sequences longer than the attention window of {self._span:.0f} tokens: padded rows for them")
        self.layout = "prefix tree" if use_tree else "padded rows"
        prefix, cached = np.empty(0, np.int32), None
        if use_tree:
            if len(sequences) > 1:
                # the last context token stays in the tree, since its output predicts the first scored token
                prefix = trees.shared_prefix(sequences, min(contexts) - 1)
            try:
                cached = self.forward.prefix(prefix)
            except torch.OutOfMemoryError:
                self.notify("the shared prefix does not fit into the device's memory: computed with every sequence")
                prefix = np.empty(0, np.int32)
                cached = self.forward.prefix(prefix)
            # a model may count keys rather than positions: a tree within the window suits both
            largest = min(self.token_budget, LARGEST_TREE, self._span - len(prefix))
            forest = trees.grow_trees(
                sequences, len(prefix), pairs_per_token=self._pairs_per_token, largest=int(largest)
            )
        else:
            forest = [trees.chain(index, tokens) for index, tokens in enumerate(sequences)]
        overhead = self.token_budget // 32  # starting a batch costs about as much as these tokens
        for rows in trees.cut_into_batches([len(t) for t in forest], self.token_budget, overhead):
            batch = [forest[row] for row in rows]
            if not any(sought.intersection(t.paths) for t in batch):
                continue
            yield from self._within_memory(batch, len(prefix), cached, sequences, compute)

    def _within_memory(
        self,
        batch: list[Tree],
        skip: int,
        cached: Prefix | None,
        sequences: list[Tokens],
        compute: Callable[[list[Tree], int, Prefix | None], dict[int, Any]],
    ) -> Iterator[dict[int, Any]]:
        """Compute a batch; where the device's memory does not hold it, its halves, and smaller ones from then on."""
        padded = len(batch) * max(map(len, batch))
        members = [sequence for t in batch for sequence in t.paths]
        if padded <= self.token_budget or len(members) == 1:
            try:
                yield compute(batch, skip, cached)
                return
            except torch.OutOfMemoryError:
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
            if len(members) == 1:
                self.notify("a sequence alone is too long for the device's memory: unscored")
                yield {members[0]: None}
                return
            if self.token_budget > 1:
                self.token_budget //= 2
                self.notify(f"out of memory: token budget halved to {self.token_budget}")
        if len(batch) > 1:
            halves = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
        else:
            middle = len(members) // 2
            halves = [[trees.tree_of(part, sequences, skip)] for part in (members[:middle], members[middle:])]
        for half in halves:
            yield from self._within_memory(half, skip, cached, sequences, compute)

    def _misfit(self, tokens: Tokens, read: int) -> str | None:
        """Why the model cannot score these tokens, the first `read` of which it would read, if it cannot."""
        if self.window is not None and read > self.window:
            return f"{read} tokens do not fit the model's window of {self.window}"
        if not len(tokens):
            return "the context has no tokens"
        if tokens.max() >= self._vocabulary:
            return f"token {tokens.max()} of the tokenizer is not in the model's vocabulary of {self._vocabulary}"
        return None


def _total(scores: Scores | None, tokens: int, describe: bool) -> Loglikelihood:
    """Add up the last `tokens` log-probabilities of a sequence; `describe`: with their entropies."""
    if scores is None:
        return Loglikelihood(float("nan"), tokens, "out of the device's memory")
    total = float(scores.logprobs[-tokens:].sum())
    if not np.isfinite(total):
        return Loglikelihood(float("nan"), tokens, f"the log-probability is {total}")
    if not describe:
        return Loglikelihood(total, tokens)
    whole, top = (tuple(found[-tokens:].tolist()) for found in (scores.entropies, scores.top_entropies))
    return Loglikelihood(total, tokens, entropies=whole, top_entropies=top)


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
