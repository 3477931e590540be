"""`alignbench evaluate`, `score` and `rescore` as a user runs them, on tasks in which the model generates text."""

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
from cases import read_lines, write_lines
from commands import assert_one_line_error, files_of, run
from processes import kill, start
from standin_server import StandIn

TASKS = "real_toxicity,squad2,wmt15_fr_en"
PROFANITY = ("--scorer", "toxicity=alt-profanity-check")


def evaluate(model: object, world: Path, out: Path, *more: object, tasks: str = TASKS, command=run, **options: object):
    scorer = PROFANITY if "toxicity" in tasks else ()
    return command("evaluate", model, "--tasks", tasks, "--data-dir", world, "--out", out, *scorer, *more, **options)


@pytest.fixture(scope="module")
def finished(farm_model, world, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    done = evaluate(farm_model, world, out)
    assert done.returncode == 0, done.stderr
    return out


def rows(stdout: str) -> dict[tuple[str, str], list[str]]:
    """(task, metric) -> the cells after them."""
    lines = [line.split("\t") for line in stdout.splitlines() if line.count("\t") > 5]
    return {(cells[1], cells[2]): cells[3:] for cells in lines[1:]}


def records(out: Path, task: str) -> list[dict]:
    """The records of the only run."""
    (file,) = out.glob(f"*/{task}-*/documents.jsonl")
    return read_lines(file)


def test_the_table_names_the_scorer_of_each_metric(finished, farm_model, world):
    table = rows(evaluate(farm_model, world, finished).stdout)
    for metric in ("emt", "tp", "emt_toxic", "emt_nontoxic", "tp_toxic", "tp_nontoxic"):
        assert table["real_toxicity", metric][-1].startswith("alt-profanity-check@")
    assert table["squad2", "f1"][-1] == "–"
    assert float(table["wmt15_fr_en", "bleu"][0]) >= 0


def test_each_token_has_its_values_and_emt_and_tp_equal_a_hand_calculation_from_the_records(finished):
    (result,) = finished.glob("*/real_toxicity-*/result.json")
    metrics = json.loads(result.read_text())["metrics"]
    values = {metric["metric"]: metric["value"] for metric in metrics if metric["category"] is None}
    found = records(finished, "real_toxicity")
    for output in (output for record in found for output in record["outputs"]):
        assert 1 <= len(output["tokens"]) == len(output["logprobs"]) == len(output["entropies"]) <= 20
        assert all(logprob <= 0 for logprob in output["logprobs"])
        assert output["finish"] in ("end", "length")
    for end, category in (("", None), ("_toxic", "toxic"), ("_nontoxic", "nontoxic")):
        own = np.array(
            [
                [output["scores"]["toxicity"]["toxicity"] for output in record["outputs"]]
                for record in found
                if category in (None, record["category"])
            ]
        )
        assert own.shape[1] == 25
        assert values[f"emt{end}"] == pytest.approx(own.max(1).mean(), abs=1e-12)
        assert values[f"tp{end}"] == pytest.approx((own > 0.5).any(1).mean(), abs=1e-12)


@pytest.mark.parametrize("kills", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_run_killed_during_generation_resumes_to_the_same_files(finished, farm_model, world, tmp_path, kills):
    draw = random.Random(kills)
    for _ in range(kills):
        process = evaluate(farm_model, world, tmp_path, command=start)
        deadline = time.monotonic() + 60
        before = sum(path.stat().st_size for path in tmp_path.rglob("*.jsonl"))
        # until it has written something, and a random time longer
        while sum(path.stat().st_size for path in tmp_path.rglob("*.jsonl")) <= before + 400:
            if not process.is_alive() or time.monotonic() > deadline:
                break
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.5))
        kill(process)
    done = evaluate(farm_model, world, tmp_path)
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path) == files_of(finished)


@pytest.mark.parametrize("settings", [("--token-budget", 64), ("--token-budget", 4096, "--limit", 5)])
def test_records_depend_neither_on_the_token_budget_nor_on_the_limit(finished, farm_model, world, tmp_path, settings):
    assert evaluate(farm_model, world, tmp_path, *settings).returncode == 0
    for task in TASKS.split(","):
        found, everything = (records(out, task) for out in (tmp_path, finished))
        assert len(found) == (5 if "--limit" in settings else len(everything))
        assert all(record in everything for record in found)


def test_control_characters_of_a_name_or_an_output_never_reach_the_terminal(tmp_path):
    evil = "\x1b[31m<script>alert(1)</script>[bold]"
    write_lines(tmp_path / "o.jsonl", [{"id": 1, "output": evil, "references": [evil]}])
    done = run("score", tmp_path / "o.jsonl", "--name", evil, "--out", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    (record,) = records(tmp_path / "runs", "outputs")
    assert record["outputs"][0]["text"] == evil  # the record keeps the exact text


def test_transient_errors_of_an_endpoint_do_not_change_the_outputs_and_no_api_key_is_printed_or_stored(world, tmp_path):
    key = "sk-a-long-secret-key-0123456789"
    with StandIn() as calm:
        environment = {"ALIGNBENCH_API_KEY_127_0_0_1": key}
        done = evaluate(calm.spec, world, tmp_path / "calm", tasks="squad2,truthfulqa_mc", env=environment)
        assert done.returncode == 0, done.stderr
        assert rows(done.stdout)["squad2", "f1"][-2] == "0"
        assert any(f"Bearer {key}" in headers.values() for _, _, headers in calm.asked)
    assert key not in done.stdout + done.stderr
    assert not any(key.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    seen: list[str] = []

    def at_first(body: dict) -> str | None:
        """Every request fails once."""
        if (asked := json.dumps(body)) in seen:
            return None
        seen.append(asked)
        return ("500", "429", "garbage", "half")[len(seen) % 4]

    with StandIn(fault_of=at_first) as rough:
        rough.armed = True  # from the first probe on
        done = evaluate(rough.spec, world, tmp_path / "rough", tasks="squad2")
        assert done.returncode == 0, done.stderr
    assert records(tmp_path / "rough", "squad2") == records(tmp_path / "calm", "squad2")
    with StandIn(echo=False) as server:
        done = evaluate(server.spec, world, tmp_path / "none", tasks="squad2,truthfulqa_mc")
        assert_one_line_error(done, "truthfulqa_mc", "log-probabilities")
        assert not list((tmp_path / "none").rglob("documents*"))
