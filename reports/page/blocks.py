"""Data inside the page: JSON, compressed, as text that no reader of HTML can take for markup."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
from typing import Any

from alignbench.audit.render import DIGITS

LONE = re.compile("[\ud800-\udfff]")
SIGNIFICANT = 6  # digits of a number in the page; the run folders hold them all


def pack(content: Any) -> str:
    """base64 of gzip of JSON in UTF-8: the same content gives the same text. NaN and infinities become null."""
    text = json.dumps(finite(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, which JSON may hold
        data = LONE.sub("\N{REPLACEMENT CHARACTER}", text).encode("utf-8")
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode("ascii")


def unpack(block: str) -> Any:
    """What `pack` was given, as a browser sees it."""
    return json.loads(gzip.decompress(base64.b64decode(block)).decode("utf-8"))


def finite(content: Any) -> Any:
    """The same with floats cut to `SIGNIFICANT` digits, and None for what is not a finite number."""
    if isinstance(content, float):
        return number(content)
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return content


def number(value: Any) -> float | int | None:
    """A finite number, a float cut to `SIGNIFICANT` digits; None for anything else (truth values are 0 and 1)."""
    if isinstance(value, bool | int):
        return int(value)
    if not isinstance(value, float) or not math.isfinite(value):
        return None
    short = float(f"{value:.{SIGNIFICANT}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def shown(text: object) -> str:
    """Text with its control characters visible: "␛" for an escape, "⟨U+202E⟩" for one that turns the line's direction.

    Line breaks and tabs stay.
    """
    return UNSEEN.sub(_visible, str(text))


# C0 and C1 without tab and line feed; embeddings, overrides and isolates of direction; surrogates
UNSEEN = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")


def _visible(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\N{SYMBOL FOR DELETE}"
    return "\N{REPLACEMENT CHARACTER}" if 0xD800 <= code <= 0xDFFF else f"⟨U+{code:04X}⟩"


def told(value: float | None, unit: str, *, sign: bool = False) -> str:
    """A value as people read it, with the digits that the audit has for its unit; "–" for none."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{abs(value):.{DIGITS.get(unit, 3)}f}"
    if value < 0 and float(text):  # no minus before a zero
        return f"\N{MINUS SIGN}{text}"
    return f"+{text}" if sign else text


def told_interval(low: float | None, high: float | None, unit: str, *, sign: bool = False) -> str:
    if low is None or high is None:
        return ""
    return f"[{told(low, unit, sign=sign)}, {told(high, unit, sign=sign)}]"
