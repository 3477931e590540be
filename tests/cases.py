"""Tables of test cases, one file each in tests/cases/, and the JSON lines that tests write and read."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml


def cases(name: str) -> Any:
    return yaml.safe_load((Path(__file__).parent / "cases" / f"{name}.yaml").read_text("utf-8"))


def write_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def update(file: Path, **fields: Any) -> None:
    """Change fields of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
