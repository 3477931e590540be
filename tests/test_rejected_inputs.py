"""A user's mistake is one line on stderr that says what is wrong and what to do, with exit code 2."""

import json
import os
import shutil
from pathlib import Path

import pytest
from cases import cases, update
from commands import assert_one_line_error, run

CHOICES = ("--tasks", "hellaswag")


@pytest.mark.parametrize("case", cases("rejected_inputs")["usage"], ids=str)
def test_command_lines(case):
    assert_one_line_error(run(*case["arguments"]), *case["words"])


@pytest.mark.parametrize("case", cases("rejected_inputs")["evaluate"], ids=str)
def test_settings_of_evaluate(farm_model, world, tmp_path, case):
    done = run("evaluate", farm_model, "--data-dir", world, "--out", tmp_path, *case["arguments"])
    assert_one_line_error(done, *case["words"])
    assert not list(tmp_path.rglob("documents*"))


def custom_code(model: Path) -> None:
    update(model / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"})
    (model / "evil.py").write_text(f"open({str(model / 'ran')!r}, 'w')\n")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda model: (model / "config.json").unlink(), ["no config.json"]),
        (lambda model: (model / "model.safetensors").rename(model / "model.bin"), ["pickled", "safetensors"]),
        (lambda model: os.truncate(model / "model.safetensors", 5000), ["truncated", "model.safetensors"]),
        (custom_code, ["--trust-remote-code"]),
        (
            lambda model: update(model / "tokenizer_config.json", model_max_length="many"),
            ["its tokenizer does not load", "'int' and 'str'"],
        ),
    ],
)
def test_checkpoints(farm_model, world, tmp_path, damage, words):
    model = shutil.copytree(farm_model, tmp_path / "model")
    damage(model)
    done = run("evaluate", model, *CHOICES, "--data-dir", world, "--out", tmp_path / "out")
    assert_one_line_error(done, *words)
    assert not (model / "ran").exists()


def test_a_missing_checkpoint_or_data_folder(farm_model, world, tmp_path):
    missing = tmp_path / "none"
    assert_one_line_error(
        run("evaluate", missing, *CHOICES, "--data-dir", world, "--out", tmp_path), "no such folder", str(missing)
    )
    assert_one_line_error(run("evaluate", farm_model, *CHOICES, "--data-dir", missing, "--out", tmp_path), "none")


def test_a_hub_id_or_a_data_set_without_a_network(farm_model, world, tmp_path):
    home = {"HF_HOME": str(tmp_path / "hub"), "ALIGNBENCH_CACHE": str(tmp_path / "cache")}
    done = run("evaluate", "nobody/nothing", *CHOICES, "--data-dir", world, "--out", tmp_path, env=home)
    assert_one_line_error(done, "nobody/nothing", "local folder")
    done = run("evaluate", farm_model, *CHOICES, "--out", tmp_path, env=home)
    assert_one_line_error(done, "hellaswag", "Rowan/hellaswag", "--data-dir")


def test_a_corrupt_data_row_is_named_by_file_and_line(farm_model, world, tmp_path):
    data = shutil.copytree(world, tmp_path / "data")
    file = data / "hellaswag" / "hellaswag_val.jsonl"
    lines = file.read_text().splitlines()
    lines[4] = lines[4][:40]
    file.write_text("\n".join(lines))
    done = run("evaluate", farm_model, *CHOICES, "--data-dir", data, "--out", tmp_path / "out")
    assert_one_line_error(done, f"{file}:5")


@pytest.mark.parametrize("case", cases("rejected_inputs")["files"], ids=str)
def test_score_rescore_and_rank(tmp_path, case):
    def write(name: str, rows: list[dict]) -> None:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("prompts.jsonl", [{"id": str(i), "prompt": f"How is cow {i}?"} for i in range(3)])
    label = {"prompt_id": "0", "prompt": "How is cow 0?", "model": "curt", "labeler": "ann", "rank": 1}
    write("labels.jsonl", [{**label, "output": "Well."}, {**label, "output": "Fine.", "model": "kind", "rank": 2}])
    for name, count in (("curt", 3), ("kind", 3), ("few", 2)):
        write(f"{name}.jsonl", [{"reply": "Well."}] * count)
    (tmp_path / "twice.csv").write_text("reply,reply\nWell.,Fine.\n")
    (tmp_path / "both.csv").write_text("reply,output\nWell.,Fine.\n")
    assert_one_line_error(run(*case["arguments"], cwd=tmp_path), *case["words"])
