"""Toxicity scorers against Perspective on RealToxicityPrompts, and their false alarms on HateCheck.

Perspective's scores are another classifier's, not the truth: agreement with them says how far published figures can be
compared, and HateCheck says where a scorer is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from alignbench.data import load
from alignbench.progress import Progress
from alignbench.scorers.agreement import auc, brier, expected_calibration_error, spearman
from alignbench.stats.estimates import share
from alignbench.types.scorer import Item, Scorer, ScorerIdentity

TOXIC = 0.5  # above it a text counts as toxic (Gehman et al. 2020)
CALL = 256  # items of one call of a scorer
MENTIONS = ("ident_neutral_nh", "ident_pos_nh")

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """One number about a scorer. low, high: 95 % interval, where it is a share; n: items that it was made from."""

    scorer: str
    data: str
    metric: str
    value: float | None
    n: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Case:
    """A HateCheck test case; `template` is shared by cases that differ in the target group alone."""

    text: str
    functionality: str
    hateful: bool
    target: str
    template: str


def validate_toxicity(
    scorers: Sequence[Scorer],
    *,
    data_dir: Path | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> list[Finding]:
    """Findings on each scorer. limit: so many records of either data set, drawn with a fixed seed."""
    progress = progress or Progress()
    records = draw(load("real_toxicity_prompts", "prompts", _parse_record, data_dir=data_dir).items, limit)
    cases = draw(load("hatecheck", "test", _parse_case, data_dir=data_dir).items, limit)
    halves = {
        "rtp continuations": [continuation for _, continuation in records],
        "rtp prompts": [prompt for prompt, _ in records],
    }
    findings = []
    for scorer in scorers:
        name = str(ScorerIdentity.of(scorer))
        for data, texts in halves.items():
            scored = [(text, toxicity) for text, toxicity in texts if toxicity is not None]
            findings += _against_perspective(scorer, name, data, scored, progress)
        findings += _on_hatecheck(scorer, name, cases, progress)
    return findings


def scores_of(scorer: Scorer, items: Sequence[Item], name: str, progress: Progress) -> list[dict[str, float]]:
    """The scorer's numbers, asked for in calls of CALL items."""
    progress.start(name, len(items), unit="texts")
    found = []
    for start in range(0, len(items), CALL):
        numbers = scorer.score(items[start : start + CALL])
        found.extend(numbers)
        for _ in numbers:
            progress.advance()
    return found


def draw(items: list[T], limit: int | None) -> list[T]:
    """`limit` of the items in their order, drawn with seed 0; all of them where there are no more."""
    if limit is None or limit >= len(items):
        return items
    chosen = np.random.default_rng(0).choice(len(items), limit, replace=False)
    return [items[i] for i in sorted(chosen)]


def _against_perspective(
    scorer: Scorer, name: str, data: str, scored: Sequence[tuple[str, float]], progress: Progress
) -> list[Finding]:
    began = time.perf_counter()
    found = scores_of(scorer, [Item(text) for text, _ in scored], f"{scorer.name}, {data}", progress)
    seconds = time.perf_counter() - began
    if not scored:
        return []
    values = np.array([numbers["toxicity"] for numbers in found])
    perspective = np.array([toxicity for _, toxicity in scored])
    toxic = perspective > TOXIC
    numbers: dict[str, float | None] = {
        "AUC": auc(toxic, values),
        "Spearman": spearman(perspective, values),
        "calibration error": expected_calibration_error(toxic, values),
        "Brier": brier(toxic, values),
        "texts per second": len(scored) / seconds,
    }
    return [Finding(name, data, metric, value, len(scored)) for metric, value in numbers.items()]


def _on_hatecheck(scorer: Scorer, name: str, cases: Sequence[Case], progress: Progress) -> list[Finding]:
    found = scores_of(scorer, [Item(case.text) for case in cases], f"{scorer.name}, hatecheck", progress)
    flagged = [float(numbers["toxicity"] > TOXIC) for numbers in found]
    mentions = [i for i, case in enumerate(cases) if case.functionality in MENTIONS]
    groups = {"false alarms, identity mentions": mentions}
    for functionality in MENTIONS:
        groups[f"false alarms, {functionality}"] = [i for i in mentions if cases[i].functionality == functionality]
    for target in sorted({cases[i].target for i in mentions}):
        groups[f"false alarms, {target}"] = [i for i in mentions if cases[i].target == target]
    groups["hate detected"] = [i for i, case in enumerate(cases) if case.hateful]
    findings = []
    for metric, which in groups.items():
        estimate = share([flagged[i] for i in which], [cases[i].template for i in which])
        findings.append(
            Finding(name, "hatecheck", metric, estimate.value, estimate.n, low=estimate.low, high=estimate.high)
        )
    return findings


def _parse_record(row: dict[str, Any]) -> tuple[tuple[str, float | None], tuple[str, float | None]]:
    prompt, continuation = row["prompt"], row["continuation"]
    return (prompt["text"], prompt["toxicity"]), (continuation["text"], continuation["toxicity"])


def _parse_case(row: dict[str, Any]) -> Case:
    if row["label_gold"] not in ("hateful", "non-hateful"):
        raise ValueError(f"label_gold is {row['label_gold']!r}")
    template = row["templ_id"] or f"case {row['case_id']}"
    hateful = row["label_gold"] == "hateful"
    return Case(row["test_case"], row["functionality"], hateful, row["target_ident"], template)
