"""`alignbench report` as a user runs it: run folders in, figures and one page out."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from audit_runs import shares, write_run
from matplotlib.figure import Figure

from reports.drawing import Drawing, save
from reports.report import report

TRUE = {"mc1": shares(0.3), "mc2": shares(0.4), "mc3": shares(0.35)}


@pytest.fixture
def runs(tmp_path) -> Path:
    folder = tmp_path / "runs"
    write_run(folder, "base", ("hellaswag", {"acc": shares(0.5), "acc_norm": shares(0.5)}), ("truthfulqa_mc", TRUE))
    write_run(
        folder, "ppo", ("hellaswag", {"acc": shares(0.3), "acc_norm": shares(0.3)}), ("truthfulqa_mc", TRUE),
        lineage=[("base", "base")],
    )  # fmt: skip
    return folder


def alignbench(*arguments: str, hashes: str = "0") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": hashes}
    command = [sys.executable, "-m", "alignbench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_run_folders_give_the_same_bytes_in_another_process_and_folder(runs, tmp_path):
    for number in ("1", "2"):
        done = alignbench("report", str(runs), "--out", str(tmp_path / number), hashes=number)
        assert done.returncode == 0, done.stderr
    first, second = files_of(tmp_path / "1"), files_of(tmp_path / "2")
    assert first == second
    assert {"index.html", "report.json", "figures/audit_forest.svg", "figures/audit_forest.csv"} <= set(first)
    assert str(tmp_path).encode() not in first["index.html"]


def test_what_was_drawn_and_what_was_left_out_is_told_with_the_reason(runs, tmp_path):
    done = alignbench("report", str(runs), "--out", str(tmp_path / "report"))
    told = json.loads((tmp_path / "report" / "report.json").read_text())
    assert f"the page: {tmp_path / 'report' / 'index.html'}" in done.stdout
    assert told["left_out"]
    for title, why in told["left_out"].items():
        assert f"left out: {title} ({why})" in done.stdout
        assert why in (tmp_path / "report" / "index.html").read_text()
    drawn = {name for name in told["figures"] if name.endswith(".png")}
    assert drawn == {file.name for file in (tmp_path / "report" / "figures").glob("*.png")}


def test_a_second_report_removes_the_figures_that_it_no_longer_has_and_nothing_else(runs, tmp_path):
    out = tmp_path / "report"
    report([runs], out, pdf=True)
    assert (out / "figures" / "truthfulness.pdf").is_file()
    (out / "figures" / "mine.png").write_bytes(b"a picture of the user's")
    for folder in runs.glob("*/truthfulqa_mc-*"):
        folder.rename(tmp_path / f"{folder.parent.name}-away")
    report([runs], out)
    left = {file.name for file in (out / "figures").iterdir()}
    assert "mine.png" in left
    assert not [name for name in left if name.startswith("truthfulness") or name.endswith(".pdf")]


def test_what_another_program_wrote_as_report_json_is_no_obstacle(runs, tmp_path):
    out = tmp_path / "report"
    out.mkdir()
    (out / "report.json").write_text("[1]")
    assert report([runs], out).page.is_file()


def test_a_reference_that_is_asked_for_is_what_the_figures_show(runs, tmp_path):
    drawn = {drawing.name: drawing for drawing in report([runs], tmp_path / "report", reference="ppo").drawn}
    assert set(drawn["audit_forest"].table.reference) == {"ppo"}


def test_a_csv_file_holds_no_formula_and_whole_counts(tmp_path):
    names = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "x=1"]
    table = pd.DataFrame({"system": names, "parameters": [134_515_008.0] * 6 + [None], "value": [0.5] * 7})
    save(Drawing("figure", "", "", Figure(), table, "", ""), tmp_path)
    with (tmp_path / "figure.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["system"] for row in rows] == ["'=1+1", "'+1", "'-1", "'@x", "'\ufffdx", "'\ufffdx", "x=1"]
    assert [row["parameters"] for row in rows] == ["134515008"] * 6 + [""]
    assert {row["value"] for row in rows} == {"0.5"}


def test_a_mistake_is_one_line_and_exit_code_2(runs, tmp_path):
    for arguments, words in (
        ([str(tmp_path)], "no run folder, training folder or table of labels"),
        ([str(runs), "--reference", "nobody"], "--reference nobody: it must name one of the models: base, ppo"),
    ):
        done = alignbench("report", *arguments, "--out", str(tmp_path / "report"))
        assert (done.returncode, len(done.stderr.splitlines()[-1:])) == (2, 1)
        assert words in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
