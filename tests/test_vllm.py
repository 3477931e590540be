"""The vLLM engine, with a fake `vllm` module that has its documented interface and computes with a tiny model."""

import dataclasses
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import cases
from tiny import save_tiny_checkpoint, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignbench.errors import AlignbenchError
from alignbench.models.checkpoint import find_checkpoint
from alignbench.models.encode import common_length
from alignbench.models.load import load_engine
from alignbench.models.remote import vllm as engine_module
from alignbench.models.remote.vllm import load_vllm, prompt_seed
from alignbench.types.engine import Prompt, Request, Sampling, Thinking

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(["The doctor", "Question: Is it safe?", "What do bees"])]
REQUESTS = [*(Request(*texts) for texts in cases("requests")), Request("The hive", "")]
DRAWN = Sampling(max_tokens=8, samples=4, temperature=1.0, top_p=0.9)


# the parameters of vLLM 0.32 that are used here
DEFAULTS = {"n": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": None, "stop": None, "max_tokens": 16}
DEFAULTS |= {"stop_token_ids": None, "logprobs": None, "prompt_logprobs": None, "detokenize": True}
DEFAULTS |= {"prompt_logprob_token_ids": None, "prompt_logprob_start": None, "skip_reading_prefix_cache": None}
SamplingParams = dataclasses.make_dataclass("SamplingParams", [(name, object, DEFAULTS[name]) for name in DEFAULTS])
BLOCK = 4  # tokens of a block of the prefix cache


class VLLMClientError(Exception):
    """vllm.exceptions.VLLMClientError, which is no ValueError"""


class VLLMValidationError(VLLMClientError):
    pass


LoRARequest = dataclasses.make_dataclass("LoRARequest", ["lora_name", "lora_int_id", "lora_path"])


class LLM:
    """vllm.LLM. refuse: of a prompt's ids; spoil: an output; fits: tokens for which there is memory; second: the second
    model runner"""

    refuse, spoil, fits, second = lambda ids: False, lambda output: None, 64, False

    def __init__(
        self, model, *, tokenizer, dtype, trust_remote_code, load_format, enable_prefix_caching, max_model_len,
        generation_config, logprobs_mode, seed, **options,
    ):  # fmt: skip
        self.settings = dict(locals()) | options
        self.calls, self.seen, self.adapters = [], [], []
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        self.limit = LLM.fits if max_model_len == -1 else max_model_len
        self.llm_engine = SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=self.limit),
            vllm_config=SimpleNamespace(use_v2_model_runner=LLM.second),
            add_lora=self._add_lora,
        )

    def _add_lora(self, request):
        assert self.settings["enable_lora"]
        self.adapters.append(request)
        self.model.load_adapter(request.lora_path)

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None):
        assert self.adapters == [lora_request] * ("enable_lora" in self.settings)
        self.calls.append((prompts, sampling_params))
        sequences = [prompt["prompt_token_ids"] for prompt in prompts]
        for ids, params in zip(sequences, sampling_params, strict=True):
            rows, start = params.prompt_logprob_token_ids, params.prompt_logprob_start
            if rows is not None and (not LLM.second or rows == [] or len(rows) != len(ids) - 1 - start):
                raise VLLMValidationError("prompt_logprob_token_ids has other rows than the prompt")
            if len(ids) >= self.limit or LLM.refuse(ids):
                raise VLLMValidationError("The decoder prompt is too long\nand more lines")
        outputs = []
        for ids, params in zip(sequences, sampling_params, strict=True):
            cached = self._cached(ids) if params.skip_reading_prefix_cache is False else 0
            read = None if params.prompt_logprobs is None else self._read(ids)
            rows = self._rows(ids, params) if cached <= (params.prompt_logprob_start or 0) else None
            written = [self._write(ids, params, k) for k in reversed(range(params.n))]  # they finish in any order
            found = {"prompt_token_ids": ids, "prompt_logprobs": read, "prompt_token_id_logprobs": rows}
            outputs.append(SimpleNamespace(**found, outputs=written, num_cached_tokens=3))
            LLM.spoil(outputs[-1])
            self.seen.append(ids)
        return outputs

    def _cached(self, ids):
        """Tokens found in the cache: whole blocks, and never the last token."""
        shared = [common_length(np.array(ids[:-1]), np.array(old)) for old in self.seen]
        return max(shared, default=0) // BLOCK * BLOCK

    def _rows(self, ids, params):
        if params.prompt_logprob_token_ids is None:
            return None
        rows = self._logprobs(ids)[params.prompt_logprob_start : -1]
        return rows.gather(-1, torch.tensor(params.prompt_logprob_token_ids)).numpy()

    @torch.no_grad()
    def _logprobs(self, ids):
        return torch.log_softmax(self.model(torch.tensor([ids])).logits[0].float(), -1)

    def _read(self, ids):
        rows = self._logprobs(ids)
        return [None] + [{ids[i]: SimpleNamespace(logprob=float(rows[i - 1, ids[i]]))} for i in range(1, len(ids))]

    def _write(self, ids, params, index):
        torch.manual_seed((params.seed or 0) + index)
        options = {"do_sample": params.temperature > 0, "max_new_tokens": params.max_tokens}
        new = self.model.generate(torch.tensor([ids]), **options)[0, len(ids) :].tolist()
        rows = zip(new, self._logprobs(ids + new)[len(ids) - 1 : -1], strict=True)
        ended = {"finish_reason": "stop" if new[-1] == self.tokenizer.eos_token_id else "length", "stop_reason": None}
        logprobs = [{token: SimpleNamespace(logprob=float(row[token]))} for token, row in rows]
        text = self.tokenizer.decode(new, skip_special_tokens=True)
        return SimpleNamespace(index=index, text=text, token_ids=new, logprobs=logprobs, **ended)


