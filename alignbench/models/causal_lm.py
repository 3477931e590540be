"""Properties of a causal language model and its device that scoring and generation depend on."""

import gc
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from transformers import PreTrainedModel

# Mean difference of log-probabilities over the vocabulary, in nats: rounding stays below it, a wrong mask is above.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.25}
# What transformers raises where a model does not take an argument; NotImplementedError is a RuntimeError
ERRORS = TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError
# Padded tokens of a scoring batch: on a CPU, matrix products reach their full rate at 256 rows
CPU_TOKENS, MAX_TOKENS = 512, 16_384
LARGEST_TREE = 2_048  # nodes of a prefix tree: attention is quadratic in them
NO_MEMORY = "out of the device's memory"
CPU_ROWS, MAX_ROWS = 128, 512  # samples generated at once: matrix products gain little beyond


def devices_of(model: PreTrainedModel) -> list[torch.device]:
    """The devices that compute, that of the inputs first. Weights may be elsewhere and be moved there at each use."""
    own = dict.fromkeys(d for d in getattr(model, "hf_device_map", {"": model.device}).values() if d != "disk")
    on_accelerators = [torch.device(device) for device in own if str(device) != "cpu"]
    return on_accelerators or [torch.device("cpu")]


def takes_positions(model: PreTrainedModel) -> bool:
    return "position_ids" in inspect.signature(model.forward).parameters


def attention_span(model: PreTrainedModel) -> float:
    """The shortest sliding window or chunk of any layer, in tokens; infinite without local attention."""
    config = model.config.get_text_config()
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None and not any("sliding" in t or "chunked" in t for t in layer_types):
        return float("inf")
    spans = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size", "window_size")]
    return float(min((span for span in spans if isinstance(span, int)), default=float("inf")))


def select_before_head(
    model: PreTrainedModel, select: Callable[[torch.Tensor], torch.Tensor]
) -> AbstractContextManager[Any]:
    """While open, the LM head reads `select(hidden states)`, so that no other logits are computed."""

    def hook(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (select(arguments[0]), *arguments[1:])

    handle: AbstractContextManager[Any] = model.get_output_embeddings().register_forward_pre_hook(hook)
    return handle


@dataclass
class Budget:
    """What fits into memory at once: padded tokens of a batch, keys and values of samples in progress, and samples."""

    tokens: int
    positions: int
    most_rows: int

    def rows(self, length: int) -> int:
        """Samples generated at once with `length` positions each."""
        return max(1, min(self.most_rows, self.positions // length))


_found: dict[tuple[object, ...], Budget] = {}


def find_budget(model: PreTrainedModel) -> Budget:
    """Fixed tokens on a CPU, as many as half of the free memory holds on an accelerator; keys and values in a quarter.

    Models of one size get the budget of the first of them in this process, so that a model and its aligned version are
    computed in the same batches.
    """
    config, device = model.config.get_text_config(), devices_of(model)[0]
    hidden = getattr(config, "hidden_size", 1024)
    heads, layers = (getattr(config, name, None) or 1 for name in ("num_attention_heads", "num_hidden_layers"))
    size = getattr(config, "head_dim", None) or hidden // heads
    grouped = getattr(config, "num_key_value_heads", None) or heads
    key = (device, model.dtype, config.vocab_size, hidden, layers, grouped * size)
    if key not in _found:
        free = free_memory(device)
        # per token: logits in the model's precision and in fp32, a row of the mask, about twenty hidden vectors
        per_token = config.vocab_size * (model.dtype.itemsize + 4) + LARGEST_TREE * 8 + 20 * hidden * 4
        tokens = max(256, min(MAX_TOKENS, int(free * 0.5 / per_token) // 256 * 256))
        positions = free // 4 // (2 * layers * grouped * size * model.dtype.itemsize)
        cpu = device.type == "cpu"
        _found[key] = Budget(CPU_TOKENS if cpu else tokens, positions, CPU_ROWS if cpu else MAX_ROWS)
    return replace(_found[key])


def free_memory(device: torch.device) -> int:
    """In bytes, with what torch's allocator has reserved and does not use."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return int(psutil.virtual_memory().available)


def release_cached_memory(device: torch.device) -> None:
    if device.type != "cpu":
        gc.collect()
        torch.get_device_module(device).empty_cache()
