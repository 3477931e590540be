"""Generation on packed rows (packed.py). The schedule does not affect the numbers."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from alignbench.models.attention import replaced_attention
from alignbench.models.causal_lm import Budget, select_before_head
from alignbench.models.encode import Tokens, shared_prefix
from alignbench.models.generate.decoding import Decoding
from alignbench.models.generate.packed import NAME, Block, Pages, Part, Places, trimmed
from alignbench.models.generate.samples import Job, Run, Sample

ELEMENTS = 32  # fp32 numbers per iteration of torch's vectorised loops (two vectors of 512 bits)
LARGEST_MULTIPLE = 32  # columns, for widths that have no smaller common multiple
PAGE = 128
LEAST_PREFIX = 16  # tokens: a shorter shared prefix is not worth its own pages


class PackedModel:
    """A model in evaluation mode that computes packed rows.

    tokens_computed: without padding; most_rows: samples that run at once, None: those of the budget
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.tokens_computed = 0
        self.most_rows: int | None = None
        self.page = PAGE
        self._columns: dict[int, tuple[int, int]] = {}  # number of threads -> see `_column_counts`

    def run(self, jobs: Sequence[Job], decoding: Decoding, budget: Budget) -> Iterator[Job]:
        """Continue the jobs, and yield each one when all its samples are complete."""
        if jobs:
            run = _Run(self, jobs, decoding, budget)
            while run.waiting or run.rows:
                yield from run.step()

    @torch.inference_mode()
    def logits(
        self, tokens: NDArray[np.integer], positions: NDArray[np.integer], outputs: list[int], blocks: list[Block]
    ) -> Tensor:
        """Logits (outputs, vocabulary) at the columns `outputs` of a packed row. tokens, positions: (columns,)"""
        self.tokens_computed += len(tokens)
        least, multiple = self._column_counts()
        missing = -(-max(least, len(tokens)) // multiple) * multiple - len(tokens)
        row, places = (torch.from_numpy(np.pad(t.astype(np.int64), (0, missing))[None]) for t in (tokens, positions))
        columns = torch.tensor(outputs + [0] * max(0, max(least, 1) - len(outputs)))
        with replaced_attention(self.model, NAME), select_before_head(self.model, lambda t: t.index_select(1, columns)):
            logits: Tensor = self.model(input_ids=row, position_ids=places, use_cache=False, packed=blocks).logits
        if not blocks[-1].parts[-1].pages.layers:
            raise ValueError("the model does not call its attention through transformers' interface")
        return logits[0, : len(outputs)]

    def _column_counts(self) -> tuple[int, int]:
        """The minimum number of columns, and their multiple, for which a token's numbers do not depend on it on a CPU.

        Products of few rows use other kernels, which sum in another order (tested with the model's own layers), and the
        last elements of each thread's share of an activation function are not vectorised unless they fill two vectors.
        """
        threads = torch.get_num_threads()
        if threads not in self._columns:
            layers: dict[tuple[Any, ...], nn.Module] = {}  # one of each shape
            for module in self.model.modules():
                weight, kind = module._parameters.get("weight"), type(module).__name__
                if kind in ("Linear", "Conv1D") and isinstance(weight, Tensor) and weight.ndim == 2:
                    shape = weight.shape if kind == "Linear" else weight.shape[::-1]  # outputs, inputs
                    layers.setdefault((*shape, kind, getattr(module, "bias", None) is None), module)
            head = self.model.get_output_embeddings()
            shares = ELEMENTS * math.lcm(*range(1, min(threads, 4) + 1))
            outputs = [outputs for (outputs, *_), layer in layers.items() if layer is not head]
            multiple = math.lcm(*(shares // math.gcd(shares, width) for width in outputs))
            least = max((_rows_that_agree(layer, inputs) for (_, inputs, *_), layer in layers.items()), default=1)
            if self.model.dtype.itemsize < 4:  # rounding to half precision hides most differences from the test
                least = max(least, 4 * threads)
            self._columns[threads] = least, min(multiple, LARGEST_MULTIPLE)
        return self._columns[threads]


@torch.inference_mode()
def _rows_that_agree(layer: nn.Module, inputs: int) -> int:
    """The minimum number of rows from which on a layer's output has the same rows as for many."""
    generator, dtype = torch.Generator().manual_seed(0), layer.get_parameter("weight").dtype
    rows = torch.randn((1, 64, inputs), generator=generator).to(dtype)
    whole = layer(rows)
    least = 64
    for count in (48, 32, 24, *range(20, 0, -1)):
        if not torch.equal(layer(rows[:, :count]), whole[:, :count]):
            break
        least = count
    return least


class _Run(Run):
    """prefix: number of tokens that all prompts begin with, whose keys and values are in `first`, and of which all
    samples share `shared` pages; pool: pages that belong to one running sample each; owners: these samples"""

    def __init__(self, packed: PackedModel, jobs: Sequence[Job], decoding: Decoding, budget: Budget) -> None:
        self.packed, self.page = packed, packed.page
        # the last prompt token is not part of it: its output predicts the first new one
        shortest = min(len(job.tokens) for job in jobs) - 1
        common = shared_prefix([job.tokens for job in jobs], shortest if len(jobs) > 1 else 0)
        self.prefix, self.shared, self.first = 0, 0, Pages(-(-len(common) // self.page), self.page)
        if len(common) >= LEAST_PREFIX:
            self._compute([(common, self.first)])
            self.prefix, self.shared = len(common), len(common) // self.page
        longest = max(len(job.tokens) for job in jobs) + decoding.sampling.most_tokens - self.shared * self.page
        self.pool = Pages(0, trimmed(longest, self.page), dense=self.packed.model.dtype.itemsize < 4)
        self.owners: list[Sample] = []
        super().__init__(jobs, decoding, budget, packed.most_rows or budget.rows(longest))

    def fit(self, jobs: list[Job]) -> bool:
        return sum(len(job.tokens) - self.prefix for job in jobs) <= self.budget.tokens

    def enter(self, jobs: list[Job]) -> Tensor:
        for job in jobs:
            length = len(job.tokens) - self.shared * self.page
            job.pages = Pages(-(-length // self.page), trimmed(length, self.page))
            job.start = len(job.tokens) // self.page if len(job.completions) > 1 else self.shared
            if rest := self.prefix % self.page:  # the first page begins with the end of the shared prefix
                job.pages.copy([0], self.first, self.shared, rest)
        return self._compute([(job.tokens, job.pages) for job in jobs])

    def advance(self) -> Tensor:
        positions = np.array([row.position for row in self.rows])
        siblings: dict[Job, list[int]] = {}
        for at, row in enumerate(self.rows):
            if row.position // self.page - row.job.start >= len(row.pages):
                self._new_page(row)
            if row.job.start > self.shared:
                siblings.setdefault(row.job, []).append(at)
        rows, numbers = np.zeros((2, self.pool.count), np.int64)
        for at, row in enumerate(self.rows):
            rows[row.pages], numbers[row.pages] = at, row.job.start + np.arange(len(row.pages))
        parts = self._shared_part(positions)
        for job, members in siblings.items():
            parts.append(Part(job.pages, self.page, np.arange(self.shared, job.start), np.array(members), positions))
        parts.append(Part(self.pool, self.page, numbers, rows[:, None], positions))
        where = [row.pages[row.position // self.page - row.job.start] for row in self.rows]
        block = self._block(0, positions, parts, np.array(where))
        tokens = np.array([row.tokens[-1] for row in self.rows])
        return self.packed.logits(tokens, positions, list(range(len(self.rows))), [block])

    def keep(self, sources: list[int], kept: list[int], entered: bool) -> None:
        samples = [self.computed[at] for at in kept]
        for job in {sample.job: None for sample in samples if entered}:
            begun = [sample for sample in samples if sample.job is job]
            for number in range(job.start, -(-len(job.tokens) // self.page)):
                used = min(self.page, len(job.tokens) - number * self.page)
                pages = [self._new_page(sample) for sample in begun]
                self.pool.copy(pages, job.pages, number - self.shared, used)
        for sample in self.computed:
            if sample.job.completions[sample.number] is not None:
                self._release(sample)
            if not sample.job.missing or sample.job.start == self.shared:  # every sample has a copy
                sample.job.pages = Pages()
        self.rows = self.rows + samples if entered else samples

    def _compute(self, prompts: list[tuple[Tokens, Pages]]) -> Tensor:
        """Compute prompts without the shared prefix, and return the logits after each. Blocks end where pages do."""
        blocks, tokens, positions, ends = list[Block](), list[Tokens](), list[Places](), list[int]()
        column = 0
        for prompt, pages in prompts:
            start = self.prefix
            while start < len(prompt):
                number = start // self.page
                places = np.arange(start, min(len(prompt), (number + 1) * self.page))
                each, parts = np.arange(len(places)), self._shared_part(places)
                before = np.arange(self.shared, number)
                if len(before):
                    parts.append(Part(pages, self.page, before, each, places))
                parts.append(Part(pages, self.page, np.array([number]), each, places, number - self.shared))
                blocks.append(self._block(column, places, parts, np.full(len(places), number - self.shared)))
                positions.append(places)
                start, column = start + len(places), column + len(places)
            tokens.append(prompt[self.prefix :])
            ends.append(column - 1)
        return self.packed.logits(np.concatenate(tokens), np.concatenate(positions), ends, blocks)

    def _shared_part(self, positions: Places) -> list[Part]:
        """The pages that all sequences share."""
        numbers = np.arange(self.shared)
        return [Part(self.first, self.page, numbers, np.arange(len(positions)), positions)] if self.shared else []

    def _block(self, column: int, positions: Places, parts: list[Part], where: Places) -> Block:
        offset = torch.from_numpy(positions % self.page)
        most = int(positions.max()) // self.page + 1
        return Block(slice(column, column + len(positions)), parts, torch.from_numpy(where), offset, most)

    def _new_page(self, sample: Sample) -> int:
        sample.pages.append(self.pool.count)
        self.owners.append(sample)
        self.pool.count += 1
        return sample.pages[-1]

    def _release(self, sample: Sample) -> None:
        """Drop the pages of a sample, and move the last pages to where they were, so that those in use come first."""
        for page in sorted(sample.pages, reverse=True):
            self.pool.count -= 1
            last, owner = self.pool.count, self.owners.pop()
            for states in (states for layer in self.pool.layers.values() for states in layer):
                states[page], states[last] = states[last], 0  # 0 · NaN would be NaN for the next owner
            owner.pages[owner.pages.index(last)] = page
            if page != last:
                self.owners[page] = owner
        sample.pages = []
