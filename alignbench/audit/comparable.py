"""Like with like: two task folders are compared where all that the numbers depend on besides the model agrees."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignbench.runs.read import TaskRun

FIELDS = (
    "task",
    "version",
    "shots",
    "limit",
    "seed",
    "data",
    "prefix",
    "template",
    "sampling",
    "scorers",
    "baseline",  # its name: of which folder its answers came says nothing that the documents do not
    "documents_sha256",  # last: it differs wherever what stands above made other documents
)
HOW_ASKED = {"template", "sampling", "prefix"}  # null for the outputs of a file: nobody knows


@dataclass(frozen=True)
class Difference:
    """A field in which two task folders differ, and both values as shown."""

    field: str
    reference: str
    aligned: str

    def __str__(self) -> str:
        return f"{self.field}: {self.reference} / {self.aligned}"


@dataclass(frozen=True)
class Match:
    """Two folders of one task that can be compared. template: "" where the model does not write."""

    reference: TaskRun
    aligned: TaskRun
    template: str

    @property
    def across_templates(self) -> bool:
        return "->" in self.template


def differences(reference: Mapping[str, Any], aligned: Mapping[str, Any]) -> list[Difference]:
    """Where two task.json differ in what makes their numbers incomparable."""
    return [
        Difference(field, _shown(field, reference), _shown(field, aligned))
        for field in FIELDS
        if _value(field, reference) != _value(field, aligned)
    ]


def match(
    reference: Sequence[TaskRun], aligned: Sequence[TaskRun], *, across_templates: bool = False
) -> list[Match] | Difference:
    """Pair the folders of one task, like with like; where none is like another, the field in which the nearest differ.

    across_templates: each model as it would be asked: with its chat template where there is such a folder
    """
    if across_templates:
        reference, aligned = _own_template(reference), _own_template(aligned)
    found: list[Match] = []
    nearest: list[Difference] = []
    for one in reference:
        others = sorted(aligned, key=lambda other: other.identity.get("judged_with") != one.identity.get("judged_with"))
        for other in others:
            unlike = differences(one.identity, other.identity)
            if not [difference for difference in unlike if not _allowed(difference, one, other, across_templates)]:
                found.append(Match(one, other, _template(one, other)))
                break
            if not nearest or len(unlike) < len(nearest):
                nearest = unlike
    return found or nearest[0]


def unlike_metrics(one: Match) -> list[str]:
    """Metrics that both have but that were made with different scorers, or versions of a package: a line each."""
    after = {metric.metric: metric.scorer for metric in one.aligned.result.metrics}
    return [
        f"{one.reference.task}.{metric.metric} (scorer: {metric.scorer} / {after[metric.metric]})"
        for metric in one.reference.result.metrics
        if metric.category is None and metric.metric in after and metric.scorer != after[metric.metric]
    ]


def packages_differ(one: Match) -> str | None:
    """Which packages judged with other versions, in a line: told, not refused, since a metric that such a package
    computes carries its version as its scorer."""
    before, after = (run.identity.get("judged_with") or {} for run in (one.reference, one.aligned))
    changed = [f"{name} {before.get(name)} / {after.get(name)}" for name in before if before[name] != after.get(name)]
    return f"{one.reference.task} was judged with other packages: {', '.join(changed)}" if changed else None


def _allowed(difference: Difference, one: TaskRun, other: TaskRun, across_templates: bool) -> bool:
    if not across_templates:
        return False
    unknown = None in (one.identity.get("template", ""), other.identity.get("template", ""))
    return difference.field in (HOW_ASKED if unknown else {"template"})


def _own_template(folders: Sequence[TaskRun]) -> Sequence[TaskRun]:
    return [folder for folder in folders if folder.identity.get("template") == "chat"] or folders


def _template(one: TaskRun, other: TaskRun) -> str:
    if "template" not in one.identity:
        return ""
    before, after = (run.identity["template"] or "unknown" for run in (one, other))
    return before if before == after else f"{before} -> {after}"


def _value(field: str, identity: Mapping[str, Any]) -> Any:
    value = identity.get(field)
    if field == "data":  # the same bytes may lie under another file name
        return [(part["card"], part["split"], part["revision"]) for part in value or ()]
    return baseline_of(identity) if field == "baseline" else value


def baseline_of(identity: Mapping[str, Any]) -> str | None:
    """The name of what a win rate is against; None elsewhere."""
    return (identity.get("baseline") or {}).get("name")


def _shown(field: str, identity: Mapping[str, Any]) -> str:
    """A value short enough for a line."""
    value: Any = baseline_of(identity) if field == "baseline" else identity.get(field)
    if field == "limit" and value is None:
        return "all"
    if field == "data":
        return " ".join(f"{part['card']}@{str(part['revision'])[:8]}" for part in value or ()) or "none"
    if field == "scorers":
        return " ".join(f"{s['kind']}={s['name']}@{str(s['revision'])[:12]}" for s in value or ()) or "none"
    if value is None:
        return "unknown"
    if field == "documents_sha256":
        return str(value)[:8]
    if field == "prefix":
        return f"{len(value)} characters (sha256 {hashlib.sha256(value.encode()).hexdigest()[:8]})"
    if field == "sampling":
        return " ".join(f"{key}={part!r}" for key, part in value.items())
    return str(value)
