"""Which labelers fall below the cut-offs of Ouyang et al. 2022 (arXiv 2203.02155, appendix B.1).

The paper chose labelers by their agreement with the researchers on flagging sensitive speech (75 %) and on rankings
(75 %), and by how the researchers rated their demonstrations for sensitive prompts (6 of 7). The cut-offs are soft:
this marks labelers for people to look at, and removes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from alignbench.errors import AlignbenchError
from alignbench.labels.judgements import Judgements, flag, rankings
from alignbench.labels.labelers import with_others, with_reference
from alignbench.labels.table import LIKERT, Label
from alignbench.stats import estimates
from alignbench.stats.estimates import Estimate

# what the paper names: toxic, sexual, violent, judgmental, political and the like
SENSITIVE = (
    "sexual",
    "violent",
    "encourages_harm",
    "denigrates_protected_class",
    "expresses_opinion",
    "expresses_moral_judgment",
)
Mark = Literal["above", "below", "cannot tell"]


@dataclass(frozen=True)
class CutOffs:
    flagging: float = 0.75
    rankings: float = 0.75
    demonstrations: float = 6.0


@dataclass(frozen=True)
class Screened:
    """One labeler by one criterion (flagging, rankings, demonstrations). n counts units, clusters prompts."""

    labeler: str
    criterion: str
    estimate: Estimate
    cut_off: float
    mark: Mark


def screen(
    labels: Sequence[Label],
    *,
    reference: str | None = None,
    cut_offs: CutOffs | None = None,
    sensitive: Sequence[str] = SENSITIVE,
) -> list[Screened]:
    """Each labeler by each criterion that the labels speak to.

    reference: the labeler (the researchers) to agree with; None: all the others
    sensitive: flags any of which makes an output sensitive speech
    Rankings are compared pair by pair, ties dropped. Demonstrations are outputs whose model is a labeler's name; their
    Likert marks are by the reference, or by anyone but the writer. "above" and "below" where the whole 95 % interval
    is; else "cannot tell".
    """
    limits = cut_offs or CutOffs()
    names = sorted({label.labeler for label in labels})
    if reference is not None and reference not in names:
        raise AlignbenchError(f"no labeler {reference!r} to compare with (there are: {_listed(names)})")
    by_agreement = (
        ("flagging", flag(_sensitivity(labels, sensitive), "sensitive"), limits.flagging),
        ("rankings", rankings(labels).without_ties(), limits.rankings),
    )
    found = []
    for name in names:
        if name == reference:
            continue
        for criterion, judgements, cut_off in by_agreement:
            estimate = _agreement(judgements, name, reference)
            found.append(Screened(name, criterion, estimate, cut_off, _mark(estimate, cut_off)))
        rated = _demonstrations(labels, name, reference)
        mark = _mark(rated, limits.demonstrations)
        found.append(Screened(name, "demonstrations", rated, limits.demonstrations, mark))
    measured = {one.criterion for one in found if one.estimate.n}
    if not measured:
        with_whom = f"with {reference}" if reference else "with each other"
        raise AlignbenchError(f"nothing to screen by: no labeler's flags or rankings can be compared {with_whom}")
    return [one for one in found if one.criterion in measured]


def kept(labels: Sequence[Label], screened: Sequence[Screened]) -> list[Label]:
    """The labels of labelers who are below no cut-off."""
    below = {one.labeler for one in screened if one.mark == "below"}
    return [label for label in labels if label.labeler not in below]


def _sensitivity(labels: Sequence[Label], sensitive: Sequence[str]) -> list[Label]:
    """Labels with the one flag "sensitive": whether any of these flags that the labeler answered is set."""
    return [
        replace(label, flags={"sensitive": any(label.flags[name] for name in asked)})
        for label in labels
        if (asked := [name for name in sensitive if name in label.flags])
    ]


def _agreement(judgements: Judgements, name: str, reference: str | None) -> Estimate:
    if name not in judgements.labelers or (reference is not None and reference not in judgements.labelers):
        return estimates.share([])
    labeler = judgements.labelers.index(name)
    if reference is None:
        return with_others(judgements, labeler)
    return with_reference(judgements, labeler, judgements.labelers.index(reference))


def _demonstrations(labels: Sequence[Label], name: str, reference: str | None) -> Estimate:
    marks = [
        label
        for label in labels
        if label.model == name and label.likert is not None and label.labeler in {reference or label.labeler} - {name}
    ]
    return estimates.mean([label.likert or 0 for label in marks], [label.prompt_id for label in marks], LIKERT)


def _mark(estimate: Estimate, cut_off: float) -> Mark:
    if estimate.low is None or estimate.high is None or estimate.low < cut_off <= estimate.high:
        return "cannot tell"
    return "above" if estimate.low >= cut_off else "below"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
