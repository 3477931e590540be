"""The personas that systems invent: distributions of their fields, word clouds of names and nationalities, and the
sentiment of their reviews."""

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
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.textpath import TextPath

from alignbench.diversity.entropy import FEWEST, SIZE, rarefied_entropy
from alignbench.runs.read import TaskRun
from alignbench.stats import estimates
from alignbench.tasks.personas import DERIVED
from reports.chart import Panel, histogram_rows, panel_grid, row_panels
from reports.drawing import WORDS, Drawing, describe, rows_of
from reports.evidence import Evidence, scorer_of
from reports.style import FAINT, WIDTH, Look, deep, plain, wrapped_names

FIELDS = WORDS["persona_fields"]
MOST_BARS = 8  # values with their own bar; four more for ages
OTHERS = "all others"
MOST_WORDS, SMALLEST = 40, 8.5  # words in a cloud; points
LARGEST = 0.27  # of the cloud's height
EDGES = np.arange(-10, 11) / 10  # exact: lexicons give round numbers


def _read(task: TaskRun) -> dict[str, list[tuple[str, str]]]:
    """Return (document, value) of each persona with a valid value, for each field."""
    values: dict[str, list[tuple[str, str]]] = {field: [] for field in FIELDS}
    for record in task.records():
        for field, (name, derive) in DERIVED.items():
            given = [str(value) for value in record.statistics.get(name) or () if str(value or "").strip()]
            values[field] += [(record.id, derive(value)) for value in given]
    return values


def _known(evidence: Evidence, fields: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any], list[Any]]]:
    """Yield, of each task and field with FEWEST values, the field, facts, and (system's name, folder, values)."""
    for task, (sampling, prefix, suffix) in WORDS["personas"].items():
        read = [(system.name, folder, _read(folder)) for system, folder in evidence.runs(task)]
        for field, what in fields.items():
            found = [(name, folder, values[field]) for name, folder, values in read]
            known = [one for one in found if len(one[2]) >= FEWEST]
            if known:
                yield field, {
                    "what": what, "sampling": f"{task}: {sampling}", "suffix": suffix, "size": SIZE, "fewest": FEWEST,
                    "absent": [plain(name) for name, _, values in found if len(values) < FEWEST], "prefix": prefix,
                    "few": [plain(name) for name, _, values in known if len(values) < SIZE],
                }, known  # fmt: skip


