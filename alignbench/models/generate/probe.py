"""Test whether a model can generate on packed rows, before the first call."""

from __future__ import annotations

import inspect

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignbench.models.causal_lm import tolerance
from alignbench.models.encode import Tokens
from alignbench.models.generate.decoding import Decoding
from alignbench.models.generate.packed import PackedModel
from alignbench.models.generate.samples import Job
from alignbench.models.generate.scheduler import Scheduler
from alignbench.types.engine import Completion, Sampling


def why_not_packed(packed: PackedModel, tokenizer: PreTrainedTokenizerBase, tokens: Tokens) -> str | None:
    """None if packed rows of these tokens give the log-probabilities of the unmodified model, or else the reason.

    The test has a shared prefix, two prompts and two samples of each, like real calls.
    """
    model = packed.model
    kind = model.config.model_type
    if not getattr(model, "_supports_attention_backend", False):
        return f"{kind} does not support a custom attention function"
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return f"{kind} takes no position ids"
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    for parameters in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if parameters.get("rope_type") in ("dynamic", "longrope"):  # they depend on the longest sequence of the batch
            return f"{kind} scales its position embeddings by the length of the sequence"
    tokens = np.resize(tokens, 12)
    prompts = [tokens[:7], np.concatenate([tokens[:4], tokens[8:], tokens[:2]])]
    jobs = [Job(index, "probe", prompt, [None, None]) for index, prompt in enumerate(prompts)]
    scheduler = Scheduler(packed, token_budget=8, notify=lambda _: None, most_rows=3, least_prefix=2)
    decoding = Decoding(tokenizer, (), Sampling(max_tokens=3, samples=2, temperature=1.0))
    before = packed.tokens_computed
    try:
        list(scheduler.run(jobs, decoding))
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError, AssertionError) as error:
        return f"{kind} does not run on packed rows ({type(error).__name__})"
    finally:
        packed.tokens_computed = before
    found = [(job.tokens, completion) for job in jobs for completion in job.complete if completion.unscored is None]
    worst = max((_difference(model, *pair) for pair in found), default=0.0)
    if worst > 4 * tolerance(model):  # of single tokens, not means over the vocabulary
        return f"{kind} does not run on packed rows (log-probabilities differ by {worst:.2g} nats)"
    return None


@torch.inference_mode()
def _difference(model: PreTrainedModel, prompt: Tokens, completion: Completion) -> float:
    """Largest difference of log-probabilities and entropies from the unmodified model, in nats."""
    ids = torch.tensor([[*prompt.tolist(), *completion.tokens]], device=model.device)
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits[0, len(prompt) - 1 :]
    logprobs = torch.log_softmax(logits.float(), -1)
    chosen = logprobs.gather(-1, ids[0, len(prompt) :, None])[:, 0]
    expected = torch.cat([chosen, torch.special.entr(logprobs.exp()).sum(-1)]).cpu()
    return float((torch.tensor(completion.logprobs + completion.entropies) - expected).abs().max())
