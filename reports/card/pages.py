"""The two pages of an audit card, as PDF with text that can be selected."""

import io
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from alignbench.audit.audit import Contrast
from alignbench.audit.render import HEADER, NONE, tables
from alignbench.exports.formats import CARD
from alignbench.tasks.calibration import SUFFIX
from reports.abilities import LOOKS, PERCENT, Bar, bars_of, draw_bars, rows_of
from reports.card.card import INTRODUCTION, SYNTHETIC, VERSION, Card
from reports.drawing import METADATA
from reports.style import FAINT, INK, LOSS, plain, styled

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 8.27, 11.69, 0.6, 7.67, 0.6, 11.15  # of A4 and of the text on it, in inches
NAMES = 1.25  # inches of the column of labels
LINE = 1.35  # height of a line in font sizes
MOST_CONTRASTS, MOST_BARS, MOST_MODELS = 8, 24, 9
ROW = 0.145  # inches of a bar
MORE = f"in {CARD}.md"
COLUMNS = {  # of the table -> their right ends in inches; texts begin at the end of the column before
    "verdict": 1.5, "task": 3.3, "metric": 4.35, "reference": 4.85, "aligned": 5.3, "change": 5.75,
    "95 % interval": 6.75, "p (Holm)": 7.15, "documents": RIGHT,
}  # fmt: skip
TEXTS = {"verdict": 14, "task": 34, "metric": 22}  # columns of text, and their letters


class Page:
    """A page that is filled from top to bottom. y: inches from its top"""

    def __init__(self) -> None:
        self.figure, self.y = Figure(figsize=(WIDTH, HEIGHT)), TOP

    def put(self, text: str, x: float, size: float = 8, **style: Any) -> None:
        """Write one line at the height reached. style: of matplotlib's texts"""
        self.figure.text(x / WIDTH, 1 - (self.y + size / 72) / HEIGHT, text, fontsize=size, **style)

    def paragraph(self, text: str, x: float = LEFT, size: float = 8, *, most: int = 99, **style: Any) -> None:
        """Write lines, at most `most`."""
        for line in wrap(text, size, RIGHT - x, most):
            self.put(line, x, size, **style)
            self.y += height(1, size)

    def heading(self, text: str) -> None:
        self.y += 0.12
        self.put(text, LEFT, 11, weight="bold")
        self.y += height(1, 11) + 0.03

    def entry(self, label: str, text: str, size: float = 8, *, most: int = 99, colour: str = INK) -> None:
        """Write a text beside its label."""
        self.put(plain(label, 21 if size < 8 else 17), LEFT, size, weight="bold", color=colour)
        self.paragraph(text, LEFT + NAMES, size, most=most)


def height(lines: int, size: float) -> float:
    """Inches of lines of text."""
    return lines * size * LINE / 72


def wrap(text: str, size: float, width: float, most: int = 99) -> list[str]:
    """Lines of at most `width` inches; a longer word is cut. Of more than `most` lines the last says where all are."""
    lines, room = [""], width * 72 / size
    for word in plain(text, 100_000).split():
        # no letter is wider than the font size
        for part in [word] if _width(word) <= room else re.findall(f".{{1,{int(room)}}}", word):
            longer = f"{lines[-1]} {part}".strip()
            lines = [*lines[:-1], longer] if _width(longer) <= room else [*lines, part]
        if len(lines) > most:
            return [*lines[: most - 1], f"{lines[most - 1][: -len(MORE) - 4]}… {MORE}"]
    return lines


def _width(text: str) -> float:
    """Width in font sizes."""
    return sum(map(_advance, text))


@cache
def _advance(letter: str) -> float:
    font = get_font(findfont("DejaVu Sans"))
    font.set_size(100, 72)
    return font.load_char(ord(letter)).linearHoriAdvance / 65536 / 100


def as_pdf(card: Card) -> bytes:
    """Two A4 pages: verdict and bars by ability; table, provenance and limits."""
    file = io.BytesIO()
    metadata = {**METADATA["pdf"], "Title": f"Audit card: {plain(card.title, 200)}"}
    with styled(**{"pdf.fonttype": 42}), PdfPages(file, metadata=metadata) as pages:
        for page in (_verdict(card), _evidence(card)):
            pages.savefig(page.figure)
    return file.getvalue()


