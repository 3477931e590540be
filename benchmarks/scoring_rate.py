"""The rate at which this processor multiplies matrices, one thread, in a model's own precision."""

from __future__ import annotations

import time

import torch
from transformers import PreTrainedModel


@torch.inference_mode()
def measure_gflops(model: PreTrainedModel) -> float:
    """GFLOP/s of 512 rows times the model's own MLP up-projection: the best of 7."""
    width = model.config.intermediate_size
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    weight = next(layer.weight for layer in layers if layer.out_features == width)
    rows = torch.randn(512, weight.shape[1], dtype=weight.dtype)
    torch.nn.functional.linear(rows, weight)
    best = float("inf")
    for _ in range(7):
        started = time.perf_counter()
        torch.nn.functional.linear(rows, weight)
        best = min(best, time.perf_counter() - started)
    return 2 * len(rows) * weight.numel() / best / 1e9