@pytest.fixture(autouse=True)
def _vllm(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=LLM, SamplingParams=SamplingParams))
    monkeypatch.setitem(sys.modules, "vllm.exceptions", SimpleNamespace(VLLMClientError=VLLMClientError))
    monkeypatch.setitem(sys.modules, "vllm.lora.request", SimpleNamespace(LoRARequest=LoRARequest))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "[{{ messages[0].role }}] {{ messages[0].content }}\n[model]"
    tokenizer.chat_template += "{% if messages|length > 1 %}{{ messages[1].content }}<pad>{% endif %}"
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def engine(_vllm, folder):
    return load_vllm(find_checkpoint(str(folder)), dtype="float32")


def test_scores_are_those_of_the_local_engine(engine, folder):
    expected = {"trust_remote_code": False, "load_format": "safetensors", "enable_prefix_caching": True}
    expected |= {"model": str(folder), "generation_config": "vllm", "dtype": "float32", "max_model_len": -1}
    assert expected.items() <= engine.llm.settings.items()
    local = load_engine(find_checkpoint(str(folder)), dtype="float32", device="cpu")
    theirs, ours = dict(engine.loglikelihood(REQUESTS)), dict(local.loglikelihood(REQUESTS))
    assert theirs.keys() == ours.keys()
    for index, expected in ours.items():
        assert (theirs[index].tokens, theirs[index].unscored) == (expected.tokens, expected.unscored)
        assert theirs[index].logprob == pytest.approx(expected.logprob, abs=1e-4, nan_ok=True)
    engine.llm.calls.clear()
    assert repr(list(engine.loglikelihood(REQUESTS, only={1, 3}))) == repr([(1, theirs[1]), (3, theirs[3])])
    ((prompts, params),) = engine.llm.calls
    assert len(prompts) == 2
    assert {(p.prompt_logprobs, p.max_tokens, p.logprobs) for p in params} == {(0, 1, None)}, "of the prompt's tokens"


def test_the_second_model_runner_scores_the_continuation_alone_after_a_cached_context(engine, folder, monkeypatch):
    expected = dict(engine.loglikelihood(REQUESTS))
    monkeypatch.setattr(LLM, "second", True)
    engine = load_vllm(find_checkpoint(str(folder)), dtype="float32")
    first, again = (dict(engine.loglikelihood(REQUESTS)) for _ in range(2))
    for index, answer in expected.items():
        for found in (first[index], again[index]):
            assert (found.tokens, found.unscored) == (answer.tokens, answer.unscored)
            assert found.logprob == pytest.approx(answer.logprob, abs=1e-4, nan_ok=True)
    (_, params), *_ = engine.llm.calls
    assert {(own.prompt_logprobs, own.skip_reading_prefix_cache) for own in params} == {(None, False)}
    (_, repeated) = engine.llm.calls[-1]  # the cache held more than their contexts
    assert {own.prompt_logprobs for own in repeated} == {0}


