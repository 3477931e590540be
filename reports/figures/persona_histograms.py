"""Whom models think of: shares of the personas' genders, ages, nationalities, names and opinions, side by side."""

from __future__ import annotations

import math
from collections import Counter

import pandas as pd

from alignbench.diversity.entropy import FEWEST, SIZE, rarefied_entropy
from alignbench.stats import estimates
from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence, point_of
from reports.names import short_names
from reports.personas import ASKED, FIELDS, OPINIONS, TASKS, People, people, shown
from reports.style import FAINT, INK, Look, looks, new_figure, plain

TITLE = "Personas: gender, age, nationality, name, opinion"
SOURCE = "2406.05587, section 3.1"
ORDER = ("gender", "age_decade", "nationality", "first_name", "opinion")
MOST = 8  # values that have a bar of their own
COLUMNS = 3
OTHERS = "all others"


def draw(evidence: Evidence) -> list[Drawing]:
    """One drawing a field and task, one panel a system, one bar a value."""
    look = looks([system.name for system in evidence.systems])
    drawings = []
    for task in TASKS:
        found = people(evidence, task)
        for field in ORDER:
            known = [own for own in found if len(own.values[field]) >= FEWEST]
            if known:
                drawings.append(_drawing(task, field, found, known, look))
    if not drawings:
        raise NoDataError(f"no run has the task personas with a field of which {FEWEST} values could be read")
    return drawings


