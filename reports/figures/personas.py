"""The personas that systems invent: distributions of their fields, and word clouds of names and nationalities."""

from __future__ import annotations

import math
import string
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.textpath import TextPath

from alignbench.runs.read import TaskRun
from alignbench.diversity.entropy import rarefied_entropy
from alignbench.diversity.spread import FEWEST, SIZE
from alignbench.stats import estimates
from reports.chart import Panel, panel_grid, row_panels
from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence, System, metric_of, scorer_of
from reports.style import FAINT, WIDTH, Look, plain, short_names

SOURCE = "2406.05587, section 3.1"
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


@dataclass(frozen=True)
class People:
    """The personas of one system. values: field -> (document, value) of each persona with a valid value."""

    system: System
    task: TaskRun
    values: dict[str, list[tuple[str, str]]]

    def counts(self, field: str) -> Counter[str]:
        return Counter(value for _, value in self.values[field])


def _read(system: System, task: TaskRun) -> People:
    values: dict[str, list[tuple[str, str]]] = {field: [] for field in FIELDS}
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
    return People(system, task, values)


def _known(evidence: Evidence, fields: Mapping[str, str]) -> Iterator[tuple[str, str, list[People], str]]:
    """Yield (task, field, systems with FEWEST values or more, a sentence on the others) for each figure."""
    for task in TASKS:
        found = [_read(system, folder) for system, folder in evidence.runs(task)]
        for field in fields:
            known = [own for own in found if len(own.values[field]) >= FEWEST]
            absent = [plain(own.system.name) for own in found if own not in known]
            words = f" Left out, with fewer than {FEWEST} valid values: {', '.join(absent)}." if absent else ""
            if known:
                yield task, field, known, words


def histograms(evidence: Evidence) -> list[Drawing]:
    """Draw a figure per field and task, a panel per system, a bar per value."""
    drawings = [_histogram(evidence, *one) for one in _known(evidence, FIELDS)]
    if not drawings:
        raise NoDataError(f"no run of the task personas with {FEWEST} valid values of a field")
    return drawings


def _histogram(evidence: Evidence, task: str, field: str, known: list[People], absent: str) -> Drawing:
    sampling, prefix, suffix = TASKS[task]
    bars = _bars(field, known)
    table = pd.DataFrame(row for own in known for row in _shares(own, task, field, bars))
    labels = {bar: _label(field, bar) for bar in (*bars, OTHERS) if bar in set(table.value)}
    drawn = table.assign(system=table.value.map(labels), value=table.share)
    looks, names = evidence.looks(), short_names([own.system.name for own in known], 22)
    panels = []
    for name in names:
        own = drawn[table.system == name]
        panels.append(Panel(names[name], own, _entropy(own.iloc[0]), look=looks[name]))
    rows = dict.fromkeys(labels.values(), Look(FAINT, "", ""))
    most = float(table.high.max())
    figure = row_panels(panels, rows, label="proportion of the personas", most=most, percent=True)
    what = FIELDS[field]
    caption = (
        f"Proportion of each {what} among invented customers ({task}: {sampling}), with 95 % Wilson intervals"
        f"{' clustered by sample' * bool(suffix)}. Bits: expected entropy of {SIZE} of the values, with a bootstrap "
        "interval if the run has one; n: personas with a valid value."
    )
    if field == "opinion":
        scorer = scorer_of(known[0].task, "sentiment")
        name = f"{scorer['name']}@{str(scorer['revision'])[:12]}" if scorer else "unknown scorer"
        caption += f" The opinion is the sign of the review's sentiment ({name})."
    few = [plain(own.system.name) for own in known if len(own.values[field]) < SIZE]
    caption += absent + (f" Fewer than {SIZE} values, hence no entropy: {', '.join(few)}." if few else "")
    parts = []
    for system, own in table[table.value != OTHERS].groupby("system", sort=False):
        top = own.sort_values("share", ascending=False, kind="stable").iloc[0]
        bits = "" if math.isnan(top.entropy_bits) else f", {top.entropy_bits:.2f} bits"
        parts.append(f"{plain(str(system))}: {_label(field, top.value)} {top.share:.0%}{bits}")
    alt = f"Most frequent {what}: {'; '.join(parts)}."
    return Drawing(f"{prefix}_histograms_{field}", f"Personas: {what}{suffix}", SOURCE, figure, table, caption, alt)