def test_memory_and_gpus_reach_vllm(folder):
    checkpoint = find_checkpoint(str(folder))
    engine = load_vllm(checkpoint, dtype="float32", gpus=8, max_model_len=32, gpu_memory_utilization=0.5)
    assert engine.window == 32
    expected = {"tensor_parallel_size": 4, "pipeline_parallel_size": 2, "gpu_memory_utilization": 0.5}
    assert expected.items() <= engine.llm.settings.items(), "four attention heads"


def test_an_adapter_is_applied_by_vllm(folder, tmp_path):
    pytest.importorskip("peft", reason="the extra `adapters` is not installed")
    from test_adapters import save_adapter

    checkpoint = find_checkpoint(str(save_adapter(folder, tmp_path / "tuned", r=9)))
    engine, local = load_vllm(checkpoint, dtype="float32"), load_engine(checkpoint, dtype="float32", device="cpu")
    assert {"model": str(folder), "max_lora_rank": 16}.items() <= engine.llm.settings.items()
    theirs, ours = dict(engine.loglikelihood(REQUESTS)), dict(local.loglikelihood(REQUESTS))
    for index, expected in ours.items():
        assert theirs[index].logprob == pytest.approx(expected.logprob, abs=1e-4, nan_ok=True)


def test_an_adapter_of_the_output_layer_generates_and_does_not_score(folder, tmp_path):
    pytest.importorskip("peft", reason="the extra `adapters` is not installed")
    from test_adapters import save_adapter

    adapted = save_adapter(folder, tmp_path / "tuned", target_modules=["lm_head", "q_proj"])
    engine = load_vllm(find_checkpoint(str(adapted)), dtype="float32")
    with pytest.raises(AlignbenchError, match=r"output layer.*local engine"):
        next(engine.loglikelihood(REQUESTS))
    assert len(list(engine.generate(PROMPTS, Sampling(2)))) == len(PROMPTS)


def test_a_prompt_that_is_refused_or_has_no_finite_log_probability_affects_no_other(engine, monkeypatch):
    bad = engine.encoder.pairs([REQUESTS[1]])[0].tokens.tolist()
    expected = dict(engine.loglikelihood(REQUESTS))

    def spoil(output):
        if output.prompt_token_ids == bad:
            output.prompt_logprobs[-1][bad[-1]].logprob = -math.inf

    monkeypatch.setattr(LLM, "spoil", spoil)
    infinite = dict(engine.loglikelihood(REQUESTS))
    monkeypatch.setattr(LLM, "refuse", lambda ids: ids == bad)
    refused = dict(engine.loglikelihood(REQUESTS))
    assert infinite[1].unscored == "a log-probability from vLLM is not a number"
    assert refused[1].unscored == "vLLM refuses it: The decoder prompt is too long"
    for answers in (infinite, refused):
        assert repr(answers | {1: expected[1]}) == repr(expected)


def test_greedy_decoding_takes_the_most_likely_token_once(engine):
    for index, (found,) in engine.generate(PROMPTS, Sampling(max_tokens=6, samples=5)):
        ids = engine.encoder.contexts([PROMPTS[index].text])[0].tolist()
        rows = engine.llm._logprobs([*ids, *found.tokens])[len(ids) - 1 : -1]
        assert list(found.tokens) == rows.argmax(-1).tolist()
        assert found.logprobs == pytest.approx(rows.amax(-1).tolist(), abs=1e-4)
        assert found.entropies == ()


