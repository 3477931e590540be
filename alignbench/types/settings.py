"""The settings of `alignbench evaluate`, declared once: for the command line, for `--config` files, and for Python."""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class EngineSettings:
    """How models are loaded and run. Each field is an option of the command (its text is the help), a key of a
    `--config` file, and a keyword of `alignbench.evaluate` and of `find_model`."""

    engine: Annotated[str, "local, vllm, or auto (vllm on a CUDA GPU for generated text if installed, else local)."] = (
        "auto"
    )
    dtype: Annotated[
        str, "auto (as in the checkpoint; float32 on a CPU without bfloat16), float32, bfloat16, float16, float64."
    ] = "auto"
    device: Annotated[str, "auto, cpu, cuda, cuda:1, mps."] = "auto"
    token_budget: Annotated[int | None, "Padded tokens per batch; determined automatically by default."] = None
    concurrency: Annotated[int, "Most requests to an endpoint at once."] = 8
    timeout: Annotated[float, "Seconds for a reply of an endpoint."] = 120.0
    retries: Annotated[int, "Repetitions of a request to an endpoint without a reply."] = 6
    allow_server_sampling: Annotated[bool, "Measure diversity even if an endpoint may change the distribution."] = False
    trust_remote_code: Annotated[bool, "Run Python code from the checkpoint."] = False
    device_map: Annotated[
        str | None, "auto: spread a model that does not fit a device over GPUs, memory and disk (local engine)."
    ] = None
    merge_adapter: Annotated[bool, "Add a LoRA adapter to the weights instead of applying it apart."] = False
    gpus: Annotated[int | None, "GPUs that vLLM spreads a model over (tensor, then pipeline parallel)."] = None
    max_model_len: Annotated[int | None, "Maximum sequence length of vLLM in tokens; default: what fits."] = None
    gpu_memory_utilization: Annotated[float | None, "Share of GPU memory for vLLM; default: its own."] = None
