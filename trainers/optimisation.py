"""What moves the weights: Adam as in the paper, schedules as functions of the step, the EMA, the adaptive KL penalty.

Nothing here has a state that a resumed run could miss, but Adam's moments, the EMA and β.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn


def adam(groups: Iterable[tuple[Iterable[nn.Parameter], float]]) -> torch.optim.Adam:
    """Adam with β (.9, .95) (InstructGPT, App. C) and ε 1e-5 (lm-human-preferences), from (parameters, lr) groups."""
    return torch.optim.Adam(
        [{"params": [p for p in parameters if p.requires_grad], "lr": lr, "peak": lr} for parameters, lr in groups],
        betas=(0.9, 0.95),
        eps=1e-5,
        fused=True,
    )


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Every group's learning rate becomes `factor` of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def cosine(step: int, steps: int, floor: float = 0.1) -> float:
    """The factor at `step` of 0 … steps − 1: from 1 along a cosine to `floor`, no warm-up (InstructGPT, C.1)."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / max(1, steps - 1)))


def warmup(step: int, steps: int = 10, start: float = 0.1) -> float:
    """The factor at `step`: from a tenth to 1 in ten iterations, then constant (InstructGPT, C.4)."""
    return min(1.0, start + (1 - start) * step / steps) if steps else 1.0


def adapted(beta: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """The KL penalty after a batch of episodes with KL `kl` per sequence (Ziegler et al., arXiv 1909.08593, 2.2)."""
    error = max(-0.2, min(0.2, kl / target - 1))
    return beta * (1 + error * episodes / horizon)


class Ema:
    """The exponential moving average of a model's trained weights (InstructGPT, C.4: decay .992)."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if name in self.weights:
                self.weights[name].lerp_(parameter, 1 - self.decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the averages and the model's weights: once to save the averages, once more to go on."""
        for name, parameter in model.named_parameters():
            if name in self.weights:
                kept = parameter.detach().clone()
                parameter.copy_(self.weights[name])
                self.weights[name].copy_(kept)


def gradient_norm(gradients: Iterable[torch.Tensor | None]) -> float:
    """The Euclidean norm over all the tensors, shards of them included."""
    norm = torch.nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
