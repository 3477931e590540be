"""Win rate against the baseline over model size, one line per training method (InstructGPT, figures 1 and 3).

Without sizes, or with a single size: a row per system.
"""

from __future__ import annotations

from math import nan
from typing import Any

import pandas as pd

from reports.chart import Panel, line_panels, row_panels
from reports.drawing import Drawing, describe, rows_of, table_of
from reports.evidence import Evidence, point_of, scored_by
from reports.style import plain

RATE = "win_rate"
RATES = {RATE: "win rate", "win_rate_length_controlled": "at equal lengths"}
EVEN = 0.5
MOST_SYSTEMS = 4  # whose context the caption gives one by one
CONTEXT = {  # reported with every win rate: metric -> words, format
    "words": ("{} words", "{:.3g}"),
    "baseline_words": ("baseline {}", "{:.3g}"),
    "longer": ("always the longer answer {}", "{:.0%}"),
    "agrees_with_longer": ("agreement of the judge with the longer answer {}", "{:.0%}"),
    "position_consistency": ("same verdict in both orders {}", "{:.0%}"),
}


def draw(evidence: Evidence) -> list[Drawing]:
    points = [
        point
        for judge in evidence.scorers([RATE], RATE)[:1]
        for metric in RATES
        for point in evidence.points(RATE, metric, where=scored_by(RATE, judge))
    ]
    rates = [point for point in points if point.metric.metric == RATE]
    baseline = dict(rates[0].task.identity.get("baseline") or {}) if rates else {}
    name = str(baseline.get("name", ""))
    context = [point_of(point.system, point.task, metric) for point in rates for metric in CONTEXT]
    rows = [
        point.row(method=point.system.stage or "", parameters=point.system.parameters, baseline=name)
        for point in [*points, *context]
        if point is not None
    ]
    table = table_of(rows, "no win rates against a baseline")
    even = _baseline_row(evidence, baseline, set(table.system))
    sizes = [*table.parameters, *([even["parameters"]] if even else [])]
    by_size = not pd.isna(sizes).any() and len(set(sizes)) > 1
    if even and by_size:
        table = pd.concat([table, pd.DataFrame([even])], ignore_index=True)
    shown = table[table.metric.isin(RATES)]
    versus = plain(name or "not named")
    reference = (EVEN, f"baseline: {versus}")
    methods: list[str] = []
    if by_size:
        several = shown[shown.method != ""].groupby("method").parameters.nunique()
        methods = [method for method in dict.fromkeys(shown.method) if several.get(method, 0) > 1]
        shown = shown.assign(line=shown.system.where(~shown.method.isin(methods), shown.method))
        parts = ((words.capitalize(), shown[shown.metric == metric]) for metric, words in RATES.items())
        panels = [Panel(title, own, "", reference) for title, own in parts if len(own)]
        look = evidence.looks(*methods)
        lines = {own: look[own] for own in dict.fromkeys([*methods, *shown.line])}
        options: dict[str, Any] = {"x": "parameters", "label": "parameters", "scale": ("log", {})}
        figure = line_panels(panels, lines, line="line", columns=2, height=3.0, ticks=sorted(set(sizes)), **options)
        for axes in figure.axes:
            axes.yaxis.set_major_formatter("{x:.0%}")
    else:
        series = {metric: words for metric, words in RATES.items() if metric in set(shown.metric)}
        best = shown[shown.metric == RATE].sort_values(["value", "system"], ascending=[False, True]).system
        looks = rows_of(evidence, shown)
        panel, systems = Panel("", shown, "", reference), {name: looks[name] for name in best}
        figure = row_panels([panel], systems, label="win rate", series=("metric", series), bars=False, percent=True)
    others = len(evidence.all_runs(RATE)) - len(rates)
    facts: dict[str, Any] = {
        "by_size": by_size,
        "methods": methods,
        "baseline": versus,
        "context": _context(table),
        "others": others,
    }
    return [describe("win_rate_by_size", figure, table, rates=shown[shown.metric == RATE], **facts)]


def _baseline_row(evidence: Evidence, baseline: dict[str, Any], judged: set[str]) -> dict[str, Any] | None:
    """Return the row of the baseline, 50 % by definition; None if it is not a system, has no size, or has a rate."""
    name = str(baseline.get("name"))
    wanted = [f"{name} (chat)", name] if baseline.get("template") == "chat" else [name]
    found = [system for own in wanted for system in evidence.systems if system.name == own]
    if not found or found[0].parameters is None or found[0].name in judged:
        return None
    system = found[0]
    return {
        "system": system.name, "method": system.stage or "", "parameters": system.parameters, "baseline": system.name,
        "task": RATE, "metric": RATE, "value": EVEN, "low": nan, "high": nan, "n": nan, "unscored": nan, "scorer": "",
    }  # fmt: skip


def _context(table: pd.DataFrame) -> list[str]:
    """Return what must be reported with win rates: of each system, or the ranges over many systems."""
    table = table[table.metric.isin(CONTEXT)]
    groups = [(f"{plain(str(name))}: ", own) for name, own in table.groupby("system", sort=False)]
    if len(groups) > MOST_SYSTEMS:
        groups = [("ranges over all systems: ", table)]
    return [
        name
        + ", ".join(
            words.format("–".join(dict.fromkeys(form.format(end) for end in (values.min(), values.max()))))
            for metric, (words, form) in CONTEXT.items()
            if len(values := own.value[own.metric == metric])
        )
        for name, own in groups
    ]
