"""The audit: gains and losses of each aligned model by task (forest plot), and reward against tax over checkpoints."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import offset_copy

from alignbench.audit.abilities import ABILITIES, title_of
from alignbench.audit.audit import Contrast, Row
from alignbench.audit.tax import CAPABILITY, macro
from reports.abilities import LOOKS, PERCENT
from reports.chart import HALO, Panel, panel_grid
from reports.drawing import Drawing, NoDataError, describe
from reports.evidence import Evidence
from reports.page.data import preferences, sets_of, win_rates
from reports.style import FAINT, INK, SHADE, SMALL, new_figure, wrapped, wrapped_names

MOST_PANELS, MOST_CONTRASTS, MOST_ROWS = 12, 6, 40
LETTERS = 36  # of a row's name
ROW, FRAME, GAP = 0.19, 0.75, 0.35  # inches of a row and of a panel's frame; rows above a group's name
PLURALS = {"gain": "gains", "loss": "losses", "retained": "retained", "inconclusive": "inconclusive"}
COLUMNS = ("ability", "group", "task", "variant", "metric", "verdict", "p_holm", "n", "test", "scorer")


def summary(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a panel per contrast with a row per ability: the mean over its benchmarks, and each of them below it."""
    contrasts = evidence.audit.contrasts if evidence.audit else ()
    wins = win_rates({"win_rate": sets_of(evidence, "win_rate")} if "win_rate" in evidence.tasks else {})
    judged = [(own, preferences(wins, evidence.systems, own)) for own in contrasts]
    table = pd.DataFrame(row for own, rates in judged for row in _ability_rows(own, rates)).assign(drawn=False)
    if table.empty:
        return
    found = set(table.ability)
    places = {ability: place for place, ability in enumerate(a for a in ABILITIES if a in found)}
    panels, chosen = [], list(table.groupby(["aligned", "reference", "templates"], sort=False))[:MOST_PANELS]
    for (aligned, reference, templates), own in chosen:
        table.loc[own.index, "drawn"] = True
        words = f"against {reference}" + ", own templates" * (templates == "own")
        panels.append(Panel(wrapped(aligned, 20), own, wrapped(words, 24)))
    marks = [
        Line2D([], [], color=colour, marker=marker, markerfacecolor=inside, linestyle="none", label=verdict)
        for verdict, (colour, marker, inside, _) in LOOKS.items()
        if verdict in set(table.verdict)
    ]
    marks.append(Line2D([], [], color=FAINT, marker="|", markersize=9, markeredgewidth=2, label="mean"))
    marks.append(Line2D([], [], color=FAINT, marker=".", markersize=4, linestyle="none", label="a single benchmark"))
    figure, grid = panel_grid(panels, 0.8 + 0.24 * len(places), key=marks, sharex=True, sharey=True)
    for axes, panel in zip(grid, panels, strict=True):
        axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
        beside = offset_copy(axes.get_yaxis_transform(), figure, x=-6, units="points")
        for row in panel.table.itertuples():
            colour, marker, inside, _ = LOOKS[row.verdict]
            place = places[row.ability]
            if row.benchmarks:  # the verdict, beside the name: it need not be that of the mean
                mark: dict[str, Any] = {"color": colour, "markerfacecolor": inside, "markersize": 5, "clip_on": False}
                axes.plot([0], [place], marker, **mark, transform=beside)
            if pd.isna(row.gain):
                text: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": SMALL, "path_effects": HALO}
                text |= {"color": colour, "transform": axes.get_yaxis_transform()}
                axes.text(0.5, place, f"{row.verdict} in {row.unit}", **text)
            elif row.benchmarks:
                axes.plot([row.low, row.high], [place, place], color=FAINT, linewidth=1.8, zorder=2)
                axes.plot([row.gain], [place], "|", color=FAINT, markersize=9, markeredgewidth=2, zorder=3)
            else:
                axes.plot([row.gain], [place + 0.33], ".", color=colour, markersize=4, zorder=2)
        for ability in (one for one in places if one not in set(panel.table.ability)):
            axes.text(0.02, places[ability], "–", color=FAINT, va="center", transform=axes.get_yaxis_transform())
        axes.set_ylim(len(places) - 0.35, -0.6)
        axes.set_yticks(range(len(places)), [ability.capitalize() for ability in places])
        axes.tick_params(axis="y", length=0, pad=11)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="x")
    figure.supxlabel(f"← loss    improvement, {PERCENT}    gain →", fontsize=8.5)
    yield describe("audit_summary", figure, table, audit=evidence.audit, means=table[table.benchmarks > 0])


