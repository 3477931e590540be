"""Generation with a local model: encode the prompts, check that they fit, and choose packed or sequential generation.

Packed rows (scheduler.py) are used for models whose attention can be replaced, tested once against the unmodified
model. Other models, and sequences beyond a sliding window, are generated sequentially (sequential.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from transformers import PreTrainedModel

from alignbench.models.causal_lm import attention_span
from alignbench.models.encode import Encoder, Tokens
from alignbench.models.generate.packed import PackedModel
from alignbench.models.generate.probe import why_not_packed
from alignbench.models.generate.samples import Job
from alignbench.models.generate.scheduler import Scheduler
from alignbench.models.generate.sequential import SequentialModel
from alignbench.models.generate.stopping import Ending, end_tokens
from alignbench.types.engine import Completion, Prompt, Sampling


class Generator:
    """Continues prompts with one model.

    window: maximum sequence length in tokens (None: no limit)
    token_budget: tokens per step of packed generation
    most_rows: samples that run at once; if None, it follows the free memory
    pack: False generates everything sequentially, as a reference
    """

    def __init__(
        self,
        model: PreTrainedModel,
        encoder: Encoder,
        *,
        window: int | None,
        token_budget: int,
        notify: Callable[[str], None],
        most_rows: int | None = None,
        pack: bool = True,
    ) -> None:
        self.model = model
        self.encoder = encoder
        self.window = window
        self.notify = notify
        self.packed = PackedModel(model)
        self.sequential = SequentialModel(model)
        self.scheduler = Scheduler(self.packed, token_budget, notify, most_rows)
        self.tokens_asked = 0  # tokens of all continuations without sharing
        self.tokens_generated = 0
        self.layout = "packed row"  # of the last call; or "one prompt at a time"
        self._packs: bool | None = None if pack else False  # None: not tested yet
        self._span = attention_span(model)
        self._vocabulary = model.get_input_embeddings().num_embeddings

    @property
    def tokens_computed(self) -> int:
        """Tokens that went through the model."""
        return self.packed.tokens_computed + self.sequential.tokens_computed

    def clear(self) -> None:
        """Drop the cached prefix, after a change of the weights."""
        self.scheduler.prefix = None

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, chat: bool
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """See `Engine.generate`. Prompts that do not fit the window are returned unscored."""
        check(sampling)
        jobs: list[Job] = []
        for index, tokens in enumerate(self.encoder.prompts([prompt.text for prompt in prompts], chat=chat)):
            reason = tokens if isinstance(tokens, str) else self._misfit(tokens, sampling.max_tokens)
            if reason or isinstance(tokens, str):
                yield index, (Completion.failed(str(reason)),) * sampling.samples
            else:
                jobs.append(Job(index, prompts[index].key, tokens, [None] * sampling.samples))
        if not jobs:
            return
        tokenizer = self.encoder.tokenizer
        ending = Ending(tokenizer, end_tokens(self.model, tokenizer), sampling)
        if self._packs is None:
            reason = why_not_packed(self.packed, tokenizer, jobs[0].tokens)
            self._packs = reason is None
            if reason:
                self.notify(f"{reason}; generating for one prompt at a time instead of packed rows")
        fits = [self._packs and len(job.tokens) + sampling.max_tokens <= self._span for job in jobs]
        if self._packs and not all(fits):
            self.notify(
                f"generating sequences longer than the attention window of {self._span:.0f} tokens one prompt at a time"
            )
        self.layout = "packed row" if any(fits) else "one prompt at a time"
        packed = [job for job, fit in zip(jobs, fits, strict=True) if fit]
        for job in self.scheduler.run(packed, sampling, ending, seed):
            yield self._answer(job)
        for job, fit in zip(jobs, fits, strict=True):
            if not fit:
                self.sequential.complete(job, job.missing, sampling, ending, seed, self.notify)
                yield self._answer(job)

    def _misfit(self, tokens: Tokens, new: int) -> str | None:
        if self.window is not None and len(tokens) + new > self.window:
            return f"{len(tokens)} tokens and {new} new ones do not fit the model's window of {self.window}"
        if tokens.max() >= self._vocabulary:
            return f"token {tokens.max()} of the tokenizer is not in the model's vocabulary of {self._vocabulary}"
        return None

    def _answer(self, job: Job) -> tuple[int, tuple[Completion, ...]]:
        index, completions = job.answer()
        for completion in completions:
            if completion.tokens:
                self.tokens_asked += len(job.tokens) + len(completion.tokens) - 1
                self.tokens_generated += len(completion.tokens)
        return index, completions


def check(sampling: Sampling) -> None:
    """Raise ValueError for invalid sampling parameters."""
    if sampling.max_tokens < 1 or sampling.samples < 1:
        raise ValueError(f"{sampling.samples} samples of {sampling.max_tokens} tokens: must be at least one of each")
    if not 0 <= sampling.temperature < float("inf"):
        raise ValueError(f"temperature {sampling.temperature}: must be at least 0")
    if sampling.temperature == 0 and sampling.samples > 1:
        raise ValueError(f"{sampling.samples} samples at temperature 0 would be equal; request one")
    if not 0 < sampling.top_p <= 1:
        raise ValueError(f"top_p {sampling.top_p}: must be above 0 and at most 1")
    if "" in sampling.stop:
        raise ValueError("an empty stop string matches every text")