def test_samples_depend_on_the_seed_and_the_key_and_not_on_the_order(engine):
    forwards = dict(engine.generate(PROMPTS, DRAWN, seed=3))
    prompts, params = engine.llm.calls[0]
    backwards = dict(engine.generate(PROMPTS[::-1], DRAWN, seed=3))
    assert forwards == {2 - index: found for index, found in backwards.items()}
    assert forwards != dict(engine.generate(PROMPTS, DRAWN, seed=4))
    assert all(len({c.tokens for c in completions}) > 1 for completions in forwards.values())
    assert [p.seed for p in params] == [prompt_seed(3, prompt.key) for prompt in PROMPTS]
    assert {(p.n, p.temperature, p.top_p, p.top_k, p.max_tokens, p.logprobs) for p in params} == {(4, 1, 0.9, 0, 8, 0)}
    first = engine.llm._write(prompts[0]["prompt_token_ids"], params[0], 0)
    assert list(forwards[0][0].tokens) == first.token_ids, "samples are in their own order"


@pytest.mark.parametrize(("ended", "finish", "text"), cases("replies")["vllm"])
def test_why_a_text_ended(engine, monkeypatch, ended, finish, text):
    monkeypatch.setattr(LLM, "spoil", lambda output: vars(output.outputs[0]).update(ended))
    ((_, (found,)),) = engine.generate(PROMPTS[:1], Sampling(4, stop=("\n", "##")))
    assert (found.finish, found.text) == (finish, text)
    assert found.unscored == ("vLLM ended it with 'abort'" if ended["finish_reason"] == "abort" else None)


def test_what_does_not_fit_the_window_is_unscored_and_not_sent(engine):
    answers = dict(engine.loglikelihood([Request("bees " * 40, "hum"), REQUESTS[0]]))
    written = dict(engine.generate([Prompt("long", "bees " * 40), PROMPTS[0]], Sampling(4, 2, 1.0)))
    assert ["window of 64" in found.unscored for found in (answers[0], *written[0])] == [True] * 3
    assert math.isnan(answers[0].logprob)
    assert [found.unscored for found in (answers[1], *written[1])] == [None] * 3
    assert [len(prompts) for prompts, _ in engine.llm.calls] == [1, 1]


def test_a_chat_is_in_the_tokenizers_template_and_prompts_are_sent_in_chunks(engine, monkeypatch):
    monkeypatch.setattr(engine_module, "CHUNK", 2)
    answers = engine.generate(PROMPTS, Sampling(2), chat=engine.chat_template)
    next(answers)
    (((prompt, _), params),) = engine.llm.calls  # what a killed run would lose
    expected = engine.encoder.tokenizer("[user] The doctor\n[model]", add_special_tokens=False)["input_ids"]
    assert prompt["prompt_token_ids"] == expected
    tokenizer = engine.encoder.tokenizer
    ends = (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert {tuple(own.stop_token_ids) for own in params} == {ends}, "of a text, and of a turn in this template"
    assert sorted(index for index, _ in answers) == [1, 2]
    assert {"tokens_generated": 6, "tokens_cached": 9}.items() <= engine.work().items()


def broken(**settings):
    raise RuntimeError("Engine core initialization failed.\nSee above.")


@pytest.mark.parametrize(
    ("vllm", "changes", "dtype", "message"),
    [
        (None, {}, "float32", r"alignbench\[vllm\].*GPU"),
        (SimpleNamespace(LLM=broken), {}, "bfloat16", "Engine core initialization failed"),
        (None, {"custom_code": True}, "float32", "custom code"),
        (None, {}, "float64", "no float64"),
    ],
)
def test_what_vllm_cannot_load_is_reported_in_one_line(monkeypatch, folder, vllm, changes, dtype, message):
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    with pytest.raises(AlignbenchError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
        load_vllm(dataclasses.replace(find_checkpoint(str(folder)), **changes), dtype=dtype)


def test_thoughts_are_apart_and_a_stop_string_does_not_end_them(engine, monkeypatch):
    sampling = Sampling(5, stop=("\n",), thinking=Thinking(limit=7, always=True))
    for text, thoughts in (("<think>2\n+2</think>\n4\n5", "2\n+2"), ("4\n5", "")):
        monkeypatch.setattr(LLM, "spoil", lambda output, text=text: vars(output.outputs[0]).update(text=text))
        ((_, (found,)),) = engine.generate([Prompt("a", "The doctor")], sampling)
        assert (found.text, found.thoughts, found.finish, found.tokens) == ("4", thoughts, "stop", ())
    params = engine.llm.calls[-1][1][0]
    assert (params.max_tokens, params.stop) == (12, [])