def histograms(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a figure per field and task, a panel per system, a bar per value."""
    for field, facts, known in _known(evidence, FIELDS):
        counts = Counter(value for _, _, values in known for _, value in values)
        order = sorted(counts, key=lambda value: (-counts[value], value))
        bars = order[:MOST_BARS]
        if field == "age_decade":
            bars = sorted(order[: MOST_BARS + 4], key=lambda decade: int(decade[:-1]))
        table = pd.DataFrame(row for name, task, values in known for row in _shares(name, task, field, values, bars))
        labels = {bar: _label(field, bar) for bar in (*bars, OTHERS) if bar in set(table.value)}
        drawn = table.assign(system=table.value.map(labels), value=table.share)
        looks, panels = evidence.looks(), []
        for name, short in wrapped_names([name for name, _, _ in known], 18).items():
            own = drawn[table.system == name]
            head = own.iloc[0]
            interval = "" if pd.isna(head.entropy_low) else f" [{head.entropy_low:.1f}, {head.entropy_high:.1f}]"
            bits = "" if math.isnan(head.entropy_bits) else f"{head.entropy_bits:.2f} bits{interval}, "
            panels.append(Panel(short, own, f"{bits}n = {head.n}", look=looks[name]))
        rows, most = dict.fromkeys(labels.values(), Look(FAINT, "", "")), float(table.high.max())
        figure = row_panels(panels, rows, label="proportion of the personas", most=most, percent=True)
        first = table[table.value != OTHERS].groupby("system", sort=False).share.idxmax()
        name = f"{facts['prefix']}_histograms_{field}"
        yield describe("personas", figure, table, name=name, most=table.loc[first], labels=labels, **facts)


def _shares(name: str, task: TaskRun, field: str, values: list[tuple[str, str]], bars: list[str]) -> Iterator[Any]:
    counts, groups = Counter(value for _, value in values), [document for document, _ in values]
    metric = task.result.overall.get(f"{field}_entropy_at_{SIZE}")
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


def _label(field: str, value: str) -> str:
    """Return a value as a figure writes it; records have lower case."""
    if value == OTHERS or field == "age_decade":
        return value
    acronym = field == "nationality" and value in ("us", "usa", "uk", "uae")
    return plain(value.upper() if acronym else string.capwords(value), 20)


def clouds(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a figure per field and task, a word cloud per system."""
    for field, facts, known in _known(evidence, WORDS["persona_clouds"]):
        columns = len(known) if len(known) < 4 else 2 if len(known) == 4 else 3
        size = (WIDTH / columns - 0.15, 1.9 if columns < 3 else 1.6)  # inches
        names, looks = wrapped_names([name for name, _, _ in known], {1: 70, 2: 34, 3: 18}[columns]), evidence.looks()
        panels = []
        for name, task, values in known:
            counts = pd.Series([value for _, value in values]).value_counts().sort_index()
            counts = counts.sort_values(ascending=False, kind="stable")
            own = pd.DataFrame({"system": name, "task": task.task, "field": field, "value": counts.index})
            own = own.assign(count=counts.to_numpy(), share=counts.to_numpy() / len(values), n=len(values))
            panels.append(Panel(names[name], own, f"n = {len(values)}, {len(own)} different"))
        figure, grid = panel_grid(panels, size[1] + 0.4, columns=columns)
        table = pd.concat([panel.table for panel in panels], ignore_index=True)
        labels = table.value.map(lambda value: _label(field, value))  # noqa: B023
        readable = labels.map(  # from left to right, in letters that the font has
            lambda word: "□" not in plain(word) and not {"R", "AL"}.intersection(map(unicodedata.bidirectional, word))
        )
        table["drawn"] = False
        for axes, name in zip(grid, names, strict=True):
            own = table.system == name
            words = dict(zip(labels[own & readable], table["count"][own & readable], strict=True))
            table.loc[own, "drawn"] = labels[own].isin(_cloud(axes, words, size, looks[name].colour))
        hidden = ~table.drawn
        facts |= {"rare": (hidden & readable).sum(), "scripts": (hidden & ~readable).sum()}
        yield describe("persona_clouds", figure, table, name=f"{facts['prefix']}_clouds_{field}", **facts)


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
    for word, left, baseline in placed:
        path = TextPath((0, 0), word, size=sizes[word])
        axes.add_patch(
            PathPatch(Path(path.vertices * (1, -1) + (left, baseline), path.codes), color=deep(colour), linewidth=0)
        )
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
    return float(TextPath((0, 0), word, size=100).get_extents().x1) / 100


def sentiment(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a figure per task with sentiment, a row per system, a histogram in each."""
    for task, figure_words in WORDS["sentiment"].items():
        metric = figure_words["metric"]
        tables = []
        for system, folder in evidence.runs(task):
            given = [record.metrics.get(metric) for record in folder.records()]
            values = np.array([value for value in given if value is not None and math.isfinite(value)], np.float64)
            known, scorer = folder.result.overall.get(metric), scorer_of(folder, "sentiment")
            mean = known if known and known.value is not None else estimates.mean(values, bounds=(-1, 1))
            if len(values):
                shares = np.histogram(np.clip(values, -1, 1), EDGES)[0] / len(values)
                tables.append(pd.DataFrame({
                    "system": system.name, "task": task, "bin_low": EDGES[:-1], "bin_high": EDGES[1:], "share": shares,
                    "mean": mean.value, "mean_low": mean.low, "mean_high": mean.high, "n": len(values),
                    "unread": len(given) - len(values),
                    "scorer": f"{scorer['name']}@{str(scorer['revision'])[:12]}" if scorer else "unknown",
                }))  # fmt: skip
        if tables:
            table = pd.concat(tables, ignore_index=True)
            words = "mean {mean:+.2f} [{mean_low:.2f}, {mean_high:.2f}], n = {n}"
            figure = histogram_rows(
                {"sentiment, from −1 (negative) to 1 (positive)": table}, rows_of(evidence, table),
                bins=("bin_low", "bin_high"), height="share", words=words,
            )  # fmt: skip
            each = table.drop_duplicates("system").rename(columns={"mean": "value"})
            facts = {**figure_words["texts"], "each": each, "bins": len(EDGES) - 1}
            yield describe("sentiment", figure, table, name=figure_words["name"], **facts)
