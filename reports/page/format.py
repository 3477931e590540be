"""Values, texts and data blocks as the page contains them."""

import base64
import gzip
import json
import math
import re
from typing import Any

from alignbench import console
from alignbench.audit.abilities import DIGITS

SIGNIFICANT = 6  # digits of a number in the page; run folders have all
# C0 without tab and line feed; C1; embeddings, overrides and isolates of direction
SHOWN = (
    {code: chr(0x2400 + code) for code in range(0x20) if code not in (0x09, 0x0A)}
    | {code: f"⟨U+{code:04X}⟩" for code in (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
    | {0x7F: "\N{SYMBOL FOR DELETE}"}
    | dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}")
)


def pack(content: Any) -> str:
    """Return base64 of gzip of JSON: no text in it is markup, and the same content gives the same text.

    Floats keep SIGNIFICANT digits; NaN and infinities become null.
    """
    numbers = json.loads(json.dumps(content), parse_float=lambda x: number(float(x)), parse_constant=lambda _: None)
    text = json.dumps(numbers, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    data = re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text).encode("utf-8")
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode("ascii")


def number(value: Any) -> float | int | None:
    """Return a finite number, floats with SIGNIFICANT digits; None for anything else (booleans are 0 and 1)."""
    if isinstance(value, bool | int):
        return int(value)
    if not isinstance(value, float) or not math.isfinite(value):
        return None
    short = float(f"{value:.{SIGNIFICANT}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def visible(text: object) -> str:
    """Return text with visible control characters, such as "␛" and "⟨U+202E⟩"; line breaks and tabs stay."""
    return str(text).translate(SHOWN)


def value(x: float | None, unit: str, sign: bool = False) -> str:
    """Return a value with the digits of its unit; "–" for none."""
    return console.number(x, f"{'+' * sign}.{DIGITS.get(unit, 3)}f")


def interval(own: Any, unit: str, sign: bool = False) -> str:
    """Return the interval of anything with `low` and `high`; "" if it has none."""
    known = own.low is not None and own.high is not None
    return f"[{value(own.low, unit, sign)}, {value(own.high, unit, sign)}]" if known else ""
