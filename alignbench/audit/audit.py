"""The result of an audit: the dataclasses behind all output formats."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Verdict = Literal["gain", "loss", "retained", "inconclusive", "–"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of one task: a reference and an aligned model on the documents that both have a value for.

    variant: distinguishes rows of the same task: the template, or both ("none -> chat"), scorers, …; often empty
    ability, group: of the task; group: of capabilities only; headline: True if the metric represents its task
    family: the benchmark; primary: True for the one variant of the family that is tested, with its headline metric
    reference, aligned: the metric on the common documents; delta: aligned − reference, with its 95 % interval
    gain: the improvement (for a target of 0.5 or 0: how much closer the mean came), with its interval; None if no
        direction is better, or if the note says why the values are not comparable
    standard_error: of gain, or else of delta
    p, test: two-sided p-value of no change and its method: "McNemar", "bootstrap", "adjusted Wald" (few documents
        changed), "jackknife" (measures of a set of outputs), "unpaired"; "–" without a test
    p_holm: corrected for all primary rows of the contrast (Holm 1979)
    verdict: "gain" or "loss": p_holm is below 5 %; "retained": no loss beyond the margin, since the worse end of the
        interval of the gain is within it; "–" for rows that are not primary
    detectable: minimum detectable effect: 80 % power at the level of the test: 5 % divided by the number of tests (the
        worst case of Holm's procedure) for primary rows, 5 % for others
    tax: the loss, positive; relative_tax: in proportion to the reference's value above chance, None if that is below
        2 standard errors; tax_of_range: in percent of the metric's range, None without a finite one
    n: documents compared; clusters: independent groups of them; left_out: documents that one of the two lacks
    span: width of the metric's range, None without a finite one
    note: why the row is reported but not tested, or what explains its verdict; often empty
    reference_folder, aligned_folder: the task folders; order: position in its family; not part of the output formats
    """

    task: str
    variant: str
    ability: str
    group: str
    family: str
    metric: str
    headline: bool
    primary: bool = False
    unit: str
    better: str
    scorer: str | None
    reference: float
    aligned: float
    delta: float
    low: float | None
    high: float | None
    gain: float | None
    gain_low: float | None
    gain_high: float | None
    standard_error: float | None
    p: float | None
    test: str
    p_holm: float | None = None
    verdict: Verdict = "–"
    detectable: float | None = None
    tax: float | None
    relative_tax: float | None
    tax_of_range: float | None
    tax_error: float | None
    n: int
    clusters: int
    left_out: int
    span: float | None = None
    note: str = ""
    reference_folder: Path | None = None
    aligned_folder: Path | None = None
    order: tuple[object, ...] = ()

    def untested(self, note: str) -> Row:
        """The row without a test, a gain and a tax: reported, not tested."""
        return replace(
            self, gain=None, gain_low=None, gain_high=None, p=None, test="–", detectable=None, tax=None,
            relative_tax=None, tax_of_range=None, tax_error=None, note=note,
        )  # fmt: skip


@dataclass(frozen=True)
class MeanTax:
    """Macro mean of the taxes of capabilities in percent of each metric's range. Positive: a loss.

    name: the group of capabilities; "all" for the mean over groups
    p: two-sided p-value of a mean tax of 0; low, high: 95 % interval; None if a task has no interval
    """

    name: str
    tasks: tuple[str, ...]
    value: float
    standard_error: float | None
    low: float | None
    high: float | None
    p: float | None
    verdict: Verdict


@dataclass(frozen=True)
class AbilityVerdict:
    """What happened to an ability, in a sentence with the size, the interval and the certainty of each change.

    verdict: that of all its primary rows, or "mixed" if some are gains and some are losses; of capabilities, that of
        the mean tax
    clauses: of the sentence: on the mean tax, and on each primary row; not part of the output formats
    families: of the primary rows
    """

    ability: str
    verdict: Verdict | Literal["mixed"]
    sentence: str
    clauses: tuple[str, ...]
    families: tuple[str, ...]


@dataclass(frozen=True)
class Contrast:
    """An aligned model compared with one reference.

    role: of the reference in the lineage of the aligned model: "pretrained", "SFT", or "reference" if unknown
    templates: "same", or "own" (each model with its own chat template, if it has one)
    rows: families with the strongest evidence first, each with its primary row first
    groups, mean: the macro tax of each group of capabilities, and over groups
    abilities: a verdict on each
    tests: number of primary rows with a p-value, for which p_holm is corrected
    left_out: tasks of both models that are not comparable, with the field that differs
    """

    reference: str
    aligned: str
    role: str
    templates: Literal["same", "own"]
    rows: tuple[Row, ...]
    groups: tuple[MeanTax, ...]
    mean: MeanTax | None
    abilities: tuple[AbilityVerdict, ...]
    tests: int
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A point of the front. by_definition: its reward is not measured: a baseline wins half against itself."""

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

    reward: TASK.METRIC; reference: the model that taxes are relative to; tasks: those that all checkpoints have
    reference_point: (reward, tax) that bounds the hypervolume; why: its origin
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
    """margin: the largest loss, in percent of a metric's range, that counts as retained"""

    contrasts: tuple[Contrast, ...]
    front: Front | None
    notes: tuple[str, ...]
    resamples: int
    seed: int
    margin: float