def _drawing(task: str, field: str, found: list[People], known: list[People], look: dict[str, Look]) -> Drawing:
    bars = _values(field, known)
    table = pd.DataFrame([row for own in known for row in _rows(own, task, field, bars)])
    columns = min(len(known), COLUMNS)
    rows = -(-len(known) // columns)
    shown_bars = [bar for bar in (*bars, OTHERS) if bar in set(table.value)]
    figure, grid = new_figure(
        rows * (0.62 + 0.19 * len(shown_bars)) + 0.3,
        rows=rows,
        columns=columns,
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    places = {bar: place for place, bar in enumerate(shown_bars)}
    names = short_names([own.system.name for own in known], {1: 60, 2: 32, 3: 20}[columns])
    for axes, own in zip(grid.flat, known, strict=False):
        mine = table[table.system == own.system.name]
        colours = [FAINT if value == OTHERS else look[own.system.name].colour for value in mine.value]
        spots = [places[value] for value in mine.value]
        axes.barh(spots, mine.share, height=0.72, color=colours, alpha=0.85)
        errors = [(mine.share - mine.low).clip(lower=0), (mine.high - mine.share).clip(lower=0)]
        axes.errorbar(mine.share, spots, xerr=errors, fmt="none", ecolor=INK, elinewidth=0.8)
        axes.set_title(names[own.system.name], fontsize=9, pad=15)
        axes.text(0, 1.02, _heading(mine.iloc[0]), transform=axes.transAxes, fontsize=8, color=INK, va="bottom")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
    first = grid[0, 0]
    first.set_yticks(list(places.values()), [_label(field, bar) for bar in places])
    first.set_ylim(len(places) - 0.4, -0.6)
    first.set_xlim(0, min(1.0, 1.04 * float(table.high.max())))
    first.xaxis.set_major_locator(_even(float(table.high.max())))
    first.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    for axes in grid.flat[len(known) :]:
        axes.remove()
    for axes in grid.flat[max(0, len(known) - columns) : len(known)]:
        axes.xaxis.set_tick_params(labelbottom=True)
    figure.supxlabel("share of the personas", fontsize=9)
    what = FIELDS[field]
    caption = [
        f"Share of each {what} among invented customers ({task}: {ASKED[task]}), with 95 % Wilson intervals"
        f"{' clustered by sample' if task != TASKS[0] else ''}. Bits: entropy that {SIZE} of the values show on "
        "average, with a bootstrap interval where the run has one; n: personas of which it could be read."
    ]
    if field == "opinion":
        caption.append(f"The opinion is the sign of the review's sentiment ({_scorer(known[0])}).")
    if absent := [plain(own.system.name) for own in found if own not in known]:
        caption.append(f"Left out, with fewer than {FEWEST} that could be read: {', '.join(absent)}.")
    if few := [plain(own.system.name) for own in known if len(own.values[field]) < SIZE]:
        caption.append(f"Fewer than {SIZE} values, and so no entropy: {', '.join(few)}.")
    name = f"persona_histograms_{field}" if task == TASKS[0] else f"{task}_histograms_{field}"
    title = f"Personas: {what}" + ("" if task == TASKS[0] else " (verbalised)")
    return Drawing(name, title, SOURCE, figure, table, " ".join(caption), _told(table, field))


def _values(field: str, known: list[People]) -> list[str]:
    """The values with bars: those that most personas of all systems have; ages and opinions in their order."""
    counts = Counter(value for own in known for _, value in own.values[field])
    chosen = sorted(counts, key=lambda value: (-counts[value], value))
    if field == "age_decade":
        chosen = chosen[: MOST + 4]
        return sorted(chosen, key=lambda decade: int(decade[:-1]))
    return [value for value in OPINIONS if value in counts] if field == "opinion" else chosen[:MOST]


def _rows(own: People, task: str, field: str, bars: list[str]) -> list[dict[str, object]]:
    pairs = own.values[field]
    groups = [document for document, _ in pairs]
    counts = own.counts(field)
    n = counts.total()
    entropy = rarefied_entropy(list(counts.values()), SIZE) / math.log(2) if n >= SIZE else math.nan
    point = point_of(own.system, own.task, f"{field}_entropy_at_{SIZE}")
    rest = [value for value in counts if value not in bars]
    rows: list[dict[str, object]] = []
    for bar in [*bars, *([OTHERS] if rest else [])]:
        inside = set(rest) if bar == OTHERS else {bar}
        share = estimates.share([float(value in inside) for _, value in pairs], groups)
        rows.append(
            {
                "system": own.system.name, "task": task, "field": field, "value": bar,
                "share": share.value, "low": share.low, "high": share.high, "count": sum(counts[v] for v in inside),
                "values": len(inside), "n": n, "entropy_bits": entropy,
                "entropy_low": point.metric.low if point else None,
                "entropy_high": point.metric.high if point else None,
            }
        )  # fmt: skip
    return rows


def _heading(row: pd.Series) -> str:
    if math.isnan(row.entropy_bits):
        return f"n = {row.n}"
    reach = "" if pd.isna(row.entropy_low) else f" [{row.entropy_low:.1f}, {row.entropy_high:.1f}]"
    return f"{row.entropy_bits:.2f} bits{reach}, n = {row.n}"


def _label(field: str, value: str) -> str:
    return value if value == OTHERS else plain(shown(field, value), 20)


def _even(most: float) -> object:
    from matplotlib.ticker import MultipleLocator

    return MultipleLocator(0.25 if most > 0.6 else 0.2 if most > 0.35 else 0.1 if most > 0.15 else 0.05)


def _scorer(own: People) -> str:
    found = next((entry for entry in own.task.identity.get("scorers") or () if entry["kind"] == "sentiment"), None)
    return f"{found['name']}@{str(found['revision'])[:12]}" if found else "scorer unknown"


def _told(table: pd.DataFrame, field: str) -> str:
    parts = []
    for system, own in table.groupby("system", sort=False):
        top = own[own.value != OTHERS].sort_values("share", ascending=False, kind="stable").iloc[0]
        bits = "" if math.isnan(top.entropy_bits) else f", {top.entropy_bits:.2f} bits"
        parts.append(f"{plain(str(system))}: {_label(field, top.value)} {top.share:.0%}{bits}")
    return f"Commonest {FIELDS[field]}: {'; '.join(parts)}."
