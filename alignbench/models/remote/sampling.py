"""Sampling from a model's unmodified distribution: a server's own truncation and penalties are turned off, and whether
they are is verified."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from alignbench.models.remote.client import Client, RequestFailed
from alignbench.models.remote.replies import Choice

PENALTIES = {"presence_penalty": 0, "frequency_penalty": 0}  # OpenAI's
# `transformers serve` reads the rest from this field, and decodes greedily at every temperature without it
_TRANSFORMERS = {"do_sample": True, "top_k": 0, "min_p": 0.0, "typical_p": 1.0, "repetition_penalty": 1.0}
_TRANSFORMERS |= {"epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "no_repeat_ngram_size": 0}
EXTRAS: dict[str, Any] = {"top_k": -1, "min_p": 0, "repetition_penalty": 1}  # vLLM, SGLang, llama.cpp
# llama.cpp
EXTRAS |= {"typical_p": 1, "repeat_penalty": 1, "dynatemp_range": 0, "xtc_probability": 0, "top_n_sigma": -1}
EXTRAS |= {"dry_multiplier": 0, "mirostat": 0, "adaptive_target": -1, "generation_config": json.dumps(_TRANSFORMERS)}
NEUTRAL = EXTRAS | PENALTIES
UNMODIFIED, MODIFIED, UNKNOWN = "unmodified", "modified", "not verified"
DRAW = "Twenty random words:"  # rarely continued twice in the same way
TOP = 5  # tokens with log-probabilities at each position: OpenAI's limit of /completions
ROUNDS, LENGTH = 32, 64  # most requests that are measured; tokens of each sample
CERTAIN = -math.log(1e-5)  # of a false alarm
PRECISION = 0.1  # relative, of the number of unlikely tokens
SAME = 0.1  # nats by which log-probabilities may change with the batch


def verify(client: Client, path: str, body: Callable[..., dict[str, Any]], sent: Mapping[str, Any], n: int) -> str:
    """`UNMODIFIED`, `MODIFIED` or `UNKNOWN`, and how it is known, in parentheses.

    body: parameters -> a request to `path`; sent: parameters of `NEUTRAL` that the server accepts; n: of a request
    """
    # llama.cpp's own path reports the settings that it would use
    reply = client.look(client.url.removesuffix("/v1") + "/completion", {"prompt": DRAW, "n_predict": 1, **sent})
    if isinstance(settings := reply.get("generation_settings"), dict):
        used = {name: settings[name] for name in sent if name in settings}
        same = {**sent, "top_k": 0}  # as it reports -1
        wrong = [f"{name} {value}" for name, value in used.items() if value not in (sent[name], same[name])]
        return f"{MODIFIED} (reported: {', '.join(wrong)})" if wrong else f"{UNMODIFIED} (reported by the server)"
    shown: dict[str, Any] = {"logprobs": True, "top_logprobs": TOP} if "messages" in body(1) else {"logprobs": TOP}
    choices: list[Choice] = []
    try:
        (greedy,) = client.ask(path, body(1, temperature=0, **shown))[:1]
        for number in range(ROUNDS):
            settings = {"temperature": 1, "top_p": 1, "seed": number, **({"n": n} if n > 1 else {})}
            choices += client.ask(path, body(LENGTH, **settings, **shown))
            before, after = (dict(choice.top[0]) if choice.top else {} for choice in (greedy, choices[0]))
            if not before or not after:
                break
            if any(abs(after.get(token, value) - value) > SAME for token, value in before.items()):
                return f"{UNKNOWN} (its log-probabilities change with the temperature)"
            if (found := measure(choices)) is not None:
                return found
        else:
            return f"{UNKNOWN} (too few unlikely tokens)"
    except RequestFailed:
        pass
    if "generation_config" in sent and len(sent) < len(NEUTRAL):  # it refuses unknown fields, and accepts this one
        return f"{UNMODIFIED} (accepted by `transformers serve`)"
    return f"{UNKNOWN} (it returns no log-probabilities of the {TOP} most likely tokens)"


def measure(choices: Iterable[Choice]) -> str | None:
    """Compare how often texts at temperature 1 leave the most likely tokens, and repeat tokens, with the probability of
    both. None if there are too few tokens to decide.

    The bounds are Freedman's for martingales (1975), with a probability of 1e-5 of a false alarm.
    """
    counts = {"unlikely": [0.0, 0.0, 0.0], "repeated": [0.0, 0.0, 0.0]}  # observed, expected, variance
    for choice in choices:
        seen: set[str] = set()
        for token, pairs in zip(choice.pieces, choice.top, strict=False):
            top = dict(sorted(pairs, key=lambda pair: -pair[1])[:TOP])  # vLLM adds the sampled token
            if len(top) == TOP and not any("\ufffd" in name or name.startswith("bytes:") for name in top):
                inside = sum(map(math.exp, top.values()))
                again = sum(math.exp(value) for name, value in top.items() if name in seen)
                for name, event, p in (
                    ("unlikely", token not in top, 1 - inside),
                    ("repeated", token in top and token in seen, again),
                ):
                    p = min(max(p, 0.0), 1.0)
                    counts[name] = [a + b for a, b in zip(counts[name], (event, p, p * (1 - p)), strict=True)]
            seen.add(token)
    for name, (observed, expected, variance) in counts.items():
        bound = CERTAIN / 3 + math.sqrt(CERTAIN**2 / 9 + 2 * CERTAIN * variance)
        if abs(observed - expected) > bound:
            return f"{MODIFIED} (measured: {observed:.0f} {name} tokens, {expected:.0f} expected)"
        if name == "unlikely":
            decided = bound < PRECISION * expected
    return f"{UNMODIFIED} (measured)" if decided else None
