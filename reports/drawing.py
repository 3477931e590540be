"""A figure as it crosses from the file that draws it to the page: picture, data, caption."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from alignbench.console import csv_cell
from reports.style import RC


class NoDataError(Exception):
    """The run folders do not hold what this figure shows; the message says what is missing, in half a sentence."""


@dataclass(frozen=True)
class Drawing:
    """name: of its files; title: what it shows, a short noun phrase; source: the paper's figure that it follows, or "".

    table: the numbers that were drawn, one row a mark, plain columns
    caption: how to read it: what a mark is, what the bars are (95 %), n, scorer; one to three sentences
    alt: the finding in words, for those who do not see it: which is highest and lowest, with numbers
    """

    name: str
    title: str
    source: str
    figure: Figure
    table: pd.DataFrame
    caption: str
    alt: str


def save(drawing: Drawing, folder: Path, *, pdf: bool = False) -> list[Path]:
    """Write NAME.svg, NAME.png, NAME.csv (and NAME.pdf): the same drawing gives the same bytes."""
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{drawing.name}.{kind}" for kind in ("svg", "png", *(["pdf"] if pdf else []))]
    nothing: dict[str, dict[str, Any]] = {
        ".svg": {"Date": None, "Creator": None},
        ".png": {"Software": None},
        ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    }
    with matplotlib.rc_context({**RC, "svg.hashsalt": drawing.name}):
        for file in files:
            drawing.figure.savefig(file, metadata=nothing[file.suffix])
    table = folder / f"{drawing.name}.csv"
    _as_text(drawing.table).to_csv(table, index=False, float_format="%.6g", lineterminator="\n", encoding="utf-8")
    return [*files, table]


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    """As it goes into a CSV file: counts without an exponent, texts that no spreadsheet takes for a formula."""
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
