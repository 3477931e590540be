"""How the tax grows while PPO trains: the tasks over the episodes so far (Ouyang et al. 2022, figure 35)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reports.drawing import Drawing, NoDataError
from reports.evidence import ON_THE_WAY, Evidence, Point, System, parents
from reports.names import size_of
from reports.style import Look, looks, plain
from reports.tax_tasks import (
    Measure,
    head,
    range_of_n,
    reward_measure,
    scored_by,
    small_panels,
    tax_measures,
    unscored_told,
)

TITLE = "The tax over training"
BESIDE = 0.012  # of the longest training: between the bars of two of them
SOURCE = "Ouyang et al. 2022, figure 35"
Key = tuple[str, tuple[str, ...], str, str, bool]


@dataclass(frozen=True)
class Training:
    """Checkpoints of one training: episodes -> system, the start (0 episodes) among them where it was evaluated."""

    name: str
    checkpoints: tuple[tuple[int, System], ...]

    def line(self, measure: Measure) -> list[tuple[int, Point]]:
        of_system = {id(point.system): point for point in measure.points}
        return [(at, of_system[id(system)]) for at, system in self.checkpoints if id(system) in of_system]


def draw(evidence: Evidence) -> list[Drawing]:
    """A panel a task, a line a training."""
    trainings = _trainings(evidence)
    reward = reward_measure(evidence, way=True)
    measures = [*([reward] if reward else []), *tax_measures(evidence, way=True)]
    measures = [measure for measure in measures if any(len(own.line(measure)) > 1 for own in trainings)]
    if not measures:
        raise NoDataError("no checkpoint that PPO kept on the way (checkpoint_every) was evaluated on the tax tasks")
    keyed = len(trainings) > 1
    figure, grid = small_panels(len(measures), 1.85, top=0.25 * -(-len(trainings) // 2) if keyed else 0.0)
    look = looks([system.name for system in evidence.systems] + [training.name for training in trainings])
    beside = BESIDE * max(at for training in trainings for at, _ in training.checkpoints)
    for axes, measure in zip(grid, measures, strict=True):
        for number, training in enumerate(trainings):
            _curve(axes, training.line(measure), look[training.name], beside * (number - (len(trainings) - 1) / 2))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: size_of(at)))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(labelsize=8)
        axes.margins(0.08)
        axes.grid(axis="y")
        axes.set_xlabel("episodes", fontsize=8.5)
        head(axes, measure)
    if keyed:
        handles = [
            Line2D([], [], color=own.colour, marker=own.marker, linestyle=own.line, label=plain(name, 34))
            for name, own in ((training.name, look[training.name]) for training in trainings)
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=2, borderaxespad=0.2)
    table = _table(trainings, measures)
    points = [point for training in trainings for measure in measures for _, point in training.line(measure)]
    caption = (
        f"One mark a checkpoint over the responses that PPO had sampled by then; 0 is the model that it began with, "
        f"where that was evaluated ({range_of_n(points)}); bars are 95 % intervals of each value alone."
    )
    if not keyed:
        caption += f" The training: {plain(trainings[0].name, 60)}."
    caption += unscored_told(points) + scored_by(points)
    return [Drawing("tax_over_training", TITLE, SOURCE, figure, table, caption, _told(table))]


def _trainings(evidence: Evidence) -> list[Training]:
    """Trainings of which some checkpoint on the way is there, with their starts and finals."""
    found: dict[Key, list[System]] = {}
    for system in evidence.on_the_way:
        if system.training.get("episodes") is not None:
            found.setdefault(_key(system), []).append(system)
    trainings: list[Training] = []
    for key, systems in sorted(found.items()):
        name, before, *_ = key
        starts = [(0, own) for own in evidence.systems if before and own.run.weights == before[-1]]
        finals = [own for own in evidence.systems if _key(own) == key]
        later = [(int(own.training["episodes"]), own) for own in (*systems, *finals) if own.training.get("episodes")]
        checkpoints = [*starts[:1], *sorted(later, key=lambda entry: (entry[0], entry[1].name))]
        called = finals[0].name if finals else name  # unique among the systems
        taken = [own.name for own in trainings]
        number = next(n for n in count(1) if (called if n == 1 else f"{called} #{n}") not in taken)
        trainings.append(Training(called if number == 1 else f"{called} #{number}", tuple(checkpoints)))
    return trainings


def _key(system: System) -> Key:
    """What the checkpoints of one training have in common: name, parents, penalties, the folder of their runs and how
    they were asked."""
    told = system.training
    return (
        ON_THE_WAY.sub("", str(system.run.description["model"]["name"])),
        parents(system.run),
        str([told.get("rewards"), told.get("beta"), told.get("gamma")]),
        str(system.run.path.parent),
        system.name.endswith(" (chat)"),
    )


def _curve(axes: Axes, line: Sequence[tuple[int, Point]], own: Look, aside: float) -> None:
    errors = [point.error for _, point in line]
    axes.errorbar(
        [at + aside for at, _ in line], [point.value for _, point in line],
        yerr=[[below for below, _ in errors], [above for _, above in errors]], color=own.colour, marker=own.marker,
        linestyle=own.line, markersize=4.5, elinewidth=1, linewidth=1.3,
    )  # fmt: skip


def _table(trainings: Sequence[Training], measures: Sequence[Measure]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "training": training.name,
                "system": point.system.name,
                "episodes": at,
                "task": point.task.task,
                "metric": measure.metric.metric,
                "value": point.value,
                "low": point.metric.low,
                "high": point.metric.high,
                "n": point.metric.n,
                "unscored": point.metric.n_unscored,
                "scorer": point.metric.scorer,
            }
            for measure in measures
            for training in trainings
            for at, point in training.line(measure)
        ]
    )


def _told(table: pd.DataFrame) -> str:
    told = []
    for (task, training), own in table.groupby(["task", "training"], sort=False):
        first, last = own.iloc[0], own.iloc[-1]
        told.append(
            f"{task}, {plain(str(training), 40)}: {first.value:.3g} after {first.episodes} episodes, "
            f"{last.value:.3g} after {last.episodes}"
        )
    return "; ".join(told) + "."
