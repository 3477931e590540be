"""The two pages of an audit card, as PDF with text that can be selected."""

import io
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from unicodedata import bidirectional

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
LINE, BOLD = 1.35, 1.15  # height of a line in font sizes; width of bold letters to that of others
MOST_CONTRASTS, MOST_BARS, MOST_MODELS = 8, 24, 9
ROW = 0.145  # inches of a bar
MORE = f"in {CARD}.md"
COLUMNS = {  # of the table -> their right ends in inches; texts begin at the end of the column before
    "verdict": 1.4, "task": 2.95, "metric": 4.1, "reference": 4.65, "aligned": 5.12, "change": 5.6,
    "95 % interval": 6.5, "p (Holm)": 7.03, "documents": RIGHT,
}  # fmt: skip


class Page:
    """A page that is filled from top to bottom. y: inches from its top"""

    def __init__(self, card: Card, number: int) -> None:
        self.figure, self.y = Figure(figsize=(WIDTH, HEIGHT)), BOTTOM + 0.25
        self.put(f"Audit card: {plain(card.title, 60)} · {VERSION} · page {number} of 2", LEFT, 6.5, color=FAINT)
        self.y = TOP
        if number == 1:
            self.paragraph(f"Audit card: {card.title}", size=17, weight="bold")
            self.paragraph(INTRODUCTION, color=FAINT)
        if card.synthetic:
            self.paragraph(SYNTHETIC, color=LOSS)

    def put(self, text: str, x: float, size: float = 8, **style: Any) -> None:
        """Write one line at the height reached, from left to right. style: of matplotlib's texts"""
        mark = "\u200e" * any(bidirectional(letter) in ("R", "AL") for letter in text)
        self.figure.text(x / WIDTH, 1 - (self.y + size / 72) / HEIGHT, mark + text, fontsize=size, **style)

    def paragraph(self, text: str, x: float = LEFT, size: float = 8, *, most: int = 99, **style: Any) -> None:
        """Write lines, at most `most`."""
        for line in wrap(text, size, (RIGHT - x) / (BOLD if "weight" in style else 1), most):
            self.put(line, x, size, **style)
            self.y += height(1, size)

    def heading(self, text: str) -> None:
        self.y += 0.12
        self.put(text, LEFT, 11, weight="bold")
        self.y += height(1, 11) + 0.03

    def entry(self, label: str, text: str, size: float = 8, *, most: int = 99, colour: str = INK) -> None:
        """Write a text beside its label."""
        self.put(fit(label, size, NAMES), LEFT, size, weight="bold", color=colour)
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


def fit(text: str, size: float, width: float) -> str:
    """A text in bold type in one line of at most `width` inches."""
    cuts = (plain(text, letters) for letters in range(120, 0, -1))
    return next((cut for cut in cuts if _width(cut) * size * BOLD / 72 <= width), "")


def _width(text: str) -> float:
    """Width in font sizes."""
    return sum(map(_advance, text))


@cache
def _advance(letter: str) -> float:
    font = get_font(findfont("DejaVu Sans"))
    font.set_size(100, 72)
    return font.load_char(ord(letter)).linearHoriAdvance / 65536 / 100


def as_pdf(card: Card) -> bytes:
    """The same bytes for the same card."""
    file = io.BytesIO()
    metadata = {**METADATA["pdf"], "Title": f"Audit card: {plain(card.title, 200)}"}
    with styled(**{"pdf.fonttype": 42}), PdfPages(file, metadata=metadata) as pages:
        for page in draw(card):
            pages.savefig(page)
    return file.getvalue()


def draw(card: Card) -> tuple[Figure, Figure]:
    """Two A4 pages: verdict and bars by ability; table, provenance and limits."""
    with styled():
        return _verdict(card).figure, _evidence(card).figure


