"""Continuing prompts with a local model: encode, see what fits, choose the way, hand the completions out.

Packed rows (schedule.py) are the way for models whose attention can be replaced, tried once against the model as it
is; for others, and for sequences beyond a sliding window, the plain one (plain.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from alignbench.errors import AlignbenchError
from alignbench.models.encode import Encoder
from alignbench.models.jobs import Job, unscored
from alignbench.models.packed import PackedModel, why_not_packed
from alignbench.models.plain import PlainModel, run_plainly
from alignbench.models.probe import AGREEMENT, attention_span
from alignbench.models.schedule import Generator
from alignbench.models.stopping import Ending, end_tokens
from alignbench.models.tree import Tokens
from alignbench.types.engine import Completion, Prompt, Sampling


class Writer:
    """Continues prompts with one model.

    window: the longest sequence that the model takes, in tokens (None: no limit)
    misfit: why the model cannot read given tokens, if it cannot
    most_rows: samples that run at once; found from the free memory if None
    pack: False takes the plain way for all, which is the reference
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
        self.plain = PlainModel(model)
        self.generator = Generator(self.packed, token_budget=token_budget, most_rows=most_rows, notify=notify)
        self.tokens_asked = 0  # what each continuation alone would have computed
        self.tokens_generated = 0
        self.layout = "packed row"  # of the last call; else "one prompt at a time"
        self._packs: bool | None = None if pack else False
        self._span = attention_span(model)
        self._vocabulary = model.get_input_embeddings().num_embeddings

    @property
    def tokens_computed(self) -> int:
        """Tokens that went through the model."""
        return self.packed.tokens_computed + self.plain.tokens_computed

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, chat: bool
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """See `Engine.generate`. Prompts that do not fit the window come back unscored."""
        check(sampling)
        jobs: list[Job] = []
        for index, tokens in enumerate(self._encode([prompt.text for prompt in prompts], chat)):
            if failure := self._misfit(tokens, sampling.max_tokens):
                yield index, (unscored(failure),) * sampling.samples
            elif tokens is not None:
                jobs.append(Job(index, prompts[index].key, tokens, [None] * sampling.samples))
        if not jobs:
            return
        ending = Ending(
            self.encoder.tokenizer,
            end_tokens(self.model, self.encoder.tokenizer),
            sampling.stop,
            sampling.max_tokens,
        )
        if self._packs is None:
            reason = self._why_not_packed(jobs[0].tokens)
            self._packs = reason is None
            if reason:
                self.notify(f"{reason}: one prompt at a time, not packed rows")
        short = [job for job in jobs if self._packs and len(job.tokens) + sampling.max_tokens <= self._span]
        if self._packs and len(short) < len(jobs):
            self.notify(f"sequences longer than the attention window of {self._span:.0f} tokens: one prompt at a time")
        self.layout = "packed row" if short else "one prompt at a time"
        for job in self.generator.run(short, sampling, ending, seed):
            yield self._answer(job)
        packed = set(map(id, short))
        for job in jobs:
            if id(job) not in packed:
                run_plainly(self.plain, job, sampling, ending, seed, self.notify)
                yield self._answer(job)

    def _encode(self, texts: list[str], chat: bool) -> Sequence[Tokens | None]:
        if not chat:
            return self.encoder.contexts(texts)
        if not self.encoder.tokenizer.chat_template:
            raise AlignbenchError("the tokenizer has no chat template: ask without one")
        return self.encoder.chats(texts)

    def _misfit(self, tokens: Tokens | None, new: int) -> str | None:
        if tokens is None:
            return "the tokenizer has no token that could begin an empty prompt"
        if not len(tokens):
            return "the prompt has no tokens"
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

    def _why_not_packed(self, tokens: Tokens) -> str | None:
        """None where packed rows, tried on a few tokens, give the log-probabilities of the model as it is.

        What is tried has what real calls have: a shared prefix, two prompts, two samples of each.
        """
        kind = self.model.config.model_type
        if reason := why_not_packed(self.model):
            return reason
        tokens = np.resize(tokens, 12)
        prompts = [tokens[:7], np.concatenate([tokens[:4], tokens[8:], tokens[:2]])]
        jobs = [Job(index, "probe", prompt, [None, None]) for index, prompt in enumerate(prompts)]
        trial = Generator(self.packed, token_budget=8, most_rows=3, notify=self.notify, least_prefix=2)
        ending = Ending(self.encoder.tokenizer, (), (), 3)
        before = self.packed.tokens_computed
        try:
            done = list(trial.run(jobs, Sampling(max_tokens=3, samples=2, temperature=1.0), ending, 0))
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError, AssertionError) as error:
            return f"{kind} does not run on packed rows ({type(error).__name__})"
        finally:
            self.packed.tokens_computed = before
        differences = [
            abs(found - expected)
            for job in done
            for completion in job.answer()[1]
            if completion.unscored is None
            for found, expected in zip(
                completion.logprobs + completion.entropies, self._reference(job.tokens, completion.tokens), strict=True
            )
        ]
        worst = max(differences, default=0.0)
        if worst > 4 * AGREEMENT.get(self.model.dtype, 1e-3):  # of single tokens, not means over the vocabulary
            return f"{kind} does not run on packed rows (log-probabilities differ by {worst:.2g} nats)"
        return None

    @torch.inference_mode()
    def _reference(self, prompt: Tokens, new: tuple[int, ...]) -> list[float]:
        """Log-probabilities of the new tokens and then the entropies, from the model as it is."""
        ids = torch.tensor([[*prompt.tolist(), *new[:-1]]], device=self.model.device)
        logits = self.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 :]
        logprobs = torch.log_softmax(logits.float(), -1)
        chosen = logprobs.gather(-1, torch.tensor(new, device=logprobs.device)[:, None])[:, 0]
        return [*chosen.tolist(), *torch.special.entr(logprobs.exp()).sum(-1).tolist()]


def check(sampling: Sampling) -> None:
    """Raises ValueError for a sampling that makes no sense."""
    if sampling.max_tokens < 1 or sampling.samples < 1:
        raise ValueError(f"{sampling.samples} samples of {sampling.max_tokens} tokens: at least one of each")
    if not 0 <= sampling.temperature < float("inf"):
        raise ValueError(f"temperature {sampling.temperature}: a number of 0 or more")
    if sampling.temperature == 0 and sampling.samples > 1:
        raise ValueError(f"{sampling.samples} samples at temperature 0 would be the same: ask for one")
    if not 0 < sampling.top_p <= 1:
        raise ValueError(f"top_p {sampling.top_p}: above 0 and at most 1")
    if "" in sampling.stop:
        raise ValueError("an empty stop string is in every text")
