"""The model that a command names, before it is loaded: a checkpoint for the local engine or vLLM, or an endpoint."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alignbench.errors import AlignbenchError
from alignbench.models.checkpoint import find_checkpoint
from alignbench.models.load import load_engine, load_tokenizer, resolve_device, spread
from alignbench.plugins import plugins
from alignbench.shards import SINGLE_PROCESS, Shard
from alignbench.types.engine import Engine
from alignbench.types.settings import EngineSettings

DTYPES = ("float64", "float32", "float16", "bfloat16")
CPU_FLAGS = Path("/proc/cpuinfo")
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # flags of processors (x86, Arm) with instructions for it
ENGINES = ("auto", "local", "vllm")
ABOUT = ("parameters", "lineage", "training", "base")
# a folder may be moved, another dtype may be chosen, and the rest follows from the weights or is only a record
NOT_IDENTITY = ("path", "dtype", *ABOUT)


@dataclass(frozen=True)
class Model:
    """A model that has been found, and how to load it.

    identity: everything that its results depend on; part of the run folder's name
    scores: it supports log-likelihoods of given text; entropies: and the entropies of its tokens
    open: loads it; about: what else run.json records of a checkpoint
    sampling: `EndpointEngine.sampling` of an endpoint
    """

    name: str
    identity: dict[str, Any]
    chat_template: bool
    scores: bool
    entropies: bool
    open: Callable[[], Engine]
    about: Mapping[str, Any] = field(default_factory=dict)
    sampling: Callable[[bool, bool], tuple[list[str], str | None]] | None = None


def choose_engine(settings: EngineSettings, text_only: bool) -> str:
    """What the engine "auto" is: vLLM on a CUDA device where it is installed, if it has these settings, and all tasks
    let the model write text and need no entropies; or else the local engine, which scores given text faster."""
    others = settings.trust_remote_code or settings.device_map or settings.merge_adapter or settings.dtype == "float64"
    if text_only and not others and importlib.util.find_spec("vllm") is not None:
        return "vllm" if resolve_device(settings.device).startswith("cuda") else "local"
    return "local"


def find_model(
    spec: str,
    *,
    template_kwargs: Mapping[str, Any] | None = None,
    system: str | None = None,
    shard: Shard = SINGLE_PROCESS,
    notify: Callable[[str], None] = lambda _: None,
    **engine: Any,
) -> Model:
    """Find `spec`: a local folder, a Hub id (owner/name, owner/name@revision), or an endpoint
    (https://host/v1#model). Raises AlignbenchError for anything that would fail or be unsafe later.

    template_kwargs: variables of the chat template; system: the system message before each user message
    engine: fields of `EngineSettings`, of which the engine "auto" is the local one (see `choose_engine`)
    """
    own = EngineSettings(**engine)
    prompts: dict[str, Any] = {"template_kwargs": template_kwargs, "system": system}
    of_local = {"device_map": own.device_map, "merge_adapter": own.merge_adapter}
    of_vllm = {name: getattr(own, name) for name in ("gpus", "max_model_len", "gpu_memory_utilization")}
    if spec.startswith(("http://", "https://")):
        from alignbench.models.remote.endpoint import EndpointEngine

        _refuse_options(spec, of_local | of_vllm)
        limits = {name: getattr(own, name) for name in ("concurrency", "timeout", "retries")}
        far = EndpointEngine(spec, notify=notify, **prompts, **limits)
        identity = {"model": far.identity(), "engine": {"kind": "endpoint"}}
        return Model(far.name, identity, far.chat_template, far.scores, False, lambda: far, {}, far.sampling)
    others = {plugin.value.__name__: plugin for plugin in plugins("engines")}
    known = (*ENGINES, *others)
    if own.engine not in known:
        raise AlignbenchError(f"engine {own.engine!r}: choose {', '.join(known)}, or give the address of an endpoint")
    kind = "local" if own.engine == "auto" else own.engine
    if own.dtype not in ("auto", *DTYPES):
        raise AlignbenchError(f"dtype {own.dtype!r}: choose auto, {', '.join(DTYPES)}")
    if own.token_budget is not None and own.token_budget < 1:
        raise AlignbenchError(f"token budget {own.token_budget}: must be at least 1")
    device = resolve_device(own.device)
    _refuse_options(f"--engine {kind}", (of_local if kind != "local" else {}) | (of_vllm if kind != "vllm" else {}))
    if kind == "vllm":
        _check_vllm(own, shard)
    if own.device_map not in (None, "auto"):
        raise AlignbenchError(f"device map {own.device_map!r}: the only one is auto")
    placement = spread(device, shard) if own.device_map else None
    checkpoint = find_checkpoint(spec, trust_remote_code=own.trust_remote_code)
    if own.merge_adapter and checkpoint.base is None:
        raise AlignbenchError(f"checkpoint {checkpoint.name}: it has no adapter for --merge-adapter")
    dtype = checkpoint.dtype if own.dtype == "auto" else own.dtype
    if own.dtype == "auto" and kind == "local" and dtype != (dtype := fast_dtype(dtype, device)):
        notify(f"{checkpoint.name}: float32, since this CPU has no bfloat16 and would be slow (or set --dtype)")
    if dtype not in DTYPES:
        raise AlignbenchError(f"checkpoint {checkpoint.name}: dtype {dtype} is not supported; set --dtype")
    settings = {"kind": kind, "dtype": dtype, "device": device, "token_budget": own.token_budget or "auto"}
    more = {**of_local, "max_model_len": own.max_model_len, "gpus": own.gpus if own.gpus != 1 else None}
    settings |= {name: value for name, value in more.items() if value}
    if kind not in ENGINES:
        settings["definition_sha256"] = others[kind].sha256

    def load() -> Engine:
        if kind == "vllm":
            from alignbench.models.remote.vllm import load_vllm

            return load_vllm(checkpoint, dtype=dtype, **prompts, **of_vllm)
        if kind not in ENGINES:
            made: Engine = others[kind].value(checkpoint, dtype=dtype, device=device, **prompts)
            return made
        options = {**prompts, "notify": notify, "merge": own.merge_adapter, "placement": placement}
        options["device"] = f"cuda:{shard.local_rank}" if device == "cuda" and shard.world > 1 else device
        return load_engine(checkpoint, dtype=dtype, token_budget=own.token_budget, **options)

    fields = asdict(checkpoint)
    if checkpoint.base is not None:
        fields["base"] = {name: fields["base"][name] for name in ("name", "revision", "weights_sha256")}
    identity = {"model": {name: fields[name] for name in fields if name not in NOT_IDENTITY}, "engine": settings}
    about = {name: fields[name] for name in ABOUT}
    chat = checkpoint.chat_template_sha256 is not None
    if chat and system is not None:
        from alignbench.models.template import check_system

        check_system(load_tokenizer(checkpoint), checkpoint.name, template_kwargs or {})
    return Model(checkpoint.name, identity, chat, True, kind == "local", load, about)


def _refuse_options(why: str, options: Mapping[str, Any]) -> None:
    """Raise AlignbenchError for an option that would have no effect."""
    for name, value in options.items():
        if value is not None and value is not False:
            raise AlignbenchError(f"{why}: --{name.replace('_', '-')} has no effect on it")


def _check_vllm(own: EngineSettings, shard: Shard) -> None:
    """Raise AlignbenchError for options that vLLM cannot fulfil on this machine."""
    import torch

    if shard.world > 1:
        raise AlignbenchError("--engine vllm runs in a single process: use --gpus N, without a launcher")
    if own.max_model_len is not None and own.max_model_len < 2:
        raise AlignbenchError(f"--max-model-len {own.max_model_len}: it must be at least 2 tokens")
    if (memory := own.gpu_memory_utilization) is not None and not 0 < memory <= 1:
        raise AlignbenchError(f"--gpu-memory-utilization {memory}: it is a share, above 0 and at most 1")
    there = torch.cuda.device_count()
    if own.gpus is not None and (own.gpus < 1 or own.gpus > max(there, 1)):
        raise AlignbenchError(f"--gpus {own.gpus}: this machine has {there} GPUs")


def fast_dtype(dtype: str, device: str) -> str:
    """The number format, but float32 instead of bfloat16 on a CPU that is not known to have instructions for it."""
    if (dtype, device) != ("bfloat16", "cpu"):
        return dtype
    fast = CPU_FLAGS.is_file() and not BFLOAT16.isdisjoint(CPU_FLAGS.read_text().split())
    return dtype if fast else "float32"
