"""Attention of a batch of rows to their own keys, and to those of a prefix that all rows share, which are not copied.

transformers calls these functions instead of its own (`replaced_attention`). The keys and values of the shared prefix
have one row: all queries attend to them together.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface, PreTrainedModel

TREE = "alignbench_tree"
Layers = Sequence[tuple[Tensor, Tensor]]  # keys and values per layer, (1, heads, tokens, size) each


@contextmanager
def replaced_attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    """While open, the model uses the attention of this name, and afterwards the one that it was loaded with."""
    before = [(c, c._attn_implementation) for c in (model.config, model.config.get_text_config())]
    model.config._attn_implementation = name
    try:
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation


def refuse_unsupported(arguments: dict[str, Any]) -> None:
    if any(arguments.get(name) is not None for name in ("s_aux", "position_bias", "head_mask")):
        raise ValueError("attention sinks and biases are not supported")


def tree_mask(ends: Tensor) -> BlockMask:
    """Node i attends to itself and to its ancestors: the nodes j ≤ i whose subtrees, up to `ends` (rows, nodes), have
    it. Blocks without such a pair are skipped."""

    def inside(row: Any, head: Any, query: Any, key: Any) -> Any:
        return (key <= query) & (query < ends[row, key])

    rows, width = ends.shape
    return create_block_mask(inside, rows, None, width, width, device=ends.device)


@cache
def _compiled(device: str) -> Callable[..., Any]:
    attend: Callable[..., Any] = flex_attention
    return torch.compile(attend, dynamic=True) if device == "cuda" else attend


def tree_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **given: Any
) -> tuple[Tensor, None]:
    """FlexAttention on prefix trees, merged with the attention to the shared prefix by their log-sum-exp."""
    refuse_unsupported(given)
    softcap = given.get("softcap")
    limit, layer = softcap or 1.0, cast(int, module.layer_idx)

    def cap(score: Tensor, *_: Any) -> Tensor:
        return limit * torch.tanh(score / limit)

    own = {
        "score_mod": cap if softcap else None,
        "scale": given.get("scaling"),
        "enable_gqa": query.shape[1] != key.shape[1],
    }
    flex = _compiled(query.device.type)
    out, aux = flex(query, key, value, block_mask=given["tree"], return_aux=AuxRequest(lse=True), **own)
    if shared := given["shared"]:
        k, v = shared[layer]
        rows, heads, width, size = query.shape
        together = query.transpose(0, 1).reshape(1, heads, rows * width, size)
        other, other_aux = flex(together, k, v, return_aux=AuxRequest(lse=True), **own)
        other, mass = (t.view(heads, rows, width, -1).transpose(0, 1) for t in (other, other_aux.lse))
        out = torch.lerp(out, other, torch.sigmoid(mass - aux.lse[..., None]).to(out.dtype))
    return out.transpose(1, 2), None


AttentionInterface.register(TREE, tree_attention)
