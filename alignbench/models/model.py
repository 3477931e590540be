"""The model that a command names, before it is loaded: a checkpoint for the local engine or vLLM, or an endpoint."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alignbench.errors import AlignbenchError
from alignbench.models.checkpoint import find_checkpoint, load_engine, load_tokenizer, resolve_device
from alignbench.plugins import plugins
from alignbench.shards import SINGLE_PROCESS, Shard
from alignbench.types.engine import Engine

DTYPES = ("float64", "float32", "float16", "bfloat16")
CPU_FLAGS = Path("/proc/cpuinfo")
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # flags of processors (x86, Arm) with instructions for it
ENGINES = ("auto", "local", "vllm")
ABOUT = ("parameters", "lineage", "training")
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


def choose_engine(device: str, text_only: bool) -> str:
    """What the engine "auto" is: vLLM on a CUDA device where it is installed, if all tasks let the model write text and
    need no entropies; or else the local engine, which scores given text faster."""
    if text_only and importlib.util.find_spec("vllm") is not None and resolve_device(device).startswith("cuda"):
        return "vllm"
    return "local"


def find_model(
    spec: str,
    *,
    engine: str = "local",
    dtype: str = "auto",
    device: str = "auto",
    token_budget: int | None = None,
    concurrency: int = 8,
    timeout: float = 120.0,
    retries: int = 6,
    trust_remote_code: bool = False,
    template_kwargs: Mapping[str, Any] | None = None,
    system: str | None = None,
    shard: Shard = SINGLE_PROCESS,
    notify: Callable[[str], None] | None = None,
) -> Model:
    """Find `spec`: a local folder, a Hub id (owner/name, owner/name@revision), or an endpoint
    (https://host/v1#model). Raises AlignbenchError for anything that would fail or be unsafe later.

    concurrency, timeout, retries: see `Client`
    """
    if spec.startswith(("http://", "https://")):
        from alignbench.models.remote.endpoint import connect

        prompts: dict[str, Any] = {"template_kwargs": template_kwargs, "system": system}
        far = connect(spec, concurrency=concurrency, timeout=timeout, retries=retries, notify=notify, **prompts)
        identity = {"model": far.identity(), "engine": {"kind": "endpoint"}}
        return Model(far.name, identity, far.chat_template, far.scores, False, lambda: far, {}, far.sampling)
    others = {plugin.value.__name__: plugin for plugin in plugins("engines")}
    if engine not in (*ENGINES, *others):
        known = ", ".join((*ENGINES, *others))
        raise AlignbenchError(f"engine {engine!r}: choose {known}, or give the address of an endpoint")
    engine = "local" if engine == "auto" else engine
    if dtype not in ("auto", *DTYPES):
        raise AlignbenchError(f"dtype {dtype!r}: choose auto, {', '.join(DTYPES)}")
    if token_budget is not None and token_budget < 1:
        raise AlignbenchError(f"token budget {token_budget}: must be at least 1")
    checkpoint = find_checkpoint(spec, trust_remote_code=trust_remote_code)
    found = resolve_device(device)
    chosen = checkpoint.dtype if dtype == "auto" else dtype
    if dtype == "auto" and engine == "local" and chosen != (chosen := fast_dtype(chosen, found)) and notify is not None:
        notify(f"{checkpoint.name}: float32, since this CPU has no bfloat16 and would be slow (or set --dtype)")
    if chosen not in DTYPES:
        raise AlignbenchError(f"checkpoint {checkpoint.name}: dtype {chosen} is not supported; set --dtype")
    settings = {"kind": engine, "dtype": chosen, "device": found, "token_budget": token_budget or "auto"}
    if engine not in ENGINES:
        settings["definition_sha256"] = others[engine].sha256

    def load() -> Engine:
        if engine == "vllm":
            from alignbench.models.remote.vllm import load_vllm

            return load_vllm(checkpoint, dtype=chosen, template_kwargs=template_kwargs, system=system)
        if engine in others and engine not in ENGINES:
            prompts = {"template_kwargs": template_kwargs, "system": system}
            made: Engine = others[engine].value(checkpoint, dtype=chosen, device=found, **prompts)
            return made
        own = f"cuda:{shard.local_rank}" if found == "cuda" and shard.world > 1 else found
        more: dict[str, Any] = {"notify": notify, "template_kwargs": template_kwargs, "system": system}
        return load_engine(checkpoint, dtype=chosen, device=own, token_budget=token_budget, **more)

    fields = asdict(checkpoint)
    identity = {"model": {name: fields[name] for name in fields if name not in NOT_IDENTITY}, "engine": settings}
    about = {name: fields[name] for name in ABOUT}
    chat = checkpoint.chat_template_sha256 is not None
    if chat and system is not None:
        from alignbench.models.template import check_system

        check_system(load_tokenizer(checkpoint), checkpoint.name, template_kwargs or {})
    return Model(checkpoint.name, identity, chat, True, engine == "local", load, about)


def fast_dtype(dtype: str, device: str) -> str:
    """The number format, but float32 instead of bfloat16 on a CPU without instructions for it."""
    return "float32" if (dtype, device) == ("bfloat16", "cpu") and not has_bfloat16() else dtype


def has_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16; False where that is not known."""
    return CPU_FLAGS.is_file() and not BFLOAT16.isdisjoint(CPU_FLAGS.read_text().split())
