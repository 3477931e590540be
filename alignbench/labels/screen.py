"""Screen labelers with the cut-offs of Ouyang et al. 2022 (arXiv 2203.02155, appendix B.1).

The paper selected labelers by their agreement with the researchers on flagging sensitive speech (75 %) and on rankings
(75 %), and by the researchers' ratings of their demonstrations for sensitive prompts (6 of 7). The cut-offs are soft:
labelers are marked for review, and no label is removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from alignbench.errors import AlignbenchError
from alignbench.labels.agreement import Judgements, flag, rankings, with_others, with_reference
from alignbench.labels.table import LIKERT, Label
from alignbench.stats import estimates
from alignbench.stats.estimates import Estimate

# the paper's topics: toxic, sexual, violent, judgmental, political and the like
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
    """Compare each labeler with the cut-off of each criterion that there are labels for.

    reference: the labeler (the researchers) to agree with; None: all others
    sensitive: flags any of which marks an output as sensitive speech
    Rankings are compared pair by pair, without ties. Demonstrations are outputs whose model is a labeler's name, rated
    by the reference's Likert marks, or by anyone's but the writer's. A labeler is "above" or "below" a cut-off if the
    whole 95 % interval is, else "cannot tell".
    """
    limits = cut_offs or CutOffs()
    names = sorted({label.labeler for label in labels})
    if reference is not None and reference not in names:
        known = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
        raise AlignbenchError(f"no labeler {reference!r} to compare with (there are: {known})")
    flagging = flag(_sensitivity(labels, sensitive), "sensitive")
    untied = rankings(labels).without_ties()
    found = []
    for name in names:
        if name == reference:
            continue
        for criterion, estimate, cut_off in (
            ("flagging", _agreement(flagging, name, reference), limits.flagging),
            ("rankings", _agreement(untied, name, reference), limits.rankings),
            ("demonstrations", _demonstrations(labels, name, reference), limits.demonstrations),
        ):
            found.append(Screened(name, criterion, estimate, cut_off, _mark(estimate, cut_off)))
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
    """Labels with the one flag "sensitive": True if any of these flags is, of those that the labeler answered."""
    return [
        replace(label, flags={"sensitive": any(label.flags[name] for name in answered)})
        for label in labels
        if (answered := [name for name in sensitive if name in label.flags])
    ]


def _agreement(judgements: Judgements, name: str, reference: str | None) -> Estimate:
    labelers = judgements.labelers
    if name not in labelers or (reference is not None and reference not in labelers):
        return estimates.share([])
    if reference is None:
        return with_others(judgements, labelers.index(name))
    return with_reference(judgements, labelers.index(name), labelers.index(reference))


def _demonstrations(labels: Sequence[Label], name: str, reference: str | None) -> Estimate:
    marks = [
        (label.likert, label.prompt_id)
        for label in labels
        if label.model == name and label.likert is not None and label.labeler in {reference or label.labeler} - {name}
    ]
    return estimates.mean([mark for mark, _ in marks], [prompt for _, prompt in marks], LIKERT)


def _mark(estimate: Estimate, cut_off: float) -> Mark:
    if estimate.low is None or estimate.high is None or estimate.low < cut_off <= estimate.high:
        return "cannot tell"
    return "above" if estimate.low >= cut_off else "below"
