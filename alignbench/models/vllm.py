"""An engine that hands the work to vLLM on a GPU (the extra `vllm`), with our own tokens.

Texts are encoded by `Encoder`, exactly as for the local engine, and vLLM is given token ids. It shares the prefill of
one prompt's samples and of common prefixes by its prefix cache, which it leaves unread where log-probabilities of the
prompt are asked for. Entropies are not offered: vLLM gives the log-probability of the token that it drew, not the
distribution. Samples are seeded, one by one; they may still change with the batch that vLLM makes, since its sums do.

Written against the documented interface of vLLM 0.32 (LLM, SamplingParams, RequestOutput, CompletionOutput, Logprob).
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
from alignbench.types.engine import Completion, Finish, Loglikelihood, Prompt, Request, Sampling

CHUNK = 512  # prompts handed over at once: enough to keep vLLM's batch full, and what a killed run loses
DTYPES = ("float32", "bfloat16", "float16")
NO_ENTROPIES = "vLLM tells log-probabilities of single tokens and no entropies: use the local engine"


def load_vllm(checkpoint: Checkpoint, *, dtype: str, window: int | None = None, gpus: int = 1) -> VllmEngine:
    """Load a checkpoint into vLLM.

    window: longest sequence in tokens, where the GPU has no room for the checkpoint's own
    gpus: number of GPUs that share the weights

    Raises AlignbenchError where vLLM is not installed, or cannot load the checkpoint.
    """
    if checkpoint.custom_code:
        raise AlignbenchError(f"checkpoint {checkpoint.name}: custom code runs in the local engine alone, not in vLLM")
    if dtype not in DTYPES:
        raise AlignbenchError(f"checkpoint {checkpoint.name}: vLLM has no {dtype}; set --dtype to {', '.join(DTYPES)}")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would report the model to its makers
    try:
        from vllm import LLM
    except ImportError as error:
        raise AlignbenchError(
            f"vLLM is not here ({first_line(error)}): pip install 'alignbench[vllm]' on a machine with a GPU"
        ) from error
    from transformers import AutoTokenizer

    window = window or checkpoint.window
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, trust_remote_code=False, local_files_only=True)
        llm = LLM(
            model=str(checkpoint.path),
            dtype=dtype,
            trust_remote_code=False,
            load_format="safetensors",
            enable_prefix_caching=True,
            tensor_parallel_size=gpus,
            max_model_len=window,
            generation_config="vllm",  # not the checkpoint's own temperature and top-p
            logprobs_mode="raw_logprobs",  # of the model itself, before temperature and top-p
            seed=0,
        )
    except Exception as error:  # vLLM raises whatever its parts raise: all of it is about this checkpoint and GPU
        raise AlignbenchError(f"checkpoint {checkpoint.name}: vLLM does not load it ({first_line(error)})") from error
    return VllmEngine(llm, Encoder(tokenizer), window=window)


class VllmEngine:
    """See `Engine`. llm: a `vllm.LLM`; window: the longest sequence that it takes, in tokens (None: it will tell)."""

    scores = True

    def __init__(self, llm: Any, encoder: Encoder, *, window: int | None) -> None:
        self.llm = llm
        self.encoder = encoder
        self.window = window
        self.chat_template = bool(encoder.tokenizer.chat_template)
        self._work = {"tokens_asked": 0, "tokens_cached": 0, "tokens_written": 0}

    def work(self) -> dict[str, int | str]:
        """Tokens of prompts, how many of them came from the prefix cache, and tokens written."""
        return {**self._work}

    def loglikelihood(
        self, requests: Sequence[Request], wanted: Collection[int] | None = None
    ) -> Iterator[tuple[int, Loglikelihood]]:
        """See `Engine.loglikelihood`. vLLM makes its own batches, and needs room for one token after the sequence:
        the longest that can be scored has one token less than the window. Raises AlignbenchError where entropies are
        asked for."""
        if any(request.entropies for request in requests):
            raise AlignbenchError(NO_ENTROPIES)
        from vllm import SamplingParams

        indices = [i for i in range(len(requests)) if wanted is None or i in wanted]
        for chunk in _chunks(indices):
            texts = self.encoder.pairs([requests[i] for i in chunk])
            sequences: dict[int, list[int]] = {}
            contexts: dict[int, int] = {}
            for index, encoded in zip(chunk, texts, strict=True):
                if encoded is None:
                    failure: str | None = "the tokenizer has no token that could begin an empty context"
                elif encoded.context_length == 0:
                    failure = "the context has no tokens"
                elif len(encoded.tokens) <= encoded.context_length:
                    failure = "the continuation has no tokens"
                else:
                    failure = self._misfit(len(encoded.tokens))
                if failure or encoded is None:
                    yield index, Loglikelihood(math.nan, 0, failure)
                    continue
                sequences[index], contexts[index] = encoded.tokens.tolist(), encoded.context_length
            # 0: the log-probability of the prompt's own token alone
            params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
            outputs = self._run(list(sequences.values()), [params] * len(sequences))
            for (index, tokens), output in zip(sequences.items(), outputs, strict=True):
                yield index, _score(output, tokens, contexts[index])

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int = 0, chat: bool = False
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """See `Engine.generate`. A prompt that leaves no room for a token comes back unscored. Raises AlignbenchError
        where top entropies are asked for."""
        if sampling.top_entropies:
            raise AlignbenchError(NO_ENTROPIES)
        from vllm import SamplingParams

        greedy = sampling.temperature == 0
        samples = 1 if greedy else sampling.samples
        for chunk in _chunks(range(len(prompts))):
            encoded = self._contexts([prompts[i].text for i in chunk], chat)
            sequences: dict[int, list[int]] = {}
            params = []
            for index, tokens in zip(chunk, encoded, strict=True):
                failure = "the tokenizer has no token that could begin an empty prompt"
                misfit = failure if not tokens else self._misfit(len(tokens))
                if misfit:
                    yield index, (_lost(misfit),) * samples
                    continue
                sequences[index] = tokens
                params.append(
                    SamplingParams(
                        n=samples,
                        temperature=sampling.temperature,
                        top_p=1.0 if greedy else sampling.top_p,
                        top_k=-1,
                        max_tokens=sampling.max_tokens,
                        stop=list(sampling.stop),
                        seed=None if greedy else prompt_seed(seed, prompts[index].key),
                        logprobs=0,  # of the drawn token alone
                    )
                )
            outputs = self._run(list(sequences.values()), params)
            for index, output in zip(sequences, outputs, strict=True):
                yield index, self._completions(output, samples, sampling.stop)

    def _contexts(self, texts: Sequence[str], chat: bool) -> list[list[int]]:
        """Token ids of each prompt; none where an empty one finds nothing to begin with."""
        if not chat:
            return [[] if tokens is None else tokens.tolist() for tokens in self.encoder.contexts(texts)]
        if not self.chat_template:
            raise AlignbenchError("the tokenizer has no chat template: ask without one")
        tokenizer = self.encoder.tokenizer
        return [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=True, return_dict=False
            )
            for text in texts
        ]

    def _misfit(self, tokens: int) -> str | None:
        if self.window is not None and tokens >= self.window:
            return f"{tokens} tokens do not fit vLLM's window of {self.window} and leave room for one more"
        return None

    def _run(self, sequences: list[list[int]], params: list[Any]) -> list[Any]:
        """A RequestOutput for each sequence, or why vLLM refuses it. It refuses a whole batch for one of them, so the
        batch is halved until that one is alone."""
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
                raise RuntimeError("vLLM answered another prompt than the one that it was given")
            self._work["tokens_asked"] += len(sequence)
            self._work["tokens_cached"] += output.num_cached_tokens or 0
            self._work["tokens_written"] += sum(len(choice.token_ids) for choice in output.outputs)
        return list(outputs)

    def _completions(self, output: Any, samples: int, stop: Sequence[str]) -> tuple[Completion, ...]:
        if isinstance(output, str):
            return (_lost(output),) * samples
        written = [_completion(choice, stop) for choice in sorted(output.outputs, key=lambda choice: choice.index)]
        missing = samples - len(written)
        return (*written[:samples], *[_lost("vLLM gave fewer samples than it was asked for")] * missing)


def prompt_seed(seed: int, key: str) -> int:
    """A seed of 62 bits for a prompt; vLLM adds a sample's number to it."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{key}".encode()).digest()[:8], "big") >> 2


