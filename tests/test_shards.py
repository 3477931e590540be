"""A run split over several processes writes the files of one process."""

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from alignbench.cli.app import app


def files(folder: Path) -> dict[str, bytes]:
    """Contents by path, without those that hold the time, or the state of the machine."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in ("log.jsonl", ".lock", "run.json")
    }


def test_two_processes_write_the_files_and_the_output_of_one(tmp_path, world, farm_model):
    command = ["evaluate", str(farm_model), "--tasks", "real_toxicity,truthfulqa_mc,squad2", "--data-dir", str(world)]
    command += ["--scorer", "toxicity=alt-profanity-check", "--device", "cpu", "--out"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    two = subprocess.run(
        [*launch, "-m", "alignbench", *command, str(tmp_path / "two")], capture_output=True, text=True, env=environment,
        timeout=300,
    )  # fmt: skip
    assert two.returncode == 0, two.stderr[-3000:]
    one = CliRunner().invoke(app, [*command, str(tmp_path / "one")])
    assert one.exit_code == 0, one.output
    found = files(tmp_path / "two")
    assert found == files(tmp_path / "one")
    assert sum(name.endswith("result.json") for name in found) == 3
    assert not any("partial" in name for name in found)
    assert two.stdout.replace("/two/", "/one/") == one.stdout  # only the first process prints
