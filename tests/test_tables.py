"""Rows of data files: the line on which each starts, and errors that name file and line."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from alignbench.data.tables import read_rows
from alignbench.errors import AlignbenchError

ELEMENTS = '[\n {"a": "]\\n["},\n\n {"a":\n  2}, {"a": 3}]'


def rows_of(tmp_path: Path, content: str | bytes, format: str, at: str | None = None) -> list[Any]:
    path = tmp_path / f"file.{format}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return list(read_rows(path, format, at))


@pytest.mark.parametrize(
    ("content", "format", "at", "expected"),
    [
        ('{"a": 1}\n\n{"a": 2}\n', "jsonl", None, [(1, {"a": 1}), (3, {"a": 2})]),
        ('{"a": "x\u2028y"}\n{"a": 2}\n', "jsonl", None, [(1, {"a": "x\u2028y"}), (2, {"a": 2})]),
        ('q,a\n"one\ntwo\nthree",1\n"say ""no""",2\n\nlast,3\n', "csv", None,
         [(2, {"q": "one\ntwo\nthree", "a": "1"}), (5, {"q": 'say "no"', "a": "2"}), (7, {"q": "last", "a": "3"})]),
        (b"\xef\xbb\xbfq,a\r\nx,1\r\ny,2\r\n", "csv", None, [(2, {"q": "x", "a": "1"}), (3, {"q": "y", "a": "2"})]),
        ('q\ta\n"x said\t1\n', "tsv", None, [(2, {"q": '"x said', "a": "1"})]),
        (ELEMENTS, "json", None, [(2, {"a": "]\n["}), (4, {"a": 2}), (5, {"a": 3})]),
        ('{"other": [{"test": [1]}], "test"\n: ' + ELEMENTS + "}", "json", "test",
         [(3, {"a": "]\n["}), (5, {"a": 2}), (6, {"a": 3})]),
        ('{"test": [ ]}', "json", "test", []),
        ("Q: x\nA: y\n", "text", None, [(1, {"text": "Q: x\nA: y\n"})]),
    ],
)  # fmt: skip
def test_rows_have_the_line_on_which_they_start(tmp_path, content, format, at, expected):
    assert rows_of(tmp_path, content, format, at) == expected


@pytest.mark.parametrize(
    ("content", "format", "at", "message"),
    [
        ('{"a": 1}\n{"a": \n', "jsonl", None, "file.jsonl:2: not valid JSON"),
        ('{"a": 1}\n[1, 2]\n', "jsonl", None, "file.jsonl:2: expected a JSON object, found a list"),
        ("q,a\nx,1\ny\n", "csv", None, "file.csv:3: 1 fields, but the header has 2 (q, a)"),
        ('q,a\n"x\ny",1,2\n', "csv", None, "file.csv:2: 3 fields, but the header has 2 (q, a)"),
        ('q,a\nx,1\n"never closed,2\nz,3\n', "csv", None, "file.csv:3: unexpected end of data"),
        ("q,q\nx,1\n", "csv", None, "file.csv:1: a column name occurs twice"),
        ("q\ta\nx\t1\t2\n", "tsv", None, "file.tsv:2: 3 fields, but the header has 2 (q, a)"),
        ('[{"a": 1},\n {"a" 2}]', "json", None, "file.json:2: not valid JSON"),
        ('[{"a": 1},\n 7]', "json", None, "file.json:2: expected a JSON object, found a number"),
        ('{"dev": []}', "json", "test", "file.json:1: expected a JSON object with a list under the key 'test'"),
        ('{"test": {}}', "json", "test", "expected a JSON list under the key 'test', found an object"),
        ('{"test": []}', "json", None, "file.json:1: expected a JSON list, found an object"),
        (b'\xef\xbb\xbf{"a": 1}\n{"a": "\xff"}\n', "jsonl", None, "file.jsonl:2: byte 0xff is not UTF-8"),
    ],
)
def test_content_that_cannot_be_parsed_is_named_by_file_and_line(tmp_path, content, format, at, message):
    with pytest.raises(AlignbenchError) as caught:
        rows_of(tmp_path, content, format, at)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_gzip_is_decompressed(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n{"a": 2}\n'))
    assert list(read_rows(path, "jsonl")) == [(1, {"a": 1}), (2, {"a": 2})]
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(AlignbenchError, match=r"rows\.jsonl\.gz: not a whole gzip file"):
        read_rows(path, "jsonl")