def _score(output: Any, tokens: Sequence[int], context: int) -> Loglikelihood:
    count = len(tokens) - context
    if isinstance(output, str):
        return Loglikelihood(math.nan, 0, output)
    found = output.prompt_logprobs
    if found is None or len(found) != len(tokens):
        return Loglikelihood(math.nan, count, "vLLM gave no log-probabilities of the prompt")
    values = [_logprob(found[at], tokens[at]) for at in range(context, len(tokens))]
    total = math.fsum(values) if all(map(math.isfinite, values)) else math.nan
    if math.isnan(total):
        return Loglikelihood(math.nan, count, "a log-probability of vLLM's is not a number")
    return Loglikelihood(total, count)


def _completion(choice: Any, stop: Sequence[str]) -> Completion:
    """Cut before the first stop string: where one token completes several, vLLM may have stopped at a later one."""
    if choice.finish_reason not in ("stop", "length"):
        return _lost(f"vLLM ended it with {choice.finish_reason!r}")
    text = choice.text
    finish: Finish = "length" if choice.finish_reason == "length" else "end"
    if finish == "end" and isinstance(choice.stop_reason, str):
        finish = "stop"
    found = [at for string in stop if (at := text.find(string)) >= 0]
    if found:
        text, finish = text[: min(found)], "stop"
    tokens = tuple(choice.token_ids)
    per_token = choice.logprobs or []
    logprobs: tuple[float, ...] = ()
    if len(per_token) == len(tokens):
        logprobs = tuple(_logprob(entry, token) for entry, token in zip(per_token, tokens, strict=True))
    if not all(map(math.isfinite, logprobs)):
        return _lost("a log-probability of vLLM's is not a number")
    return Completion(text, finish, tokens, logprobs)


def _logprob(entry: Any, token: int) -> float:
    """Of one token among those of its position (token id -> Logprob); NaN where it is not there."""
    return float(entry[token].logprob) if entry is not None and token in entry else math.nan


def _lost(reason: str | None) -> Completion:
    return Completion("", "end", unscored=reason)


def _chunks(indices: Sequence[int]) -> Iterator[Sequence[int]]:
    for at in range(0, len(indices), CHUNK):
        yield indices[at : at + CHUNK]
