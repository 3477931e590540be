"""Which task folders are comparable: those that agree in all that the numbers depend on besides the model."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignbench.runs.read import TaskRun
from alignbench.types.scorer import ScorerIdentity

# baseline: its name, since its folder adds nothing to the documents; documents_sha256 last: it differs if others do
FIELDS = (
    "task", "version", "definition_sha256", "shots", "limit", "seed", "data", "prefix", "template", "system",
    "sampling", "scorers", "baseline", "documents_sha256",
)  # fmt: skip
PROMPTING = {"template", "system", "sampling", "prefix"}  # null for the outputs of a file: unknown
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Difference:
    """A field in which two task folders differ, and both values as text."""

    field: str
    reference: str
    aligned: str

    def __str__(self) -> str:
        return f"{self.field}: {self.reference} / {self.aligned}"


@dataclass(frozen=True)
class Match:
    """Two comparable folders of one task. template: "" if the model generates no text"""

    reference: TaskRun
    aligned: TaskRun
    template: str

    @property
    def across_templates(self) -> bool:
        return "->" in self.template


def differences(reference: Mapping[str, Any], aligned: Mapping[str, Any]) -> list[Difference]:
    """The differences of two task.json that make their numbers incomparable."""
    return [
        Difference(field, _shown(field, reference), _shown(field, aligned))
        for field in FIELDS
        if _value(field, reference) != _value(field, aligned)
    ]


def match(
    reference: Sequence[TaskRun], aligned: Sequence[TaskRun], *, across_templates: bool = False
) -> list[Match] | Difference:
    """The comparable pairs of folders of one task; if there are none, the first difference of the most similar pair.

    across_templates: each model with its own chat template, if it has such a folder
    """
    if across_templates:
        reference, aligned = (
            [own for own in folders if own.identity.get("template") == "chat"] or folders
            for folders in (reference, aligned)
        )
    found: list[Match] = []
    nearest: list[Difference] = []
    for one in reference:
        others = sorted(aligned, key=lambda other: other.identity.get("judged_with") != one.identity.get("judged_with"))
        for other in others:
            unlike = differences(one.identity, other.identity)
            unknown = None in (one.identity.get("template", ""), other.identity.get("template", ""))
            allowed = (PROMPTING if unknown else {"template"}) if across_templates else set()
            if across_templates and any(difference.field == "template" for difference in unlike):
                allowed = allowed | {"system"}  # there is none without a chat template
            if all(difference.field in allowed for difference in unlike):
                before, after = (run.identity.get("template", "") or UNKNOWN for run in (one, other))
                both = before if before == after else f"{before} -> {after}"
                found.append(Match(one, other, both if "template" in one.identity else ""))
                break
            if not nearest or len(unlike) < len(nearest):
                nearest = unlike
    return found or nearest[0]


def unlike_metrics(one: Match) -> list[str]:
    """A line for each metric of both folders that different scorers, or versions of a package, computed."""
    after = {metric.metric: metric.scorer for metric in one.aligned.result.metrics}
    return [
        f"{one.reference.task}.{metric.metric} (scorer: {metric.scorer} / {after[metric.metric]})"
        for metric in one.reference.result.metrics
        if metric.category is None and metric.metric in after and metric.scorer != after[metric.metric]
    ]


def packages_differ(one: Match) -> str | None:
    """The packages with different versions, in a line. They do not make tasks incomparable: the scorer of a metric that
    such a package computes contains its version."""
    before, after = (run.identity.get("judged_with") or {} for run in (one.reference, one.aligned))
    changed = [f"{name} {before.get(name)} / {after.get(name)}" for name in before if before[name] != after.get(name)]
    return f"{one.reference.task}: scored with different packages: {', '.join(changed)}" if changed else None


def scorers_of(identity: Mapping[str, Any]) -> list[ScorerIdentity]:
    """The scorers in a task.json."""
    return [ScorerIdentity(**entry) for entry in identity.get("scorers") or ()]


def baseline_of(identity: Mapping[str, Any]) -> str | None:
    """The name of the baseline of a win rate; None for other tasks."""
    return (identity.get("baseline") or {}).get("name")


def _value(field: str, identity: Mapping[str, Any]) -> Any:
    value = identity.get(field)
    if field == "data":  # the same bytes may have another file name
        return [(part["card"], part["split"], part["revision"]) for part in value or ()]
    return baseline_of(identity) if field == "baseline" else value


def _shown(field: str, identity: Mapping[str, Any]) -> str:
    """A value as a short text."""
    value = _value(field, identity)
    if field == "data":
        return " ".join(f"{card}@{str(revision)[:8]}" for card, _, revision in value) or "none"
    if field == "scorers":
        return " ".join(f"{scorer.kind}={scorer}" for scorer in scorers_of(identity)) or "none"
    if value is None:
        return "all" if field == "limit" else UNKNOWN
    if field == "prefix":
        return f"{len(value)} characters (sha256 {hashlib.sha256(value.encode()).hexdigest()[:8]})"
    if field == "sampling":
        return " ".join(f"{key}={part!r}" for key, part in value.items())
    return str(value)[:8] if field == "documents_sha256" else str(value)
