"""What the figures of the alignment tax have in common: which tasks, which reward, and a grid of small panels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignbench.audit.references import find
from alignbench.stats import estimates
from alignbench.types.result import MetricResult
from reports.evidence import Evidence, Point, documents
from reports.style import FAINT, new_figure, plain

# groups of tasks that InstructGPT's authors told the tax of (Ouyang et al. 2022, arXiv 2203.02155, figures 28 and 29)
GROUPS = ("reading", "common sense", "inference", "sentiment", "translation", "summaries")


@dataclass(frozen=True)
class Measure:
    """A metric of a task over systems: what one small panel shows. title: the task; points: one a system, not empty."""

    title: str
    points: tuple[Point, ...]

    @property
    def metric(self) -> MetricResult:
        return self.points[0].metric

    @property
    def told(self) -> str:
        """Name and unit of the metric, short enough for a small panel; of a win rate, against whom."""
        if baseline := self.points[0].task.identity.get("baseline"):
            return f"against {plain(str(baseline.get('name')), 16)}"
        unit = "" if self.metric.unit == "share" else f", {self.metric.unit}"
        return plain(self.metric.metric.replace("_", " "), 20) + unit


def tax_measures(evidence: Evidence, *, way: bool = False) -> list[Measure]:
    """The headline metric of each task of GROUPS, by group and name; those without a value are left out."""
    known = [(task, find(task)) for task in evidence.tasks]
    named = sorted(
        (GROUPS.index(task.group), name, task.headline) for name, task in known if task and task.group in GROUPS
    )
    found = [Measure(name, tuple(evidence.points(name, headline, way=way))) for _, name, headline in named]
    return [measure for measure in found if measure.points]


def reward_measure(evidence: Evidence, *, way: bool = False) -> Measure | None:
    """What the tax bought: the win rate, or else the mean reward of the answers; None where there is neither."""
    wins = evidence.points("win_rate", "win_rate", way=way)
    if wins:
        return Measure("win rate", tuple(wins))
    answers = tuple(found for point in _rewards(evidence, way) for found in [point] if found)
    return Measure("reward of answers", answers) if answers else None


def _rewards(evidence: Evidence, way: bool) -> Iterator[Point]:
    for system, task in evidence.runs_of("answers", way=way):
        scorer = next((s for s in task.identity.get("scorers") or () if s["kind"] == "reward"), None)
        if scorer is None:
            continue
        records = [
            (own["scores"]["reward"]["reward"], record.get("group") or record["id"])
            for record in documents(task)
            for own in record.get("outputs") or ()
            if "reward" in ((own.get("scores") or {}).get("reward") or {})
        ]
        values = [(value, group) for value, group in records if value is not None and math.isfinite(value)]
        if not values:
            continue
        mean = estimates.mean([value for value, _ in values], [group for _, group in values])
        result = MetricResult(
            "reward", None, "number", "higher", mean.value, mean.standard_error, mean.low, mean.high, mean.n,
            mean.clusters, len(records) - len(values), None, f"{scorer['name']}@{scorer['revision']}",
        )  # fmt: skip
        yield Point(system, task, result)


def small_panels(number: int, panel_height: float, *, top: float = 0.0, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, row by row; top: inches for a key above them."""
    across = min(number, columns)
    rows = -(-number // across)
    figure, grid = new_figure(rows * panel_height + top, rows=rows, columns=across, squeeze=False)
    for axes in grid.flat[number:]:
        axes.remove()
    return figure, list(grid.flat[:number])


def head(axes: Axes, measure: Measure) -> None:
    """The task's name above a panel, its metric below that."""
    axes.set_title(plain(measure.title, 20), fontsize=9, pad=17)
    axes.annotate(
        measure.told, (0, 1), xytext=(0, 4), xycoords="axes fraction", textcoords="offset points", color=FAINT,
        fontsize=8,
    )  # fmt: skip


def range_of_n(points: Sequence[Point]) -> str:
    """n = 100, or n = 80–100."""
    counts = sorted({point.metric.n for point in points})
    return f"n = {counts[0]:,}" if len(counts) == 1 else f"n = {counts[0]:,}–{counts[-1]:,}"


def scored_by(points: Sequence[Point]) -> str:
    """ " Scored by …." where a scorer made numbers; "" elsewhere."""
    names = sorted({plain(point.metric.scorer.partition("@")[0], 90) for point in points if point.metric.scorer})
    return f" Scored by {', '.join(names)}." if names else ""


def unscored_told(points: Sequence[Point]) -> str:
    """ " Left out: 12 unscored documents." where there are some, each counted once a mark; "" elsewhere."""
    count = sum(point.metric.n_unscored for point in points)
    return f" Left out: {count:,} unscored document{'s' * (count > 1)}." if count else ""
