"""Scheduling of packed generation, and a test of whether a model supports it.

Each step computes one packed row (packed.py): a new token of every running sample, and as many tokens of the next
prompts as the token budget allows. A sample that ends leaves at once, and the next one takes its place. A sample
depends only on its prompt and its own random numbers, so the schedule does not affect the results.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignbench.models.causal_lm import TOLERANCE, devices_of, find_rows, release_cached_memory, takes_positions
from alignbench.models.distributions import draw
from alignbench.models.encode import Tokens, shared_prefix
from alignbench.models.generate.decoding import Decoding
from alignbench.models.generate.packed import PAGE, Block, PackedModel, Pages, Part, trimmed
from alignbench.models.generate.samples import NO_MEMORY, Job, Pool, Sample
from alignbench.types.engine import Completion, Sampling

LEAST_PREFIX = 16  # tokens: a shorter shared prefix is not worth its own pages
LEAST_PREFILL = 64  # prompt tokens per step, however many samples run


class Prefix(NamedTuple):  # of every prompt of a call
    tokens: Tokens
    pages: Pages


NO_PREFIX = Prefix(np.empty(0, np.int32), Pages())


@dataclass
class Scheduler:
    """token_budget: tokens per step; most_rows: samples that run at once; if None, it follows the free memory"""

    packed: PackedModel
    token_budget: int
    notify: Callable[[str], None]
    most_rows: int | None = None
    page: int = PAGE
    least_prefix: int = LEAST_PREFIX

    def run(self, jobs: Sequence[Job], decoding: Decoding) -> Iterator[Job]:
        """Continue the jobs, and yield each one when all its samples are complete."""
        if jobs:
            run = _Run(self, jobs, decoding, self._shared_prefix([job.tokens for job in jobs]))
            while run.waiting or run.filling or run.ready or run.rows:
                yield from run.step()

    def _shared_prefix(self, prompts: list[Tokens]) -> Prefix:
        # the last prompt token is not part of it: its output predicts the first new one
        common = shared_prefix(prompts, min(map(len, prompts)) - 1 if len(prompts) > 1 else 0)
        if len(common) < self.least_prefix:
            return NO_PREFIX
        pages = Pages(-(-len(common) // self.page), self.page)
        try:
            for start in range(0, len(common), self.token_budget):
                stop = min(len(common), start + self.token_budget)
                blocks = self.blocks(start, stop, 0, [], pages, 0)
                self.packed.logits(common[start:stop].astype(np.int64), np.arange(start, stop), [], blocks)
        except torch.OutOfMemoryError:
            release_cached_memory(self.packed.device)
            self.notify("the shared prefix does not fit into the device's memory; computing it with every prompt")
            return NO_PREFIX
        return Prefix(common, pages)

    def blocks(
        self, start: int, stop: int, column: int, shared: list[Part], own: Pages, first_page: int
    ) -> list[Block]:
        """Cut positions start … stop − 1 of a prompt, from `column` on in the packed row, at page boundaries.
        `shared` are the pages before its own, which begin with page `first_page` of the sequence."""
        blocks = []
        while start < stop:
            number, offset = divmod(start, self.page)
            count = min(stop - start, self.page - offset)
            seen = torch.arange(trimmed(offset + count, self.page)) <= offset + torch.arange(count)[:, None]
            mask = torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf).to(self.packed.device)
            before = number - first_page
            parts = shared + ([Part(own, 0, before, first_page)] if before else [])
            parts.append(Part(own, before, 1, number, mask=mask, offset=offset))
            blocks.append(Block(slice(column, column + count), number + 1, parts))
            start, column = start + count, column + count
        return blocks


class _Run:
    """One call. Samples wait, are prefilled with their prompt, are ready to run, and run."""

    def __init__(self, scheduler: Scheduler, jobs: Sequence[Job], decoding: Decoding, prefix: Prefix) -> None:
        self.scheduler, self.packed, self.page = scheduler, scheduler.packed, scheduler.page
        self.jobs, self.decoding, self.prefix = jobs, decoding, prefix
        self.shared_pages = len(prefix.tokens) // self.page
        self.shared = [Part(prefix.pages, 0, self.shared_pages, 0)] if self.shared_pages else []
        longest = max(len(job.tokens) for job in jobs) + decoding.sampling.most_tokens - self.shared_pages * self.page
        self.width = trimmed(longest, self.page)
        self.most_rows = scheduler.most_rows or find_rows(self.packed.model, longest)
        self._begin()

    def _begin(self) -> None:
        self.waiting = deque(job for job in self.jobs if job.missing)
        for job in self.waiting:
            job.together, job.done, job.pages = job.missing, len(self.prefix.tokens), Pages()
        self.filling: deque[Job] = deque()
        self.ready: deque[Sample] = deque()
        self.rows: list[Sample] = []
        dense = self.packed.device.type == "cpu" and self.packed.model.dtype.itemsize < 4
        self.pool = Pool(self.page, self.width, self.packed.device, dense)

    @torch.inference_mode()
    def step(self) -> list[Job]:
        """Compute one packed row, draw from it, and return the jobs that this completes."""
        try:
            self._start_samples()
            prompts = self._next_prompts()
            if not self.rows and not prompts:
                return []
            filled = [job for job, stop in prompts if stop == len(job.tokens)]
            logits, sources = self._compute(prompts)
            begun = [sample for job in filled for sample in job.samples(job.together, self.decoding.seed)]
            samples, running = self.rows + begun, len(self.rows)
            drawn = draw(logits, sources, [sample.stream for sample in samples], self.decoding.sampling)
        except torch.OutOfMemoryError:
            release_cached_memory(self.packed.device)
            return self._restart()
        for job, stop in prompts:
            job.done = stop
        for job in filled:
            self.filling.remove(job)
            job.start = len(job.tokens) // self.page if len(job.together) > 1 else self.shared_pages
        for row in self.rows:
            row.length += 1
        self.rows, done = [], []
        for place, (sample, token) in enumerate(zip(samples, drawn, strict=True)):
            if sample.append(token, self.decoding) is None:
                (self.rows if place < running else self.ready).append(sample)
                continue
            self.pool.release(sample)
            if not sample.job.missing:
                sample.job.pages = Pages()
                done.append(sample.job)
        return done

    def _start_samples(self) -> None:
        """Give ready samples their pages, as many as may run."""
        while self.ready and len(self.rows) < self.most_rows:
            job = self.ready[0].job
            together: list[Sample] = []
            while self.ready and self.ready[0].job is job and len(self.rows) + len(together) < self.most_rows:
                together.append(self.ready.popleft())
            length = len(job.tokens)
            for number in range(job.start, -(-length // self.page)):
                used = min(self.page, length - number * self.page)
                self.pool.copy(together, job.pages, number - self.shared_pages, used)
            for sample in together:
                sample.length = length
            self.rows += together
            if job.start == self.shared_pages and not any(sample.job is job for sample in self.ready):
                job.pages = Pages()  # every sample has a copy

    def _next_prompts(self) -> list[tuple[Job, int]]:
        """The prompts of the next step, and the position up to which it computes each."""
        prompts: list[tuple[Job, int]] = []
        budget = self.scheduler.token_budget
        left = max(budget - len(self.rows), min(LEAST_PREFILL, budget))
        promised = len(self.rows) + len(self.ready) + sum(len(job.together) for job in self.filling)
        while left > 0:
            if len(prompts) == len(self.filling):
                if not self.waiting or promised >= self.most_rows:
                    break
                self.filling.append(self.waiting.popleft())
                promised += len(self.filling[-1].together)
            job = self.filling[len(prompts)]
            stop = min(len(job.tokens), job.done + left)
            left -= stop - job.done
            prompts.append((job, stop))
        return prompts

    def _compute(self, prompts: list[tuple[Job, int]]) -> tuple[torch.Tensor, list[int]]:
        """Run the model. Returns logits, and the row of each running sample and of each sample of a filled prompt."""
        column = len(self.rows)
        blocks = [self.pool.block(self.rows, self.shared, self.shared_pages)] if self.rows else []
        tokens = [np.array([row.tokens[-1] for row in self.rows], np.int64)]
        positions = [np.array([row.length for row in self.rows], np.int64)]
        outputs, sources = list(range(column)), list(range(column))  # columns with logits, and rows of these
        for job, stop in prompts:
            if not job.pages.count:  # the first one begins with the part of the shared prefix that lies on it
                length = len(job.tokens) - self.shared_pages * self.page
                job.pages = Pages(-(-length // self.page), trimmed(length, self.page))
                if rest := len(self.prefix.tokens) % self.page:
                    job.pages.copy([0], self.prefix.pages, self.shared_pages, rest)
            blocks += self.scheduler.blocks(job.done, stop, column, self.shared, job.pages, self.shared_pages)
            tokens.append(job.tokens[job.done : stop].astype(np.int64))
            positions.append(np.arange(job.done, stop))
            column += stop - job.done
            if stop == len(job.tokens):
                sources += [len(outputs)] * len(job.together)
                outputs.append(column - 1)
        return self.packed.logits(np.concatenate(tokens), np.concatenate(positions), outputs, blocks), sources

    def _restart(self) -> list[Job]:
        """After running out of memory, generate all incomplete samples again, with fewer samples or tokens at once.
        If nothing is left to reduce, a job is left unscored and returned."""
        scheduler, failed = self.scheduler, list[Job]()
        running = len(self.rows) or min(len(self.ready), self.most_rows)
        if running > 1:
            self.most_rows = scheduler.most_rows = running // 2
            scheduler.notify(f"out of memory: at most {self.most_rows} samples at once from now on")
        elif self.filling and scheduler.token_budget > LEAST_PREFILL // 4:
            scheduler.token_budget //= 2
            scheduler.notify(f"out of memory: {scheduler.token_budget} tokens per step from now on")
        else:
            job = self.filling[0] if self.filling else (self.rows or self.ready)[0].job
            job.completions = [completion or Completion.failed(NO_MEMORY) for completion in job.completions]
            scheduler.notify("a single prompt does not fit into the device's memory: unscored")
            failed.append(job)
        self._begin()
        return failed


def why_not_packed(packed: PackedModel, tokenizer: PreTrainedTokenizerBase, tokens: Tokens) -> str | None:
    """None if packed rows of these tokens give the log-probabilities of the unmodified model, or else the reason."""
    model = packed.model
    kind = model.config.model_type
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    types = [part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)]
    if {"dynamic", "longrope"}.intersection(types):  # they depend on the longest sequence of the batch
        return f"{kind} scales its position embeddings by the length of the sequence"
    if not takes_positions(model):
        return f"{kind} takes no position ids"
    if len(devices_of(model)) > 1:
        return f"{kind} is spread over several devices"
    tokens = np.resize(tokens, 12)
    prompts = [tokens[:7], np.concatenate([tokens[:4], tokens[8:], tokens[:2]])]
    jobs = [Job(index, "probe", prompt, [None, None]) for index, prompt in enumerate(prompts)]
    scheduler = Scheduler(packed, token_budget=8, notify=lambda _: None, most_rows=3, least_prefix=2)
    decoding = Decoding(tokenizer, (), Sampling(max_tokens=3, samples=2, temperature=1.0))
    try:
        list(scheduler.run(jobs, decoding))
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError) as error:
        return f"{kind} does not run on packed rows ({type(error).__name__})"
    found = [(job.tokens, own) for job in jobs for own in job.complete if own.unscored is None]
    worst = max((_difference(model, *pair) for pair in found), default=0.0)
    if worst > 4 * TOLERANCE[model.dtype]:  # of single tokens, not means over the vocabulary
        return f"{kind} does not run on packed rows (log-probabilities differ by {worst:.2g} nats)"
    return None


@torch.inference_mode()
def _difference(model: PreTrainedModel, prompt: Tokens, completion: Completion) -> float:
    """Largest difference of log-probabilities and entropies from the unmodified model, in nats."""
    ids = torch.tensor([[*prompt.tolist(), *completion.tokens]], device=devices_of(model)[0])
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits[0, len(prompt) - 1 :]
    logprobs = torch.log_softmax(logits.float(), -1)
    chosen = logprobs.gather(-1, ids[0, len(prompt) :, None])[:, 0]
    expected = torch.cat([chosen, torch.special.entr(logprobs.exp()).sum(-1)]).cpu()
    return float((torch.tensor(completion.logprobs + completion.entropies) - expected).abs().max())
