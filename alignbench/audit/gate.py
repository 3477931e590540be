"""A gate: conditions on an audit under which a pipeline fails, decided on intervals, and the summaries that a CI shows.

"squad2.f1 loss > 0.03" fails if the metric lost more than 3 % of its range.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal
from xml.etree import ElementTree

from alignbench.audit.abilities import ABILITIES, name_of
from alignbench.audit.audit import Audit, Contrast
from alignbench.audit.tax import CAPABILITY
from alignbench.console import interval, number, printable
from alignbench.errors import AlignbenchError
from alignbench.tasks.declared import find_any

Gate = Literal["lenient", "strict"]
EXAMPLE = '"capability loss > 0.02" or "squad2.f1 loss > 3%"'
CONDITION = re.compile(r"(\S+)\s+(loss\s*>|gain\s*<)\s*(\d+(?:\.\d*)?|\.\d+)\s*(%?)", re.ASCII)


@dataclass(frozen=True)
class Condition:
    """text: as the user wrote it
    subject: TASK.METRIC, a task (its headline metric), an ability, or a group of capabilities
    largest_loss: the loss above which the condition holds, as a proportion of the metric's range, or in the metric's
        own unit if its range is not finite; negative for a demanded gain
    """

    text: str
    subject: str
    largest_loss: float


@dataclass(frozen=True)
class Decision:
    """Whether a condition holds in a contrast, and why.

    name: the metric; state: "missing": there is no interval of it, which fails
    """

    condition: str
    aligned: str
    reference: str
    name: str
    state: Literal["passed", "failed", "missing"]
    reason: str


def parse_condition(text: str) -> Condition:
    match = CONDITION.fullmatch(text.strip())
    if match is None:
        form = f"write SUBJECT loss > SIZE or SUBJECT gain < SIZE, such as {EXAMPLE}"
        raise AlignbenchError(f'--fail-if "{text}": {form}')
    subject, comparison, size, percent = match.groups()
    value = float(size) / (100 if percent else 1)
    return Condition(text.strip(), subject, value if comparison.startswith("loss") else -value)


def decide(audit: Audit, conditions: Sequence[Condition], gate: Gate) -> list[Decision]:
    """One decision for each condition, contrast, and metric of the condition's subject.

    gate: "lenient" fails where the whole 95 % interval lies beyond the limit: the loss is shown. "strict" fails where
    any of it does: the loss is not excluded. Raises AlignbenchError for a subject that no task could have.
    """
    for condition in conditions:
        _check_subject(audit, condition)
    found = []
    for contrast, condition in product(audit.contrasts, conditions):
        for name, low, high, reason in _losses(condition.subject, contrast):
            state: Literal["passed", "failed", "missing"] = "missing"
            limit = condition.largest_loss
            if low is not None and high is not None:
                state = "failed" if (low if gate == "lenient" else high) > limit else "passed"
                shown = "above" if low > limit else "not above" if high <= limit else "around"
                size = f"loss: 95 % interval {interval(low, high, '+.4f')}"
                reason = f"{size}, {shown} the limit of {number(limit, '.4g')}"
            found.append(Decision(condition.text, contrast.aligned, contrast.reference, name, state, reason))
    return found


def _check_subject(audit: Audit, condition: Condition) -> None:
    known = {*ABILITIES}
    for row in [row for contrast in audit.contrasts for row in contrast.rows]:
        known |= {row.group, row.task, f"{row.task}.{row.metric}"}
    name, _, metric = condition.subject.partition(".")
    task = find_any(name)
    if condition.subject not in known and (
        task is None or (metric and metric not in {own.name for own in task.metrics})
    ):
        raise AlignbenchError(
            f'--fail-if "{condition.text}": {condition.subject} is no TASK.METRIC, task, ability or group of '
            "capabilities; see `alignbench tasks`"
        )


def _losses(subject: str, contrast: Contrast) -> Iterator[tuple[str, float | None, float | None, str]]:
    """(name, lower and upper end of the loss, note) of each metric of the subject; without ends if there are none."""
    means = {CAPABILITY: contrast.mean, **{mean.name: mean for mean in contrast.groups}}
    if (mean := means.get(subject)) is not None:
        ends = [None if end is None else end / 100 for end in (mean.low, mean.high)]
        yield f"mean tax of {subject}", ends[0], ends[1], "a task of the mean has no interval"
        return
    rows = [row for row in contrast.rows if row.ability == subject and row.primary and subject != CAPABILITY]
    rows = rows or [row for row in contrast.rows if subject == f"{row.task}.{row.metric}"]
    rows = rows or [row for row in contrast.rows if subject == row.task and row.headline]
    for row in [row for row in rows if row.primary] or rows:
        low, high = (None if end is None else -end / (row.span or 1) for end in (row.gain_high, row.gain_low))
        yield name_of(row), low, high, row.note or "it has no interval of a gain or loss"
    if not rows:
        left_out = [line for line in contrast.left_out if line.startswith(subject.partition(".")[0] + " ")]
        reason = f"not compared: {'; '.join(left_out)}" if left_out else "the two runs do not both have it"
        yield subject, None, None, reason


def to_lines(decisions: Sequence[Decision]) -> list[str]:
    """A line for each decision, the failures first."""
    lines = [
        f'gate {own.state}: "{own.condition}": {own.aligned} against {own.reference}: {own.name}: {own.reason}'
        for own in sorted(decisions, key=lambda own: own.state == "passed")
    ]
    return list(map(printable, lines))


def to_junit(decisions: Sequence[Decision]) -> str:
    """JUnit XML: a test suite for each contrast, a test case for each decision."""
    suites = ElementTree.Element("testsuites", name="alignbench")
    for aligned, reference in dict.fromkeys((own.aligned, own.reference) for own in decisions):
        own = [decision for decision in decisions if (decision.aligned, decision.reference) == (aligned, reference)]
        title = printable(f"{aligned} against {reference}")
        failures = str(sum(decision.state != "passed" for decision in own))
        suite = ElementTree.SubElement(suites, "testsuite", name=title, tests=str(len(own)), failures=failures)
        for decision in own:
            name = printable(f"{decision.name}: {decision.condition}")
            case = ElementTree.SubElement(suite, "testcase", classname=title, name=name)
            if decision.state != "passed":
                ElementTree.SubElement(case, "failure", type=decision.state, message=printable(decision.reason))
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"
