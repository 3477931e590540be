"""Entropies of next-token distributions, in nats, from their logits.

Over the whole vocabulary, and over the TOP most likely tokens, renormalised ("Creativity Has Left the Chat", arXiv
2406.05587, fig. 11), which is at most log TOP. Both are of the unmodified logits: temperature 1, no top-p.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from alignbench.types.engine import TOP

CHUNK = 128  # adjacent tokens whose maximum is computed first
LOWEST = -200.0  # nats below the highest logit: its exponential is 0 in fp32, and 0 · −200 is not NaN as 0 · −∞ is


@torch.inference_mode()
def entropies(logits: torch.Tensor, rows: Sequence[int]) -> NDArray[np.float64]:
    """Entropies of softmax(logits)[row] over all tokens and over the top tokens, (2, len(rows)); NaN if a logit is.

    logits: (positions, vocabulary), not modified. A logit of −∞ is a token of probability 0. Computed in fp32 and a few
    rows at a time, so that the logits are never copied as a whole.
    """
    size = max(1, (2**18 if logits.device.type == "cpu" else 2**26) // logits.shape[-1])
    found = [np.empty((2, 0))]
    for start in range(0, len(rows), size):
        index = torch.tensor(list(rows[start : start + size]), device=logits.device)
        part = logits.index_select(0, index).float()
        top = top_entropies(part)
        below = part.sub_(part.amax(-1, keepdim=True)).clamp_(min=LOWEST)
        weights = below.exp()
        total = weights.sum(-1)
        # log total − Σ weight·below / total, without normalising each probability
        whole = total.log().sub_(weights.mul_(below).sum(-1).div_(total)).clamp_(min=0)
        found.append(torch.stack([whole.to(top.dtype), top]).cpu().double().numpy())
    return np.concatenate(found, axis=1)


def top_entropies(values: torch.Tensor) -> torch.Tensor:
    """Entropy of the TOP most likely tokens, renormalised, (rows,), or of all if the vocabulary has fewer.

    values: (rows, vocabulary), logits up to a constant per row. The TOP highest lie in the TOP chunks with the highest
    maxima, so the vocabulary is read once, where `topk` over all of it is slower.
    """
    whole = values.shape[-1] // CHUNK
    if whole > TOP:
        chunks = values[:, : whole * CHUNK].view(len(values), whole, CHUNK)
        best = chunks.amax(-1).topk(TOP).indices
        inside = chunks.gather(1, best[:, :, None].expand(-1, -1, CHUNK)).flatten(1)
        values = torch.cat([inside, values[:, whole * CHUNK :]], dim=-1)
    highest = values.topk(min(TOP, values.shape[-1])).values
    highest = highest if values.device.type == "mps" else highest.double()
    found: torch.Tensor = torch.special.entr(highest.softmax(-1)).sum(-1)
    return found
