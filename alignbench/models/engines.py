"""What the engines can do, from engines.yaml, and which of them are on this machine. Imports neither torch nor vLLM."""

import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import yaml

COLUMNS = {
    "logprobs": "log-probabilities", "entropies": "entropies", "n": "n", "seeds": "seeds", "resume": "resume",
    "lora": "LoRA", "parallel": "parallel",
}  # fmt: skip


def engines() -> list[dict[str, str]]:
    """A row for each engine: its name, how to name it in a command, `COLUMNS`, and `here`."""
    rows: list[dict[str, str]] = yaml.safe_load(Path(__file__).with_name("engines.yaml").read_text("utf-8"))
    return [row | {"here": _here(row.get("requires", ""), row.get("program", ""))} for row in rows]


def gpus() -> list[str]:
    """Names and memory of NVIDIA's GPUs, as `nvidia-smi` lists them; empty without it."""
    command = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []


def _here(package: str, program: str) -> str:
    """The version of a package, "yes" for one without a version or for a program, "–" for what is not found."""
    if not package:
        return "yes" if shutil.which(program) else "–"
    try:
        return version(package)
    except PackageNotFoundError:
        return "yes" if find_spec(package) else "–"
