"""Next-token distributions from their logits: log-probabilities, entropies, and draws without sorting the vocabulary.

Entropies are in nats, over the whole vocabulary and over the TOP most likely tokens, renormalised ("Creativity Has Left
the Chat", arXiv 2406.05587, fig. 11), at temperature 1 without top-p. Each row is reduced in the same order whatever
the other rows are, so that its numbers do not depend on the batch.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from alignbench.types.engine import TOP, Sampling

NO_DOUBLE = ("mps",)  # devices without double precision
CHUNK = 128  # adjacent tokens that are reduced together first
LOWEST = -200.0  # nats below the highest logit: its exponential is 0 in fp32, and 0 · −200 is not NaN as 0 · −∞ is


@torch.inference_mode()
def target_logprobs(logits: torch.Tensor, rows: list[int], targets: list[int]) -> NDArray[np.float64]:
    """log softmax(logits)[row, target] for each pair, (pairs,) in nats. The logits are overwritten.

    x − logsumexp(x) in fp32, a few rows at a time: closer to fp64 than log_softmax, and within the processor's cache.
    """
    row = torch.tensor(rows, device=logits.device)
    target = logits[row, torch.tensor(targets, device=logits.device)].float()
    normalisers = []
    for part in torch.split(logits, rows_at_once(logits, 2**20)):
        part = part.float()
        highest = part.amax(-1, keepdim=True)
        normalisers.append(part.sub_(highest).exp_().sum(-1).log_().add_(highest[:, 0]))
    return (target - torch.cat(normalisers)[row]).cpu().double().numpy()


def rows_at_once(logits: torch.Tensor, numbers: int) -> int:
    """With so many numbers as the processor's cache holds, or with 256 times as many on a GPU."""
    return max(1, numbers * (1 if logits.device.type == "cpu" else 256) // logits.shape[-1])


@torch.inference_mode()
def entropies(logits: torch.Tensor, rows: Sequence[int]) -> NDArray[np.float64]:
    """Entropies of softmax(logits)[row] over all tokens and over the top tokens, (2, len(rows)); NaN if a logit is.

    logits: (positions, vocabulary), not modified, and copied a few rows at a time. A logit of −∞ is of probability 0.
    """
    size = rows_at_once(logits, 2**18)
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


@torch.inference_mode()
def divergences(logits: torch.Tensor, others: torch.Tensor, tokens: Sequence[int]) -> NDArray[np.float64]:
    """KL(softmax(logits) ‖ softmax(others)) of each row, and log-probability minus the other's of each row's token:
    (2, rows) in nats. logits, others: (rows, vocabulary), of vocabularies whose shorter one begins the longer one."""
    size, width = rows_at_once(logits, 2**18), min(logits.shape[-1], others.shape[-1])
    index, found = torch.tensor(list(tokens), device=logits.device), list[torch.Tensor]()
    for start in range(0, len(index), size):
        rows = slice(start, start + size)
        p, q = (_wide(part[rows, :width].to(logits.device).float()).log_softmax(-1) for part in (logits, others))
        ratio = p - q
        exact = (p.exp() * ratio.masked_fill(p <= LOWEST, 0.0)).sum(-1)
        found.append(torch.stack([exact.clamp(min=0), ratio.gather(-1, index[rows, None])[:, 0]]))
    return torch.cat(found, dim=1).cpu().double().numpy()


def top_entropies(values: torch.Tensor) -> torch.Tensor:
    """Entropy of the TOP most likely tokens, renormalised, (rows,), of (rows, vocabulary) logits up to a constant.

    They lie in the TOP chunks with the highest maxima, so that the vocabulary is read once; `topk` over it is slower.
    """
    whole = values.shape[-1] // CHUNK
    if whole > TOP:
        chunks = values[:, : whole * CHUNK].view(len(values), whole, CHUNK)
        best = chunks.amax(-1).topk(TOP).indices
        inside = chunks.gather(1, best[:, :, None].expand(-1, -1, CHUNK)).flatten(1)
        values = torch.cat([inside, values[:, whole * CHUNK :]], dim=-1)
    highest = values.topk(min(TOP, values.shape[-1])).values
    found: torch.Tensor = torch.special.entr(_wide(highest).softmax(-1)).sum(-1)
    return found


class Stream:
    """The random numbers of one sample: counter-based (Philox, Salmon et al. 2011), keyed by a hash of its identity."""

    def __init__(self, seed: int, key: str, sample: int) -> None:
        digest = hashlib.sha256(f"{seed}\0{sample}\0{key}".encode()).digest()
        self._bits = np.random.Philox(key=int.from_bytes(digest[:16], "little"))

    def uniform(self) -> float:
        """The next number in [0, 1), a multiple of 2⁻⁵³."""
        return (int(self._bits.random_raw()) >> 11) * 2.0**-53


class Drawn(NamedTuple):
    """A token, −1 if the logits are not finite, with log-probability and entropies in nats of the unmodified logits.
    `top_entropy` is NaN unless requested."""

    token: int
    logprob: float
    entropy: float
    top_entropy: float


@torch.inference_mode()
def draw(logits: torch.Tensor, rows: Sequence[int], streams: Sequence[Stream], sampling: Sampling) -> list[Drawn]:
    """Draw one token from logits[row] for each of `rows`, which may repeat, each with its own stream.

    logits: (rows, vocabulary). Temperature 0 takes the most likely token, the lowest id in a tie.
    """
    size = rows_at_once(logits, 2**19)
    drawn: list[Drawn] = []
    for start in range(0, len(rows), size):
        part = logits.index_select(0, torch.tensor(list(rows[start : start + size]), device=logits.device))
        part = part.float() if part.dtype.itemsize < 4 else part
        drawn += _draw(part, streams[start : start + size], sampling)
    return drawn


def _draw(logits: torch.Tensor, streams: Sequence[Stream], sampling: Sampling) -> list[Drawn]:
    highest = logits.amax(-1, keepdim=True)
    bad = ~torch.isfinite(highest)
    # elsewhere, the question would wait for the device
    if logits.device.type != "cpu" or bool(bad.any()):
        logits, highest = logits.masked_fill(bad, 0.0), highest.masked_fill(bad, 0.0)
    # padded with tokens of no weight to a whole number of chunks
    below = nn.functional.pad((logits - highest).clamp_(min=LOWEST), (0, -logits.shape[-1] % CHUNK), value=LOWEST)
    weights = below.exp()
    sums = _chunk_sums(weights)
    top = [top_entropies(below)] if sampling.top_entropies else []
    total, weighted = _wide(sums).sum(-1), _wide(_chunk_sums(weights * below)).sum(-1)
    if sampling.temperature == 0:
        tokens = logits.argmax(-1)
    else:
        if sampling.temperature != 1:
            weights = (below / sampling.temperature).masked_fill_(below <= LOWEST, -torch.inf).exp_()
            sums = _chunk_sums(weights)
        if 0 < sampling.top_k < logits.shape[-1]:
            least = logits.topk(sampling.top_k).values[:, -1:]
            kept = nn.functional.pad(logits >= least, (0, weights.shape[-1] - logits.shape[-1]))
            weights = weights.masked_fill(~kept, 0.0)
            sums = _chunk_sums(weights)
        tokens = _from_nucleus(weights, sums, streams, sampling.top_p)
    chosen = _wide(below.gather(-1, tokens[:, None])[:, 0])
    tokens = tokens.masked_fill(bad[:, 0], -1).to(total.dtype)
    return [
        Drawn(int(token), own - math.log(mass), max(0.0, math.log(mass) - sum_ / mass), *(own_top or (math.nan,)))
        # all numbers come from the device at once
        for token, own, mass, sum_, *own_top in torch.stack([tokens, chosen, total, weighted, *top], -1).tolist()
    ]


def _from_nucleus(weights: torch.Tensor, sums: torch.Tensor, streams: Sequence[Stream], top_p: float) -> torch.Tensor:
    """Draw from each row's smallest set of most likely tokens with mass `top_p`: (rows,) tokens.

    By rejection: a token is in the set if and only if the mass of the strictly more likely tokens is below `top_p`. The
    next draw is from those above a rejected token. Tokens as likely as the least likely member belong to the set.
    """
    limit = _wide(sums).sum(-1) * top_p
    tokens = torch.zeros(len(weights), dtype=torch.long, device=weights.device)
    pending = torch.arange(len(weights), device=weights.device)
    while True:
        uniform = [stream.uniform() for stream in streams]
        found = _inverse_cdf(weights, sums, torch.tensor(uniform, dtype=limit.dtype, device=weights.device))
        tokens[pending] = found
        if top_p >= 1:
            return tokens
        least = weights.gather(-1, found[:, None])
        # the mass above a token is at most the remaining mass without the token itself
        (unsure,) = torch.nonzero(_wide(sums).sum(-1) - _wide(least[:, 0]) >= limit, as_tuple=True)
        if not len(unsure):
            return tokens
        weights, limit, pending, least = weights[unsure], limit[unsure], pending[unsure], least[unsure]
        weights = weights.masked_fill_(weights <= least, 0.0)
        sums = _chunk_sums(weights)
        (rejected,) = torch.nonzero(_wide(sums).sum(-1) >= limit, as_tuple=True)
        if not len(rejected):
            return tokens
        streams = [streams[at] for at in unsure[rejected].tolist()]
        weights, sums, limit, pending = weights[rejected], sums[rejected], limit[rejected], pending[rejected]


def _inverse_cdf(weights: torch.Tensor, sums: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The first token whose cumulative weight exceeds `uniform` of the total: first its chunk, then within it."""
    rows = torch.arange(len(weights), device=weights.device)
    chunks = _wide(sums).cumsum(-1)
    target = _strictly_below(uniform * chunks[:, -1], chunks[:, -1])
    chunk = torch.searchsorted(chunks, target[:, None], right=True)[:, 0]
    before = torch.where(chunk > 0, chunks[rows, (chunk - 1).clamp(min=0)], 0.0)
    within = _wide(weights.view(len(weights), -1, CHUNK)[rows, chunk]).cumsum(-1)
    rest = _strictly_below(target - before, within[:, -1])
    return chunk * CHUNK + torch.searchsorted(within, rest[:, None], right=True)[:, 0]


def _strictly_below(values: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
    """Rounding may move a value to its bound, which is past the last token."""
    return torch.minimum(values, torch.nextafter(bound, torch.zeros_like(bound)))


def _chunk_sums(values: torch.Tensor) -> torch.Tensor:
    return values.view(len(values), -1, CHUNK).sum(-1)


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values if values.device.type in NO_DOUBLE else values.double()
