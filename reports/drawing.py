"""A figure as it passes from the file that draws it to the page: picture, table, caption; and words for captions.

The tables of most figures share the columns system, task, metric, value, low, high, n, unscored and scorer: one row per
mark, with the ends of its 95 % interval, which are empty if there is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from alignbench.audit.render import csv_cell
from reports.evidence import Evidence, System
from reports.style import RC, Look, plain

METADATA: dict[str, dict[str, Any]] = {  # without dates and versions: the same drawing gives the same bytes
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}


class NoDataError(Exception):
    """The run folders do not contain what a figure shows. The message says what is missing, without a full stop."""


@dataclass(frozen=True)
class Drawing:
    """A finished figure. name: of its files; source: the paper's figure that it follows, or "".

    table: the numbers shown, one row per mark
    caption: how to read it: what a mark and a bar is, n, scorer
    alt: the result in words, for readers who do not see the picture
    """

    name: str
    title: str
    source: str
    figure: Figure
    table: pd.DataFrame
    caption: str
    alt: str


def save(drawing: Drawing, folder: Path, *, pdf: bool = False) -> list[Path]:
    """Write NAME.svg, NAME.png, NAME.csv (and NAME.pdf)."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{drawing.name}.{kind}" for kind in METADATA if pdf or kind != "pdf"]
    with matplotlib.rc_context({**RC, "svg.hashsalt": drawing.name}):
        for file in files:
            drawing.figure.savefig(file, metadata=METADATA[file.suffix[1:]])
    table = folder / f"{drawing.name}.csv"
    _as_text(drawing.table).to_csv(table, index=False, float_format="%.6g", lineterminator="\n", encoding="utf-8")
    return [*files, table]


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Convert for a CSV file: counts without an exponent, texts that no spreadsheet takes for a formula."""
    found = table.copy()
    for name in table.columns:
        column = table[name]
        if pd.api.types.is_float_dtype(column):
            known = column.dropna()
            if len(known) and np.isfinite(known).all() and (known % 1 == 0).all():
                found[name] = column.astype("Int64")
        elif not pd.api.types.is_numeric_dtype(column):
            found[name] = column.map(csv_cell)
    return found


def table_of(rows: Iterable[Mapping[str, Any]], missing: str) -> pd.DataFrame:
    """Make a figure's table. Raises NoDataError with the reason `missing` if there are no rows."""
    table = pd.DataFrame(rows)
    if table.empty:
        raise NoDataError(missing)
    return table


def rows_of(evidence: Evidence, table: pd.DataFrame) -> dict[str, Look]:
    """Return the systems of a table with their looks: in the order of the report, then, sorted, those that only tables
    of labels have."""
    names = set(table.system)
    known = [system.name for system in evidence.systems if system.name in names]
    order = [*known, *sorted(names - set(known))]
    looks = evidence.looks(*order)
    return {name: looks[name] for name in order}


def n_range(table: pd.DataFrame, what: str = "documents") -> str:
    """Return "n = 252 documents", "n = 40–252 documents"."""
    n = table.n.dropna().astype(int)
    return f"n = {'–'.join(dict.fromkeys((f'{n.min():,}', f'{n.max():,}')))} {what}"


def left_out(table: pd.DataFrame, evidence: Evidence | None = None) -> str:
    """Return a sentence on unscored documents and, given the evidence, on systems that are not in the table."""
    unscored = int(table.unscored.fillna(0).sum())
    absent = [own for own in evidence.systems if own.name not in set(table.system)] if evidence else []
    different = sum(_has(own, set(table.task), set(table.metric)) for own in absent)
    counts = {
        "unscored document{}": unscored,
        "system{} with different settings": different,
        "system{} without these metrics": len(absent) - different,
    }
    parts = [f"{n:,} {words.format('s' * (n > 1))}" for words, n in counts.items() if n]
    return f" Left out: {', '.join(parts)}." if parts else ""


def _has(system: System, tasks: Collection[str], metrics: Collection[str]) -> bool:
    runs = (own for own in system.tasks if own.task in tasks)
    return any(m.metric in metrics and m.value is not None for own in runs for m in own.result.metrics)


def scorers_in(table: pd.DataFrame) -> str:
    """Return "Scorer: NAME@REVISION." for those in the table; "" if no scorer computed the numbers."""
    single = {name for joined in table.scorer.dropna() for name in str(joined).split(" + ") if name}
    names = [plain(re.sub(r"@([0-9a-f]{8})[0-9a-f]+$", r"@\1", name), 60) for name in sorted(single)]
    return f" Scorer{'s' * (len(names) > 1)}: {'; '.join(names)}." if names else ""


def extremes(table: pd.DataFrame, form: str = ".3f") -> str:
    """Return "highest A (0.5), lowest B (0.1)" for a table with system and value."""
    own = table.dropna(subset=["value"]).sort_values("value", ascending=False, kind="stable")
    if own.empty:
        return "no values"
    told = [f"{plain(str(row.system), 60)} ({row.value:{form}})" for row in (own.iloc[0], own.iloc[-1])]
    return told[0] if len(own) == 1 else "highest {}, lowest {}".format(*told)


def by_part(table: pd.DataFrame, columns: list[str], words: Callable[[pd.DataFrame], str], **names: Any) -> str:
    """Describe each part of a table: "A, B: WORDS; …". columns: whose values tell parts apart; names: column -> words
    for its values."""
    parts = []
    for key, own in table.groupby(columns, sort=False):
        told = (str(names.get(column, {}).get(value, value)) for column, value in zip(columns, key, strict=True))
        parts.append(f"{', '.join(plain(one, 40) for one in told)}: {words(own)}")
    return "; ".join(parts)


def ends(table: pd.DataFrame, column: str, form: str = ".3g") -> str:
    """Return "0.1 at 0, 0.3 at 512": the first and the last value along a column."""
    rows = table.dropna(subset=["value"])
    told = [f"{row.value:{form}} at {row[column]:.4g}" for _, row in rows.iloc[[0, -1]].iterrows()]
    return ", ".join(dict.fromkeys(told))
