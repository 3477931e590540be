"""Rows of data files: the line on which each starts, and errors that name file and line."""

import gzip
import json

import pytest
from cases import cases
from commands import assert_refused, refusal, run

from alignbench.data.tables import read_rows, read_source

CASES = cases("tables")


@pytest.mark.parametrize("case", CASES["rows"])
def test_rows_have_the_line_on_which_they_start(tmp_path, case):
    path = tmp_path / "file"
    path.write_bytes(case["content"].encode())
    assert [list(row) for row in read_rows(path, case["format"], case.get("at"))] == case["rows"]


@pytest.mark.parametrize("case", CASES["errors"])
def test_content_that_cannot_be_parsed_is_named_by_file_and_line(tmp_path, case):
    path = tmp_path / f"file.{case['format']}"
    path.write_bytes(case["content"].encode())
    assert case["message"] in refusal(lambda: list(read_rows(path, case["format"], case.get("at"))))


def test_bytes_are_utf8_and_may_be_compressed(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n{"a": "\xff"}\n')
    assert_refused(r"rows\.jsonl:2: byte 0xff is not UTF-8", read_rows, path, "jsonl")
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n{"a": 2}\n'))
    assert list(read_rows(path, "jsonl")) == [(1, {"a": 1}), (2, {"a": 2})]
    path.write_bytes(path.read_bytes()[:-12])
    assert_refused(r"rows\.jsonl\.gz: cannot be read: Compressed file ended", read_rows, path, "jsonl")
    (path := tmp_path / "rows.parquet").write_text("PAR1")
    assert_refused(r"\A[^\n]*rows\.parquet: not a parquet file that can be read [^\n]*\Z", read_source, str(path))


@pytest.mark.needs_data
def test_the_authors_files_are_the_pinned_ones_and_their_rows_have_the_right_lines(data_dir):
    done = run("data", "check", "--data-dir", data_dir)
    assert done.returncode == 0, done.stdout
    path = data_dir / "truthfulqa" / "mc_task_v1_2021.json"
    lines, found = path.read_text(encoding="utf-8").split("\n"), list(read_rows(path, "json"))
    assert len(found) == 817
    for n, row in found:
        assert json.loads("{" + lines[n].strip().rstrip(",") + "}") == {"question": row["question"]}
