"""What a careless or hostile user supplies: edited JSON, tables and names, and files that are no regular files."""

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

# texts that replace a value of JSON: wrong types, numbers without bounds, half a surrogate pair, nesting
VALUES = (
    "null", "true", "-1", "0", "1.5", "1e999", "NaN", "-Infinity", "9" * 400, "9" * 5000, '""', '"x"', '"\\ud800"',
    '"a\\nb\\u001b[31m\\u0000"', '"../../x"', '"/dev/zero"', "[]", "{}", "[[]]", "[null]", '{"a": null}', '["x"]',
    "[" * 3000 + "]" * 3000, '{"x": 1, "x": 2}', '"' + "x" * 5000 + '"', "2147483648", "[1, 2]", '{"name": "x"}',
)  # fmt: skip
CONTENTS = (
    b"", b"\n", b"null", b"[]", b"{}", b"3", b'"x"', b"{", b"[" * 100_000, b"\xff\xfe\x00", b"\xef\xbb\xbf{}", b"\x00",
    b'{"a": 1, "a": 2}', b'{"a": NaN}', b"not\nJSON", b"PAR1", b"\x1f\x8b", b"a: &a [x]\nb: *a\n",
    b"!!python/name:os.x",
)  # fmt: skip
KINDS = ("missing", "folder", "fifo", "device", "loop")
WORDS = (
    *("", "-1", "0", "1", "2", "nan", "inf", "1e400", "9" * 30, "9" * 5000),
    *("a", "a,b", ",", "=", "a=b", "a:b", "a=b:c"),
    *("\udcff", "\udcff.jsonl", "é" * 300, "x" * 300, "a\nb", "\x1b[31m", "{}", "[[]]", "/", ".", "..", "/dev/null"),
    *("/dev/zero", "nowhere", "nowhere/x.jsonl", "~nobody/x", "fifo.jsonl", "loop.jsonl", "folder.jsonl", "rows.jsonl"),
    *("rows.csv", "runs", "model", "http://", "http://[", "https://x/v1", "preference=lm", "reward=model:model"),
    *("toxicity=alt-profanity-check", "embedding=hashed", "all"),
)


def paths_in(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, own in inner for place in ((*at, key), *paths_in(own, (*at, key)))]


@st.composite
def edited_json(draw: st.DrawFn, value: Any) -> str:
    """JSON text of a value in which one or two values are replaced or removed."""
    value, texts = copy.deepcopy(value), []
    for _ in range(draw(st.integers(1, 2))):
        places = paths_in(value)
        if not places:
            break
        *to, key = draw(st.sampled_from(places))
        container = value
        for step in to:
            container = container[step]
        new = draw(st.sampled_from((None, *VALUES)))
        if new is None:
            del container[key]
        else:
            texts.append(new)
            container[key] = f"@{len(texts) - 1}@"
    whole = json.dumps(value)
    for number, text in enumerate(texts):
        whole = whole.replace(f'"@{number}@"', text)
    return whole


@st.composite
def edited_lines(draw: st.DrawFn, rows: list[Any]) -> str:
    at = draw(st.integers(0, len(rows) - 1))
    lines = [json.dumps(row) for row in rows]
    lines[at] = draw(edited_json(rows[at]))
    return "".join(line + "\n" for line in lines)


@st.composite
def edited_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes cut, overwritten or replaced."""
    if draw(st.booleans()):
        return draw(st.sampled_from(CONTENTS))
    at, new = draw(st.integers(0, max(0, len(content) - 1))), draw(st.sampled_from((b"", b"\xff", b"\x00", b'"', b",")))
    return content[:at] + new + (b"" if draw(st.booleans()) else content[at + 1 :])


def edited(content: bytes, name: str) -> st.SearchStrategy[bytes | str]:
    """A file's content after an edit; a str is one of KINDS: no regular file."""
    ways: list[st.SearchStrategy[bytes | str]] = [edited_bytes(content), st.sampled_from(KINDS)]
    if name.endswith((".json", ".jsonl")):
        lines = [json.loads(line) for line in content.splitlines()] if name.endswith(".jsonl") else None
        texts = edited_json(json.loads(content)) if lines is None else edited_lines(lines)
        ways += [texts.map(str.encode)] * 4
    return st.one_of(ways)


def place(file: Path, content: bytes | str) -> None:
    """Put this content, or one of KINDS, in a file's place."""
    shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
    match content:
        case bytes():
            file.write_bytes(content)
        case "folder":
            file.mkdir()
        case "fifo":
            os.mkfifo(file)
        case "device":
            file.symlink_to("/dev/zero")
        case "loop":
            file.symlink_to(file)