def _verdict(card: Card) -> Page:
    page, contrasts = Page(card, 1), card.audit.contrasts[:MOST_CONTRASTS]
    columns = [bars_of(own) for own in contrasts]
    rows = rows_of(columns, MOST_BARS)
    page.heading("Verdict")
    room = BOTTOM - page.y - (ROW * len(rows) + 1.4) * bool(rows)
    for size, clauses in ((8, 99), (8, 4), (8, 2), (8, 1), (7, 1), (8, 0)):  # of a sentence: as many as fit
        entries = [entry for number, own in enumerate(contrasts, 1) for entry in _entries(number, own, clauses)]
        if height(sum(len(wrap(text, size, RIGHT - LEFT - NAMES)) for _, text, _ in entries), size) <= room:
            break
    for label, text, colour in entries:
        page.entry(label, text, size, colour=colour)
    if rest := len(card.audit.contrasts) - len(contrasts):
        page.entry("", f"{rest} more comparisons {MORE}")
    if rows:
        page.heading("Gains and losses by ability")
        _bars(page, columns, rows)
    return page


def names(own: Contrast) -> str:
    return f"{plain(own.aligned, 60)} against {plain(own.reference, 60)}"


def _entries(number: int, own: Contrast, clauses: int) -> list[tuple[str, str, str]]:
    """Label, text and colour of what was compared, and of each ability; without clauses, of all abilities together."""
    judged = [row for row in own.rows if row.primary]
    verdicts = [row.verdict for row in judged]
    counts = ", ".join(f"{name} {verdicts.count(name)}" for name in ("gain", "loss", "retained", "inconclusive"))
    documents = sum(row.n for row in judged if not row.task.endswith(SUFFIX))  # calibration is of the same documents
    role = "" if own.role == "reference" else f", its {own.role} model"
    templates = ", each with its own chat template, if it has one" if own.templates == "own" else ""
    what = f"{names(own)}{role}{templates}. {len(judged)} benchmarks ({counts}), {documents:,} documents."
    found = [(f"Comparison {number}", what, INK)]
    if not clauses or not own.abilities:
        text = "; ".join(f"{LOOKS[a.verdict][3]} {a.ability}: {a.verdict}" for a in own.abilities)
        return [*found, ("", text or "No headline metric of these tasks has a direction and a test.", INK)]
    for a in own.abilities:
        more, verdict = len(a.clauses) - clauses, a.sentence.partition(": ")[2].partition(". ")[0]
        text = f"{verdict.capitalize()}. {'; '.join(a.clauses[:clauses])}{f'; {more} more in the table' * (more > 0)}."
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
    text = f"Markers: change from the reference, with 95 % interval ({key}). Capability: means over tasks."
    page.paragraph(f"{text} Metrics without a finite range are in the table only.{more}", size=7, color=FAINT)


def _evidence(card: Card) -> Page:
    page, size = Page(card, 2), 6.5
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
            page.put(fit(f"{number}: {names(contrast)}", size, RIGHT - LEFT), LEFT, size, weight="bold")
            page.y += height(1, size)
        for row in rows[:each]:
            cells = dict(zip(HEADER, row, strict=True))
            colour, _, _, mark = LOOKS[row[0]]
            cells["verdict"] = "not tested" if row[0] == NONE else f"{mark} {row[0]}"
            cells["metric"] = cells["metric"].partition(", by ")[0].replace(", proportion", "")
            _row(page, cells, size, colour)
    every, drawn = sum(map(len, found)), sum(len(rows[:each]) for rows in shown)
    if every > drawn:
        page.paragraph(f"{every - drawn} of {every} rows are only {MORE}.", size=size, color=FAINT)


def _row(page: Page, cells: Mapping[str, str], size: float, colour: str, **style: Any) -> None:
    left = LEFT
    for name, right in COLUMNS.items():
        if name in ("verdict", "task", "metric"):
            page.put(fit(cells[name], size, right - left), left, size, color=colour, **style)
        else:
            page.put(plain(cells[name]), right, size, ha="right", **style)
        left, colour = right, INK
    page.y += height(1, size)
