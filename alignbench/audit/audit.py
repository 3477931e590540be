"""What an audit found: the dataclasses behind the terminal, JSON, CSV, Markdown and LaTeX."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Verdict = Literal["gain", "loss", "inconclusive", "–"]


@dataclass(frozen=True)
class Row:
    """One metric of one task: a reference and an aligned model on the documents that both have a value for.

    variant: what tells rows of one task apart: the template, or both ("none -> chat"), and the scorers; often empty
    headline: whether the metric stands for its task: those alone are judged, and corrected for being many
    reference, aligned: the metric on the common documents; delta: aligned - reference, with its 95 % interval
    gain: the change for the better (for a target of 0.5 or 0: how much nearer the mean came); None where neither
        direction is better, and where a note says why the two values cannot be held against each other
    standard_error: of the gain, or else of delta
    p, test: two-sided p-value of no change and where it came from: "McNemar", "bootstrap", "adjusted Wald" (few
        documents changed), "jackknife" (measures of a set of outputs), "unpaired"; "–" without one
    p_holm: adjusted for all headline metrics of the contrast (Holm 1979)
    detectable: the smallest change that so many documents could have shown (80 % power, two-sided 5 %)
    relative_tax: share of what the reference had above chance that is lost; None where that is under 2 standard errors
    tax_of_range: the tax in percent of the metric's range, which tasks are averaged by; None without a finite range
    n: documents compared; clusters: independent groups of them; left_out: documents that one of the two lacks
    note: why the row is told and not judged; often empty
    """

    task: str
    variant: str
    group: str
    metric: str
    headline: bool
    unit: str
    better: str
    scorer: str | None
    reference: float
    aligned: float
    delta: float
    low: float | None
    high: float | None
    gain: float | None
    standard_error: float | None
    p: float | None
    test: str
    p_holm: float | None
    verdict: Verdict
    detectable: float | None
    tax: float | None
    relative_tax: float | None
    tax_of_range: float | None
    tax_error: float | None
    n: int
    clusters: int
    left_out: int
    note: str = ""
    reference_folder: Path | None = None
    aligned_folder: Path | None = None

    @property
    def paired(self) -> bool:
        return self.test != "unpaired"

    def told(self, note: str) -> Row:
        """The same row, told and not judged: without a test, a gain, or a tax."""
        return replace(
            self, gain=None, p=None, test="–", detectable=None, tax=None, relative_tax=None, tax_of_range=None,
            tax_error=None, note=note,
        )  # fmt: skip


@dataclass(frozen=True)
class MeanTax:
    """Macro mean of taxes in percent of each metric's range, with a 95 % interval. Positive: alignment cost that much.

    name: the group; "all" for the mean over groups
    """

    name: str
    tasks: tuple[str, ...]
    value: float
    standard_error: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Contrast:
    """An aligned model against one reference.

    role: what the reference is to it: "pretrained", "SFT", or "reference" where no lineage says
    templates: "same" (both were asked alike), or "own" (each with its own chat template, where it has one)
    rows: sorted by evidence; groups, mean: the macro tax by group, and over groups
    left_out: tasks that both have but that are not comparable, with the field that differs
    notes: what else a reader of the table must know
    """

    reference: str
    aligned: str
    role: str
    templates: Literal["same", "own"]
    rows: tuple[Row, ...]
    groups: tuple[MeanTax, ...]
    mean: MeanTax | None
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A point of the reward-tax front.

    by_definition: nobody measured its reward: a baseline wins half against itself
    """

    name: str
    reward: float
    reward_low: float | None
    reward_high: float | None
    tax: float
    tax_low: float | None
    tax_high: float | None
    on_front: bool
    by_definition: bool = False


@dataclass(frozen=True)
class Front:
    """Reward against macro tax over checkpoints.

    reward: TASK.METRIC; reference: the model that the tax is paid against; tasks: those that all checkpoints have
    reference_point: (reward, tax) that the hypervolume is measured from; why: where that point comes from
    """

    reward: str
    unit: str
    reference: str
    tasks: tuple[str, ...]
    points: tuple[Checkpoint, ...]
    hypervolume: float
    reference_point: tuple[float, float]
    why: str


@dataclass(frozen=True)
class Audit:
    contrasts: tuple[Contrast, ...]
    front: Front | None
    notes: tuple[str, ...]
    resamples: int
    seed: int
