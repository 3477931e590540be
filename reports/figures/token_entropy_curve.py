"""How undecided models are along a text: mean token entropy by position."""

from __future__ import annotations

import numpy as np
import pandas as pd

from alignbench.stats import estimates
from reports.drawing import Drawing, NoDataError
from reports.entropies import TASKS, Entropies, entropies
from reports.evidence import Evidence
from reports.names import short_names
from reports.style import label_ends, looks, new_figure, plain

TITLE = "Token entropy by position"
SOURCE = "2406.05587, figure 11"
FEWEST = 20  # texts that reach a position
BANDS = 6  # systems up to which bands can be told apart
STRETCHES = 64  # points of a curve, at most: beyond, neighbouring positions are taken together


def draw(evidence: Evidence) -> list[Drawing]:
    """One panel a task, one line with a band a system."""
    panels = {}
    for task in TASKS:
        found = entropies(evidence, task)
        width = _width(found)
        rows = [row for own in found for row in _curve(own, task, width)]
        if rows:
            panels[task] = pd.DataFrame(rows)
    if not panels:
        raise NoDataError(f"no run has {FEWEST} texts with the entropies of their tokens")
    look = looks([system.name for system in evidence.systems])
    most = max(table.system.nunique() for table in panels.values())
    names = short_names([system.name for system in evidence.systems], 24)
    high = max(2.4, 0.8 + 0.17 * most)
    figure, grid = new_figure(len(panels) * high, rows=len(panels), squeeze=False)
    for axes, (task, table) in zip(grid[:, 0], panels.items(), strict=True):
        ends = []
        for name, own in table.groupby("system", sort=False):
            style = look[str(name)]
            middle = (own.first_token + own.last_token) / 2
            if most <= BANDS:
                axes.fill_between(middle, own.low, own.high, color=style.colour, alpha=0.13, linewidth=0)
            axes.plot(middle, own.entropy_bits, color=style.colour, linestyle=style.line, linewidth=1.4)
            if len(own) == 1:
                axes.plot(middle, own.entropy_bits, color=style.colour, marker=style.marker)
            ends.append((float(middle.iloc[-1]), float(own.entropy_bits.iloc[-1]), names[str(name)], style.colour))
        axes.set_title(TASKS[task][0].upper() + TASKS[task][1:])
        axes.set_ylabel("entropy, bits")
        axes.set_xlabel("position of the token")
        axes.set_ylim(0, None)
        axes.set_xlim(0, float(table.last_token.max()) + 1)
        axes.grid(axis="y")
        label_ends(axes, ends, gap=0.165 / (high - 0.7))
    table = pd.concat(panels.values(), ignore_index=True)
    widths = {task: int((own.last_token - own.first_token).max()) + 1 for task, own in panels.items()}
    together = [
        f"{width} positions a point on {TASKS[task].split(',')[0]}" for task, width in widths.items() if width > 1
    ]
    bands = "bands are" if most <= BANDS else "the table has"
    caption = (
        f"Mean entropy before the token at each position{' (' + ', '.join(together) + ')' if together else ''}; "
        f"{bands} 95 % t intervals over texts, clustered by article where texts share one. Positions that fewer than "
        f"{FEWEST} texts reach are left out; n = {table.texts.min()}–{table.texts.max()} texts. Different tokenizers "
        "put different text at a position."
    )
    return [Drawing("token_entropy_curve", TITLE, SOURCE, figure, table, caption, _told(panels))]


def _width(found: list[Entropies]) -> int:
    """How many positions a point stands for, the same for all systems."""
    most = 0
    for own in found:
        lengths = sorted((len(bits) for _, bits in own.texts["entropies"]), reverse=True)
        most = max(most, lengths[FEWEST - 1] if len(lengths) >= FEWEST else 0)
    return max(1, -(-most // STRETCHES))


def _curve(own: Entropies, task: str, width: int) -> list[dict[str, object]]:
    """A text counts once at each point, with the mean over its tokens there."""
    rows: list[dict[str, object]] = []
    texts = own.texts["entropies"]
    for start in range(0, max(len(bits) for _, bits in texts), width):
        parts = [
            (group, bits[start : start + width])
            for group, bits in texts
            if np.isfinite(bits[start : start + width]).any()
        ]
        if len(parts) < FEWEST:
            break
        found = estimates.mean([float(np.nanmean(bits)) for _, bits in parts], [group for group, _ in parts], (0, None))
        rows.append(
            {
                "system": own.system.name, "task": task, "first_token": start + 1, "last_token": start + width,
                "entropy_bits": found.value, "low": found.low, "high": found.high, "texts": found.n,
                "clusters": found.clusters,
            }
        )  # fmt: skip
    return rows


def _told(panels: dict[str, pd.DataFrame]) -> str:
    parts = []
    for task, table in panels.items():
        ends = []
        for name, own in table.groupby("system", sort=False):
            first, last = own.iloc[0], own.iloc[-1]
            ends.append(
                f"{plain(str(name))} from {first.entropy_bits:.2f} to {last.entropy_bits:.2f} bits at token "
                f"{last.last_token}"
            )
        parts.append(f"On {TASKS[task].split(',')[0]}: {'; '.join(ends)}.")
    return " ".join(parts)
