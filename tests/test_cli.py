"""The command line as a user runs it: in a process of its own."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

TASKS = "truthfulqa_mc,hellaswag,crows_pairs,winogender"


def run(*arguments: object, cwd: Path | None = None, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    command = [sys.executable, "-m", "alignbench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=300, **options)


def evaluate(model: Path, world: Path, out: Path, *more: object, **options: object):
    return run("evaluate", model, "--tasks", TASKS, "--data-dir", world, "--out", out, *more, **options)


def files_of(out: Path) -> dict[str, bytes]:
    """Every file of a run folder but the log, which carries the times, and the lock."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in ("log.jsonl", ".lock")
    }


def assert_one_line_error(done: subprocess.CompletedProcess[str], *words: str) -> None:
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in errors[0], errors[0]


@pytest.fixture(scope="module")
def finished(farm_model, world, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    done = evaluate(farm_model, world, out)
    assert done.returncode == 0, done.stderr
    return out


def test_evaluate_prints_a_line_for_every_metric_and_says_where_the_records_are(farm_model, world, finished):
    done = evaluate(farm_model, world, finished)
    assert done.returncode == 0
    lines = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    assert {(line[1], line[2]) for line in lines[1:]} >= {
        ("truthfulqa_mc", "mc1"),
        ("hellaswag", "acc_norm"),
        ("crows_pairs", "entropy"),
        ("winogender", "gap_workforce_r"),
    }
    assert "records: " in done.stdout
    assert done.stderr.count("already finished") == 4


def test_json_is_the_same_results_for_a_machine(farm_model, world, finished):
    done = evaluate(farm_model, world, finished, "--json")
    (result,) = json.loads(done.stdout)
    assert [task["task"] for task in result["results"]] == TASKS.split(",")
    mc1 = result["results"][0]["metrics"][0]
    assert mc1["low"] <= mc1["value"] <= mc1["high"]


def test_python_returns_what_the_command_prints(farm_model, world, tmp_path, finished):
    import alignbench

    (found,) = alignbench.evaluate([str(farm_model)], ["hellaswag"], tmp_path, data_dir=world)
    (folder,) = finished.glob("*/hellaswag-*")
    written = json.loads((folder / "result.json").read_text())
    assert found.results[0].metrics[0].value == pytest.approx(written["metrics"][0]["value"])


def test_records_are_read_with_pandas_in_one_line(finished):
    (file,) = finished.glob("*/truthfulqa_mc-*/documents.jsonl")
    table = pd.read_json(file, lines=True)
    (result,) = finished.glob("*/truthfulqa_mc-*/result.json")
    assert table["mc1"].mean() == pytest.approx(json.loads(result.read_text())["metrics"][0]["value"])
    assert {"id", "prompt", "choices", "logprobs", "tokens", "mc2", "unscored"} <= set(table.columns)


def test_a_run_says_what_computed_it(finished):
    (file,) = finished.glob("*/run.json")
    described = json.loads(file.read_text())
    assert set(described["model"]) >= {"name", "revision", "weights_sha256", "tokenizer_sha256", "chat_template_sha256"}
    assert set(described["engine"]) == {"kind", "dtype", "device", "token_budget"}
    assert set(described["environment"]) >= {"torch", "transformers", "commit", "dirty", "alignbench"}
    task = json.loads(next(finished.glob("*/hellaswag-*/task.json")).read_text())
    assert task["data"][0]["revision"]
    assert {"seed", "limit", "shots", "version", "documents_sha256"} <= set(task)


def test_two_runs_of_the_same_command_write_the_same_bytes(farm_model, world, tmp_path, finished):
    assert evaluate(farm_model, world, tmp_path).returncode == 0
    assert files_of(tmp_path) == files_of(finished)


@pytest.mark.parametrize("attempt", range(10))
def test_a_run_killed_at_a_random_moment_resumes_to_the_same_files(farm_model, world, tmp_path, finished, attempt):
    command = [sys.executable, "-m", "alignbench", "evaluate", str(farm_model), "--tasks", TASKS]
    command += ["--data-dir", str(world), "--out", str(tmp_path)]
    process = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    # loading takes most of the time: the moment is drawn from when the work itself is under way
    for line in process.stderr:
        if "documents" in line:
            break
    time.sleep(random.Random(attempt).uniform(0, 0.12))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert evaluate(farm_model, world, tmp_path).returncode == 0
    assert files_of(tmp_path) == files_of(finished)


def test_work_with_another_setting_is_not_reused(farm_model, world, tmp_path):
    def folders(*more: object) -> set[str]:
        done = run(
            "evaluate", farm_model, "--tasks", "hellaswag", "--data-dir", world, "--out", tmp_path, *more
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "already finished" not in done.stderr
        return {str(path.parent) for path in tmp_path.rglob("result.json")}

    first = folders()
    for more in (
        ["--shots", 2],
        ["--limit", 5],
        ["--limit", 5, "--seed", 1],
        ["--dtype", "bfloat16"],
        ["--token-budget", 64],
    ):
        now = folders(*more)
        assert len(now) == len(first) + 1
        first = now


def test_changed_weights_or_data_are_another_run(farm_model, world, tmp_path):
    model = shutil.copytree(farm_model, tmp_path / "model")
    data = shutil.copytree(world, tmp_path / "data")
    out = tmp_path / "out"
    arguments = ("evaluate", model, "--tasks", "hellaswag", "--data-dir", data, "--out", out)
    assert run(*arguments).returncode == 0
    weights = load_file(model / "model.safetensors")
    save_file({name: weight * 1.01 for name, weight in weights.items()}, model / "model.safetensors", {"format": "pt"})
    assert "already finished" not in run(*arguments).stderr
    assert len(list(out.iterdir())) == 2
    file = data / "hellaswag" / "hellaswag_val.jsonl"
    file.write_text(file.read_text().replace("Ann", "Anna"))
    assert "already finished" not in run(*arguments).stderr
    assert len(list(out.glob("*/hellaswag-*"))) == 3


def test_several_checkpoints_share_a_table(farm_model, world, tmp_path):
    other = shutil.copytree(farm_model, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file({name: weight * 0.5 for name, weight in weights.items()}, other / "model.safetensors", {"format": "pt"})
    done = run(
        "evaluate", farm_model, other, "--tasks", "winogender", "--data-dir", world, "--out", tmp_path / "out"
    )  # fmt: skip
    assert {line.split("\t")[0] for line in done.stdout.splitlines()[1:] if "\t" in line} == {farm_model.name, "other"}


def test_two_runs_at_once_cannot_corrupt_a_folder(farm_model, world, tmp_path, finished):
    command = [sys.executable, "-m", "alignbench", "evaluate", str(farm_model), "--tasks", TASKS]
    command += ["--data-dir", str(world), "--out", str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0 or (process.returncode == 2 and "another alignbench process" in stderr)
    assert any(process.returncode == 0 for process in both)
    assert evaluate(farm_model, world, tmp_path).returncode == 0
    assert files_of(tmp_path).keys() == files_of(finished).keys()


class TestMistakes:
    """Each is one clear line and exit code 2, and loses nothing."""

    def test_unknown_task(self, farm_model, world, tmp_path):
        done = run("evaluate", farm_model, "--tasks", "hellaswg", "--data-dir", world, "--out", tmp_path)
        assert_one_line_error(done, "unknown task 'hellaswg'", "did you mean hellaswag")

    def test_missing_checkpoint_folder(self, world, tmp_path):
        done = evaluate(tmp_path / "none", world, tmp_path)
        assert_one_line_error(done, "no such folder", str(tmp_path / "none"))

    def test_a_hub_id_without_a_network(self, world, tmp_path):
        done = evaluate("nobody/nothing", world, tmp_path, env={"HF_HOME": str(tmp_path / "hub")})
        assert_one_line_error(done, "nobody/nothing", "local folder")

    def test_no_config(self, farm_model, world, tmp_path):
        model = shutil.copytree(farm_model, tmp_path / "model")
        (model / "config.json").unlink()
        assert_one_line_error(evaluate(model, world, tmp_path), "no config.json", str(model))

    def test_pickled_weights_only(self, farm_model, world, tmp_path):
        model = shutil.copytree(farm_model, tmp_path / "model")
        (model / "model.safetensors").rename(model / "pytorch_model.bin")
        assert_one_line_error(evaluate(model, world, tmp_path), "pickled", "safetensors")

    def test_truncated_weights(self, farm_model, world, tmp_path):
        model = shutil.copytree(farm_model, tmp_path / "model")
        file = model / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1000])
        assert_one_line_error(evaluate(model, world, tmp_path), "truncated", "model.safetensors")

    def test_custom_code_without_consent(self, farm_model, world, tmp_path):
        model = shutil.copytree(farm_model, tmp_path / "model")
        config = json.loads((model / "config.json").read_text())
        config["auto_map"] = {"AutoModelForCausalLM": "evil.Model"}
        (model / "config.json").write_text(json.dumps(config))
        (model / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
        assert_one_line_error(evaluate(model, world, tmp_path), "--trust-remote-code")
        assert not (tmp_path / "ran").exists()

    def test_a_corrupt_data_row_is_named_by_file_and_line(self, farm_model, world, tmp_path):
        data = shutil.copytree(world, tmp_path / "data")
        file = data / "hellaswag" / "hellaswag_val.jsonl"
        lines = file.read_text().splitlines()
        lines[4] = lines[4][:40]
        file.write_text("\n".join(lines))
        done = run("evaluate", farm_model, "--tasks", "hellaswag", "--data-dir", data, "--out", tmp_path / "out")
        assert_one_line_error(done, f"{file}:5")

    def test_no_network_and_no_local_data(self, farm_model, tmp_path):
        done = run(
            "evaluate", farm_model, "--tasks", "hellaswag", "--out", tmp_path,
            env={"ALIGNBENCH_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hub")},
        )  # fmt: skip
        assert_one_line_error(done, "hellaswag", "Rowan/hellaswag", "--data-dir")

    def test_a_missing_data_folder(self, farm_model, tmp_path):
        assert_one_line_error(evaluate(farm_model, tmp_path / "none", tmp_path), "none")

    def test_unwritable_output(self, farm_model, world, tmp_path):
        (tmp_path / "out").write_text("a file, not a folder")
        assert_one_line_error(evaluate(farm_model, world, tmp_path / "out"), "cannot be written")

    def test_a_full_disk_keeps_what_was_computed_and_the_next_run_goes_on(self, farm_model, world, tmp_path, finished):
        # a limit on the size of a file is what a disk that fills up looks like to a program
        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))

        done = evaluate(farm_model, world, tmp_path, preexec_fn=limit)
        assert_one_line_error(done, "cannot be written", "run the same command again")
        kept = [line for file in tmp_path.rglob("documents*.jsonl") for line in file.read_bytes().splitlines()]
        assert len(kept) > 5
        assert evaluate(farm_model, world, tmp_path).returncode == 0
        assert files_of(tmp_path) == files_of(finished)

    def test_settings_that_make_no_sense(self, farm_model, world, tmp_path):
        assert_one_line_error(evaluate(farm_model, world, tmp_path, "--limit", 0), "limit 0")
        assert_one_line_error(evaluate(farm_model, world, tmp_path, "--dtype", "int3"), "int3")
        assert_one_line_error(evaluate(farm_model, world, tmp_path, "--device", "cuda:9"), "cuda:9")
        done = run(
            "evaluate", farm_model, "--tasks", "winogender", "--shots", 3, "--data-dir", world, "--out", tmp_path
        )  # fmt: skip
        assert_one_line_error(done, "takes --shots")