def _verdict(card: Card) -> Page:
    page, contrasts = _page(card, 1), card.audit.contrasts[:MOST_CONTRASTS]
    columns = [bars_of(own) for own in contrasts]
    rows = rows_of(columns, MOST_BARS)
    page.heading("Compared")
    for label, own in zip(labels(contrasts), contrasts, strict=True):
        page.entry(label, _compared(own), most=2)
    if rest := len(card.audit.contrasts) - len(contrasts):
        page.entry("", f"{rest} more comparisons {MORE}")
    page.heading("Verdict")
    room = BOTTOM - page.y - (ROW * len(rows) + 1.25) * bool(rows)
    for clauses in (9, 4, 3, 2, 1, 0):  # of a sentence: as many as fit
        entries = [
            entry for own in zip(labels(contrasts), contrasts, strict=True) for entry in _sentences(*own, clauses)
        ]
        if height(sum(len(wrap(text, 8, RIGHT - LEFT - NAMES, 3)) for _, text, _ in entries), 8) <= room:
            break
    for label, text, colour in entries:
        page.entry(label, text, most=3, colour=colour)
    if rows:
        page.heading("Gains and losses by ability")
        _bars(page, columns, rows)
    return page


def _page(card: Card, number: int) -> Page:
    page = Page()
    page.y = BOTTOM + 0.25
    page.put(f"Audit card: {plain(card.title, 60)} · {VERSION} · page {number} of 2", LEFT, 6.5, color=FAINT)
    page.y = TOP
    if number == 1:
        page.paragraph(f"Audit card: {card.title}", size=17, most=2)
        page.paragraph(INTRODUCTION, color=FAINT)
    if card.synthetic:
        page.paragraph(SYNTHETIC, color=LOSS)
    return page


def labels(contrasts: Sequence[Contrast]) -> list[str]:
    return [f"Comparison {number}" for number in range(1, len(contrasts) + 1)] if len(contrasts) > 1 else ["Models"]


def names(own: Contrast) -> str:
    return f"{plain(own.aligned, 60)} against {plain(own.reference, 60)}"


def _compared(own: Contrast) -> str:
    judged = [row for row in own.rows if row.primary]
    verdicts = [row.verdict for row in judged]
    counts = ", ".join(f"{verdicts.count(name)} {name}" for name in ("gain", "loss", "retained", "inconclusive"))
    documents = sum(row.n for row in judged if not row.task.endswith(SUFFIX))  # calibration is of the same documents
    role = "" if own.role == "reference" else f", its {own.role} model"
    templates = ", each with its own chat template, if it has one" if own.templates == "own" else ""
    return f"{names(own)}{role}{templates}: {len(judged)} benchmarks, {documents:,} documents ({counts})"


def _sentences(label: str, own: Contrast, clauses: int) -> list[tuple[str, str, str]]:
    """Label, text and colour of each ability; without clauses, of all abilities together."""
    if not own.abilities or not clauses:
        text = "; ".join(f"{LOOKS[a.verdict][3]} {a.ability}: {a.verdict}" for a in own.abilities)
        return [(label, text or "No headline metric of these tasks has a direction and a test.", INK)]
    found = [] if label == "Models" else [(label, names(own), INK)]
    for a in own.abilities:
        more, verdict = len(a.clauses) - clauses, a.sentence.partition(": ")[2].partition(". ")[0]
        text = f"{verdict.capitalize()}. {'; '.join(a.clauses[:clauses])}{f'; {more} more on page 2' * (more > 0)}."
        found.append((f"{LOOKS[a.verdict][3]} {a.ability.capitalize()}", text, LOOKS[a.verdict][0]))
    return found


