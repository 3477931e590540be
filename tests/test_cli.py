"""`alignbench evaluate` as a user runs it, on tasks that score given choices."""

import json
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import assert_one_line_error, files_of, full_disk, run
from processes import kill, start
from safetensors.torch import load_file, save_file

import alignbench
from alignbench.models.checkpoint import find_checkpoint
from alignbench.models.load import load_engine
from alignbench.types.engine import Request

TASKS = "truthfulqa_mc,hellaswag,crows_pairs,winogender"


def evaluate(model: object, world: Path, out: Path, *more: object, tasks: str = TASKS, command=run, **options: object):
    return command("evaluate", model, "--tasks", tasks, "--data-dir", world, "--out", out, *more, **options)


def scaled_weights(model: Path, copy: Path, factor: float) -> Path:
    """A copy of a checkpoint with other weights."""
    shutil.copytree(model, copy, dirs_exist_ok=True)
    weights = load_file(model / "model.safetensors")
    scaled = {name: weight * factor for name, weight in weights.items()}
    save_file(scaled, copy / "model.safetensors", {"format": "pt"})
    return copy


@pytest.fixture(scope="module")
def finished(farm_model, world, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    done = evaluate(farm_model, world, out)
    assert done.returncode == 0, done.stderr
    return out


def test_evaluate_prints_a_row_for_every_metric_and_json_has_the_same_results(farm_model, world, finished):
    done = evaluate(farm_model, world, finished)
    assert done.returncode == 0
    lines = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    assert {(line[1], line[2]) for line in lines[1:]} >= {
        ("truthfulqa_mc", "mc1"), ("hellaswag", "acc_norm"), ("crows_pairs", "entropy"),
        ("winogender", "gap_workforce_r"),
    }  # fmt: skip
    assert "records: " in done.stdout
    assert done.stderr.count("already finished") == 4
    (result,) = json.loads(evaluate(farm_model, world, finished, "--json").stdout)
    assert [task["task"] for task in result["results"]] == TASKS.split(",")
    mc1 = result["results"][0]["metrics"][0]
    assert mc1["low"] <= mc1["value"] <= mc1["high"]


def test_python_returns_what_the_command_writes_and_reads_it_as_a_table(farm_model, world, tmp_path, finished):
    (found,) = alignbench.evaluate([str(farm_model)], ["hellaswag"], tmp_path, data_dir=world)
    (written,) = finished.glob("*/hellaswag-*/result.json")
    value = pytest.approx(json.loads(written.read_text())["metrics"][0]["value"])
    metric = found.results[0].metrics[0]
    assert metric.value == value
    table = alignbench.read_run(written.parents[1])
    assert {"task", "id", "prompt", "outputs", "unscored", "mc1", metric.metric} <= set(table.columns)
    own = table[table["task"] == "hellaswag"]
    assert own[metric.metric].mean() == value
    assert own["mc1"].isna().all()
    with pytest.raises(alignbench.AlignbenchError, match="not a run folder"):
        alignbench.read_run(finished)


def test_a_run_records_what_computed_it(finished):
    (file,) = finished.glob("*/run.json")
    description = json.loads(file.read_text())
    model = description["model"]
    assert set(model) >= {"name", "revision", "weights_sha256", "tokenizer_sha256", "chat_template_sha256"}
    assert set(description["engine"]) == {"kind", "dtype", "device", "token_budget"}
    assert set(description["environment"]) >= {"torch", "transformers", "commit", "dirty", "alignbench"}
    task = json.loads(next(finished.glob("*/hellaswag-*/task.json")).read_text())
    assert task["data"][0]["revision"]
    assert {"seed", "limit", "shots", "version", "documents_sha256"} <= set(task)


@pytest.mark.parametrize("attempt", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 10))])
def test_a_run_killed_at_a_random_moment_resumes_to_the_same_files(farm_model, world, tmp_path, finished, attempt):
    (said := tmp_path / "said").touch()
    process = evaluate(farm_model, world, tmp_path / "out", command=start, err=said)
    # loading takes most of the time: the moment is drawn from the time after the computation has started
    while "documents" not in said.read_text() and process.is_alive():
        time.sleep(0.001)
    time.sleep(random.Random(attempt).uniform(0, 0.12))
    kill(process)
    assert evaluate(farm_model, world, tmp_path / "out").returncode == 0
    assert files_of(tmp_path / "out") == files_of(finished)


