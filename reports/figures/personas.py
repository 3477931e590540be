"""The personas that systems invent: distributions of their fields, and word clouds of names and nationalities."""

from __future__ import annotations

import math
import string
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.textpath import TextPath

from alignbench.diversity.entropy import FEWEST, SIZE, rarefied_entropy
from alignbench.runs.read import TaskRun
from alignbench.stats import estimates
from reports.chart import Panel, panel_grid, row_panels
from reports.drawing import Drawing, NoDataError, describe
from reports.evidence import Evidence, metric_of, scorer_of
from reports.style import FAINT, WIDTH, Look, plain, short_names

TASKS = {  # task -> how personas are sampled, prefix of the names of its files, end of its titles
    "personas": ("one per sample", "persona", ""),
    "personas_verbalised": ("five per sample, with their probabilities", "personas_verbalised", " (verbalised)"),
}
FIELDS = {  # as in the task's metrics; in the order of the figures
    "gender": "gender",
    "age_decade": "age",
    "nationality": "nationality",
    "first_name": "first name",
    "opinion": "opinion in the review",
}
CLOUDS = {"first_name": "first names", "nationality": "nationalities"}
OPINIONS = ("positive", "neutral", "negative")
MOST_BARS = 8  # values with their own bar; four more for ages
OTHERS = "all others"
MOST_WORDS, SMALLEST = 40, 8.5  # words in a cloud; points
LARGEST = 0.27  # of the cloud's height
Values = list[tuple[str, str]]  # (document, value) of each persona with a valid value


def _read(task: TaskRun) -> dict[str, Values]:
    """Return the values of each field."""
    values: dict[str, Values] = {field: [] for field in FIELDS}
    for record in task.records():
        fields = {
            field: [str(value) for value in record.statistics.get(field) or () if str(value or "").strip()]
            for field in ("name", "gender", "nationality", "age")
        }
        values["first_name"] += [(record.id, name.split()[0]) for name in fields["name"]]
        values["age_decade"] += [(record.id, f"{int(age) // 10 * 10}s") for age in fields["age"]]
        for field in ("gender", "nationality"):
            values[field] += [(record.id, value) for value in fields[field]]
        if (sentiment := record.metrics.get("sentiment")) is not None:
            values["opinion"].append((record.id, OPINIONS[1 - (sentiment > 0) + (sentiment < 0)]))
    return values


def _known(evidence: Evidence, fields: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any], list[Any]]]:
    """Yield, for each task and field, the field, facts for the texts, and (system's name, folder, values) of the
    systems with FEWEST values or more."""
    for task, (sampling, prefix, suffix) in TASKS.items():
        read = [(system.name, folder, _read(folder)) for system, folder in evidence.runs(task)]
        for field, what in fields.items():
            found = [(name, folder, values[field]) for name, folder, values in read]
            facts = {"what": what, "sampling": f"{task}: {sampling}", "suffix": suffix, "size": SIZE, "fewest": FEWEST}
            facts["absent"] = [plain(name) for name, _, values in found if len(values) < FEWEST]
            facts["few"] = [plain(name) for name, _, values in found if FEWEST <= len(values) < SIZE]
            known = [one for one in found if len(one[2]) >= FEWEST]
            if known:
                yield field, {**facts, "prefix": prefix}, known


def histograms(evidence: Evidence) -> list[Drawing]:
    """Draw a figure per field and task, a panel per system, a bar per value."""
    drawings = [_histogram(evidence, *one) for one in _known(evidence, FIELDS)]
    if not drawings:
        raise NoDataError(f"no run of the task personas with {FEWEST} valid values of a field")
    return drawings


def _histogram(evidence: Evidence, field: str, facts: dict[str, Any], known: list[Any]) -> Drawing:
    bars = _bars(field, Counter(value for _, _, values in known for _, value in values))
    table = pd.DataFrame(row for name, task, values in known for row in _shares(name, task, field, values, bars))
    labels = {bar: _label(field, bar) for bar in (*bars, OTHERS) if bar in set(table.value)}
    drawn = table.assign(system=table.value.map(labels), value=table.share)
    looks, names = evidence.looks(), short_names([name for name, _, _ in known], 18)
    panels = [
        Panel(short, own, _entropy(own.iloc[0]), look=looks[name])
        for name, short in names.items()
        for own in [drawn[table.system == name]]
    ]
    rows = dict.fromkeys(labels.values(), Look(FAINT, "", ""))
    figure = row_panels(panels, rows, label="proportion of the personas", most=float(table.high.max()), percent=True)
    scorer = scorer_of(known[0][1], "sentiment") if field == "opinion" else None
    facts["scorer"] = f"{scorer['name']}@{str(scorer['revision'])[:12]}" if scorer else ""
    most = table[table.value != OTHERS].groupby("system", sort=False).share.idxmax()
    name = f"{facts['prefix']}_histograms_{field}"
    return describe("personas", figure, table, name=name, most=table.loc[most], labels=labels, **facts)


def _bars(field: str, counts: Counter[str]) -> list[str]:
    """Return the values with bars: the most frequent over all systems; ages and opinions in their own order."""
    chosen = sorted(counts, key=lambda value: (-counts[value], value))
    if field == "age_decade":
        return sorted(chosen[: MOST_BARS + 4], key=lambda decade: int(decade[:-1]))
    return [value for value in OPINIONS if value in counts] if field == "opinion" else chosen[:MOST_BARS]


