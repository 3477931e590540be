"""The local engine: scores and continues text with a transformers model, computing each token of a shared prefix once.

Scores come from prefix trees (tree.py), or from padded rows if the model does not support a tree mask.
Continuations come from packed rows on a CPU (generate/scheduler.py) and from padded batches on a GPU
(generate/batched.py), or from one prompt at a time if the model supports neither or has a window that is too short.
The model is tested once for all.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from alignbench.models.causal_lm import LARGEST_TREE, NO_MEMORY, attention_span, find_budget, release_cached_memory
from alignbench.models.distributions import entropies, target_logprobs
from alignbench.models.encode import Encoded, Encoder, Tokens, shared_prefix
from alignbench.models.generate.batched import BatchedModel
from alignbench.models.generate.decoding import Decoding, end_tokens
from alignbench.models.generate.probe import why_no_positions, why_not
from alignbench.models.generate.samples import Job
from alignbench.models.generate.scheduler import PackedModel
from alignbench.models.local.tree import Cell, Forward, Prefix, Tree, cut_into_batches, grow_trees, tree_of, why_no_tree
from alignbench.models.onednn import choose_products, products_of
from alignbench.types.engine import Completion, Loglikelihood, Prompt, Request, Sampling


@dataclass(slots=True)
class Text:
    """A distinct token sequence, the requests that spell it, each with the tokens of its context and a note, and if one
    of them needs entropies, or whether its tokens are the most likely ones."""

    tokens: Tokens
    uses: list[tuple[int, int, str | None]]
    entropies: bool = False
    greedy: bool = False

    @property
    def start(self) -> int:
        """The first token that is scored."""
        return min(context for _, context, _ in self.uses)


# (4, tokens): log-probabilities of a text's tokens after its shortest context, both entropies of the distributions that
# they were predicted from, in nats, NaN unless requested, and 1 for the most likely token. None: out of memory
Scores = NDArray[np.float64] | None


@dataclass(repr=False, eq=False)
class LocalEngine:
    """Scores and continues text with a transformers causal language model in evaluation mode, on its device.

    window: maximum sequence length in tokens (None: no limit)
    token_budget: padded tokens per batch; if 0, it follows the free memory
    notify: called with one line of text about events such as a fallback or a reduced budget
    trees, packs: whether the model supports prefix trees, and many prompts at once; None until it is tested
    paged: many prompts are packed rows, and not padded batches
    layout: of the last call
    """

    model: PreTrainedModel
    encoder: Encoder
    window: int | None = None
    token_budget: int = 0
    notify: Callable[[str], None] = lambda _: None
    trees: bool | None = None
    packs: bool | None = None
    paged: bool = True
    layout: str = ""
    scores = True

    def __post_init__(self) -> None:
        model = self.model
        self.budget = find_budget(model)
        self.budget.tokens = self.token_budget or self.budget.tokens
        self.tokens_asked = self.tokens_generated = 0
        self.chat_template = bool(self.encoder.tokenizer.chat_template)
        self.forward, self.packed, self.batched = Forward(model), PackedModel(model), BatchedModel(model, self.notify)
        self.paged = self.forward.device.type == "cpu"
        self._span = attention_span(model)
        self._vocabulary = model.get_input_embeddings().weight.shape[0]
        self._pairs_per_token = 6.0 * getattr(model.config.get_text_config(), "hidden_size", 1024)

    @property
    def vocabulary_sha256(self) -> str:
        """Hash of the tokens and their ids, which does not depend on how the tokenizer's files are formatted."""
        tokens = sorted((number, token) for token, number in self.encoder.tokenizer.get_vocab().items())
        lines = "".join(f"{number} {token}\n" for number, token in tokens)
        return hashlib.sha256(lines.encode("utf-8", errors="surrogatepass")).hexdigest()

    @property
    def tokens_computed(self) -> int:
        """Tokens that went through the model, not counting padding."""
        return sum(part.tokens_computed for part in (self.forward, self.packed, self.batched))

    def weights_changed(self) -> None:
        """Drop what was computed with the old weights, for a model in training."""
        self.forward.cached = None

    def settings(self) -> dict[str, Any]:
        """What was determined on this machine and affects the rounding of the results (see docs/run_folder.md)."""
        found = {"tokens_a_batch": self.budget.tokens, "products": products_of(self.model)}
        # on a CPU, samples do not depend on how many of them are generated at once
        return found if self.paged else found | {"cached_positions": self.budget.positions}

    def restore(self, settings: Mapping[str, Any]) -> None:
        """Compute as the run that began with these settings, however much memory is free now."""
        self.budget.tokens = int(settings["tokens_a_batch"])
        self.budget.positions = int(settings.get("cached_positions", self.budget.positions))
        choose_products(self.model, settings.get("products", products_of(self.model)))

    def work(self) -> dict[str, int | str]:
        """See `Engine.work`. tokens_asked: of all requests and continuations, without any sharing"""
        counts = {name: getattr(self, name) for name in ("tokens_asked", "tokens_computed", "tokens_generated")}
        return counts | {"layout": self.layout, "token_budget": str(self.budget.tokens)}

    def loglikelihood(
        self, requests: Sequence[Request], only: Collection[int] | None = None, *, chat: bool = False
    ) -> Iterator[tuple[int, Loglikelihood]]:
        """See `Engine.loglikelihood`. Requests that do not fit the window are returned unscored."""
        selected = set(range(len(requests)) if only is None else only)
        distinct: dict[bytes, Text] = {}
        windows: dict[int, int] = {}  # of each request
        answers: dict[int, list[Loglikelihood]] = {}
        for index, encoded in enumerate(self._encode(requests, chat)):
            if isinstance(encoded, str):
                if index in selected:
                    yield index, Loglikelihood.failed(encoded)
                continue
            windows[index], answers[index] = len(encoded), []
            for part in encoded:
                self.tokens_asked += (len(part.tokens) - 1) * (index in selected)
                text = distinct.setdefault(part.tokens.tobytes(), Text(part.tokens, []))
                text.uses.append((index, part.context_length, part.note))
                text.entropies |= requests[index].entropies
                text.greedy |= requests[index].greedy
        for text, scores in self._score_texts(list(distinct.values()), selected):
            for index, context, note in text.uses:
                if index in selected:
                    answer = _total(scores, len(text.tokens) - context, requests[index])
                    answers[index].append(replace(answer, note=note))
                    if len(answers[index]) == windows[index]:
                        yield index, _sum(answers.pop(index))

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int = 0, chat: bool = False
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """See `Engine.generate`. Prompts that do not fit the window are returned unscored."""
        tokenizer = self.encoder.tokenizer
        sampling = self.encoder.expecting_thoughts(sampling, chat)
        ends = end_tokens(self.model, tokenizer)
        if chat and self.encoder.end_of_turn is not None:
            ends |= {self.encoder.end_of_turn}
        decoding = Decoding(tokenizer, ends, sampling, seed)
        texts, jobs = [prompt.text for prompt in prompts], list[Job]()
        misfit = partial(self.misfit, new=sampling.most_tokens)
        for index, tokens in enumerate(self.encoder.prompts(texts, chat=chat, misfit=misfit)):
            if isinstance(tokens, str):
                yield index, (Completion.failed(tokens),) * sampling.samples
            else:
                jobs.append(Job(index, prompts[index].key, tokens, [None] * sampling.samples))
        if not jobs:
            return
        batched = self.batched
        many = self.packed.run if self.paged else partial(batched.run, padded=True)
        if self.packs is None:
            reason = why_no_positions(self.model)
            if reason is None and (found := why_not(partial(many, budget=self.budget), self.model, decoding, jobs)):
                rows = "packed rows" if self.paged else "padded batches"
                reason = f"{self.model.config.model_type} does not run on {rows} ({found})"
            self.packs = reason is None
            if reason:
                self.notify(f"{reason}; generating for one prompt at a time")
        together, alone = list[Job](), list[Job]()
        for job in jobs:
            fits = self.packs and len(job.tokens) + sampling.most_tokens <= self._span
            (together if fits else alone).append(job)
        if self.packs and alone:
            self.notify(
                f"generating sequences longer than the attention window of {self._span:.0f} tokens one prompt at a time"
            )
        self.layout = ("packed row" if self.paged else "padded batch") if together else "one prompt at a time"
        one = batched.run(alone, decoding, self.budget, padded=False)
        for job in itertools.chain(many(together, decoding, self.budget), one):
            for completion in job.complete:
                if completion.tokens:
                    self.tokens_asked += len(job.tokens) + len(completion.tokens) - 1
                    self.tokens_generated += len(completion.tokens)
            yield job.index, job.complete

    def logits_of(self, prompt: Tokens, tokens: Sequence[int]) -> torch.Tensor:
        """Logits (tokens, vocabulary) that each of these tokens after a prompt is drawn from."""
        row = tree_of([(0, np.append(prompt, tokens[:-1]).astype(np.int32), 0)])
        return self.forward.logits([row], [(0, at) for at in range(len(prompt) - 1, len(row))], None)

    def _encode(self, requests: Sequence[Request], chat: bool) -> Iterator[list[Encoded] | str]:
        """The token sequences of each request, or the reason why it cannot be scored."""
        pairs = iter(self.encoder.pairs([own for own in requests if not own.rolling], self.misfit, chat=chat))
        for request in requests:
            encoded = self.encoder.rolling(request.continuation, self.window) if request.rolling else next(pairs)
            if isinstance(encoded, list):
                yield next((found for own in encoded if (found := self.misfit(own.tokens))), encoded)
            else:
                yield encoded if isinstance(encoded, str) else [encoded]

    def misfit(self, tokens: Tokens, new: int = 0) -> str | None:
        """The reason why the model cannot continue these tokens by `new` ones, or (0) read all but the last one."""
        if self.window is not None and len(tokens) + (new or -1) > self.window:
            counted = f"{len(tokens)} tokens and {new} new ones" if new else f"{len(tokens) - 1} tokens"
            return f"{counted} do not fit the model's window of {self.window}"
        if tokens.max() >= self._vocabulary:
            return f"token {tokens.max()} of the tokenizer is not in the model's vocabulary of {self._vocabulary}"
        return None

    def _score_texts(self, texts: list[Text], selected: set[int]) -> Iterator[tuple[Text, Scores]]:
        """Plan batches of all texts, and score those batches that contain a selected request."""
        if not texts:
            return
        sequences = {number: text.tokens[:-1] for number, text in enumerate(texts)}
        forest, prefix = self._lay_out(sequences, min(text.start for text in texts))
        needed = {at for at, text in enumerate(texts) if any(index in selected for index, *_ in text.uses)}
        overhead = self.budget.tokens // 32  # starting a batch costs about as much as these tokens
        for rows in cut_into_batches([len(t) for t in forest], self.budget.tokens, overhead):
            batch = [forest[row] for row in rows]
            if any(needed.intersection(t.paths) for t in batch):
                for number, scores in self._within_memory(batch, prefix, texts):
                    yield texts[number], scores

    def _lay_out(self, sequences: dict[int, Tokens], shortest: int) -> tuple[list[Tree], Prefix | None]:
        """The sequences as trees on a cached prefix, or as single rows (prefix None) if the model requires it."""
        if self.trees is None:
            reason = why_no_tree(self.forward, max(sequences.values(), key=len))
            self.trees = reason is None
            if reason:
                self.notify(f"{reason}; using padded rows instead of prefix trees")
        span = min(self._span, self.window or np.inf)
        use_tree = self.trees and max(map(len, sequences.values())) <= span
        if self.trees and not use_tree:
            self.notify(f"using padded rows for sequences longer than the attention window of {span:.0f} tokens")
        self.layout = "prefix tree" if use_tree else "padded rows"
        if not use_tree:
            return [tree_of([(number, tokens, 0)]) for number, tokens in sequences.items()], None
        # the last context token stays in the tree, since its output predicts the first scored token
        tokens = shared_prefix(list(sequences.values()), shortest - 1 if len(sequences) > 1 else 0)
        prefix = Prefix(tokens[:0], [])
        try:
            prefix = self.forward.prefix(tokens)
        except torch.OutOfMemoryError:
            self.notify("the shared prefix does not fit into the device's memory; computing it with every sequence")
        # local attention may count keys instead of positions: within the window, a tree is correct for both
        largest = int(min(self.budget.tokens, LARGEST_TREE, span - len(prefix)))
        return grow_trees(sequences, len(prefix), pairs_per_token=self._pairs_per_token, largest=largest), prefix

    def _within_memory(
        self, batch: list[Tree], prefix: Prefix | None, texts: list[Text]
    ) -> Iterator[tuple[int, Scores]]:
        """Score a batch. If it does not fit into memory, score its halves, and use smaller batches from then on."""
        members = [number for t in batch for number in t.paths]
        if len(batch) * max(map(len, batch)) <= self.budget.tokens or len(members) == 1:
            scored = None
            # after `suppress`, no traceback refers to the tensors of the failed batch
            with suppress(torch.OutOfMemoryError):
                scored = self._score_batch(batch, prefix, texts)
            if scored is not None:
                yield from scored
                return
            release_cached_memory(self.forward.device)
            if len(members) == 1:
                self.notify("a single sequence does not fit into the device's memory: unscored")
                yield members[0], None
                return
            if self.budget.tokens > 1:
                self.budget.tokens //= 2
                self.notify(f"out of memory: token budget halved to {self.budget.tokens}")
        halves = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
        if len(batch) == 1:
            parts = members[: len(members) // 2], members[len(members) // 2 :]
            halves = [grow_trees({n: texts[n].tokens[:-1] for n in part}, len(prefix or ())) for part in parts]
        for half in halves:
            yield from self._within_memory(half, prefix, texts)

    def _score_batch(self, batch: list[Tree], prefix: Prefix | None, texts: list[Text]) -> list[tuple[int, Scores]]:
        """Score each text after its shortest context. Its last token predicts nothing and is not part of the tree."""
        cells: dict[Cell, int] = {}  # position in the batch -> row of the logits
        rows: dict[int, list[int]] = {}  # text -> rows that predict its tokens
        targets: list[int] = []
        for row, t in enumerate(batch):
            for number, path in t.paths.items():
                start = texts[number].start
                nodes = path[start - 1 - len(prefix or ()) :].tolist()
                rows[number] = [cells.setdefault((row, node), len(cells)) for node in nodes]
                targets += texts[number].tokens[start:].tolist()
        logits = self.forward.logits(batch, list(cells), prefix)
        described = sorted({row for number, own in rows.items() if texts[number].entropies for row in own})
        both = np.full((2, len(cells)), np.nan)
        both[:, described] = entropies(logits, described)
        order = [row for own in rows.values() for row in own]
        most_likely = np.full(len(targets), np.nan)
        if any(texts[number].greedy for number in rows):
            most_likely = logits.argmax(-1).cpu().numpy()[order] == np.array(targets)
        logprobs = target_logprobs(logits, order, targets)
        numbers = np.vstack([logprobs, both[:, order], most_likely])
        return list(zip(rows, np.split(numbers, np.cumsum([len(own) for own in rows.values()])[:-1], 1), strict=True))


def _total(scores: Scores, tokens: int, request: Request) -> Loglikelihood:
    """Sum of the last `tokens` log-probabilities, with what else the request asks for."""
    if scores is None:
        return Loglikelihood.failed(NO_MEMORY, tokens)
    total = float(scores[0, -tokens:].sum())
    if not np.isfinite(total):
        return Loglikelihood.failed(f"the log-probability is {total}", tokens)
    whole, top = (tuple(values[-tokens:].tolist()) if request.entropies else () for values in scores[1:3])
    greedy = bool(scores[3, -tokens:].all()) if request.greedy else None
    return Loglikelihood(total, tokens, entropies=whole, top_entropies=top, greedy=greedy)


def _sum(parts: Sequence[Loglikelihood]) -> Loglikelihood:
    """The answer for a text, from those for its windows."""
    whole = next((part for part in parts if part.unscored or len(parts) == 1), None)
    return whole or Loglikelihood(math.fsum(part.logprob for part in parts), sum(part.tokens for part in parts))
