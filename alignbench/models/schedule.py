"""Continuing prompts: which tokens go through the model together, what is drawn from them, when each sample ends.

`Generator.run` reads top to bottom: the prefix that all prompts share is computed once, then step by step one packed
row (packed.py) of a new token for every running sample and as much of the next prompts as the token budget allows. A
prompt is computed once for all its samples. A sample that ends leaves at once, and the next one takes its place.
What a sample draws depends on the prompt and its own random numbers alone, so none of this shows in the results.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import numpy as np
import torch

from alignbench.models import tree as trees
from alignbench.models.jobs import NO_MEMORY, NOT_FINITE, Filling, Job, Sample, unscored
from alignbench.models.memory import find_rows, free_cached
from alignbench.models.packed import PackedModel
from alignbench.models.pages import PAGE, Pages, Piece, Segment, Step, trimmed
from alignbench.models.pool import Pool
from alignbench.models.sampling import Drawn, Stream, draw
from alignbench.models.stopping import Ending
from alignbench.models.tree import Tokens
from alignbench.types.engine import Completion, Sampling

LEAST_PREFIX = 16  # tokens: a shorter one is not worth pages of its own
LEAST_PREFILL = 64  # prompt tokens of a step, however many samples run


class Prefix:
    """Tokens that every prompt of a call begins with, and their pages."""

    def __init__(self, tokens: Tokens, pages: Pages) -> None:
        self.tokens = tokens
        self.pages = pages


class Generator:
    """Packed generation with one model. The last shared prefix is kept for the next call.

    token_budget: tokens of one step
    most_rows: samples that run at once; found from the free memory if None
    """

    def __init__(
        self,
        packed: PackedModel,
        *,
        token_budget: int,
        most_rows: int | None = None,
        notify: Callable[[str], None],
        page: int = PAGE,
        least_prefix: int = LEAST_PREFIX,
    ) -> None:
        self.packed = packed
        self.token_budget = token_budget
        self.most_rows = most_rows
        self.notify = notify
        self.page = page
        self.least_prefix = least_prefix
        self._prefix: Prefix | None = None

    def forget(self) -> None:
        """Drop the shared prefix: it was computed with weights that have changed."""
        self._prefix = None

    def run(self, jobs: Sequence[Job], sampling: Sampling, ending: Ending, seed: int) -> Iterator[Job]:
        """Continue the jobs, and yield each when all its continuations are there."""
        if not jobs:
            return
        prefix = self._shared_prefix([job.tokens for job in jobs])
        run = _Run(self, prefix, jobs, sampling, ending, seed)
        while not run.finished:
            yield from run.step()

    def _shared_prefix(self, prompts: list[Tokens]) -> Prefix | None:
        # the last prompt token stays out: its output predicts the first new one
        longest = min(map(len, prompts)) - 1
        common = trees.shared_prefix(prompts, longest) if len(prompts) > 1 else prompts[0][:0]
        kept = self._prefix
        if (
            kept is not None
            and len(kept.tokens) <= longest
            and len(kept.tokens) >= len(common) - self.least_prefix
            and all(np.array_equal(tokens[: len(kept.tokens)], kept.tokens) for tokens in prompts)
        ):
            return kept
        if len(common) < self.least_prefix:
            return None
        self._prefix = None  # its memory first
        pages = Pages(-(-len(common) // self.page), self.page)
        try:
            for start in range(0, len(common), self.token_budget):
                stop = min(len(common), start + self.token_budget)
                segment = Segment(None, 0, pages, self._pieces(start, stop, 0, 0))
                self.packed.logits(
                    common[start:stop].astype(np.int64), np.arange(start, stop), [], Step(None, [segment])
                )
        except torch.OutOfMemoryError:
            free_cached(self.packed.device)
            self.notify("the shared prefix does not fit into the device's memory: computed with every prompt")
            return None
        self._prefix = Prefix(common, pages)
        return self._prefix

    def _pieces(self, start: int, stop: int, column: int, first_page: int) -> list[Piece]:
        """Cut positions start … stop − 1, from `column` on in the packed row, at the page boundaries."""
        pieces = []
        while start < stop:
            offset = start % self.page
            count = min(stop - start, self.page - offset)
            width = trimmed(offset + count, self.page)
            seen = torch.arange(width) <= offset + torch.arange(count)[:, None]
            mask = torch.zeros((count, width)).masked_fill_(~seen, -torch.inf).to(self.packed.device)
            pieces.append(Piece(column, column + count, start // self.page - first_page, offset, mask))
            start, column = start + count, column + count
        return pieces


class _Run:
    """One call: prompts that wait, are being computed, have samples ready to run, and the samples that run."""

    def __init__(
        self,
        generator: Generator,
        prefix: Prefix | None,
        jobs: Sequence[Job],
        sampling: Sampling,
        ending: Ending,
        seed: int,
    ) -> None:
        self.generator = generator
        self.packed = generator.packed
        self.page = generator.page
        self.prefix = prefix
        self.sampling = sampling
        self.ending = ending
        self.seed = seed
        self.prefix_length = 0 if prefix is None else len(prefix.tokens)
        self.shared_pages = self.prefix_length // self.page
        self.waiting = deque(Filling(job, list(range(sampling.samples)), self.prefix_length) for job in jobs)
        self.filling: deque[Filling] = deque()
        self.ready: deque[Sample] = deque()
        self.rows: list[Sample] = []
        self.token_budget = generator.token_budget
        own = max(len(job.tokens) for job in jobs) + sampling.max_tokens - self.shared_pages * self.page
        self.most_rows = generator.most_rows or find_rows(self.packed.model, own)
        model = generator.packed.model
        self.pool = Pool(self.page, trimmed(own, self.page), generator.packed.device, model.dtype.itemsize)

    @property
    def finished(self) -> bool:
        return not (self.waiting or self.filling or self.ready or self.rows)

    @torch.inference_mode()
    def step(self) -> list[Job]:
        """Compute one packed row, draw from it, and return the jobs that this completes."""
        try:
            self._start_samples()
            segments, filled = self._segments()
            if not self.rows and not segments:
                return []
            logits, drawn_from = self._compute(segments, filled)
            streams = [Stream(self.seed, f.job.key, n) for f in filled for n in f.numbers]
            drawn = draw(
                logits,
                drawn_from,
                [row.stream for row in self.rows] + streams,
                temperature=self.sampling.temperature,
                top_p=self.sampling.top_p,
                top=self.sampling.top_entropies,
            )
        except torch.OutOfMemoryError:
            free_cached(self.packed.device)
            return self._make_room()
        for filling, segment in segments:
            filling.done += sum(piece.stop - piece.start for piece in segment.pieces)
        for row in self.rows:
            row.length += 1
        begun = [Sample(filling, number, stream) for (filling, number), stream in zip(
            ((f, n) for f in filled for n in f.numbers), streams, strict=True
        )]  # fmt: skip
        for filling in filled:
            self.filling.remove(filling)
            filling.left = len(filling.numbers)
            whole = len(filling.job.tokens) // self.page
            filling.start = whole if len(filling.numbers) > 1 else self.shared_pages
        running, done = self.rows, []
        self.rows = []
        for place, sample in enumerate([*running, *begun]):
            completion = self._extend(sample, drawn, place)
            if completion is None:
                (self.rows if place < len(running) else self.ready).append(sample)
                continue
            self.pool.release(sample, clean=completion.unscored is not None)
            sample.filling.left -= 1
            if not sample.filling.left:
                sample.filling.own = None
            job = sample.filling.job
            job.completions[sample.number] = completion
            if job.done:
                done.append(job)
        return done

    # ---- what the next step computes -----------------------------------------------------------------------

    def _start_samples(self) -> None:
        """Give ready samples their pages, as many as may run."""
        while self.ready and len(self.rows) < self.most_rows:
            filling = self.ready[0].filling
            together: list[Sample] = []
            while self.ready and self.ready[0].filling is filling and len(self.rows) + len(together) < self.most_rows:
                together.append(self.ready.popleft())
            try:
                self._start(together, filling)
            except torch.OutOfMemoryError:
                for sample in together:
                    self.pool.release(sample)
                self.ready.extendleft(reversed(together))
                raise
            self.rows += together

    def _start(self, samples: list[Sample], filling: Filling) -> None:
        assert filling.own is not None
        length, first = len(filling.job.tokens), self.shared_pages
        for number in range(filling.start, -(-length // self.page)):
            self.pool.take(samples, filling.own, number - first, min(self.page, length - number * self.page))
        for sample in samples:
            sample.length = length
        if filling.start == first and not any(sample.filling is filling for sample in self.ready):
            filling.own = None

    def _segments(self) -> tuple[list[tuple[Filling, Segment]], list[Filling]]:
        """The prompt tokens of the next step, and which prompts are then complete."""
        segments: list[tuple[Filling, Segment]] = []
        filled: list[Filling] = []
        column = len(self.rows)
        left = max(self.token_budget - column, min(LEAST_PREFILL, self.token_budget))
        promised = len(self.rows) + len(self.ready) + sum(len(filling.numbers) for filling in self.filling)
        while left > 0:
            if len(segments) == len(self.filling):
                if not self.waiting or promised >= self.most_rows:
                    break
                self.filling.append(self.waiting.popleft())
                promised += len(self.filling[-1].numbers)
            filling = self.filling[len(segments)]
            own = self._own_pages(filling)
            stop = min(len(filling.job.tokens), filling.done + left)
            pieces = self.generator._pieces(filling.done, stop, column, self.shared_pages)
            shared = None if self.prefix is None else self.prefix.pages
            segments.append((filling, Segment(shared, self.shared_pages, own, pieces)))
            column, left = column + stop - filling.done, left - (stop - filling.done)
            if stop == len(filling.job.tokens):
                filled.append(filling)
        return segments, filled

    def _own_pages(self, filling: Filling) -> Pages:
        """The prompt's own pages; the first begins with what the shared prefix has of it."""
        if filling.own is None:
            length = len(filling.job.tokens) - self.shared_pages * self.page
            own = Pages(-(-length // self.page), trimmed(length, self.page))
            if self.prefix is not None and (rest := self.prefix_length % self.page):
                own.take([0], self.prefix.pages, self.shared_pages, rest)
            filling.own = own
        return filling.own

    def _compute(
        self, segments: list[tuple[Filling, Segment]], filled: list[Filling]
    ) -> tuple[torch.Tensor, list[int]]:
        """Run the model; which of the logits each running sample, and each sample of a complete prompt, draws from."""
        prefix = None if self.prefix is None else self.prefix.pages
        decode = self.pool.decode(self.rows, prefix, self.shared_pages) if self.rows else None
        rows = len(self.rows)
        tokens = [np.array([row.tokens[-1] for row in self.rows], np.int64)]
        positions = [np.array([row.length for row in self.rows], np.int64)]
        wanted, drawn_from = list(range(rows)), list(range(rows))
        column = rows
        for filling, segment in segments:
            count = sum(piece.stop - piece.start for piece in segment.pieces)
            tokens.append(filling.job.tokens[filling.done : filling.done + count].astype(np.int64))
            positions.append(np.arange(filling.done, filling.done + count))
            column += count
            if filling in filled:
                drawn_from += [len(wanted)] * len(filling.numbers)
                wanted.append(column - 1)
        step = Step(decode, [segment for _, segment in segments])
        return self.packed.logits(np.concatenate(tokens), np.concatenate(positions), wanted, step), drawn_from

    # ---- what comes of it ----------------------------------------------------------------------------------

    def _extend(self, sample: Sample, drawn: Drawn, place: int) -> Completion | None:
        """Append the drawn token; the completion, if the sample ends with it."""
        token = drawn.tokens[place]
        if token < 0:
            return unscored(NOT_FINITE)
        sample.tokens.append(token)
        sample.logprobs.append(drawn.logprobs[place])
        sample.entropies.append(drawn.entropies[place])
        sample.top_entropies += drawn.top_entropies[place : place + 1]
        end = self.ending.of(sample.tokens)
        if end is None:
            return None
        finish, text = end
        return Completion(
            text,
            finish,
            tuple(sample.tokens),
            tuple(sample.logprobs),
            tuple(sample.entropies),
            tuple(sample.top_entropies),
        )

    def _make_room(self) -> list[Job]:
        """After running out of memory: fewer samples at once, then fewer prompt tokens, then one job less."""
        begun, self.filling = self.filling, deque()
        for filling in reversed(begun):
            self.waiting.appendleft(Filling(filling.job, filling.numbers, self.prefix_length))
        running = len(self.rows) or min(len(self.ready), self.most_rows)
        if running > 1:
            self.most_rows = running // 2
            self.generator.most_rows = self.most_rows
            self.generator.notify(f"out of memory: at most {self.most_rows} samples at once from now on")
            for row in reversed(self.rows[self.most_rows :]):
                self._again(row)
            del self.rows[self.most_rows :]
            with suppress(torch.OutOfMemoryError):  # copies, of one layer at a time
                self.pool.shrink()
            return []
        if begun and self.token_budget > LEAST_PREFILL // 4:
            self.token_budget //= 2
            self.generator.token_budget = self.token_budget
            self.generator.notify(f"out of memory: {self.token_budget} tokens a step from now on")
            return []
        filling = begun[0] if begun else (self.rows or list(self.ready))[0].filling
        self.generator.notify("a prompt alone is too long for the device's memory: unscored")
        job = filling.job
        for sample in [row for row in self.rows if row.filling.job is job]:
            self.pool.release(sample)
        self.rows = [row for row in self.rows if row.filling.job is not job]
        self.ready = deque(sample for sample in self.ready if sample.filling.job is not job)
        self.waiting = deque(waiting for waiting in self.waiting if waiting.job is not job)
        job.completions = [completion or unscored(NO_MEMORY) for completion in job.completions]
        return [job]

    def _again(self, sample: Sample) -> None:
        """Stop a sample; it will begin anew and, its random numbers being its own, come out the same."""
        self.pool.release(sample)
        filling = sample.filling
        filling.left -= 1
        if not filling.left:
            filling.own = None
        if self.waiting and self.waiting[0].job is filling.job:
            self.waiting[0].numbers.insert(0, sample.number)
        else:
            self.waiting.appendleft(Filling(filling.job, [sample.number], self.prefix_length))
