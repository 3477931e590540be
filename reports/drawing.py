"""A figure as it passes from the file that draws it to the page: picture, table and texts.

Most tables share the columns system, task, metric, value, low, high, n, unscored and scorer: one row per mark, with the
ends of its 95 % interval, empty if there is none. The texts are Jinja templates in figures/texts.yaml, which use the
filters of this file on the table.
"""

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from alignbench.console import csv_cell
from reports.evidence import Evidence
from reports.style import FAINT, Look, plain, styled

FIGURES = Path(__file__).parent / "figures"
WORDS: dict[str, Any] = yaml.safe_load((FIGURES / "words.yaml").read_text(encoding="utf-8"))
METADATA: dict[str, dict[str, Any]] = {  # without dates and versions: the same drawing gives the same bytes
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}


SYNTHETIC = "synthetic demo data"


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


def describe(key: str, figure: Figure, table: pd.DataFrame, *, name: str = "", **facts: Any) -> Drawing:
    """Add the texts of figures/texts.yaml. name: of the files, if not `key`; facts: what the templates refer to."""
    texts = {part: " ".join(own.render(table=table, **facts).split()) for part, own in _templates()[key].items()}
    return Drawing(name or key, texts["title"], texts["source"], figure, table, texts["caption"], texts["alt"])


@cache
def _templates() -> dict[str, dict[str, Any]]:
    environment = Environment(undefined=StrictUndefined, autoescape=False)  # plain text, which the page escapes
    filters = (plain, n_range, left_out, scorers_in, extremes, by_part, listed)
    environment.filters |= {each.__name__: each for each in filters}
    read = yaml.safe_load((FIGURES / "texts.yaml").read_text(encoding="utf-8"))
    return {
        key: {part: environment.from_string(texts.get(part, "")) for part in ("title", "source", "caption", "alt")}
        for key, texts in read.items()
    }


def mark_synthetic(drawing: Drawing) -> Drawing:
    """Say in the picture, its caption and its table that the data are those of `alignbench demo`."""
    if label := drawing.figure.get_supxlabel():
        drawing.figure.supxlabel(f"{label} · {SYNTHETIC}", fontsize=9)
    else:
        drawing.figure.supxlabel(SYNTHETIC, x=0.99, ha="right", fontsize=6.5, color=FAINT)
    table = drawing.table.assign(data=SYNTHETIC)
    caption, alt = f"{drawing.caption} {SYNTHETIC.capitalize()}.", f"{SYNTHETIC.capitalize()}: {drawing.alt}"
    return replace(drawing, table=table, caption=caption, alt=alt)


def save(drawing: Drawing, folder: Path, *, pdf: bool = False) -> list[Path]:
    """Write NAME.svg, NAME.png, NAME.csv (and NAME.pdf)."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{drawing.name}.{kind}" for kind in METADATA if pdf or kind != "pdf"]
    with styled(**{"svg.hashsalt": drawing.name}):
        if drawing.figure.get_layout_engine():  # laid out once, not for each file
            drawing.figure.draw_without_rendering()
            drawing.figure.set_layout_engine(None)
        for file in files:
            drawing.figure.savefig(file, metadata=METADATA[file.suffix[1:]])
    table = folder / f"{drawing.name}.csv"
    written = drawing.table.apply(_as_text)
    written.to_csv(table, index=False, float_format="%.6g", lineterminator="\n", encoding="utf-8")
    return [*files, table]


def _as_text(column: pd.Series) -> pd.Series:
    """Convert for a CSV file: counts without an exponent, texts that no spreadsheet takes for a formula."""
    if not pd.api.types.is_numeric_dtype(column):
        return column.map(csv_cell)
    known = column.dropna()
    whole = pd.api.types.is_float_dtype(column) and len(known) and np.isfinite(known).all() and (known % 1 == 0).all()
    return column.astype("Int64") if whole else column


def rows_of(evidence: Evidence, table: pd.DataFrame) -> dict[str, Look]:
    """Return the systems of a table with their looks: in the order of the report, then, sorted, those that only tables
    of labels have."""
    looks, names = evidence.looks(*sorted(set(table.system))), set(table.system)
    return {name: look for name, look in looks.items() if name in names}


def n_range(table: pd.DataFrame) -> str:
    """Return "n = 252", "n = 40–252"."""
    n = table.n.dropna().astype(int)
    return f"n = {'–'.join(dict.fromkeys((f'{n.min():,}', f'{n.max():,}')))}"


def left_out(table: pd.DataFrame, evidence: Evidence | None = None) -> str:
    """Return a sentence on unscored documents and, given the evidence, on systems that are not in the table."""
    absent = [own for own in evidence.systems if own.name not in set(table.system)] if evidence else []
    tasks, metrics = set(table.task), set(table.metric)
    found = [[m.value for own in system.tasks if own.task in tasks for m in own.result.metrics if m.metric in metrics]
             for system in absent]  # fmt: skip
    different = sum(any(value is not None for value in values) for values in found)
    counts = {
        "unscored document{}": int(table.unscored.fillna(0).sum()),
        "system{} with different settings": different,
        "system{} without these metrics": len(absent) - different,
    }
    parts = [f"{n:,} {words.format('s' * (n > 1))}" for words, n in counts.items() if n]
    return f"Left out: {', '.join(parts)}." if parts else ""


def scorers_in(table: pd.DataFrame) -> str:
    """Return "Scorer: NAME@REVISION." for those in the table; "" if no scorer computed the numbers."""
    single = {name for joined in table.scorer.dropna() for name in str(joined).split(" + ") if name}
    names = [plain(re.sub(r"@([0-9a-f]{8})[0-9a-f]+$", r"@\1", name), 60) for name in sorted(single)]
    return f"Scorer{'s' * (len(names) > 1)}: {'; '.join(names)}." if names else ""


def extremes(table: pd.DataFrame, form: str = ".3f") -> str:
    """Return "highest A (0.5), lowest B (0.1)" for a table with system and value."""
    own = table.dropna(subset=["value"]).sort_values("value", ascending=False, kind="stable")
    words = [f"{plain(str(row.system), 60)} ({row.value:{form}})" for row in own.itertuples()]
    return f"highest {words[0]}, lowest {words[-1]}" if len(words) > 1 else "".join(words) or "no values"


def by_part(table: pd.DataFrame, columns: list[str], form: str = ".3f", along: str = "", **names: Any) -> str:
    """Return "A, B: WORDS; …" with the extremes of each part of a table, or its first and last value `along` a column.

    columns: whose values distinguish the parts; names: column -> names of its values
    """
    parts = []
    for key, own in table.groupby(columns, sort=False):
        values = [names.get(column, {}).get(value, value) for column, value in zip(columns, key, strict=True)]
        if along:
            rows = own.dropna(subset=["value"]).sort_values(along, kind="stable").iloc[[0, -1]]
            ends = [f"{row.value:{form}} at {row[along]:.6g}" for _, row in rows.iterrows()]
        words = ", ".join(dict.fromkeys(ends)) if along else extremes(own, form)
        parts.append(f"{', '.join(plain(str(value), 40) for value in values)}: {words}")
    return "; ".join(parts)


def listed(table: pd.DataFrame, column: str = "value", form: str = ".2f", between: str = ", ") -> str:
    """Return "A 0.50, B 0.40": the first value of each system."""
    each = table.drop_duplicates("system")
    return between.join(f"{plain(name)} {value:{form}}" for name, value in zip(each.system, each[column], strict=True))
