"""The packed forward pass: tokens of many sequences in one row through an unmodified transformers model.

There is no padding and no transformers key-value cache: during a forward pass the model's attention is replaced by ours
(transformers' AttentionInterface), which stores keys and values in pages (attention.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AttentionInterface, PreTrainedModel

from alignbench.models.causal_lm import select_before_head
from alignbench.models.generate.attention import Step

NAME = "alignbench_packed"
ELEMENTS = 32  # fp32 numbers per iteration of torch's vectorised loops (two vectors of 512 bits)
LARGEST_MULTIPLE = 32  # columns, for widths that have no smaller common multiple


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    packed: Step | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function that transformers calls, with (1, heads, tokens, size) states after rotation."""
    if packed is None:
        raise ValueError("the model does not pass keyword arguments on to its attention")
    if any(arguments.get(name) is not None for name in ("s_aux", "position_bias", "head_mask")):
        raise ValueError("attention sinks and biases are not supported")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer: int = module.layer_idx  # type: ignore[assignment]
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    return packed.attention(layer, q, k, v, scale, softcap).unsqueeze(0), None


AttentionInterface.register(NAME, packed_attention)


@contextmanager
def replaced_attention(model: PreTrainedModel) -> Iterator[None]:
    """While open, the model uses our attention; scoring uses the one that it was loaded with."""
    before = [(c, c._attn_implementation) for c in (model.config, model.config.get_text_config())]
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation


class PackedModel:
    """A model in evaluation mode that computes packed rows. `tokens_computed` does not count padding."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.device: torch.device = model.device
        self.tokens_computed = 0
        self._columns: dict[int, tuple[int, int]] = {}  # number of threads -> see `_column_counts`

    @torch.inference_mode()
    def logits(
        self, tokens: NDArray[np.int64], positions: NDArray[np.int64], outputs: list[int], step: Step
    ) -> torch.Tensor:
        """Logits (outputs, vocabulary) at the columns `outputs` of a packed row. tokens, positions: (columns,)"""
        self.tokens_computed += len(tokens)
        least, multiple = self._column_counts()
        missing = -(-max(least, len(tokens)) // multiple) * multiple - len(tokens)
        row, places = (torch.from_numpy(np.pad(t, (0, missing))[None]).to(self.device) for t in (tokens, positions))
        columns = torch.tensor(outputs + [0] * max(0, max(least, 1) - len(outputs)), device=self.device)
        with replaced_attention(self.model), select_before_head(self.model, lambda t: t.index_select(1, columns)):
            logits: torch.Tensor = self.model(input_ids=row, position_ids=places, use_cache=False, packed=step).logits
        if not step.calls:
            raise ValueError("the model does not call its attention through transformers' interface")
        return logits[0, : len(outputs)]

    def _column_counts(self) -> tuple[int, int]:
        """The minimum number of columns, and their multiple, for which a token's numbers do not depend on it on a CPU.

        Products of few rows use other kernels, which sum in another order (tested with the model's own layers), and the
        last elements of each thread's share of an activation function are not vectorised unless they fill two vectors.
        """
        if self.device.type != "cpu":
            return 1, 1
        threads = torch.get_num_threads()
        if threads not in self._columns:
            head = self.model.get_output_embeddings()
            layers = _linear_layers(self.model)
            shares = ELEMENTS * math.lcm(*range(1, min(threads, 4) + 1))
            widths = (layer.get_parameter("weight").shape[at] for layer, at in layers if layer is not head)
            multiple = math.lcm(*(shares // math.gcd(shares, width) for width in widths))
            least = max((_rows_that_agree(layer, 1 - at) for layer, at in layers), default=1)
            if self.model.dtype.itemsize < 4:  # rounding to half precision hides most differences from the test
                least = max(least, 4 * threads)
            self._columns[threads] = least, min(multiple, LARGEST_MULTIPLE)
        return self._columns[threads]


def _linear_layers(model: PreTrainedModel) -> list[tuple[torch.nn.Module, int]]:
    """One layer of each shape that multiplies by a weight matrix, and which axis of the matrix its outputs are."""
    found: dict[tuple[Any, ...], tuple[torch.nn.Module, int]] = {}
    for module in model.modules():
        weight, kind = getattr(module, "weight", None), type(module).__name__
        if kind in ("Linear", "Conv1D") and isinstance(weight, torch.Tensor) and weight.ndim == 2:
            key = kind, weight.shape, getattr(module, "bias", None) is None
            found.setdefault(key, (module, int(kind == "Conv1D")))
    return list(found.values())


@torch.inference_mode()
def _rows_that_agree(layer: torch.nn.Module, inputs: int) -> int:
    """The minimum number of rows from which on a layer's output has the same rows as for many."""
    weight = layer.get_parameter("weight")
    rows = torch.randn((1, 64, weight.shape[inputs]), generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    whole = layer(rows)
    least = 64
    for count in (48, 32, 24, *range(20, 0, -1)):
        if not torch.equal(layer(rows[:, :count]), whole[:, :count]):
            break
        least = count
    return least