def test_a_model_full_of_nan_gets_no_score_at_all(farm_model, world, tmp_path):
    model = shutil.copytree(farm_model, tmp_path / "nan")
    weights = load_file(model / "model.safetensors")
    save_file(
        {name: weight * float("nan") for name, weight in weights.items()}, model / "model.safetensors", {"format": "pt"}
    )
    done = evaluate(model, world, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line][1:]
    assert lines
    assert {line[3] for line in lines} == {"–"}
    assert "20 of 20 documents unscored: the log-probability is nan" in done.stdout


def test_a_document_longer_than_the_window_is_unscored_and_counted(farm_model, world, tmp_path):
    data = shutil.copytree(world, tmp_path / "data")
    file = data / "hellaswag" / "hellaswag_val.jsonl"
    first, *rest = file.read_text().splitlines()
    row = json.loads(first)
    row["ctx_a"] = "word " * 2000
    file.write_text("\n".join([json.dumps(row), *rest]))
    done = run("evaluate", farm_model, "--tasks", "hellaswag", "--data-dir", data, "--out", tmp_path / "out", "--json")
    (result,) = json.loads(done.stdout)
    task = result["results"][0]
    assert (task["n"], task["n_scored"]) == (36, 35)
    (reason,) = task["unscored"]
    assert re.fullmatch(r"4\d\d\d tokens do not fit the model's window of 512", reason)


