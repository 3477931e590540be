"""Load a checkpoint into memory: tokenizer, weights and adapter, on one device or spread over several."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil  # type: ignore[import-untyped]

from alignbench.errors import AlignbenchError, first_line
from alignbench.models.checkpoint import Checkpoint, CheckpointError
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
