"""`alignbench rank` and `score --task win_rate` as a user runs them, with human labels as the judge."""

import csv
import json
from pathlib import Path

import pytest
from commands import run
from scorer_models import save_classifier
from tiny import save_tiny_checkpoint

NAMES = ("curt", "kind", "wordy")
N = 12


def write(file: Path, rows) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def village(tmp_path) -> Path:
    """Three systems, and labelers who like the kind one best; the wordy one beats the curt one but twice."""
    write(tmp_path / "prompts.jsonl", [{"id": str(i), "prompt": f"How is cow {i}?"} for i in range(N)])
    texts = {
        "curt": "Well, {}.",
        "kind": "Cow {} is well, thank you.",
        "wordy": "Cow {} is, in a manner of speaking, well.",
    }
    for name, text in texts.items():
        write(tmp_path / f"{name}.jsonl", [{"reply": text.format(i)} for i in range(N)])
    ranks = {"kind": lambda i: 1, "wordy": lambda i: 3 if i < 2 else 2, "curt": lambda i: 2 if i < 2 else 3}
    write(
        tmp_path / "labels.jsonl",
        [
            {
                "prompt_id": str(i), "prompt": f"How is cow {i}?", "model": name, "output": texts[name].format(i),
                "labeler": labeler, "rank": ranks[name](i),
            }
            for i in range(N) for name in NAMES for labeler in ("ann", "ben")
        ],
    )  # fmt: skip
    return tmp_path


FILES = ("--map", "reply=output", "--in-order", "--prompts", "prompts.jsonl")
JUDGE = ("--scorer", "preference=labels:labels.jsonl")


def test_people_rank_three_systems(village):
    done = run("rank", *(f"{name}.jsonl" for name in NAMES), *FILES, *JUDGE, "--json", "--csv", "t.csv", cwd=village)
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    assert [standing["name"] for standing in table["standings"]] == ["kind", "wordy", "curt"]
    assert (table["battles"], table["prompts"], table["baseline"]) == (3 * N, N, "curt")
    pairs = {(pair["first"], pair["second"]): pair["value"] for pair in table["pairs"]}
    assert pairs == {("curt", "kind"): 0, ("curt", "wordy"): pytest.approx(2 / N), ("kind", "wordy"): 1}
    assert table["judge"].startswith("labels:labels.jsonl@")
    with (village / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["system"] for row in rows] == ["kind", "wordy", "curt"]
    assert float(rows[2]["strength"]) == 0
    shown = run("rank", *(f"{name}.jsonl" for name in NAMES), *FILES, *JUDGE, cwd=village)
    assert "verdicts for the longer answer" in shown.stdout
    assert "curt against kind: 0.000" in shown.stdout


def test_a_win_rate_of_two_files(village):
    done = run(
        "score", "kind.jsonl", "--task", "win_rate", "--baseline", "curt.jsonl", *FILES, *JUDGE, "--json", cwd=village
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    found = {metric["metric"]: metric for metric in result["results"][0]["metrics"]}
    assert found["win_rate"]["value"] == 1
    assert found["win_rate"]["low"] < 0.8  # twelve prompts that agree are no certainty
    assert found["longer"]["value"] == 1


def test_labels_of_pairs_are_imported_and_judge(village):
    pairs = [
        {
            "prompt": f"How is cow {i}?",
            "output_1": f"Well, {i}.",
            "output_2": f"Cow {i} is well, thank you.",
            "preference": 0.75,
        }
        for i in range(N)
    ]
    write(village / "pairs.jsonl", pairs)
    done = run("labels", "import", "pairs.jsonl", "--out", "normal.jsonl", cwd=village)
    assert done.returncode == 0, done.stderr
    for file in ("pairs.jsonl", "normal.jsonl"):
        judge = ("--scorer", f"preference=labels:{file}", "--json")
        done = run("score", "kind.jsonl", "--task", "win_rate", "--baseline", "curt.jsonl", *FILES, *judge, cwd=village)
        assert done.returncode == 0, done.stderr
        (result,) = json.loads(done.stdout)
        found = {metric["metric"]: metric["value"] for metric in result["results"][0]["metrics"]}
        assert (found["win_rate"], found["win_rate_discrete"]) == (0.75, 1)


def test_a_checkpoint_is_judged_against_its_baseline_by_a_reward_model(village):
    for name, seed in (("base", 1), ("aligned", 2)):
        save_tiny_checkpoint(village / name, seed=seed)
    save_classifier(village / "rm", ("reward",), positions=1026)
    arguments = (
        "evaluate", "aligned", "--tasks", "win_rate,answers", "--baseline", "base", "--prompts", "prompts.jsonl",
        "--limit", "4", "--dtype", "float32", "--scorer", "preference=reward:rm",
    )  # fmt: skip
    done = run(*arguments, "--json", cwd=village)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert [(task["task"], task["n"]) for task in result["results"]] == [("win_rate", 4), ("answers", 4)]
    assert "already finished" in run(*arguments, cwd=village).stderr
