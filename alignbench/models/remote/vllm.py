"""An engine that runs vLLM on a GPU (the extra `vllm`), with our own tokenisation. A LoRA adapter is applied by vLLM.

Texts are encoded by `Encoder`, exactly as for the local engine, and vLLM receives token ids. Each sample is seeded, but
may still change with the batch that vLLM forms, since its floating-point sums do.
Tested with vLLM 0.32 on a CPU (tests/test_real_vllm.py), where it scores whole prompts. On a GPU, vLLM's second model
runner scores the continuation alone, after a context that may be cached.
"""

import hashlib
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from alignbench.errors import AlignbenchError, first_line
from alignbench.models.checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Checkpoint, CheckpointError
from alignbench.models.encode import Encoded, Encoder, Tokens
from alignbench.models.generate.decoding import end_tokens
from alignbench.models.load import load_tokenizer
from alignbench.models.remote.replies import Choice, completion
from alignbench.types.engine import Completion, Loglikelihood, Prompt, Request, Sampling

if TYPE_CHECKING:
    import torch

CHUNK = 512  # prompts per call: enough to fill vLLM's batch, and the most that a killed run loses
DTYPES = ("float32", "bfloat16", "float16")
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # for which vLLM has kernels
NO_ENTROPIES = "vLLM returns log-probabilities of single tokens and no entropies: use the local engine"
# vllm-project/vllm#51594: a wrong number without a warning. Generated tokens have the right log-probabilities
NO_OUTPUT_LAYER = "vLLM scores given text without the adapter of the output layer (lm_head): use the local engine"
NOT_FINITE = "a log-probability from vLLM is not a number"


