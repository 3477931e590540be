"""Which task folders are comparable: those that agree in all that the numbers depend on besides the model."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
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
class Match:
    """Two comparable folders of one task. template: "" if the model generates no text"""

    reference: TaskRun
    aligned: TaskRun
    template: str


def differences(reference: Mapping[str, Any], aligned: Mapping[str, Any]) -> dict[str, str]:
    """The fields in which two task.json differ so that their numbers are not comparable, each with both values."""
    return {
        field: f"{field}: {_shown(field, reference)} / {_shown(field, aligned)}"
        for field in FIELDS
        if _value(field, reference) != _value(field, aligned)
    }


def match(
    reference: Sequence[TaskRun], aligned: Sequence[TaskRun], *, across_templates: bool = False
) -> list[Match] | str:
    """The comparable pairs of folders of one task; if there are none, the first difference of the most similar pair.

    across_templates: each model with its own chat template, if it has such a folder
    """
    if across_templates:
        reference, aligned = (
            [own for own in folders if own.identity.get("template") == "chat"] or folders
            for folders in (reference, aligned)
        )
    found: list[Match] = []
    nearest: dict[str, str] = {}
    for one in reference:
        others = sorted(aligned, key=lambda other: other.identity.get("judged_with") != one.identity.get("judged_with"))
        for other in others:
            unlike, templates = (
                differences(one.identity, other.identity),
                [own.identity.get("template", "") for own in (one, other)],
            )
            allowed = set[str]()
            if across_templates:
                # there is no system prompt without a chat template
                allowed = PROMPTING if None in templates else {"template", "system"} if "template" in unlike else set()
            if unlike.keys() <= allowed:
                both = " -> ".join(dict.fromkeys(template or UNKNOWN for template in templates))
                found.append(Match(one, other, both if "template" in one.identity else ""))
                break
            if not nearest or len(unlike) < len(nearest):
                nearest = unlike
    return found or next(iter(nearest.values()))


def unlike_metrics(one: Match) -> Iterator[str]:
    """A line for each metric of both folders that different scorers, or versions of a package, computed."""
    after = one.aligned.result.overall
    for name, own in one.reference.result.overall.items():
        if name in after and own.scorer != after[name].scorer:
            yield f"{one.reference.task}.{name} (scorer: {own.scorer} / {after[name].scorer})"


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
