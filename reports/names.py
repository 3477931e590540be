"""Names that fit a small panel and still tell the systems apart; numbers of parameters in few letters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import takewhile

from reports.style import plain

WHOLE = 10_000  # characters: a name that is not cut
BEFORE = 3  # characters shown before the first one that differs


def short_names(names: Sequence[str], most: int) -> dict[str, str]:
    """name -> at most `most` characters of it, by `plain`; those that would look the same are cut before the place
    where they begin to differ, and numbered where that does not help."""
    found = {name: plain(name, most) for name in names}
    alike = defaultdict(list)
    for name, short in found.items():
        alike[short].append(name)
    for group in alike.values():
        if len(group) > 1:
            whole = [plain(name, WHOLE) for name in group]
            alike_up_to = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*whole, strict=False)))
            start = max(0, alike_up_to - BEFORE)
            for name, text in zip(group, whole, strict=True):
                found[name] = _begin("…" + text[start:] if start else text, most)
    taken: dict[str, str] = {}
    for name, short in found.items():
        number = 2
        while found[name] in taken:
            found[name] = f"{_begin(short, most - 2 - len(str(number)))} #{number}"
            number += 1
        taken[found[name]] = name
    return found


def size_of(number: float) -> str:
    """260K, 135M, 1.3B, 175B: of parameters, or of episodes."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= unit * 0.9995:
            return f"{number / unit:.3g}{letter}"
    return f"{number:.0f}"


def _begin(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