def test_results_of_another_setting_other_weights_or_other_data_are_not_reused(farm_model, world, tmp_path):
    model, data = shutil.copytree(farm_model, tmp_path / "model"), shutil.copytree(world, tmp_path / "data")
    file = data / "hellaswag" / "hellaswag_val.jsonl"
    settings = [(), ("--shots", 2), ("--limit", 5), ("--limit", 5, "--seed", 1), ("--dtype", "bfloat16")]
    for count, more in enumerate([*settings, ("--token-budget", 64), "weights", "configuration", "data"], 1):
        if more == "weights":
            scaled_weights(farm_model, model, 1.01)
        elif more == "configuration":
            config = json.loads((model / "config.json").read_text()) | {"rms_norm_eps": 10.0}
            (model / "config.json").write_text(json.dumps(config))
        elif more == "data":
            file.write_text(file.read_text().replace("Ann", "Anna"))
        done = evaluate(model, data, tmp_path / "out", *(more if isinstance(more, tuple) else ()), tasks="hellaswag")
        assert done.returncode == 0, done.stderr
        assert "already finished" not in done.stderr
        assert len(list(tmp_path.rglob("result.json"))) == count


def test_choices_are_scored_as_replies_with_template_chat_only(farm_model, world, tmp_path):
    model = shutil.copytree(farm_model, tmp_path / "model")
    (model / "chat_template.jinja").write_text(
        "Q: {{ messages[0].content }}\nA:{{ (messages[1:] or [{}])[0].content }}"
    )
    scored = {}
    for template in ("auto", "none", "chat"):
        done = evaluate(model, world, tmp_path / "out", "--template", template, tasks="hellaswag")
        assert done.returncode == 0, done.stderr
        assert ("already finished" in done.stderr) == (template == "none"), "auto is none"
        tables = {file.parent.name: file for file in tmp_path.rglob("documents.jsonl")}
        scored[template] = tables[max(tables, key=lambda name: tables[name].stat().st_mtime)]
    engine = load_engine(find_checkpoint(str(model)), dtype="float32", device="cpu")
    for template, form, space in (("auto", "{}", " "), ("chat", "Q: {}\nA:", "")):
        task = json.loads((scored[template].parent / "task.json").read_text())
        assert task["template"] == ("none" if template == "auto" else "chat")
        record = json.loads(scored[template].read_text().splitlines()[0])
        context = form.format(task["prefix"] + record["prompt"])
        requests = [Request(context, space + choice.removeprefix(" ")) for choice in record["choices"]]
        expected = dict(engine.loglikelihood(requests))
        assert record["logprobs"] == pytest.approx([expected[i].logprob for i in range(len(requests))], abs=1e-3)


def test_a_full_disk_keeps_computed_results_and_the_next_run_resumes(farm_model, world, tmp_path, finished):
    with full_disk(6_000):
        done = evaluate(farm_model, world, tmp_path)
    assert_one_line_error(done, "cannot be written", "run the same command again")
    kept = [line for file in tmp_path.rglob("documents*.jsonl") for line in file.read_bytes().splitlines()]
    assert len(kept) > 5
    assert evaluate(farm_model, world, tmp_path).returncode == 0
    assert files_of(tmp_path) == files_of(finished)


def test_models_share_a_table_and_one_whose_weights_are_nan_gets_no_score(farm_model, world, tmp_path):
    model = scaled_weights(farm_model, tmp_path / "nan", float("nan"))
    done = evaluate(model, world, tmp_path / "out", farm_model)
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line][1:]
    assert {line[0] for line in lines} == {"nan", farm_model.name}
    assert all((line[3] == "–") == (line[0] == "nan") for line in lines)
    assert "20 of 20 documents unscored: the log-probability is nan" in done.stdout


def test_help_does_not_import_heavy_libraries():
    probe = (
        "import sys, typer.testing, alignbench.cli.app as c; r = typer.testing.CliRunner().invoke(c.app, ['--help']); "
        "assert r.exit_code == 0; "
        "heavy = 'torch', 'transformers', 'datasets', 'pandas', 'scipy', 'numpy', 'pydantic'; "
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_version_and_the_tasks_with_direction_and_chance_are_printed():
    assert run("--version").stdout == f"alignbench {alignbench.__version__}\n"
    done = run("tasks", "hellaswag")
    assert done.returncode == 0
    assert re.search(r"^acc\tproportion\thigher\t0\.25\t", done.stdout, re.MULTILINE), done.stdout
