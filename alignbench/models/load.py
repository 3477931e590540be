"""Load a checkpoint into memory: tokenizer, weights and adapter, on one device or spread over several."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil  # type: ignore[import-untyped]

from alignbench.errors import AlignbenchError, first_line
from alignbench.models.checkpoint import Checkpoint, CheckpointError, weight_files
from alignbench.shards import SINGLE_PROCESS, Shard

if TYPE_CHECKING:
    from alignbench.models.local import LocalEngine

FOR_WEIGHTS = 0.8  # of the free memory of each GPU that a model is spread over; the rest is for activations


def resolve_device(device: str) -> str:
    """The device to use: the fastest one available for "auto". Raises AlignbenchError if it is not available."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise AlignbenchError(f"device {device}: not on this machine ({first_line(error)})") from error
    return device


def spread(device: str, shard: Shard = SINGLE_PROCESS) -> dict[str, Any]:
    """Options of `from_pretrained` that spread a model over this process's GPUs, then memory, then disk (accelerate).

    device: "cuda" for all GPUs, shared equally by the processes of this machine, or "cpu". Raises AlignbenchError if
    the GPUs cannot be shared, and for another device.
    """
    import torch

    if device not in ("cuda", "cpu"):
        raise AlignbenchError(f"--device-map auto spreads over all GPUs or CPU and disk, not {device}: omit --device")
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", shard.world)) if shard.world > 1 else 1
    memory: dict[int | str, int] = {}
    if device == "cuda":
        share, rest = divmod(gpus := torch.cuda.device_count(), processes)
        if rest or not share:
            raise AlignbenchError(f"--device-map auto: {processes} processes cannot share {gpus} GPUs equally")
        for gpu in range(shard.local_rank * share, (shard.local_rank + 1) * share):
            memory[gpu] = int(torch.cuda.mem_get_info(gpu)[0] * FOR_WEIGHTS)
    memory["cpu"] = int(psutil.virtual_memory().available * FOR_WEIGHTS) // processes
    return {"device_map": "auto", "max_memory": memory}


def load_engine(
    checkpoint: Checkpoint,
    *,
    dtype: str,
    device: str,
    token_budget: int | None = None,
    notify: Callable[[str], None] = lambda _: None,
    template_kwargs: Mapping[str, Any] | None = None,
    system: str | None = None,
    merge: bool = False,
    placement: Mapping[str, Any] | None = None,
) -> LocalEngine:
    """Load model and tokenizer. Raises AlignbenchError if transformers cannot load them or weights are missing.

    merge: add the adapter to the weights; placement: see `spread`, instead of `device`
    """
    import torch
    from transformers import AutoModelForCausalLM

    from alignbench.models.causal_lm import release_cached_memory
    from alignbench.models.encode import Encoder
    from alignbench.models.local import LocalEngine
    from alignbench.models.onednn import choose_products

    release_cached_memory(torch.device(device))  # of the model before
    # fused attention in torch's CPU build multiplies half precision at the rate of fp32
    slow = device == "cpu" and dtype in ("bfloat16", "float16")
    options = {"dtype": getattr(torch, dtype), "attn_implementation": "eager" if slow else None, **(placement or {})}
    if checkpoint.quantization is not None:  # quantised layers cannot be moved
        options.setdefault("device_map", {"": device})
    what = "a causal language model"
    model, tokenizer, missing = load_model(checkpoint, AutoModelForCausalLM, what, device, merge=merge, **options)
    if missing:
        raise CheckpointError(checkpoint.name, f"{len(missing)} weights are not in its files (first: {missing[0]})")
    if "device_map" not in options:  # accelerate's hooks are in `forward`, which this replaces
        choose_products(model)
    encoder = Encoder(tokenizer, template_kwargs, system)
    return LocalEngine(model, encoder, checkpoint.window, token_budget or 0, notify)


def load_model(
    checkpoint: Checkpoint, auto_class: Any, what: str, device: str = "cpu", *, merge: bool = False, **options: Any
) -> tuple[Any, Any, list[str]]:
    """A transformers model in evaluation mode (with its adapter, if there is one), its tokenizer, and the names of
    weights that are not in the files.

    what: the kind of model, for messages; merge: add the adapter to the weights; options: of `from_pretrained`
    Raises AlignbenchError if transformers cannot load it, and if it does not fit into the device's memory.
    """
    import torch

    base = checkpoint.base or checkpoint
    if base is not checkpoint:  # loaded afterwards: transformers would report the adapter's missing weights only
        options["adapter_kwargs"] = {"subfolder": "none"}
    found = {"trust_remote_code": checkpoint.custom_code, "local_files_only": True, "use_safetensors": True}
    try:
        with loading(checkpoint, what):
            tokenizer = load_tokenizer(checkpoint)
            model, report = auto_class.from_pretrained(base.path, output_loading_info=True, **options, **found)
            missing = set(report["missing_keys"])
            if base is not checkpoint:
                missing |= _add_adapter(model, checkpoint, base, merge)
            model = (model if "device_map" in options else model.to(device)).eval()
    except torch.OutOfMemoryError as error:
        advice = "try --dtype bfloat16, --device-map auto or --device cpu"
        message = f"its weights do not fit into the memory of {device}; {advice}"
        raise CheckpointError(checkpoint.name, message) from error
    return model, tokenizer, sorted(missing)


