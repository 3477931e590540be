"""The model that a command names, before it is loaded: a checkpoint for the local engine or vLLM, or an endpoint."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alignbench.errors import AlignbenchError
from alignbench.models.checkpoint import find_checkpoint
from alignbench.models.load import load_engine, resolve_device, spread
from alignbench.shards import SINGLE_PROCESS, Shard
from alignbench.types.engine import Engine

DTYPES = ("float64", "float32", "float16", "bfloat16")
CPU_FLAGS = Path("/proc/cpuinfo")
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # flags of processors (x86, Arm) with instructions for it
ENGINES = ("local", "vllm")
ABOUT = ("parameters", "lineage", "training", "base")
# a folder may be moved, another dtype may be chosen, and the rest follows from the weights or is only a record
NOT_IDENTITY = ("path", "dtype", *ABOUT)


@dataclass(frozen=True)
class Model:
    """A model that has been found, and how to load it.

    identity: everything that its results depend on; part of the run folder's name
    scores: it supports log-likelihoods of given text; entropies: and the entropies of its tokens
    open: loads it; about: what else run.json records of a checkpoint
    """

    name: str
    identity: dict[str, Any]
    chat_template: bool
    scores: bool
    entropies: bool
    open: Callable[[], Engine]
    about: Mapping[str, Any] = field(default_factory=dict)


def find_model(
    spec: str,
    *,
    engine: str = "local",
    dtype: str = "auto",
    device: str = "auto",
    token_budget: int | None = None,
    concurrency: int = 8,
    trust_remote_code: bool = False,
    template_kwargs: Mapping[str, Any] | None = None,
    device_map: str | None = None,
    merge_adapter: bool = False,
    gpus: int | None = None,
    max_model_len: int | None = None,
    gpu_memory_utilization: float | None = None,
    shard: Shard = SINGLE_PROCESS,
    notify: Callable[[str], None] | None = None,
) -> Model:
    """Find `spec`: a local folder, a Hub id (owner/name, owner/name@revision), or an endpoint
    (https://host/v1#model). Raises AlignbenchError for anything that would fail or be unsafe later."""
    of_vllm: dict[str, Any] = {
        "gpus": gpus,
        "max_model_len": max_model_len,
        "gpu_memory_utilization": gpu_memory_utilization,
    }
    if spec.startswith(("http://", "https://")):
        from alignbench.models.remote.endpoint import connect

        _refuse_options(spec, merge_adapter=merge_adapter, **of_vllm, device_map=device_map)
        endpoint = connect(spec, concurrency=concurrency, template_kwargs=template_kwargs, notify=notify)
        identity = {"model": endpoint.identity(), "engine": {"kind": "endpoint"}}
        return Model(endpoint.name, identity, endpoint.chat_template, endpoint.scores, False, lambda: endpoint)
    if engine not in ENGINES:
        raise AlignbenchError(f"engine {engine!r}: choose {' or '.join(ENGINES)}, or give the address of an endpoint")
    if dtype not in ("auto", *DTYPES):
        raise AlignbenchError(f"dtype {dtype!r}: choose auto, {', '.join(DTYPES)}")
    if token_budget is not None and token_budget < 1:
        raise AlignbenchError(f"token budget {token_budget}: must be at least 1")
    found = resolve_device(device)
    placement = None
    if engine == "vllm":
        _refuse_options("--engine vllm", device_map=device_map, merge_adapter=merge_adapter)
        _check_vllm(gpus, max_model_len, gpu_memory_utilization, shard)
    else:
        _refuse_options("--engine local", **of_vllm)
        if device_map is not None:
            if device_map != "auto":
                raise AlignbenchError(f"device map {device_map!r}: the only one is auto")
            placement = spread(found, shard)
    checkpoint = find_checkpoint(spec, trust_remote_code=trust_remote_code)
    if merge_adapter and checkpoint.base is None:
        raise AlignbenchError(f"checkpoint {checkpoint.name}: it has no adapter for --merge-adapter")
    chosen = checkpoint.dtype if dtype == "auto" else dtype
    if (dtype, chosen, engine, found) == ("auto", "bfloat16", "local", "cpu") and not has_bfloat16():
        chosen = "float32"
        if notify is not None:
            notify(f"{checkpoint.name}: float32, since this CPU has no bfloat16 and would be slow (or set --dtype)")
    if chosen not in DTYPES:
        raise AlignbenchError(f"checkpoint {checkpoint.name}: dtype {chosen} is not supported; set --dtype")
    settings = {"kind": engine, "dtype": chosen, "device": found, "token_budget": token_budget or "auto"}
    more = {"device_map": device_map, "merge_adapter": merge_adapter, "max_model_len": max_model_len, "gpus": gpus}
    settings |= {name: value for name, value in more.items() if value and (name, value) != ("gpus", 1)}

    def load() -> Engine:
        if engine == "vllm":
            from alignbench.models.remote.vllm import load_vllm

            own = {name: value for name, value in of_vllm.items() if value is not None}
            return load_vllm(checkpoint, dtype=chosen, template_kwargs=template_kwargs, **own)
        place = f"cuda:{shard.local_rank}" if found == "cuda" and shard.world > 1 else found
        options: dict[str, Any] = {"notify": notify, "template_kwargs": template_kwargs, "merge": merge_adapter}
        options |= {"token_budget": token_budget, "placement": placement}
        return load_engine(checkpoint, dtype=chosen, device=place, **options)

    fields = asdict(checkpoint)
    if checkpoint.base is not None:
        fields["base"] = {name: fields["base"][name] for name in ("name", "revision", "weights_sha256")}
    identity = {"model": {name: fields[name] for name in fields if name not in NOT_IDENTITY}, "engine": settings}
    about = {name: fields[name] for name in ABOUT}
    chat = checkpoint.chat_template_sha256 is not None
    return Model(checkpoint.name, identity, chat, True, engine == "local", load, about)


def _refuse_options(why: str, **options: Any) -> None:
    """Raise AlignbenchError for an option that would have no effect."""
    for name, value in options.items():
        if value is not None and value is not False:
            raise AlignbenchError(f"{why}: --{name.replace('_', '-')} has no effect on it")


def _check_vllm(gpus: int | None, max_model_len: int | None, memory: float | None, shard: Shard) -> None:
    """Raise AlignbenchError for options that vLLM cannot fulfil on this machine."""
    import torch

    if shard.world > 1:
        raise AlignbenchError("--engine vllm runs in a single process: use --gpus N, without a launcher")
    if max_model_len is not None and max_model_len < 2:
        raise AlignbenchError(f"--max-model-len {max_model_len}: it must be at least 2 tokens")
    if memory is not None and not 0 < memory <= 1:
        raise AlignbenchError(f"--gpu-memory-utilization {memory}: it is a share, above 0 and at most 1")
    there = torch.cuda.device_count()
    if gpus is not None and (gpus < 1 or (gpus > there and gpus > 1)):
        raise AlignbenchError(f"--gpus {gpus}: this machine has {there} GPUs")


def has_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16; False where that is not known."""
    return CPU_FLAGS.is_file() and not BFLOAT16.isdisjoint(CPU_FLAGS.read_text().split())
