"""What a judge preferred: win rates, with the lengths that may explain them (AlpacaEval 2, arXiv 2404.04475)."""

from __future__ import annotations

from alignbench.runs.read import TaskRun
from alignbench.types.result import MetricResult
from reports.evidence import System
from reports.page.blocks import told, told_interval
from reports.page.sets import Sets, TaskSet, link_to, metric_of
from reports.page.verdict import Kind, Sentence, at_equal_lengths, counted

WIN_RATE = "win_rate"
HALF = 0.5


def win_rates(sets: Sets) -> dict[Kind, list[Sentence]]:
    """Each win rate of each system, by where its interval lies to one half, and whether lengths alone may explain it.

    A win rate is a comparison in itself, of a system with its baseline, and stands beside those of the audit.
    "open": the interval holds one half; or that of the length-controlled rate does, or lies on the other side.
    """
    found: dict[Kind, list[Sentence]] = {"gain": [], "cost": [], "open": []}
    for one in sets.get(WIN_RATE, ()):
        for system, own in one.folders:
            metric = metric_of(own, WIN_RATE)
            if metric is not None and metric.value is not None:
                kind, sentence = _battle(system, own, one, metric, metric.value)
                found[kind].append(sentence)
    return found


def _battle(system: System, own: TaskRun, one: TaskSet, metric: MetricResult, value: float) -> tuple[Kind, Sentence]:
    equal = metric_of(own, "win_rate_length_controlled")
    kind, caveat = _decided(metric, equal)
    baseline = (own.identity.get("baseline") or {}).get("name") or "its baseline"
    numbers = [f"win rate {_told(metric)}"]
    if equal is not None and equal.value is not None:
        numbers.append(f"at equal lengths {_told(equal)}")
    sentence = Sentence(
        link_to(WIN_RATE, one),
        f"{system.name} against {baseline}",
        "; ".join(numbers),
        caveat,
        "one half: as good as the other",
        "; ".join([*_beside(own), counted(metric.n, metric.n_unscored)]),
    )
    return kind, sentence


def _told(metric: MetricResult) -> str:
    return f"{told(metric.value, metric.unit)} {told_interval(metric.low, metric.high, metric.unit)}".strip()


def _decided(metric: MetricResult, equal: MetricResult | None) -> tuple[Kind, str]:
    """Which way it goes, and what is to be said of it at equal lengths."""
    side = _side(metric)
    if equal is None or equal.value is None:
        return ("gain" if side > 0 else "cost" if side < 0 else "open"), "lengths were not controlled"
    if not side:
        words = {1: "more than half at equal lengths", -1: "less than half at equal lengths", 0: ""}
        return "open", words[_side(equal)]
    low, high = (None if end is None else end - HALF for end in (equal.low, equal.high))
    words_of_it = at_equal_lengths(side, low, high)
    if _side(equal) == side:
        return ("gain" if side > 0 else "cost"), words_of_it
    return "open", f"{'more' if side > 0 else 'less'} than half as judged, but {words_of_it}"


def _side(metric: MetricResult) -> int:
    """1: the whole interval is above one half, -1: below; 0: it holds it, or there is none."""
    if metric.low is None or metric.high is None:
        return 0
    return int(metric.low > HALF) - int(metric.high < HALF)


def _beside(own: TaskRun) -> list[str]:
    """Who judged, how long both sides' answers are, and how a judge would fare who always takes the longer one."""
    judged = metric_of(own, WIN_RATE)
    known = {m.metric: told(m.value, m.unit) for m in own.result.metrics if m.category is None and m.value is not None}
    parts = [f"judged by {judged.scorer.partition('@')[0]}"] if judged is not None and judged.scorer else []
    if "words" in known and "baseline_words" in known:
        parts.append(f"{known['words']} words against {known['baseline_words']}")
    longer = []
    if "longer" in known:
        longer.append(f"win rate {known['longer']}")
    if "agrees_with_longer" in known:
        longer.append(f"the same verdict as this judge in {known['agrees_with_longer']}")
    if longer:
        parts.append(f"always the longer: {', '.join(longer)}")
    if "position_consistency" in known:
        parts.append(f"the same verdict in both orders in {known['position_consistency']}")
    return parts
