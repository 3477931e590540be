"""Matrix products in float32 on a CPU with oneDNN, which is part of torch, instead of MKL, which torch calls.

MKL does not use the 512-bit registers of other makers' processors: on an AMD EPYC (Zen 4) oneDNN multiplied 2.3 times
as fast (248 against 108 GFLOP/s per thread at 512 rows) with the same precision (mean error 1.6e-7 and 1.1e-7). With
256-bit registers only, either may be faster.
"""

import math
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

SMALLEST_GAIN = 0.85  # oneDNN is chosen if it takes less than this proportion of MKL's time: a tie is always MKL's
BLOCK = 4096  # outputs of a layer whose gradient is computed at once


def use_onednn(model: nn.Module) -> bool:
    """Let the linear layers of a float32 model on a CPU multiply with oneDNN, in training too, except under autocast,
    after a move to a GPU, and for inputs of another dtype. Returns whether anything changed."""
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    # oneDNN would read a strided weight or bias as if it were contiguous
    tensors = [tensor for layer in layers for tensor in layer.parameters(recurse=False)]
    fits = all(t.dtype == torch.float32 and t.device.type == "cpu" and t.is_contiguous() for t in tensors)
    if not layers or not fits or not _works():
        return False
    for layer in layers:
        layer.forward = partial(_product, layer)  # type: ignore[method-assign]
    return True


def products_of(model: nn.Module) -> str:
    """The library that multiplies in a model's linear layers: "onednn", or "torch" (its default, such as MKL)."""
    return "onednn" if any(map(_has_product, model.modules())) else "torch"


def choose_products(model: PreTrainedModel, products: str | None = None) -> None:
    """Let a model multiply with the faster library, or with `products`, since their results differ by rounding."""
    for module in filter(_has_product, model.modules()):
        vars(module).pop("forward")
    if (model.device.type, model.dtype) == ("cpu", torch.float32) and (products or fastest_products()) == "onednn":
        use_onednn(model)


@cache
def fastest_products() -> str:
    """The faster library, by the shortest of nine times (about 0.2 s in all).

    The first measurement on a machine is kept in the user's cache, so that all models are computed alike later.
    """
    multiplications: tuple[Callable[..., torch.Tensor], ...] = (_multiply, nn.functional.linear)
    shortest = dict.fromkeys(multiplications, math.inf)
    rows, weight = torch.ones(256, 768), torch.ones(2048, 768)
    name = f"products-{platform.node()}-{torch.__version__}-{torch.get_num_threads()}"
    file = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "alignbench" / name
    if not _works():
        return "torch"
    if file.is_file() and (found := file.read_text("utf-8")) in ("onednn", "torch"):
        return found
    with torch.inference_mode():
        for multiply in multiplications * 9:
            begin = time.perf_counter()
            multiply(rows, weight, None)
            shortest[multiply] = min(time.perf_counter() - begin, shortest[multiply])
    found = "onednn" if shortest[_multiply] < SMALLEST_GAIN * shortest[nn.functional.linear] else "torch"
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), file.open("x", encoding="utf-8") as first:
            first.write(found)  # that of the process that is first, for all others
        return file.read_text("utf-8") or found
    return found


def _has_product(module: nn.Module) -> bool:
    forward = vars(module).get("forward")
    return isinstance(forward, partial) and forward.func is _product


def _product(layer: nn.Linear, input: torch.Tensor) -> torch.Tensor:
    """In place of `nn.Linear.forward`."""
    weight, bias = layer.weight, layer.bias
    # the layer may have been moved since, to a GPU or to another dtype
    moved = weight.device.type != "cpu" or weight.dtype != torch.float32 or input.dtype != torch.float32
    if moved or torch.is_autocast_enabled("cpu"):
        return nn.functional.linear(input, weight, bias)
    if torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad):
        return _Differentiable.apply(input, weight, bias)  # type: ignore[no-any-return, no-untyped-call]
    return _multiply(input, weight, bias)


class _Differentiable(torch.autograd.Function):
    """The operation requires contiguous matrices, so the backward pass copies what it transposes, in blocks of outputs:
    for a language model's head the copy would be hundreds of megabytes."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(rows, weight)
        return _multiply(rows, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        wants_rows, wants_weight, wants_bias = ctx.needs_input_grad
        flat, transposed = gradient.reshape(-1, gradient.shape[-1]), rows.reshape(-1, rows.shape[-1]).t().contiguous()
        of_rows = rows.new_zeros(rows.shape) if wants_rows else None
        of_weight = torch.empty_like(weight) if wants_weight else None
        for block in (slice(start, start + BLOCK) for start in range(0, len(weight), BLOCK)):
            part = flat[:, block].contiguous()
            if of_rows is not None:
                of_rows += _multiply(part, weight[block].t().contiguous(), None).view(rows.shape)
            if of_weight is not None:
                of_weight[block] = _multiply(part.t().contiguous(), transposed, None)
        return of_rows, of_weight, flat.sum(0) if wants_bias else None


def _multiply(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")  # type: ignore[no-any-return]


def _works() -> bool:
    """Whether the operation, which is undocumented, gives correct products in this build of torch."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    rows, weight, bias = (torch.randn(shape, generator=generator) for shape in ((2, 3, 16), (8, 16), (8,)))
    try:
        with torch.inference_mode():
            found = _multiply(rows, weight, bias)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
    return found.shape == (2, 3, 8) and torch.allclose(found, rows @ weight.T + bias, rtol=1e-5, atol=1e-5)