def _ability_rows(contrast: Contrast, rates: Sequence[tuple[str, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yield a row per ability of a contrast, then one per benchmark of it; the improvement in percent of the range.

    rates: win rates of the aligned model against the reference; that of the set with the most systems stands for
        preference if nothing else does
    benchmarks: how many the mean is over; 0 for a single one. Without a finite range, an ability has no mean.
    """
    models = {"aligned": contrast.aligned, "reference": contrast.reference, "templates": contrast.templates}
    judged = any(own.ability == "preference" for own in contrast.abilities)
    for verdict, one in sorted(rates, key=lambda own: own[1]["samples"].number)[: 0 if judged else 1]:
        rate = one["metrics"]["win_rate"]
        of_rate = {"gain": rate.value, "low": rate.low, "high": rate.high}
        ends = {name: np.nan if end is None else 100 * (end - 0.5) for name, end in of_rate.items()}
        facts = {"ability": "preference", "verdict": verdict, "task": "win_rate", "metric": "win_rate", "unit": PERCENT}
        yield models | facts | ends | {"benchmarks": 1}
    for own in contrast.abilities:
        rows = [row for row in contrast.rows if row.primary and row.ability == own.ability]
        known = [row for row in rows if row.tax_of_range is not None]
        mean = contrast.mean if own.ability == CAPABILITY and contrast.mean else macro(known, 0.0)[1]
        facts = {**models, "ability": own.ability, "verdict": own.verdict, "task": "", "metric": "", "unit": PERCENT}
        ends = {"gain": np.nan, "low": np.nan, "high": np.nan}
        if len(known) == 1 == len(rows):
            ends = {name: value for name, value in _bar(known[0]).items() if name != "unit"}
        elif mean is not None:
            low, high = (np.nan if end is None else 0.0 - end for end in (mean.high, mean.low))
            ends = {"gain": 0.0 - mean.value, "low": low, "high": high}
        else:
            facts["unit"] = ", ".join(sorted({row.unit for row in rows}))
        count = len(mean.tasks) if mean else len(rows)
        yield facts | ends | {"benchmarks": count}
        for row in known if len(rows) > 1 else ():
            single = {"verdict": row.verdict, "task": row.task, "metric": row.metric, "benchmarks": 0}
            yield facts | _bar(row) | single


def forest(evidence: Evidence) -> Iterator[Drawing]:
    """Draw the first MOST_CONTRASTS contrasts; the page's table has all of them."""
    contrasts = evidence.audit.contrasts if evidence.audit else ()
    tested = [(own, rows) for own in contrasts if (rows := [row for row in own.rows if row.primary])]
    for number, (contrast, rows) in enumerate(tested[:MOST_CONTRASTS], 1):
        models = {"reference": contrast.reference, "aligned": contrast.aligned}
        table = pd.DataFrame(
            {**models, **{column: getattr(row, column) for column in COLUMNS}, **_bar(row)} for row in rows
        ).astype({"low": float, "high": float})
        table["drawn"] = table.index < MOST_ROWS
        labels = [_label(row) for row in rows]
        shown = table[table.drawn]
        units = sorted(set(shown.unit), key=lambda unit: (unit != PERCENT, unit))
        panels = [shown[shown.unit == unit] for unit in units]
        heights = [
            FRAME + ROW * (sum(_tall(labels[at]) for at in own.index) + (1 + GAP) * own.ability.nunique())
            for own in panels
        ]
        ratios = {"height_ratios": heights}
        figure, grid = new_figure(sum(heights) + 0.25, rows=len(panels), squeeze=False, gridspec_kw=ratios)
        for axes, own in zip(grid.flat, panels, strict=True):
            _panel(axes, own, labels)
        marks, results = [], []
        for verdict, plural in PLURALS.items():
            colour, marker, inside, _ = LOOKS[verdict]
            own = shown[shown.verdict == verdict]
            label = f"{verdict} ({len(own)})"
            marks += [Line2D([], [], color=colour, marker=marker, markerfacecolor=inside, label=label)] * (len(own) > 0)
            values = [f"{row.task} {_numbers(row)}" for _, row in own.iterrows() if verdict in ("gain", "loss")]
            results.append((len(own), verdict if len(own) == 1 else plural, values))
        figure.legend(handles=marks, loc="outside upper left", ncols=4, handlelength=1.6, borderaxespad=0.2)
        facts = {"contrast": contrast, "audit": evidence.audit, "results": results, "percent": PERCENT}
        name = "audit_forest" if len(tested) == 1 else f"audit_forest_{number}"
        yield describe("audit_forest", figure, table, name=name, **facts)


def _bar(row: Row) -> dict[str, Any]:
    """Return unit, gain and interval as drawn: positive is better, in percent of the metric's range if it has one."""
    scale = 100 / row.span if row.span else 1.0
    gain, low, high = (None if x is None else x * scale for x in (row.gain, row.gain_low, row.gain_high))
    return {"unit": PERCENT if row.span else row.unit, "gain": gain, "low": low, "high": high}


def _label(row: Row) -> str:
    """Return the name of a row: task, variant and, if short, metric."""
    task = row.task + (f" ({row.variant})" if row.variant else "")
    whole = f"{task} · {row.metric.replace('_', ' ')}"
    return wrapped(whole if len(whole) <= LETTERS and row.metric not in row.task else task, LETTERS)


def _tall(label: str) -> float:
    """Return the height of a row with this name, in rows of one line."""
    return 1 + 0.75 * label.count("\n")


def _panel(axes: Axes, table: pd.DataFrame, names: Sequence[str]) -> None:
    place, labels = -GAP, {}
    beside = axes.get_yaxis_transform()
    for ability, own in table.groupby("ability"):
        place += GAP
        style: dict[str, Any] = {"ha": "right", "va": "center_baseline", "fontweight": "bold", "fontsize": 8.5}
        axes.text(-0.01, place, str(ability), transform=beside, **style)
        place += 0.5
        for at, row in own.sort_values(["gain", "task", "variant"], ascending=[False, True, True]).iterrows():
            tall = _tall(names[at])
            place += tall / 2
            colour, marker, inside, _ = LOOKS[row.verdict]
            axes.plot([row.low, row.high], [place, place], color=colour, linewidth=1.5, zorder=2)
            axes.plot([row.gain], [place], marker, color=colour, markerfacecolor=inside, markersize=5.5, zorder=3)
            ink = INK if row.verdict in ("gain", "loss") else FAINT
            axes.text(1.02, place, _numbers(row), transform=beside, va="center_baseline", fontsize=SMALL, color=ink)
            labels[place] = names[at]
            place += tall / 2
        place += 0.5
    axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
    axes.text(0, 1.0, "no change", transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=SMALL)
    axes.set_ylim(place - 0.3, -0.7)
    axes.set_yticks(list(labels), list(labels.values()))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    if not np.nan_to_num(table[["gain", "low", "high"]].to_numpy(np.float64)).any():
        axes.set_xlim(-1, 1)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x")
    axes.set_xlabel(f"← loss    {table.unit.iloc[0]}    gain →", fontsize=8.5)


def _numbers(row: pd.Series) -> str:
    values = [x for x in (row.gain, row.low, row.high) if pd.notna(x)]
    digits = 1 if max(map(abs, values)) >= 1 else 2
    value, *ends = (f"{round(x, digits) + 0.0:+.{digits}f}".replace("-", "−") for x in values)  # + 0.0: no -0
    return f"{value} [{ends[0]}, {ends[1]}]" if len(ends) == 2 else f"{value} (no interval)"


def front(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a point per checkpoint; better is up and to the left."""
    found, notes = (evidence.audit.front, evidence.audit.notes) if evidence.audit else (None, ())
    if found is None:
        for why in [note for note in notes if note.startswith("no front")]:
            raise NoDataError(why)
        return
    table = pd.DataFrame(asdict(point) for point in found.points).rename(columns={"name": "system"})
    look, names = evidence.looks(*table.system), wrapped_names(table.system, 28)
    figure, axes = new_figure(max(4.0, 0.6 + 0.19 * len(table)))
    marks = []
    for row in table.itertuples():
        own = look[row.system]
        bar: dict[str, Any] = {"color": own.colour, "linewidth": 1, "alpha": 0.7}
        axes.plot([row.tax_low, row.tax_high], [row.reward] * 2, **bar)
        axes.plot([row.tax] * 2, [row.reward_low, row.reward_high], **bar)
        inside = own.colour if row.on_front else "white"
        mark = {**own.mark, "markerfacecolor": inside, "markersize": 7, "markeredgewidth": 1.4, "linestyle": ""}
        axes.plot([row.tax], [row.reward], zorder=4, **mark)
        marks.append(Line2D([], [], label=names[row.system], **mark))
    figure.legend(handles=marks, loc="outside right upper")
    axes.margins(0.12)
    axes.set_xlabel(wrapped(f"tax against {found.reference}, % of range  (← better)", 60))
    axes.set_ylabel(f"{title_of(found.reward)}  (better →)")
    axes.grid()
    # the front as steps, the dominated area in grey, and the reference point of the hypervolume if it is near
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    reward, tax = found.reference_point
    near = left <= tax <= right + (right - left) / 2 and bottom - (top - bottom) / 2 <= reward <= top
    if near:
        right, bottom = max(right, tax + (right - left) * 0.05), min(bottom, reward - (top - bottom) * 0.05)
        axes.plot([tax], [reward], "+", color=INK, markersize=9, zorder=4)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    edge_x, edge_y = (tax, reward) if near else (right, bottom)
    best = sorted((point for point in found.points if point.on_front), key=lambda point: (point.tax, point.reward))
    x = [best[0].tax, *(point.tax for point in best), max(edge_x, best[-1].tax)]
    y = [min(edge_y, best[0].reward), *(point.reward for point in best), best[-1].reward]
    axes.plot(x, y, drawstyle="steps-post", color=FAINT, linewidth=1.2, zorder=2)
    axes.fill_between(x, y, edge_y, step="post", color=SHADE, linewidth=0, zorder=0)
    yield describe("reward_tax_front", figure, table, front=found, reward=title_of(found.reward))