def _bars(page: Page, columns: Sequence[Sequence[Bar]], rows: Sequence[tuple[str, str]]) -> None:
    """Draw a panel for each contrast beside the names of abilities and rows."""
    left, gap, tall, top = LEFT + 3.3, 0.12, ROW * len(rows), page.y + 0.18
    wide = (RIGHT - left + gap) / len(columns)
    sizes = (1 - (top + tall) / HEIGHT, (wide - gap) / WIDTH, tall / HEIGHT)
    panels = [page.figure.add_axes(((left + n * wide) / WIDTH, *sizes)) for n in range(len(columns))]
    draw_bars(panels, columns, rows, 34)
    for number, axes in enumerate(panels if len(panels) > 1 else (), 1):
        axes.set_title(str(number), loc="center", fontsize=8, pad=3)
    for place, (ability, _) in enumerate(rows):
        if not place or rows[place - 1][0] != ability:
            page.y = top + ROW * place + 0.02
            page.put(ability, LEFT, weight="bold")
    page.y = top + tall + 0.18
    page.put(f"← loss    {PERCENT}    gain →", (left + RIGHT) / 2, ha="center")
    page.y += height(1, 8) + 0.05
    hidden = len({(bar.ability, bar.name) for column in columns for bar in column}) - len(rows)
    key = ", ".join(f"{mark} {verdict}" for verdict, (*_, mark) in LOOKS.items() if verdict != "–")
    more = f" {hidden} rows are not drawn." * (hidden > 0)
    text = f"Markers: change from the reference, with 95 % interval ({key}). Capability: mean over tasks."
    page.paragraph(f"{text} Metrics without a finite range are in the table only.{more}", size=7, color=FAINT)


def _evidence(card: Card) -> Page:
    page, size = _page(card, 2), 6.5
    facts = [(label, text, 2) for label, text in card.models[:MOST_MODELS]]
    rest = len(card.models) - MOST_MODELS
    facts += [("", f"{rest} more models {MORE}", 1)] * (rest > 0)
    for label, text in (*card.facts, ("notes", "; ".join(card.notes) or "none")):
        facts.append((label, re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28,}\b", r"\1", text), 4))  # of hashes the first digits
    below = sum(len(wrap(text, size, RIGHT - LEFT - NAMES, most)) for _, text, most in facts)
    below += len(wrap(card.limits, size, RIGHT - LEFT))
    page.heading("Headline metrics")
    _table(page, card, int((BOTTOM - page.y - 0.7) / height(1, size)) - below, size)
    page.heading("Provenance")
    for label, text, most in facts:
        page.entry(label, text, size, most=most)
    page.heading("Limits")
    page.paragraph(card.limits, size=size)
    return page


def _table(page: Page, card: Card, lines: int, size: float) -> None:
    """Draw at most this many lines: of each contrast as many rows, the tested ones first."""
    found = [sorted(own.rows, key=lambda row: row[0] == NONE) for own in tables(card.audit) if own.header == HEADER]
    shown, many = found[:MOST_CONTRASTS], len(found) > 1
    budget = lines - 2 - many * len(shown)
    each = max(n for n in range(max(1, lines)) if not n or sum(len(rows[:n]) for rows in shown) <= budget)
    _row(page, dict(zip(COLUMNS, COLUMNS, strict=True)), size, INK, weight="bold")
    for number, (contrast, rows) in enumerate(zip(card.audit.contrasts, shown, strict=False), 1):
        if many:
            page.put(f"{number}: {names(contrast)}", LEFT, size, weight="bold")
            page.y += height(1, size)
        for row in rows[:each]:
            cells = dict(zip(HEADER, row, strict=True))
            colour, _, _, mark = LOOKS[cells["verdict"]]
            _row(page, cells | {"verdict": f"{mark} {cells['verdict']}"}, size, colour)
    every, drawn = sum(map(len, found)), sum(len(rows[:each]) for rows in shown)
    if every > drawn:
        page.paragraph(f"{every - drawn} of {every} rows are only {MORE}.", size=size, color=FAINT)


def _row(page: Page, cells: Mapping[str, str], size: float, colour: str, **style: Any) -> None:
    left = LEFT
    for name, right in COLUMNS.items():
        x, side = (left, "left") if name in TEXTS else (right, "right")
        page.put(plain(cells[name], TEXTS.get(name, 26)), x, size, ha=side, color=colour, **style)
        left, colour = right, INK
    page.y += height(1, size)
