"""A test of whether a way to generate gives the numbers of the unmodified model."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from alignbench.models.causal_lm import ERRORS, TOLERANCE, devices_of, takes_positions
from alignbench.models.encode import Tokens
from alignbench.models.generate.decoding import Decoding
from alignbench.models.generate.samples import Job
from alignbench.types.engine import Completion, Sampling


def why_no_positions(model: PreTrainedModel) -> str | None:
    """None if a token's states depend on its position alone, not on that of its row's other tokens, or the reason."""
    kind = model.config.model_type
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    types = [part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)]
    if {"dynamic", "longrope"}.intersection(types):  # they depend on the longest sequence of the batch
        return f"{kind} scales its position embeddings by the length of the sequence"
    if len(devices_of(model)) > 1:
        return f"{kind} is spread over several devices"
    return None if takes_positions(model) else f"{kind} takes no position ids"


def why_not(
    run: Callable[[list[Job], Decoding], Iterable[Job]], model: PreTrainedModel, decoding: Decoding, jobs: Sequence[Job]
) -> str | None:
    """None if `run` gives the unmodified model's log-probabilities and entropies for a few tokens, or the reason."""
    tokens = np.resize(jobs[0].tokens, 12)
    prompts = [tokens[:7], np.concatenate([tokens[:4], tokens[8:], tokens[:2]])]
    own = [Job(index, "probe", prompt, [None, None]) for index, prompt in enumerate(prompts)]
    try:
        list(run(own, Decoding(decoding.tokenizer, (), Sampling(max_tokens=3, samples=2, temperature=1.0))))
    except torch.OutOfMemoryError:
        raise
    except ERRORS as error:
        return type(error).__name__
    found = [(job.tokens, completion) for job in own for completion in job.complete if completion.unscored is None]
    worst = max((_difference(model, *pair) for pair in found), default=0.0)
    # of single tokens, not means over the vocabulary
    return f"log-probabilities differ by {worst:.2g} nats" if worst > 4 * TOLERANCE[model.dtype] else None


@torch.inference_mode()
def _difference(model: PreTrainedModel, prompt: Tokens, completion: Completion) -> float:
    """Largest difference of log-probabilities and entropies from the unmodified model, in nats."""
    ids = torch.tensor([[*prompt.tolist(), *completion.tokens]], device=devices_of(model)[0])
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits[0, len(prompt) - 1 :]
    logprobs = torch.log_softmax(logits.float(), -1)
    chosen = logprobs.gather(-1, ids[0, len(prompt) :, None])[:, 0]
    expected = torch.cat([chosen, torch.special.entr(logprobs.exp()).sum(-1)]).cpu()
    return float((torch.tensor(completion.logprobs + completion.entropies) - expected).abs().max())
