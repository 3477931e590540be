"""`alignbench rank` and `score --task win_rate` as a user runs them, with human labels as the judge."""

import csv
import json
from pathlib import Path

import pytest
from cases import write_lines
from commands import run
from scorer_models import save_classifier
from tiny import save_tiny_checkpoint

from alignbench.console import csv_cell

TEXTS = {
    "curt": "Well, {}.", "kind": "Cow {} is well, thank you.", "wordy": "Cow {} is, in a manner of speaking, well.",
}  # fmt: skip
N = 12
FILES = ("--map", "reply=output", "--in-order", "--prompts", "prompts.jsonl")
JUDGE = ("--scorer", "preference=labels:labels.jsonl")
RANK = ("rank", *(f"{name}.jsonl" for name in TEXTS), *FILES, *JUDGE)


@pytest.fixture
def village(tmp_path) -> Path:
    """Three systems, and labelers who like the kind one best; the wordy one beats the curt one but twice."""
    write_lines(tmp_path / "prompts.jsonl", [{"id": str(i), "prompt": f"How is cow {i}?"} for i in range(N)])
    labels = []
    for name, text in TEXTS.items():
        outputs = [text.format(i) for i in range(N)]
        write_lines(tmp_path / f"{name}.jsonl", [{"reply": output} for output in outputs])
        for i, output in enumerate(outputs):
            rank = 1 if name == "kind" else 2 + ((name == "curt") != (i < 2))
            row = {"prompt_id": str(i), "prompt": f"How is cow {i}?", "model": name, "output": output, "rank": rank}
            labels += [{"labeler": labeler, **row} for labeler in ("ann", "ben")]
    write_lines(tmp_path / "labels.jsonl", labels)
    return tmp_path


def test_people_rank_three_systems(village):
    done = run(*RANK, "--json", "--csv", "t.csv", cwd=village)
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    assert [standing["name"] for standing in table["standings"]] == ["kind", "wordy", "curt"]
    assert (table["battles"], table["prompts"], table["baseline"]) == (3 * N, N, "curt")
    pairs = {(pair["first"], pair["second"]): pair["value"] for pair in table["pairs"]}
    assert pairs == {("curt", "kind"): 0, ("curt", "wordy"): pytest.approx(2 / N), ("kind", "wordy"): 1}
    assert table["judge"].startswith("labels:labels.jsonl@")
    rows = list(csv.DictReader((village / "t.csv").read_text().splitlines()))
    assert [row["system"] for row in rows] == ["kind", "wordy", "curt"]
    assert float(rows[2]["strength"]) == 0
    cells = {"=1": "'=1", "＝1": "'＝1", "\t=1": "'\N{REPLACEMENT CHARACTER}=1", "a=1": "a=1", -2: -2, None: None}
    assert {cell: csv_cell(cell) for cell in cells} == cells  # a spreadsheet would evaluate them
    shown = run(*RANK, cwd=village)
    assert "verdicts for the longer answer" in shown.stdout
    assert "curt against kind: 0.000" in shown.stdout


def test_a_win_rate_of_two_files_by_ranks_and_by_labels_of_pairs(village):
    pair = {"prompt": "How is cow {}?", "output_1": TEXTS["curt"], "output_2": TEXTS["kind"]}
    pairs = [{name: text.format(i) for name, text in pair.items()} | {"preference": 0.75} for i in range(N)]
    write_lines(village / "pairs.jsonl", pairs)
    done = run("labels", "import", "pairs.jsonl", "--out", "normal.jsonl", cwd=village)
    assert done.returncode == 0, done.stderr
    score = ("score", "kind.jsonl", "--task", "win_rate", "--baseline", "curt.jsonl", *FILES, "--json", "--scorer")
    for file, rates in (("labels", (1, None)), ("pairs", (0.75, 1)), ("normal", (0.75, 1))):
        done = run(*score, f"preference=labels:{file}.jsonl", cwd=village)
        assert done.returncode == 0, done.stderr
        (result,) = json.loads(done.stdout)
        found = {metric["metric"]: metric for metric in result["results"][0]["metrics"]}
        assert (found["win_rate"]["value"], found.get("win_rate_discrete", {}).get("value")) == rates
        assert found["win_rate"]["low"] < 0.8  # twelve prompts that agree are no certainty
        assert found["longer"]["value"] == 1


def test_a_checkpoint_is_judged_against_its_baseline_by_a_reward_model_and_again_by_another(village):
    for name, seed in (("base", 1), ("aligned", 2)):
        save_tiny_checkpoint(village / name, seed=seed)
        save_classifier(village / f"rm{seed}", ("reward",), positions=1026, seed=seed)
    arguments = (
        "evaluate", "aligned", "--tasks", "win_rate,answers", "--baseline", "base", "--prompts", "prompts.jsonl",
        "--limit", "4", "--dtype", "float32", "--scorer", "preference=reward:rm1",
    )  # fmt: skip
    done = run(*arguments, "--json", cwd=village)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert [(task["task"], task["n"]) for task in result["results"]] == [("win_rate", 4), ("answers", 4)]
    assert run(*arguments, cwd=village).stderr.count("already finished") == 3
    (folder,) = village.glob("*/aligned-*")
    done = run("rescore", folder, "--scorer", "preference=reward:rm2", "--json", cwd=village)
    assert done.returncode == 0, done.stderr
    metrics = {metric["metric"]: metric for metric in json.loads(done.stdout)[0]["results"][0]["metrics"]}
    assert (metrics["win_rate"]["n"], metrics["win_rate"]["scorer"][:11]) == (4, "reward:rm2@")
    assert len(list(folder.glob("win_rate-*"))) == 2
