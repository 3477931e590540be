"""`alignbench report`: run folders in, figures and one page out."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from commands import run, run_process
from matplotlib.figure import Figure
from report_runs import BASE, bias, iterations, model, tax_tasks, training

from reports.drawing import Drawing, save
from reports.report import report

DRAW = """
import sys; from pathlib import Path; sys.path.insert(0, "tests")
from report_runs import gather_once; from reports import drawing; from reports.report import draw_all
drawing.METADATA = {"svg": drawing.METADATA["svg"]}
for each in draw_all(gather_once(Path(sys.argv[1])))[0]: drawing.save(each, Path(sys.argv[2]))
"""
pytest_plugins = ("report_fixtures",)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    model(folder, "base", *tax_tasks(0.1), bias("crows_pairs", 0.5))
    model(folder, "ppo", *tax_tasks(0.0), lineage=BASE)
    training(folder / "trained", "ppo", iterations(3))
    return folder


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_run_folders_give_the_same_bytes_in_another_process_and_folder(runs, tmp_path):
    made = report([runs], tmp_path / "made")
    moved = shutil.copytree(runs, tmp_path / "runs")
    done = run_process("report", moved, "--out", tmp_path / "again", env={"PYTHONHASHSEED": "7"})
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "again" / "index.html") in done.stdout
    first, second = files_of(tmp_path / "made"), files_of(tmp_path / "again")
    assert first == second
    assert {"index.html", "report.json", "figures/audit_forest.svg", "figures/audit_forest.csv"} <= set(first)
    assert str(tmp_path).encode() not in first["index.html"]
    manifest = json.loads(first["report.json"])
    assert manifest["left_out"] == made.left_out
    for title, reason in made.left_out.items():
        assert f"left out: {title} ({reason})" in done.stdout
        assert f"<strong>{title}</strong>: {reason}" in made.page.read_text()
    assert {f"figures/{name}" for name in manifest["figures"]} == {name for name in first if "figures/" in name}


@pytest.mark.slow
def test_another_process_draws_all_figures_with_the_same_bytes(report_paths, drawings, tmp_path):
    process = [sys.executable, "-c", DRAW, str(report_paths[0]), str(tmp_path / "there")]
    subprocess.run(process, check=True, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "7"})
    there = files_of(tmp_path / "there")
    assert len(there) > 50
    for name in {file.partition(".")[0] for file in there}:
        save(drawings[name], tmp_path / "here")
    here = files_of(tmp_path / "here")
    assert [name for name in there if name in here and here[name] != there[name]] == []


def test_a_second_report_removes_only_figures_of_the_first(runs, tmp_path):
    folder = shutil.copytree(runs, tmp_path / "runs")
    (tmp_path / "report.json").write_text("[1]")  # of another program
    report([folder], tmp_path, pdf=True)
    assert (tmp_path / "figures" / "bias_entropy.pdf").is_file()
    (tmp_path / "figures" / "mine.png").write_bytes(b"a picture of the user")
    for task in folder.glob("*/crows_pairs-*"):
        shutil.rmtree(task)
    again = report([folder], tmp_path, reference="ppo")
    assert set(again.drawn[0].table.reference) == {"ppo"}  # figures show the audit against the chosen reference
    left = {file.name for file in (tmp_path / "figures").iterdir()}
    assert "mine.png" in left
    assert not [name for name in left if name.startswith("bias") or name.endswith(".pdf")]


def test_a_csv_file_contains_no_formula_and_whole_counts(tmp_path):
    names = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "x=1"]
    table = pd.DataFrame({"system": names, "parameters": [134_515_008.0] * 6 + [None], "value": [0.5] * 7})
    save(Drawing("figure", "", "", Figure(), table, "", ""), tmp_path)
    with (tmp_path / "figure.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["system"] for row in rows] == ["'=1+1", "'+1", "'-1", "'@x", "'\ufffdx", "'\ufffdx", "x=1"]
    assert [row["parameters"] for row in rows] == ["134515008"] * 6 + [""]
    assert {row["value"] for row in rows} == {"0.5"}


def test_a_mistake_is_one_line_and_exit_code_2(runs, tmp_path):
    done = run("report", runs, "--reference", "nobody", "--out", tmp_path / "report")
    assert done.returncode == 2
    assert "--reference nobody: it must be one of the models: base, ppo" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
