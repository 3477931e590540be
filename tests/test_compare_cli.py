"""`alignbench compare` as a user runs it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from audit_runs import rte, shares, write_run
from test_cli import assert_one_line_error
from test_cli import run as process
from tiny import save_tiny_checkpoint

from alignbench import evaluate
from alignbench.cli.app import main

TASKS = ("hellaswag", "crows_pairs", "wmt15_fr_en")


@dataclass(frozen=True)
class Done:
    """What a process left behind, as `subprocess` has it."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., Done]:
    """The command as `alignbench` runs it, without the seconds that a process takes to start."""

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["alignbench", "compare", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Done(int(ended.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def made_up(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made-up") / "runs"
    write_run(out, "base", rte(0.8), ("sst2", {"acc": shares(0.5)}))
    write_run(out, "aligned", rte(0.6), ("sst2", {"acc": shares(0.9)}))
    write_run(out, "aligned-more", rte(0.5), ("sst2", {"acc": shares(0.9)}))
    write_run(out, "elsewhere", ("crows_pairs", {"entropy": [0.5, 0.6]}))
    return out


@pytest.fixture(scope="module")
def evaluated(farm_model, world, tmp_path_factory) -> tuple[Path, Path]:
    """(runs, a tiny checkpoint): it and the farm model evaluated on the made-up world."""
    folder = tmp_path_factory.mktemp("evaluated")
    tiny = save_tiny_checkpoint(folder / "tiny")
    evaluate([str(farm_model), str(tiny)], TASKS, folder / "runs", data_dir=world, template="none")
    return folder / "runs", tiny


def test_two_evaluated_checkpoints_are_compared_on_every_task(run, evaluated, farm_model):
    runs, tiny = evaluated
    done = run(farm_model, tiny, "--runs", runs, "--metrics", "all")
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    tasks = {(cells[1], cells[2]) for cells in rows if len(cells) == 13}
    assert tasks >= {
        ("hellaswag", "acc_norm, share ↑"),
        ("crows_pairs", "entropy, bits ↑"),
        ("wmt15_fr_en", "bleu, points ↑"),
    }
    assert "mean of groups" in done.stdout


def test_a_checkpoint_folder_is_found_by_its_weights_and_a_run_by_its_folder_or_name(run, evaluated, farm_model):
    runs, tiny = evaluated
    folders = sorted(path for path in runs.iterdir() if path.is_dir())
    farm, small = (next(f for f in folders if f.name.startswith(name)) for name in ("farm", "tiny"))
    by_weights = run(farm_model, tiny, "--runs", runs, "--json")
    assert by_weights.returncode == 0, by_weights.stderr
    for specs in ((farm, small), (farm.name, small.name), ("farm", "tiny"), ("fa", "t")):
        assert run(*specs, "--runs", runs, "--json").stdout == by_weights.stdout


def test_json_csv_markdown_and_latex_hold_the_same_numbers(made_up, tmp_path):
    files = [tmp_path / f"audit.{end}" for end in ("csv", "md", "tex")]
    done = process(
        "compare",
        "base",
        "aligned",
        "--json",
        "--csv",
        files[0],
        "--markdown",
        files[1],
        "--latex",
        files[2],
        cwd=made_up.parent,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["task"]: row for row in json.loads(done.stdout)["contrasts"][0]["rows"]}
    table = {row["task"]: row for row in csv.DictReader(files[0].open())}
    assert {name: float(row["delta"]) for name, row in table.items()} == {n: row["delta"] for n, row in rows.items()}
    assert "| cost | rte | acc, share ↑ | 0.800 | 0.600 | -0.200 |" in files[1].read_text()
    assert "cost & rte & acc, share $\\uparrow$ & 0.800 & 0.600 & -0.200 &" in files[2].read_text()


def test_the_name_of_a_model_goes_before_a_longer_one_that_begins_alike(run, made_up):
    done = run("base", "aligned", "--runs", made_up)
    assert "aligned against base" in done.stdout
    assert_one_line_error(run("base", "ali", "--runs", made_up), "ali: ambiguous", "aligned-more-")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["base"], ["compare needs two models"]),
        (["base", "base"], ["the same run"]),
        (["base", "nobody"], ["nobody: no run of it", "aligned-"]),
        (["base", "elsewhere"], ["base and elsewhere have no finished task in common"]),
        (["base", "aligned", "--tasks", "squad2"], ["no finished task in common"]),
        (["base", "aligned", "--reference", "x"], ["--reference x", "base, aligned"]),
        (["base", "aligned", "--reward", "win_rate.win_rate"], ["none of the models has it", "rte.acc, sst2.acc"]),
        (["base", "aligned", "--reference-point", "a"], ["expected REWARD,TAX"]),
        (["base", "aligned", "--reference-point", "nan,1"], ["expected REWARD,TAX"]),
        (["base", "aligned", "--metrics", "some"], ["choose headline or all"]),
        (["base", "aligned", "--resamples", "3"], ["at least 100"]),
        (["base", "aligned", "--seed", "-1"], ["--seed -1"]),
        (["base", "aligned", "--csv", "/nowhere/a.csv"], ["/nowhere/a.csv: cannot be written"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, made_up, arguments, words):
    assert_one_line_error(run(*arguments, "--runs", made_up), *words)


def test_a_mistake_in_a_process_of_its_own(made_up):
    assert_one_line_error(process("compare", "base", "nobody", "--runs", made_up), "nobody: no run of it")


def test_no_runs_at_all_is_one_line(run, tmp_path):
    assert_one_line_error(run("base", "aligned", "--runs", tmp_path), "no run folder, and there are none in")


def test_a_checkpoint_that_was_not_evaluated_is_named(run, made_up, tmp_path):
    tiny = save_tiny_checkpoint(tmp_path / "tiny")
    assert_one_line_error(run("base", tiny, "--runs", made_up), "none of the runs is of these weights")


@pytest.mark.parametrize("file", ["run.json", "result.json", "documents.jsonl"])
def test_a_damaged_file_is_named(run, tmp_path, file):
    write_run(tmp_path, "base", rte(0.8))
    write_run(tmp_path, "aligned", rte(0.6))
    (damaged,) = tmp_path.glob(f"aligned-*/**/{file}")
    damaged.write_text("{")
    assert_one_line_error(run("base", "aligned", "--runs", tmp_path), file)
    damaged.write_text("{}\n")
    assert_one_line_error(run("base", "aligned", "--runs", tmp_path), file)


def test_help_is_quick_and_imports_nothing_heavy():
    code = "import sys, alignbench.cli.compare; print(sorted({'torch', 'scipy', 'numpy', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
