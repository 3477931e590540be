"""The tables of benchmarks/demo.py, and the runs that a demo's labelers read."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from demo_world import written
from stages import checkpoint, refusal, write_rows

from alignbench.demo.labelers import label_runs
from alignbench.models.checkpoint import find_checkpoint

NAN = float("nan")


@pytest.fixture(scope="module")
def bench() -> Any:
    file = Path(__file__).parent.parent / "benchmarks" / "demo.py"
    spec = importlib.util.spec_from_file_location("benchmark_demo", file)
    assert spec and spec.loader  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_interval_gives_the_number_of_seeds_if_some_have_no_value(bench: Any) -> None:
    found = [bench.interval(values, 1) for values in ([1.0, 3.0], [1.0, NAN, 3.0], [NAN, 3.0], [3.0], [NAN])]
    # t(0.975, 1) = 12.706, standard error 1
    assert found == ["2.0 ± 12.7", "2.0 ± 12.7 (n = 2)", "3.0 (n = 1)", "3.0", "–"]


def write_task(task: Path, name: str, model: dict[str, str], value: float | None) -> None:
    task.mkdir(parents=True)
    (task.parent / "run.json").write_text(json.dumps({"model": model}))
    (task / "task.json").write_text(json.dumps({"task": name}))
    metrics = [{"metric": name, "value": value, "category": None}]
    if value is not None:
        (task / "result.json").write_text(json.dumps({"task": name, "metrics": metrics}))


def test_the_table_reads_the_last_run_of_a_stage_and_the_runs_of_the_current_weights(
    bench: Any, tmp_path: Path
) -> None:
    base = Path(checkpoint(tmp_path / "base"))
    weights, won = find_checkpoint(str(base)).weights_sha256, {"base": 0.25, "ppo": 0.75, "ppo-ptx": 0.7}
    went = {"seed-0": [(101.0, True)], "seed-1": [(5.0, False), (98.0, True)]}
    for name, goes in went.items():
        demo = tmp_path / name
        for model in bench.MODELS:
            shutil.copytree(base, demo / model / "final")
            for run_of, sha, value in ((f"{model}-1", weights, won.get(model)), (f"{model}-2", "old", 0.1)):
                description = {"name": model, "weights_sha256": sha}
                write_task(demo / "runs" / run_of / "win_rate-1", "win_rate", description, value)
        for folder in ("reward", "logs"):
            (demo / folder).mkdir()
        write_rows(demo / "reward" / "metrics.jsonl", [{"accuracy": 0.5}, {"accuracy": 0.7}])
        times = [("world", 9.0, 9.0), ("world", 3.0, 2.0), ("base", 100.0, 180.0)]
        rows = [{"stage": stage, "seconds": wall, "cpu_seconds": cpu} for stage, wall, cpu in times]
        write_rows(demo / "logs" / "times.jsonl", rows)
        write_rows(demo / "logs" / "goes.jsonl", [{"seconds": wall, "finished": done} for wall, done in goes])
    assert set(bench.tables([tmp_path / name for name in went]).splitlines()) > {
        "| win rate against SFT | higher | 0.250 ± 0.000 | – | 0.750 ± 0.000 | 0.700 ± 0.000 |",
        # sft − base, ppo − sft, ppo-ptx − sft; PPO-ptx and PPO never met
        "| win rate − 0.5 | higher | 0.250 ± 0.000 | 0.250 ± 0.000 | 0.200 ± 0.000 | – |",
        "| world | 3 ± 0 | 2 ± 0 |",
        "| sum of all stages | 103 ± 0 | 182 ± 0 |",
        "| the whole demo, stages side by side | 101 (n = 1) | |",  # one of them was stopped
    }


def test_two_runs_of_one_name_are_not_labelled_as_one(tmp_path: Path) -> None:
    for run_of in ("sft-1", "sft-2"):
        write_task(tmp_path / run_of / "answers-1", "answers", {"name": "sft"}, 0.0)
    line = refusal(lambda: label_runs(tmp_path, written(), tmp_path / "labels.jsonl"))
    assert "sft-1" in line
    assert "sft-2" in line
    assert not (tmp_path / "labels.jsonl").exists()
