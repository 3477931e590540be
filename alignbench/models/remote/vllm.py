"""An engine that runs vLLM on a GPU (the extra `vllm`), with our own tokenisation.

Texts are encoded by `Encoder`, exactly as for the local engine, and vLLM receives token ids. Its prefix cache shares
the prefill of a prompt's samples and of common prefixes, unless log-probabilities of the prompt are requested.
Entropies are not supported: vLLM returns the log-probability of the sampled token, not the distribution. Each sample is
seeded, but may still change with the batch that vLLM forms, since its floating-point sums do.

Written for the documented interface of vLLM 0.32 (LLM, SamplingParams, RequestOutput, CompletionOutput, Logprob).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from alignbench.errors import AlignbenchError, first_line
from alignbench.models.checkpoint import Checkpoint
from alignbench.models.encode import Encoder
from alignbench.models.generate.decoding import find_stop
from alignbench.types.engine import Completion, Finish, Loglikelihood, Prompt, Request, Sampling

CHUNK = 512  # prompts per call: enough to fill vLLM's batch, and the most that a killed run loses
DTYPES = ("float32", "bfloat16", "float16")
NO_ENTROPIES = "vLLM returns log-probabilities of single tokens and no entropies: use the local engine"
NOT_FINITE = "a log-probability from vLLM is not a number"


def load_vllm(checkpoint: Checkpoint, *, dtype: str) -> VllmEngine:
    """Load a checkpoint into vLLM. Raises AlignbenchError if vLLM is not installed or cannot load the checkpoint."""
    if checkpoint.custom_code:
        raise AlignbenchError(f"checkpoint {checkpoint.name}: custom code runs in the local engine only, not in vLLM")
    if dtype not in DTYPES:
        raise AlignbenchError(f"checkpoint {checkpoint.name}: vLLM has no {dtype}; set --dtype to {', '.join(DTYPES)}")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would report the model to its developers
    try:
        from vllm import LLM
    except ImportError as error:
        raise AlignbenchError(
            f"vLLM is not installed ({first_line(error)}): pip install 'alignbench[vllm]' on a machine with a GPU"
        ) from error
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, trust_remote_code=False, local_files_only=True)
        llm = LLM(
            model=str(checkpoint.path),
            dtype=dtype,
            trust_remote_code=False,
            load_format="safetensors",
            enable_prefix_caching=True,
            max_model_len=checkpoint.window,
            generation_config="vllm",  # not the checkpoint's own temperature and top-p
            logprobs_mode="raw_logprobs",  # of the model itself, before temperature and top-p
            seed=0,
        )
    except Exception as error:  # vLLM raises errors of many kinds, all about this checkpoint and GPU
        raise AlignbenchError(f"checkpoint {checkpoint.name}: vLLM cannot load it ({first_line(error)})") from error
    return VllmEngine(llm, Encoder(tokenizer), window=checkpoint.window)


class VllmEngine:
    """See `Engine`. llm: a `vllm.LLM`; window: maximum sequence length in tokens (None: vLLM refuses longer ones)"""

    scores = True

    def __init__(self, llm: Any, encoder: Encoder, *, window: int | None) -> None:
        self.llm = llm
        self.encoder = encoder
        self.window = window
        self.chat_template = bool(encoder.tokenizer.chat_template)
        self._work = {"tokens_asked": 0, "tokens_cached": 0, "tokens_generated": 0}

    def work(self) -> dict[str, int | str]:
        """Tokens of prompts, those of them found in the prefix cache, and generated tokens."""
        return {**self._work}

    def loglikelihood(
        self, requests: Sequence[Request], only: Collection[int] | None = None
    ) -> Iterator[tuple[int, Loglikelihood]]:
        """See `Engine.loglikelihood`. vLLM forms its own batches and needs room for one token after the sequence, so a
        sequence must be shorter than the window. Raises AlignbenchError if entropies are requested."""
        if any(request.entropies for request in requests):
            raise AlignbenchError(NO_ENTROPIES)
        from vllm import SamplingParams

        # prompt_logprobs=0: the log-probability of the prompt's own token only
        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        for chunk in _chunks([i for i in range(len(requests)) if only is None or i in only]):
            sequences: dict[int, list[int]] = {}
            contexts: dict[int, int] = {}
            for index, encoded in zip(chunk, self.encoder.pairs([requests[i] for i in chunk]), strict=True):
                reason = encoded if isinstance(encoded, str) else self._misfit(len(encoded.tokens))
                if reason or isinstance(encoded, str):
                    yield index, Loglikelihood.failed(str(reason))
                    continue
                sequences[index], contexts[index] = encoded.tokens.tolist(), encoded.context_length
            outputs = self._run(list(sequences.values()), [params] * len(sequences))
            for (index, tokens), output in zip(sequences.items(), outputs, strict=True):
                yield index, _score(output, tokens, contexts[index])

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int = 0, chat: bool = False
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """See `Engine.generate`. A prompt that leaves no room for a token is returned unscored. Raises AlignbenchError
        if top entropies are requested."""
        if sampling.top_entropies:
            raise AlignbenchError(NO_ENTROPIES)
        from vllm import SamplingParams

        greedy = sampling.temperature == 0
        samples = 1 if greedy else sampling.samples
        for chunk in _chunks(range(len(prompts))):
            sequences: dict[int, list[int]] = {}
            params = []
            for index, tokens in zip(
                chunk, self.encoder.prompts([prompts[i].text for i in chunk], chat=chat), strict=True
            ):
                reason = tokens if isinstance(tokens, str) else self._misfit(len(tokens))
                if reason or isinstance(tokens, str):
                    yield index, (_failed(str(reason)),) * samples
                    continue
                sequences[index] = tokens.tolist()
                params.append(
                    SamplingParams(
                        n=samples,
                        temperature=sampling.temperature,
                        top_p=1.0 if greedy else sampling.top_p,
                        top_k=-1,
                        max_tokens=sampling.max_tokens,
                        stop=list(sampling.stop),
                        seed=None if greedy else prompt_seed(seed, prompts[index].key),
                        logprobs=0,  # of the sampled token only
                    )
                )
            outputs = self._run(list(sequences.values()), params)
            for index, output in zip(sequences, outputs, strict=True):
                yield index, _completions(output, samples, sampling.stop)

    def _misfit(self, tokens: int) -> str | None:
        if self.window is not None and tokens >= self.window:
            return f"{tokens} tokens and one more do not fit vLLM's window of {self.window}"
        return None

    def _run(self, sequences: list[list[int]], params: list[Any]) -> list[Any]:
        """A RequestOutput for each sequence, or the reason why vLLM refuses it. vLLM refuses a whole batch because of
        one sequence, so the batch is halved until that sequence is alone."""
        if not sequences:
            return []
        try:
            outputs = self.llm.generate([{"prompt_token_ids": s} for s in sequences], params, use_tqdm=False)
        except ValueError as error:
            if len(sequences) == 1:
                return [f"vLLM refuses it: {first_line(error)}"]
            middle = len(sequences) // 2
            return self._run(sequences[:middle], params[:middle]) + self._run(sequences[middle:], params[middle:])
        for sequence, output in zip(sequences, outputs, strict=True):
            if list(output.prompt_token_ids or ()) != sequence:
                raise RuntimeError("vLLM returned the output of another prompt")
            self._work["tokens_asked"] += len(sequence)
            self._work["tokens_cached"] += output.num_cached_tokens or 0
            self._work["tokens_generated"] += sum(len(choice.token_ids) for choice in output.outputs)
        return list(outputs)


def prompt_seed(seed: int, key: str) -> int:
    """A 62-bit seed for a prompt, to which vLLM adds the number of a sample."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{key}".encode()).digest()[:8], "big") >> 2


