"""The settings of `alignbench evaluate`, declared once: for the command line, for `--config` files, and for Python."""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class EngineSettings:
    """How models are loaded and run. Each field is an option of the command (its text is the help), a key of a
    `--config` file, and a keyword of `alignbench.evaluate` and of `find_model`."""

    engine: Annotated[str, "local or vllm."] = "local"
    dtype: Annotated[
        str, "auto (as in the checkpoint; float32 on a CPU without bfloat16), float32, bfloat16, float16, float64."
    ] = "auto"
    device: Annotated[str, "auto, cpu, cuda, cuda:1, mps."] = "auto"
    token_budget: Annotated[int | None, "Padded tokens per batch; determined automatically by default."] = None
    concurrency: Annotated[int, "Simultaneous requests to an endpoint."] = 8
    trust_remote_code: Annotated[bool, "Run Python code from the checkpoint."] = False
