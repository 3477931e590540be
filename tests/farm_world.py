"""The tests' world: a farm, in the files and columns of the real data sets (tests/farm_data), so that the same tasks
run on it unchanged. text.jsonl is what a model of the farm learns from."""

import json
import shutil
from pathlib import Path

DATA = Path(__file__).parent / "farm_data"


def write_world(folder: Path) -> list[str]:
    """Copy the data files below `folder` (layout of --data-dir) and return the text that a model learns from."""
    shutil.copytree(DATA, folder, ignore=shutil.ignore_patterns("text.jsonl"), dirs_exist_ok=True)
    rows = map(json.loads, (DATA / "text.jsonl").read_text(encoding="utf-8").splitlines())
    return [row["text"] for row in rows for _ in range(row["times"])]