def _score(output: Any, tokens: Sequence[int], context: int) -> Loglikelihood:
    if isinstance(output, str):
        return Loglikelihood.failed(output)
    count, found = len(tokens) - context, output.prompt_logprobs
    if found is None or len(found) != len(tokens):
        return Loglikelihood.failed("vLLM returned no log-probabilities of the prompt", count)
    values = [_logprob(found[at], tokens[at]) for at in range(context, len(tokens))]
    if not all(map(math.isfinite, values)):
        return Loglikelihood.failed(NOT_FINITE, count)
    return Loglikelihood(math.fsum(values), count)


def _completions(output: Any, samples: int, stop: Sequence[str]) -> tuple[Completion, ...]:
    if isinstance(output, str):
        return (_failed(output),) * samples
    found = [_completion(choice, stop) for choice in sorted(output.outputs, key=lambda choice: choice.index)]
    missing = samples - len(found)
    return (*found[:samples], *[_failed("vLLM returned fewer samples than requested")] * missing)


def _completion(choice: Any, stop: Sequence[str]) -> Completion:
    """Cut before the first stop string: if one token completes several, vLLM may have stopped at a later one."""
    if choice.finish_reason not in ("stop", "length"):
        return _failed(f"vLLM ended it with {choice.finish_reason!r}")
    text = choice.text
    finish: Finish = "length" if choice.finish_reason == "length" else "end"
    if finish == "end" and isinstance(choice.stop_reason, str):
        finish = "stop"
    if found := find_stop(text, stop):
        text, finish = text[: found[0]], "stop"
    tokens = tuple(choice.token_ids)
    per_token = choice.logprobs or []
    logprobs: tuple[float, ...] = ()
    if len(per_token) == len(tokens):
        logprobs = tuple(map(_logprob, per_token, tokens))
    if not all(map(math.isfinite, logprobs)):
        return _failed(NOT_FINITE)
    return Completion(text, finish, tokens, logprobs)


def _logprob(entry: Any, token: int) -> float:
    """The log-probability of a token at its position (token id -> Logprob), NaN if it is missing."""
    return float(entry[token].logprob) if entry is not None and token in entry else math.nan


def _failed(reason: str) -> Completion:
    return Completion("", "end", unscored=reason)


def _chunks(indices: Sequence[int]) -> Iterator[Sequence[int]]:
    for at in range(0, len(indices), CHUNK):
        yield indices[at : at + CHUNK]
