"""`alignbench compare` as a user runs it."""

import csv
import json
from pathlib import Path

import commands
import pytest
from audit_runs import rte, shares, write_run
from cases import cases
from commands import assert_one_line_error
from tiny import save_tiny_checkpoint

from alignbench import evaluate


def run(*arguments):
    return commands.run("compare", *arguments)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "runs"
    for name, p, q in (("base", 0.8, 0.5), ("aligned", 0.6, 0.9), ("aligned-more", 0.5, 0.9)):
        write_run(out, name, rte(p), ("sst2", {"acc": shares(q)}))
    write_run(out, "elsewhere", ("crows_pairs", {"entropy": [0.5, 0.6]}))
    return out


def test_evaluated_checkpoints_are_found_by_weights_folders_and_names_and_compared(farm_model, world, tmp_path):
    tiny = save_tiny_checkpoint(tmp_path / "tiny")
    tasks, out = ("hellaswag", "crows_pairs", "wmt15_fr_en"), tmp_path / "runs"
    done = evaluate([str(farm_model), str(tiny)], tasks, out, data_dir=world, template="none")
    shown = run(farm_model, tiny, "--runs", out, "--metrics", "all")
    assert shown.returncode == 0, shown.stderr
    for words in ("hellaswag\tacc_norm, proportion ↑", "crows_pairs\tentropy, bits ↑", "wmt15_fr_en\tbleu, points ↑"):
        assert f"\t{words}\t" in shown.stdout
    assert "mean of groups" in shown.stdout
    by_weights = run(farm_model, tiny, "--runs", out, "--json").stdout
    folders = [result.folder for result in done]
    for specs in (folders, [folder.name for folder in folders], ["farm", "tiny"], ["fa", "t"]):
        assert run(*specs, "--runs", out, "--json").stdout == by_weights


def test_json_csv_markdown_and_latex_have_the_same_numbers(runs, tmp_path):
    files = [tmp_path / f"audit.{end}" for end in ("csv", "md", "tex")]
    written = ("--csv", files[0], "--markdown", files[1], "--latex", files[2])
    done = run("base", "aligned", "--runs", runs, "--json", *written)
    assert done.returncode == 0, done.stderr
    rows = {row["task"]: row for row in json.loads(done.stdout)["contrasts"][0]["rows"]}
    table = {row["task"]: row for row in csv.DictReader(files[0].open())}
    assert {name: float(row["delta"]) for name, row in table.items()} == {n: row["delta"] for n, row in rows.items()}
    assert "| loss | rte | acc, proportion ↑ | 0.800 | 0.600 | −0.200 |" in files[1].read_text()
    assert "loss & rte & acc, proportion $\\uparrow$ & 0.800 & 0.600 & $-$0.200 &" in files[2].read_text()


def test_an_exact_name_is_preferred_to_a_longer_one_and_a_checkpoint_needs_a_run(runs, tmp_path):
    assert "aligned against base" in run("base", "aligned", "--runs", runs).stdout
    assert_one_line_error(run("base", "ali", "--runs", runs), "ali: ambiguous", "aligned-more-")
    tiny = save_tiny_checkpoint(tmp_path / "tiny")
    assert_one_line_error(run("base", tiny, "--runs", runs), "no run has these weights")


@pytest.mark.parametrize("case", cases("rejected_inputs")["compare"], ids=str)
def test_a_users_mistake_is_one_line_and_exit_code_2(runs, case):
    assert_one_line_error(run("--runs", runs, *case["arguments"]), *case["words"])


@pytest.mark.parametrize("file", ["run.json", "result.json", "documents.jsonl"])
def test_a_damaged_file_is_named(tmp_path, file):
    for name in ("base", "aligned"):
        write_run(tmp_path, name, rte(0.8))
    (damaged,) = tmp_path.glob(f"aligned-*/**/{file}")
    for content in ("{", "{}\n"):
        damaged.write_text(content)
        assert_one_line_error(run("base", "aligned", "--runs", tmp_path), file)
