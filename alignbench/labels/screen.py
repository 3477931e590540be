"""Screen labelers with the soft cut-offs of Ouyang et al. 2022 (arXiv 2203.02155, appendix B.1).

They are marked for review by their agreement with the researchers on flagging sensitive speech and on rankings, and by
the researchers' ratings of their demonstrations. No label is removed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from alignbench.errors import AlignbenchError
from alignbench.labels.agreement import Judgements, flag, rankings, with_others, with_reference
from alignbench.labels.table import LIKERT, WORDS, Label
from alignbench.stats import estimates
from alignbench.stats.estimates import Estimate

SENSITIVE = tuple(WORDS["sensitive"])
CUT_OFFS = {"flagging": 0.75, "rankings": 0.75, "demonstrations": 6.0}


@dataclass(frozen=True)
class Screened:
    """One labeler by one criterion (flagging, rankings, demonstrations). n counts units, clusters prompts.
    mark: above, below or cannot tell"""

    labeler: str
    criterion: str
    estimate: Estimate
    cut_off: float
    mark: str


def screen(labels: Sequence[Label], *, reference: str | None = None) -> list[Screened]:
    """Compare each labeler with the cut-off of each criterion that there are labels for.

    reference: the labeler (the researchers) to agree with; None: all others
    An output is sensitive speech if any of the flags SENSITIVE is set.
    Rankings are compared pair by pair, without ties. Demonstrations are outputs whose model is a labeler's name, rated
    by the reference's Likert marks, or by anyone's but the writer's. A labeler is "above" or "below" a cut-off if the
    whole 95 % interval is, else "cannot tell".
    """
    names = sorted({label.labeler for label in labels})
    if reference is not None and reference not in names:
        raise AlignbenchError(f"no labeler {reference!r} to compare with (there are: {', '.join(names)})")
    answered = [(label, [label.flags[name] for name in SENSITIVE if name in label.flags]) for label in labels]
    flagged = [replace(label, flags={"sensitive": any(own)}) for label, own in answered if own]
    flagging, untied = flag(flagged, "sensitive"), rankings(labels).without_ties()
    found = []
    for name in (name for name in names if name != reference):
        rated = [own for own in labels if own.model == name and own.labeler in {reference or own.labeler} - {name}]
        marks = [(own.likert, own.prompt_id) for own in rated if own.likert is not None]
        measured = {
            "flagging": _agreement(flagging, name, reference),
            "rankings": _agreement(untied, name, reference),
            "demonstrations": estimates.mean([mark for mark, _ in marks], [prompt for _, prompt in marks], LIKERT),
        }
        for criterion, own in measured.items():
            cut_off, mark = CUT_OFFS[criterion], "cannot tell"
            if own.low is not None and own.high is not None and not own.low < cut_off <= own.high:
                mark = "above" if own.low >= cut_off else "below"
            found.append(Screened(name, criterion, own, cut_off, mark))
    measurable = {one.criterion for one in found if one.estimate.n}
    if not measurable:
        with_whom = f"with {reference}" if reference else "with each other"
        raise AlignbenchError(f"nothing to screen by: no labeler's flags or rankings can be compared {with_whom}")
    return [one for one in found if one.criterion in measurable]


def kept(labels: Sequence[Label], screened: Sequence[Screened]) -> list[Label]:
    """The labels of labelers who are below no cut-off."""
    below = {one.labeler for one in screened if one.mark == "below"}
    return [label for label in labels if label.labeler not in below]


def _agreement(judgements: Judgements, name: str, reference: str | None) -> Estimate:
    named = [own for own in (name, reference) if own is not None]
    if not set(named) <= set(judgements.labelers):
        return Estimate()
    return (with_reference if reference else with_others)(judgements, *map(judgements.labelers.index, named))
