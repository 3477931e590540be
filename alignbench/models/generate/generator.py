"""Generation with a local model: encode the prompts, check that they fit, and choose packed or sequential generation.

Packed rows (scheduler.py) are used for models whose attention can be replaced, tested once against the unmodified
model. Other models, and sequences beyond a sliding window, are generated sequentially (sequential.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignbench.models.causal_lm import attention_span, tolerance
from alignbench.models.encode import Encoder, Tokens
from alignbench.models.generate.decoding import Decoding, end_tokens
from alignbench.models.generate.packed import PackedModel
from alignbench.models.generate.samples import Job
from alignbench.models.generate.scheduler import Scheduler
from alignbench.models.generate.sequential import SequentialModel
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
        decoding = Decoding(tokenizer, end_tokens(self.model, tokenizer), sampling, seed)
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

    def _misfit(self, tokens: Tokens, new: int) -> str | None:
        if self.window is not None and len(tokens) + new > self.window:
            return f"{len(tokens)} tokens and {new} new ones do not fit the model's window of {self.window}"
        if tokens.max() >= self._vocabulary:
            return f"token {tokens.max()} of the tokenizer is not in the model's vocabulary of {self._vocabulary}"
        return None

    def _answer(self, job: Job) -> tuple[int, tuple[Completion, ...]]:
        for completion in job.complete:
            if completion.tokens:
                self.tokens_asked += len(job.tokens) + len(completion.tokens) - 1
                self.tokens_generated += len(completion.tokens)
        return job.index, job.complete


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


def why_not_packed(packed: PackedModel, tokenizer: PreTrainedTokenizerBase, tokens: Tokens) -> str | None:
    """None if packed rows of these tokens give the log-probabilities of the unmodified model, or else the reason.

    The test has a shared prefix, two prompts and two samples of each, like real calls.
    """
    model = packed.model
    kind = model.config.model_type
    if not getattr(model, "_supports_attention_backend", False):
        return f"{kind} does not support a custom attention function"
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return f"{kind} takes no position ids"
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    for parameters in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if parameters.get("rope_type") in ("dynamic", "longrope"):  # they depend on the longest sequence of the batch
            return f"{kind} scales its position embeddings by the length of the sequence"
    tokens = np.resize(tokens, 12)
    prompts = [tokens[:7], np.concatenate([tokens[:4], tokens[8:], tokens[:2]])]
    jobs = [Job(index, "probe", prompt, [None, None]) for index, prompt in enumerate(prompts)]
    scheduler = Scheduler(packed, token_budget=8, notify=lambda _: None, most_rows=3, least_prefix=2)
    decoding = Decoding(tokenizer, (), Sampling(max_tokens=3, samples=2, temperature=1.0))
    before = packed.tokens_computed
    try:
        list(scheduler.run(jobs, decoding))
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError, AssertionError) as error:
        return f"{kind} does not run on packed rows ({type(error).__name__})"
    finally:
        packed.tokens_computed = before
    found = [(job.tokens, completion) for job in jobs for completion in job.complete if completion.unscored is None]
    worst = max((_difference(model, *pair) for pair in found), default=0.0)
    if worst > 4 * tolerance(model):  # of single tokens, not means over the vocabulary
        return f"{kind} does not run on packed rows (log-probabilities differ by {worst:.2g} nats)"
    return None


@torch.inference_mode()
def _difference(model: PreTrainedModel, prompt: Tokens, completion: Completion) -> float:
    """Largest difference of log-probabilities and entropies from the unmodified model, in nats."""
    ids = torch.tensor([[*prompt.tolist(), *completion.tokens]], device=model.device)
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits[0, len(prompt) - 1 :]
    logprobs = torch.log_softmax(logits.float(), -1)
    chosen = logprobs.gather(-1, ids[0, len(prompt) :, None])[:, 0]
    expected = torch.cat([chosen, torch.special.entr(logprobs.exp()).sum(-1)]).cpu()
    return float((torch.tensor(completion.logprobs + completion.entropies) - expected).abs().max())