def load_vllm(
    checkpoint: Checkpoint,
    *,
    dtype: str,
    template_kwargs: Mapping[str, Any] | None = None,
    system: str | None = None,
    gpus: int | None = None,
    max_model_len: int | None = None,
    gpu_memory_utilization: float | None = None,
    training: bool = False,
) -> "VllmEngine":
    """Load a checkpoint into vLLM. Raises AlignbenchError if vLLM is not installed or cannot load the checkpoint.

    gpus: over which the model is spread; max_model_len: in tokens, None for the most that fit into the memory
    training: vLLM runs in this process, which can then replace the weights (`VllmEngine.follow`), and
        log-probabilities are of the distribution that is sampled from, after temperature, top-k and top-p
    """
    if checkpoint.custom_code:
        raise CheckpointError(checkpoint.name, "custom code runs in the local engine only, not in vLLM")
    if dtype not in DTYPES:
        raise CheckpointError(checkpoint.name, f"vLLM has no {dtype}; set --dtype to {', '.join(DTYPES)}")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would report the model to its developers
    if training:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    try:
        from vllm import LLM
    except ImportError as error:
        message = f"vLLM is not installed ({first_line(error)}): pip install 'alignbench[vllm]' on a machine with a GPU"
        raise AlignbenchError(message) from error
    from transformers import AutoConfig, GenerationConfig

    base = (checkpoint.base or checkpoint).path
    options: dict[str, Any] = {"max_model_len": max_model_len or -1, "enable_prefix_caching": True}
    if gpu_memory_utilization is not None:
        options["gpu_memory_utilization"] = gpu_memory_utilization
    adapter, scores = None, True
    try:
        tokenizer = load_tokenizer(checkpoint)
        config = AutoConfig.from_pretrained(base, local_files_only=True)
        if gpus is not None and gpus > 1:
            tensor = math.gcd(gpus, config.get_text_config().num_attention_heads)
            options |= {"tensor_parallel_size": tensor, "pipeline_parallel_size": gpus // tensor}
        if checkpoint.base is not None:
            from safetensors import safe_open
            from vllm.lora.request import LoRARequest

            with safe_open(checkpoint.path / ADAPTER_WEIGHTS, "np") as stream:
                scores = not any(".lm_head." in name for name in stream.offset_keys())
            settings = json.loads((checkpoint.path / ADAPTER_CONFIG).read_text())
            rank = max(int(settings["r"]), *map(int, (settings.get("rank_pattern") or {}).values()), 0)
            options |= {"enable_lora": True, "max_lora_rank": next((r for r in LORA_RANKS if r >= rank), rank)}
            adapter = LoRARequest("adapter", 1, str(checkpoint.path))
        llm = LLM(
            model=str(base),
            tokenizer=str(checkpoint.tokenizer_path),
            dtype=dtype,
            trust_remote_code=False,
            load_format="safetensors",
            generation_config="vllm",  # not the checkpoint's own temperature, top-p or penalties
            # raw: of the model itself, before temperature and top-p
            logprobs_mode="processed_logprobs" if training else "raw_logprobs",
            seed=0,
            **options,
        )
        if adapter is not None:
            llm.llm_engine.add_lora(adapter)
        model = SimpleNamespace(config=config, generation_config=None)
        if checkpoint.generation_config_sha256 is not None:
            model.generation_config = GenerationConfig.from_pretrained(base)
        ends = end_tokens(model, tokenizer)
    except AlignbenchError:
        raise
    except Exception as error:  # vLLM raises errors of many kinds, all about this checkpoint and GPU
        raise CheckpointError(checkpoint.name, f"vLLM cannot load it ({first_line(error)})") from error
    return VllmEngine(llm, Encoder(tokenizer, template_kwargs, system), ends, adapter, scores)


class VllmEngine:
    """See `Engine`. llm: a `vllm.LLM`; ends: end-of-sequence tokens; adapter: a `LoRARequest`, None without one;
    scores: False if vLLM would score without a part of the adapter"""

    def __init__(
        self, llm: Any, encoder: Encoder, ends: Collection[int], adapter: Any = None, scores: bool = True
    ) -> None:
        self.llm, self.encoder, self.ends, self.adapter, self.scores = llm, encoder, ends, adapter, scores
        self.window = int(llm.llm_engine.model_config.max_model_len)  # in tokens
        self._rows = bool(llm.llm_engine.vllm_config.use_v2_model_runner)  # it scores given rows alone
        self.chat_template = bool(encoder.tokenizer.chat_template)
        self._work = {"tokens_asked": 0, "tokens_cached": 0, "tokens_generated": 0}

    def follow(self, model: Any) -> None:
        """Take the weights of a model in training, and drop what was computed with the old ones. Needs `training`.

        model: of transformers, perhaps with LoRA adapters, which are added to the weights of their layers
        """
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": merged_weights(model)})
        if not self.llm.reset_prefix_cache():
            raise AlignbenchError("vLLM did not drop the keys and values of the old weights")

    def work(self) -> dict[str, int | str]:
        """Tokens of prompts, those of them found in the prefix cache, and generated tokens."""
        return {**self._work}

    def loglikelihood(
        self, requests: Sequence[Request], only: Collection[int] | None = None, *, chat: bool = False
    ) -> Iterator[tuple[int, Loglikelihood]]:
        """See `Engine.loglikelihood`. vLLM forms its own batches and needs room for one token after each sequence.
        Raises AlignbenchError if entropies are requested, or if an adapter changes the output layer."""
        if not self.scores:
            raise AlignbenchError(NO_OUTPUT_LAYER)
        if any(request.entropies for request in requests):
            raise AlignbenchError(NO_ENTROPIES)
        from vllm import SamplingParams

        options = {"max_tokens": 1, "temperature": 0.0, "detokenize": False}
        # prompt_logprobs=0: the log-probability of the prompt's own token only
        whole = SamplingParams(**options, prompt_logprobs=0)

        def params(pair: Encoded | str) -> Any:
            if isinstance(pair, str) or not self._rows:
                return whole
            rows = pair.tokens[pair.context_length :, None].tolist()
            own = {"prompt_logprob_token_ids": rows, "prompt_logprob_start": pair.context_length - 1}
            return SamplingParams(**options, **own, skip_reading_prefix_cache=False)

        for chunk in _chunks([i for i in range(len(requests)) if only is None or i in only]):
            pairs = self.encoder.pairs([requests[i] for i in chunk], self._misfit, chat=chat)
            sequences = [pair if isinstance(pair, str) else pair.tokens for pair in pairs]
            outputs = self._run(sequences, [params(pair) for pair in pairs])
            # vLLM returns nothing for a sequence of which it found more than the context in its cache
            fields = ("prompt_logprobs", "prompt_token_id_logprobs")
            again = [at for at, own in enumerate(outputs) if all(getattr(own, name, "") is None for name in fields)]
            repeated = self._run([sequences[at] for at in again], [whole] * len(again))
            for at, output in zip(again, repeated, strict=True):
                outputs[at] = output
            for index, pair, output in zip(chunk, pairs, outputs, strict=True):
                yield index, _score(output, pair)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int = 0, chat: bool = False
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """See `Engine.generate`. Raises AlignbenchError if top entropies are requested."""
        if sampling.top_entropies:
            raise AlignbenchError(NO_ENTROPIES)
        from vllm import SamplingParams

        sampling = self.encoder.expecting_thoughts(sampling, chat)
        thinks = sampling.most_tokens > sampling.max_tokens
        greedy = sampling.temperature == 0
        samples = 1 if greedy else sampling.samples
        ends = {*self.ends, *([self.encoder.end_of_turn] if chat and self.encoder.end_of_turn is not None else [])}
        for chunk in _chunks(range(len(prompts))):
            params = [
                SamplingParams(
                    n=samples,
                    temperature=sampling.temperature,
                    top_p=1.0 if greedy else sampling.top_p,
                    top_k=0 if greedy else sampling.top_k,
                    max_tokens=sampling.most_tokens,
                    # a stop string may be in the thoughts: the answer is cut here
                    stop=[] if thinks else list(sampling.stop),
                    stop_token_ids=sorted(ends),
                    seed=None if greedy else prompt_seed(seed, prompts[index].key),
                    logprobs=0,  # of the sampled token only
                )
                for index in chunk
            ]
            tokens = self.encoder.prompts([prompts[i].text for i in chunk], chat=chat, misfit=self._misfit)
            for index, output in zip(chunk, self._run(tokens, params), strict=True):
                if isinstance(output, str):
                    yield index, (Completion("", "end", unscored=output),) * samples
                else:
                    choices = sorted(output.outputs, key=lambda choice: choice.index)
                    yield index, tuple(_completion(choice, sampling) for choice in choices)

    def _misfit(self, tokens: Tokens) -> str | None:
        if len(tokens) >= self.window:
            return f"{len(tokens)} tokens and one more do not fit vLLM's window of {self.window}"
        return None

    def _run(self, sequences: Sequence[Tokens | str], params: Sequence[Any]) -> list[Any]:
        """A RequestOutput for each sequence, or the reason why there is none."""
        fitting = [(s.tolist(), own) for s, own in zip(sequences, params, strict=True) if not isinstance(s, str)]
        outputs = iter(self._generate([s for s, _ in fitting], [own for _, own in fitting]))
        return [s if isinstance(s, str) else next(outputs) for s in sequences]

    def _generate(self, sequences: list[list[int]], params: list[Any]) -> list[Any]:
        """vLLM refuses a whole batch because of one sequence, so the batch is halved until that one is alone."""
        if not sequences:
            return []
        from vllm.exceptions import VLLMClientError

        try:
            prompts = [{"prompt_token_ids": sequence} for sequence in sequences]
            outputs = self.llm.generate(prompts, params, use_tqdm=False, lora_request=self.adapter)
        except (VLLMClientError, ValueError) as error:
            if len(sequences) == 1:
                return [f"vLLM refuses it: {first_line(error)}"]
            half = len(sequences) // 2
            return self._generate(sequences[:half], params[:half]) + self._generate(sequences[half:], params[half:])
        for sequence, output in zip(sequences, outputs, strict=True):
            self._work["tokens_asked"] += len(sequence)
            self._work["tokens_cached"] += output.num_cached_tokens or 0
            self._work["tokens_generated"] += sum(len(choice.token_ids) for choice in output.outputs)
        return list(outputs)


def merged_weights(model: Any) -> "Iterator[tuple[str, torch.Tensor]]":
    """The weights by their names in a checkpoint, one at a time, with LoRA adapters added to those of their layers."""
    for name, weights in model.named_parameters():
        layer, inner, own = name.rpartition(".base_layer.")
        if inner and own == "weight":
            weights = weights + model.get_submodule(layer).get_delta_weight("default")
        if "lora_" not in name:
            yield (f"{layer}.{own}" if inner else name), weights.detach()


def prompt_seed(seed: int, key: str) -> int:
    """A 62-bit seed for a prompt, to which vLLM adds the number of a sample."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{key}".encode()).digest()[:8], "big") >> 2


def _score(output: Any, pair: Encoded | str) -> Loglikelihood:
    if isinstance(output, str) or isinstance(pair, str):
        return Loglikelihood.failed(str(output))
    context, tokens = pair.context_length, pair.tokens.tolist()
    if output.prompt_logprobs is None:
        values = output.prompt_token_id_logprobs[:, 0].tolist()
    else:
        values = list(map(_logprob, output.prompt_logprobs[context:], tokens[context:]))
    if not all(map(math.isfinite, values)):
        return Loglikelihood.failed(NOT_FINITE, len(values))
    return Loglikelihood(math.fsum(values), len(values), note=pair.note)


def _completion(choice: Any, sampling: Sampling) -> Completion:
    if choice.finish_reason not in ("stop", "length"):
        return Completion("", "end", unscored=f"vLLM ended it with {choice.finish_reason!r}")
    tokens = tuple(choice.token_ids)
    logprobs = tuple(map(_logprob, choice.logprobs, tokens))
    if not all(map(math.isfinite, logprobs)):
        return Completion("", "end", unscored=NOT_FINITE)
    # if one token completes several stop strings, vLLM may have stopped at a later one
    whole = Choice(choice.text, choice.finish_reason, choice.stop_reason, (), ())
    found = completion(whole, sampling.stop, sampling.thinking)
    if found.unscored or (sampling.thinking is not None and found.text != choice.text):
        return found  # vLLM's tokens are also those of thoughts, or of text after a stop string
    return replace(found, tokens=tokens, logprobs=logprobs)


def _logprob(entry: Any, token: int) -> float:
    """entry: token id -> Logprob"""
    return float(entry[token].logprob) if entry is not None and token in entry else math.nan


def _chunks(indices: Sequence[int]) -> Iterator[Sequence[int]]:
    return (indices[at : at + CHUNK] for at in range(0, len(indices), CHUNK))
