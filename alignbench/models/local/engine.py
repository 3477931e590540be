"""The local engine: scores and continues text with a transformers model, computing each token of a shared prefix once.

`LocalEngine.loglikelihood` encodes the requests, lays the distinct sequences out as prefix trees (tree.py), computes
batch by batch (forward.py) and sums up. A model that does not support a tree mask is detected before the first batch
and scored on padded rows, one sequence per row.

`LocalEngine.generate` encodes the prompts and continues them on packed rows (generate/scheduler.py) if the model's
attention can be replaced, which is tested once. Other models, and sequences beyond a sliding window, are generated
sequentially (generate/sequential.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from alignbench.models.causal_lm import LARGEST_TREE, attention_span, find_token_budget, release_cached_memory
from alignbench.models.encode import Encoder, Tokens, shared_prefix
from alignbench.models.entropy import entropies
from alignbench.models.generate.decoding import Decoding, end_tokens
from alignbench.models.generate.packed import PackedModel
from alignbench.models.generate.samples import Job
from alignbench.models.generate.scheduler import Scheduler, why_not_packed
from alignbench.models.generate.sequential import SequentialModel
from alignbench.models.local.forward import Cell, Forward, Prefix, target_logprobs, why_no_tree
from alignbench.models.local.tree import Tree, chain, cut_into_batches, grow_trees
from alignbench.types.engine import Completion, Loglikelihood, Prompt, Request, Sampling


@dataclass(slots=True)
class Text:
    """A distinct token sequence and the requests that spell it.

    contexts: index of a request -> tokens of its context
    entropies: a request asks for them
    """

    tokens: Tokens
    contexts: dict[int, int]
    entropies: bool = False


# Log-probabilities of a text's tokens after its shortest context, and both entropies of the distributions that they
# were predicted from, in nats; (tokens,) each, the entropies empty unless requested
Scores = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


class LocalEngine:
    """Scores and continues text with one transformers causal language model, held in memory.

    model: in evaluation mode, on its device
    encoder: the model's tokenizer
    window: maximum sequence length in tokens (None: no limit)
    token_budget: padded tokens per batch; if None, it follows the free memory
    notify: called with one line of text about events such as a fallback or a reduced budget
    follow_tree: False scores each sequence on its own padded row, as a reference
    most_rows: samples generated at once; if None, it follows the free memory
    pack: False generates for one prompt at a time with the model's own cache, as a reference
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
        self.tokens_asked = 0  # tokens of all requests and continuations without sharing; compare `tokens_computed`
        self.tokens_generated = 0
        self.layout = "prefix tree"  # of the last call; or "padded rows"
        self.chat_template = bool(encoder.tokenizer.chat_template)
        self.packed = PackedModel(model)
        self.scheduler = Scheduler(self.packed, self.token_budget, self.notify, most_rows)
        self.sequential = SequentialModel(model)
        self._packs: bool | None = None if pack else False  # None: not tested yet
        self._tree_fits: bool | None = None if follow_tree else False  # None: not tested yet
        self._span = attention_span(model)
        self._vocabulary = model.get_input_embeddings().num_embeddings
        self._pairs_per_token = 6.0 * getattr(model.config.get_text_config(), "hidden_size", 1024)

    @property
    def vocabulary_sha256(self) -> str:
        """Hash of the tokens and their ids, which does not depend on how the tokenizer's files are formatted."""
        vocabulary = self.encoder.tokenizer.get_vocab()
        lines = (f"{number} {token}\n" for number, token in sorted((n, t) for t, n in vocabulary.items()))
        return hashlib.sha256("".join(lines).encode("utf-8", errors="surrogatepass")).hexdigest()

    @property
    def tokens_computed(self) -> int:
        """Tokens that went through the model, not counting padding."""
        return sum(part.tokens_computed for part in (self.forward, self.packed, self.sequential))

    def weights_changed(self) -> None:
        """Drop what was computed with the old weights, for a model that is trained between calls."""
        self.forward.clear()
        self.scheduler.prefix = None

    def work(self) -> dict[str, int | str]:
        """See `Engine.work`. `tokens_asked` is the number of tokens without any sharing."""
        counts = {name: getattr(self, name) for name in ("tokens_asked", "tokens_computed", "tokens_generated")}
        return counts | {"layout": self.layout, "token_budget": str(self.token_budget)}

    def loglikelihood(
        self, requests: Sequence[Request], only: Collection[int] | None = None
    ) -> Iterator[tuple[int, Loglikelihood]]:
        """See `Engine.loglikelihood`. Requests that do not fit the window are returned unscored."""
        selected = set(range(len(requests)) if only is None else only)
        distinct: dict[bytes, Text] = {}
        for index, encoded in enumerate(self.encoder.pairs(requests)):
            reason = encoded if isinstance(encoded, str) else self._misfit(encoded.tokens)
            if reason or isinstance(encoded, str):
                if index in selected:
                    yield index, Loglikelihood.failed(str(reason))
                continue
            if index in selected:
                self.tokens_asked += len(encoded.tokens) - 1
            text = distinct.setdefault(encoded.tokens.tobytes(), Text(encoded.tokens, {}))
            text.contexts[index] = encoded.context_length
            text.entropies |= requests[index].entropies
        for text, scores in self._score_texts(list(distinct.values()), selected):
            for index, context in text.contexts.items():
                if index in selected:
                    yield index, _total(scores, len(text.tokens) - context, requests[index].entropies)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int = 0, chat: bool = False
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """See `Engine.generate`. Prompts that do not fit the window are returned unscored.

        Raises ValueError for invalid sampling parameters, such as several samples at temperature 0.
        """
        tokenizer = self.encoder.tokenizer
        decoding = Decoding(tokenizer, end_tokens(self.model, tokenizer), sampling, seed)
        jobs: list[Job] = []
        for index, tokens in enumerate(self.encoder.prompts([prompt.text for prompt in prompts], chat=chat)):
            reason = tokens if isinstance(tokens, str) else self._misfit(tokens, sampling.max_tokens)
            if reason or isinstance(tokens, str):
                yield index, (Completion.failed(str(reason)),) * sampling.samples
            else:
                jobs.append(Job(index, prompts[index].key, tokens, [None] * sampling.samples))
        if not jobs:
            return
        if self._packs is None:
            reason = why_not_packed(self.packed, tokenizer, jobs[0].tokens)
            self._packs = reason is None
            if reason:
                self.notify(f"{reason}; generating for one prompt at a time instead of packed rows")
        packed = [job for job in jobs if self._packs and len(job.tokens) + sampling.max_tokens <= self._span]
        if self._packs and len(packed) < len(jobs):
            self.notify(
                f"generating sequences longer than the attention window of {self._span:.0f} tokens one prompt at a time"
            )
        self.layout = "packed row" if packed else "one prompt at a time"
        for job in self.scheduler.run(packed, decoding):
            yield self._answer(job)
        for job in jobs:
            if job.missing:
                self.sequential.complete(job, job.missing, decoding, self.notify)
                yield self._answer(job)

    def _answer(self, job: Job) -> tuple[int, tuple[Completion, ...]]:
        for completion in job.complete:
            if completion.tokens:
                self.tokens_asked += len(job.tokens) + len(completion.tokens) - 1
                self.tokens_generated += len(completion.tokens)
        return job.index, job.complete

    def _misfit(self, tokens: Tokens, new: int = 0) -> str | None:
        """The reason why the model cannot continue these tokens by `new` ones, or (0) read all but the last one."""
        length = len(tokens) + (new or -1)
        if self.window is not None and length > self.window:
            counted = f"{len(tokens)} tokens and {new} new ones" if new else f"{length} tokens"
            return f"{counted} do not fit the model's window of {self.window}"
        if tokens.max() >= self._vocabulary:
            return f"token {tokens.max()} of the tokenizer is not in the model's vocabulary of {self._vocabulary}"
        return None

    def _score_texts(self, texts: list[Text], selected: set[int]) -> Iterator[tuple[Text, Scores | None]]:
        """Plan batches of all texts, and score those batches that contain a selected request. None: out of memory."""
        if not texts:
            return
        sequences = {number: text.tokens[:-1] for number, text in enumerate(texts)}
        forest, prefix = self._lay_out(sequences, min(min(text.contexts.values()) for text in texts))
        needed = {number for number, text in enumerate(texts) if selected.intersection(text.contexts)}
        overhead = self.token_budget // 32  # starting a batch costs about as much as these tokens
        for rows in cut_into_batches([len(t) for t in forest], self.token_budget, overhead):
            batch = [forest[row] for row in rows]
            if any(needed.intersection(t.paths) for t in batch):
                for number, scores in self._within_memory(batch, prefix, texts):
                    yield texts[number], scores

    def _lay_out(self, sequences: dict[int, Tokens], shortest: int) -> tuple[list[Tree], Prefix | None]:
        """The sequences as trees on a cached prefix, or as single rows (prefix None) if the model requires it.

        shortest: tokens of the shortest context
        """
        if self._tree_fits is None:
            reason = why_no_tree(self.forward, max(sequences.values(), key=len))
            self._tree_fits = reason is None
            if reason:
                self.notify(f"{reason}; using padded rows instead of prefix trees")
        span = min(self._span, self.window or np.inf)
        use_tree = self._tree_fits and max(map(len, sequences.values())) <= span
        if self._tree_fits and not use_tree:
            self.notify(f"using padded rows for sequences longer than the attention window of {span:.0f} tokens")
        self.layout = "prefix tree" if use_tree else "padded rows"
        if not use_tree:
            return [chain(number, tokens) for number, tokens in sequences.items()], None
        tokens = np.empty(0, np.int32)
        if len(sequences) > 1:
            # the last context token stays in the tree, since its output predicts the first scored token
            tokens = shared_prefix(list(sequences.values()), shortest - 1)
        try:
            prefix = self.forward.prefix(tokens)
        except torch.OutOfMemoryError:
            self.notify("the shared prefix does not fit into the device's memory; computing it with every sequence")
            prefix = Prefix(tokens[:0], [])
        skip = len(prefix.tokens)
        # local attention may count keys instead of positions: within the window, a tree is correct for both
        largest = min(self.token_budget, LARGEST_TREE, span - skip)
        return grow_trees(sequences, skip, pairs_per_token=self._pairs_per_token, largest=int(largest)), prefix

    def _within_memory(
        self, batch: list[Tree], prefix: Prefix | None, texts: list[Text]
    ) -> Iterator[tuple[int, Scores | None]]:
        """Score a batch. If it does not fit into memory, score its halves, and use smaller batches from then on."""
        padded = len(batch) * max(map(len, batch))
        members = [number for t in batch for number in t.paths]
        if padded <= self.token_budget or len(members) == 1:
            try:
                yield from self._score_batch(batch, prefix, texts)
                return
            except torch.OutOfMemoryError:
                release_cached_memory(self.model.device)
            if len(members) == 1:
                self.notify("a single sequence does not fit into the device's memory: unscored")
                yield members[0], None
                return
            if self.token_budget > 1:
                self.token_budget //= 2
                self.notify(f"out of memory: token budget halved to {self.token_budget}")
        if len(batch) > 1:
            halves = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
        else:
            skip = 0 if prefix is None else len(prefix.tokens)
            middle = len(members) // 2
            halves = [
                grow_trees({number: texts[number].tokens[:-1] for number in part}, skip)
                for part in (members[:middle], members[middle:])
            ]
        for half in halves:
            yield from self._within_memory(half, prefix, texts)

    def _score_batch(self, batch: list[Tree], prefix: Prefix | None, texts: list[Text]) -> list[tuple[int, Scores]]:
        """Score each text of a batch after its shortest context.

        The last token of a text is predicted and predicts nothing, so it is not part of the tree.
        """
        skip = 0 if prefix is None else len(prefix.tokens)
        cells: dict[Cell, int] = {}  # position in the batch -> row of the logits
        rows: dict[int, list[int]] = {}  # text -> rows that predict its tokens
        targets: list[int] = []
        for row, t in enumerate(batch):
            for number, path in t.paths.items():
                start = min(texts[number].contexts.values())
                rows[number] = [cells.setdefault((row, node), len(cells)) for node in path[start - 1 - skip :].tolist()]
                targets += texts[number].tokens[start:].tolist()
        logits = self.forward.logits(batch, list(cells), prefix)
        described = sorted({row for number, own in rows.items() if texts[number].entropies for row in own})
        whole, top = entropies(logits, described)
        logprobs = target_logprobs(logits, [row for own in rows.values() for row in own], targets)
        found, at = [], 0
        for number, own in rows.items():
            there = np.searchsorted(described, own if texts[number].entropies else [])
            found.append((number, (logprobs[at : at + len(own)], whole[there], top[there])))
            at += len(own)
        return found


def _total(scores: Scores | None, tokens: int, describe: bool) -> Loglikelihood:
    """Sum of the last `tokens` log-probabilities; `describe`: with their entropies."""
    if scores is None:
        return Loglikelihood.failed("out of the device's memory", tokens)
    logprobs, *entropies = (values[-tokens:] for values in scores)
    total = float(logprobs.sum())
    if not np.isfinite(total):
        return Loglikelihood.failed(f"the log-probability is {total}", tokens)
    whole, top = (tuple(values.tolist()) if describe else () for values in entropies)
    return Loglikelihood(total, tokens, entropies=whole, top_entropies=top)