def load_empty(
    checkpoint: Checkpoint, auto_class: Any, what: str, *, dtype: Any, **options: Any
) -> tuple[Any, Any, list[str]] | None:
    """As `load_model`, but weights have no memory (they are on `meta`): `read_shards` fills them when they are sharded.

    None if `load_model` has to load it: the files have other names, shapes or number formats than the model.
    """
    from accelerate import init_empty_weights
    from safetensors import safe_open
    from transformers import AutoConfig, GenerationConfig

    shapes = dict[str, list[int]]()
    with loading(checkpoint, what):
        tokenizer = load_tokenizer(checkpoint)
        config = AutoConfig.from_pretrained(checkpoint.path, local_files_only=True, **options)
        with init_empty_weights():
            model = auto_class.from_config(config, dtype=dtype).eval()
        model.tie_weights()
        if checkpoint.generation_config_sha256 is not None and model.can_generate():
            model.generation_config = GenerationConfig.from_pretrained(checkpoint.path)
        for file in weight_files(checkpoint.path):
            with safe_open(file, "pt") as stream:
                shapes |= {name: stream.get_slice(name).get_shape() for name in stream.keys()}  # noqa: SIM118
    names, weights = _names_in_files(model, shapes), dict(model.named_parameters())
    missing = sorted(weights.keys() - names.keys())
    same = all(list(weights[name].shape) == shapes[own] for name, own in names.items())
    persistent = [name for name in model.state_dict() if name in dict(model.named_buffers())]
    if checkpoint.quantization is not None or not same or persistent or missing not in ([], ["score.weight"]):
        return None
    return model, tokenizer, missing


def read_shards(model: Any, folder: Path, device: Any) -> None:
    """Fill the weights on `meta` of a model that `torch.distributed.fsdp.fully_shard` has sharded.

    Each process reads the rows of its own shards only.
    """
    from safetensors import safe_open
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shards = dict[str, Any]()
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(file, "pt")) for file in weight_files(folder)]
        streams = {name: stream for stream in files for name in stream.keys()}  # noqa: SIM118
        for name, own in _names_in_files(model, streams).items():
            empty = model.get_parameter(name)
            if not empty.is_meta:
                continue
            layout = empty.device_mesh, empty.placements
            (rows, *_), (start, *_) = compute_local_shape_and_global_offset(empty.shape, *layout)
            part = streams[own].get_slice(own)[start : start + rows].to(device, empty.dtype)
            shards[name] = DTensor.from_local(part, *layout, run_check=False, shape=empty.shape, stride=empty.stride())
    model.load_state_dict(shards, strict=False, assign=True)
    model.tie_weights()


def _names_in_files(model: Any, names: Collection[str]) -> dict[str, str]:
    """Parameter -> its name in the files, which may be those of the model without a head; without those that lack."""
    prefix = f"{model.base_model_prefix}."
    pairs = ((name, own) for name, _ in model.named_parameters() for own in (name.removeprefix(prefix), name))
    return {name: own for name, own in pairs if own in names}


@contextmanager
def loading(checkpoint: Checkpoint, what: str) -> Iterator[None]:
    """Raise CheckpointError if transformers fails inside the `with` block, but not if the memory is too small."""
    import torch

    quiet()
    try:
        yield
    except (AlignbenchError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # transformers raises errors of many kinds, all about this folder
        message = f"it does not load as {what} ({first_line(error)})"
        if checkpoint.quantization is not None and isinstance(error, ImportError):
            message = f"its weights are quantised ({checkpoint.quantization}): pip install 'alignbench[quantized]'"
            message = f"{message} or the package that its method needs ({first_line(error)})"
        raise CheckpointError(checkpoint.name, message) from error


def quiet() -> None:
    """Turn off the warnings, load reports and progress bars of transformers."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """The tokenizer, of the adapter's folder if it is there. Raises AlignbenchError if transformers cannot load it, or
    if the base has other tokens."""
    from transformers import AutoConfig, AutoTokenizer

    options: dict[str, Any] = {"trust_remote_code": checkpoint.custom_code, "local_files_only": True}
    base, theirs = checkpoint.base or checkpoint, {}
    try:
        if checkpoint.tokenizer_path != base.path:  # the adapter has one of its own
            theirs = AutoTokenizer.from_pretrained(base.path, **options).get_vocab()
            options["config"] = AutoConfig.from_pretrained(base.path, **options)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.tokenizer_path, **options)
        tokenizer.decode(tokenizer("a text")["input_ids"])  # fails if a field of its configuration has a wrong type
    except Exception as error:  # transformers raises errors of many kinds, all about this folder
        raise CheckpointError(checkpoint.name, f"its tokenizer does not load ({first_line(error)})") from error
    own = tokenizer.get_vocab()
    if other := [token for token, number in theirs.items() if own.get(token) != number]:
        message = f"its base {base.name} has another vocabulary than its tokenizer (first: {min(other)!r})"
        raise CheckpointError(checkpoint.name, message)
    return tokenizer


def _add_adapter(model: Any, checkpoint: Checkpoint, base: Checkpoint, merge: bool) -> set[str]:
    """Load the adapter into its base, and return the names of its weights that are missing."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    def refuse(reason: str) -> CheckpointError:
        return CheckpointError(checkpoint.name, f"its adapter does not fit its base {base.name} ({reason})")

    if any(weight.is_meta for weight in model.parameters()):
        message = "its base does not fit into the memory of the devices, which an adapter needs"
        raise CheckpointError(checkpoint.name, f"{message}; merge it into its model first (merge_and_unload)")
    try:
        found = model.load_adapter(str(checkpoint.path), ignore_mismatched_sizes=True)
    except (ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise refuse(first_line(error)) from error
    if found.mismatched_keys:
        name, own, theirs = min(found.mismatched_keys)
        raise refuse(f"{name} has the shape {tuple(own)}, not {tuple(theirs)}")
    if found.unexpected_keys:
        raise refuse(f"no layer for {min(found.unexpected_keys)}")
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, layer in layers if merge else ():
        layer.merge(safe_merge=True)
        model.set_submodule(name, layer.get_base_layer())
    return set(found.missing_keys)