def test_a_tokenizer_without_a_pad_token_works(farm_model):
    assert "pad_token" not in json.loads((farm_model / "tokenizer_config.json").read_text())


def test_help_answers_without_importing_torch():
    probe = (
        "import sys, typer.testing, alignbench.cli.app as c; r = typer.testing.CliRunner().invoke(c.app, ['--help']); "
        "assert r.exit_code == 0; "
        "print([m for m in ('torch', 'transformers', 'datasets', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tasks_are_listed_with_direction_and_chance():
    done = run("tasks")
    assert done.returncode == 0
    assert any(
        line.startswith("hellaswag\t1\t") and line.endswith("higher\t0.25\t–") for line in done.stdout.splitlines()
    )


@pytest.mark.needs_models
def test_a_real_model_prefers_real_endings_more_than_chance_would(tinystories, data_dir, tmp_path):
    done = run(
        "evaluate", tinystories, "--tasks", "hellaswag", "--limit", 200,
        "--data-dir", data_dir, "--out", tmp_path, "--json",
    )  # fmt: skip
    (result,) = json.loads(done.stdout)
    metrics = {metric["metric"]: metric for metric in result["results"][0]["metrics"]}
    assert metrics["acc_norm"]["n"] + metrics["acc_norm"]["n_unscored"] == 200
    assert 0.15 < metrics["acc_norm"]["value"] < 0.45
