"""Tables of test cases, one file each in tests/cases/."""

from pathlib import Path
from typing import Any

import yaml


def cases(name: str) -> Any:
    return yaml.safe_load((Path(__file__).parent / "cases" / f"{name}.yaml").read_text("utf-8"))