def _shares(name: str, task: TaskRun, field: str, values: Values, bars: list[str]) -> Iterator[dict[str, object]]:
    counts, groups = Counter(value for _, value in values), [document for document, _ in values]
    metric = metric_of(task, f"{field}_entropy_at_{SIZE}")
    entropy = rarefied_entropy(list(counts.values()), SIZE) / math.log(2) if len(values) >= SIZE else math.nan
    rest = set(counts) - set(bars)
    for bar in [*bars, *([OTHERS] if rest else [])]:
        inside = rest if bar == OTHERS else {bar}
        share = estimates.share([float(value in inside) for _, value in values], groups)
        yield {
            "system": name, "task": task.task, "field": field, "value": bar, "share": share.value, "low": share.low,
            "high": share.high, "count": sum(counts[value] for value in inside), "values": len(inside),
            "n": len(values), "entropy_bits": entropy,
            "entropy_low": metric.low if metric else None, "entropy_high": metric.high if metric else None,
        }  # fmt: skip


def _entropy(row: pd.Series) -> str:
    interval = "" if pd.isna(row.entropy_low) else f" [{row.entropy_low:.1f}, {row.entropy_high:.1f}]"
    return ("" if math.isnan(row.entropy_bits) else f"{row.entropy_bits:.2f} bits{interval}, ") + f"n = {row.n}"


def _label(field: str, value: str) -> str:
    """Return a value as a figure writes it; records have lower case."""
    if value == OTHERS or field == "age_decade":
        return value
    acronym = field == "nationality" and value in ("us", "usa", "uk", "uae")
    return plain(value.upper() if acronym else string.capwords(value), 20)


def clouds(evidence: Evidence) -> list[Drawing]:
    """Draw a figure per field and task, a word cloud per system."""
    drawings = [_clouds(evidence, *one) for one in _known(evidence, CLOUDS)]
    if not drawings:
        raise NoDataError(f"no run of the task personas with {FEWEST} valid names or nationalities")
    return drawings


def _clouds(evidence: Evidence, field: str, facts: dict[str, Any], known: list[Any]) -> Drawing:
    columns = len(known) if len(known) < 4 else 2 if len(known) == 4 else 3
    size = (WIDTH / columns - 0.15, 1.9 if columns < 3 else 1.6)  # inches
    names, looks = short_names([name for name, _, _ in known], {1: 70, 2: 38, 3: 20}[columns]), evidence.looks()
    tables = []
    for name, task, values in known:
        counts = Counter(value for _, value in values)
        order = sorted(counts, key=lambda value: (-counts[value], value))
        own = pd.DataFrame({"system": name, "task": task.task, "field": field, "value": order})
        own["count"] = own.value.map(counts)
        tables.append(own.assign(share=own["count"] / len(values), n=len(values)))
    panels = [
        Panel(names[name], own, f"n = {own.n.iloc[0]}, {len(own)} different")
        for (name, _, _), own in zip(known, tables, strict=True)
    ]
    figure, grid = panel_grid(panels, size[1] + 0.4, columns=columns)
    for axes, own in zip(grid, tables, strict=True):
        labels = own.value.map(lambda value: _label(field, value))
        words = {label: n for label, n in zip(labels, own["count"], strict=True) if _left_to_right(label)}
        own["drawn"] = labels.isin(_cloud(axes, words, size, looks[own.system.iloc[0]].colour))
    table = pd.concat(tables, ignore_index=True)
    hidden = table[~table.drawn]
    scripts = sum(not _left_to_right(_label(field, value)) for value in hidden.value)
    facts |= {"rare": len(hidden) - scripts, "scripts": scripts}
    return describe("persona_clouds", figure, table, name=f"{facts['prefix']}_clouds_{field}", **facts)


def _left_to_right(word: str) -> bool:
    """Return whether the font has every glyph of a word, and the word is written from left to right."""
    return "□" not in plain(word) and not any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in word)


def _cloud(axes: Axes, words: dict[str, int], size: tuple[float, float], colour: str) -> set[str]:
    """Draw words in lines, the most frequent first, into axes of `size` inches; return those that found room."""
    width, height = (72 * side for side in size)  # points
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], aspect="equal", anchor="NW")
    axes.spines[:].set_visible(False)
    chosen = dict(list(words.items())[:MOST_WORDS])
    most = max(chosen.values(), default=1)
    for largest in np.geomspace(LARGEST * height, SMALLEST, 12):
        sizes = {word: max(SMALLEST, float(largest) * math.sqrt(count / most)) for word, count in chosen.items()}
        placed = list(_lines(sizes, width, height))
        if len(placed) == len(chosen):
            break
    ink = tuple(0.6 * part for part in to_rgb(colour))  # a contrast of 4.5 or more on white (WCAG 2.2, 1.4.3)
    for word, left, baseline in placed:
        path = TextPath((0, 0), word, size=sizes[word])
        axes.add_patch(PathPatch(Path(path.vertices * (1, -1) + (left, baseline), path.codes), color=ink, linewidth=0))
    return {word for word, _, _ in placed}


def _lines(sizes: Mapping[str, float], width: float, height: float) -> Iterator[tuple[str, float, float]]:
    """Yield (word, left, baseline) in points from the upper left, as long as there is room."""
    left = baseline = 0.0
    for word, size in sizes.items():
        wide = _width(word) * size
        if left + wide > width or not baseline:
            left, baseline = 0.0, baseline + 1.2 * size
        if baseline + 0.3 * size > height or wide > width:
            return
        yield word, left, baseline
        left += wide + 0.35 * size


@cache
def _width(word: str) -> float:
    """Return the width of a word at a size of one point."""
    return float(TextPath((0, 0), word, size=100).get_extents().x1) / 100