def _bars(field: str, known: list[People]) -> list[str]:
    """Return the values with bars: the most frequent over all systems; ages and opinions in their own order."""
    counts = Counter(value for own in known for _, value in own.values[field])
    chosen = sorted(counts, key=lambda value: (-counts[value], value))
    if field == "age_decade":
        return sorted(chosen[: MOST_BARS + 4], key=lambda decade: int(decade[:-1]))
    return [value for value in OPINIONS if value in counts] if field == "opinion" else chosen[:MOST_BARS]


def _shares(own: People, task: str, field: str, bars: list[str]) -> Iterator[dict[str, object]]:
    groups = [document for document, _ in own.values[field]]
    counts = own.counts(field)
    n = counts.total()
    metric = metric_of(own.task, f"{field}_entropy_at_{SIZE}")
    rest = set(counts) - set(bars)
    for bar in [*bars, *([OTHERS] if rest else [])]:
        inside = rest if bar == OTHERS else {bar}
        share = estimates.share([float(value in inside) for _, value in own.values[field]], groups)
        yield {
            "system": own.system.name, "task": task, "field": field, "value": bar,
            "share": share.value, "low": share.low, "high": share.high, "count": sum(counts[v] for v in inside),
            "values": len(inside), "n": n,
            "entropy_bits": rarefied_entropy(list(counts.values()), SIZE) / math.log(2) if n >= SIZE else math.nan,
            "entropy_low": metric.low if metric else None, "entropy_high": metric.high if metric else None,
        }  # fmt: skip


def _entropy(row: pd.Series) -> str:
    if math.isnan(row.entropy_bits):
        return f"n = {row.n}"
    interval = "" if pd.isna(row.entropy_low) else f" [{row.entropy_low:.1f}, {row.entropy_high:.1f}]"
    return f"{row.entropy_bits:.2f} bits{interval}, n = {row.n}"


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


def _clouds(evidence: Evidence, task: str, field: str, known: list[People], absent: str) -> Drawing:
    sampling, prefix, suffix = TASKS[task]
    columns = len(known) if len(known) < 4 else 2 if len(known) == 4 else 3
    size = (WIDTH / columns - 0.15, 1.9 if columns < 3 else 1.6)  # inches
    names = short_names([own.system.name for own in known], {1: 70, 2: 38, 3: 20}[columns])
    counts = [sorted(own.counts(field).items(), key=lambda pair: (-pair[1], pair[0])) for own in known]
    panels = [
        Panel(names[own.system.name], pd.DataFrame(), f"n = {sum(n for _, n in pairs)}, {len(pairs)} different")
        for own, pairs in zip(known, counts, strict=True)
    ]
    figure, grid = panel_grid(panels, size[1] + 0.4, columns=columns)
    rows, looks = [], evidence.looks()
    for axes, own, pairs in zip(grid, known, counts, strict=True):
        words = {_label(field, value): count for value, count in pairs if _left_to_right(_label(field, value))}
        drawn = _cloud(axes, words, size, looks[own.system.name].colour)
        n = sum(count for _, count in pairs)
        rows += [
            {"system": own.system.name, "task": task, "field": field, "value": value, "count": count, "share": count / n,
             "n": n, "drawn": _label(field, value) in drawn}
            for value, count in pairs
        ]  # fmt: skip
    table = pd.DataFrame(rows)
    what = FIELDS[field]
    hidden = table[~table.drawn]
    scripts = sum(not _left_to_right(_label(field, value)) for value in hidden.value)
    caption = (
        f"The {what} of invented customers ({task}: {sampling}): area and rank by the number of personas. Sizes are "
        f"comparable only within a cloud; n is the number of personas with a valid value.{absent}"
        + f" {len(hidden) - scripts} rare values are only in the table." * (len(hidden) > scripts)
        + f" {scripts} values in scripts without glyphs in the font, or from right to left, are only in the table."
        * (scripts > 0)
    )
    parts = [
        f"{plain(str(system))}: {len(own)} different in {own.n.iloc[0]}, most frequent {plain(own.value.iloc[0])} "
        f"({own.share.iloc[0]:.0%})"
        for system, own in table.groupby("system", sort=False)
    ]
    alt = f"Most frequent {what}: {'; '.join(parts)}."
    title = f"Personas: {CLOUDS[field]}{suffix}"
    return Drawing(f"{prefix}_clouds_{field}", title, SOURCE, figure, table, caption, alt)


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
    """Return the advance of a word at a size of one point."""
    return float(TextPath((0, 0), word, size=100).get_extents().x1) / 100
