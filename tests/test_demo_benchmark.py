"""The tables of benchmarks/demo.py, and the runs that a demo's labelers read."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from alignbench.demo.label import label_runs
from stages import checkpoint, refusal, write_rows

from alignbench.demo.write import write_world
from alignbench.models.checkpoint import find_checkpoint

REPOSITORY = Path(__file__).parent.parent


def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("benchmark_demo", REPOSITORY / "benchmarks" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_an_interval_says_of_how_many_seeds_it_is_where_some_have_no_number() -> None:
    interval = benchmark().interval
    assert interval([1.0, 3.0], 1) == "2.0 ± 12.7", "t(0.975, 1) = 12.706, standard error 1"
    assert interval([1.0, float("nan"), 3.0], 1) == "2.0 ± 12.7 (n = 2)"
    assert interval([float("nan"), 3.0], 1) == "3.0 (n = 1)"
    assert interval([3.0], 1) == "3.0"
    assert interval([float("nan")], 1) == "–"


def test_the_benchmarks_table_reads_the_last_run_of_a_stage_and_the_runs_of_todays_weights(tmp_path: Path) -> None:
    bench, base = benchmark(), Path(checkpoint(tmp_path / "base"))
    weights = find_checkpoint(str(base)).weights_sha256
    won = {"base": 0.25, "ppo": 0.75, "ppo-ptx": 0.7}
    demos = [tmp_path / "seed-0", tmp_path / "seed-1"]
    for demo in demos:
        for model in bench.MODELS:
            folder = demo / model if model == "base" else demo / model / "final"
            shutil.copytree(base, folder)
            for run_of, sha, value in ((f"{model}-1", weights, won.get(model)), (f"{model}-2", "old", 0.1)):
                task = demo / "runs" / run_of / "win_rate-1"
                task.mkdir(parents=True)
                description = {"model": {"name": model, "weights_sha256": sha}}
                (task.parent / "run.json").write_text(json.dumps(description))
                metrics = [{"metric": "win_rate", "value": value, "category": None}]
                if value is not None:
                    (task / "result.json").write_text(json.dumps({"task": "win_rate", "metrics": metrics}))
        (demo / "reward").mkdir()
        write_rows(demo / "reward" / "metrics.jsonl", [{"accuracy": 0.5}, {"accuracy": 0.7}])
        (demo / "logs").mkdir()
        times = [("world", 9.0, 9.0), ("world", 3.0, 2.0), ("base", 100.0, 180.0)]
        rows = [{"stage": stage, "seconds": wall, "cpu_seconds": cpu} for stage, wall, cpu in times]
        write_rows(demo / "logs" / "times.jsonl", rows)
    write_rows(demos[0] / "logs" / "goes.jsonl", [{"seconds": 101.0, "finished": True}])
    write_rows(
        demos[1] / "logs" / "goes.jsonl", [{"seconds": 5.0, "finished": False}, {"seconds": 98.0, "finished": True}]
    )
    table = bench.tables(demos).splitlines()
    assert "| win rate against SFT | higher | 0.250 ± 0.000 | – | 0.750 ± 0.000 | 0.700 ± 0.000 |" in table
    # sft − base, ppo − sft, ppo-ptx − sft; PPO-ptx and PPO never met
    assert "| win rate − 0.5 | higher | 0.250 ± 0.000 | 0.250 ± 0.000 | 0.200 ± 0.000 | – |" in table
    assert "| world | 3 ± 0 | 2 ± 0 |" in table
    assert "| sum of all stages | 103 ± 0 | 182 ± 0 |" in table
    assert "| the whole demo, stages side by side | 101 (n = 1) | |" in table, "one of them was stopped on its way"


def test_two_runs_of_one_name_are_not_labelled_as_one(tmp_path: Path) -> None:
    write_world(tmp_path / "world")
    for run_of in ("sft-1", "sft-2"):
        task = tmp_path / "runs" / run_of / "answers-1"
        task.mkdir(parents=True)
        (task.parent / "run.json").write_text(json.dumps({"model": {"name": "sft"}}))
        (task / "task.json").write_text(json.dumps({"task": "answers"}))
        (task / "result.json").write_text(json.dumps({"task": "answers", "metrics": []}))
    line = refusal(lambda: label_runs(tmp_path / "runs", tmp_path / "world", tmp_path / "labels.jsonl"))
    assert "sft-1" in line
    assert "sft-2" in line
    assert not (tmp_path / "labels.jsonl").exists()
